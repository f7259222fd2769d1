"""The prior in data/prior can carry the study: measured here on real test images, not read off its card."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff.datasets.splits import to_float
from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import start_noise
from flashdiff.measures.features import Features
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.sampling import Chunk, sample
from flashdiff.solvers import LDPS, LatentDAPS, LatentDiffPIR, ReSample
from flashdiff.study.schema import load

ROOT = Path(__file__).parents[2]
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


def test_every_latent_channel_lives(prior, images):
    """A dead channel would enter every severity and every start; 64 images, so a tenth of tolerance."""
    spread = prior.encode(images).transpose(0, 1).flatten(1).std(1)
    assert float(spread.min()) > 0.9 and float(spread.max()) < 1.1


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


@pytest.mark.parametrize(
    "solver",
    [LDPS(), ReSample(max_iterations=3), LatentDAPS(mcmc_steps=3), LatentDiffPIR()],
    ids=lambda s: type(s).__name__,
)
def test_batch_size_and_order_do_not_change_a_reconstruction(prior, images, solver):
    """In float32, on real images and the real prior: batches of 1, 7 and 64, in another order, to 1e-4."""
    n = 8
    t, start = torch.linspace(0, 1, n), torch.tensor([3, 25, 0, 12, 7, -1, 18, 2])
    measurement = measure(images[:n], GaussianBlur(0.3, 2.0, 16), t, 0.1)
    noise = start_noise(prior.encode(images[:n]), measurement.ids, seed=0)
    abar = prior.signal(start).float()[:, None, None, None]
    z = abar.sqrt() * prior.encode(images[:n]) + (1 - abar).sqrt() * noise

    def run(batch_size, order):
        order = np.asarray(order)
        nothing, unknown = torch.zeros(n, dtype=torch.int64), torch.full((n,), torch.nan)
        whole = Chunk(measurement.select(order), start[order], z[order], nothing, unknown)
        found = torch.full((n, *measurement.image_shape), torch.nan)
        for done in sample(prior, solver, [whole], batch_size=batch_size, progress=False):
            found[order[done.rows]] = done.images
        return found

    alone = run(1, range(n))
    for batch_size in (7, 64):
        shuffled = run(batch_size, np.random.default_rng(batch_size).permutation(n))
        torch.testing.assert_close(shuffled, alone, rtol=0, atol=1e-4)


def test_it_is_small_and_safe_and_has_its_card():
    files = [path for path in PRIOR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".csv", ".npz", ".png", ".pdf"}
    card = (PRIOR / "README.md").read_text()
    figures = {Path(target).name: PRIOR / target for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", card)}
    curves = {f"learning_curve_{name}.png" for name in ("autoencoder", "denoiser", "features")}
    assert set(figures) == {"samples.png", "reconstructions.png"} | curves
    assert all(figure.is_file() for figure in figures.values())
    recipe = load(ROOT / "params.yaml").prior
    for part in (recipe.autoencoder, recipe.denoiser, recipe.features):
        assert f"steps {part.steps}" in card and f"seed {part.seed}" in card
    for name in ("autoencoder", "denoiser", "features"):
        assert (PRIOR / "curves" / f"{name}.csv").is_file()
