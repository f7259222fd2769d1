"""A start and a number of steps per image that are fitted: what served validation images of like predicted severity best.

Images are put into bins of predicted severity. In each bin the start index and the number of steps are chosen that are
best on average over its images, at a mean number of steps over all (one price per step for all bins). Starts and steps
are made monotone in the severity, drawn towards a rule that is set by hand as far as cross-validation finds it better, and
interpolated between the bins.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import isotonic_regression
from torch import Tensor

from flashdiff.batch import per_sample
from flashdiff.prior import Prior
from flashdiff.starts import StartPoint
from flashdiff.trust.bins import by_severity
from flashdiff.walks import EvenlySpaced

Rule = Callable[[np.ndarray], np.ndarray]
"""sigma_hat (n,) -> what a rule set by hand gives these images (n,): start indices, or numbers of steps."""


def _check_knots(name: str, knots: Sequence[float], values: Sequence[float], lowest: float) -> None:
    if not len(knots) == len(values) >= 1 or not np.isfinite([*knots, *values]).all():
        raise ValueError(f"{name}: {len(knots)} knots and {len(values)} values; give as many finite ones of each.")
    if (np.diff(knots) <= 0).any():
        raise ValueError(f"{name}: knots {tuple(knots)} must rise strictly.")
    if min(values) < lowest:
        raise ValueError(f"{name}: {min(values):g} is below {lowest:g}, the lowest that there is.")


@dataclass(frozen=True)
class CalibratedStart:
    """A start index between knots of predicted severity: z = sqrt(abar_i) z_hat, without fresh noise.

    sigma_hat (K,), rising: the knots; starts (K,) >= 0: the indices there. Between knots log(index + 1) is linear in
    log(sigma_hat), beyond them the index is that of the nearest. Raises ValueError for knots that do not rise.
    """

    sigma_hat: tuple[float, ...]
    starts: tuple[float, ...]

    def __post_init__(self):
        _check_knots("CalibratedStart", self.sigma_hat, self.starts, 0)
        if not self.sigma_hat[0] > 0:
            raise ValueError(f"CalibratedStart: a severity of {self.sigma_hat[0]:g}; give values above 0.")

    def __call__(self, prior: Prior, severity, noise: Tensor) -> StartPoint:
        i = self.index(prior, severity.variance)
        return StartPoint(i, per_sample(prior.signal(i), noise).to(noise.dtype).sqrt() * severity.z_hat)

    def index(self, prior: Prior, variance: Tensor) -> Tensor:
        """Where the walks begin, (B,) int64."""
        index = torch.from_numpy(self.of(variance.detach().double().cpu().numpy() ** 0.5))
        return index.clamp(max=prior.n_steps - 1).to(variance.device)

    def of(self, sigma_hat: np.ndarray) -> np.ndarray:
        """The start indices (n,) int64 of predicted severities (n,) >= 0."""
        with np.errstate(divide="ignore"):  # a severity of 0 lies below every knot
            told = np.log(sigma_hat)
        found = np.interp(told, np.log(self.sigma_hat), np.log1p(self.starts))
        return np.rint(np.expm1(found)).astype(np.int64)

    def cost(self, index: Tensor) -> Tensor:
        """The denoiser evaluations that finding these starts takes: none."""
        return torch.zeros_like(index)


@dataclass(frozen=True)
class CalibratedWalk:
    """As many indices, evenly spaced between the start and 0, as is linear between knots of the start index.

    starts (K,) >= 0, rising strictly; numbers (K,) >= 1: steps of walks from there, rounded. At most start + 1 are taken.
    Raises ValueError for knots that do not rise.
    """

    starts: tuple[float, ...]
    numbers: tuple[float, ...]

    def __post_init__(self):
        _check_knots("CalibratedWalk", self.starts, self.numbers, 1)

    def first(self, prior: Prior) -> int:
        """The index from which a full-length run starts."""
        return prior.n_steps - 1

    def steps(self, start: np.ndarray) -> np.ndarray:
        """How many steps walks from ``start`` (n,) >= 0 take: (n,) int64."""
        start = np.asarray(start)
        wanted = np.rint(np.interp(start, self.starts, self.numbers))
        return np.clip(wanted, 1, start + 1).astype(np.int64)

    def __call__(self, prior: Prior, start: int) -> np.ndarray:
        """Indices visited from ``start`` downwards."""
        return EvenlySpaced(int(self.steps(start)))(prior, start)


@dataclass(frozen=True)
class Trials:
    """What walks of n images reach from S starts with K numbers of steps: quality (n, S, K), higher is better.

    starts (S,) and steps (K,) rise, two or more of each.
    """

    starts: np.ndarray
    steps: np.ndarray
    quality: np.ndarray

    def select(self, images: np.ndarray) -> "Trials":
        """Of some of the images alone."""
        return Trials(self.starts, self.steps, self.quality[images])

    def at(self, start: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The quality (n,) of each image from its own start with its own number of steps, interpolated in the logarithms
        of both; what lies outside of the trials has the nearest that was tried."""
        axes = np.log1p(self.starts), np.log(self.steps)
        wanted = np.log1p(start), np.log(steps)
        points = [np.clip(w, axis[0], axis[-1]) for w, axis in zip(wanted, axes, strict=True)]
        reached = RegularGridInterpolator(axes, np.moveaxis(self.quality, 0, -1))(np.stack(points, -1))
        return reached[np.arange(len(self.quality)), np.arange(len(self.quality))]


@dataclass(frozen=True)
class Calibration:
    """A fitted rule: start and walk, which fit where a start rule and a solver's walk are taken.

    weight: how much of it is fitted, 0: the rule set by hand, as its knots have it, 1: the fit. gains {weight: mean gain in
    quality over the rule set by hand, on images that its fit has not seen}.
    """

    start: CalibratedStart
    walk: CalibratedWalk
    weight: float
    gains: dict[float, float]


def calibrate(
    sigma_hat: np.ndarray, trials: Trials, hand: tuple[Rule, Rule], budget: float, *, bins: int = 5,
    weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), folds: int = 8, seed: int = 0,
) -> Calibration:  # fmt: skip
    """Fit starts and numbers of steps to the trials of validation images of predicted severity sigma_hat (n,).

    hand: starts and steps of the rule set by hand, which the fit is drawn to; budget: mean steps. The weight of the fit is
    the one whose quality on left-out images is best, of ``folds`` parts in random order; of equal ones the lowest.
    Raises ValueError for a budget that the trials do not enclose, and for fewer than two images in a bin.
    """
    n = len(sigma_hat)
    if not trials.steps[0] <= budget <= trials.steps[-1]:
        raise ValueError(
            f"budget: {budget:g} steps where {trials.steps[0]} to {trials.steps[-1]} were tried; choose one between."
        )
    if n < 2 * bins * folds / (folds - 1):
        raise ValueError(f"bins: {bins} for {n} images; give fewer bins, two images or more fall into each.")
    part = np.random.default_rng(seed).permutation(n) % folds
    reached = {weight: np.empty(n) for weight in weights}
    for fold in range(folds):
        held, kept = part == fold, part != fold
        fitted = fit(sigma_hat[kept], trials.select(kept), budget, bins)
        for weight in weights:
            start, walk = _blended(sigma_hat[kept], *fitted, hand, weight, budget)
            index = start.of(sigma_hat[held])
            reached[weight][held] = trials.select(held).at(index, walk.steps(index))
    own = trials.at(hand[0](sigma_hat), hand[1](sigma_hat))
    gains = {float(weight): float((quality - own).mean()) for weight, quality in reached.items()}
    weight = max(sorted(gains), key=gains.__getitem__)
    start, walk = _blended(sigma_hat, *fit(sigma_hat, trials, budget, bins), hand, weight, budget)
    return Calibration(start, walk, weight, gains)


def fit(sigma_hat: np.ndarray, trials: Trials, budget: float, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots (K,) of severity, the medians of bins of equal count, with monotone starts (K,) and steps (K,).

    Starts do not fall with the severity; steps do one or the other, whichever is nearer to the best of the bins.
    """
    parts, knots = by_severity(sigma_hat, bins)
    mean = np.stack([trials.quality[images].mean(0) for images in parts])
    starts, steps = best_at_budget(mean, trials, budget)
    starts = np.expm1(isotonic_regression(np.log1p(starts)).x)
    both = [isotonic_regression(np.log(steps), increasing=rising).x for rising in (True, False)]
    steps = np.exp(min(both, key=lambda x: ((x - np.log(steps)) ** 2).sum()))
    return knots, starts, steps


def best_at_budget(mean: np.ndarray, trials: Trials, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """The best start and number of steps of every bin, mean (bins, S, K), whose mean number of steps is at most the budget.

    Per bin the best of quality - price * steps, with one price for all: the lowest that meets the budget (Lagrange).
    Returns starts (bins,) and steps (bins,).
    """
    over_starts = mean.max(1)  # (bins, K): the start costs nothing

    def chosen(price: float) -> np.ndarray:
        return (over_starts - price * trials.steps).argmax(1)

    # choices change where two numbers of steps are worth the same: these prices, and none, are all that matter
    first, second = np.triu_indices(len(trials.steps), 1)
    differences = (over_starts[:, second] - over_starts[:, first]) / (trials.steps[second] - trials.steps[first])
    prices = np.unique(np.concatenate([[0.0], differences[differences > 0]]))
    # between two such prices nothing changes; at the highest and beyond it every bin takes the fewest steps
    tried = np.append((prices[1:] + prices[:-1]) / 2, prices[-1] + 1)
    k = next(k for k in map(chosen, tried) if trials.steps[k].mean() <= budget)
    bins = np.arange(len(mean))
    return trials.starts[mean[bins, :, k].argmax(1)].astype(float), trials.steps[k].astype(float)


def _blended(
    sigma_hat: np.ndarray, knots: np.ndarray, starts: np.ndarray, steps: np.ndarray, hand: tuple[Rule, Rule],
    weight: float, budget: float,
) -> tuple[CalibratedStart, CalibratedWalk]:  # fmt: skip
    """Between the rule set by hand (0) and the fit (1), in the logarithms of both, at the budget."""
    by_hand = [rule(knots).astype(float) for rule in hand]
    starts = np.expm1(weight * np.log1p(starts) + (1 - weight) * np.log1p(by_hand[0]))
    steps = np.exp(weight * np.log(steps) + (1 - weight) * np.log(by_hand[1]))
    return at_budget(sigma_hat, knots, starts, steps, budget)


def at_budget(
    sigma_hat: np.ndarray, knots: np.ndarray, starts: np.ndarray, steps: np.ndarray, budget: float
) -> tuple[CalibratedStart, CalibratedWalk]:
    """Start and walk with these knots, the steps multiplied by one factor for all: the largest, of those 0.5% apart,
    with which the images of severities sigma_hat (n,) take at most ``budget`` steps on average."""
    knots, first = np.unique(knots, return_index=True)
    starts, steps = starts[first].copy(), steps[first]
    for k in range(1, len(starts)):  # the walk knows the start alone: two knots at one start could not differ in steps
        starts[k] = max(starts[k], starts[k - 1] + 0.1)
    start = CalibratedStart(tuple(knots.tolist()), tuple(starts.tolist()))
    index = start.of(sigma_hat)

    def walk(factor: float) -> CalibratedWalk:
        return CalibratedWalk(start.starts, tuple(np.maximum(1, factor * steps).tolist()))

    # the mean rises with the factor: the last that meets the budget stands before where more would be inserted
    above = bisect.bisect_right(range(-700, 700), budget, key=lambda power: walk(1.005**power).steps(index).mean())
    return start, walk(1.005 ** (range(-700, 700)[max(0, above - 1)]))


def neighbour_correlation(error: Tensor) -> Tensor:
    """The correlation of an error (n, c, h, w) with itself one entry further, horizontally and vertically: (n,) in -1..1.

    About zero, not about the image's own mean: the mean of the products of neighbours over the mean square of the same
    entries; 0 for white noise on average, 1 for a constant. NaN where the error is 0.
    """
    products, squares = 0.0, 0.0
    for axis in (2, 3):
        size = error.shape[axis] - 1
        one, other = error.double().narrow(axis, 0, size), error.double().narrow(axis, 1, size)
        products = products + (one * other).sum((1, 2, 3))
        squares = squares + (one.square() + other.square()).sum((1, 2, 3)) / 2
    return products / squares


def correlation_by_severity(sigma_hat: np.ndarray, correlation: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """What a predicted severity says about the spatial correlation of its error: knots (K,), the medians of bins of equal
    count of sigma_hat (n,), and the mean correlation (K,) there, clipped to 0..1."""
    parts, knots = by_severity(sigma_hat, bins)
    return knots, np.clip([correlation[images].mean() for images in parts], 0, 1)
