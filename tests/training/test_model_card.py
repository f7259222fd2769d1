"""The card of a prior: what it says was measured, and where its figures and curves lie."""

import re

import pandas as pd

from flashdiff.training import model_card


def test_the_card_shows_its_numbers_its_recipe_and_the_figures_of_the_study(tmp_path):
    curves = {
        name: pd.DataFrame({"step": [50, 100], "loss": [2.0, 1.0]}) for name in ("features", "autoencoder", "denoiser")
    }
    curves["denoiser"]["validation_loss"] = [0.25, None]
    measured = dict.fromkeys(("autoencoder_psnr_db", "autoencoder_frechet", "sample_frechet", "test_frechet"), 1.5)
    measured["latent_std"] = [1.01, 0.98]
    measured |= {"samples": 8, "sampling_steps": 5, "classifier_accuracy": 0.75}
    prior = {"pixel_unshuffle": 2, "diffusion": {"n_steps": 20}} | {name: {"steps": 100} for name in curves}
    data = {"name": "images", "image_size": 16, "channels": 1, "validation": 12}
    model_card.write(tmp_path / "data/prior", data, prior, measured, curves)
    card = (tmp_path / "data/prior/README.md").read_text()
    figures = ["samples", "reconstructions", *(f"learning_curve_{name}" for name in curves)]
    found = [(tmp_path / "data/prior" / target).resolve() for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", card)]
    assert found == [(tmp_path / "reports/figures/prior" / f"{name}.png").resolve() for name in figures]
    for text in (
        "| autoencoder PSNR | 1.5 dB |",
        "| standard deviation of the scaled latents, per channel | 1.01, 0.98 |",
        "denoiser loss on validation images | 0.2500 |",
        "- diffusion: n_steps 20",
    ):
        assert text in card
    assert len(pd.read_csv(tmp_path / "data/prior/curves/denoiser.csv")) == 2
