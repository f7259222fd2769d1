"""reports/index.html: the study on one static page, from the files its stages wrote. Works offline; equal runs, equal bytes."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import pandas as pd

from flashdiff.report import headline, tables
from flashdiff.study.methods import DISTANCES, label, solver_label
from flashdiff.study.records import read_json

CAPTIONS = {
    "degradation_levels": "What the encoder sees: eight images from clean to the worst level.",
    "learning_curve": "Training of the severity encoder: the loss is the weighted sum of the three terms below it. On held-out images: ordering "
    "accuracy, Spearman correlation of σ̂ with the true error (“spearman error”) and mean σ̂ / mean true error (“calibration ratio”).",
    "severity_against_level_per_image": "Predicted severity as one image is degraded more and more (the paper's Fig. 3). "
    "Lines rise, and images differ: at the same level some are harder than others.",
    "ordering_by_pair": "Of all images, how many have the severities of two levels in the right order.",
    "severity_against_level": "Predicted severity over the test set (the paper's Fig. 4), every image at its own level.",
    "calibration": "True error of the latent against the predicted one. On the dashed line the encoder is right about its own error.",
    "error_statistics": "The start rules assume independent normal errors in the latent. Both statistics would be 0 if that held.",
    "outliers": "The images whose severity lies furthest from what their level lets expect (the paper's Fig. 5).",
    "matched_pairs": "Equal severity from very different levels: in each pair one image at a high level beside another at a low one.",
    "reconstructions": "The level t rises from top to bottom, the severity σ̂ only mostly. Under each image: PSNR and denoiser evaluations (NFE).",
    "quality_against_steps": "Quality against evaluations (the paper's Fig. 2). "
    "The line joins starts that are the same for all images; the marks choose per image. Intervals are of the difference to the full-length "
    "baseline on the same images: one that leaves out its dashed line is a difference that chance does not explain.",
    "start_distribution": "Where the walks begin, over the test images.",
    "quality_of_methods": "Flash, its controls and its baselines; in brackets the mean number of evaluations. Intervals are of the difference to the "
    "full-length baseline on the same images, as above.",
    "starts_by_severity": "What a start per image can gain: fixed starts for the images of each third of severity. A line that is flat around "
    "its dotted mark says that the exact start matters little there.",
    "gains_of_pairs": "Flash against the full-length baseline of the same solver, on the same images, with 95% intervals: right of the "
    "line in the first two panels is a gain (PSNR: logarithmic beyond 1 dB). Every pair of a degradation and a solver, with both start rules.",
    "wall_clock": "Measured seconds per image on the machine that ran this study, one timing each: equal work differs by a tenth. Where all images "
    "fit into one batch, nothing takes the place of those that finish early.",
}
TABLE_CAPTIONS = {
    "severity_correlations": "Correlation of predicted severity with the level, the true error, and the quality of what is decoded without diffusion.",
    "quality": "Mean quality and cost of every method; brackets are 95% intervals over images, whose spread all methods share.",
    "paired": "Gains of Flash on the same images; an interval above zero is a gain that chance does not explain. "
    "The controls (severities of other images, random starts) walk with the start rule of the method they stand beside.",
    "headroom": "What choosing the start can gain over the best start for all. The choices know the PSNR they reach, so no rule that chooses "
    "from these starts gains more; the one per image follows the luck of the noise, too.",
}
AGAINST = {
    "t": "level t",
    "sbar": "true latent error s̄",
    "psnr": "PSNR of D(ẑ)",
    "perceptual": "{perceptual} of D(ẑ)",
}
"""What severity is correlated with, in words; the distance has the name of what measured it."""
AGAINST_CONTROLS = {
    "adaptive_vs_best_fixed": "over one fixed start of equal cost for all images",
    "shuffled_severity": "over the severities of other images",
}
"""What the adaptive choice itself is worth: claim to words."""
COLUMNS = {
    "nfe": "NFE",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "psnr gain db": "PSNR gain (dB)",
    "ssim gain": "SSIM gain",
    "nfe ratio": "NFE, baseline / method",
}
"""What heads a table's columns, in words."""
PARTS = (
    ("What the encoder is asked", "train_severity", False, ()),
    ("Does it order severity?", "order", False, ()),
    ("Is predicted severity the true severity?", "correlate", False, ("severity_correlations",)),
    ("Reconstruction", "reconstruct", True, ("quality", "paired")),
    ("Speed, and what is left to gain", "speedup", True, ("headroom",)),
)


def assemble(folder: str | Path, study: str, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Path:
    """Write reports/index.html below a study's folder from its metrics, tables and figures; returns its path.

    Raises FileNotFoundError naming a missing metrics file.
    """
    from jinja2 import Environment

    reports = Path(folder) / "reports"
    records = headline.collect(folder, study, degradations, pairs)
    # what readers call the distances is the study's, and the same for all pairs
    distances = read_json(reports / f"metrics/reconstruction-{'-'.join(pairs[0])}.json")["distances"]
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files("flashdiff.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    page = template.render(
        study=study,
        n=max(r["n"] or 0 for r in records if r["claim"] == "psnr_gain_db"),
        results=[
            (encoder_sentence(records, d), [sentence(records, d, solver) for of, solver in pairs if of == d])
            for d in dict.fromkeys(d for d, _ in pairs)
        ],
        many=len(pairs) > 4,
        overview=_figure(reports, overview)
        if (overview := reports / "comparisons/gains_of_pairs.png").is_file()
        else None,
        claims={_title(d): _claims_table([r for r in records if r["degradation"] == d]) for d in degradations},
        comparisons=_html(_readable(comparisons(folder, pairs), distances)),
        across_solvers=_across_solvers(reports, distances),
        sections=[_section(reports, d, [solver for of, solver in pairs if of == d], distances) for d in degradations],
        distances=distances,
        own_features=distances["perceptual"] == DISTANCES["features"]["perceptual"],
        # the report's own notebook is written after this page, and would appear from the second run on
        notebooks=[
            p.relative_to(reports).as_posix()
            for p in sorted((reports / "notebooks").glob("*.ipynb"))
            if p.name != "07_report.ipynb"
        ],
    )
    path = reports / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def comparisons(folder: str | Path, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """All pairs in one table, from their metrics files; raises FileNotFoundError naming a missing one."""
    metrics = Path(folder) / "reports/metrics"
    return tables.comparisons({(d, s): read_json(metrics / f"reconstruction-{d}-{s}.json") for d, s in pairs})


def _across_solvers(reports: Path, distances: Mapping[str, str]) -> str | None:
    """The table of all solvers against one reference; None where every degradation has one solver."""
    path = reports / "comparisons/across_solvers.csv"
    if not path.is_file() or (table := pd.read_csv(path)).degradation.is_unique:
        return None
    return _html(_readable(table, distances))


def encoder_sentence(records: Sequence[Mapping], degradation: str) -> str:
    """The main result of one degradation's severity encoder in plain words (HTML), read off the records."""
    of = {r["claim"]: r["value"] for r in records if r["degradation"] == degradation}
    return (
        f"<strong>{escape(_title(degradation))}:</strong> the severity encoder puts {_number(of['ordering_accuracy'], '.1%')} of all "
        f"pairs of levels in the right order, and its severity correlates with the true error at {_number(of['spearman_error'], '.2f')} (Spearman)."
    )


def sentence(records: Sequence[Mapping], degradation: str, solver: str) -> str:
    """The main result of one degradation and solver in plain words (HTML), read off the records."""

    def of(claim: str, start: str, unit: str | None = None) -> Mapping | None:
        return next((
            r for r in records
            if (r["claim"], r["degradation"], r["solver"], r["start"]) == (claim, degradation, solver, start)
            and unit in (None, r["unit"])
        ), None)  # fmt: skip

    parts, controls = [], []
    for start in headline.STARTS:
        nfe, gain, distance = (of(claim, start) for claim in ("nfe_ratio", "psnr_gain_db", "perceptual_gain"))
        parts.append(
            f"{'with the published start' if start == 'published' else 'with the consistent start'} Flash needs "
            f"{_fewer(nfe['value'])} denoiser evaluations {'as' if nfe['value'] == 1 else 'than'} the full-length baseline, {_gain(gain, 'PSNR')} and "
            f"{_gain(distance, distance['distance'])}"
        )
    for claim, words in AGAINST_CONTROLS.items():
        found = {start: r for start in headline.STARTS if (r := of(claim, start, unit="dB"))}
        if found:
            gains = ", ".join(f"{headline.describe(r)} ({start} start)" for start, r in found.items())
            controls.append(f" Gain in PSNR {words}: {gains}.")
    return f"<strong>{escape(solver_label(solver))}:</strong> {'; '.join(parts)}.{''.join(controls)}"


def _gain(record: Mapping, what: str) -> str:
    """ "PSNR is better by 1.2 dB [..]", or worse by, or not distinguishable from the baseline's."""
    if record["value"] is None:
        return f"{what} was not measured"
    if record["low"] > 0:
        return f"{what} is better by {headline.describe(record)}"
    if record["high"] < 0:
        loss = {"value": -record["value"], "low": -record["high"], "high": -record["low"]}
        return f"{what} is worse by {headline.describe({**record, **loss})}"
    return f"{what} is not distinguishable from the baseline's (difference {headline.describe(record)})"


def _number(value: float | None, form: str) -> str:
    return "(not measured)" if value is None else format(value, form)


def _fewer(ratio: float | None) -> str:
    return "as many" if ratio == 1 else f"{_number(ratio, '.1f')} times fewer"


def _title(degradation: str) -> str:
    return degradation.replace("_", " ").capitalize()


def _claims_table(records: Sequence[Mapping]) -> str:
    """One degradation's; what is claimed of its encoder is said once, not for every solver."""
    of_encoder = {r["claim"]: {**r, "solver": None} for r in records if r["claim"] in headline.PER_ENCODER}
    of_pairs = [r for r in records if r["claim"] not in headline.PER_ENCODER]
    table = headline.to_frame([*of_encoder.values(), *of_pairs]).drop(columns="degradation")
    html = _html(table)
    for verdict in ("not reproduced", "reproduced", "described", "not tested"):
        html = html.replace(f"<td>{verdict}</td>", f'<td class="{verdict.replace(" ", "-")}">{verdict}</td>')
    return html


def _html(table: pd.DataFrame) -> str:
    """The table as HTML; pandas escapes its text."""
    return table.to_html(index=False, border=0, na_rep="")


def _section(reports: Path, degradation: str, solvers: Sequence[str], distances: Mapping[str, str]) -> dict:
    parts = []
    for title, stage, per_solver, names in PARTS:
        for item in [f"{degradation}-{solver}" for solver in solvers] if per_solver else [degradation]:
            images = sorted((reports / "figures" / f"{stage}-{item}").glob("*.png"))
            images += sorted((reports / "timings" / f"{stage}-{item}").glob("*.png"))
            parts.append(
                {
                    "title": title
                    if len(solvers) == 1 or not per_solver
                    else f"{title}: {solver_label(item.rsplit('-', 1)[1])}",
                    "tables": [t for t in (_table(reports, name, item, distances) for name in names) if t],
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


def _table(reports: Path, name: str, item: str, distances: Mapping[str, str]) -> dict | None:
    path = reports / "tables" / f"{name}-{item}.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    if table.empty:
        return None
    return {"caption": TABLE_CAPTIONS[name], "html": _html(_readable(table, distances))}


def _readable(table: pd.DataFrame, distances: Mapping[str, str]) -> pd.DataFrame:
    """A table of numbers and names as one of texts; distances: what readers call the two."""
    gain = {"perceptual gain": f"{distances['perceptual']} gain (relative)"}
    table = with_intervals(table).rename(columns={**COLUMNS, **distances, **gain})
    if "degradation" in table:
        table["degradation"] = table["degradation"].str.replace("_", " ")
    for column in ("solver", "reference"):
        if column in table:
            table[column] = table[column].map(solver_label)
    if "sigma hat against" in table:
        table["sigma hat against"] = table["sigma hat against"].replace(
            {name: words.format(**distances) for name, words in AGAINST.items()}
        )
        table = table.rename(columns={"sigma hat against": "σ̂ against"})
    for column in ("method", "baseline"):
        if column in table:
            table[column] = table[column].map(label)
    return table


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Columns x, x_low, x_high become one readable column "x [low, high]", integers stay, and NaN is an empty cell, or
    "not measured" where the column has no number at all.

    All numbers of a column have the same decimals, fewer the larger its numbers are.
    """
    readable = {}
    for column in table:
        if column.endswith(("_low", "_high")):
            continue
        values, interval = table[column], [f"{column}_low", f"{column}_high"]
        bounds = table[interval] if set(interval) <= set(table) else None
        if pd.api.types.is_numeric_dtype(values):
            largest = values.abs().max()
            digits = 0 if largest >= 100 else 1 if largest >= 50 else 3 if largest < 2 else 2
            if bounds is None and pd.api.types.is_integer_dtype(values):
                digits = 0
            text = values.map(lambda v, d=digits: f"{v:.{d}f}")
            if bounds is not None:
                brackets = [f" [{low:.{digits}f}, {high:.{digits}f}]" for low, high in bounds.to_numpy()]
                text += pd.Series(brackets, index=table.index).where(bounds.notna().all(axis=1), "")
            values = text.where(values.notna(), "" if values.notna().any() else "not measured")
        readable[column.replace("_", " ")] = values
    return pd.DataFrame(readable)
