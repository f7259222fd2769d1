"""Two images followed step by step: which they are, from where they start, and what is kept of their way."""

import contextlib

import numpy as np
import pytest
import torch

from flashdiff.study import comparison, examples, records
from flashdiff.study.schema import load, select

FEW_STEPS = {
    "3": {
        "adaptive": {
            objective: {
                "solver": {"kind": "ldps", "eta": 0.05, "walk": {"kind": "evenly_spaced", "steps": 3}},
                "start": {"rule": "scaled", "share": 1.0, "lowest": 2},
            }
            for objective in ("psnr", "perceptual")
        }
    }
}


@pytest.fixture(scope="module")
def folder(new_study, tmp_path_factory):
    return new_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def bench(folder):
    with contextlib.chdir(folder):
        study = load()
        entries = (select(study, "degradations.gaussian_blur"), "gaussian_blur", select(study, "solvers.ldps"))
        return comparison.Bench.load("test", 6, *entries, seed=0, batch_size=4)


@pytest.fixture(scope="module")
def chosen(folder):
    return records.read_json(folder / "data/tuned/gaussian_blur-ldps.json")["chosen"]


@pytest.fixture(scope="module")
def followed(bench, chosen):
    return examples.walk(bench, chosen, FEW_STEPS)


def test_the_two_images_stand_at_the_fifths_of_severity():
    """By hand: of 11 images those of rank 2 and 8, whatever their order."""
    sigma = np.random.default_rng(0).permutation(11) / 10
    easy, hard = examples.choose(sigma)
    assert (sigma[easy], sigma[hard]) == (0.2, 0.8)


@pytest.mark.parametrize(
    ("starts", "expected"),
    [(np.arange(101), [5, 11, 23, 47, 95]), (np.full(9, 7), [7]), (np.full(9, -1), [0])],
    ids=["spread", "all equal", "all clean"],
)
def test_the_starts_are_spread_on_a_log_scale(starts, expected):
    """By hand for 0..100: the 5th and 95th percentile are 5 and 95, and 6 * 16^(k / 4) - 1 = 5, 11, 23, 47, 95."""
    assert examples.ladder(starts) == expected


def test_every_walk_is_there_and_draws_differ(followed, bench):
    rows, arrays = followed
    assert rows.kind.unique().tolist() == ["easy", "hard"]
    ladder = [f"fixed_{start}" for start in examples.ladder(bench.start.numpy())]
    few = [f"3/adaptive/{objective}" for objective in ("psnr", "perceptual")]
    walks = ["no_diffusion", "full_length", "flash_published", "flash_consistent", *ladder, *few]
    assert rows.walk.unique().tolist() == walks and set(walks) < set(arrays)
    draws = rows[rows.walk == ladder[-1]]
    assert sorted(draws.draw) == sorted([*range(examples.DRAWS)] * 2)
    assert draws.groupby("kind").psnr.nunique().tolist() == [examples.DRAWS] * 2  # other noise in every draw
    assert (rows[rows.walk.str.startswith("3/")].nfe == 3).all()


def test_the_images_are_those_of_the_comparison(followed, bench, chosen):
    """The same measurement and noise: what the two walk to is what they walk to among all others."""
    rows, arrays = followed
    whole = bench.flash("consistent", chosen["flash_consistent"])(bench.measurement, bench.severity)
    shown = rows[rows.walk == "flash_consistent"].image.tolist()
    np.testing.assert_allclose(arrays["flash_consistent"], whole.images[shown], atol=1e-5)
    np.testing.assert_array_equal(arrays["truth"], bench.truth[shown])


def test_the_way_begins_at_the_start_and_ends_at_the_last_index(followed, bench):
    rows, arrays = followed
    for walk in ("full_length", "flash_published", "flash_consistent"):
        starts = rows[rows.walk == walk].start.to_numpy()
        assert arrays[f"index/{walk}"][:, 0].tolist() == starts.tolist()
        assert arrays[f"index/{walk}"][:, -1].tolist() == [0, 0]
        assert arrays[f"path/{walk}"].shape == (2, examples.POINTS, 1, 16, 16)


def test_the_way_shows_what_the_denoiser_takes_a_latent_for(bench):
    """By hand: D((z - sqrt(1 - abar) eps) / sqrt(abar)) at the first, the middle and the last of the seven."""
    latents = [
        torch.randn(bench.prior.latent_shape((1, 16, 16)), generator=torch.Generator().manual_seed(k))
        for k in range(13)
    ]
    steps = [(12 - k, z) for k, z in enumerate(latents)]
    reached = torch.zeros(2, 1, 16, 16)
    indices, images = examples.path(bench.prior, [steps, []], reached)
    assert indices[0].tolist() == [12, 10, 8, 6, 4, 2, 0] and indices[1].tolist() == [-1] * 7
    assert (images[1] == 0).all()
    for place, i in ((0, 12), (3, 6), (6, 0)):
        z, abar = latents[12 - i][None], float(bench.prior.abar[i])
        with torch.no_grad():
            eps = bench.prior.unet(z, torch.tensor([i])).sample
            clean = bench.prior.decode((z - (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)
        np.testing.assert_allclose(images[0, place], clean[0], atol=1e-5)
