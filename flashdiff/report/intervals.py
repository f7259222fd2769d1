"""Intervals of per-image numbers: bootstrap, paired comparisons of methods on the same images, correlations."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.stats

from flashdiff.measures import MEASURES
from flashdiff.study.records import significant

CORRELATIONS = {
    "pearson": lambda a, b: scipy.stats.pearsonr(a, b).statistic,
    "spearman": lambda a, b: scipy.stats.spearmanr(a, b).statistic,
    "kendall": lambda a, b: scipy.stats.kendalltau(a, b).statistic,
}


def bootstrap(
    columns: np.ndarray | tuple[np.ndarray, ...], statistic: Callable[..., float], n_resamples: int, seed: int = 0
) -> dict[str, float | int | None]:
    """{"value", "low", "high", "n"}: a statistic of per-image columns (n,) with its 95% percentile bootstrap interval.

    Images are resampled, all columns of an image together. statistic(*columns) -> number. Value and bounds are None
    where one of them is no finite number: of a column that was not measured (NaN), or of too few images.
    """
    columns = columns if isinstance(columns, tuple) else (columns,)
    unknown = {"value": None, "low": None, "high": None, "n": len(columns[0])}
    if len(columns[0]) < 2 or not all(np.isfinite(column).all() for column in columns):
        return unknown
    value = float(statistic(*columns))
    if not math.isfinite(value):
        return unknown
    result = scipy.stats.bootstrap(
        columns,
        lambda *resampled: statistic(*resampled),
        paired=True,
        vectorized=False,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        return unknown
    return {"value": significant(value), "low": significant(low), "high": significant(high), "n": len(columns[0])}


def by_method(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of the reconstruction rows as a table image x method; refuses images that a method lacks.

    A column that is NaN throughout was not measured, and stays.
    """
    table = rows.pivot(index="image", columns="method", values=column)
    if table.isna().any().any() and not rows[column].isna().all():
        lacking = ", ".join(table.columns[table.isna().any()])
        raise ValueError(
            f"{column}: {lacking} lacks images that other methods have, or holds NaN; rerun stage reconstruct."
        )
    return table


def paired_gains(rows: pd.DataFrame, method: str, baseline: str, n_resamples: int, seed: int = 0) -> dict:
    """Gains of a method over a baseline on the same images, with intervals: one per measure, under the name of its gain,
    and nfe_ratio (mean of the baseline / mean of the method)."""
    column = {name: by_method(rows, name) for name in (*MEASURES, "nfe")}
    ours = {name: table[method].to_numpy(dtype=float) for name, table in column.items()}
    theirs = {name: table[baseline].to_numpy(dtype=float) for name, table in column.items()}

    def interval(statistic, name):
        return bootstrap((ours[name], theirs[name]), statistic, n_resamples, seed)

    gains = {measure.gain: interval(measure.improvement, name) for name, measure in MEASURES.items()}
    return gains | {"nfe_ratio": interval(lambda a, b: np.mean(b) / np.mean(a), "nfe")}
