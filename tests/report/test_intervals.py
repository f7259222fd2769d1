"""Bootstrap intervals and paired gains: textbook widths, constructed rows, and what was not measured."""

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
