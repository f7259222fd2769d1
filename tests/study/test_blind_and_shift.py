"""Restoring without the level, and shifted measurements: what each walk is told, and what is true of it."""

import numpy as np
import pandas as pd
import pytest
import torch

from flashdiff.datasets.splits import Split, split_ids
from flashdiff.degradations import build, measure
from flashdiff.measures.features import Features
from flashdiff.measures.quality import psnr
from flashdiff.severity import SeverityEncoder
from flashdiff.study import blind, shift
from flashdiff.study.comparison import Bench
from flashdiff.study.records import read_rows, write_rows
from flashdiff.trust.blind import estimate_level, fit, level_of, read_off
from flashdiff.trust.shift import reference

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}
MASKS = {"kind": "random_inpainting", "drop_max": 0.9, "exponent": 1.0, "noise_std": 0.05}
STEPS = {"kind": "evenly_spaced"}


def setting(steps):
    solver = {"kind": "ldps_diffpir", "stochasticity": 0.0, "length": "polyak", "eta": 0.1, "lam": 3.0}
    return {
        "solver": {**solver, "walk": {**STEPS, "steps": steps}},
        "start": {"rule": "scaled", "share": 0.5, "lowest": 5},
    }


CHOSEN = {f"{steps}": {"adaptive": {"psnr": setting(steps)}} for steps in (2, 4)}
SHIFT = {
    "validation": 6,
    "walked": 2,
    "n_images": 4,
    "noise": [3.0],
    "fallback_steps": 3,
    "fallback_index": 7,
    "unseen": True,
}
SEVERITY = {
    "init": "nowhere", "architecture": None, "loss": "likelihood", "noise": None, "steps": 99, "batch_size": 4,
    "learning_rate": 9.0, "ema": 0.9, "lambda_sigma": 3.0, "lambda_image": 0.0, "mixed_precision": "no",
}  # fmt: skip
ROBUSTNESS = {
    "unseen": [1, 3], "lambda_sigma": [0.5], "steps": 2, "learning_rate": 0.01,
    "architecture": {"channels": [8, 8], "layers": 1},
}  # fmt: skip


@pytest.fixture
def make(tiny_prior):
    prior = tiny_prior.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(1, 2).eval()
    x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def make(entry):
        encoder = SeverityEncoder.from_prior(prior).eval()
        return Bench.build(prior, encoder, features, x, entry, {"kind": "ldps"}, seed=0, batch_size=4)

    return make


@pytest.fixture
def splits():
    rng, found = np.random.default_rng(0), {}
    for name, labels in (
        ("train", [0, 1, 2, 3, 0, 2]),
        ("validation", [0, 1, 0, 3, 2, 0]),
        ("test", [3, 0, 1, 2, 0, 0]),
    ):
        images = rng.integers(0, 256, (len(labels), 1, 16, 16), dtype=np.uint8)
        found[name] = Split(name, images, np.array(labels), "")
    return found


@pytest.mark.parametrize("entry", [BLUR, MASKS], ids=lambda entry: entry["kind"])
def test_every_walk_is_told_its_level_and_nothing_else_differs(make, entry, monkeypatch):
    bench, walks, few_step = make(entry), [], blind.few_step

    def spy(bench, choice):
        run = few_step(bench, choice)

        def walk(measurement, severity, title):
            result = run(measurement, severity, title=title)
            walks.append((choice, measurement, severity, result))
            return result

        return walk

    monkeypatch.setattr(blind, "few_step", spy)
    rows = blind.level_rows(bench, CHOSEN, 4.0, 0.5)
    variants = ["known", "fitted", "refined", "fixed", *(["mask"] if entry is MASKS else [])]
    assert list(rows) == list(blind.COLUMNS) and rows.variant.unique().tolist() == variants
    m = bench.measurement
    decoded = bench.prior.decode_in_slices(bench.severity.z_hat, 5)
    first = next(result for choice, _, _, result in walks if choice == CHOSEN["2"]["adaptive"]["psnr"])
    expected = {
        "known": m.t,
        "fitted": estimate_level(m.y, decoded, m.degradation, m.ids)[0],
        "refined": estimate_level(m.y, first.images, m.degradation, m.ids)[0],
        "fixed": torch.full((5,), 0.5),
    }
    if entry is MASKS:
        expected["mask"] = level_of(read_off(m.y, 0.05), 0.9, 1.0)
    for variant, told in expected.items():
        part = rows[rows.variant == variant]
        np.testing.assert_allclose(part.told, told, atol=1e-6)
        np.testing.assert_allclose(part.t, m.t, atol=1e-6)
        assert (part.nfe == 4).all()  # equal evaluations, both halves counted
        assert any(torch.allclose(w[1].t, told.to(w[1].t)) for w in walks)
    assert all(torch.equal(w[2].z_hat, bench.severity.z_hat) for w in walks)
    last = walks[-1][3].images
    np.testing.assert_allclose(rows[rows.variant == variants[-1]].psnr, psnr(last, bench.truth), rtol=1e-5)


def test_with_a_mask_read_off_what_stands_at_dropped_pixels_does_not_matter(make):
    """Known masks: the walk gets y with the mask applied, and the mask as its operator."""
    m = make(MASKS).measurement
    x = torch.zeros_like(m.y)
    found = fit(m.y, x, m.degradation, 0.05, m.ids)
    keep = (m.y.abs() > 1.01 / 255 + 0.25).float()
    assert torch.equal(found.degradation.A(torch.ones_like(m.y), found.t, m.ids), keep)
    for k in range(len(m)):
        assert float(found.misfit[k]) == pytest.approx(float(m.y[k][keep[k] > 0].square().mean().sqrt()), rel=1e-5)


def test_the_kind_is_the_one_with_the_least_misfit(make):
    bench = make(BLUR)
    kinds = {"blur": BLUR, "masks": MASKS, "box": {"kind": "box_inpainting", "side_max": 0.9, "noise_std": 0.05}}
    rows = blind.kind_rows(bench, bench.encoder, kinds)
    assert rows.groupby("variant", sort=False).size().to_dict() == dict.fromkeys(kinds, 5)
    ids = split_ids("test", 5)
    for name, entry in kinds.items():
        operator, noise_std = build(entry)
        part = rows[rows.variant == name]
        y = measure(bench.truth, operator, torch.tensor(part.t.to_numpy()), noise_std, seed=0, ids=ids).y
        decoded = bench.prior.decode(bench.encoder.infer(y).z_hat).clamp(-1, 1)
        for k, found in enumerate(part.found):
            own = slice(k, k + 1)
            fits = {n: float(estimate_level(y[own], decoded[own], build(e)[0], ids[own])[1]) for n, e in kinds.items()}
            assert fits[found] == pytest.approx(min(fits.values()), rel=1e-4)
    assert blind.kind_rows(bench, bench.encoder, {}).empty


def test_shifts_are_what_they_say_and_nobody_is_told(make, splits, monkeypatch):
    bench, seen, few_step = make(BLUR), [], shift.few_step

    def spy(bench, choice):
        run = few_step(bench, choice)
        return lambda measurement, severity, title: (
            seen.append((title, choice, measurement)) or run(measurement, severity, title=title)
        )

    monkeypatch.setattr(shift, "few_step", spy)
    choice = setting(2)
    longer = shift.fallback(choice, SHIFT)
    assert longer["solver"]["walk"] == {**STEPS, "steps": 3} and longer["start"]["index"] == 7
    rows = shift.shift_rows(bench, bench.encoder, splits["validation"], SHIFT, choice, longer, {"masks": MASKS})
    test = rows[rows.split == "test"]
    assert test["shift"].unique().tolist() == ["none", "noise x 3", "masks"]
    assert test.groupby(["shift", "method"]).size().to_dict() == {
        (s, m): 5 if m == "none" else 2 for s in ("none", "noise x 3", "masks") for m in ("none", *shift.WALKS)
    }
    assert test.groupby("method").nfe.unique().map(list).to_dict() == {
        "none": [0], "ignored": [2], "told": [2], "fallback": [3]
    }  # fmt: skip
    assert rows[rows.split == "validation"].groupby("encoder").size().to_dict() == {"own": 6, "shipped": 6}
    by_title = {title: (choice, m) for title, choice, m in seen}
    for name, operator, noise in (("noise x 3", BLUR, 0.3), ("masks", MASKS, 0.05)):
        made, _ = build(operator)
        ignored, told = by_title[f"{name} ignored"][1], by_title[f"{name} told"][1]
        assert ignored.degradation == build(BLUR)[0] and ignored.noise_std == 0.1
        assert told.degradation == made and told.noise_std == pytest.approx(noise)
        assert torch.equal(ignored.y, told.y)
        assert torch.equal(told.t, bench.measurement.t[:2])
        expected = measure(bench.truth[:2], made, told.t, noise, seed=0, ids=told.ids).y
        torch.testing.assert_close(told.y, expected)


def test_the_misfit_is_in_units_of_the_assumed_noise(make):
    bench = make(BLUR)
    m = bench.measurement
    _, taken, columns = shift.signals(bench.prior, bench.encoder, m, bench.truth, m.degradation)
    decoded = bench.prior.decode(bench.severity.z_hat).clamp(-1, 1)
    residual = (m.y - m.degradation.A(decoded, taken.t, m.ids)).square().flatten(1).mean(1).sqrt()
    np.testing.assert_allclose(columns["misfit"], residual / 0.1, rtol=1e-4)


def test_unseen_classes_are_unseen(make, splits, monkeypatch, tmp_path):
    trained = []

    def spy(prior, operator, noise_std, images, *rest):
        trained.append(images)
        return SeverityEncoder.from_prior(prior).eval(), None

    monkeypatch.setattr(shift, "train_severity_encoder", spy)
    arguments = (splits["train"], splits["validation"], splits["test"], SEVERITY, ROBUSTNESS)
    rows = shift.unseen_rows(make(BLUR), *arguments, SHIFT, setting(2), setting(3), tmp_path / "c")
    assert [len(images) for images in trained] == [6, 4]
    assert len(rows[rows.split == "validation"]) == 4  # without labels 1 and 3
    groups = rows[(rows.split == "test") & (rows.method == "none")].groupby("shift").size()
    assert groups.to_dict() == {"seen classes": 4, "unseen classes": 2}
    assert set(rows[rows.method != "none"]["shift"]) == {"unseen classes"}
    without = {**SHIFT, "unseen": False}
    assert shift.unseen_rows(make(BLUR), *arguments, without, setting(2), setting(3), tmp_path / "c").empty


def test_the_table_for_commands_flags_as_p_values_do():
    rng = np.random.default_rng(0)
    head = {
        "encoder": "own",
        "shift": "none",
        "split": "validation",
        "method": "none",
        "nfe": 0,
        "t": 0.5,
        "level": 0.5,
    }
    columns = {"image": np.arange(100), "sigma_hat": rng.uniform(size=100), "misfit": rng.uniform(1, 2, 100)}
    rows = shift.record([pd.DataFrame(head | columns | {"sbar": 0.1, "psnr": 20.0})])
    table = shift.thresholds(rows, "blur", 0.1, 4, 0.1)
    assert list(table["encoders"]) == ["own"] and table["noise_std"] == 0.1
    own = reference(rows, "own", 4)
    limits = own.thresholds(0.1)
    new, misfit = rng.uniform(size=50), rng.uniform(1, 3, 50)
    assert np.array_equal(limits.flagged(new, misfit), own.p_value(new, misfit) <= 0.1)
    assert shift.thresholds(shift.record([]), "blur", 0.1, 4, 0.1)["encoders"] == {}


@pytest.mark.parametrize("room", [blind, shift], ids=lambda room: room.__name__)
def test_of_nothing_a_record_is_written_all_the_same(room, tmp_path):
    write_rows(room.record([]), tmp_path / "record.parquet")
    rows = read_rows(tmp_path / "record.parquet")
    assert rows.empty and list(rows) == list(room.COLUMNS)
