"""What each degradation and each pair has on the page: the figures and tables that its stages left, those that were measured."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report import allocation, blind, calibrated, confidence, shift, spread
from flashdiff.report.claims import listed
from flashdiff.report.display import html, readable
from flashdiff.report.names import solver_label
from flashdiff.report.weak import weak_pairs

OF_ENCODER = (
    ("train_severity", ()),
    ("order", ()),
    ("correlate", ("severity_correlations",)),
    ("ablation", ("ablation",)),
)
OF_PAIR = (
    ("frontier", ("budgets", "budget_gains", "frechet")),
    ("examples", ()),
    ("reconstruct", ("quality", "paired")),
    ("speedup", ("headroom",)),
    ("robustness", ("robustness_noise", "robustness_classes", "robustness_encoders", "robustness_starts")),
)
OF_STUDY = (
    ("confidence", ("confidence",)),
    ("spread", ("spread",)),
    ("calibrated_start", ("calibrated_start",)),
    ("allocation", ("allocation",)),
    ("shift", ("shift", "shift_lost")),
    ("blind", ("blind", "blind_kinds")),
)
"""Stages in reading order, each with its tables: of a degradation's encoder, of a pair, and of all pairs together. Their titles are
in captions.j2."""
SENTENCES = {
    "confidence": confidence.sentence,
    "spread": spread.sentence,
    "calibrated_start": calibrated.sentence,
    "allocation": allocation.sentence,
    "shift": shift.sentences,
    "blind": blind.sentences,
}
"""Stage of all pairs -> what its tables mean, in sentences computed from them."""
BRIEF = ("budgets", "budget_gains", "paired")
"""Tables with a line per walk or per comparison, of which the page shows the measures that are drawn; their CSV has all."""
ON_SCREEN = ("budget_gains", "frechet")
"""Tables and figures that paper goes without, where there is no room for them: others say what they show, or their PDF does."""
NEEDS = {"wall_clock": "wall_clock_ratio"}
"""Figure -> the claim that has a number where the figure shows one."""
OVER_COST = ("quality_against_steps",)
"""Figures over evaluations, of which nothing can be read where all walks of a pair take as many: their marks stand in one line.
``quality_of_methods`` says there what they would."""


def title(degradation: str) -> str:
    """A degradation's name as a heading."""
    return degradation.replace("_", " ").capitalize()


def section(
    reports: Path,
    degradation: str,
    solvers: Sequence[str],
    distances: Mapping[str, str],
    records: Sequence[Mapping],
    order: Sequence[str],
    elsewhere: Collection[str] = (),
) -> dict:
    """A degradation's section: "encoder", its parts, and "pairs", each with its solver and its parts.

    records: what was measured; order: figures in reading order; elsewhere: figures that stand in another place of the page.
    A part is {"stage", "tables", "figures"}; one without either is left out. Figures of what was not measured are left
    out, too: an earlier run may have drawn them, and outputs of stages persist; and those over cost where it is one.
    """
    equal_cost, weak = listed(records).equal_cost, weak_pairs(records)
    measured = {(r["claim"], r["degradation"], r["solver"]) for r in records if r["value"] is not None}

    def parts(stages: Sequence[tuple], item: str, solver: str | None) -> list[dict]:
        found = []
        for stage, names in stages:
            images = [p for kind in ("figures", "timings") for p in (reports / kind / f"{stage}-{item}").glob("*.png")]
            images = [p for p in images if p.stem not in elsewhere]
            images = [p for p in images if p.stem not in NEEDS or (NEEDS[p.stem], degradation, solver) in measured]
            images = [p for p in images if p.stem not in OVER_COST or (degradation, solver) not in equal_cost]
            known = {name: number for number, name in enumerate(order)}
            images.sort(key=lambda p: (known.get(p.stem, len(known)), p.stem))
            tables = [table for name in names if (table := _table(reports, name, item, distances))]
            if images or tables:
                is_weak = (degradation, solver) in weak
                figures = [figure(reports, image, degradation, solver, is_weak) for image in images]
                found.append({"stage": stage, "tables": tables, "figures": figures})
        return found

    pairs = [
        {"solver": solver, "title": solver_label(solver), "parts": parts(OF_PAIR, f"{degradation}-{solver}", solver)}
        for solver in solvers
    ]
    encoder = parts(OF_ENCODER, degradation, None)
    return {"name": degradation, "title": title(degradation), "encoder": encoder, "pairs": pairs}


def of_all_pairs(reports: Path, distances: Mapping[str, str]) -> list[dict]:
    """Parts as in :func:`section`, of the stages that draw all pairs together, each with its sentences, too."""
    found = []
    for stage, names in OF_STUDY:
        images = sorted((reports / "figures" / stage).glob("*.png"))
        made = [table for name in names if (table := _table(reports, name, None, distances))]
        said = SENTENCES[stage](*(pd.read_csv(reports / t["csv"]) for t in made)) if len(made) == len(names) else ""
        if images or made:
            drawn = [figure(reports, image) for image in images]
            found.append({"stage": stage, "tables": made, "figures": drawn, "sentences": said.splitlines()})
    return found


def figure(
    reports: Path, image: Path, degradation: str | None = None, solver: str | None = None, weak: bool = False
) -> dict:
    """What the page needs of a drawn figure: name, path below ``reports``, size in pixels, what it is of and whether the baseline
    of that is weak, and its PDF."""
    from PIL import Image

    pdf = reports / "figures_pdf" / image.parent.name / f"{image.stem}.pdf"
    pdf = pdf if pdf.is_file() else image.with_suffix(".pdf")
    of = [degradation.replace("_", " ") if degradation else None, solver_label(solver) if solver else None]
    with Image.open(image) as opened:
        width, height = opened.size
    return {
        "name": image.stem,
        "path": image.relative_to(reports).as_posix(),
        "width": width,
        "height": height,
        "of": ", ".join(filter(None, of)),
        "weak": weak,
        "on_screen": image.stem in ON_SCREEN,
        "pdf": pdf.relative_to(reports).as_posix() if pdf.is_file() else None,
    }


def _table(reports: Path, name: str, item: str | None, distances: Mapping[str, str]) -> dict | None:
    path = reports / "tables" / (f"{name}-{item}.csv" if item else f"{name}.csv")
    try:
        table = pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):  # a table of nothing has no columns
        return None
    if table.empty:
        return None
    if name in BRIEF:
        others = [m for m in MEASURES.values() if m not in in_figures()]
        others = {f"{column}{end}" for m in others for column in (m.name, m.gain) for end in ("", "_low", "_high")}
        table = table.drop(columns=others & set(table))
    csv = path.relative_to(reports).as_posix()
    flags = {"brief": name in BRIEF, "on_screen": name in ON_SCREEN}
    return {"name": name, "html": html(_merged(readable(table, distances))), "csv": csv} | flags


def _merged(table: pd.DataFrame, column: str = "tuned for") -> pd.DataFrame:
    """The table with one row where several say the same: a walk that was tuned for two measures with one result."""
    if column not in table:
        return table
    others = [name for name in table if name != column]
    return table.groupby(others, sort=False, dropna=False)[column].agg(", ".join).reset_index()[list(table)]
