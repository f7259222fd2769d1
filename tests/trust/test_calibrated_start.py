"""A calibrated start: the best setting of every bin at the budget by brute force, monotone, interpolated, drawn towards the hand-set rule."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from flashdiff.degradations import build as build_degradation
from flashdiff.degradations import measure
from flashdiff.flash import Flash
from flashdiff.severity import Severity, SeverityEncoder
from flashdiff.solvers import build as build_solver
from flashdiff.starts import ScaledStart
from flashdiff.trust import calibrated_start as calibrated
from flashdiff.trust.calibrated_start import CalibratedStart, CalibratedWalk, Trials

STARTS, STEPS = np.array([5, 20, 80]), np.array([2, 3, 6])


def trials(n=60, seed=0):
    """Images of rising severity whose best start rises with it, and to which a further step is worth the more."""
    rng, severity = np.random.default_rng(seed), np.linspace(0.1, 1, n)
    best = np.log1p(5 + 75 * severity)
    missed = (np.log1p(STARTS)[None, :] - best[:, None]) ** 2
    gained = 0.3 * severity[:, None] * np.log(STEPS)
    quality = 25 - 0.2 * missed[:, :, None] + gained[:, None, :]
    return severity, Trials(STARTS, STEPS, quality + rng.normal(0, 1e-3, quality.shape))


def by_hand(start=20, steps=3):
    return lambda sigma: np.full(len(sigma), start), lambda sigma: np.full(len(sigma), steps)


@pytest.mark.parametrize("budget", [2.0, 2.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_choice_within_the_budget_that_was_kept_is_better(budget, seed):
    """Lagrange: what is chosen is best among all choices that take no more steps than it does."""
    mean = np.random.default_rng(seed).normal(size=(3, len(STARTS), len(STEPS))).cumsum(2)
    starts, steps = calibrated.best_at_budget(mean, Trials(STARTS, STEPS, mean), budget)
    assert steps.mean() <= budget
    own = sum(
        mean[b, list(STARTS).index(i), list(STEPS).index(k)] for b, (i, k) in enumerate(zip(starts, steps, strict=True))
    )
    for others in itertools.product(range(len(STEPS)), repeat=3):
        if STEPS[list(others)].sum() <= steps.sum():
            assert own >= sum(mean[b, :, k].max() for b, k in enumerate(others)) - 1e-12


def test_a_budget_of_the_most_steps_leaves_no_price():
    mean = np.random.default_rng(0).normal(size=(4, len(STARTS), len(STEPS)))
    starts, steps = calibrated.best_at_budget(mean, Trials(STARTS, STEPS, mean), 6)
    for b in range(4):
        i, k = np.unravel_index(mean[b].argmax(), mean[b].shape)
        assert (starts[b], steps[b]) == (STARTS[i], STEPS[k])


@pytest.mark.parametrize("rising", [True, False])
def test_starts_and_steps_are_monotone_even_of_noise(rising):
    rng = np.random.default_rng(1)
    sigma, quality = rng.uniform(0.1, 1, 80), rng.normal(size=(80, 3, 3))
    quality += (1 if rising else -1) * sigma[:, None, None] * np.log(STEPS)
    knots, starts, steps = calibrated.fit(sigma, Trials(STARTS, STEPS, quality), 3, 5)
    assert (np.diff(knots) > 0).all() and (np.diff(starts) >= -1e-9).all()
    assert (np.diff(steps) >= -1e-9).all() or (np.diff(steps) <= 1e-9).all()


def test_the_fit_finds_starts_that_rise_and_gives_steps_to_those_who_gain():
    severity, tried = trials()
    found = calibrated.calibrate(severity, tried, by_hand(), 3, bins=3, folds=5)
    assert found.weight > 0 and found.gains[found.weight] > 0.02
    index = found.start.of(severity)
    assert (np.diff(index) >= 0).all() and index[0] <= 20 < index[-1]
    steps = found.walk.steps(index)
    assert steps[0] < steps[-1] and 2.7 < steps.mean() <= 3


def test_where_nothing_is_to_gain_the_rule_set_by_hand_stays():
    """Noise alone: every setting is as good, so left-out images gain nothing, and the fit gets little or no weight."""
    severity = np.linspace(0.1, 1, 60)
    flat = Trials(STARTS, STEPS, np.zeros((60, 3, 3)))
    found = calibrated.calibrate(severity, flat, by_hand(), 3, bins=3, folds=5)
    assert found.weight == 0 and set(found.gains.values()) == {0.0}
    assert set(found.start.of(severity)) == {20} and set(found.walk.steps(found.start.of(severity))) == {3}


def test_left_out_images_are_not_those_that_were_fitted():
    """Qualities that are an image's own luck, many times: the fit gains on images that it saw and on average none on others."""
    severity, seen, left_out = np.linspace(0.1, 1, 24), [], []
    for seed in range(30):
        lucky = Trials(STARTS, STEPS, np.random.default_rng(seed).normal(size=(24, 3, 3)))
        left_out.append(calibrated.calibrate(severity, lucky, by_hand(), 3, bins=2, weights=(1.0,)).gains[1.0])
        start, walk = calibrated.at_budget(severity, *calibrated.fit(severity, lucky, 3, 2), 3)
        index = start.of(severity)
        seen.append((lucky.at(index, walk.steps(index)) - lucky.at(np.full(24, 20), np.full(24, 3))).mean())
    error = np.std(left_out) / np.sqrt(30)
    assert abs(np.mean(left_out)) < 3 * error and np.mean(seen) > np.mean(left_out) + 2 * error


def test_trials_are_interpolated_in_logarithms_and_held_beyond_them():
    quality = np.log1p(STARTS)[:, None] + 10 * np.log(STEPS)
    tried = Trials(STARTS, STEPS, np.stack([quality, 2 * quality]))
    reached = tried.at(np.array([11, 200]), np.array([4, 1]))
    np.testing.assert_allclose(reached, [np.log(12) + 10 * np.log(4), 2 * (np.log(81) + 10 * np.log(2))])


@pytest.mark.parametrize("budget", [1.0, 2.0, 3.0, 7.5])
def test_the_factor_meets_the_budget_and_more_would_not(budget):
    severity = np.random.default_rng(0).uniform(0.1, 1, 200)
    knots = np.array([0.2, 0.5, 0.9])
    start, walk = calibrated.at_budget(severity, knots, np.array([30.0, 60.0, 60.0]), np.array([1.0, 3.0, 2.0]), budget)
    more = CalibratedWalk(walk.starts, tuple(1.006 * number for number in walk.numbers))
    taken = [each.steps(start.of(severity)).mean() for each in (walk, more)]
    assert taken[0] <= budget and (taken[1] > budget or budget == 1)
    assert (np.diff(start.starts) > 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CalibratedStart((0.2, 0.2), (1, 2)), "must rise strictly"),
        (lambda: CalibratedStart((0.2, 0.4), (1,)), "2 knots and 1 values"),
        (lambda: CalibratedStart((), ()), "0 knots"),
        (lambda: CalibratedStart((0.0, 0.4), (1, 2)), "a severity of 0"),
        (lambda: CalibratedStart((0.2, 0.4), (-1, 2)), "-1 is below 0"),
        (lambda: CalibratedStart((0.2, float("nan")), (1, 2)), "finite"),
        (lambda: CalibratedWalk((5, 4), (1, 2)), "must rise strictly"),
        (lambda: CalibratedWalk((5, 6), (0.5, 2)), "0.5 is below 1"),
        (lambda: calibrated.calibrate(*trials(), by_hand(), 1.5), "budget: 1.5 steps where 2 to 6 were tried"),
        (lambda: calibrated.calibrate(*trials(), by_hand(), 7), "budget: 7 steps"),
        (lambda: calibrated.calibrate(*trials(n=6), by_hand(), 3, bins=5), "bins: 5 for 6 images"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ------------------------------------------------------------------------------------------------------ where it starts


def test_between_knots_the_start_is_log_linear_and_beyond_them_constant(tiny_prior):
    start = CalibratedStart((0.1, 0.4), (3, 15))
    middle = np.sqrt(0.1 * 0.4)
    assert start.of(np.array([0.0, 0.05, 0.1, middle, 0.4, 2.0])).tolist() == [3, 3, 3, 7, 15, 15]
    index = start.index(tiny_prior, torch.tensor([0.05, middle, 0.4]) ** 2)
    assert index.dtype == torch.int64 and index.tolist() == [3, 7, 15] and start.cost(index).tolist() == [0, 0, 0]
    assert CalibratedStart((0.1,), (1e6,)).index(tiny_prior, torch.ones(1)).item() == tiny_prior.n_steps - 1


def test_the_walk_takes_as_many_steps_as_its_knots_say(tiny_prior):
    walk = CalibratedWalk((4, 24), (2, 6))
    assert [len(walk(tiny_prior, start)) for start in (0, 4, 14, 24, 39)] == [1, 2, 4, 6, 6]
    assert walk(tiny_prior, 24).tolist()[0] == 24 and walk.first(tiny_prior) == tiny_prior.n_steps - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flash_takes_it_as_it_takes_any_rule(tiny_prior, dtype):
    """Where the knots agree with a rule of starts.py, the reconstruction is the same."""
    prior = tiny_prior.float() if dtype is torch.float32 else tiny_prior
    encoder = SeverityEncoder.from_prior(prior).to(dtype).eval()
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1
    operator, noise = build_degradation(
        {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}
    )
    measurement = measure(x, operator, 0.5, noise)
    severity = encoder.infer(measurement.y)
    severity = Severity(severity.z_hat, torch.tensor([0.1, 0.3, 0.6], dtype=dtype) ** 2)
    solver = build_solver({"kind": "ldps", "eta": 0.1, "walk": {"kind": "evenly_spaced", "steps": 3}})
    rule = ScaledStart(0.5, 6)
    index = rule.index(prior, severity.variance)
    ours = CalibratedStart((0.1, 0.3, 0.6), tuple(index.double().tolist()))
    steps = CalibratedWalk((5.0, 6.0), (3.0, 3.0))
    theirs = Flash(prior, encoder, solver, rule, progress=False)(measurement, severity)
    found = Flash(prior, encoder, replace(solver, walk=steps), ours, progress=False)(measurement, severity)
    assert found.start.tolist() == theirs.start.tolist() == index.tolist() and found.nfe.tolist() == [3, 3, 3]
    torch.testing.assert_close(found.images, theirs.images, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------- correlation of errors


def test_correlation_of_constant_alternating_and_white_errors():
    board = (torch.arange(16)[:, None] + torch.arange(16)[None]) % 2 * 2.0 - 1
    stripes = (torch.arange(16) % 2 * 2.0 - 1).expand(16, 16)
    errors = torch.stack([torch.ones(16, 16), -3 * torch.ones(16, 16), board, stripes])[:, None]
    torch.testing.assert_close(calibrated.neighbour_correlation(errors), torch.tensor([1.0, 1.0, -1.0, 0.0]).double())
    white = torch.randn(400, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert abs(float(calibrated.neighbour_correlation(white).mean())) < 0.01


def test_correlation_of_a_moving_average_is_a_half():
    """e_k = w_k + w_{k+1} along rows, white down the columns: 1/2 in one direction, 0 in the other."""
    white = torch.randn(500, 2, 16, 17, generator=torch.Generator().manual_seed(1))
    found = calibrated.neighbour_correlation(white[..., 1:] + white[..., :-1]).mean()
    assert abs(float(found) - 0.25) < 0.01


def test_correlation_by_severity_is_the_mean_of_each_bin():
    sigma, correlation = np.array([0.4, 0.1, 0.3, 0.2]), np.array([0.8, -0.4, 0.6, 0.2])
    knots, means = calibrated.correlation_by_severity(sigma, correlation, 2)
    np.testing.assert_allclose(knots, [0.15, 0.35])
    np.testing.assert_allclose(means, [0.0, 0.7])  # -0.1 is none
