"""The tables of README.md, copied from the committed reports: `python -m flashdiff.report.readme`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashdiff.measures import MEASURES
from flashdiff.report.headline import describe, label, readme_claims, starts
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


def _gain(record: Mapping) -> str:
    """ "+1.23 [1.01, 1.40]", bold where it counts as reproduced."""
    if record["value"] is None:
        return describe(record)
    text = f"{record['value']:+.2f} [{record['low']:.2f}, {record['high']:.2f}]"
    return f"**{text}**" if record["verdict"] == "reproduced" else text


TABLES = {
    "results": ("reports/headline.json", results_table),
    "gains": ("studies/fashion-mnist-full/reports/headline.json", gains_table),
}
"""Name of the marks in README.md -> the records, and the table made of them."""


def with_table(readme: str, name: str, table: str) -> str:
    """The README's text with the table between the two marks of that name replaced; ValueError without them."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
    if begin not in readme or end not in readme:
        raise ValueError(
            f"README.md: the marks {begin.strip()} and {end.strip()} are missing; put them around the table."
        )
    return readme.partition(begin)[0] + begin + table + end + readme.partition(end)[2]


def current(root: str | Path = ".") -> str:
    """The README's text with all tables as the committed reports below ``root`` have them."""
    root = Path(root)
    readme = (root / "README.md").read_text(encoding="utf-8")
    for name, (path, table) in TABLES.items():
        records = json.loads((root / path).read_text(encoding="utf-8"))
        readme = with_table(readme, name, table(records))
    return readme


if __name__ == "__main__":
    Path("README.md").write_text(current(), encoding="utf-8")
