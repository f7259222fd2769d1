"""Tables as readers see them: numbers and names become texts, an interval stands in the cell of its value."""

from collections.abc import Mapping

import pandas as pd

from flashdiff.measures import MEASURES
from flashdiff.report.names import label, measure_label, measure_with_unit, solver_label

AGAINST = {"t": "level t", "sbar": "true latent error s̄"}
"""What severity is correlated with, besides the measures of what is decoded without diffusion, in words."""
COLUMNS = {
    "budget": "evaluations asked",
    "nfe": "NFE",
    "frechet distance": "Frechet distance",
    "minus no diffusion": "less that of D(ẑ)",
    "minus fixed": "less that of the best fixed start",
    "nfe ratio": "NFE, baseline / method",
    "true over assumed noise": "true / assumed noise",
    "latent error": "latent error s̄",
    "predicted error": "predicted error σ̂",
    "error ratio": "s̄ / s̄ of all classes",
    "psnr of z hat": "PSNR of D(ẑ) (dB)",
    "psnr few steps": "PSNR, few steps (dB)",
    "mean start": "mean start index",
    "over equal shares db": "over equal shares (dB)",
    "over tuned rule db": "over the tuned rule (dB)",
    "regret closed": "share of the regret closed",
    "psnr of one": "PSNR of one sample (dB)",
    "psnr of mean": "PSNR of the mean (dB)",
    "nfe of walk": "NFE of one long walk",
    "mean over one walk": "mean of samples over one long walk (dB)",
    "relative ause": "AUSE / AUSE of chance",
    "coverage": "coverage of 90% intervals",
    "factor": "fitted factor",
    "coverage scaled": "coverage with the factor",
    "spearman of spread": "Spearman, spread and error",
    "spearman of sigma": "Spearman, σ̂ and error",
}
"""What heads a table's columns, in words, besides the measures and the gains in them."""


WIDTH = 165
"""Characters that fit beside each other on paper, as report.css sets tables there."""


def html(table: pd.DataFrame) -> str:
    """The table as HTML, of the class "fits" where its rows fit on paper without a break; pandas escapes its text."""
    cells = [max(len(str(cell)) for cell in table[column]) for column in table]
    heads = [max(map(len, str(column).split())) for column in table]
    fits = sum(max(cell, head) + 2 for cell, head in zip(cells, heads, strict=True)) <= WIDTH
    return table.to_html(index=False, border=0, na_rep="", classes="fits" if fits else None)


def readable(table: pd.DataFrame, distances: Mapping[str, str]) -> pd.DataFrame:
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
    texts = {}
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
        texts[column.replace("_", " ")] = values
    return pd.DataFrame(texts)
