"""Prediction intervals of a study: what calibrates them, what ships, and what is counted on test images."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from flashdiff.measures.features import Features
from flashdiff.measures.quality import psnr
from flashdiff.report import confidence as report
from flashdiff.severity import SeverityEncoder
from flashdiff.study import confidence, records
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import Bench
from flashdiff.trust import conformal, promises

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}
SECTION = {"n_images": 120, "walked": 60, "restored": 40, "evaluations": 3.0, "coverage": 0.8}


def choice(eta):
    walk = {"kind": "evenly_spaced", "steps": 3}
    return {
        "solver": {"kind": "ldps", "stochasticity": 0.0, "eta": eta, "walk": walk},
        "start": {"rule": "scaled", "share": 0.5},
    }


TUNED = {"3": {"adaptive": {"psnr": choice(0.1), "perceptual": choice(0.2)}, "fixed": {}}}


@pytest.fixture
def bench(tiny_prior):
    prior = tiny_prior.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(1, 2).eval()
    x = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoder = SeverityEncoder.from_prior(prior).eval()
    return Bench.build(prior, encoder, features, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4, split="validation")


def made_up(seed=0):
    """A record of three methods, whose PSNR falls with sigma_hat and whose distance rises."""
    rng, parts = np.random.default_rng(seed), []
    counts = {
        "no_diffusion": SECTION["n_images"],
        "few_step": SECTION["walked"],
        "few_step_perceptual": SECTION["restored"],
    }
    for number, (method, n) in enumerate(counts.items()):
        sigma_hat = rng.uniform(0.1, 0.9, n)
        columns = {
            "psnr": 28 + number - 8 * sigma_hat + rng.normal(0, 1, n),
            "perceptual": sigma_hat / 9 + 0.01 * rng.random(n),
        }
        head = {
            "method": method,
            "image": np.arange(n),
            "t": rng.random(n),
            "sigma_hat": sigma_hat,
            "nfe": 3 * (number > 0),
        }
        parts.append(pd.DataFrame(head | columns))
    return confidence.record(parts)


def test_rows_are_those_of_the_images_and_walks_one_by_one(bench, tmp_path):
    chosen = confidence.walks(TUNED, 3.0)
    rows = confidence.record(confidence.rows_of(bench, chosen, {"few_step": 5, "few_step_perceptual": 4}, tmp_path))
    assert rows.groupby("method", sort=False).size().to_dict() == {
        "no_diffusion": 6,
        "few_step": 5,
        "few_step_perceptual": 4,
    }
    told = bench.encoder.infer(bench.measurement.y)
    expected = {"no_diffusion": bench.prior.decode(told.z_hat).clamp(-1, 1)}
    for method, objective in (("few_step", "psnr"), ("few_step_perceptual", "perceptual")):
        expected[method] = few_step(bench, TUNED["3"]["adaptive"][objective])(bench.measurement, told).images
    for method, part in rows.groupby("method"):
        n = len(part)
        np.testing.assert_allclose(part.psnr, psnr(expected[method].detach()[:n], bench.truth[:n]), rtol=1e-4)
        np.testing.assert_allclose(part.sigma_hat, told.sigma_hat[:n], rtol=1e-5)
        assert part.image.tolist() == list(range(n)) and (part.nfe == (0 if method == "no_diffusion" else 3)).all()


def test_a_study_without_intervals_has_an_empty_record_and_ships_none(tmp_path):
    rows = confidence.measured(SECTION | {"n_images": 0}, {}, tmp_path)
    records.write_rows(rows, tmp_path / "record.parquet")
    assert list(records.read_rows(tmp_path / "record.parquet")) == list(confidence.COLUMNS) and rows.empty
    found = confidence.calibrated(rows, SECTION, {})
    assert found["intervals"] == {} and found["walks"] == {}
    records.write_json(tmp_path / "gaussian_blur-ldps.json", found)
    points, table = report.intervals_of(tmp_path, tmp_path, [("gaussian_blur", "ldps")])
    assert points.empty and report.by_thirds(table).empty
    assert report.sentence(report.by_thirds(table)) == "No intervals were calibrated."


def test_what_ships_is_calibrated_per_method_and_measure():
    rows = made_up()
    found = json.loads(json.dumps(confidence.calibrated(rows, SECTION, TUNED), allow_nan=False))
    assert found["walks"] == confidence.walks(TUNED, 3.0) and found["coverage"] == 0.8
    for method, part in rows.groupby("method"):
        for measure, rises in (("psnr", False), ("perceptual", True)):
            shipped = dict(found["intervals"][method][measure])
            lowest = {"psnr": -np.inf, "perceptual": 0.0}[measure]
            columns = part.sigma_hat.to_numpy(float), part[measure].to_numpy(float)
            expected, width = conformal.chosen(*columns, 0.8, rises=rises, lowest=lowest)
            assert shipped.pop("width") == width and shipped == expected.to_dict()
            assert (np.diff(shipped["centre"]) > 0).all() == rises


@pytest.fixture
def folder(tmp_path):
    """A study's folder with shipped intervals, and test results that lie where nobody can mistake them."""
    rows = made_up()
    records.write_json(
        tmp_path / promises.FOLDER / "gaussian_blur-ldps.json", confidence.calibrated(rows, SECTION, TUNED)
    )
    tests = made_up(seed=1)
    decoded, walked = tests[tests.method == "no_diffusion"], []
    for method, objective in (("few_step", "psnr"), ("few_step_perceptual", "perceptual")):
        part = tests[tests.method == method].assign(budget=3.0, tuned_for=objective, method="adaptive")
        walked += [part, part.assign(budget=6.0, psnr=99.0), part.assign(method="fixed", psnr=99.0)]
    records.write_rows(decoded, tmp_path / "data/results/severity-gaussian_blur.parquet")
    records.write_rows(pd.concat(walked), tmp_path / "data/results/budgets-gaussian_blur-ldps.parquet")
    return tmp_path


def test_test_images_are_counted_with_exact_intervals(folder):
    points, table = report.intervals_of(folder / promises.FOLDER, folder / "data/results", [("gaussian_blur", "ldps")])
    assert points.psnr.max() < 99 and len(points) == SECTION["n_images"] + SECTION["walked"] + SECTION["restored"]
    found = report.by_thirds(table).set_index(["of", "measure"])
    shipped = json.loads((folder / promises.FOLDER / "gaussian_blur-ldps.json").read_text())
    for method, words in report.METHODS.items():
        part = points[points.method == method]
        interval = conformal.Interval.from_dict(shipped["intervals"][method]["psnr"])
        held = conformal.covered(interval, part.sigma_hat.to_numpy(), part.psnr.to_numpy())
        row = found.loc[words, "psnr"]
        assert row.held == pytest.approx(held.mean()) and row.images == len(part) and row.promised == 0.8
        for third, name in enumerate(("easiest", "middle", "hardest")):
            at = conformal.group(part.sigma_hat.to_numpy(), interval.edges) == third
            assert row[f"held_{name}_third"] == pytest.approx(held[at].mean())
        # the ends of Clopper and Pearson by their definition: there, so few or so many have a probability of 2.5%
        law = functools.partial(scipy.stats.binom, len(part))
        assert law(row.held_high).cdf(held.sum()) == pytest.approx(0.025, rel=1e-6)
        assert law(row.held_low).sf(held.sum() - 1) == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize(
    ("held", "low", "high", "expected"),
    [
        (0.90, 0.85, 0.94, "1 of 1 shares over all images and 3 of 3 over thirds lie within 88% to 92%"),
        (0.92, 0.85, 0.94, "1 of 1 shares over all images and 3 of 3"),
        (0.93, 0.91, 0.95, "0 of 1 shares over all images and 0 of 3"),
        (0.70, 0.60, 0.80, "Outside beyond the chance of the test images: gaussian blur, D(ẑ), psnr, all (70.0%); "),
        (0.93, 0.91, 0.95, "Outside beyond the chance of the test images: none."),
    ],
)
def test_the_sentence_follows_from_the_table(held, low, high, expected):
    shares = {f"{c}{end}": v for c in report.COLUMN.values() for end, v in (("", held), ("_low", low), ("_high", high))}
    head = {"degradation": "gaussian_blur", "of": "D(ẑ)", "measure": "psnr", "promised": 0.9}
    assert expected in report.sentence(pd.DataFrame([head | shares]))


def test_the_intervals_of_a_degradation_and_of_a_walk_are_found(folder):
    pairs = {"gaussian_blur-ldps": type("Pair", (), {"degradation": "gaussian_blur"})()}
    found = promises.shipped(folder, pairs, "gaussian_blur")
    assert (
        promises.shipped(folder, pairs, "random_inpainting") is None
        and promises.shipped(folder, {}, "gaussian_blur") is None
    )
    assert (
        promises.of_walk(found, choice(0.1)) == "few_step"
        and promises.of_walk(found, choice(0.2)) == "few_step_perceptual"
    )
    assert promises.of_walk(found, choice(0.3)) is None and promises.of_walk(None, choice(0.1)) is None
    low, high = promises.psnr_interval(found, "few_step", 0.5)
    expected = conformal.Interval.from_dict(found["intervals"]["few_step"]["psnr"])(0.5)
    assert (low, high) == expected and low < high
    assert promises.psnr_interval(found, None, 0.5) is None and promises.psnr_interval(None, "few_step", 0.5) is None
    found["intervals"]["few_step"]["psnr"]["half_widths"] = [None] * 3
    assert promises.psnr_interval(found, "few_step", 0.5) is None
