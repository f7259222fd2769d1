"""The tables of README.md and docs/results.md, copied from the committed reports: `python -m flashdiff.report.readme`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashdiff.measures import MEASURES
from flashdiff.report.headline import describe, label, measured_in, readme_claims, starts
from flashdiff.report.names import measure_label, solver_label
from flashdiff.study.methods import MAIN


def results_table(records: Sequence[Mapping]) -> str:
    """The default study: a line per claim and start, a column per degradation and solver."""
    pairs = list(dict.fromkeys((r["degradation"], r["solver"]) for r in records))
    lines = [
        "| on test images, with 95% intervals | "
        + " | ".join(", ".join(filter(None, (d.replace("_", " "), s and solver_label(s)))) for d, s in pairs)
        + " |",
        "| --- |" + " --- |" * len(pairs),
    ]
    for claim in readme_claims():
        for start in (None, *starts(records)):
            found = [r for r in records if (r["claim"], r["start"]) == (claim, start)]
            for name in dict.fromkeys(map(label, found)):  # one, but for claims at several budgets
                by_pair = {(r["degradation"], r["solver"]): describe(r) for r in found if label(r) == name}
                what = name + (f" ({start} start)" if start else "")
                lines.append(f"| {what} | " + " | ".join(by_pair.get(pair, "-") for pair in pairs) + " |")
    return "\n".join(lines) + "\n"


SUMMARY = {
    "ordering_accuracy": "share of pairs of levels that severity puts in order",
    "spearman_error": "Spearman correlation of severity with the true error",
    "nfe_ratio_100": "baseline's evaluations / those of the cheapest Flash that is better in PSNR and distance",
    "adaptive_vs_best_fixed_few": "choice per image against the best one for all",
}
"""The claims of README's short table, and what it calls them."""
FEW = 6
"""The budget, in evaluations per image, of its comparisons among few-step walks."""


def summary_table(records: Sequence[Mapping]) -> str:
    """The default study in a few lines: a line per claim of SUMMARY, and measure, a column per degradation."""
    columns = list(dict.fromkeys(r["degradation"] for r in records))
    lines = [f"| | {' | '.join(d.replace('_', ' ') for d in columns)} |", "| --- |" + " --- |" * len(columns)]
    for claim, name in SUMMARY.items():
        found = [r for r in records if r["claim"] == claim]
        if claim == "adaptive_vs_best_fixed_few":
            found = [r for r in found if r["budget"] == FEW]
        for measure in dict.fromkeys(r["measure"] for r in found):
            of_measure = [r for r in found if r["measure"] == measure]
            cells = {r["degradation"]: describe(r) for r in of_measure}
            what = f"{name}, {FEW} evaluations: {measured_in(of_measure[0])}" if measure else name
            lines.append(f"| {what} | {' | '.join(cells.get(column, '-') for column in columns)} |")
    return "\n".join(lines) + "\n"


def gains_table(records: Sequence[Mapping], start: str = MAIN) -> str:
    """The larger study: a line per degradation, a column per solver, the gain in PSNR over its own full-length baseline;
    bold where the interval lies above zero, empty where a pair is not compared."""
    measure = next(iter(MEASURES.values()))
    gains = {(r["degradation"], r["solver"]): r for r in records if (r["claim"], r["start"]) == (measure.gain, start)}
    degradations, solvers = (list(dict.fromkeys(key)) for key in zip(*gains, strict=True))
    lines = [
        f"| {measure_label(measure)}, {measure.unit} | {' | '.join(solver_label(s) for s in solvers)} |",
        "| --- |" + " --- |" * len(solvers),
    ]
    for degradation in degradations:
        cells = [_gain(gains[degradation, s]) if (degradation, s) in gains else "" for s in solvers]
        lines.append(f"| {degradation.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


OF_SOLVERS = {
    "nfe_ratio": "evaluations: baseline / Flash, long walk",
    "psnr_gain_db": "PSNR: Flash - baseline",
    "perceptual_gain": "perceptual distance: decrease",
    "nfe_ratio_100": "evaluations: baseline / cheapest few steps that beat it in both",
    "adaptive_vs_best_fixed_few": f"choice per image against the best one for all, {FEW} evaluations: PSNR",
}
"""The claims of the table of solvers, and what it calls them."""


def solvers_table(records: Sequence[Mapping], start: str = MAIN) -> str:
    """The study of solvers: a line per degradation and solver, a column per claim of OF_SOLVERS."""
    lines = [
        f"| degradation | solver | {' | '.join(OF_SOLVERS.values())} |",
        "| --- | --- |" + " --- |" * len(OF_SOLVERS),
    ]
    for degradation, solver in dict.fromkeys((r["degradation"], r["solver"]) for r in records):
        of_pair = [r for r in records if (r["degradation"], r["solver"]) == (degradation, solver)]
        few = (FEW, next(iter(MEASURES)))  # of the budgets and measures of a claim with several
        cells = {
            r["claim"]: describe(r)
            for r in of_pair
            if r["start"] in (None, start)
            and (r["claim"] != "adaptive_vs_best_fixed_few" or (r["budget"], r["measure"]) == few)
        }
        shown = " | ".join(cells.get(claim, "-") for claim in OF_SOLVERS)
        lines.append(f"| {degradation.replace('_', ' ')} | {solver_label(solver)} | {shown} |")
    return "\n".join(lines) + "\n"


def _gain(record: Mapping) -> str:
    """ "+1.23 [1.01, 1.40]", bold where it counts as reproduced."""
    if record["value"] is None:
        return describe(record)
    text = f"{record['value']:+.2f} [{record['low']:.2f}, {record['high']:.2f}]"
    return f"**{text}**" if record["verdict"] == "reproduced" else text


TABLES = {
    "headline": ("README.md", "reports/headline.json", summary_table),
    "results": ("docs/results.md", "reports/headline.json", results_table),
    "solvers": ("docs/results.md", "studies/fashion-mnist-solvers/reports/headline.json", solvers_table),
    "gains": ("docs/results.md", "studies/fashion-mnist-full/reports/headline.json", gains_table),
}
"""Name of the marks in a page -> the page, the records, and the table made of them."""


def with_table(page: str, name: str, table: str) -> str:
    """A page's text with the table between the two marks of that name replaced; ValueError without them."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
    if begin not in page or end not in page:
        raise ValueError(f"{name}: the marks {begin.strip()} and {end.strip()} are missing; put them around the table.")
    return page.partition(begin)[0] + begin + table + end + page.partition(end)[2]


def current(root: str | Path = ".") -> dict[str, str]:
    """Page -> its text with all tables as the committed reports below ``root`` have them."""
    root, pages = Path(root), {}
    for name, (page, path, table) in TABLES.items():
        records = json.loads((root / path).read_text(encoding="utf-8"))
        text = pages.get(page) or (root / page).read_text(encoding="utf-8")
        pages[page] = with_table(text, name, table(records))
    return pages


if __name__ == "__main__":
    for written, content in current().items():
        Path(written).write_text(content, encoding="utf-8")
