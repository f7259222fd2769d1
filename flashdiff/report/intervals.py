"""Intervals of per-image numbers: bootstrap, paired comparisons of methods on the same images, correlations."""

import functools
import inspect
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy.stats

from flashdiff.measures import MEASURES
from flashdiff.study.records import significant

ENTRIES = 2**22
"""Numbers of one column that are resampled at once where a statistic takes many resamples: 32 MB."""


def pearson(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson's correlation along an axis."""
    return scipy.stats.pearsonr(a, b, axis=axis).statistic


def spearman(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's correlation along an axis: Pearson's of the ranks (SciPy's own takes one pair of columns at a time)."""
    return pearson(scipy.stats.rankdata(a, axis=axis), scipy.stats.rankdata(b, axis=axis), axis=axis)


def ratio_of_means(a: np.ndarray, b: np.ndarray, axis: int | None = None) -> float | np.ndarray:
    """mean(a) / mean(b) along an axis, by default of all."""
    return np.mean(a, axis) / np.mean(b, axis)


CORRELATIONS = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": lambda a, b: scipy.stats.kendalltau(a, b).statistic,
}


def bootstrap(
    columns: np.ndarray | tuple[np.ndarray, ...], statistic: Callable[..., float], n_resamples: int, seed: int = 0
) -> dict[str, float | int | None]:
    """{"value", "low", "high", "n"}: a statistic of per-image columns (n,) with its 95% percentile bootstrap interval.

    Images are resampled, all columns of an image together. statistic(*columns) -> number, or, where it has a parameter
    ``axis``, one number per resample of columns (resamples, n). Value and bounds are None
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
        lambda *resampled, **axis: statistic(*resampled, **axis),
        paired=True,
        vectorized="axis" in inspect.signature(statistic).parameters,
        batch=max(1, ENTRIES // len(columns[0])),
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in result.confidence_interval)
    if not (math.isfinite(low) and math.isfinite(high)):
        return unknown
    return {"value": significant(value), "low": significant(low), "high": significant(high), "n": len(columns[0])}


def crossed_bootstrap(
    columns: np.ndarray | tuple[np.ndarray, ...], statistic: Callable[..., float], n_resamples: int, seed: int = 0
) -> dict[str, float | int | None]:
    """{"value", "low", "high", "n", "seeds"}: a statistic of the means of columns (S, n), of S training seeds and n
    images, with its 95% percentile bootstrap interval over both.

    Seeds and images are resampled independently of one another: an image that is drawn twice counts twice in every
    seed, and all columns of a seed and an image stay together. A column (n,) is the same in every seed.
    statistic(*means) -> number. One seed gives the interval over images. Value and bounds are None where one of them is
    no finite number, or n < 2.
    """
    columns = columns if isinstance(columns, tuple) else (columns,)
    columns = np.broadcast_arrays(*(np.atleast_2d(np.asarray(column, dtype=float)) for column in columns))
    n_seeds, n = columns[0].shape
    unknown = {"value": None, "low": None, "high": None, "n": n, "seeds": n_seeds}
    if n < 2 or not all(np.isfinite(column).all() for column in columns):
        return unknown
    value = float(statistic(*(column.mean() for column in columns)))
    # images are drawn first and by themselves, so that further seeds that agree with the first change nothing
    of_images, of_seeds = (_shares(count, n_resamples, seed, use) for use, count in enumerate((n, n_seeds)))
    means = [np.einsum("bs,sn,bn->b", of_seeds, column, of_images, optimize=True) for column in columns]
    low, high = np.percentile([statistic(*resampled) for resampled in zip(*means, strict=True)], [2.5, 97.5])
    if not all(map(math.isfinite, (value, low, high))):
        return unknown
    return unknown | {"value": significant(value), "low": significant(low), "high": significant(high)}


@functools.lru_cache(maxsize=4)
def _shares(count: int, n_resamples: int, seed: int, use: int) -> np.ndarray:
    """How often each of ``count`` is drawn in every resample, as shares (n_resamples, count) that sum to 1."""
    drawn = np.random.default_rng((seed, use)).integers(0, count, (n_resamples, count))
    places = (drawn + count * np.arange(n_resamples)[:, None]).ravel()
    return np.bincount(places, minlength=n_resamples * count).reshape(n_resamples, count) / count


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
    return gains | {"nfe_ratio": bootstrap((theirs["nfe"], ours["nfe"]), ratio_of_means, n_resamples, seed)}
