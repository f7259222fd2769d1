"""A budget for a set: how many evaluations each image gets, so that the set's predicted quality is best at a given mean.

The mean quality of validation images of like predicted severity, per number of evaluations, says what evaluations are worth;
which number every image gets is a multiple-choice knapsack, solved as a mixed-integer linear program. Source:
Shoham and Gersho 1988, who share bits among quantisers by Lagrange multipliers, on the convex hull alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from flashdiff.trust.bins import by_severity

SAME, TUNED = "same", "tuned"
"""Methods: as many steps for every image, and the few-step walk as tuned, test images alone."""
GAP = 1e-6
"""Relative gap at which an allocation counts as the best: far below what a prediction is right to."""


def allocate(quality: np.ndarray, cost: np.ndarray, evaluations: float) -> np.ndarray:
    """Which of K walks, as a column (n,), each image gets, for the highest mean quality at a mean cost of at most ``evaluations``.

    quality (n, K): of every image after every walk, higher is better, finite; cost (n, K) or (K,): their evaluations. Raises
    ValueError where even the cheapest walks are above the budget, for other shapes, and for values that are not finite.
    """
    quality = np.asarray(quality, dtype=float)
    if quality.ndim != 2 or np.shape(cost) not in (quality.shape, quality.shape[1:]):
        raise ValueError(f"quality: shape {quality.shape} for costs {np.shape(cost)}; give a column for each walk.")
    if not np.isfinite(quality).all():
        raise ValueError("quality: NaN or infinite values; leave these images out.")
    (n, k), cost = quality.shape, np.broadcast_to(np.asarray(cost, dtype=float), quality.shape)
    if not (least := cost.min(1).mean()) <= evaluations:
        raise ValueError(f"evaluations: {evaluations:g} on average are fewer than {least:g}, the least that they take.")
    one_each = scipy.sparse.kron(scipy.sparse.eye_array(n), np.ones((1, k)))
    found = milp(
        -quality.ravel(),
        integrality=np.ones(n * k),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost.ravel()[None], -np.inf, n * evaluations + 1e-6),
        ],
        options={"mip_rel_gap": GAP},
    )
    return found.x.reshape(n, k).argmax(1)


@dataclass(frozen=True)
class Worth:
    """Predicted severity -> mean quality with every number of evaluations, as a small table.

    numbers (K,), rising; sigma_hat (B,), rising: the knots; quality (B, K): there. Linear in log(sigma_hat) between the knots
    and level beyond. Raises ValueError for knots that do not rise or another shape.
    """

    numbers: tuple[int, ...]
    sigma_hat: tuple[float, ...]
    quality: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        if np.shape(self.quality) != (len(self.sigma_hat), len(self.numbers)) or not self.sigma_hat:
            raise ValueError(
                f"quality: shape {np.shape(self.quality)} for {len(self.sigma_hat)} knots and {len(self.numbers)} numbers."
            )
        for name, values in (("numbers", self.numbers), ("sigma_hat", self.sigma_hat)):
            if (np.diff(values) <= 0).any():
                raise ValueError(f"{name}: {tuple(values)} must rise strictly.")

    def __call__(self, sigma_hat: np.ndarray) -> np.ndarray:
        """The predicted quality (n, K) at severities (n,) >= 0."""
        with np.errstate(divide="ignore"):  # a severity of 0 lies below every knot
            told = np.log(np.asarray(sigma_hat, dtype=float))
        return np.stack(
            [np.interp(told, np.log(self.sigma_hat), column) for column in zip(*self.quality, strict=True)], 1
        )


def fit(sigma_hat: np.ndarray, numbers: Sequence[int], quality: np.ndarray, bins: int) -> Worth:
    """The mean quality (n, K) of images in bins of equal count by sigma_hat (n,), at the median severity of each bin.

    Raises ValueError for fewer images than bins.
    """
    parts, medians = by_severity(sigma_hat, bins)
    knots, first = np.unique(medians, return_index=True)
    means = [tuple(quality[parts[number]].mean(0).tolist()) for number in first]
    return Worth(tuple(map(int, numbers)), tuple(knots.tolist()), tuple(means))


def table_of(rows: pd.DataFrame, split: str, measure: str) -> pd.DataFrame:
    """A measure of every image of a split (rows) with every number of evaluations, the same for all (columns, rising)."""
    own = rows[(rows["split"] == split) & (rows["method"] == SAME)]
    return own.pivot(index="image", columns="number", values=measure).astype(float)


def severity_of(rows: pd.DataFrame, split: str) -> np.ndarray:
    """sigma_hat (n,) of a split's images in the order of :func:`table_of`."""
    own = rows[(rows["split"] == split) & (rows["method"] == SAME) & (rows["number"] == 0)]
    return own.sort_values("image").sigma_hat.to_numpy(float)


def worth_of(rows: pd.DataFrame, bins: int) -> Worth:
    """What every number of evaluations is worth in PSNR by predicted severity, from the record's validation images."""
    psnr = table_of(rows, "validation", "psnr")
    return fit(severity_of(rows, "validation"), [*map(int, psnr.columns)], psnr.to_numpy(), bins)
