"""Claims: every one is there, its verdict follows its rule, and the file is strict JSON."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from synthetic import (
    few_step_rows,
    interval,
    ordering_rows,
    reconstruction_rows,
    seed_rows,
    severity_rows,
    timings,
    write_metrics,
)

from flashdiff.report import headline, readme
from flashdiff.starts import STARTS
from flashdiff.study import records as files

KEYS = ["claim", "study", "degradation", "solver", "start", "budget", "value", "low", "high", "n", "unit", "distance", "measure", "verdict",
        "kind", "in_words"]  # fmt: skip
OF_ENCODER = ["ordering_accuracy", "ordering_accuracy_strict", "spearman_level", "spearman_error", "calibration_ratio",
              "encoder_error_clean", "encoder_cost", "start_spread"]  # fmt: skip
OF_START = [
    "mean_start",
    "nfe_ratio",
    "psnr_gain_db",
    "frame_psnr_gain_db",
    "ssim_gain",
    "perceptual_gain",
    "wall_clock_ratio",
]
OF_BUDGET = ["adaptive_vs_best_fixed_few", "regret_to_oracle"]
CONTROLS = ["adaptive_vs_best_fixed", "adaptive_vs_fresh_fixed", "shuffled_severity", "random_start"]


def strict(text):
    """The JSON text read by the letter: NaN and Infinity are none."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# ------------------------------------------------------------------------------------------------------ collecting


def test_every_claim_is_there_for_every_degradation_and_solver(tmp_path):
    degradations, solvers = ["gaussian_blur", "random_inpainting"], ["ldps", "other"]
    write_metrics(tmp_path, degradations, solvers)
    records = headline.collect(tmp_path, "toy", degradations, list(itertools.product(degradations, solvers)))
    expected = {(claim, None) for claim in OF_ENCODER}
    expected |= {(claim, start) for claim in [*OF_START, *CONTROLS] for start in STARTS}
    expected |= {(claim, None) for claim in ["nfe_ratio_100", *OF_BUDGET]}
    assert {claim for claim, _ in expected} == set(headline.rules())
    for degradation in degradations:
        for solver in solvers:
            part = [r for r in records if (r["degradation"], r["solver"]) == (degradation, solver)]
            assert {(r["claim"], r["start"]) for r in part} == expected
            for claim, start in expected:
                units = [r["unit"] for r in part if (r["claim"], r["start"]) == (claim, start)]
                several = 2 if claim in OF_BUDGET else 1
                assert units == ["dB", "relative"] * several if claim in CONTROLS + OF_BUDGET else len(units) == 1
            budgets = {claim: [r["budget"] for r in part if r["claim"] == claim] for claim in OF_BUDGET}
            assert budgets == {claim: [3, 3, 6, 6] for claim in OF_BUDGET}
    assert len(records) == 4 * (8 + 3 * (7 + 2 * 4) + 1 + 2 * 2 * 2)
    for record in records:
        assert list(record) == KEYS and record["study"] == "toy"
        assert record["verdict"] in {"reproduced", "not reproduced", "not tested"}


def test_a_degradation_without_a_solver_has_the_claims_of_its_encoder(tmp_path):
    write_metrics(tmp_path, ["gaussian_blur", "mixture"])
    records = headline.collect(tmp_path, "toy", ["gaussian_blur", "mixture"], [("gaussian_blur", "ldps")])
    alone = [r for r in records if r["degradation"] == "mixture"]
    assert [r["claim"] for r in alone] == OF_ENCODER and {r["solver"] for r in alone} == {None}
    assert len(records) == 8 + 52 + 10
    assert {"", "LDPS"} == set(headline.to_frame(records).solver)
    assert readme.results_table(records).splitlines()[0].endswith("| gaussian blur, LDPS | mixture |")
    assert readme.results_table(records).count("| |") == 0 and " - |" in readme.results_table(records)


def test_values_are_those_of_the_rows(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    rows, severity, seconds = reconstruction_rows(), severity_rows(), timings()

    def of(claim, start=None, unit=None):
        (found,) = [r for r in records if (r["claim"], r["start"]) == (claim, start) and unit in (None, r["unit"])]
        return found

    assert of("calibration_ratio")["value"] == pytest.approx(severity.sigma_hat.mean() / severity.sbar.mean(), 1e-5)
    assert of("spearman_level")["value"] == pytest.approx(
        severity[["sigma_hat", "t"]].corr("spearman").iloc[0, 1], 1e-5
    )
    assert of("spearman_error")["value"] == pytest.approx(
        severity[["sigma_hat", "sbar"]].corr("spearman").iloc[0, 1], 1e-5
    )
    sigma = ordering_rows().sigma_hat.to_numpy().reshape(12, 5)
    pairs = [sigma[:, i] <= sigma[:, j] for i in range(5) for j in range(i + 1, 5)]
    assert (
        of("ordering_accuracy")["value"] == pytest.approx(np.mean(pairs), 1e-5) and of("ordering_accuracy")["n"] == 12
    )
    by = {method: part.reset_index(drop=True) for method, part in rows.groupby("method")}
    full = by["full_length"]
    for start, method in ((start, f"flash_{start}") for start in STARTS):
        ours = by[method]
        assert of("mean_start", start)["value"] == pytest.approx(ours.start.mean(), 1e-5)
        assert of("mean_start", start)["low"] < ours.start.mean() < of("mean_start", start)["high"]
        assert of("mean_start", start)["n"] == 10
        assert of("nfe_ratio", start)["value"] == pytest.approx(1000 / ours.nfe.mean(), 1e-5)
        assert of("psnr_gain_db", start)["value"] == pytest.approx((ours.psnr - full.psnr).mean(), 1e-4)
        assert of("ssim_gain", start)["value"] == pytest.approx((ours.ssim - full.ssim).mean(), 1e-4)
        decrease = 1 - ours.perceptual.mean() / full.perceptual.mean()
        assert of("perceptual_gain", start)["value"] == pytest.approx(decrease, 1e-4)
        ratio = seconds["full_length"]["seconds"] / seconds[method]["seconds"]
        assert of("wall_clock_ratio", start)["value"] == pytest.approx(ratio, 1e-5)
        assert of("wall_clock_ratio", start)["low"] is None and of("wall_clock_ratio", start)["n"] == 10
        controls = dict(
            zip(CONTROLS, ("fixed_mean", "fixed_fresh", f"shuffled_{start}", f"random_{start}"), strict=True)
        )
        for claim, baseline in controls.items():
            theirs = by[baseline]
            assert of(claim, start, "dB")["value"] == pytest.approx((ours.psnr - theirs.psnr).mean(), 1e-4)
            decrease = 1 - ours.perceptual.mean() / theirs.perceptual.mean()
            assert of(claim, start, "relative")["value"] == pytest.approx(decrease, 1e-4)


def test_claims_of_few_steps_are_those_of_the_rows(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    few = [few_step_rows(), seed_rows()]
    for r in records:
        if r["claim"] not in OF_BUDGET:
            continue
        pair = ("oracle", "adaptive") if r["claim"] == "regret_to_oracle" else ("adaptive", "fixed")
        rows = pd.concat(few[:1] if r["claim"] == "regret_to_oracle" else few)  # the oracle is of one seed
        tuned_for = "psnr" if r["claim"] == "regret_to_oracle" else r["measure"]
        rows = rows[(rows.budget == r["budget"]) & (rows.tuned_for == tuned_for)]
        better, worse = (rows[rows.method == method][r["measure"]].mean() for method in pair)
        expected = better - worse if r["measure"] == "psnr" else 1 - better / worse
        assert r["value"] == pytest.approx(expected, rel=1e-4) and r["low"] < expected < r["high"] and r["n"] == 10
    (ratio,) = [r for r in records if r["claim"] == "nfe_ratio_100"]
    assert (ratio["value"], ratio["budget"], ratio["measure"]) == (pytest.approx(1000 / 3.5, rel=1e-5), 3, None)
    assert ratio["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("tested", "verdict", "text"), [(True, "not reproduced", "none"), (False, "not tested", "not measured")]
)
def test_no_winner_at_any_budget_is_not_reproduced_and_no_measurement_not_tested(tmp_path, tested, verdict, text):
    write_metrics(tmp_path)
    path = tmp_path / "reports/metrics/budgets-gaussian_blur-ldps.json"
    content = files.read_json(path)
    content["nfe_ratio_100"] = dict.fromkeys(content["nfe_ratio_100"]) | {"tested": tested}
    files.write_json(path, content)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    (found,) = [r for r in records if r["claim"] == "nfe_ratio_100"]
    assert list(found) == KEYS and found["value"] is None and found["budget"] is None
    assert found["verdict"] == verdict and headline.describe(found) == text


@pytest.mark.parametrize(
    "missing",
    [
        "metrics/ordering-gaussian_blur",
        "metrics/severity-gaussian_blur",
        "metrics/reconstruction-gaussian_blur-ldps",
        "metrics/budgets-gaussian_blur-ldps",
        "timings/speedup-gaussian_blur-ldps",
    ],
)
def test_a_missing_metrics_file_is_named_with_its_remedy(tmp_path, missing):
    write_metrics(tmp_path)
    path = tmp_path / f"reports/{missing}.json"
    path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    assert str(error.value) == f"{path}: not there; run `make study`, whose earlier stage writes it."


# -------------------------------------------------------------------------------------------------------- verdicts

EDGES = [
    ("ordering_accuracy", interval(0.98, 0.97, 1.0), True),
    ("ordering_accuracy", interval(0.98, 0.9699, 1.0), False),
    ("ordering_accuracy_strict", interval(0.98, 0.97, 1.0), True),
    ("ordering_accuracy_strict", interval(0.98, 0.9699, 1.0), False),
    ("encoder_error_clean", interval(0.1, 0.09, 0.1199), True),
    ("encoder_error_clean", interval(0.1, 0.09, 0.12), False),
    ("start_spread", interval(12.0, 10.0, 14.0), True),
    ("start_spread", interval(12.0, 9.999, 14.0), False),
    ("spearman_level", interval(0.7, 0.501, 0.9), True),
    ("spearman_level", interval(0.7, 0.5, 0.9), False),
    ("spearman_error", interval(0.87, 0.85, 0.9), True),
    ("spearman_error", interval(0.87, 0.8499, 0.9), False),
    ("calibration_ratio", interval(1.0, 0.9, 1.1), True),
    ("calibration_ratio", interval(1.0, 0.8999, 1.1), False),
    ("calibration_ratio", interval(1.0, 0.9, 1.1001), False),
    ("nfe_ratio", interval(8.5, 8.0, 9.0), True),
    ("nfe_ratio", interval(8.5, 7.999, 9.0), False),
    ("nfe_ratio_100", interval(83.0, 80.0, 86.0), True),
    ("nfe_ratio_100", interval(83.0, 79.999, 86.0), False),
    ("wall_clock_ratio", interval(8.0), True),
    ("wall_clock_ratio", interval(7.999), False),
]
GAINS = ["psnr_gain_db", "frame_psnr_gain_db", "ssim_gain", "perceptual_gain", *CONTROLS, "adaptive_vs_best_fixed_few"]
EDGES += [(claim, interval(0.2, 1e-6, 0.4), True) for claim in GAINS]
EDGES += [(claim, interval(0.2, 0.0, 0.4), False) for claim in GAINS]
EDGES += [(claim, interval(0.2, -0.1, 0.4), False) for claim in GAINS]
EDGES += [(claim, interval(-0.2, -0.4, -0.1), False) for claim in GAINS]


@pytest.mark.parametrize(("claim", "measured", "reproduced"), EDGES)
def test_verdicts_at_the_edge_of_their_rules(claim, measured, reproduced):
    record = headline.record(claim, "toy", "blur", "ldps", measured, start="published")
    assert record["verdict"] == ("reproduced" if reproduced else "not reproduced")
    assert {key: record[key] for key in measured} == measured


def test_every_rule_has_an_edge_above_or_is_only_described():
    tested = {claim for claim, _, _ in EDGES}
    assert {claim for claim, rule in headline.rules().items() if rule.reproduced} == tested
    record = headline.record("mean_start", "toy", "blur", "ldps", interval(60.0, 50.0, 70.0))
    assert record["verdict"] == "not tested" and record["value"] == 60


@pytest.mark.parametrize(
    "measured",
    [
        None,
        {},
        interval(None),
        interval(float("nan"), float("nan"), float("nan")),
        interval(float("inf"), 1.0, 2.0),
        interval(0.99, float("nan"), 1.0),
    ],
)
@pytest.mark.parametrize("claim", headline.rules())
def test_what_was_not_measured_is_not_tested_and_not_half_reported(claim, measured):
    record = headline.record(claim, "toy", "blur", "ldps", measured)
    assert list(record) == KEYS and record["verdict"] == "not tested"
    assert [record[key] for key in ("value", "low", "high", "n")] == [None] * 4


# ------------------------------------------------------------------------------------------------ the file and texts


def test_the_file_reads_back_as_it_was_written(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    path = tmp_path / "headline.json"
    headline.write(records, path)
    text = path.read_text(encoding="utf-8")
    assert strict(text) == records and json.loads(text) == records
    assert len(text.splitlines()) == len(records) + 2 and text.endswith("]\n")


def test_nan_in_a_metrics_file_does_not_reach_the_headline(tmp_path):
    write_metrics(tmp_path)
    path = tmp_path / "reports/metrics/severity-gaussian_blur.json"
    content = files.read_json(path)
    content["spearman_error"]["value"] = float("nan")
    files.write_json(path, content)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    headline.write(records, tmp_path / "headline.json")
    (found,) = [r for r in strict((tmp_path / "headline.json").read_text()) if r["claim"] == "spearman_error"]
    assert found["value"] is None and found["verdict"] == "not tested"


def test_a_record_that_is_no_strict_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        headline.write([{"value": float("nan")}], tmp_path / "headline.json")
    assert not (tmp_path / "headline.json").exists()


@pytest.mark.parametrize(
    ("claim", "measured", "text"),
    [
        ("psnr_gain_db", interval(1.234, 1.01, 1.4), "1.23 dB [1.01, 1.40]"),
        ("psnr_gain_db", interval(-0.5, -0.61, -0.399), "-0.500 dB [-0.610, -0.399]"),
        ("ssim_gain", interval(0.0456, 0.04, 0.051), "0.046 [0.040, 0.051]"),
        ("perceptual_gain", interval(0.1234, 0.1, 0.15), "12.3% [10.0, 15.0]"),
        ("perceptual_gain", interval(-0.0512, -0.06, -0.04), "-5.12% [-6.00, -4.00]"),
        ("ordering_accuracy", interval(0.98765, 0.98, 0.99), "0.988 [0.980, 0.990]"),
        ("nfe_ratio", interval(12.345, 11.0, 13.0), "12.3 [11.0, 13.0]"),
        ("wall_clock_ratio", interval(9.5), "9.50"),
        ("mean_start", interval(62.5, 60.0, 65.0), "62.5 [60.0, 65.0]"),
        ("psnr_gain_db", None, "not measured"),
    ],
)
def test_values_in_words(claim, measured, text):
    assert headline.describe(headline.record(claim, "toy", "blur", "ldps", measured)) == text


def test_the_table_tells_the_two_comparisons_of_a_control_apart(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    table = headline.to_frame(records)
    assert len(table) == len(records) and not table.duplicated(["degradation", "solver", "start", "claim"]).any()
    assert "Flash against random starts: PSNR" in set(table.claim)
    assert "Flash against random starts: perceptual distance" in set(table.claim)
    assert set(table[table.claim == "mean start index"].verdict) == {"described"}
    assert set(table.degradation) == {"gaussian blur"}


def test_the_table_keeps_whole_numbers_where_one_is_missing():
    records = [headline.record("ssim_gain", "toy", "blur", "ldps", m) for m in (interval(0.1, 0.05, 0.2), None)]
    table = headline.to_frame(records)
    assert [str(n) for n in table.n] == ["32", "<NA>"] and list(table.value) == ["0.100 [0.050, 0.200]", "not measured"]


def test_summaries_hold_the_values_of_their_pair_and_no_seconds(tmp_path):
    degradations = ["gaussian_blur", "random_inpainting"]
    write_metrics(tmp_path, degradations)
    records = headline.collect(tmp_path, "toy", degradations, [(d, "ldps") for d in degradations])
    headline.write_summaries(records, tmp_path / "summary")
    assert {path.stem for path in (tmp_path / "summary").iterdir()} == {f"{name}-ldps" for name in degradations}
    for degradation in degradations:
        found = strict((tmp_path / f"summary/{degradation}-ldps.json").read_text())
        expected = {start: {} for start in STARTS}
        for r in records:
            if r["degradation"] == degradation and r["claim"] in [*OF_ENCODER, *OF_START[:-1], "nfe_ratio_100"]:
                (expected[r["start"]] if r["start"] else expected)[r["claim"]] = r["value"]
        few = [r for r in records if (r["claim"], r["degradation"]) == (OF_BUDGET[0], degradation)]
        expected[OF_BUDGET[0]] = {
            f"{budget:g}": {r["measure"]: r["value"] for r in few if r["budget"] == budget} for budget in (3, 6)
        }
        assert found == expected and "wall_clock_ratio" not in str(found)


def test_summaries_of_what_the_study_no_longer_has_are_removed(tmp_path):
    degradations = ["gaussian_blur", "random_inpainting"]
    write_metrics(tmp_path, degradations)
    for kept in (degradations, degradations[:1]):
        records = headline.collect(tmp_path, "toy", kept, [(d, "ldps") for d in kept])
        headline.write_summaries(records, tmp_path / "summary")
        assert sorted(path.name for path in (tmp_path / "summary").iterdir()) == [f"{d}-ldps.json" for d in kept]


def test_the_readme_table_has_a_column_per_pair_and_replaces_the_one_before(tmp_path):
    degradations = ["gaussian_blur", "random_inpainting"]
    write_metrics(tmp_path, degradations)
    records = headline.collect(tmp_path, "toy", degradations, [(d, "ldps") for d in degradations])
    begin, end = "<!-- results:begin -->\n", "<!-- results:end -->\n"
    table = readme.results_table(records)
    text = readme.with_table(f"above\n{begin}old\n{end}below\n", "results", table)
    assert text == f"above\n{begin}{table}{end}below\n"
    assert readme.with_table(text, "results", table) == text
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert (
        lines[0][1:] == ["gaussian blur, LDPS", "random inpainting, LDPS"] and len(lines) == 2 + 8 + 3 * 7 + 1 + 2 * 2
    )
    cells = {line[0]: line[1:] for line in lines}
    for r in records:
        if r["claim"] in [*OF_ENCODER, *OF_START, "nfe_ratio_100", OF_BUDGET[0]]:
            label = headline.label(r) + (f" ({r['start']} start)" if r["start"] else "")
            assert cells[label][degradations.index(r["degradation"])] == headline.describe(r)


def test_the_gains_table_is_bold_where_chance_does_not_explain_the_gain():
    def gain(degradation, solver, start, *measured):
        return headline.record("psnr_gain_db", "toy", degradation, solver, interval(*measured), start=start)

    records = [
        gain("gaussian_blur", "ldps", "consistent", 0.5, 0.1, 0.9),
        gain("gaussian_blur", "ldps", "published", 7.0, 6.0, 8.0),
        gain("gaussian_blur", "psld", "consistent", -0.25, -0.5, 0.004),
        gain("mixture", "psld", "consistent", 1.0, -0.1, 2.0),
    ]
    assert readme.gains_table(records) == (
        "| PSNR, dB | LDPS | PSLD |\n| --- | --- | --- |\n"
        "| gaussian blur | **+0.50 [0.10, 0.90]** | -0.25 [-0.50, 0.00] |\n"
        "| mixture |  | +1.00 [-0.10, 2.00] |\n"
    )


def test_the_readme_s_short_table_has_a_line_per_claim_and_measure_of_one_budget():
    def of(claim, degradation, *measured, **more):
        return headline.record(claim, "toy", degradation, "ldps", interval(*measured), **more)

    records = [
        of("ordering_accuracy", "gaussian_blur", 0.983, 0.981, 0.985),
        of("ordering_accuracy", "random_inpainting", 0.999, 0.998, 1.0),
        of("adaptive_vs_best_fixed_few", "gaussian_blur", 0.02, -0.02, 0.06, budget=6, measure="psnr"),
        of("adaptive_vs_best_fixed_few", "gaussian_blur", 7.0, 6.0, 8.0, budget=3, measure="psnr"),
    ]
    assert readme.summary_table(records) == (
        "| | gaussian blur | random inpainting |\n| --- | --- | --- |\n"
        "| share of pairs of levels that severity puts in order | 0.983 [0.981, 0.985] | 0.999 [0.998, 1.000] |\n"
        "| choice per image against the best one for all, 6 evaluations: PSNR | 0.020 dB [-0.020, 0.060] | - |\n"
    )


@pytest.mark.parametrize("text", ["no marks", "<!-- results:begin -->\n", "<!-- results:end -->\n"])
def test_a_readme_without_both_marks_is_refused(text):
    with pytest.raises(ValueError, match=r"results: the marks <!-- results:begin --> and .* are missing"):
        readme.with_table(text, "results", "")
