"""A measure and a start rule from outside: one entry each, and all of the report has them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import few_step_rows, ordering_rows, reconstruction_rows, severity_rows, timings

from flashdiff import figures
from flashdiff.degradations import build
from flashdiff.measures import MEASURES, Measure, optional
from flashdiff.measures.published import PublishedDistances
from flashdiff.report import frontier, headline, names, readme, sentences, summaries, tables
from flashdiff.report import page as report
from flashdiff.starts import STARTS, FixedStart, PublishedStart
from flashdiff.study import comparison, experiments, methods
from flashdiff.study.records import read_rows, write_json, write_rows

PAIR, BLUR = (
    ("gaussian_blur", "ldps"),
    {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 1.5, "radius": 4, "noise_std": 0.1},
)


def mean_absolute_error(images, truth, distances):
    return (images - truth).abs().flatten(1).mean(1).cpu().numpy()


@pytest.fixture
def mae(monkeypatch):
    """Another measure, lower is better."""
    measure = Measure("mae", "absolute error", "", "mae_gain", mean_absolute_error, higher_is_better=False)
    monkeypatch.setitem(MEASURES, "mae", measure)
    return measure


@dataclass(frozen=True)
class Halfway:
    """Another start rule."""

    def __call__(self, prior, severity, noise):
        return PublishedStart()(prior, severity, noise)


@pytest.fixture
def halfway(monkeypatch):
    monkeypatch.setitem(STARTS, "halfway", Halfway)


def collect(folder, rows, severity):
    """The records of a study of one pair whose metrics files are those of the rows."""
    degradation, item, reports = PAIR[0], "-".join(PAIR), folder / "reports"
    write_json(reports / f"metrics/ordering-{degradation}.json", summaries.ordering_metrics(ordering_rows()))
    write_json(reports / f"metrics/severity-{degradation}.json", summaries.severity_metrics(severity, 100))
    write_json(reports / f"metrics/reconstruction-{item}.json", summaries.reconstruction_metrics(rows, 100))
    few = few_step_rows().assign(**{name: 0.1 for name in MEASURES if name not in few_step_rows()})
    found = frontier.runs(few, rows, few[:0])
    write_json(reports / f"metrics/budgets-{item}.json", frontier.metrics(found, 100))
    write_json(reports / f"timings/speedup-{item}.json", summaries.speed_metrics(timings(rows)))
    return headline.collect(folder, "toy", [degradation], [PAIR])


# -------------------------------------------------------------------------------------------------------- a measure


def with_mae(rows):
    return rows.assign(mae=np.random.default_rng(0).uniform(0.1, 0.2, len(rows)))


def test_a_new_measure_is_measured(mae, tiny_prior, tiny_encoder, tmp_path):
    prior, encoder, x = tiny_prior.float(), tiny_encoder.float(), torch.rand(4, 1, 16, 16) * 2 - 1
    nothing, (operator, noise_std) = PublishedDistances(None, None), build(BLUR)
    severity, _ = experiments.severity_rows(prior, encoder, nothing, x, np.zeros(4), operator, noise_std, 0)
    assert (severity.mae > 0).all()
    bench = comparison.Bench.build(prior, encoder, nothing, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4)
    run = bench.flash(FixedStart(-1), {"solver": {"eta": 0.1}})(bench.measurement)
    rows, _ = comparison.tabulate(bench, {"no_diffusion": run})
    np.testing.assert_allclose(rows.mae, mean_absolute_error(run.images, x, nothing))
    write_rows(rows, tmp_path / "rows.parquet", optional())
    assert "mae" in read_rows(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="NaN in mae"):
        write_rows(rows.assign(mae=np.nan), tmp_path / "rows.parquet", optional())


def test_a_new_measure_is_in_tables_summaries_and_figures(mae):
    rows = with_mae(reconstruction_rows())
    mean = rows.groupby("method").mae.mean()
    quality = tables.quality_and_nfe(rows, 100).set_index("method")
    assert quality.mae["full_length"] == pytest.approx(mean["full_length"], 1e-5)
    assert quality.mae_low["full_length"] < mean["full_length"] < quality.mae_high["full_length"]
    paired = tables.paired_comparison(rows, "flash_consistent", "full_length", 100).loc[0]
    assert paired.mae_gain == pytest.approx(mean["full_length"] - mean["flash_consistent"], 1e-4)
    summary = summaries.reconstruction_metrics(rows, 100)
    assert summary["methods"]["full_length"]["mae"]["value"] == pytest.approx(mean["full_length"], 1e-5)
    assert summary["gains"]["flash_consistent"]["full_length"]["mae_gain"]["value"] == pytest.approx(paired.mae_gain)
    assert tables.comparisons({PAIR: summary}).set_index("method").mae["full_length"] == pytest.approx(
        mean["full_length"], 1e-5
    )
    against = tables.quality_against_baseline(rows, 100)
    for draw in (figures.quality_against_steps, figures.quality_of_methods):
        axis = draw(against).axes[2]
        assert "absolute error, lower is better" in (axis.get_xlabel(), axis.get_ylabel())
        assert axis.containers
    assert "mae" in set(tables.severity_correlations(with_mae(severity_rows()), 100)["sigma_hat against"])


def test_a_new_measure_is_claimed_and_on_the_page(mae, tmp_path):
    rows = with_mae(reconstruction_rows())
    records = collect(tmp_path, rows, severity_rows())
    gains = {r["start"]: r for r in records if r["claim"] == "mae_gain"}
    assert list(gains) == list(STARTS) and gains["published"]["unit"] == "absolute error"
    assert headline.label(gains["published"]) == "absolute error: baseline - Flash"
    labels = [headline.label(r) for r in records if r["claim"] == "random_start" and r["start"] == "published"]
    assert labels == [
        f"Flash against random starts: {what}" for what in ("PSNR", "perceptual distance", "absolute error")
    ]
    headline.write_summaries(records, tmp_path / "summary")
    assert '"mae_gain"' in (tmp_path / "summary/gaussian_blur-ldps.json").read_text()
    assert "| absolute error: baseline - Flash (published start) |" in readme.results_table(records)
    panels = [axis.get_xlabel() for axis in figures.gains_of_pairs(pd.DataFrame(records)).axes]
    assert panels[2:] == ["absolute error, decrease", "evaluations, baseline / Flash"]
    item = "-".join(PAIR)
    tables.save(tables.quality_and_nfe(rows, 100), tmp_path / "reports/tables", f"quality-{item}")
    paired = tables.paired_comparison(rows, "flash_published", "full_length", 100)
    tables.save(paired, tmp_path / "reports/tables", f"paired-{item}")
    text = report.assemble(tmp_path, "toy", [PAIR[0]], [PAIR]).read_text(encoding="utf-8")
    for words in (
        "<th>absolute error</th>",
        "<th>absolute error gain</th>",
        "<td>absolute error: baseline - Flash</td>",
    ):
        assert words in text
    assert " and absolute error is " in text and "perceptual distance is " in text


# ----------------------------------------------------------------------------------------------------- a start rule


def with_halfway(rows):
    """The rows of another study: halfway is tuned, and DDIM inversion is not."""
    return rows.assign(method=rows.method.str.replace("_inversion", "_halfway"))


def test_a_new_start_rule_has_names_of_its_own(halfway):
    assert names.label("flash_halfway") == "Flash, halfway start"
    assert names.label("shuffled_halfway") == "others' severities, halfway"
    assert names.label("random_halfway") == "random starts, halfway"
    taken = [names.colour(methods.flash_method(rule)) for rule in STARTS]
    assert len(set(taken)) == len(taken) == 4
    assert len({names.marker(m) for m in (*map(methods.flash_method, STARTS), "full_length")}) == 5
    assert methods.baselines("flash_halfway")[-2:] == ("shuffled_halfway", "random_halfway")


def test_a_new_start_rule_is_run_with_its_controls(halfway, tiny_prior, tiny_encoder):
    prior, encoder, x = tiny_prior.float(), tiny_encoder.float(), torch.rand(4, 1, 16, 16) * 2 - 1
    nothing = PublishedDistances(None, None)
    bench = comparison.Bench.build(prior, encoder, nothing, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4)
    chosen = {name: {"solver": {"eta": 0.1}, "start": {}} for name in ("flash_halfway", "full_length")}
    chosen |= {key: {"solver": {"eta": 0.1}, "start": {}} for key in ("fixed_mean", "fixed_fresh")}
    runs = {name: run for name, run, _ in comparison.methods(bench, chosen, [])}
    expected = [
        "no_diffusion",
        "flash_halfway",
        "fixed_mean",
        "fixed_fresh",
        "shuffled_halfway",
        "random_halfway",
        "full_length",
    ]
    assert list(runs) == expected and runs["random_halfway"].start == Halfway()


def test_a_new_start_rule_is_drawn_claimed_and_on_the_page(halfway, tmp_path):
    rows = with_halfway(reconstruction_rows())
    records = collect(tmp_path, rows, severity_rows())
    assert headline.starts(records) == ["published", "consistent", "halfway"]
    of_rule = {r["claim"] for r in records if r["start"] == "halfway"}
    assert of_rule == {r["claim"] for r in records if r["start"] == "published"}
    assert "with the halfway start Flash needs" in sentences.sentence(records, *PAIR)
    assert "(halfway start)" in readme.results_table(records)
    text = report.assemble(tmp_path, "toy", [PAIR[0]], [PAIR]).read_text(encoding="utf-8")
    assert "Flash, halfway start" in text and "inversion" not in text
    steps = figures.quality_against_steps(tables.quality_against_baseline(rows, 100))
    gains, clock = figures.gains_of_pairs(pd.DataFrame(records)), figures.wall_clock(tables.speed(timings(rows)))
    for figure in (steps, gains):
        assert "Flash, halfway start" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Flash, halfway start" in [text.get_text() for text in clock.axes[0].get_yticklabels()]
    assert "Flash, halfway start" in set(tables.headroom(rows, 100).start)


def test_where_there_is_room_for_one_rule_it_is_the_main_one_else_the_first(halfway):
    assert methods.main_rule(["published", "consistent"]) == methods.MAIN == "consistent"
    assert methods.main_rule(["published", "halfway"]) == "published"
    rows = with_halfway(reconstruction_rows())
    rows = rows[~rows.method.str.endswith(("_published", "_consistent"))]
    across = tables.across_solvers({PAIR: rows}, 100)
    assert across.psnr[0] == pytest.approx(rows[rows.method == "flash_halfway"].psnr.mean())
    with pytest.raises(ValueError, match="tune at least one start rule"):
        methods.main_rule([])
