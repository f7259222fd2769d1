"""P-values are uniform under exchangeability, exactly; thresholds say the same; the ROC and its area are counted pair by pair."""

import itertools

import numpy as np
import pytest

from flashdiff.trust.shift import Reference, Thresholds, auc, bin_of, either, roc


@pytest.mark.parametrize("n", [1, 4, 9])
def test_of_exchangeable_scores_every_p_value_is_equally_frequent(n):
    """Each of n + 1 scores in turn is the new one: their p-values are 1/(n+1), ..., 1, each once."""
    scores = np.random.default_rng(n).normal(size=n + 1)
    sigma_hat = np.ones(n)
    found = [Reference(sigma_hat, np.delete(scores, k)).p_value(np.ones(1), scores[k : k + 1])[0] for k in range(n + 1)]
    np.testing.assert_allclose(np.sort(found), np.arange(1, n + 2) / (n + 1))


@pytest.mark.parametrize("alarm", [0.05, 0.2, 0.5])
def test_with_equal_scores_alarms_are_never_more_frequent(alarm):
    scores = np.random.default_rng(0).integers(0, 3, 12).astype(float)
    p = [Reference(np.ones(11), np.delete(scores, k)).p_value(np.ones(1), scores[k : k + 1])[0] for k in range(12)]
    assert np.mean(np.array(p) <= alarm) <= alarm


@pytest.mark.parametrize("bins", [1, 3, 5])
def test_p_values_are_counted_within_the_bin(bins):
    rng = np.random.default_rng(1)
    sigma_hat, score = rng.uniform(size=60), rng.integers(0, 8, 60).astype(float)
    reference = Reference(sigma_hat, score, bins)
    new, strange = rng.uniform(-0.5, 1.5, 40), rng.integers(0, 9, 40).astype(float)
    cuts = np.quantile(sigma_hat, np.arange(1, bins) / bins)
    for own, value, p in zip(new, strange, reference.p_value(new, strange), strict=True):
        mates = [s for g, s in zip(sigma_hat, score, strict=True) if (g >= cuts).sum() == (own >= cuts).sum()]
        assert p == pytest.approx((1 + sum(s >= value for s in mates)) / (1 + len(mates)))


@pytest.mark.parametrize("alarm", [0.01, 0.05, 0.1, 0.3])
def test_thresholds_flag_what_has_such_a_p_value(alarm):
    rng = np.random.default_rng(2)
    reference = Reference(rng.uniform(size=90), rng.integers(0, 30, 90).astype(float), 3)
    new, score = rng.uniform(size=300), rng.integers(0, 32, 300).astype(float)
    limits = reference.thresholds(alarm)
    expected = reference.p_value(new, score) <= alarm
    assert np.array_equal(limits.flagged(new, score), expected)
    assert expected.any() == (alarm > 1 / 31)


@pytest.mark.parametrize(("n", "allowed"), [(19, 1), (99, 5), (18, 0)])
def test_the_share_of_alarms_is_not_lost_to_rounding(n, allowed):
    limit = Reference(np.ones(n), np.arange(n, dtype=float)).thresholds(0.05).limits[0]
    assert limit == (n - allowed if allowed else np.inf)


def test_the_table_is_read_as_it_was_written():
    limits = Thresholds((0.25, 0.5), (1.5, float("inf"), 3.25), 0.05)
    assert Thresholds.from_dict(limits.to_dict()) == limits
    assert limits.to_dict()["limits"] == [1.5, None, 3.25]
    assert limits.flagged([0.1, 0.3, 0.5], [2.0, 1e9, 3.25]).tolist() == [True, False, False]


def test_area_and_curve_are_counted_pair_by_pair():
    rng = np.random.default_rng(3)
    shifted, own = rng.integers(0, 6, 25).astype(float), rng.integers(-2, 5, 40).astype(float)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(shifted, own)]
    assert auc(shifted, own) == pytest.approx(np.mean(pairs))
    assert auc(own, shifted) == pytest.approx(1 - np.mean(pairs))
    false, true = roc(shifted, own)
    assert np.trapezoid(true, false) == pytest.approx(np.mean(pairs))
    for level, at, found in zip(np.unique([*shifted, *own])[::-1], false[1:], true[1:], strict=True):
        assert (at, found) == (pytest.approx((own >= level).mean()), pytest.approx((shifted >= level).mean()))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_two_p_values_together_are_valid_whatever_they_share():
    grid = np.arange(1, 101) / 100
    for second in (grid, grid[::-1], np.roll(grid, 37)):  # the same, opposite, and neither
        together = either(grid, second)
        assert all((together <= alarm).mean() <= alarm + 1e-12 for alarm in (0.02, 0.05, 0.2, 0.5))
        assert together.max() <= 1


def test_bins_reach_beyond_the_images_of_the_calibration():
    assert bin_of([-1, 0.5, 1, 9], (0.5, 1.0)).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("sigma_hat", "score", "bins", "words"),
    [
        ([1, 2], [1], 1, "give one number per image"),
        ([1, 2], [1, np.nan], 1, "remove these images"),
        ([1, 2], [1, 2], 3, "at least one image per bin"),
        ([1, 2], [1, 2], 0, "at least one image per bin"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(sigma_hat, score, bins, words):
    with pytest.raises(ValueError, match=words):
        Reference(np.array(sigma_hat, dtype=float), np.array(score, dtype=float), bins)
