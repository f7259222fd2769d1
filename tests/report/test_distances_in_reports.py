"""A study's reports name what measured its distances, and say where nothing did."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from synthetic import few_step_rows, reconstruction_rows, severity_rows, timings

from flashdiff import figures
from flashdiff.degradations import build
from flashdiff.measures import optional
from flashdiff.measures.published import PublishedDistances
from flashdiff.report import frontier, headline, readme, summaries, tables
from flashdiff.report import page as report
from flashdiff.report.names import distance_names
from flashdiff.starts import FixedStart
from flashdiff.study import comparison, experiments, records
from flashdiff.study import schema as study
from flashdiff.study.records import write_json

ROOT = Path(__file__).parents[2]
PAIR = ("gaussian_blur", "ldps")
NOTHING = PublishedDistances(None, None)
LPIPS, FID = "LPIPS (VGG)", "FID (Inception, 10 images)"
NAMES = {"perceptual": LPIPS, "frechet": FID}
SUMMARY = {
    key: {"value": 0.9, "low": 0.8, "high": 1.0, "n": 10} for key in ("ordering_accuracy", "ordering_accuracy_strict")
}
BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 1.5, "radius": 4, "noise_std": 0.1}


def strict(path):
    """A JSON file read by the letter: NaN and Infinity are none."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def write_study(folder, measured, kind="published"):
    """What the stages hand to the report, from synthetic rows whose perceptual distance was measured or not."""
    rows, severity, few = reconstruction_rows(), severity_rows(), few_step_rows()
    if not measured:
        rows["perceptual"] = severity["perceptual"] = few["perceptual"] = np.nan
    summary = summaries.reconstruction_metrics(rows, 100, distances=kind)
    images = {method: np.zeros((10, 1, 16, 16), np.float32) for method in rows.method.unique()}
    frechet = comparison.frechet_distances(NOTHING, torch.zeros(10, 1, 16, 16), images)
    if measured:
        frechet = {method: {"value": 12.5, "n": 10} for method in images}
    reports, (degradation, _), item = folder / "reports", PAIR, "-".join(PAIR)
    write_json(reports / f"metrics/ordering-{degradation}.json", SUMMARY)
    write_json(
        reports / f"metrics/severity-{degradation}.json", summaries.severity_metrics(severity, 100, distances=kind)
    )
    write_json(reports / f"metrics/reconstruction-{item}.json", summary | {"frechet": frechet})
    budgets = frontier.metrics(frontier.runs(few, rows, few[:0]), 100, distances=kind)
    write_json(reports / f"metrics/budgets-{item}.json", budgets)
    tables.save(frontier.budget_table(budgets), reports / "tables", f"budgets-{item}")
    tables.save(frontier.gain_table(budgets), reports / "tables", f"budget_gains-{item}")
    write_json(reports / f"timings/speedup-{item}.json", summaries.speed_metrics(timings()))
    tables.save(tables.severity_correlations(severity, 100), reports / "tables", f"severity_correlations-{degradation}")
    tables.save(tables.quality_and_nfe(rows, 100), reports / "tables", f"quality-{item}")
    paired = tables.paired_comparison(rows, "flash_published", "full_length", 100)
    tables.save(paired, reports / "tables", f"paired-{item}")
    return report.assemble(folder, "toy", [degradation], [PAIR]).read_text(encoding="utf-8")


def gains(folder):
    records = headline.collect(folder, "toy", [PAIR[0]], [PAIR])
    return [r for r in records if r["unit"] == "relative"], [r for r in records if r["unit"] != "relative"]


def test_a_study_with_published_distances_says_lpips_and_fid(tmp_path):
    page = write_study(tmp_path, measured=True)
    assert f"<th>{LPIPS}</th>" in page and f"<th>{LPIPS} gain (relative)</th>" in page and f"<th>{FID}</th>" in page
    assert f"<td>{LPIPS}: decrease against the baseline</td>" in page and f"<td>{LPIPS} of D(ẑ)</td>" in page
    assert f"<td>Flash against random starts: {LPIPS}</td>" in page and f"{LPIPS} is better by" in page
    assert f"{FID}: 2048 features" in page and "12.50" in page
    assert "perceptual" not in page.lower() and "{" not in page.partition("</style>")[2]
    of_distance, others = gains(tmp_path)
    assert {r["distance"] for r in of_distance} == {LPIPS} and {r["distance"] for r in others} == {None}
    assert f"| {LPIPS}: decrease against the baseline (published start) |" in readme.results_table(of_distance + others)


def test_a_study_with_its_own_features_never_says_lpips_or_fid_of_its_numbers(tmp_path):
    page = write_study(tmp_path, measured=True, kind="features")
    assert page.count("LPIPS") == page.count("neither LPIPS nor FID") == page.count("FID") == 1
    for name in ("<th>perceptual distance</th>", "<th>Frechet distance</th>", "<td>perceptual distance of D(ẑ)</td>"):
        assert name in page
    assert {r["distance"] for r in gains(tmp_path)[0]} == {"perceptual distance"}


@pytest.mark.parametrize("kind", ["published", "features"])
def test_what_was_not_measured_is_said_and_the_rest_is_there(tmp_path, kind):
    write_study(tmp_path / "measured", measured=True, kind=kind)
    page = write_study(tmp_path / "not", measured=False, kind=kind)
    name = distance_names(kind, 10)["perceptual"]
    assert page.count(f"{name} was not measured") == 3 and ">nan" not in page.lower() and "None" not in page
    assert (
        page.count("<td>not measured</td>") >= 12 + 1 + 3 + 8
    )  # quality, paired, correlations, comparisons' two columns
    (distance, others), (_, expected) = gains(tmp_path / "not"), gains(tmp_path / "measured")
    both = [r["claim"] for r in others].index("nfe_ratio_100")  # a claim of both measures is not tested by one
    assert others.pop(both)["verdict"] == "not tested" and expected.pop(both)["verdict"] == "reproduced"
    assert others == expected
    for r in distance:
        assert (r["verdict"], r["value"], r["low"], r["high"], r["n"]) == ("not tested", None, None, None, None)
    headline.write(distance + others, tmp_path / "headline.json")
    headline.write_summaries(distance + others, tmp_path / "summary")
    for path in [*tmp_path.rglob("*.json")]:
        strict(path)
    for path in (tmp_path / "not/reports/tables").iterdir():
        assert "nan" not in path.read_text().lower().replace("distance", ""), path


def test_a_table_without_the_distance_keeps_its_other_columns():
    rows = reconstruction_rows()
    for make in (
        lambda rows: tables.quality_and_nfe(rows, 100),
        lambda rows: tables.quality_against_baseline(rows, 100),
        lambda rows: tables.paired_comparison(rows, "flash_consistent", "full_length", 100),
    ):
        whole, part = make(rows), make(rows.assign(perceptual=np.nan))
        gone = [column for column in whole if column.startswith("perceptual")]
        assert len(gone) == 3 and part[gone].isna().all(axis=None) and part[gone].select_dtypes(float).shape[1] == 3
        pd.testing.assert_frame_equal(part.drop(columns=gone), whole.drop(columns=gone))


def test_rows_may_lack_the_distance_altogether_and_nothing_else(tmp_path):
    rows, path = reconstruction_rows(), tmp_path / "rows.parquet"
    records.write_rows(rows.assign(perceptual=np.nan), path, optional())
    assert records.read_rows(path, len(rows)).perceptual.isna().all()
    with pytest.raises(ValueError, match="NaN in psnr; an image"):
        records.write_rows(rows.assign(perceptual=np.nan, psnr=np.nan), tmp_path / "broken.parquet", optional())
    rows.loc[3, "perceptual"] = np.nan
    with pytest.raises(ValueError, match="NaN in perceptual; an image"):
        records.write_rows(rows, tmp_path / "broken.parquet", optional())
    assert not (tmp_path / "broken.parquet").exists()


@pytest.mark.parametrize("draw", [figures.quality_against_steps, figures.quality_of_methods])
def test_figures_name_the_distance_or_say_that_it_was_not_measured(draw, tmp_path):
    def make(rows, *name):
        return draw(tables.quality_against_baseline(rows, 100), *name)

    rows = reconstruction_rows()
    for given, measured in ((rows, True), (rows.assign(perceptual=np.nan), False)):
        left, right = make(given, NAMES).axes
        said = [[text.get_text() for text in axis.texts] for axis in (left, right)]
        assert said == [[], [] if measured else ["not measured"]]
        assert f"{LPIPS}, lower is better" in (right.get_xlabel(), right.get_ylabel())
    figures.save(make(rows.assign(perceptual=np.nan), NAMES), tmp_path, "figure")  # drawing must not warn either
    assert "perceptual distance, lower is better" in (make(rows).axes[1].get_xlabel(), make(rows).axes[1].get_ylabel())


def test_gains_of_pairs_have_the_name_of_the_distance(tmp_path):
    write_study(tmp_path, measured=False)
    of_distance, others = gains(tmp_path)
    figure = figures.gains_of_pairs(pd.DataFrame(of_distance + others), NAMES)
    assert figure.axes[1].get_xlabel() == f"{LPIPS}, decrease (%)"
    figures.save(figure, tmp_path, "gains_of_pairs")


def test_a_comparison_without_distances_has_everything_else(tiny_prior, tiny_encoder):
    prior, encoder, x = tiny_prior.float(), tiny_encoder.float(), torch.rand(4, 1, 16, 16) * 2 - 1
    bench = comparison.Bench.build(prior, encoder, NOTHING, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4)
    run = bench.flash(FixedStart(-1), {"solver": {"eta": 0.1}})(bench.measurement)
    rows, _ = comparison.tabulate(bench, {"no_diffusion": run})
    assert rows.perceptual.isna().all() and rows.drop(columns="perceptual").notna().all(axis=None)
    operator, noise_std = build(BLUR)
    rows, _ = experiments.severity_rows(prior, encoder, NOTHING, x, np.zeros(4), operator, noise_std, 0)
    assert rows.perceptual.isna().all() and rows.drop(columns="perceptual").notna().all(axis=None)


def test_images_that_vgg_cannot_halve_four_times_are_refused():
    content = study.load(ROOT / "params.yaml").model_dump(mode="json")
    content["reconstruction"]["distances"] = "published"
    assert study.Study.model_validate(content).reconstruction.distances == "published"
    content["data"] |= {"name": "own", "images": "pictures", "image_size": 12}
    with pytest.raises(ValidationError, match=r"reconstruction\.distances: published needs images of 16 x 16"):
        study.Study.model_validate(content)
