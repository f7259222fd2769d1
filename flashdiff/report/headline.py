"""The study's claims, one record each, with a verdict by a fixed rule: reports/headline.json."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report.claims import OF_COST, Interval, in_words, kind, rules
from flashdiff.report.names import DISTANCES, measure_label, solver_label
from flashdiff.starts import STARTS
from flashdiff.study.methods import flash_method
from flashdiff.study.methods import rules as start_rules
from flashdiff.study.records import read_json

PER_ENCODER = {
    "ordering_accuracy": "ordering",
    "ordering_accuracy_strict": "ordering",
    "spearman_level": "severity",
    "spearman_error": "severity",
    "calibration_ratio": "severity",
    "encoder_error_clean": "severity",
    "encoder_cost": "severity",
    "start_spread": "severity",
}
CONTROLS = {
    "adaptive_vs_best_fixed": "fixed_mean",
    "adaptive_vs_fresh_fixed": "fixed_fresh",
    "shuffled_severity": "shuffled_{start}",
    "random_start": "random_{start}",
}
"""Claim -> the method it is held against; a control walks with the same start rule, else it would measure the rule."""


def record(
    claim: str,
    study: str,
    degradation: str,
    solver: str | None,
    interval: Interval | None,
    *,
    start: str | None = None,
    budget: float | None = None,
    measure: str | None = None,
    distances: Mapping[str, str] = DISTANCES["features"],
) -> dict:
    """One claim with its verdict; an interval of None, without a value, or with NaN or infinity is "not tested".

    budget: mean evaluations asked, of a few-step walk; measure: what a control is compared in, a gain's follows from its
    claim; distances: what readers call those of the study, in the record ("distance") where one is the measure.
    """
    rule = rules()[claim]
    measure = next((name for name, m in MEASURES.items() if m.gain == claim), measure)
    known = interval is not None and interval.get("value") is not None
    known = known and all(number is None or math.isfinite(number) for number in interval.values())
    values = {key: interval.get(key) if known else None for key in ("value", "low", "high", "n")}
    if not known or rule.reproduced is None:
        verdict = "not tested"
    else:
        verdict = "reproduced" if rule.reproduced(interval) else "not reproduced"
    head = {
        "claim": claim,
        "study": study,
        "degradation": degradation,
        "solver": solver,
        "start": start,
        "budget": budget,
    }
    unit = MEASURES[measure].gain_unit if measure else rule.unit
    compared = {"unit": unit or None, "distance": distances.get(measure), "measure": measure}
    return _with_words(head | values | compared | {"verdict": verdict})


def _with_words(record: dict) -> dict:
    """The record with whose claim it is ("kind") and its verdict as readers see it ("in_words")."""
    return record | {"kind": kind(record["claim"]), "in_words": in_words(record)}


def collect(
    folder: str | Path, study: str, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[dict]:
    """All records of a study from its metrics files, for its degradations and (degradation, solver) pairs, and for the start
    rules that each pair's metrics have.

    A degradation that no solver reconstructs has the records of its severity encoder, solver null. Raises
    FileNotFoundError naming a missing file and its remedy.
    """
    folder, records = Path(folder), []
    for degradation in degradations:
        of_encoder = {
            kind: read_json(folder / f"reports/metrics/{kind}-{degradation}.json") for kind in ("ordering", "severity")
        }
        solvers = [solver for d, solver in pairs if d == degradation]
        for solver in solvers or [None]:
            item, key = f"{degradation}-{solver}", (study, degradation, solver)
            for claim, file in PER_ENCODER.items():
                records.append(record(claim, *key, of_encoder[file][claim]))
            if solver is None:
                continue
            gains = read_json(folder / f"reports/metrics/reconstruction-{item}.json")
            speed = read_json(folder / f"reports/timings/speedup-{item}.json")
            for start in start_rules(gains["gains"]):
                against, of_start = (
                    gains["gains"][flash_method(start)],
                    {"start": start, "distances": gains["distances"]},
                )
                records.append(record("mean_start", *key, gains["methods"][flash_method(start)]["start"], **of_start))
                for claim in ("nfe_ratio", *(measure.gain for measure in MEASURES.values())):
                    records.append(record(claim, *key, against["full_length"][claim], **of_start))
                records.append(
                    record("wall_clock_ratio", *key, speed["wall_clock_ratio"][flash_method(start)], **of_start)
                )
                for claim, baseline in CONTROLS.items():
                    control = against.get(baseline.format(start=start))
                    for measure in in_figures() if control else ():
                        records.append(record(claim, *key, control[measure.gain], measure=measure.name, **of_start))
            records += _of_few_steps(key, read_json(folder / f"reports/metrics/budgets-{item}.json"))
    return records


def _of_few_steps(key: tuple[str, str, str | None], metrics: Mapping) -> list[dict]:
    """The records of a pair's few-step walks, from what :func:`flashdiff.report.frontier.metrics` says."""
    ratio, distances = metrics["nfe_ratio_100"], metrics["distances"]
    of_ratio = {end: ratio[end] for end in ("value", "low", "high", "n")}
    first = record("nfe_ratio_100", *key, of_ratio, budget=ratio["budget"], distances=distances)
    if ratio["tested"] and ratio["value"] is None:  # it was asked at every budget, and the answer is no
        first = _with_words(first | {"verdict": "not reproduced"})
    records = [first]
    for budget, of_budget in metrics["gains"].items():
        over_fixed = {name: gains[MEASURES[name].gain] for name, gains in of_budget.get("fixed", {}).items()}
        claims = {"adaptive_vs_best_fixed_few": over_fixed, "regret_to_oracle": metrics["regret_to_oracle"][budget]}
        for claim, intervals in claims.items():
            for measure, interval in intervals.items():
                of_claim = {"budget": float(budget), "measure": measure, "distances": distances}
                records.append(record(claim, *key, interval, **of_claim))
    return records


def starts(records: Sequence[Mapping]) -> list[str]:
    """The start rules that there are records of, in the order of STARTS."""
    found = {r["start"] for r in records}
    return [rule for rule in STARTS if rule in found]


def write(records: Sequence[Mapping], path: str | Path) -> None:
    """Write the records as JSON, one per line."""
    lines = ",\n".join("  " + json.dumps(r, ensure_ascii=False, allow_nan=False) for r in records)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def readme_claims() -> list[str]:
    """The claims of README's table, in its order: all but the controls and what is only described of few steps."""
    of_encoder = (
        "ordering_accuracy",
        "ordering_accuracy_strict",
        "spearman_error",
        "spearman_level",
        "calibration_ratio",
    )
    of_encoder += ("encoder_error_clean", "encoder_cost", "start_spread")
    few_steps = ("nfe_ratio_100", "adaptive_vs_best_fixed_few")
    return [*of_encoder, *OF_COST, *(measure.gain for measure in MEASURES.values()), *few_steps]


def write_summaries(records: Sequence[Mapping], folder: str | Path) -> None:
    """One small flat file per degradation and solver, for `dvc metrics`: claim, start.claim or
    claim.budget.measure to value.

    No controls, and no seconds, so that equal runs give equal files. Other files of the folder are removed: they are those of
    degradations and solvers that the study no longer has.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, dict] = {}
    claims = set(readme_claims()) - {"wall_clock_ratio"}
    for r in records:
        if r["claim"] in claims:
            of_pair = values.setdefault("-".join(filter(None, (r["degradation"], r["solver"]))), {})
            of_pair = of_pair.setdefault(r["start"], {}) if r["start"] else of_pair
            if r["budget"] is not None and r["measure"]:
                of_budget = of_pair.setdefault(r["claim"], {}).setdefault(f"{r['budget']:g}", {})
                of_budget[r["measure"]] = r["value"]
            else:
                of_pair[r["claim"]] = r["value"]
    for path in folder.glob("*.json"):
        if path.stem not in values:
            path.unlink()
    for pair, content in values.items():
        (folder / f"{pair}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def to_frame(records: Sequence[Mapping]) -> pd.DataFrame:
    """The records as a table for reading: verdict first, claim in words, value with its interval, of what, criterion."""
    table = [
        {
            "verdict": in_words(r),
            "claim": label(r),
            "value": describe(r),
            "start": r["start"] or "",
            "degradation": r["degradation"].replace("_", " "),
            "solver": solver_label(r["solver"] or ""),
            "n": r["n"],
            "rule": rules()[r["claim"]].criterion,
        }
        for r in records
    ]
    columns = ["verdict", "claim", "value", "start", "degradation", "solver", "n", "rule"]
    return pd.DataFrame(table, columns=columns).astype({"n": "Int64"})  # whole numbers, also where one is missing


def label(record: Mapping) -> str:
    """A record's claim in words; a control's says in what it is compared, a few-step walk's at which budget."""
    budget = record.get("budget")  # a file written before the few-step walks has no such entry
    words = "" if budget is None else f"{budget:g}"
    return rules()[record["claim"]].label.format(measure=measured_in(record), budget=words)


def measured_in(record: Mapping) -> str:
    """What readers call the measure of a gain or a control; "" for other records."""
    of_gain = next((name for name, m in MEASURES.items() if m.gain == record["claim"]), None)
    name = of_gain or record.get("measure")  # a file written before the table of measures has no such entry
    return record["distance"] or measure_label(MEASURES[name]) if name else ""


def describe(record: Mapping) -> str:
    """A record's value in words: "1.23 dB [1.01, 1.40]", relative gains in per cent; "none": looked for and not found."""
    if record["value"] is None:
        return "not measured" if record["verdict"] == "not tested" else "none"
    scale, unit = (100, "%") if record["unit"] == "relative" else (1, "")
    if record["unit"] in {measure.unit for measure in MEASURES.values() if measure.unit}:
        unit = f" {record['unit']}"
    digits = 3 if abs(record["value"]) < 1 and scale == 1 else 2 if abs(record["value"] * scale) < 10 else 1
    text = f"{record['value'] * scale:.{digits}f}{unit}"
    if record["low"] is None:
        return text
    return f"{text} [{record['low'] * scale:.{digits}f}, {record['high'] * scale:.{digits}f}]"
