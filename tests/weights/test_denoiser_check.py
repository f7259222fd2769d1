"""The denoiser's answers tell whether a prior's parts belong together: closed forms, the shipped prior, and every fault."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.denoiser_check import FAULTS
from flashdiff.prior import Prior
from flashdiff.weights.denoiser_check import IMAGES, TOLD_OTHERWISE, check_denoiser, denoiser_errors
from flashdiff.weights.published_prior import CHECKED, take_prior

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images():
    """The shipped examples: test images, which no prior was trained on."""
    paths = sorted((ROOT / "data/examples").glob("*.png"))
    return np.stack([np.asarray(Image.open(path).convert("L"))[None] for path in paths])


@pytest.fixture(scope="module")
def shipped():
    return Prior.from_pretrained(ROOT / "data/prior")


class Linear(Prior):
    """Images are their own latents, and the denoiser is the ideal one of N(mean, covariance) per position, with any abar."""

    def __init__(self, mean, covariance, abar):
        nn.Module.__init__(self)
        self.mean, self.covariance, self.believed = mean, covariance, abar
        self.register_buffer("abar", torch.cat([abar, torch.ones(1, dtype=torch.float64)]))

    def encode(self, x):
        return x.double()

    def predict_eps(self, z, i):
        abar = self.believed[i][:, None, None]
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        slope = torch.linalg.inv(abar * self.covariance + (1 - abar) * eye)
        centred = z - abar[..., None].sqrt() * self.mean[:, None, None]
        return (1 - abar[..., None]).sqrt() * torch.einsum("bcd,bdhw->bchw", slope, centred)


ABAR = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2, 0)


@pytest.fixture(scope="module")
def gaussian():
    """Noise images (16, 3, 24, 24) uint8 with correlated channels, and the statistics that they have as floats."""
    mix = np.array([[30.0, 0, 0], [20, 25, 0], [-15, 5, 20]])
    pixels = np.random.default_rng(0).normal(size=(16, 24, 24, 3)) @ mix.T + [120, 130, 140]
    images = pixels.round().clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
    channels = torch.from_numpy(images.transpose(1, 0, 2, 3).reshape(3, -1) / 127.5 - 1)
    return images, channels.mean(1), torch.cov(channels)


def test_the_bound_is_the_error_of_the_ideal_denoiser_of_mean_and_covariance(gaussian):
    """trace of the posterior covariance of eps: E|eps - E[eps | z]|^2 = tr(I - (1 - abar) (abar C + (1 - abar) I)^-1)."""
    images, mean, covariance = gaussian
    rows = denoiser_errors(Linear(mean, covariance, ABAR), images)
    for row in rows.itertuples():
        slope = torch.linalg.inv(row.signal * covariance + (1 - row.signal) * torch.eye(3, dtype=torch.float64))
        expected = float(torch.trace(torch.eye(3, dtype=torch.float64) - (1 - row.signal) * slope)) / 3
        assert row.bound == pytest.approx(expected, rel=1e-6)
        assert row.error == pytest.approx(expected, rel=0.03)  # 27648 entries: standard error below a hundredth
        assert row.told_error > row.error
    assert rows["index"].tolist() == [int((ABAR - share).abs().argmin()) for share in (0.95, 0.5, 0.2)]
    assert rows.latent_std.iloc[0] == pytest.approx(
        float((covariance.trace() / 3 + mean.var(correction=0)).sqrt()), rel=1e-3
    )


@pytest.mark.parametrize("factor", [0.5, 2**0.5, 2.0])
def test_who_believes_in_another_strength_of_noise_is_told_apart(factor, gaussian):
    """The ideal denoiser of a schedule whose noise is everywhere `factor` times as strong as the one it is asked with."""
    images, mean, covariance = gaussian
    believed = 1 / (1 + factor**2 * (1 - ABAR) / ABAR)
    prior = Linear(mean, covariance, believed)
    prior.abar[:-1] = ABAR
    rows = denoiser_errors(prior, images)
    assert (rows.told_error < TOLD_OTHERWISE * rows.error).any()
    level = ((1 - ABAR) / ABAR).sqrt()
    worst = rows.loc[(rows.told_error / rows.error).idxmin()]
    told = float(level[int(worst.told)] / level[int(worst["index"])])
    assert told == pytest.approx(1 / factor, rel=0.02)


def test_the_shipped_prior_passes_on_every_half_of_the_examples(shipped, images):
    for half in (images[:IMAGES], images[IMAGES:]):
        rows = check_denoiser(shipped, half)
        assert len(rows) == 3 and (rows.error < rows.bound).all() and (rows.told_error > rows.error).all()
        assert 0.8 < rows.latent_std.iloc[0] < 1.25


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_refused_in_one_sentence_with_numbers(name, shipped, images):
    with pytest.raises(ValueError, match=r"^prior: the denoiser ") as caught:
        check_denoiser(FAULTS[name](shipped), images[: IMAGES // 2])
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert re.search(r"noised to index \d+ \(signal 0\.\d+\), its eps error is [\d.e-]+", sentence)
    if "0.18215" in name and "divided" not in name:
        assert "standard deviation is 0.1" in sentence


def test_a_copy_saved_with_another_scale_leaves_the_prior_before(images, tmp_path):
    """The kind that no configuration tells: scaling_factor written out."""
    shutil.copytree(ROOT / "data/prior", tmp_path / "copy", ignore=shutil.ignore_patterns("features", "*.npz"))
    path = tmp_path / "copy/vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.18215}))
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior/model_index.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"does not know the latents .* \(scaling_factor is 0\.18215, and (0\.9|1\.0)\d* would give"
    ):
        take_prior(tmp_path / "copy", tmp_path / "prior", images=images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "prior"]
    assert (tmp_path / "prior/model_index.json").read_text() == "{}"


def test_what_the_denoiser_answered_is_kept_beside_the_prior(shipped, images, tmp_path):
    take_prior(ROOT / "data/prior", tmp_path / "prior", images=images)
    kept = pd.read_csv(tmp_path / "prior" / CHECKED)
    pd.testing.assert_frame_equal(kept, check_denoiser(shipped, images), rtol=1e-4)
    take_prior(tmp_path / "prior", tmp_path / "again")
    assert not (tmp_path / "again" / CHECKED).exists()  # of other images


def test_images_of_another_size_are_refused(shipped, images):
    with pytest.raises(ValueError, match=r"data.image_size: 28, .* latents of 8 x 8, .* images of 32 x 32; give 32\."):
        check_denoiser(shipped, images[:, :, 2:30, 2:30])
    with pytest.raises(ValueError, match=r"data.channels: 3, and the prior's images have 1; give 1\."):
        check_denoiser(shipped, images.repeat(3, axis=1))


def test_a_denoiser_that_answers_with_nan_is_refused(shipped, images):
    faulty = Prior(shipped.autoencoder, shipped.unet, shipped.abar[:-1], shipped.pixel_unshuffle)
    faulty.predict_eps = lambda z, i: torch.full_like(z, float("nan"))
    with pytest.raises(ValueError, match="its eps error is nan"):
        check_denoiser(faulty, images)
