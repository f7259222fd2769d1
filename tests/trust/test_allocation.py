"""A budget for a set: the best shares by brute force, what evaluations are worth by severity, and what is refused."""

import itertools

import numpy as np
import pytest

from flashdiff.trust.allocation import Worth, allocate, fit


def brute_force(quality, cost, evaluations):
    """The highest total quality of any shares within the budget."""
    n, k = quality.shape
    images = np.arange(n)
    every = np.array(list(itertools.product(range(k), repeat=n)))
    within = every[cost[images, every].sum(1) <= n * evaluations + 1e-9]
    return quality[images, within].sum(1).max()


@pytest.mark.parametrize("evaluations", [0.0, 0.7, 1.5, 2.0, 3.4, 12.0])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_the_best_within_the_budget(evaluations, seed):
    rng, numbers = np.random.default_rng(seed), np.array([0, 1, 3, 12])
    quality = np.cumsum(rng.normal(0.5, 1, (6, 4)), 1)  # neither concave nor rising throughout
    cost = np.minimum(numbers, rng.integers(1, 13, (6, 1)))  # some starts leave no room for as many steps
    got = allocate(quality, cost, evaluations)
    assert cost[np.arange(6), got].mean() <= evaluations + 1e-9
    assert quality[np.arange(6), got].sum() == pytest.approx(brute_force(quality, cost, evaluations), rel=1e-5)


def test_an_evaluation_goes_where_it_is_worth_most():
    quality = np.array([[30.0, 30.1], [20.0, 22.0], [25.0, 26.0]])
    assert allocate(quality, np.array([1, 3]), 1 + 4 / 3).tolist() == [0, 1, 1]
    assert allocate(quality, np.array([1, 3]), 1 + 2 / 3).tolist() == [0, 1, 0]
    assert allocate(quality, np.array([1, 3]), 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("quality", "cost", "said"),
    [
        (np.zeros((2, 3)), [1, 2], r"quality: shape \(2, 3\) for costs \(2,\); give a column for each walk"),
        (np.array([[0.0, np.nan]]), [1, 2], "quality: NaN or infinite values; leave these images out"),
        (np.zeros((2, 2)), [3, 4], "evaluations: 2 on average are fewer than 3, the least that they take"),
    ],
)
def test_what_cannot_be_shared_is_refused(quality, cost, said):
    with pytest.raises(ValueError, match=said):
        allocate(quality, cost, 2)


def test_the_worth_is_the_mean_of_images_of_like_severity():
    sigma_hat, quality = np.array([0.4, 0.1, 0.2, 0.8]), np.arange(8.0).reshape(4, 2)
    worth = fit(sigma_hat, [0, 3], quality, 2)
    assert worth.sigma_hat == pytest.approx((0.15, 0.6)) and worth.numbers == (0, 3)
    assert worth.quality == ((3.0, 4.0), (3.0, 4.0))  # images 1 and 2; 0 and 3


def test_the_worth_is_linear_in_the_logarithm_and_level_beyond():
    worth = Worth((0, 6), (0.1, 0.4), ((30.0, 31.0), (20.0, 25.0)))
    assert worth([0.1, 0.2, 0.4]).tolist() == pytest.approx(np.array([[30, 31], [25, 28], [20, 25]]))
    assert worth([0.0, 9.0]).tolist() == [[30, 31], [20, 25]]


def test_tables_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"sigma_hat: \(0.2, 0.1\) must rise strictly"):
        Worth((0, 1), (0.2, 0.1), ((1.0, 2.0), (1.0, 2.0)))
    with pytest.raises(ValueError, match=r"quality: shape \(1, 1\) for 1 knots and 2 numbers"):
        Worth((0, 1), (0.2,), ((1.0,),))
    with pytest.raises(ValueError, match="bins: 5 for 4 images; give at least one image per bin"):
        fit(np.arange(1, 5) / 10, [0, 1], np.zeros((4, 2)), 5)
