"""The spread of samples in a study: which walks sample, what rows say of them, and the one long walk at equal cost."""

import numpy as np
import pytest

from flashdiff.measures.quality import psnr
from flashdiff.starts import PublishedStart
from flashdiff.study import budgets, spread
from flashdiff.study.records import read_rows, write_rows
from flashdiff.trust.spread import coverage, posterior_samples

WALK = {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.1]}}
SECTION = {"n_images": 4, "validation": 3, "samples": 3, "evaluations": 3.0, "full_images": 2, "full_validation": 2}
LONG = {"flash_published": {"solver": {"eta": 0.1}, "start": {"correction": 1.0}}}


@pytest.fixture
def tuned(load):
    options = {"starts": [5], "fresh": [0.0], "adaptive": {"scaled": {"share": [0.5]}}, "powers": [0.5]}
    return budgets.tune(load("validation", 3), [3], [WALK], **options)[0]["3"]


@pytest.fixture
def samplers(load, tuned):
    return spread.samplers_of(load("validation", 3), load("test", 4), tuned, LONG, SECTION, WALK["solver"])


def test_samplers_differ_in_where_their_noise_is(samplers):
    assert list(samplers) == ["few_start", "few_fresh", "full"]
    assert [flash.solver.stochasticity for flash, *_ in samplers.values()] == [0.0, 1.0, 1.0]
    assert all(flash.start == PublishedStart() for flash, *_ in samplers.values())
    assert [(v, n) for _, v, n in samplers.values()] == [(3, 4), (3, 4), (2, 2)]


def test_a_study_can_do_without_the_published_walk_and_a_solver_has_noise_of_its_own(load, tuned):
    both = load("validation", 3), load("test", 4)
    without = spread.samplers_of(*both, tuned, LONG, {**SECTION, "full_images": 0}, WALK["solver"])
    assert list(without) == ["few_start", "few_fresh"]
    assert list(spread.samplers_of(*both, tuned, {}, SECTION, WALK["solver"])) == ["few_start", "few_fresh"]
    own = {"adaptive": {"psnr": {"solver": {"kind": "latent_daps", "mcmc_steps": 2, "walk": {"kind": "growing"}}}}}
    assert list(spread.samplers_of(*both, own, {}, SECTION, {"kind": "latent_daps"})) == ["few_fresh"]


def test_rows_are_what_the_samples_say(load, tuned, samplers, tmp_path):
    bench = load("test", 4)
    rows, arrays = spread.rows_of(SECTION, tuned, LONG, WALK["solver"], load)
    assert rows.groupby("sampler", sort=False).size().to_dict() == {"few_start": 4, "few_fresh": 4, "full": 2}
    samples, nfe = posterior_samples(samplers["few_fresh"][0], bench.measurement, 3, bench.severity)
    part = rows[rows["sampler"] == "few_fresh"]
    mean, error = samples.mean(1), (samples.mean(1) - bench.truth).double().flatten(1).numpy()
    std = samples.double().std(1).flatten(1).numpy()
    np.testing.assert_allclose(part.rmse, np.sqrt((error**2).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(part.spread, np.sqrt((std**2).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(part.psnr_mean, psnr(mean, bench.truth), rtol=1e-4)
    np.testing.assert_allclose(part.psnr_one, psnr(samples[:, 0], bench.truth), rtol=1e-4)
    np.testing.assert_allclose(part.nfe, nfe.double().mean(1))
    expected = [coverage(e, s, 0.9, 3) for e, s in zip(error, std, strict=True)]
    np.testing.assert_allclose(part.all_90, expected, rtol=1e-5)
    assert (part.left_0 == 1).all() and (part.oracle_50 <= part.left_50 + 1e-6).all()
    assert {name.split("/")[-1] for name in arrays} == {"truth", "measurement", "mean", "spread"}
    write_rows(rows, tmp_path / "record.parquet")
    assert read_rows(tmp_path / "record.parquet", expect=10).equals(rows)


def test_the_example_is_the_image_of_median_severity_that_all_samplers_have(load, tuned):
    bench = load("test", 4)
    _, arrays = spread.rows_of(SECTION, tuned, LONG, WALK["solver"], load)
    first = bench.severity.sigma_hat[:2]
    assert (arrays["truth"] == bench.truth[int(first.argmax())].numpy()).all()


def test_the_one_walk_costs_what_all_samples_do(load, tuned):
    validation = load("validation", 6)
    found = spread.single_walk(validation, validation, tuned, {**SECTION, "evaluations": 2.0, "samples": 2})
    assert 3 <= found.nfe_walk.mean() <= 4 and list(found) == ["psnr_walk", "nfe_walk"]


def test_a_study_without_images_samples_nothing():
    rows, arrays = spread.rows_of({**SECTION, "n_images": 0}, {}, {}, {}, None)
    assert rows.empty and arrays == {} and {"sampler", "image", *spread.NUMBERS} <= set(rows)
