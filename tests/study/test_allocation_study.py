"""A budget for a set in a study: which walks are taken, what the record says of them, and the ways that share a budget."""

import numpy as np
import pandas as pd
import pytest

from flashdiff.measures.quality import psnr
from flashdiff.report import allocation as shares
from flashdiff.study import allocation, budgets
from flashdiff.study.records import read_rows, write_rows
from flashdiff.trust.allocation import SAME, TUNED, fit, worth_of

WALK = {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.1]}}
SECTION = {"n_images": 4, "validation": 6, "numbers": [1, 2, 4], "bins": 2}


@pytest.fixture
def tuned(load):
    options = {"starts": [5], "fresh": [0.0], "adaptive": {"scaled": {"share": [0.5], "lowest": [3]}}, "powers": [0.5]}
    return budgets.tune(load("validation", 6), [2, 4], [WALK], **options)[0]


@pytest.fixture
def rows(load, tuned):
    return allocation.rows_of(SECTION, tuned, load)


def test_a_number_takes_the_setting_of_the_nearest_budget_with_as_many_steps_for_all(tuned):
    found = allocation.settings(tuned, [1, 2, 3, 9])
    for number, nearest in ((1, "2"), (2, "2"), (3, "4"), (9, "4")):  # 3 / 2 is more than 4 / 3
        choice = tuned[nearest]["adaptive"]["psnr"]
        assert found[number]["start"] == choice["start"]
        assert found[number]["solver"] == {**choice["solver"], "walk": {"kind": "evenly_spaced", "steps": number}}


def test_the_record_is_of_walks_with_every_number_and_of_none(load, tuned, rows, tmp_path):
    counts = rows.groupby(["split", "method", "number"], sort=False).size().to_dict()
    same = {(split, SAME, number): n for split, n in (("validation", 6), ("test", 4)) for number in (0, 1, 2, 4)}
    assert counts == same | {("test", TUNED, 2): 4}  # of the largest budget nothing is shared
    bench = load("test", 4)
    for number, choice in allocation.settings(tuned, [1, 2, 4]).items():
        result = budgets.few_step(bench, choice)(bench.measurement, bench.severity)
        own = rows[(rows["split"] == "test") & (rows["method"] == SAME) & (rows["number"] == number)]
        np.testing.assert_allclose(own.psnr, psnr(result.images, bench.truth), rtol=1e-5)
        assert own.nfe.tolist() == result.nfe.tolist()
    decoded = bench.prior.decode(bench.severity.z_hat).clamp(-1, 1)
    own = rows[(rows["split"] == "test") & (rows["number"] == 0)]
    np.testing.assert_allclose(own.psnr, psnr(decoded, bench.truth), rtol=1e-4)
    assert (own.nfe == 0).all()
    write_rows(rows, tmp_path / "record.parquet")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "record.parquet", expect=len(rows)), rows)


def test_the_worth_is_the_validation_images(rows):
    own = rows[rows["split"] == "validation"]
    psnr_of = own.pivot(index="image", columns="number", values="psnr").to_numpy(float)
    sigma_hat = own[own["number"] == 0].sort_values("image").sigma_hat.to_numpy(float)
    assert worth_of(rows, 2) == fit(sigma_hat, [0, 1, 2, 4], psnr_of, 2)


def test_every_way_shares_the_budget_among_the_walks_that_were_taken(rows):
    ways = shares.ways_of(rows, 2)
    test = rows[(rows["split"] == "test") & (rows["method"] == SAME)].set_index(["image", "nfe"])
    assert ways.groupby(["budget", "way"]).size().to_dict() == {
        (1, SAME): 4, (1, shares.SHARED): 4, (1, shares.HINDSIGHT): 4,
        (2, SAME): 4, (2, shares.SHARED): 4, (2, shares.HINDSIGHT): 4, (2, TUNED): 4,
    }  # fmt: skip
    for (budget, way), part in ways[ways.way != TUNED].groupby(["budget", "way"]):
        assert part.nfe.mean() <= budget
        for row in part.itertuples():
            assert row.psnr == pytest.approx(test.psnr[row.image, row.nfe], rel=1e-6)
        if way == shares.HINDSIGHT:
            others = ways[(ways.budget == budget) & ways.way.isin([SAME, shares.SHARED])].groupby("way").psnr.mean()
            assert (part.psnr.mean() >= others - 1e-6).all()


def test_a_study_without_images_walks_nothing(tuned):
    rows = allocation.rows_of({**SECTION, "n_images": 0}, tuned, None)
    assert rows.empty and list(rows) == list(allocation.COLUMNS)
