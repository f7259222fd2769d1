"""The spread of samples: closed forms of Gaussian posteriors, orders whose sparsification is known, and samples that are walks of one image."""

import copy
import pickle

import numpy as np
import pytest
import scipy.stats
import torch

from flashdiff.degradations import build as build_degradation
from flashdiff.degradations import measure
from flashdiff.flash import Flash
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import build as build_solver
from flashdiff.starts import ConsistentStart, PublishedStart
from flashdiff.trust import spread

FRACTIONS = np.linspace(0, 0.9, 10)
DEGRADATIONS = [
    {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1},
    {"kind": "random_inpainting", "drop_max": 0.9, "noise_std": 0.1},
    {"kind": "motion_blur", "length_min": 0.0, "length_max": 6.0, "noise_std": 0.1},
]


def gaussian(n, samples, true=1.0, seed=0):
    """Truth and samples drawn from one Gaussian per pixel, the truth's spread ``true`` times the samples'."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=n), rng.uniform(0.1, 2, n)
    drawn = mean[:, None] + std[:, None] * rng.normal(size=(n, samples))
    return drawn, mean + true * std * rng.normal(size=n), mean, std


@pytest.mark.parametrize("samples", [2, 3, 8, 16])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_intervals_of_gaussian_samples_cover_exactly(level, samples):
    drawn, truth, _, _ = gaussian(100_000, samples)
    covered = spread.coverage(drawn.mean(1) - truth, drawn.std(1, ddof=1), level, samples)
    assert abs(covered - level) < 4 * np.sqrt(level * (1 - level) / 100_000)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_intervals_of_a_known_spread_cover_what_the_normal_distribution_says(level, scale):
    _, truth, mean, std = gaussian(100_000, 2)
    z = scipy.stats.norm.ppf((1 + level) / 2)
    expected = 2 * scipy.stats.norm.cdf(scale * z) - 1
    assert abs(spread.coverage(mean - truth, std, level, None, scale) - expected) < 0.006


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_fitted_factor_is_the_true_one_and_covers(true):
    drawn, truth, _, _ = gaussian(100_000, 8, true=1.0)
    error, std = drawn.mean(1) - truth, drawn.std(1, ddof=1)
    scale = spread.fitted_scale(true * error, std, 0.9, 8)
    assert abs(scale / true - 1) < 0.02
    assert abs(spread.coverage(true * error, std, 0.9, 8, scale) - 0.9) < 1e-4
    assert abs(spread.coverage(true * error, std, 0.5, 8, scale) - 0.5) < 0.01  # Gaussian: one factor serves all levels


def test_pixels_without_spread_are_covered_where_they_have_no_error():
    error, std = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])
    assert spread.coverage(error, std, 0.9, None) == 0.75
    assert spread.fitted_scale(error, std, 0.75, None) == pytest.approx(1 / spread.interval_factor(0.75, None))
    assert spread.fitted_scale(error, std, 0.9, None) == np.inf
    assert np.isnan(spread.coverage(error[:0], std[:0], 0.9, None))


def test_the_oracle_s_order_has_no_area_and_no_order_has_that_of_chance():
    error = np.random.default_rng(0).normal(size=500)
    own, random = spread.ause(error, np.abs(error), FRACTIONS)
    assert own == pytest.approx(0, abs=1e-12) and random > 0.3
    assert spread.ause(error, np.ones(500), FRACTIONS) == pytest.approx((random, random), abs=1e-12)
    wrong, _ = spread.ause(error, -np.abs(error), FRACTIONS)
    assert wrong > random


def test_ties_are_the_mean_over_their_orders():
    error, uncertainty = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 1, 2, 2])
    # what is left of the four: all, three, two, one; of equal pixels either may go first
    left = [(1 + 4 + 9 + 16) / 4, (1 + 4 + (9 + 16) / 2) / 3, (1 + 4) / 2, (1 + 4) / 2]
    found = spread.sparsification(error, uncertainty, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(found, np.sqrt(np.array(left) / left[0]))


def test_the_sparsification_of_gaussian_errors_by_their_true_spread():
    """Errors N(0, s^2), s uniform on 0..1, the least sure half away: what is left has s up to 1/2, a quarter of the square."""
    rng = np.random.default_rng(0)
    std = rng.uniform(0, 1, 200_000)
    (left,) = spread.sparsification(std * rng.normal(size=len(std)), std, [0.5])
    assert abs(left - 0.5) < 0.01


def test_no_error_has_no_sparsification_and_all_pixels_cannot_go():
    assert np.isnan(spread.sparsification(np.zeros(4), np.ones(4), [0.5])).all()
    with pytest.raises(ValueError, match="fractions"):
        spread.sparsification(np.ones(4), np.ones(4), [1.0])
    with pytest.raises(ValueError, match="level: 1"):
        spread.interval_factor(1.0, 8)


def test_mean_and_spread_are_numpy_s():
    samples = torch.randn(3, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = spread.mean_and_spread(samples)
    np.testing.assert_allclose(mean, samples.numpy().mean(1), atol=1e-6)
    np.testing.assert_allclose(std, samples.numpy().std(1, ddof=1), atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- samples


def flash_and_measurement(prior, degradation, start):
    encoder = SeverityEncoder.from_prior(prior).eval()
    operator, noise = build_degradation(degradation)
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    solver = build_solver(
        {"kind": "ldps", "eta": 0.1, "walk": {"kind": "evenly_spaced", "steps": 3}, "stochasticity": 0.0}
    )
    flash = Flash(prior, encoder, solver, start, batch_size=4, progress=False)
    return flash, measure(x, operator, 0.5, noise, ids=np.array([7, 8, 30]))


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=lambda entry: entry["kind"])
def test_samples_are_walks_of_the_same_measurement_that_differ_in_noise_alone(tiny_prior, degradation):
    flash, measurement = flash_and_measurement(tiny_prior.float(), degradation, PublishedStart())
    samples, nfe = spread.posterior_samples(flash, measurement, 3)
    alone = flash(measurement)
    assert samples.shape == (3, 3, 1, 16, 16) and nfe.tolist() == [[3] * 3] * 3
    torch.testing.assert_close(samples[:, 0], alone.images, rtol=0, atol=1e-3)  # the first is the image's own walk
    assert (samples.double().std(1).flatten(1).max(1).values > 1e-2).all()
    repeated = measurement.select(np.repeat(np.arange(3), 3))
    several = spread._OfSamples(measurement.degradation)
    ids = repeated.ids + spread.DRAW * np.tile(np.arange(3), 3)
    state = several.prepare(repeated.t, repeated.image_shape, ids)
    for name, value in repeated.operator().state.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_a_rule_that_adds_no_noise_has_no_spread(tiny_prior):
    flash, measurement = flash_and_measurement(tiny_prior.float(), DEGRADATIONS[0], ConsistentStart())
    samples, _ = spread.posterior_samples(flash, measurement, 2)
    torch.testing.assert_close(samples[:, 0], samples[:, 1], rtol=0, atol=1e-6)


def test_neither_batch_size_nor_number_of_samples_changes_one(tiny_prior):
    flash, measurement = flash_and_measurement(tiny_prior.float(), DEGRADATIONS[1], PublishedStart())
    few, _ = spread.posterior_samples(flash, measurement, 2)
    several, _ = spread.posterior_samples(flash, measurement.select(np.array([2, 0])), 4)
    torch.testing.assert_close(several[:, :2], few[[2, 0]], rtol=0, atol=1e-3)


def test_one_sample_has_no_spread_and_is_refused(tiny_prior):
    flash, measurement = flash_and_measurement(tiny_prior.float(), DEGRADATIONS[0], PublishedStart())
    with pytest.raises(ValueError, match="samples: 1"):
        spread.posterior_samples(flash, measurement, 1)


def test_the_shared_degradation_copies_and_pickles():
    operator, _ = build_degradation(DEGRADATIONS[1])
    shared = spread._OfSamples(operator)
    assert copy.deepcopy(shared) == pickle.loads(pickle.dumps(shared)) == shared and shared.linear is operator.linear
