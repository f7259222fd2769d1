"""Conformal intervals: their coverage by enumeration and against the beta-binomial law, for widths of both kinds."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats

from flashdiff.trust import conformal
from flashdiff.trust.conformal import GROUPS, Interval, calibrate, chosen, conformal_quantile, covered, fit, group

COVERAGES = (0.5, 0.8, 0.9, 0.95)


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("n", [1, 3, 9, 19, 20, 40])
def test_every_one_of_n_plus_1_scores_in_turn_is_held_by_the_quantile_of_the_others_as_often_as_promised(n, coverage):
    """Exchangeable: each is equally likely to be the further one, so this is the coverage, exactly."""
    scores = np.random.default_rng(n).normal(size=n + 1)
    held = np.mean([scores[k] <= conformal_quantile(np.delete(scores, k), coverage) for k in range(n + 1)])
    assert coverage - 1e-12 <= held <= coverage + 1 / (n + 1) + 1e-12


def test_the_quantile_of_few_scores_is_infinite_and_exactly_that():
    assert conformal_quantile(np.arange(8.0), 0.9) == math.inf
    assert conformal_quantile(np.arange(9.0), 0.9) == 8.0  # the 9th of 9: ceil(10 * 0.9)
    assert conformal_quantile(np.arange(19.0), 0.9) == 17.0  # 18, not the 19 of 20 * 0.9 in floating point


def world(rng, n):
    """Severities, and qualities that fall with them and scatter the more the smaller they are."""
    sigma_hat = rng.uniform(0, 1, n)
    return sigma_hat, 30 - 8 * sigma_hat + (2.2 - 2 * sigma_hat) * rng.standard_normal(n)


@pytest.mark.parametrize("by_severity", [False, True])
def test_coverage_of_new_images_by_the_beta_binomial_law(by_severity):
    """Of m new images the interval of n others holds BetaBinomial(m, k, n + 1 - k), k = ceil((n + 1) coverage): Vovk 2012.

    Over independent calibrations the mean is checked against the law's own spread, and every group's where it has its width.
    """
    rng, rounds, n, m, coverage = np.random.default_rng(0), 200, 60, 50, 0.9
    fitted = world(rng, 100)
    total, held, variance, expected = 0, 0, 0.0, 0.0
    for _ in range(rounds):
        calibrating, new = world(rng, n), world(rng, m)
        interval = calibrate(fitted, calibrating, coverage, rises=False, by_severity=by_severity)
        inside = covered(interval, *new)
        of_old, of_new = (group(part[0], interval.edges) for part in (calibrating, new))
        parts = [(np.sum(of_old == g), of_new == g) for g in range(GROUPS)] if by_severity else [(n, of_new >= 0)]
        for count, these in parts:
            k, new_count = math.ceil((count + 1) * coverage), int(these.sum())
            law = scipy.stats.betabinom(new_count, k, count + 1 - k) if k <= count else scipy.stats.binom(new_count, 1)
            held, total = held + inside[these].sum(), total + new_count
            expected, variance = expected + law.mean(), variance + law.var()
    assert total == rounds * m and expected / total >= coverage
    assert abs(held - expected) < 4 * math.sqrt(variance)


def test_widths_by_severity_hold_every_group_where_one_width_does_not():
    rng = np.random.default_rng(1)
    fitted, calibrating, new = (world(rng, 20_000) for _ in range(3))
    shares = {}
    for by_severity in (False, True):
        interval = calibrate(fitted, calibrating, 0.9, rises=False, by_severity=by_severity)
        inside, at = covered(interval, *new), group(new[0], interval.edges)
        shares[by_severity] = [inside[at == g].mean() for g in range(GROUPS)]
        assert len(set(interval.half_widths)) == (GROUPS if by_severity else 1)
    assert np.allclose(shares[True], 0.9, atol=0.015)
    assert shares[False][0] < 0.85 and shares[False][2] > 0.95


@pytest.mark.parametrize(("n", "kind"), [(4000, "by_severity"), (12, "plain")])
def test_the_width_that_validation_images_cover_more_evenly_is_chosen(n, kind):
    """Of 12 images no width is finite, and all cover alike: then it is plain."""
    sigma_hat, quality = world(np.random.default_rng(2), n)
    interval, found = chosen(sigma_hat, quality, 0.9, rises=False)
    halves = [(sigma_hat[part], quality[part]) for part in (slice(n // 2), slice(n // 2, None))]
    assert found == kind
    assert interval == calibrate(*halves, 0.9, rises=False, by_severity=kind == "by_severity")


def test_no_calibrating_image_moves_the_centre_and_no_fitted_one_counts_in_the_width():
    rng = np.random.default_rng(3)
    fitted, calibrating = world(rng, 50), world(rng, 50)
    interval = calibrate(fitted, calibrating, 0.8, rises=False, by_severity=False)
    moved = calibrate(fitted, (calibrating[0], calibrating[1] + 100), 0.8, rises=False, by_severity=False)
    assert moved.centre == interval.centre and min(moved.half_widths) > 90
    both = calibrate(
        (fitted[0], fitted[1] + 100), (calibrating[0], calibrating[1] + 100), 0.8, rises=False, by_severity=False
    )
    assert np.allclose(both.half_widths, interval.half_widths)


@pytest.mark.parametrize("rises", [False, True])
def test_the_centre_is_the_best_of_all_monotone_ones(rises):
    """Against brute force over step functions on a grid of values."""
    sigma_hat, quality = np.array([0.3, 0.1, 0.2, 0.4]), np.array([2.0, 1.0, 3.0, 0.0])
    at, values = fit(sigma_hat, quality, rises)
    assert at == sorted(at) and values == sorted(values, reverse=not rises)
    ordered = quality[np.argsort(sigma_hat)]
    grid = itertools.product(np.arange(0, 3.01, 0.25), repeat=4)
    least = min(
        np.square(ordered - path).sum()
        for path in map(np.array, grid)
        if (np.diff(path) * (1 if rises else -1) >= 0).all()
    )
    blocks = np.repeat(values, {False: [3, 1], True: [1, 3]}[rises])
    assert np.square(ordered - blocks).sum() <= least + 1e-12


def test_an_interval_is_level_beyond_its_knots_and_ends_at_the_lowest_quality():
    interval = Interval([0.1, 0.3], [2.0, 1.0], [0.15, 0.25], [0.5, 1.0, 3.0], lowest=0.0)
    low, high = interval(np.array([0.0, 0.2, 0.25, 9.0]))
    assert np.allclose(low, [1.5, 0.5, 0.0, 0.0]) and np.allclose(high, [2.5, 2.5, 4.25, 4.0])


def test_what_is_written_is_read_again():
    interval = Interval([0.1, 0.3], [2.0, 1.0], [0.15, 0.25], [0.5, math.inf, 3.0])
    assert Interval.from_dict(json.loads(json.dumps(interval.to_dict(), allow_nan=False))) == interval
    assert interval.lowest == -math.inf and conformal.Interval.from_dict(interval.to_dict())(0.2)[1] == math.inf
