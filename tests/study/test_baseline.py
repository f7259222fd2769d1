"""The full-length baseline as a record: kept, used in place of a walk, refused where it is of something else, timed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from flashdiff.flash import FullLength
from flashdiff.study import baseline, comparison, records
from flashdiff.study.schema import load, select
from flashdiff.walks import EvenlySpaced, Strided


@pytest.fixture
def build(tiny_study, monkeypatch):
    monkeypatch.chdir(tiny_study)
    study = load()
    entry, solver = select(study, "degradations.gaussian_blur"), select(study, "solvers.ldps")

    def build(asked="gaussian_blur", n_images=6, **options):
        return comparison.Bench.load("test", n_images, entry, asked, solver, **({"seed": 0, "batch_size": 4} | options))

    return build


@pytest.fixture
def chosen(build):
    return records.read_json("data/tuned/gaussian_blur-ldps.json")["chosen"]


def test_a_comparison_with_the_kept_baseline_is_the_one_that_walks_it(build, chosen, tmp_path, monkeypatch):
    bench = build()
    del chosen["flash_consistent"]  # one start rule is enough
    whole = comparison.reconstruct(bench, chosen, [3], tmp_path / "whole", controls=[])
    path = tmp_path / "data/baseline.npz"
    baseline.save(path, bench, baseline.walk(build(asked=None), chosen["full_length"], tmp_path / "alone"))
    kept = baseline.load(path, bench)
    monkeypatch.setattr(FullLength, "stream", lambda *arguments, **options: pytest.fail("the baseline walks again"))
    found = comparison.reconstruct(bench, chosen, [3], tmp_path / "run", controls=[], walked={"full_length": kept})
    assert list(found) == list(whole)
    for method, result in whole.items():
        assert torch.equal(found[method].images, result.images), method
        for name in ("start", "nfe", "decodes", "encodes", "gradients"):
            assert getattr(found[method], name).tolist() == getattr(result, name).tolist(), (method, name)
    assert found["full_length"].engine == whole["full_length"].engine


@pytest.mark.parametrize("other", [{"n_images": 5}, {"seed": 1}, {"levels": [0.5, 1.0]}], ids=str)
def test_the_baseline_of_other_measurements_is_refused(build, chosen, tmp_path, other):
    path = tmp_path / "baseline.npz"
    baseline.save(path, build(asked=None), baseline.walk(build(asked=None), chosen["full_length"], tmp_path / "run"))
    with pytest.raises(ValueError, match=r"baseline\.npz: its 6 images .* run `make baseline`"):
        baseline.load(path, build(asked=None, **other))


def test_a_missing_baseline_is_named_with_the_remedy(build, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: not there; run `make study`"):
        baseline.load(tmp_path / "nowhere.npz", build(asked=None))


def test_a_stage_has_the_record_and_by_hand_the_baseline_walks_with_the_parameters_at_hand(build, chosen, monkeypatch):
    stage, by_hand = Path(), Path(".build/by_hand")
    choice, record = chosen["full_length"], baseline.walk(build(asked=None), chosen["full_length"], "run")
    baseline.save(baseline.RECORD.format(pair="blur-ldps"), build(asked=None), record)
    other = build(seed=1)
    with pytest.raises(ValueError, match="run `make baseline`"):
        baseline.obtain(stage, "blur-ldps", other, choice)
    walked = baseline.obtain(by_hand, "blur-ldps", other, choice)
    assert torch.equal(walked.images, other.full_length(choice)(other.measurement).images)
    monkeypatch.setattr(FullLength, "stream", lambda *arguments, **options: pytest.fail("the baseline walks again"))
    assert torch.equal(baseline.obtain(stage, "blur-ldps", build(), choice).images, record.images)


@pytest.mark.parametrize("walk", [Strided(1), Strided(7), EvenlySpaced(40)], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_the_timed_steps_are_one_of_each_part_of_the_walk(tiny_prior, walk, steps):
    whole = walk(tiny_prior, walk.first(tiny_prior)).tolist()
    steps = min(steps, len(whole))
    part = baseline.Part(walk, steps, seed=0)
    found = [whole.index(i) for i in part(tiny_prior, part.first(tiny_prior))]
    edges = [round(k * len(whole) / steps) for k in range(steps + 1)]
    assert len(found) == steps
    assert all(low <= at < high for low, at, high in zip(edges[:-1], found, edges[1:], strict=True))


def test_timed_steps_stand_for_the_whole_walk(build, chosen, monkeypatch):
    """Where every step takes a second, the baseline takes as many seconds as its walk has steps."""
    bench = build(asked=None)
    walked = FullLength.__call__

    def clocked(method, measurement, title=None):
        steps = method.solver.walk(bench.prior, method.solver.walk.first(bench.prior))
        return dataclasses.replace(walked(method, measurement, title=title), seconds=float(len(steps)))

    record = baseline.walk(bench, chosen["full_length"], "run")
    monkeypatch.setattr(FullLength, "__call__", clocked)
    timed = baseline.timed_here(bench, chosen["full_length"], record)
    assert timed.seconds == pytest.approx(len(np.arange(bench.prior.n_steps)))
    assert torch.equal(timed.images, record.images)
