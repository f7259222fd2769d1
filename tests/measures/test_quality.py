"""Metrics against closed forms and independent computations."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import UNKNOWN, exact_rows

from flashdiff.measures import quality
from flashdiff.measures.features import Features, feature_distance, frechet
from flashdiff.report import summaries
from flashdiff.training import features as training_features


def test_psnr_closed_form():
    reference = torch.zeros(3, 1, 8, 8)
    x = torch.stack([torch.full((1, 8, 8), e) for e in (0.02, 0.2, 0.5)])
    np.testing.assert_allclose(quality.psnr(x, reference), [40, 20, 20 * np.log10(4)], rtol=1e-6)


def test_psnr_clips_to_the_image_range():
    assert quality.psnr(torch.full((1, 1, 4, 4), 7.0), torch.full((1, 1, 4, 4), 0.8))[0] == pytest.approx(
        20 * np.log10(2 / 0.2)
    )


def test_ssim_closed_form_of_constant_images():
    """Two constant images: variances vanish and only the luminance term (2ab + c1) / (a^2 + b^2 + c1) is left."""
    a, b, c1 = 0.5, 0.25, (0.01 * 2) ** 2
    value = quality.ssim(torch.full((1, 1, 16, 16), a), torch.full((1, 1, 16, 16), b))
    assert value[0] == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1))


@pytest.fixture(scope="module")
def features():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Features(1, 10).eval()


def test_feature_distance_is_per_image_and_zero_for_equal_images(features):
    x, y = torch.rand(5, 1, 16, 16) * 2 - 1, torch.rand(5, 1, 16, 16) * 2 - 1
    together = feature_distance(features, x, y, batch_size=5)
    np.testing.assert_allclose(feature_distance(features, x, y, batch_size=2), together, rtol=1e-4)
    np.testing.assert_allclose(feature_distance(features, x, x), 0, atol=1e-12)
    assert (together > 0).all()


def test_feature_distance_by_hand(features):
    """|p/|p| - q/|q||^2 = 2 - 2 cos(p, q), averaged over positions, then over blocks."""
    x, y = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        cosines = [
            torch.cosine_similarity(p, q, dim=1).mean() for p, q in zip(features.maps(x), features.maps(y), strict=True)
        ]
    assert feature_distance(features, x, y)[0] == pytest.approx(float(np.mean([2 - 2 * c for c in cosines])), rel=1e-4)


def test_frechet_of_diagonal_normals():
    """Independent coordinates: the sum over coordinates of (mu_a - mu_b)^2 + (s_a - s_b)^2, on the samples' own moments."""
    rng = np.random.default_rng(0)
    whitened = rng.normal(size=(400, 6))
    whitened -= whitened.mean(0)
    whitened = whitened @ np.linalg.inv(np.linalg.cholesky(np.cov(whitened, rowvar=False))).T  # exact unit covariance
    scale_a, scale_b, shift = np.arange(1, 7) / 2, np.ones(6), np.linspace(-1, 1, 6)
    expected = np.square(shift).sum() + np.square(scale_a - scale_b).sum()
    assert frechet(whitened * scale_a + shift, whitened * scale_b) == pytest.approx(expected)
    assert frechet(whitened, whitened) == pytest.approx(0, abs=1e-9)


def test_reconstruction_metrics_refuse_missing_images():
    rows = exact_rows()
    summary = summaries.reconstruction_metrics(rows, 200)
    assert summary["gains"]["flash_published"]["fixed_mean"]["psnr_gain_db"]["value"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="flash_published lacks images"):
        summaries.reconstruction_metrics(rows.drop(index=rows.index[rows.method == "flash_published"][0]), 200)


def test_a_distance_that_was_not_measured_leaves_the_other_metrics():
    """perceptual is NaN where a study's published networks could not be had."""
    rows = exact_rows()
    expected = summaries.reconstruction_metrics(rows, 200)
    summary = summaries.reconstruction_metrics(rows.assign(perceptual=np.nan), 200)
    for method, means in summary["methods"].items():
        assert means.pop("perceptual") == UNKNOWN | {"n": 12}
        assert expected["methods"][method].pop("perceptual")["value"] > 0
    for method, gains in summary["gains"].items():
        for baseline, gain in gains.items():
            assert gain.pop("perceptual_gain") == UNKNOWN | {"n": 12}
            assert expected["gains"][method][baseline].pop("perceptual_gain")["n"] == 12
    assert summary == expected
    json.dumps(summary, allow_nan=False)


def test_ordering_metrics_does_not_depend_on_row_order():
    rows = pd.DataFrame(
        {"image": np.repeat([0, 1], 3), "t": np.tile([0.0, 0.5, 1.0], 2), "sigma_hat": [1.0, 2, 3, 3, 2, 1]}
    )
    shuffled = rows.sample(frac=1, random_state=0)
    assert summaries.ordering_metrics(shuffled)["ordering_accuracy"]["value"] == pytest.approx(0.5)


def test_severity_metrics_on_a_known_relation():
    rng = np.random.default_rng(0)
    t = rng.uniform(size=300)
    rows = pd.DataFrame(
        {
            "t": t,
            "sigma_hat": t * 1.1,
            "sbar": t,
            "start": (100 * t).astype(int),
            "kurtosis": 0.0,
            "neighbour_correlation": 0.1,
            "clean_sbar": 0.05,
            "clean_psnr": 30.0,
            "encoder_cost": 0.25,
        }
    )
    summary = summaries.severity_metrics(rows, 100)
    low, high = np.percentile((100 * t).astype(int) + 1, (5, 95))
    assert summary["start_spread"]["value"] == pytest.approx(high / low, rel=1e-5)
    assert summary["encoder_error_clean"]["value"] == 0.05
    assert summary["encoder_cost"]["value"] == 0.25
    assert summary["spearman_level"]["value"] == 1 and summary["calibration_ratio"]["value"] == pytest.approx(1.1)
    assert summary["expected_calibration_error"] == pytest.approx(0.1 * t.mean(), rel=1e-4)


def test_speed_is_a_ratio_of_seconds():
    timings = {
        m: {"seconds": s, "images": 10, "nfe": n}
        for m, s, n in (("full_length", 100.0, 10000), ("flash_published", 12.5, 1000), ("flash_consistent", 10.0, 900))
    }
    summary = summaries.speed_metrics(timings)
    assert summary["wall_clock_ratio"]["flash_published"]["value"] == 8
    assert summary["milliseconds_per_evaluation"]["full_length"] == pytest.approx(10)


def test_classifier_learns_labels_and_rotations(tmp_path):
    """Bright-left against bright-right images are learnt; without labels it learns the turns of a wedge."""
    images = np.zeros((64, 1, 16, 16), np.uint8)
    images[:32, :, :, :8], images[32:, :, :, 8:] = 255, 255
    parameters = {"steps": 40, "batch_size": 32, "learning_rate": 0.01, "seed": 0}
    _, curve = training_features.train_features(images, np.repeat([0, 1], 32), parameters, tmp_path / "a.ckpt")
    assert curve.accuracy.iloc[-1] > 0.9
    model, curve = training_features.train_features(
        images[:32], np.full(32, -1), parameters | {"steps": 100}, tmp_path / "b.ckpt"
    )
    assert model.config.n_classes == 4 and curve.accuracy.iloc[-1] > 0.9


def test_the_frame_is_what_the_padding_leaves():
    """A border of -1 in all true images does not count; errors in it do not either."""
    truth = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    truth[..., :2, :], truth[..., -2:, :], truth[..., :, :2], truth[..., :, -2:] = -1, -1, -1, -1
    found = truth.clone()
    found[..., 0, 0] = 1.0
    found[..., 3, 3] -= 0.5
    inner = found[..., 2:-2, 2:-2], truth[..., 2:-2, 2:-2]
    np.testing.assert_allclose(quality.frame_psnr(found, truth), quality.psnr(*inner))
    truth[0, 0, 0, 0] = 0.5  # one true pixel in the border: nothing is padding
    np.testing.assert_allclose(quality.frame_psnr(found, truth), quality.psnr(found, truth))
