"""reports/index.html: the study on one static page, from the files its stages wrote. Works offline; equal runs, equal bytes."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import pandas as pd

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report import headline, tables
from flashdiff.report.names import DISTANCES, label, measure_label, measure_with_unit, solver_label
from flashdiff.study.methods import main_rule
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
    "ablation": "What the encoder's training does: true error of the latent by level, after trainings from the prior's own encoder that differ "
    "in loss, architecture and number of steps alone, on validation images; lower is better, and where lines part, that choice matters.",
    "frontier": "Quality against evaluations. Lines join what one method reaches at each budget, tuned on validation images for the measure of "
    "the panel; marks are the long walks; the level at the left edge is what no diffusion reaches. All on the same images; intervals, over "
    "training seeds and images, are of the difference to the full-length baseline: one that leaves out its dashed line is a difference that "
    "chance does not explain. Flash chooses the start, and where it pays the number of steps, per image; the fixed walks have one start and "
    "as many steps for all images, forward diffusion adds fresh noise alone; the oracle starts where the true error says; another solver "
    "starts as Flash does.",
    "gain_over_fixed": "What a start and a number of steps per image gain over the best ones for all images at equal mean cost, both tuned for "
    "the measure of the panel. Intervals are over training seeds and images; zero is no gain.",
    "gain_by_severity": "Where that comes from: what few steps gain over no diffusion, for each quarter of the images from low to high severity. A solid "
    "line above its dashed one is what the choice per image is worth there. Lines that rise alike say that a further step is worth as much on "
    "easy images as on hard ones, so that moving steps from one to the other gains nothing.",
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
    "line in the first {panels} panels is a gain (PSNR: logarithmic beyond 1 dB). Every pair of a degradation and a solver, with {starts}.",
    "wall_clock": "Measured seconds per image on the machine that ran this study, one timing each: equal work differs by a tenth. Where all images "
    "fit into one batch, nothing takes the place of those that finish early.",
}
TABLE_CAPTIONS = {
    "severity_correlations": "Correlation of predicted severity with the level, the true error, and the quality of what is decoded without diffusion.",
    "ablation": "One training of the severity encoder each, from the prior's own encoder: its true latent error at five levels t (lower is better), "
    "and over these mean σ̂ / mean true error (“calibration ratio”; 1: it knows its own error) and the mean PSNR of D(ẑ).",
    "budgets": "Few-step walks at every budget, tuned on validation images for the measure that is named, and the long walks: mean cost and quality. "
    "Brackets are 95% intervals over training seeds and images, whose spread all methods share; long walks have fewer images.",
    "budget_gains": "Gains of Flash with few steps over everything else, on the images and training seeds that both have, with 95% intervals over "
    "both: above zero is a gain that chance does not explain. Walks of a budget are compared tuned for the same measure.",
    "quality": "Mean quality and cost of every method; brackets are 95% intervals over images, whose spread all methods share.",
    "paired": "Gains of Flash on the same images; an interval above zero is a gain that chance does not explain. "
    "The controls (severities of other images, random starts) walk with the start rule of the method they stand beside.",
    "headroom": "What choosing the start can gain over the best start for all. The choices know the PSNR they reach, so no rule that chooses "
    "from these starts gains more; the one per image follows the luck of the noise, too.",
}
AGAINST = {"t": "level t", "sbar": "true latent error s̄"}
"""What severity is correlated with, besides the measures of what is decoded without diffusion, in words."""
AGAINST_CONTROLS = {
    "adaptive_vs_best_fixed": "over one fixed start of equal cost for all images",
    "shuffled_severity": "over the severities of other images",
}
"""What the adaptive choice itself is worth: claim to words."""
COLUMNS = {
    "budget": "evaluations asked",
    "nfe": "NFE",
    "nfe ratio": "NFE, baseline / method",
}
"""What heads a table's columns, in words, besides the measures and the gains in them."""
PARTS = (
    ("What the encoder is asked", "train_severity", False, ()),
    ("Does it order severity?", "order", False, ()),
    ("Is predicted severity the true severity?", "correlate", False, ("severity_correlations",)),
    ("What its training does", "ablation", False, ("ablation",)),
    ("Few steps", "frontier", True, ("budgets", "budget_gains")),
    ("Reconstruction", "reconstruct", True, ("quality", "paired")),
    ("Speed, and what is left to gain", "speedup", True, ("headroom",)),
)
OPTIONAL = ("ablation",)
"""Stages whose part is left out where the study has nothing of it."""
NOTEBOOKS = (
    ("01_download", "02_train_prior", "02_use_prior", "03_look_at_prior"),
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
    ),
)
"""The executed notebooks that the page links: of the study, of each degradation, of each pair; the report's own is written
after the page, and would appear from the second run on."""
OPENING = "frontier"
"""The figure of each pair that stands beside its main result, at the top of the page, where there is room for all pairs'."""
NUMBERS = {2: "two", 3: "three", 4: "four"}


def assemble(
    folder: str | Path,
    study: str,
    degradations: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    target: str | Path | None = None,
) -> Path:
    """Write the page of a study's folder from its metrics, tables and figures; returns its path.

    target: by default reports/index.html below the folder, where its links lead. Raises FileNotFoundError naming a missing
    metrics file.
    """
    from jinja2 import Environment

    reports = Path(folder) / "reports"
    records = headline.collect(folder, study, degradations, pairs)
    # what readers call the distances is the study's, and the same for all pairs
    distances = read_json(reports / f"metrics/reconstruction-{'-'.join(pairs[0])}.json")["distances"]
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files("flashdiff.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    )
    many = len(pairs) > 4
    page = template.render(
        study=study,
        n=max(r["n"] or 0 for r in records if r["claim"] == "nfe_ratio"),
        results=[
            (
                encoder_sentence(records, d),
                [sentence(records, d, solver) for of, solver in pairs if of == d],
                [] if many else _opening(reports, d, [solver for of, solver in pairs if of == d]),
            )
            for d in dict.fromkeys(d for d, _ in pairs)
        ],
        many=many,
        overview=_overview(reports, headline.starts(records)),
        claims={_title(d): _claims_table([r for r in records if r["degradation"] == d]) for d in degradations},
        comparisons=_html(_readable(comparisons(folder, pairs), distances)),
        across_solvers=_across_solvers(reports, distances),
        main_start=main_rule(headline.starts(records)),
        sections=[
            _section(reports, d, [solver for of, solver in pairs if of == d], distances, () if many else (OPENING,))
            for d in degradations
        ],
        distances=distances,
        own_features=distances["perceptual"] == DISTANCES["features"]["perceptual"],
        notebooks=_notebooks(reports, degradations, pairs),
    )
    path = reports / "index.html" if target is None else Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _notebooks(reports: Path, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Links to the executed notebooks of what the study has now; what a removed pair or degradation left is not among them."""
    items = ([""], [f"-{degradation}" for degradation in degradations], [f"-{d}-{solver}" for d, solver in pairs])
    names = [f"{name}{item}.ipynb" for group, of in zip(NOTEBOOKS, items, strict=True) for name in group for item in of]
    paths = [reports / "notebooks" / name for name in names]
    return [path.relative_to(reports).as_posix() for path in paths if path.is_file()]


def _overview(reports: Path, starts: Sequence[str]) -> dict | None:
    """The figure of all pairs with its caption; None where it was not drawn."""
    path = reports / "comparisons/gains_of_pairs.png"
    if not path.is_file():
        return None
    figure, count = _figure(reports, path), len(in_figures())
    rules = "one start rule" if len(starts) == 1 else "both start rules" if len(starts) == 2 else "all start rules"
    return figure | {"caption": figure["caption"].format(panels=NUMBERS.get(count, count), starts=rules)}


def _opening(reports: Path, degradation: str, solvers: Sequence[str]) -> list[dict]:
    """The figures of a degradation that open the page, those that were drawn; captions say which pair's they are."""
    found = []
    for solver in solvers:
        path = reports / "figures" / f"frontier-{degradation}-{solver}" / f"{OPENING}.png"
        if path.is_file():
            figure = _figure(reports, path)
            head = f"{_title(degradation)}, {solver_label(solver)}."
            found.append(figure | {"caption": f"{head} {figure['caption']}"})
    return found


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
        f"pairs of levels in the right order, and its severity correlates with the true error at {_number(of['spearman_error'], '.2f')} (Spearman). "
        f"Asking it, once per image, costs {_number(of['encoder_cost'], '.2f')} of a guided evaluation."
    )


def sentence(records: Sequence[Mapping], degradation: str, solver: str) -> str:
    """The main result of one degradation and solver in plain words (HTML), read off the records."""

    def of(claim: str, start: str, measure: str | None = None) -> Mapping | None:
        return next((
            r for r in records
            if (r["claim"], r["degradation"], r["solver"], r["start"]) == (claim, degradation, solver, start)
            and measure in (None, r["measure"])
        ), None)  # fmt: skip

    parts, controls = [], []
    starts = headline.starts([r for r in records if (r["degradation"], r["solver"]) == (degradation, solver)])
    for start in starts:
        nfe, gains = of("nfe_ratio", start), [of(measure.gain, start) for measure in in_figures()]
        *first, last = [
            f"with the {start} start Flash needs {_fewer(nfe['value'])} denoiser evaluations "
            f"{'as' if nfe['value'] == 1 else 'than'} the full-length baseline",
            *(_gain(gain, headline.measured_in(gain)) for gain in gains),
        ]
        parts.append(f"{', '.join(first)} and {last}")
    main = next(iter(MEASURES.values()))
    for claim, words in AGAINST_CONTROLS.items():
        found = {start: r for start in starts if (r := of(claim, start, main.name))}
        if found:
            gains = ", ".join(f"{headline.describe(r)} ({start} start)" for start, r in found.items())
            controls.append(f" Gain in {measure_label(main)} {words}: {gains}.")
    few = _few_steps(records, degradation, solver)
    return f"<strong>{escape(solver_label(solver))}:</strong> {'; '.join(parts)}.{''.join(controls)}{few}"


def _few_steps(records: Sequence[Mapping], degradation: str, solver: str) -> str:
    """What few steps cost to beat the baseline, and where they beat one choice for all images; "" without their records."""
    found = [r for r in records if (r["degradation"], r["solver"]) == (degradation, solver)]
    ratio = next((r for r in found if r["claim"] == "nfe_ratio_100"), None)
    if ratio is None:
        return ""
    if ratio["value"] is not None:
        text = f" With few steps Flash beats the baseline in PSNR and distance with {ratio['value']:.0f} times fewer evaluations."
    else:
        words = "was not tested" if ratio["verdict"] == "not tested" else "is not shown at any budget"
        text = f" That Flash with few steps beats the baseline in PSNR and distance {words}."
    for measure in in_figures():
        gains = [r for r in found if r["claim"] == "adaptive_vs_best_fixed_few" and r["measure"] == measure.name]
        gains = [r for r in gains if r["value"] is not None]
        if gains:
            each = ", ".join(f"{headline.describe(r)} at {r['budget']:g}" for r in gains)
            text += f" Gain in {headline.measured_in(gains[0])} over the best fixed start and steps, by evaluations: {each}."
    return text


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
    if ratio is not None and ratio < 1:  # a start may cost more evaluations than it saves
        return f"{1 / ratio:.1f} times more"
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


def _section(
    reports: Path, degradation: str, solvers: Sequence[str], distances: Mapping[str, str], shown: Sequence[str]
) -> dict:
    """A degradation's section; shown: figures that stand elsewhere on the page."""
    parts = []
    for title, stage, per_solver, names in PARTS:
        for item in [f"{degradation}-{solver}" for solver in solvers] if per_solver else [degradation]:
            images = sorted((reports / "figures" / f"{stage}-{item}").glob("*.png"))
            images += sorted((reports / "timings" / f"{stage}-{item}").glob("*.png"))
            images = [image for image in images if image.stem not in shown]
            found = [t for t in (_table(reports, name, item, distances) for name in names) if t]
            if stage in OPTIONAL and not (images or found):
                continue
            parts.append(
                {
                    "title": title
                    if len(solvers) == 1 or not per_solver
                    else f"{title}: {solver_label(item.rsplit('-', 1)[1])}",
                    "tables": found,
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
    heads = COLUMNS | dict(distances)
    against = dict(AGAINST)
    for name, measure in MEASURES.items():
        unit = "relative" if measure.relative else measure.unit
        words = measure_label(measure, distances)
        heads[name.replace("_", " ")] = measure_with_unit(measure, distances)
        heads[measure.gain.replace("_", " ")] = f"{words} gain" + (f" ({unit})" if unit else "")
        against[name] = f"{words} of D(ẑ)"
    if "budget" in table:  # long walks have none, and what has gaps is read as fractions
        table = table.assign(budget=table.budget.map("{:g}".format).where(table.budget.notna(), ""))
    table = with_intervals(table).rename(columns=heads)
    for column in ("degradation", "architecture"):
        if column in table:
            table[column] = table[column].str.replace("_", " ")
    for column in ("solver", "reference"):
        if column in table:
            table[column] = table[column].map(solver_label)
    if "sigma hat against" in table:
        table["sigma hat against"] = table["sigma hat against"].replace(against)
        table = table.rename(columns={"sigma hat against": "σ̂ against"})
    if "tuned for" in table:
        named = {name: measure_label(measure, distances) for name, measure in MEASURES.items()}
        table["tuned for"] = table["tuned for"].map(named).fillna("")
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
