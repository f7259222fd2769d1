"""The schedules of single images: which indices, how many, and the noise levels of the power rule."""

import numpy as np
import pytest

from flashdiff.walks import EVERY_INDEX, EvenlySpaced, Growing, NoiseLevels, Strided, build


@pytest.mark.parametrize(
    "walk", [EVERY_INDEX, Strided(7), EvenlySpaced(1), EvenlySpaced(40), NoiseLevels(), Growing(0.02, 1.0)]
)
@pytest.mark.parametrize("start", [0, 1, 5, 97, 998, 999])
def test_walks_start_at_the_start_and_fall(fine_prior, walk, start):
    indices = walk(fine_prior, start)
    assert indices[0] == start and (np.diff(indices) < 0).all() and indices[-1] >= 0
    assert indices.dtype == np.int64


def test_full_walk_and_strides(fine_prior):
    assert EVERY_INDEX(fine_prior, 999).tolist() == list(range(999, -1, -1)) and EVERY_INDEX.first(fine_prior) == 999
    assert len(Strided(2)(fine_prior, 999)) == 500  # the published 500 steps of 1000
    assert Strided(4)(fine_prior, 10).tolist() == [10, 6, 2]


def test_evenly_spaced_costs_the_same_for_every_image(fine_prior):
    assert {len(EvenlySpaced(40)(fine_prior, start)) for start in (39, 40, 97, 500, 999)} == {40}
    assert EvenlySpaced(5)(fine_prior, 100).tolist() == [100, 75, 50, 25, 0]
    assert EvenlySpaced(40)(fine_prior, 7).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert EvenlySpaced(1)(fine_prior, 300).tolist() == [300]


def test_growing_walks_take_steps_by_a_power_of_the_start(fine_prior):
    equal, proportional, root = Growing(3.0, 0.0), Growing(0.05, 1.0), Growing(0.5, 0.5)
    assert [len(equal(fine_prior, start)) for start in (1, 2, 50, 999)] == [2, 3, 3, 3]
    assert [len(proportional(fine_prior, start)) for start in (0, 19, 59, 199, 999)] == [1, 1, 3, 10, 50]
    assert [len(root(fine_prior, start)) for start in (0, 15, 99, 399)] == [1, 2, 5, 10]
    assert proportional(fine_prior, 59).tolist() == EvenlySpaced(3)(fine_prior, 59).tolist() == [59, 30, 0]
    starts = np.arange(0, 1000, 37)
    assert root.steps(starts).tolist() == [len(root(fine_prior, int(start))) for start in starts]


def test_noise_levels_follow_the_power_rule(fine_prior):
    walk = NoiseLevels(50, 10.0, 0.1)
    noise = walk.noise()
    assert noise[0] == pytest.approx(10) and noise[-1] == pytest.approx(0.1) and len(noise) == 50
    np.testing.assert_allclose(np.diff(noise ** (1 / 7)), (0.1 ** (1 / 7) - 10 ** (1 / 7)) / 49, rtol=1e-9)
    indices = walk(fine_prior, walk.first(fine_prior))
    abar = fine_prior.abar[:-1].numpy()
    at = np.sqrt((1 - abar[indices]) / abar[indices])
    assert len(indices) == 50  # no two levels share an index
    np.testing.assert_allclose(at, noise, rtol=0.06)  # indices are that fine at the lowest level, finer above
    # a start between levels is visited itself, then the levels below it
    between = int(indices[20]) + 1
    assert walk(fine_prior, between).tolist() == [between, *indices[20:]]


@pytest.mark.parametrize(
    ("walk", "fields", "message"),
    [
        (Strided, {"stride": 0}, "Strided: stride is 0; it should be greater than or equal to 1."),
        (EvenlySpaced, {"steps": 0}, "EvenlySpaced: steps is 0; it should be"),
        (Growing, {"rate": 0.0, "power": 1.0}, "Growing: rate is 0.0; it should be"),
        (Growing, {"rate": 1.0, "power": 1.5}, "Growing: power is 1.5; it should be"),
        (NoiseLevels, {"s_min": 0.0}, "s_min"),
        (NoiseLevels, {"levels": 1}, "NoiseLevels: levels is 1; it should be"),
    ],
)
def test_bad_walks_are_refused(walk, fields, message):
    with pytest.raises(ValueError, match=message):
        walk(**fields)


def test_build_reads_a_study_entry():
    assert build({"kind": "evenly_spaced", "steps": 40}) == EvenlySpaced(40)
    with pytest.raises(ValueError, match="kind 'random' is unknown"):
        build({"kind": "random"})
