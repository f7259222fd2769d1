"""reports/index.html: the study on one static page, from the files its stages wrote. Works offline; equal runs, equal bytes."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from flashdiff import headline
from flashdiff.figure_style import METHOD_LABELS

CAPTIONS = {
    "degradation_levels": "What the encoder sees: eight images from clean to the worst level.",
    "learning_curve": "Training of the severity encoder, and its answers on held-out images.",
    "severity_against_level_per_image": "Predicted severity as one image is degraded more and more (the paper's Fig. 3). Lines rise, and images differ: at the same level some are harder than others.",
    "ordering_by_pair": "Of all images, how many have the severities of two levels in the right order.",
    "severity_against_level": "Predicted severity over the test set (the paper's Fig. 4), every image at its own level.",
    "calibration": "True error of the latent against the predicted one. On the dashed line the encoder is right about its own error.",
    "error_statistics": "The start rules assume independent normal errors in the latent. Both statistics would be 0 if that held.",
    "outliers": "The images whose severity lies furthest from what their level lets expect (the paper's Fig. 5).",
    "matched_pairs": "Equal severity from very different levels: a plain image that is badly degraded beside a busy one that is hardly touched.",
    "reconstructions": "Severity rises from top to bottom. Under each image: PSNR and denoiser evaluations (NFE).",
    "quality_against_steps": "Quality against evaluations (the paper's Fig. 2). The line joins starts that are the same for all images; the marks choose per image.",
    "start_distribution": "Where the walks begin, over the test images.",
    "quality_against_cost": "All methods and controls: quality against evaluations, with 95% intervals.",
    "wall_clock": "Measured seconds per image on the machine that ran this study.",
}
TABLE_CAPTIONS = {
    "severity_correlations": "Correlation of predicted severity with the level, the true error, and the quality of what is decoded without diffusion.",
    "quality": "Mean quality and cost of every method; brackets are 95% intervals.",
    "paired": "Gains of Flash on the same images; an interval above zero is a gain that chance does not explain.",
}
PARTS = (
    ("What the encoder is asked", "train_severity", False, ()),
    ("Does it order severity?", "order", False, ()),
    ("Is predicted severity the true severity?", "correlate", False, ("severity_correlations",)),
    ("Reconstruction", "reconstruct", True, ("quality", "paired")),
    ("Speed", "speedup", True, ()),
)


def assemble(folder: str | Path, study: str, degradations: Sequence[str], solvers: Sequence[str]) -> Path:
    """Write reports/index.html below a study's folder from its metrics, tables and figures; returns its path.

    Raises FileNotFoundError naming a missing metrics file.
    """
    from jinja2 import Environment

    reports = Path(folder) / "reports"
    records = headline.collect(folder, study, degradations, solvers)
    template = Environment(autoescape=False, trim_blocks=True).from_string(
        files("flashdiff").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        study=study,
        n=max(r["n"] for r in records if r["claim"] == "psnr_gain_db"),
        sentences=[sentence(records, d, s) for d in degradations for s in solvers],
        claims={_title(d): _claims_table([r for r in records if r["degradation"] == d]) for d in degradations},
        sections=[_section(reports, d, solvers) for d in degradations],
        notebooks=[p.relative_to(reports).as_posix() for p in sorted((reports / "notebooks").glob("*.ipynb"))],
    )
    path = reports / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def sentence(records: Sequence[Mapping], degradation: str, solver: str) -> str:
    """The main result of one degradation and solver in plain words, read off the records."""

    def of(claim: str, start: str | None, unit: str | None = None) -> Mapping:
        return next(
            r for r in records
            if (r["claim"], r["degradation"], r["solver"], r["start"]) == (claim, degradation, solver, start)
            and unit in (None, r["unit"])
        )  # fmt: skip

    parts = []
    for start in headline.STARTS:
        nfe, gain, distance = (of(claim, start) for claim in ("nfe_ratio", "psnr_gain_db", "perceptual_gain"))
        parts.append(
            f"{'with the published start' if start == 'published' else 'with the consistent start'} Flash needs "
            f"{nfe['value']:.1f} times fewer denoiser evaluations than the full-length baseline, {_gain(gain, 'PSNR')} and "
            f"{_gain(distance, 'perceptual distance')}"
        )
    order, error = of("ordering_accuracy", None), of("spearman_error", None)
    return (
        f"<strong>{_title(degradation)}, {solver.upper()}:</strong> the encoder puts {100 * order['value']:.1f}% of all pairs of "
        f"levels in the right order and its severity correlates with the true error at {error['value']:.2f} (Spearman); "
        + "; ".join(parts)
        + "."
    )


def _gain(record: Mapping, what: str) -> str:
    """ "PSNR 1.2 dB [..] better", or worse, or not distinguishable from zero."""
    text = headline.describe(record)
    if record["low"] > 0:
        return f"{what} is better by {text}"
    if record["high"] < 0:
        return f"{what} is worse ({text})"
    return f"{what} is not distinguishable ({text})"


def _title(degradation: str) -> str:
    return degradation.replace("_", " ").capitalize()


def _claims_table(records: Sequence[Mapping]) -> str:
    table = headline.to_frame(records).drop(columns="degradation")
    html = table.to_html(index=False, border=0, na_rep="")
    for verdict in ("not reproduced", "reproduced", "described", "not tested"):
        html = html.replace(f"<td>{verdict}</td>", f'<td class="{verdict.replace(" ", "-")}">{verdict}</td>')
    return html


def _section(reports: Path, degradation: str, solvers: Sequence[str]) -> dict:
    parts = []
    for title, stage, per_solver, tables in PARTS:
        for item in [f"{degradation}-{solver}" for solver in solvers] if per_solver else [degradation]:
            images = sorted((reports / "figures" / f"{stage}-{item}").glob("*.png"))
            images += sorted((reports / "timings" / f"{stage}-{item}").glob("*.png"))
            parts.append(
                {
                    "title": title if len(solvers) == 1 or not per_solver else f"{title}: {item.rsplit('-', 1)[1]}",
                    "tables": [t for t in (_table(reports, name, item) for name in tables) if t],
                    "figures": [_figure(reports, image) for image in sorted(images, key=_reading_order)],
                }
            )
    return {"name": degradation, "title": _title(degradation), "parts": parts}


def _reading_order(image: Path) -> int:
    names = list(CAPTIONS)
    return names.index(image.stem) if image.stem in names else len(names)


def _figure(reports: Path, image: Path) -> dict:
    pdf = reports / "figures_pdf" / image.parent.name / f"{image.stem}.pdf"
    pdf = pdf if pdf.is_file() else image.with_suffix(".pdf")
    return {
        "name": image.stem.replace("_", " "),
        "path": image.relative_to(reports).as_posix(),
        "caption": CAPTIONS.get(image.stem, image.stem.replace("_", " ").capitalize() + "."),
        "pdf": pdf.relative_to(reports).as_posix() if pdf.is_file() else None,
    }


def _table(reports: Path, name: str, item: str) -> dict | None:
    path = reports / "tables" / f"{name}-{item}.csv"
    if not path.is_file():
        return None
    table = with_intervals(pd.read_csv(path))
    for column in ("method", "baseline"):
        if column in table:
            table[column] = table[column].map(lambda m: METHOD_LABELS.get(m, m.replace("fixed_", "fixed start ")))
    return {"caption": TABLE_CAPTIONS[name], "html": table.to_html(index=False, border=0, na_rep="")}


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Columns x, x_low, x_high become one readable column "x [low, high]"; three significant decimals."""
    readable = {}
    for column in table:
        if column.endswith(("_low", "_high")):
            continue
        values = table[column]
        if pd.api.types.is_numeric_dtype(values):
            digits = (
                0
                if values.abs().max() >= 100
                else 1
                if values.abs().max() >= 50
                else 3
                if values.abs().max() < 2
                else 2
            )
            text = values.map(lambda v, d=digits: f"{v:.{d}f}")
            if f"{column}_low" in table:
                bounds = zip(text, table[f"{column}_low"], table[f"{column}_high"], strict=True)
                text = [f"{v} [{low:.{digits}f}, {high:.{digits}f}]" for v, low, high in bounds]
            readable[column.replace("_", " ")] = text
        else:
            readable[column.replace("_", " ")] = values
    return pd.DataFrame(readable)
