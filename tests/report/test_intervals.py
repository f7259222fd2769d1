"""Bootstrap intervals and paired gains: textbook widths, constructed rows, and what was not measured."""

import itertools

import numpy as np
import pytest
import scipy.stats
from synthetic import UNKNOWN, exact_rows

from flashdiff.report import intervals


def test_bootstrap_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    interval = intervals.bootstrap(values, np.mean, 2000)
    half = 1.96 * values.std() / 20
    assert interval["value"] == pytest.approx(values.mean(), rel=1e-5) and interval["n"] == 400
    assert interval["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert intervals.bootstrap(values, np.mean, 500, seed=3) == intervals.bootstrap(values, np.mean, 500, seed=3)


def test_bootstrap_resamples_images_not_columns():
    """For b = a + 1 the paired difference is exactly 1 in every resample."""
    a = np.random.default_rng(0).normal(size=50)
    interval = intervals.bootstrap((a + 1, a), lambda x, y: np.mean(x - y), 200)
    assert interval["low"] == interval["high"] == interval["value"] == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_interval_of_what_was_not_measured_is_null(broken):
    """JSON has no NaN and no infinity."""
    values = np.arange(20.0)
    assert intervals.bootstrap(np.append(values, broken), np.mean, 100) == UNKNOWN | {"n": 21}
    for statistic in (lambda a, b: np.mean(a) / np.mean(b), *intervals.CORRELATIONS.values()):
        assert intervals.bootstrap((np.full(20, broken), values), statistic, 100) == UNKNOWN | {"n": 20}
    assert intervals.bootstrap(values, lambda v: broken, 100) == UNKNOWN | {"n": 20}


def test_one_image_has_no_interval():
    assert intervals.bootstrap(np.array([3.0]), np.mean, 100) == UNKNOWN | {"n": 1}


def test_an_interval_that_some_resamples_lack_is_null_and_warned_about():
    with pytest.warns(scipy.stats.DegenerateDataWarning):
        found = intervals.bootstrap(np.arange(20.0), lambda v: 1.0 if v.min() == 0 else np.nan, 100)
    assert found == UNKNOWN | {"n": 20}


def test_paired_gains_of_constructed_rows():
    gains = intervals.paired_gains(exact_rows(), "flash_consistent", "full_length", 200)
    assert gains["psnr_gain_db"]["value"] == pytest.approx(2) and gains["psnr_gain_db"]["low"] == pytest.approx(2)
    assert gains["ssim_gain"]["value"] == pytest.approx(0.2)
    assert gains["perceptual_gain"]["value"] == pytest.approx(0.5)
    assert gains["nfe_ratio"]["value"] == pytest.approx(8)


def test_a_distance_that_lacks_single_images_is_refused():
    rows = exact_rows()
    rows.loc[rows.index[rows.method == "fixed_mean"][3], "perceptual"] = np.nan
    with pytest.raises(ValueError, match="perceptual: fixed_mean lacks images"):
        intervals.paired_gains(rows, "flash_published", "full_length", 100)


# ------------------------------------------------------------------------------------------ over seeds and images


def difference(a, b):
    return a - b


def relative(a, b):
    return 1 - a / b


def test_one_seed_gives_the_paired_interval_over_images():
    rng = np.random.default_rng(0)
    a = rng.normal(3, 1, 60)
    b = a + rng.normal(0.2, 0.1, 60)
    for of_means, of_images in (
        (difference, lambda x, y: np.mean(x - y)),
        (relative, lambda x, y: 1 - np.mean(x) / np.mean(y)),
    ):
        ours = intervals.crossed_bootstrap((a, b), of_means, 20000)
        known = intervals.bootstrap((a, b), of_images, 20000)
        width = known["high"] - known["low"]
        assert ours["value"] == known["value"] and (ours["n"], ours["seeds"]) == (60, 1)
        assert [ours[end] for end in ("low", "high")] == pytest.approx(
            [known[end] for end in ("low", "high")], abs=0.03 * width
        )
    one_row = intervals.crossed_bootstrap((a[None], b[None]), difference, 500, seed=4)
    assert one_row == intervals.crossed_bootstrap((a, b), difference, 500, seed=4)


def test_seeds_that_agree_leave_the_interval_as_it_is():
    values = np.random.default_rng(1).normal(size=(1, 40))
    one = intervals.crossed_bootstrap(values, lambda m: m, 1000)
    three = intervals.crossed_bootstrap(np.repeat(values, 3, axis=0), lambda m: m, 1000)
    assert {**three, "seeds": 1} == {**one, "value": pytest.approx(one["value"]), "low": pytest.approx(one["low"]),
                                     "high": pytest.approx(one["high"])}  # fmt: skip


def test_images_that_agree_leave_the_interval_of_the_seeds():
    """Three seeds, one value each: the mean of three draws with replacement has 27 equally likely outcomes."""
    of_seed = np.array([0.0, 1.0, 5.0])
    found = intervals.crossed_bootstrap(np.repeat(of_seed[:, None], 10, axis=1), lambda m: m, 50000)
    outcomes = [np.mean(drawn) for drawn in itertools.product(of_seed, repeat=3)]
    assert found["value"] == 2 and (found["n"], found["seeds"]) == (10, 3)
    expected = np.percentile(outcomes, [2.5, 97.5], method="inverted_cdf")
    assert [found["low"], found["high"]] == pytest.approx(expected, rel=1e-5)


def test_the_crossed_interval_is_that_of_all_resamples():
    """Two seeds and three images: 4 draws of seeds times 27 of images, all enumerated."""
    rng = np.random.default_rng(5)
    a, b = rng.uniform(1, 2, (2, 3)), rng.uniform(1, 2, (2, 3))
    outcomes = []
    for seeds in itertools.product(range(2), repeat=2):
        for images in itertools.product(range(3), repeat=3):
            drawn = np.ix_(seeds, images)
            outcomes.append(1 - a[drawn].mean() / b[drawn].mean())
    found = intervals.crossed_bootstrap((a, b), relative, 100000)
    gap = np.diff(np.sort(outcomes)).max()
    assert found["low"] == pytest.approx(np.quantile(outcomes, 0.025), abs=gap)
    assert found["high"] == pytest.approx(np.quantile(outcomes, 0.975), abs=gap)
    assert found["value"] == pytest.approx(1 - a.mean() / b.mean(), rel=1e-5)


def test_a_column_that_no_seed_changes_may_be_given_once():
    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(size=(3, 20)), rng.normal(size=20)
    once = intervals.crossed_bootstrap((ours, theirs), difference, 300)
    assert once == intervals.crossed_bootstrap((ours, np.tile(theirs, (3, 1))), difference, 300)


def test_seeds_that_differ_widen_the_interval_and_equal_columns_differ_by_nothing():
    rng = np.random.default_rng(3)
    images = rng.normal(size=50)
    seeds = images + np.array([-0.5, 0.0, 0.5])[:, None]
    narrow, wide = (intervals.crossed_bootstrap(v, lambda m: m, 2000) for v in (images, seeds))
    assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])
    nothing = intervals.crossed_bootstrap((seeds, seeds.copy()), difference, 500)
    assert nothing["value"] == nothing["low"] == nothing["high"] == 0


def test_a_crossed_interval_of_what_was_not_measured_is_null():
    values = np.ones((2, 5))
    values[1, 3] = np.nan
    assert intervals.crossed_bootstrap(values, lambda m: m, 100) == UNKNOWN | {"n": 5, "seeds": 2}
    assert intervals.crossed_bootstrap(np.ones((3, 1)), lambda m: m, 100) == UNKNOWN | {"n": 1, "seeds": 3}
    assert intervals.crossed_bootstrap(np.ones(4), lambda m: np.nan, 100) == UNKNOWN | {"n": 4, "seeds": 1}
