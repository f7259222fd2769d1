"""Robustness and single choices: what each run is told and measures, which trainings there are, and what they have seen."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from flashdiff.datasets.splits import Split, split_ids, to_float
from flashdiff.degradations import build, measure
from flashdiff.measures.features import Features
from flashdiff.measures.quality import psnr
from flashdiff.severity import SeverityEncoder
from flashdiff.study import budgets, robustness
from flashdiff.study.comparison import Bench
from flashdiff.study.records import read_rows, write_rows
from flashdiff.training.severity import train_severity_encoder

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}
WALK = {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.0, 0.1]}}
SEVERITY = {
    "init": "nowhere", "architecture": {"channels": [1], "layers": 9}, "loss": "likelihood", "noise": [0.0, 0.5], "steps": 99,
    "batch_size": 4, "learning_rate": 9.0, "ema": 0.9, "lambda_sigma": 3.0, "lambda_image": 0.0, "mixed_precision": "no",
}  # fmt: skip
ROBUSTNESS = {
    "encoder_images": 5, "unseen": [1, 3], "lambda_sigma": [0.5, 2.0], "steps": 2, "learning_rate": 0.01,
    "architecture": {"channels": [8, 8], "layers": 1}, "one_for_all": True,
}  # fmt: skip


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior.float()


@pytest.fixture
def bench(prior):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(1, 2).eval()
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Bench.build(
        prior, SeverityEncoder.from_prior(prior).eval(), features, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4
    )


@pytest.fixture
def tuned(bench):
    options = {"starts": [5], "fresh": [0.0], "adaptive": {"scaled": {"share": [0.5]}}, "powers": [0.5]}
    return budgets.tune(bench, [3], [WALK], **options)[0]["3"]


@pytest.fixture
def splits():
    rng, found = np.random.default_rng(0), []
    for name, labels in (("train", [0, 1, 2, 3, 0, 2]), ("validation", [0, 0]), ("test", [3, 0, 1, 2, 0, 0])):
        images = rng.integers(0, 256, (len(labels), 1, 16, 16), dtype=np.uint8)
        found.append(Split(name, images, np.array(labels), ""))
    return found


def trained(prior, splits, checkpoint, **changes):
    operator, noise_std = build(BLUR)
    return robustness.trained_rows(
        prior, operator, noise_std, *splits, SEVERITY, {**ROBUSTNESS, **changes}, 3, checkpoint
    )


# ------------------------------------------------------------------------------------------------------------- walks


@pytest.mark.parametrize("ratio", [0.5, 1.0, 4.0])
def test_the_true_noise_is_that_multiple_and_solver_and_encoder_are_told_the_assumed(bench, ratio):
    found = robustness.with_noise(bench, ratio)
    clean = measure(bench.truth, found.degradation, found.t, 0.0, seed=0, ids=found.ids).y
    assert found.noise_std == bench.measurement.noise_std == 0.1
    torch.testing.assert_close(found.y - clean, ratio * (bench.measurement.y - clean), rtol=0, atol=1e-5)


def test_every_rule_is_tuned_with_steps_of_its_own_and_the_study_s_are_taken(bench, tuned):
    starts = {"published": {"correction": [1.5]}, "consistent": {"k": [1.0]}}
    found = robustness.choices_of_starts(bench, 3, WALK, tuned, starts)
    assert list(found) == ["published", "consistent", "scaled", "fixed"]
    assert found["scaled"] == tuned["adaptive"]["psnr"] and found["fixed"] == tuned["fixed"]["psnr"]
    assert found["published"]["start"] == {"rule": "published", "correction": 1.5}
    for rule, options in starts.items():
        tried = budgets.adaptive_choices(bench, 3, WALK["solver"], WALK["candidates"], {rule: options}, [0.5])
        reached = [
            float(psnr(budgets.few_step(bench, c)(bench.measurement, bench.severity).images, bench.truth).mean())
            for c in tried
        ]
        assert len(tried) == 2 and found[rule] == tried[int(np.argmax(reached))]
    own = robustness.choices_of_starts(bench, 3, WALK, tuned, {"scaled": {"share": [0.1]}})
    assert own == {"scaled": tuned["adaptive"]["psnr"], "fixed": tuned["fixed"]["psnr"]}
    assert robustness.choices_of_starts(bench, 3, WALK, tuned, {}) == {}


def test_runs_differ_in_what_their_experiment_varies_alone(bench, tuned):
    starts = robustness.choices_of_starts(bench, 3, WALK, tuned, {"published": {"correction": [1.0]}})
    runs = robustness.runs_of([0.5, 1.0], tuned, starts, [1.0, 1.5])
    assert list(runs) == [
        ("noise", "0.5"), ("noise", "1"), *(("start", rule) for rule in starts), ("correction", "1"), ("correction", "1.5"),
    ]  # fmt: skip
    assert [ratio for ratio, _ in runs.values()] == [0.5] + [1.0] * (len(runs) - 1)
    assert runs["noise", "0.5"][1] == runs["noise", "1"][1] == tuned["adaptive"]["psnr"]
    assert runs["correction", "1"] == runs["start", "published"]
    plain, corrected = runs["correction", "1"][1], runs["correction", "1.5"][1]
    assert corrected == {**plain, "start": {"rule": "published", "correction": 1.5}}
    assert robustness.runs_of([], tuned, {}, []) == {}
    with pytest.raises(ValueError, match=r"robustness.corrections: there is no published start"):
        robustness.runs_of([], tuned, {}, [1.0])


def test_rows_of_walks_are_what_the_walks_reach(bench, tuned, monkeypatch):
    starts = robustness.choices_of_starts(bench, 3, WALK, tuned, {"published": {"correction": [1.0]}})
    runs = robustness.runs_of([1.0, 2.0], tuned, starts, [1.0, 1.5])
    walks, few_step = [], robustness.few_step
    monkeypatch.setattr(
        robustness, "few_step", lambda bench, choice: walks.append(json.dumps(choice)) or few_step(bench, choice)
    )
    rows = robustness.walk_rows(bench, runs)
    assert list(rows) == list(robustness.COLUMNS) and not rows.unseen.any()
    assert (
        len(walks) == 5
    )  # two noises, published, fixed, c = 1.5; scaled is the first noise's, c = 1 the published start
    z0 = bench.prior.encode(bench.truth).detach()
    for (experiment, variant), (ratio, choice) in runs.items():
        part = rows[(rows.experiment == experiment) & (rows.variant == variant)]
        measurement = robustness.with_noise(bench, ratio)
        told = bench.encoder.infer(measurement.y)
        result = few_step(bench, choice)(measurement, told)
        walked, decoded = (part[part.method == method] for method in ("few_step", "no_diffusion"))
        np.testing.assert_allclose(walked.psnr, psnr(result.images, bench.truth), rtol=1e-4)
        np.testing.assert_array_equal(walked.nfe, result.nfe)
        np.testing.assert_array_equal(walked.start, result.start)
        for of in (walked, decoded) if experiment == "noise" else (walked,):
            np.testing.assert_allclose(of.sbar, (told.z_hat - z0).flatten(1).std(1), rtol=1e-4)
            np.testing.assert_allclose(of.sigma_hat, told.sigma_hat, rtol=1e-4)
            np.testing.assert_array_equal(of.image, np.arange(6))
        if experiment == "noise":
            images = bench.prior.decode(told.z_hat).detach()
            np.testing.assert_allclose(decoded.psnr, psnr(images, bench.truth), rtol=1e-4)
            assert (decoded.nfe == 0).all() and (decoded.start == -1).all()
        else:
            assert len(decoded) == 0


# ---------------------------------------------------------------------------------------------------------- encoders


def test_trainings_share_all_that_is_not_varied():
    found = robustness.training_sections(SEVERITY, ROBUSTNESS)
    assert list(found) == [
        ("classes", "all"), ("classes", "without"), ("lambda_sigma", "0.5"), ("lambda_sigma", "2"),
    ]  # fmt: skip
    own = {"init": None, "noise": None, "steps": 2, "learning_rate": 0.01, "architecture": ROBUSTNESS["architecture"]}
    assert found["classes", "all"] == found["classes", "without"] == {**SEVERITY, **own}
    published = {**SEVERITY, **own, "loss": "squared", "architecture": None}
    assert found["lambda_sigma", "0.5"] == {**published, "lambda_sigma": 0.5}
    assert found["lambda_sigma", "2"] == {**published, "lambda_sigma": 2.0}
    assert robustness.training_sections(SEVERITY, ROBUSTNESS | {"unseen": [], "lambda_sigma": []}) == {}


def test_rows_of_trainings_hold_what_each_errs_and_without_means_without(prior, splits, tmp_path, monkeypatch):
    seen = []

    def spy(*arguments):
        seen.append(np.array(arguments[3]))
        return train_severity_encoder(*arguments)

    monkeypatch.setattr(robustness, "train_severity_encoder", spy)
    rows = trained(prior, splits, tmp_path / "encoder.ckpt")
    train, validation, test = splits
    assert [len(images) for images in seen] == [6, 4, 6, 6]
    np.testing.assert_array_equal(seen[1], train.images[[0, 2, 4, 5]])

    operator, noise_std = build(BLUR)
    x, ids = to_float(test.images[:5]), split_ids("test", 5)
    z0 = prior.encode(x).detach()
    for number, ((experiment, variant), section) in enumerate(
        robustness.training_sections(SEVERITY, ROBUSTNESS).items()
    ):
        part = rows[(rows.experiment == experiment) & (rows.variant == variant)]
        assert len(part) == 5 * len(robustness.LEVELS)
        expected = [True, False, True, False, False] if experiment == "classes" else [False] * 5
        assert part.unseen.tolist() == expected * len(robustness.LEVELS)
        arguments = (prior, operator, noise_std, seen[number], validation.images, section, 3, tmp_path / "again.ckpt")
        encoder, _ = train_severity_encoder(*arguments)
        for draw, t in enumerate(robustness.LEVELS):
            told = encoder.infer(measure(x, operator, t, noise_std, seed=3, ids=ids, draw=draw).y)
            at = part[part.t == t]
            np.testing.assert_allclose(at.sbar, (told.z_hat - z0).flatten(1).std(1), rtol=1e-4)
            np.testing.assert_allclose(at.sigma_hat, told.sigma_hat, rtol=1e-4)
            np.testing.assert_allclose(at.psnr, psnr(prior.decode(told.z_hat).detach(), x), rtol=1e-4)

    monkeypatch.setattr("flashdiff.training.loop.Run.advance", lambda _: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(trained(prior, splits, tmp_path / "encoder.ckpt"), rows)


@pytest.mark.parametrize(("unseen", "split"), [([7], "train"), ([1, 4], "train"), ([2], "test")])
def test_a_class_that_the_images_lack_is_named(prior, splits, tmp_path, unseen, split):
    """Before any training; test images beyond those that are used do not count."""
    lacking = unseen[-1]
    with pytest.raises(ValueError, match=rf"robustness.unseen: \[{lacking}\] are not among the labels of the {split} "):
        trained(prior, splits, tmp_path / "encoder.ckpt", unseen=unseen, encoder_images=3)


def test_one_for_all_is_what_trainings_start_from(prior, splits, tmp_path):
    operator, noise_std = build(BLUR)
    for_all, own = (SeverityEncoder.from_prior(prior, seed).eval() for seed in (1, 2))
    for_all.save_pretrained(tmp_path / "shipped")
    section = SEVERITY | {"init": str(tmp_path / "shipped"), "architecture": None}
    arguments = (prior, own, operator, noise_std, splits[2], section)
    rows = robustness.shared_rows(*arguments, ROBUSTNESS, 3)
    x = to_float(splits[2].images[:5])
    for variant, encoder in (("for_all", for_all), ("own", own)):
        expected = robustness.encoder_rows(encoder, prior, x, operator, noise_std, 3)
        part = rows[rows.variant == variant].reset_index(drop=True)
        np.testing.assert_allclose(part.sigma_hat, expected.sigma_hat, rtol=1e-4)
    assert rows.groupby("variant").sigma_hat.mean().nunique() == 2
    assert robustness.shared_rows(*arguments, ROBUSTNESS | {"one_for_all": False}, 3).empty


def test_a_study_without_experiments_has_a_record_without_rows(prior, bench, tuned, splits, tmp_path):
    empty = [
        robustness.walk_rows(bench, {}),
        trained(prior, splits, tmp_path / "encoder.ckpt", unseen=[], lambda_sigma=[]),
        robustness.record([]),
    ]
    write_rows(robustness.record(empty), tmp_path / "record.parquet")
    rows = read_rows(tmp_path / "record.parquet")
    assert rows.empty and list(rows) == list(robustness.COLUMNS)
    assert not list(tmp_path.glob("*.ckpt"))
