"""How sure, where: several samples of an image's posterior, their spread in every pixel, and whether it tells the error.

Two things are asked of a spread. Does it rank the pixels as their errors do (sparsification: the error that is left when
the least sure pixels are taken away)? And is it as large as the error (coverage of intervals)?
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from flashdiff.degradations import Measurement
from flashdiff.flash import Flash
from flashdiff.severity import Severity

DRAW = 2**40
"""Sample k of the image with id i walks as the image i + k DRAW: with noise of its own."""


@dataclass(frozen=True)
class _OfSamples:
    """A degradation that samples of one image share: masks and kernels are those of the image, whatever the sample's id."""

    degradation: Any

    def prepare(self, t, image_shape, ids):
        return self.degradation.prepare(t, image_shape, np.asarray(ids) % DRAW)

    def __getattr__(self, name):
        if name.startswith("__") or name == "degradation":  # not what copying and pickling look for
            raise AttributeError(name)
        return getattr(self.degradation, name)


def posterior_samples(
    flash: Flash, measurement: Measurement, samples: int, severity: Severity | None = None, title: str | None = None
) -> tuple[Tensor, Tensor]:
    """Samples (n, M, C, H, W) in [-1, 1] of every measured image, and what each took: evaluations (n, M).

    All samples of an image are batch-mates with noise of their own in the start and in every step that adds some; the first
    is what ``flash`` reaches by itself. severity replaces the encoder's answer. Samples of a rule that adds no noise agree.
    """
    if samples < 2:
        raise ValueError(f"samples: {samples} of each image have no spread; give 2 or more.")
    n = len(measurement)
    severity = flash.encoder.infer(measurement.y, flash.batch_size) if severity is None else severity
    rows = np.repeat(np.arange(n), samples)
    several = measurement.select(rows)
    several = replace(
        several,
        degradation=_OfSamples(measurement.degradation),
        ids=several.ids + DRAW * np.tile(np.arange(samples, dtype=np.int64), n),
    )
    told = Severity(*(column[torch.from_numpy(rows).to(column.device)] for column in severity))
    result = flash(several, told, title=title)
    return result.images.unflatten(0, (n, samples)), result.nfe.unflatten(0, (n, samples))


def mean_and_spread(samples: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of samples (n, M, C, H, W) the mean, and the standard deviation with M - 1 below: each (n, C, H, W), float64."""
    samples = samples.double()
    return samples.mean(1).numpy(), samples.std(1).numpy()


# ------------------------------------------------------------------------------------------------- ranks: sparsification


def sparsification(error: np.ndarray, uncertainty: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """The root mean squared error of the pixels that are left, over that of all, when a fraction is taken away.

    error, uncertainty (P,): of the pixels of an image; the most uncertain go first, and of equal ones the mean over all
    orders is taken, so that an uncertainty that is the same everywhere gives 1. Fractions in [0, 1); at least one pixel
    stays. Source: Ilg et al. 2018. NaN where the error is 0 throughout.
    """
    fractions = np.asarray(fractions, dtype=float)
    if not ((fractions >= 0) & (fractions < 1)).all():
        raise ValueError(f"fractions: {fractions.tolist()}; give shares of pixels from 0 to below 1.")
    squared = np.asarray(error, dtype=float).ravel() ** 2
    _, group, count = np.unique(np.asarray(uncertainty).ravel(), return_inverse=True, return_counts=True)
    of_group = np.bincount(group, weights=squared) / count  # of equal uncertainties every pixel counts as their mean
    kept = np.cumsum(np.repeat(of_group, count))  # the surest first
    left = np.maximum(1, np.rint(len(squared) * (1 - fractions)).astype(int))
    mean = squared.mean()
    return np.sqrt(kept[left - 1] / left / mean) if mean > 0 else np.full(len(fractions), np.nan)


def ause(error: np.ndarray, uncertainty: np.ndarray, fractions: Sequence[float]) -> tuple[float, float]:
    """The area between an uncertainty's sparsification and the oracle's, which takes the largest errors away first; and that
    of a random order: 0 is the oracle, the second number what no knowledge gives."""
    oracle = sparsification(error, np.abs(error), fractions)
    own = sparsification(error, uncertainty, fractions)
    return float((own - oracle).mean()), float((1 - oracle).mean())


# ------------------------------------------------------------------------------------------------------ size: coverage


def interval_factor(level: float, samples: int | None) -> float:
    """How many spreads an interval of nominal ``level`` reaches to either side of the mean of M samples.

    For samples and truth drawn independently from one Gaussian: Student's t with M - 1 degrees of freedom times
    sqrt(1 + 1/M), which covers with probability ``level`` exactly. None: spread and mean are those of the posterior itself.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: {level:g}; give a probability between 0 and 1.")
    if samples is None:
        return float(scipy.stats.norm.ppf((1 + level) / 2))
    return float(scipy.stats.t.ppf((1 + level) / 2, samples - 1) * np.sqrt(1 + 1 / samples))


def coverage(
    error: np.ndarray, spread: np.ndarray, level: float, samples: int | None, scale: float = 1.0
) -> float:  # fmt: skip
    """The share of pixels (P,) whose error is within ``scale`` times the interval of that nominal level; NaN of no pixels."""
    inside = np.abs(error) <= scale * interval_factor(level, samples) * spread
    return float(inside.mean()) if inside.size else float("nan")


def fitted_scale(error: np.ndarray, spread: np.ndarray, level: float, samples: int | None) -> float:
    """The smallest factor with which intervals of that nominal level cover as many of these pixels (P,).

    Infinite where too many pixels have an error and no spread.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(error) / (interval_factor(level, samples) * spread)
    ratio = np.sort(np.where(error == 0, 0.0, ratio))
    return float(ratio[int(np.ceil(level * len(ratio))) - 1])
