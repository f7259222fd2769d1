"""The Frechet distance of few-step walks: against a computation of its own, what the record says, and when there is none."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

from flashdiff.measures.features import penultimate
from flashdiff.measures.published import PublishedDistances
from flashdiff.report.frontier import frechet_table
from flashdiff.study import budgets, frechet
from flashdiff.study.frechet import AGAINST, COLUMNS, ENDS, Run
from flashdiff.study.records import read_json, to_records, write_json

WALK = {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.1]}}
SECTION = {"n_images": 100, "evaluations": [2.0, 4.0]}
"""100 images have covariances of 64 features that are not singular, where SciPy's matrix root can be trusted."""
NOTHING = Run("no_diffusion")


def closed_form(a, b):
    """|mu|^2 + tr(A + B - 2 (AB)^0.5) with SciPy's matrix square root."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return shift + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)


@pytest.fixture(scope="module")
def features():
    """(truth, run -> features) of 60 made-up images: D(z_hat) is further from the truth than both walks."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 5)) * [3, 2, 1, 1, 0.5]
    error = rng.normal(size=(60, 5))
    found = {
        NOTHING: 0.7 * truth + error,
        Run("adaptive", 2.0): 0.9 * truth + 0.3 * error,
        Run("fixed", 2.0): 0.9 * truth,
    }
    return truth, found


def test_differences_and_intervals_are_those_of_a_plain_bootstrap(features):
    truth, found = features
    ours, fixed = Run("adaptive", 2.0), Run("fixed", 2.0)
    compared = [(ours, NOTHING), (ours, fixed), (fixed, NOTHING)]
    result = frechet.differences(found, truth, compared, n_resamples=40, seed=3)
    assert list(result) == compared
    draw = np.random.default_rng(3)
    drawn = [draw.integers(0, 60, 60) for _ in range(40)]
    for (a, b), interval in result.items():
        value = closed_form(found[a], truth) - closed_form(found[b], truth)
        assert interval["value"] == pytest.approx(value, rel=1e-5)
        # the same images on both sides and in the truth
        resampled = [closed_form(found[a][i], truth[i]) - closed_form(found[b][i], truth[i]) for i in drawn]
        expected = np.percentile(resampled, [2.5, 97.5])
        assert [interval["low"], interval["high"]] == pytest.approx(expected, rel=1e-5)
        assert interval["low"] < value < interval["high"]


def test_what_is_the_same_differs_by_nothing_in_every_resample(features):
    truth, found = features
    same = {NOTHING: found[NOTHING], Run("fixed", 2.0): found[NOTHING].copy()}
    (interval,) = frechet.differences(same, truth, [(Run("fixed", 2.0), NOTHING)], n_resamples=10).values()
    assert interval == {"value": 0, "low": 0, "high": 0}


def test_intervals_hold_the_true_difference_as_often_as_they_say():
    """Of two Gaussian errors whose distances are known: the bias is on both sides, and leaves the difference.

    Images are x ~ N(0, I), walks are s x: the distance is d (1 - s)^2. 60 samples, at least 51 of them, which 95% miss with a
    chance below 1e-3.
    """
    held, near, far = 0, Run("adaptive", 2.0), NOTHING
    true = 4 * (0.1**2 - 0.3**2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, noise = rng.normal(size=(2, 400, 4))
        found = {near: 0.9 * x, far: 0.7 * (0.8 * x + 0.6 * noise)}
        (interval,) = frechet.differences(found, x, [(near, far)], n_resamples=100, seed=seed).values()
        held += interval["low"] <= true <= interval["high"]
    assert held >= 51


@pytest.fixture
def tuned(load):
    options = {"starts": [5], "fresh": [0.0], "adaptive": {"scaled": {"share": [0.5], "lowest": [3]}}, "powers": [0.5]}
    return budgets.tune(load("validation", 6), [2, 4], [WALK], **options)[0]


@pytest.fixture
def record(load, tuned, monkeypatch):
    monkeypatch.setattr(frechet, "ENOUGH", SECTION["n_images"])
    return frechet.rows_of(SECTION, tuned, load, n_resamples=12, seed=1)


def test_the_record_has_d_of_z_hat_and_both_walks_of_every_budget(load, tuned, record, tmp_path):
    walked = [(b, m) for b in SECTION["evaluations"] for m in ("adaptive", "fixed")]
    assert list(record.method) == ["no_diffusion", *(method for _, method in walked)]
    assert list(record.budget[1:]) == [budget for budget, _ in walked] and np.isnan(record.budget[0])
    assert list(record.tuned_for) == ["", *4 * ["perceptual"]] and (record.images == 100).all()
    bench = load("test", 100)
    truth = penultimate(bench.distances, bench.truth)
    decoded = bench.prior.decode(bench.severity.z_hat).clamp(-1, 1)
    level = closed_form(penultimate(bench.distances, decoded), truth)
    assert record.frechet_distance[0] == pytest.approx(level, rel=1e-4) and record.nfe[0] == 0
    reached = {}
    for row in record[1:].itertuples():
        choice = tuned[f"{row.budget:g}"][row.method]["perceptual"]
        result = budgets.few_step(bench, choice)(bench.measurement, bench.severity)
        own = closed_form(penultimate(bench.distances, result.images), truth)
        assert own == pytest.approx(bench.distances.frechet({"a": result.images}, bench.truth)["a"], rel=1e-4)
        reached[row.budget, row.method] = own
        assert row.frechet_distance == pytest.approx(own, rel=1e-4)
        assert row.nfe == pytest.approx(result.nfe.double().mean().item())
        assert row.minus_no_diffusion == pytest.approx(own - level, rel=1e-3, abs=1e-5)
    for row in record[record.method == "adaptive"].itertuples():
        difference = reached[row.budget, "adaptive"] - reached[row.budget, "fixed"]
        assert row.minus_fixed == pytest.approx(difference, rel=1e-3, abs=1e-5)
    for column in AGAINST.values():
        ends = record[[f"{column}_low", f"{column}_high"]]
        assert (ends.isna().all(axis=1) == record[column].isna()).all()
        assert (ends[f"{column}_low"] <= ends[f"{column}_high"]).eq(record[column].notna()).all()
    assert record.minus_fixed.notna().tolist() == [False, True, False, True, False]
    assert record.minus_no_diffusion.notna().tolist() == [False, True, True, True, True]
    # as the notebooks write and read it: the table has the record's numbers, D(z_hat) last
    write_json(tmp_path / "record.json", {"rows": to_records(record)})
    table = frechet_table(read_json(tmp_path / "record.json")["rows"])
    assert list(table) == list(COLUMNS)
    pd.testing.assert_frame_equal(table, pd.concat([record[1:], record[:1]], ignore_index=True), check_dtype=False)


def test_the_seed_and_the_number_of_resamples_move_intervals_alone(load, tuned, record):
    other = frechet.rows_of({**SECTION, "evaluations": [2.0]}, tuned, load, n_resamples=14, seed=2)
    ends = [f"{column}{end}" for column in AGAINST.values() for end in ENDS[1:]]
    pd.testing.assert_frame_equal(record[:3].drop(columns=ends), other.drop(columns=ends))
    assert (record[:3][ends] != other[ends])[1:].to_numpy().all(axis=1)[0]


@pytest.mark.parametrize("n_images", [0, 999])
def test_too_few_images_walk_nowhere_and_leave_a_record_without_rows(n_images, tmp_path):
    rows = frechet.rows_of({**SECTION, "n_images": n_images}, {}, None)
    assert rows.empty and list(rows) == list(COLUMNS)
    write_json(tmp_path / "record.json", {"rows": to_records(rows)})
    assert json.loads((tmp_path / "record.json").read_text()) == {"rows": []}
    assert frechet_table([]).empty and list(frechet_table([])) == list(COLUMNS)


def test_without_a_network_nothing_walks(load, monkeypatch):
    monkeypatch.setattr(frechet, "ENOUGH", 4)
    bench = load("test", 4)
    bench = replace(bench, distances=PublishedDistances(None, None))
    assert frechet.rows_of({**SECTION, "n_images": 4}, {}, lambda split, n: bench).empty


def test_inception_sees_three_channels_of_bytes_in_batches():
    """In Inception's place the channels' means; the libraries are not needed for that."""
    seen = []

    def inception(pixels):
        seen.append(pixels)
        return pixels.double().mean((2, 3)).float()

    fid = SimpleNamespace(inception=inception, parameters=lambda: iter(()))
    x = torch.rand(7, 1, 4, 4) * 2.4 - 1.2
    found = frechet.features_of(PublishedDistances(None, fid, batch_size=3), x)
    bytes_of = (x.clamp(-1, 1) * 127.5 + 127.5).round()
    np.testing.assert_allclose(found, bytes_of.mean((2, 3)).double().expand(-1, 3), rtol=1e-5)
    assert [tuple(part.shape) for part in seen] == [(3, 3, 4, 4), (3, 3, 4, 4), (1, 3, 4, 4)]
    assert {part.dtype for part in seen} == {torch.uint8} and found.dtype == np.float64
