"""The executed notebooks as pages that a browser shows: without a copy of the figures that the report has already."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from flashdiff.report.template import render, source

NOTEBOOKS = (
    (
        "01_download",
        "02_train_prior",
        "02_use_prior",
        "03_look_at_prior",
        "25_show_confidence",
        "27_show_allocation",
        "29_show_spread",
        "31_show_calibrated_start",
        "33_show_shift",
        "35_show_blind",
    ),
    (
        "04_train_severity",
        "05_measure_severity",
        "06_ordering_accuracy",
        "07_severity_correlation",
        "17_ablation",
        "18_show_ablation",
    ),
    (
        "08_tune_step_size",
        "09_reconstruct",
        "10_reconstruction",
        "11_speed_up",
        "12_tune_budgets",
        "13_walk_budgets",
        "14_other_seeds",
        "15_frontier",
        "19_robustness",
        "20_show_robustness",
        "24_confidence",
        "26_allocation",
        "28_spread",
        "30_calibrated_start",
        "32_shift",
        "34_blind",
        "36_frechet",
    ),
)
"""The executed notebooks that the page links: of the study, of each degradation, of each pair; the report's own is written
after the page, and would appear from the second run on."""
FOLDER = "notebooks_html"
STYLE = "report.css"
"""The template of the style, and the name of the file that all pages of notebooks share."""
SAVED = re.compile(r'save\(\s*[^"\n]*?(?:f?"[^"]*"[^"\n]*?)?"(\w+)"')
"""A cell's call that saves its figure under a name."""


def of_study(reports: Path, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, list[Path]]:
    """{"": notebooks of the study, degradation: its own and those of its pairs}, those that are there and that the study has
    now; what a removed pair or degradation left is not among them."""
    items: dict[str, list[str]] = {"": list(NOTEBOOKS[0])}
    for degradation in degradations:
        items[degradation] = [f"{name}-{degradation}" for name in NOTEBOOKS[1]]
        items[degradation] += [f"{name}-{d}-{s}" for d, s in pairs if d == degradation for name in NOTEBOOKS[2]]
    paths = {group: [reports / "notebooks" / f"{name}.ipynb" for name in names] for group, names in items.items()}
    return {group: [path for path in found if path.is_file()] for group, found in paths.items()}


def write_html(
    reports: str | Path, degradations: Sequence[str], pairs: Sequence[tuple[str, str]], target: str | Path | None = None
) -> list[Path]:
    """Write NAME.html for every executed notebook that the page links; returns their paths.

    target: by default reports/notebooks_html, from where links to figures lead. A figure that a cell saved is shown from
    where it was saved; any other picture stays in its page. Equal notebooks give equal pages, and a page whose notebook
    is the one that it was made of stays as it is; pages of notebooks that the study no longer has are removed.
    """
    import nbformat
    from nbconvert import HTMLExporter

    reports, target, written = Path(reports), Path(reports) / FOLDER if target is None else Path(target), []
    target.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    for path in itertools.chain.from_iterable(of_study(reports, degradations, pairs).values()):
        drawn, page = _figures(reports, path.stem.partition("-")[2]), target / f"{path.stem}.html"
        made_of = f"{metadata.version('nbconvert')} {sorted(drawn.items())} {path.read_text(encoding='utf-8')}"
        digest = hashlib.sha256(f"{source('notebook.html.j2')} {source(STYLE)} {made_of}".encode()).hexdigest()
        written.append(page)
        if page.is_file() and digest in page.read_text(encoding="utf-8"):
            continue
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            _show_saved_figures(cell, drawn)
        body, resources = exporter.from_notebook_node(notebook)
        (target / STYLE).write_text(render(STYLE) + "\n".join(resources["inlining"]["css"]), encoding="utf-8")
        html = render("notebook.html.j2", title=path.stem, body=body, style=STYLE, digest=digest)
        page.write_text(html, encoding="utf-8")
    for left in set(target.glob("*.html")) - set(written):
        left.unlink()
    return written


def _figures(reports: Path, item: str) -> dict[str, str]:
    """Name of a figure -> its path from the folder of the pages, for the figures of an item ("" for those of the study)."""
    folders = [
        f for kind in ("figures", "timings") for f in sorted((reports / kind).glob(f"*-{item}" if item else "*"))
    ]
    folders = [f for f in folders if f.is_dir() and ("-" in f.name) == bool(item)]
    return {p.stem: f"../{p.relative_to(reports).as_posix()}" for f in folders for p in sorted(f.glob("*.png"))}


def _show_saved_figures(cell: dict, drawn: dict[str, str]) -> None:
    """Put a link in the place of every picture of a cell that saved it."""
    saved = [name for name in SAVED.findall(cell.source) if name in drawn]
    pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    if len(saved) != len(pictures):
        return
    for name, output in zip(saved, pictures, strict=True):
        image = f'<img src="{drawn[name]}" alt="{name.replace("_", " ")}" loading="lazy">'
        output.data = {"text/html": image}
