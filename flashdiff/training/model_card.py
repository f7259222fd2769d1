"""The model cards of a prior and of a severity encoder: what it was trained on and how, and what it was measured to do."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashdiff.batch import slice_size
from flashdiff.datasets.splits import to_float
from flashdiff.measures.features import Features, frechet, penultimate
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.training.prior import draw_samples

LICENCES = {"fashion-mnist": "Fashion-MNIST is published by Zalando SE under the MIT licence."}
FIGURES = "../../reports/figures/prior"
"""Where the figures of a prior lie, from its folder in a study; a notebook of the study draws them."""


@torch.no_grad()
def measure_prior(
    prior: Prior, features: Features | None, test: np.ndarray, labels: np.ndarray, n_samples: int, n_steps: int
) -> dict[str, float]:
    """Measure a prior on uint8 test images (n, C, H, W) with labels (n,), -1 for none: the numbers of its model card.

    autoencoder_psnr_db and autoencoder_frechet over (up to 2000) reconstructed test images, latent_std of every channel
    of their scaled latents, sample_frechet of n_samples samples in n_steps ancestral steps against as many test images, and
    test_frechet, the same distance between two disjoint sets of that many test images: what a perfect prior would get;
    classifier_accuracy on the test images, NaN where there are no labels. Without ``features`` (a published prior has
    none) the autoencoder's PSNR and the latents' spread are all.
    """
    n = min(n_samples, len(test) // 2)
    x = to_float(test[np.arange(min(2000, len(test)))])
    latents = prior.encode_in_slices(x)
    decoded = prior.decode_in_slices(latents, slice_size(x))
    of_autoencoder = {
        "autoencoder_psnr_db": round(float(psnr(decoded, x).mean()), 2),
        "latent_std": [round(float(std), 3) for std in latents.transpose(0, 1).flatten(1).std(1)],
    }
    if features is None:
        return of_autoencoder
    device = prior.abar.device
    first, second = (penultimate(features, to_float(test[np.arange(k * n, (k + 1) * n)])) for k in (0, 1))
    samples = torch.cat(
        [
            draw_samples(prior, test.shape[1:], len(part), n_steps, seed=seed)
            for seed, part in enumerate(np.array_split(np.arange(n), -(-n // 100)))
        ]
    )
    answers = torch.cat([features(part.to(device)).argmax(1).cpu() for part in x.split(250)]).numpy()
    known = labels[: len(x)] >= 0
    return of_autoencoder | {
        "autoencoder_frechet": round(frechet(penultimate(features, decoded), penultimate(features, x)), 4),
        "sample_frechet": round(frechet(penultimate(features, samples), first), 4),
        "test_frechet": round(frechet(second, first), 4),
        "classifier_accuracy": round(float((answers == labels[: len(x)])[known].mean()), 4)
        if known.any()
        else float("nan"),
        "samples": n,
        "sampling_steps": n_steps,
    }


def write(
    folder: str | Path, data: Mapping, prior: Mapping, measured: Mapping, curves: Mapping[str, pd.DataFrame]
) -> None:
    """Write README.md (the card) and the learning curves into the prior's folder."""
    folder = Path(folder)
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    for name, curve in curves.items():
        curve.to_csv(folder / "curves" / f"{name}.csv", index=False, float_format="%.6g")
    recipe = "\n".join(
        f"- {part}: " + ", ".join(f"{name} {value}" for name, value in prior[part].items())
        for part in ("autoencoder", "denoiser", "features", "diffusion")
    )
    last = {name: curve.ffill().iloc[-1] for name, curve in curves.items()}
    learning = "\n\n".join(f"![learning curve: {name}]({FIGURES}/learning_curve_{name}.png)" for name in curves)
    text = f"""# Prior of {data["name"]}

A small latent diffusion model in diffusers' layout (`LDMPipeline`: `vae`, `unet`, `scheduler`, safetensors), with a small
classifier (`features`) that measures perceptual and Frechet distances. Read it with `flashdiff.Prior.from_pretrained`.

## Data
The training split of {data["name"]} ({data["image_size"]} x {data["image_size"]}, {data["channels"]} channel(s), values in
[-1, 1]); the last {data["validation"]} training images are held out for validation. The test split was never used to choose anything.
{LICENCES.get(data["name"], "The images are the user's own.")}

## What it was measured to do
| on test images | value |
| --- | --- |
| autoencoder PSNR | {measured["autoencoder_psnr_db"]} dB |
| Frechet distance of autoencoder reconstructions | {measured["autoencoder_frechet"]} |
| standard deviation of the scaled latents, per channel | {", ".join(map(str, measured["latent_std"]))} |
| Frechet distance of {measured["samples"]} samples ({measured["sampling_steps"]} ancestral steps) | {measured["sample_frechet"]} |
| the same between two disjoint sets of {measured["samples"]} test images | {measured["test_frechet"]} |
| denoiser loss on validation images | {last["denoiser"].get("validation_loss", float("nan")):.4f} |
| classifier accuracy | {measured["classifier_accuracy"]:.3f} |

Frechet distances are in the classifier's 64 penultimate features: compare them with each other, never with FID.

![samples]({FIGURES}/samples.png)

![autoencoder reconstructions]({FIGURES}/reconstructions.png)

{learning}

## Recipe
Notebook `notebooks/02_train_prior.ipynb`, parameters of the study's `prior` section; `make prior` repeats it. Pixels are folded by
{prior["pixel_unshuffle"]} before the autoencoder. Learning curves are in `curves/`.

{recipe}

## Limits
It knows {data["name"]} and nothing else. It is there to carry the study on any laptop, not to generate images.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_encoder(
    folder: str | Path, name: str, recipe: Mapping, parameters: int, errors: pd.DataFrame, curve: pd.DataFrame
) -> None:
    """Write README.md (the card) and the learning curve into a severity encoder's folder.

    name: of the study and the degradation; recipe: :func:`flashdiff.training.severity.recipe`; parameters: how many numbers
    it has; errors: :func:`flashdiff.training.severity.error_by_level` on validation images.
    """
    folder = Path(folder)
    curve.to_csv(folder / "curve.csv", index=False, float_format="%.6g")
    columns = {"degradation": "degradation", "t": "level t", "noise_std": "noise_std", "sbar_e0": "error of E0(y)",
               "sbar": "error of z_hat", "sigma_hat": "sigma_hat", "psnr": "D(z_hat), dB"}  # fmt: skip
    table = errors[list(columns)].rename(columns=columns).round({"D(z_hat), dB": 2}).round(3)
    last = curve.dropna().iloc[-1]
    text = f"""# Severity encoder of {name}

A diffusers model (`flashdiff.SeverityEncoder`, safetensors, {parameters / 1e6:.1f} million parameters): a degraded image in, an estimate
of the clean image's latent and of its own error out. It belongs to the prior that it was trained with.

## What it was measured to do
On {int(last.get("step"))} steps: ordering accuracy {last.ordering_accuracy:.4f}, Spearman correlation of its severity with the true error
{last.spearman_error:.3f}, mean severity / mean true error {last.calibration_ratio:.3f}, on validation images.

Errors are standard deviations in units of the scaled latent, means over validation images. E0(y) is what the prior's own encoder
makes of the same measurement.

{table.to_markdown(index=False)}

## Recipe
Notebook `notebooks/04_train_severity.ipynb`; the learning curve is in `curve.csv`.

```json
{json.dumps(recipe, indent=2)}
```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
