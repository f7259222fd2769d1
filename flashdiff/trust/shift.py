"""When to stop trusting: whether a measurement is of the kind that an encoder was calibrated on, by a conformal p-value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.stats

NONE = "none"
"""What a record of the study says where nothing is shifted, and where nothing walks."""


@dataclass(frozen=True)
class Reference:
    """The misfits of images that an encoder was calibrated on, in bins of its predicted severity.

    sigma_hat (n,), score (n,): of images of the right kind that no choice was made on; bins: groups of nearly equal count by
    sigma_hat. Higher scores are stranger. Raises ValueError for NaN, other lengths, or fewer images than bins.
    """

    sigma_hat: np.ndarray
    score: np.ndarray
    bins: int = 1

    def __post_init__(self):
        sigma_hat, score = np.asarray(self.sigma_hat, dtype=float), np.asarray(self.score, dtype=float)
        if sigma_hat.shape != score.shape or sigma_hat.ndim != 1:
            raise ValueError(f"score: shape {score.shape} for {sigma_hat.shape} severities; give one number per image.")
        if not (np.isfinite(sigma_hat).all() and np.isfinite(score).all()):
            raise ValueError("score: NaN or infinite values; remove these images.")
        if not 1 <= self.bins <= len(score):
            raise ValueError(f"bins: {self.bins} for {len(score)} images; give at least one image per bin.")
        object.__setattr__(self, "sigma_hat", sigma_hat)
        object.__setattr__(self, "score", score)

    @property
    def edges(self) -> np.ndarray:
        """The severities between bins (bins - 1,)."""
        return np.quantile(self.sigma_hat, np.arange(1, self.bins) / self.bins)

    def p_value(self, sigma_hat: np.ndarray, score: np.ndarray) -> np.ndarray:
        """(1 + images of the same bin that score at least as high) / (1 + images of the bin), per new image (m,).

        Under exchangeability with the images of its bin P(p <= a) <= a for every a, whatever the distribution; p is uniform
        on k / (n + 1) where no scores are equal. Source: Vovk et al. 2005; Bates et al. 2023 (one-sided tests of outliers).
        """
        own, new = bin_of(self.sigma_hat, self.edges), bin_of(sigma_hat, self.edges)
        score, p = np.asarray(score, dtype=float), np.empty(len(new))
        for number in range(self.bins):
            kept, at = np.sort(self.score[own == number]), new == number
            p[at] = (1 + len(kept) - np.searchsorted(kept, score[at], side="left")) / (1 + len(kept))
        return p

    def thresholds(self, alarm: float) -> "Thresholds":
        """What says p <= ``alarm`` without the images: a score above its bin's limit; inf where a bin has too few for that."""
        own, limits = bin_of(self.sigma_hat, self.edges), []
        for number in range(self.bins):
            kept = np.sort(self.score[own == number])[::-1]
            allowed = int(np.floor(alarm * (1 + len(kept)) + 1e-9))  # 0.05 x 100 is a little less than 5 in binary
            limits.append(float(kept[allowed - 1]) if allowed else float("inf"))
        return Thresholds(tuple(self.edges.tolist()), tuple(limits), alarm)


@dataclass(frozen=True)
class Thresholds:
    """The scores above which an image is flagged: edges (k,) of sigma_hat, limits (k + 1,), and the share of false alarms."""

    edges: tuple[float, ...]
    limits: tuple[float, ...]
    alarm: float

    def flagged(self, sigma_hat: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Whether each image (m,) is stranger than the share ``alarm`` of images of the right kind is."""
        return np.asarray(score) > np.array(self.limits)[bin_of(sigma_hat, self.edges)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no word for infinity: None."""
        return {
            "alarm": self.alarm,
            "edges": [float(f"{edge:.6g}") for edge in self.edges],
            "limits": [float(f"{limit:.6g}") if np.isfinite(limit) else None for limit in self.limits],
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote."""
        limits = (float("inf") if limit is None else float(limit) for limit in written["limits"])
        return cls(tuple(map(float, written["edges"])), tuple(limits), float(written["alarm"]))


def reference(rows: pd.DataFrame, encoder: str, bins: int) -> Reference:
    """What an encoder's p-values are held against, from the rows of the study's record."""
    own = rows[(rows.encoder == encoder) & (rows.split == "validation")]
    return Reference(own.sigma_hat.to_numpy(float), own.misfit.to_numpy(float), bins)


def bin_of(sigma_hat: np.ndarray, edges: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """The number of each image's bin (m,), 0 to len(edges); what lies beyond all images of the calibration is in an outer one."""
    return np.searchsorted(np.asarray(edges, dtype=float), np.asarray(sigma_hat, dtype=float), side="right")


def either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One p-value of two of the same image, twice the lesser: valid however the two depend on one another (Bonferroni)."""
    return np.minimum(1, 2 * np.minimum(first, second))


def auc(shifted: np.ndarray, own: np.ndarray, axis: int = -1) -> np.ndarray:
    """The chance that an image of another kind scores higher than one of the right kind, equal scores counted half: the area
    under the ROC, and Mann and Whitney's U over the number of pairs, by the ranks of all. Scores lie along ``axis``."""
    n, m = shifted.shape[axis], own.shape[axis]
    ranks = scipy.stats.rankdata(np.concatenate([shifted, own], axis), axis=axis)
    return (ranks.take(np.arange(n), axis).sum(axis) - n * (n + 1) / 2) / (n * m)


def roc(shifted: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false alarms, detections), shares at every threshold from the highest score down, from (0, 0) to (1, 1)."""
    levels = np.unique(np.concatenate([shifted, own]))[::-1]

    def above(scores: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(np.sort(scores), levels, side="left") / len(scores)

    return np.concatenate([[0.0], above(own)]), np.concatenate([[0.0], above(shifted)])
