"""What a measurement says about its own degradation: level, mask and kind that explain it best."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flashdiff.degradations import BoxInpainting, Degradation, RandomInpainting

GRID = 81
"""Levels of the first look, 0.0125 apart: super-resolution's residual has narrow valleys."""
ZOOM, ROUNDS = 9, 4
"""Every round looks at ZOOM levels between the best one's neighbours: 4 rounds leave 0.0125 / 4^4 = 5e-5 of a level."""


@torch.no_grad()
def estimate_level(
    y: Tensor, x: Tensor, degradation: Degradation, ids: np.ndarray, grid: int = GRID
) -> tuple[Tensor, Tensor]:
    """The t in [0, 1] whose A(x; t) fits y best, per sample: (t (B,), root mean square of y - A(x; t) (B,)).

    y, x (B, C, H, W): measurements, and what is believed of their clean images, such as D(z_hat). Least squares is maximum
    likelihood under Gaussian noise, so with the true image the error of t has standard deviation
    noise_std / ||dA/dt|| where t is inside [0, 1]; what x lacks in detail makes t too low for a blur. A grid of ``grid``
    levels, then a grid around the best one, repeatedly: the residual has several valleys, and all samples share the calls.
    """
    n, best = len(y), torch.zeros(len(y), dtype=torch.float64)
    lowest = torch.full((n,), torch.inf, dtype=torch.float64)
    tried, half = torch.linspace(0, 1, grid, dtype=torch.float64).expand(n, -1), 1 / (grid - 1)
    for _ in range(ROUNDS + 1):
        for levels in tried.T:
            misfit = (y - degradation.A(x, levels.to(x), ids)).double().square().flatten(1).mean(1).cpu()
            better = misfit < lowest
            best, lowest = torch.where(better, levels, best), torch.where(better, misfit, lowest)
        tried = (best[:, None] + half * torch.linspace(-1, 1, ZOOM, dtype=torch.float64)).clamp(0, 1)
        half /= (ZOOM - 1) / 2
    return best.to(x.dtype), lowest.sqrt().to(x.dtype)


@dataclass(frozen=True)
class KnownMasks(Degradation):
    """Inpainting with each image's own mask, by image id: A x = m x; 1 where a pixel is kept, (1, H, W), and A^T = A."""

    keep: Mapping[int, Tensor] = field(repr=False)
    linear: ClassVar[bool] = True

    def prepare(self, t, image_shape, ids):
        return {"keep": torch.stack([self.keep[int(image)] for image in ids]).to(t)}

    def apply(self, x, state):
        return x * state["keep"]

    def adjoint(self, y, state):
        return self.apply(y, state)


def read_off(y: Tensor, noise_std: float) -> Tensor:
    """Kept pixels (B, 1, H, W), 1 or 0: dropped are those that are mid-grey, 0, in all channels of y (B, C, H, W).

    In a picture of 8 bits mid-grey lies between two values, 1/255 from each; noise moves it further, by less than five
    standard deviations but for one value in 1.7 million. A pixel of the scene that is as grey is taken for a dropped one:
    the prior fills it in.
    """
    return (y.abs() > 1.01 / 255 + 5 * noise_std).any(1, keepdim=True).to(y.dtype)


def level_of(keep: Tensor, drop_max: float, exponent: float) -> Tensor:
    """The level t (B,) in [0, 1] at which random inpainting drops as many pixels; dropped share = drop_max t^exponent."""
    return ((1 - keep.flatten(1).mean(1)) / drop_max).clamp(0, 1) ** (1 / exponent)


@dataclass(frozen=True)
class Fit:
    """What was found of a degradation whose level nobody said: how it acts on x, the level t (B,) in [0, 1], and the root mean
    square of y - A(x; t) (B,), in [-1, 1] units, of pixels that are there where some are missing."""

    degradation: Degradation
    t: Tensor
    misfit: Tensor


def fit(y: Tensor, x: Tensor, degradation: Degradation, noise_std: float, ids: np.ndarray) -> Fit:
    """What `flashdiff restore` takes a measurement for without --level: the mask that it shows, or the level that fits best.

    y, x, ids as in :func:`estimate_level`. Random inpainting has the mask that is read off y, since whose pixels were dropped is
    nothing that a level of the study says of another picture; its level is that of as many dropped pixels.
    """
    if isinstance(degradation, RandomInpainting):
        keep = read_off(y, noise_std)
        known = KnownMasks(dict(zip(np.asarray(ids).tolist(), keep, strict=True)))
        error, shown = (keep * (y - x)).square().flatten(1).sum(1), keep.expand_as(y).flatten(1).sum(1)
        return Fit(known, level_of(keep, *share_of(degradation)), (error / shown.clamp(min=1)).sqrt())
    return Fit(degradation, *estimate_level(y, x, degradation, ids))


def share_of(degradation: RandomInpainting | BoxInpainting) -> tuple[float, float]:
    """(drop_max, exponent) of an inpainting: the share drop_max t^exponent of its pixels is missing at level t."""
    if isinstance(degradation, BoxInpainting):  # a square whose side grows with t
        return degradation.side_max**2, 2.0
    return degradation.drop_max, degradation.exponent


def closest_kind(
    y: Tensor, x: Tensor, kinds: Mapping[str, Degradation], ids: np.ndarray
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Which of some degradations explains each measurement best: (name (B,), level t (B,), misfits (B, kinds)).

    y, x, ids as in :func:`estimate_level`, whose misfit is compared over ``kinds``; of equal ones the first is taken.
    """
    fits = [estimate_level(y, x, degradation, ids) for degradation in kinds.values()]
    misfits = torch.stack([misfit for _, misfit in fits], dim=1)
    chosen = misfits.argmin(1)
    t = torch.stack([t for t, _ in fits], dim=1).gather(1, chosen[:, None])[:, 0]
    return np.array(list(kinds))[chosen.numpy()], t, misfits
