"""The calibrated start in a study: what is tried and told, equal evaluations, and what hindsight knows."""

import numpy as np
import pytest
import torch

from flashdiff.measures.quality import psnr
from flashdiff.severity import latent_error_variance
from flashdiff.study import budgets, calibrated
from flashdiff.study.records import read_rows, write_rows

WALK = {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.1]}}
SECTION = {
    "n_images": 4, "validation": 6, "evaluations": [3.0], "starts": [4, 20], "shares": [0.5, 1.0, 2.0], "bins": 2, "folds": 4,
}  # fmt: skip


@pytest.fixture
def tuned(load):
    options = {"starts": [5], "fresh": [0.0], "adaptive": {"scaled": {"share": [0.5], "lowest": [3]}}, "powers": [0.5]}
    return budgets.tune(load("validation", 6), [3], [WALK], **options)[0]


def test_trials_are_walks_from_these_starts_with_these_steps(load, tuned):
    bench, choice = load("validation", 3), tuned["3"]["adaptive"]["psnr"]
    tried = calibrated.trials_of(bench, choice, [4, 20], [2, 3])
    assert tried.quality.shape == (3, 2, 2)
    for s, start in enumerate((4, 20)):
        for k, steps in enumerate((2, 3)):
            setting = {
                "solver": {**choice["solver"], "walk": {"kind": "evenly_spaced", "steps": steps}},
                "start": {"rule": "fixed", "index": start, "fresh": 0.0},
            }
            images = budgets.few_step(bench, setting)(bench.measurement, bench.severity).images
            np.testing.assert_allclose(tried.quality[:, s, k], psnr(images, bench.truth), atol=1e-4)


def test_the_rule_set_by_hand_is_the_tuned_setting_s(load, tuned):
    bench, choice = load("validation", 6), tuned["3"]["adaptive"]["psnr"]
    starts, steps = calibrated.by_hand(bench, choice)
    result = budgets.few_step(bench, choice)(bench.measurement, bench.severity)
    sigma = bench.severity.sigma_hat.numpy()
    assert starts(sigma).tolist() == result.start.tolist() and steps(sigma).tolist() == result.nfe.tolist()


def test_the_true_error_and_its_correlation_are_of_the_latent(load):
    bench = load("test", 4)
    z0 = bench.prior.encode_in_slices(bench.truth)
    told, correlation = calibrated.truth_of(bench)
    torch.testing.assert_close(told.variance, latent_error_variance(bench.severity.z_hat, z0))
    torch.testing.assert_close(told.z_hat, bench.severity.z_hat)
    e = (bench.severity.z_hat - z0).double()
    products = (e[..., 1:] * e[..., :-1]).sum((1, 2, 3)) + (e[..., 1:, :] * e[..., :-1, :]).sum((1, 2, 3))
    halves = sum((part**2).sum((1, 2, 3)) / 2 for part in (e[..., 1:], e[..., :-1], e[..., 1:, :], e[..., :-1, :]))
    torch.testing.assert_close(correlation, products / halves)


def test_rows_of_a_study_and_the_file_they_are_kept_in(load, tuned, tmp_path):
    rows, fitted = calibrated.rows_of(SECTION, tuned, load)
    methods = ["adaptive", "fixed", "published", "consistent", "correlation", "calibrated", "told_truth", "hindsight"]
    assert list(dict.fromkeys(rows.method)) == methods and (rows.groupby("method").size() == 4).all()
    assert list(fitted) == [3.0] and set(calibrated.described(fitted).budget) == {3.0}
    bench = load("test", 4)
    start = fitted[3.0].start.of(bench.severity.sigma_hat.double().numpy())
    own = rows[rows.method == "calibrated"]
    assert own.start.tolist() == start.tolist() and own.nfe.tolist() == fitted[3.0].walk.steps(start).tolist()
    truth = fitted[3.0].start.of(calibrated.truth_of(bench)[0].sigma_hat.double().numpy())
    assert rows[rows.method == "told_truth"].start.tolist() == truth.tolist()
    write_rows(rows, tmp_path / "record.parquet")
    assert read_rows(tmp_path / "record.parquet", expect=32).equals(rows)


def test_hindsight_has_the_best_of_the_tried_starts_for_each_image(load, tuned):
    bench = load("test", 4)
    rows, _ = calibrated.rows_of(SECTION, tuned, load)
    tried = calibrated.trials_of(bench, tuned["3"]["adaptive"]["psnr"], SECTION["starts"], [3]).quality[:, :, 0]
    hindsight = rows[rows.method == "hindsight"].sort_values("image")
    np.testing.assert_allclose(hindsight.psnr, tried.max(1), atol=1e-4)
    assert hindsight.start.tolist() == [SECTION["starts"][k] for k in tried.argmax(1)]


def test_all_methods_take_the_budget_at_most_on_validation_images(load, tuned):
    bench = load("validation", 6)
    runs, _ = calibrated.methods_of(bench, bench, tuned["3"], 3.0, [4, 20], [2, 3, 6], 2, 4)
    for method in ("adaptive", "fixed", "published", "consistent", "correlation", "calibrated"):
        flash, severity = runs[method]
        assert float(flash(bench.measurement, severity).nfe.double().mean()) <= 3


def test_a_study_without_budgets_walks_nothing(tuned):
    rows, fitted = calibrated.rows_of({**SECTION, "evaluations": []}, tuned, None)
    assert rows.empty and list(rows) == list(calibrated.COLUMNS) and fitted == {}
