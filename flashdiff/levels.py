"""How strong a degradation is, read off a measurement: the level that explains it best."""

import numpy as np
import torch
from torch import Tensor

from flashdiff.degradations import Degradation

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
