"""Split conformal prediction: from sigma_hat alone to an interval that holds an image's quality with a given probability.

A monotone regression of the quality on sigma_hat, fitted on some images, is the centre; the quantile of its absolute residuals
on other images is the half-width. For images that are exchangeable with these the interval holds the quality with probability
at least ``coverage`` and at most coverage + 1 / (n + 1), whatever the distribution and however bad the regression. Source:
Vovk, Gammerman and Shafer 2005, chapters 2 and 4 (a quantile for each group: Mondrian); Lei et al. 2018, Theorem 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import isotonic_regression

GROUPS = 3
"""Of severity, of equal count among the images that the regression was fitted on."""


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of scores (n,); infinite where n is too small for it.

    A further score that is exchangeable with these lies at or below it with probability at least ``coverage``.
    """
    # without the rounding 20 * 0.9 would be 18.000000000000004, and one rank too high
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


@dataclass(frozen=True)
class Interval:
    """sigma_hat -> interval of a quality, as a small table.

    sigma_hat, centre: knots of the regression, linear in between and level beyond; edges: the GROUPS - 1 values of sigma_hat
    between the groups; half_widths: one per group, infinite where too few images calibrated it; lowest: of the quality
    itself, which no interval goes below.
    """

    sigma_hat: Sequence[float]
    centre: Sequence[float]
    edges: Sequence[float]
    half_widths: Sequence[float]
    lowest: float = -math.inf

    def __call__(self, sigma_hat: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) at some severities, of their shape."""
        centre = np.interp(sigma_hat, self.sigma_hat, self.centre)
        width = np.asarray(self.half_widths)[group(sigma_hat, self.edges)]
        return np.maximum(centre - width, self.lowest), centre + width

    def to_dict(self) -> dict[str, Any]:
        """As JSON can write it: what is infinite is None; six digits."""

        def written(value: float) -> float | None:
            return float(f"{value:.6g}") if math.isfinite(value) else None

        lists = {name: [*map(written, getattr(self, name))] for name in ("sigma_hat", "centre", "edges", "half_widths")}
        return lists | {"lowest": written(self.lowest)}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote."""
        widths = [math.inf if width is None else width for width in written["half_widths"]]
        lowest = -math.inf if written["lowest"] is None else written["lowest"]
        return cls(written["sigma_hat"], written["centre"], written["edges"], widths, lowest)


def group(sigma_hat: np.ndarray | float, edges: Sequence[float]) -> np.ndarray:
    """The group of every severity, 0 for the easiest."""
    return np.searchsorted(edges, sigma_hat, side="right")


def fit(sigma_hat: np.ndarray, quality: np.ndarray, rises: bool) -> tuple[list[float], list[float]]:
    """Knots of the monotone least-squares regression of quality (n,) on sigma_hat (n,): a block of equal values is one
    knot, at its mean severity. rises: whether quality rises with severity, as a distance does."""
    order = np.argsort(sigma_hat, kind="stable")
    found = isotonic_regression(np.asarray(quality, dtype=float)[order], increasing=rises)
    at = np.add.reduceat(np.asarray(sigma_hat, dtype=float)[order], found.blocks[:-1]) / np.diff(found.blocks)
    return at.tolist(), found.x[found.blocks[:-1]].tolist()


def calibrate(
    fitted: tuple[np.ndarray, np.ndarray], calibrating: tuple[np.ndarray, np.ndarray], coverage: float, *,
    rises: bool, by_severity: bool, lowest: float = -math.inf,
) -> Interval:  # fmt: skip
    """The interval whose centre is fitted on some images and whose width is calibrated on others, each (sigma_hat, quality).

    by_severity: a width for each group, which then has its coverage by itself; else one for all. See the module for what holds.
    """
    knots, (sigma_hat, quality) = fit(*fitted, rises), calibrating
    edges = np.quantile(fitted[0], np.arange(1, GROUPS) / GROUPS).tolist()
    residuals = np.abs(quality - np.interp(sigma_hat, *knots))
    at = group(sigma_hat, edges)
    parts = [residuals[at == g] if by_severity else residuals for g in range(GROUPS)]
    return Interval(*knots, edges, [conformal_quantile(part, coverage) for part in parts], lowest)


def covered(interval: Interval, sigma_hat: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Whether the interval of every severity (n,) holds the quality (n,)."""
    low, high = interval(sigma_hat)
    return (low <= quality) & (quality <= high)


def unevenness(
    fitted: tuple[np.ndarray, np.ndarray], calibrating: tuple[np.ndarray, np.ndarray], coverage: float, *,
    rises: bool, by_severity: bool,
) -> float:  # fmt: skip
    """How far the groups' coverage is from ``coverage``, mean over groups: every other calibrating image calibrates and the
    rest are counted, and the other way round. No test image is looked at."""
    halves = [tuple(column[first::2] for column in calibrating) for first in (0, 1)]
    found, groups = [], []
    for one, other in (halves, halves[::-1]):
        interval = calibrate(fitted, one, coverage, rises=rises, by_severity=by_severity)
        found.append(covered(interval, *other))
        groups.append(group(other[0], interval.edges))
    found, groups = np.concatenate(found), np.concatenate(groups)
    return float(np.mean([abs(found[groups == g].mean() - coverage) for g in np.unique(groups)]))


def chosen(
    sigma_hat: np.ndarray, quality: np.ndarray, coverage: float, *, rises: bool, lowest: float = -math.inf
) -> tuple[Interval, str]:
    """The interval of validation images (n,) in the order of their numbers, and which width it has: plain or by_severity.

    The first half fits the centre, so that images on which a walk was tuned may be among them; the second half calibrates. The
    width is by severity where that has the smaller :func:`unevenness` on the second half, else plain.
    """
    middle = len(sigma_hat) // 2
    halves = [(sigma_hat[part], quality[part]) for part in (slice(middle), slice(middle, None))]
    uneven = {
        by_severity: unevenness(*halves, coverage, rises=rises, by_severity=by_severity)
        for by_severity in (False, True)
    }
    by_severity = uneven[True] < uneven[False]
    interval = calibrate(*halves, coverage, rises=rises, by_severity=by_severity, lowest=lowest)
    return interval, "by_severity" if by_severity else "plain"
