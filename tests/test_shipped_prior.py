"""The prior in data/prior can carry the study: measured here on real test images, not read off its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff.datasets import to_float
from flashdiff.metrics import Features, psnr
from flashdiff.prior import Prior
from flashdiff.study import load

ROOT = Path(__file__).parents[1]
PRIOR = ROOT / "data/prior"


@pytest.fixture(scope="module")
def prior():
    return Prior.from_pretrained(PRIOR)


@pytest.fixture(scope="module")
def images():
    """The first 64 test images of Fashion-MNIST (64, 1, 32, 32)."""
    found = [np.asarray(Image.open(path)) for path in sorted((ROOT / "tests/data/images").glob("*.png"))]
    return to_float(np.pad(np.stack(found), ((0, 0), (2, 2), (2, 2)))[:, None])


def test_autoencoder_reaches_29_db_on_test_images(prior, images):
    assert float(psnr(prior.decode(prior.encode(images)), images).mean()) >= 29


def test_latents_have_about_unit_variance(prior, images):
    """Otherwise 1 - sigma^2 is not the signal's share, and no start rule means what it says."""
    assert float(prior.encode(images).std()) == pytest.approx(1, abs=0.1)


def test_schedule_is_the_papers(prior):
    beta = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    np.testing.assert_allclose(prior.abar[:-1].numpy(), np.cumprod(1 - beta), rtol=1e-4)


@pytest.mark.parametrize("index", [50, 100, 200, 300])  # where walks of the study start
def test_denoiser_knows_more_than_a_normal_distribution(prior, images, index):
    """If latents were white noise, the best guess of eps would have squared error abar_i; garments are far from that."""
    z0, generator = prior.encode(images), torch.Generator().manual_seed(index)
    noise = torch.randn(z0.shape, generator=generator)
    abar = prior.abar[index].float()
    predicted = prior.predict_eps(abar.sqrt() * z0 + (1 - abar).sqrt() * noise, torch.full((len(z0),), index))
    assert float((predicted - noise).square().mean()) < 0.7 * float(abar)


def test_classifier_behind_the_distances_knows_the_classes(images):
    """The first ten labels of the official test set, as published."""
    features = Features.from_pretrained(PRIOR / "features")
    with torch.no_grad():
        assert features(images[:10]).argmax(1).tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_it_is_small_and_safe_and_has_its_card():
    files = [path for path in PRIOR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".csv", ".png", ".pdf"}
    card = (PRIOR / "README.md").read_text()
    for figure in ("figures/samples.png", "figures/reconstructions.png", "figures/learning_curve_denoiser.png"):
        assert figure in card and (PRIOR / figure).is_file()
    recipe = load(ROOT / "params.yaml").prior
    for part in (recipe.autoencoder, recipe.denoiser, recipe.features):
        assert f"steps {part.steps}" in card and f"seed {part.seed}" in card
    for name in ("autoencoder", "denoiser", "features"):
        assert (PRIOR / "curves" / f"{name}.csv").is_file()
