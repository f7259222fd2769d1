"""The study's claims, one record each, with a verdict by a fixed rule: reports/headline.json."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from flashdiff.study.methods import DISTANCES, STARTS, solver_label
from flashdiff.study.records import read_json

Interval = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """When a claim counts as reproduced. ``reproduced`` is None for figures that are described, not claimed."""

    label: str
    unit: str
    criterion: str
    reproduced: Callable[[Interval], bool] | None


def _at_least(bound: float) -> Callable[[Interval], bool]:
    return lambda interval: interval["value"] >= bound


def _above_zero(interval: Interval) -> bool:
    return interval["low"] > 0


RULES: dict[str, Rule] = {
    "ordering_accuracy": Rule("ordering accuracy", "share of pairs", "at least 0.97", _at_least(0.97)),
    "spearman_level": Rule(
        "Spearman correlation of σ̂ with the level t", "", "95% interval above 0.5", lambda i: i["low"] > 0.5
    ),
    "spearman_error": Rule("Spearman correlation of σ̂ with the true error", "", "at least 0.85", _at_least(0.85)),
    "calibration_ratio": Rule("mean σ̂ / mean true error", "ratio", "0.9 to 1.1", lambda i: 0.9 <= i["value"] <= 1.1),
    "mean_start": Rule("mean start index", "step", "described only", None),
    "nfe_ratio": Rule("evaluations: baseline / Flash", "ratio", "at least 8", _at_least(8)),
    "wall_clock_ratio": Rule("wall clock: baseline / Flash", "ratio", "at least 8", _at_least(8)),
    "psnr_gain_db": Rule("PSNR: Flash - baseline", "dB", "95% interval above 0", _above_zero),
    "ssim_gain": Rule("SSIM: Flash - baseline", "SSIM", "95% interval above 0", _above_zero),
    "perceptual_gain": Rule(
        "{distance}: decrease against the baseline", "relative", "95% interval above 0", _above_zero
    ),
    "adaptive_vs_best_fixed": Rule(
        "Flash against the best fixed start of equal NFE", "", "95% interval above 0", _above_zero
    ),
    "shuffled_severity": Rule("Flash against the severities of other images", "", "95% interval above 0", _above_zero),
    "random_start": Rule("Flash against random starts", "", "95% interval above 0", _above_zero),
}
"""Why these bounds: 0.97 and 0.85 are what the paper's figures show by eye, 8 is its smallest speed-up; 0.5 and 0.9 to 1.1
are this project's; a gain counts when chance does not explain it. The report says so, too."""

PER_ENCODER = {
    "ordering_accuracy": "ordering",
    "spearman_level": "severity",
    "spearman_error": "severity",
    "calibration_ratio": "severity",
}
CONTROLS = {
    "adaptive_vs_best_fixed": "fixed_mean",
    "shuffled_severity": "shuffled_{start}",
    "random_start": "random_{start}",
}
"""Claim -> the method it is held against; a control walks with the same start rule, else it would measure the rule."""
MEASURES = {"dB": ": PSNR", "relative": ": {distance}"}
"""The controls are compared twice; in a table, their claim says in what."""


def record(
    claim: str,
    study: str,
    degradation: str,
    solver: str | None,
    interval: Interval | None,
    *,
    start: str | None = None,
    unit: str = "",
    distance: str = DISTANCES["features"]["perceptual"],
) -> dict:
    """One claim with its verdict; an interval of None, without a value, or with NaN or infinity is "not tested".

    distance: what readers call the perceptual distance; in the record where it is the measure, else None.
    """
    rule = RULES[claim]
    known = interval is not None and interval.get("value") is not None
    known = known and all(number is None or math.isfinite(number) for number in interval.values())
    values = {key: interval.get(key) if known else None for key in ("value", "low", "high", "n")}
    if not known or rule.reproduced is None:
        verdict = "not tested"
    else:
        verdict = "reproduced" if rule.reproduced(interval) else "not reproduced"
    head = {"claim": claim, "study": study, "degradation": degradation, "solver": solver, "start": start}
    unit = unit or rule.unit
    measure = {"unit": unit or None, "distance": distance if unit == "relative" else None}
    return head | values | measure | {"verdict": verdict}


def collect(
    folder: str | Path, study: str, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[dict]:
    """All records of a study from its metrics files, for its degradations and (degradation, solver) pairs.

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
            for claim, kind in PER_ENCODER.items():
                records.append(record(claim, *key, of_encoder[kind][claim]))
            if solver is None:
                continue
            gains = read_json(folder / f"reports/metrics/reconstruction-{item}.json")
            speed = read_json(folder / f"reports/timings/speedup-{item}.json")
            distance = gains["distances"]["perceptual"]
            for start, method in STARTS.items():
                against = gains["gains"][method]
                records.append(record("mean_start", *key, gains["methods"][method]["start"], start=start))
                for claim in ("nfe_ratio", "psnr_gain_db", "ssim_gain", "perceptual_gain"):
                    records.append(record(claim, *key, against["full_length"][claim], start=start, distance=distance))
                records.append(record("wall_clock_ratio", *key, speed["wall_clock_ratio"][method], start=start))
                for claim, baseline in CONTROLS.items():
                    control = against.get(baseline.format(start=start))
                    for gain in ("psnr_gain_db", "perceptual_gain") if control else ():
                        unit = RULES[gain].unit
                        records.append(record(claim, *key, control[gain], start=start, unit=unit, distance=distance))
    return records


def write(records: Sequence[Mapping], path: str | Path) -> None:
    """Write the records as JSON, one per line."""
    lines = ",\n".join("  " + json.dumps(r, ensure_ascii=False, allow_nan=False) for r in records)
    Path(path).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


README_CLAIMS = ("ordering_accuracy", "spearman_error", "spearman_level", "calibration_ratio", "mean_start", "nfe_ratio",
                 "wall_clock_ratio", "psnr_gain_db", "ssim_gain", "perceptual_gain")  # fmt: skip
SUMMARY = tuple(claim for claim in README_CLAIMS if claim != "wall_clock_ratio")
"""What `dvc metrics show` prints: no seconds, so that equal runs give equal files, and no controls."""


def write_summaries(records: Sequence[Mapping], folder: str | Path) -> None:
    """One small flat file per degradation and solver, for `dvc metrics`: claim, or start.claim, to value."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, dict] = {}
    for r in records:
        if r["claim"] in SUMMARY:
            of_pair = values.setdefault("-".join(filter(None, (r["degradation"], r["solver"]))), {})
            of_pair = of_pair.setdefault(r["start"], {}) if r["start"] else of_pair
            of_pair[r["claim"]] = r["value"]
    for pair, content in values.items():
        (folder / f"{pair}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def to_frame(records: Sequence[Mapping]) -> pd.DataFrame:
    """The records as a table for reading: claim in words, value with its interval, criterion, verdict."""
    table = [
        {
            "degradation": r["degradation"].replace("_", " "),
            "solver": solver_label(r["solver"] or ""),
            "start": r["start"] or "",
            "claim": label(r),
            "value": describe(r),
            "n": r["n"],
            "counts as reproduced when": RULES[r["claim"]].criterion,
            "verdict": r["verdict"] if RULES[r["claim"]].reproduced else "described",
        }
        for r in records
    ]
    return pd.DataFrame(table).astype({"n": "Int64"})  # whole numbers, also where one is missing


def label(record: Mapping) -> str:
    """A record's claim in words; a control's says in what it is compared."""
    text = RULES[record["claim"]].label + (MEASURES.get(record["unit"], "") if record["claim"] in CONTROLS else "")
    # files of before the published networks have no such entry
    return text.format(distance=record.get("distance") or DISTANCES["features"]["perceptual"])


def describe(record: Mapping) -> str:
    """A record's value in words: "1.23 dB [1.01, 1.40]", relative gains in per cent."""
    if record["value"] is None:
        return "not measured"
    scale, unit = (100, "%") if record["unit"] == "relative" else (1, "")
    if record["unit"] in ("dB",):
        unit = " dB"
    digits = 3 if abs(record["value"]) < 1 and scale == 1 else 2 if abs(record["value"] * scale) < 10 else 1
    text = f"{record['value'] * scale:.{digits}f}{unit}"
    if record["low"] is None:
        return text
    return f"{text} [{record['low'] * scale:.{digits}f}, {record['high'] * scale:.{digits}f}]"
