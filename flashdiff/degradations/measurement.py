"""Measurements y = A(x; t) + n, and the operator that a solver step sees."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import lazy_loader as lazy

from flashdiff.batch import Stream, normal
from flashdiff.degradations.base import Degradation, State, check_level
from flashdiff.fields import LARGEST, shown

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")
np = lazy.load("numpy")


@dataclass(frozen=True)
class Operator:
    """A degradation with its severity fixed: what a solver step sees. Rows of the state belong to rows of the batch.

    noise_std: standard deviation of the measurement noise, in units of the [-1, 1] range.
    """

    degradation: Degradation
    state: State
    noise_std: float = 0.0

    def A(self, x: Tensor) -> Tensor:
        """A(x; t) (B, ...)."""
        return self.degradation.apply(x, self.state)

    def AT(self, y: Tensor) -> Tensor:
        """A^T(y; t); TypeError when the degradation is not linear."""
        return self.degradation.adjoint(y, self.state)


@dataclass(frozen=True)
class Measurement:
    """Measurements and what produced them.

    y (B, ...): A(x0; t) + n; t (B,) in [0, 1]; ids (B,) image identities >= 0, which key all randomness; image_shape
    (C, H, W) of the clean image; noise_std in units of the [-1, 1] range.
    """

    y: Tensor
    degradation: Degradation
    t: Tensor
    noise_std: float
    ids: np.ndarray
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.y)

    def operator(self, index: slice | np.ndarray = slice(None)) -> Operator:
        """The operator of some of the samples, prepared now."""
        state = self.degradation.prepare(self.t[index], self.image_shape, self.ids[index])
        return Operator(self.degradation, state, self.noise_std)

    def select(self, index: slice | np.ndarray) -> Measurement:
        """Some of the samples as a measurement of their own."""
        return Measurement(
            self.y[index], self.degradation, self.t[index], self.noise_std, self.ids[index], self.image_shape
        )


def check_noise_std(noise_std: Tensor | float) -> float:
    """A standard deviation as a number; ValueError for what is none, a tensor of one entry being one."""
    # numbers first: torch would load, and a study file is checked without it
    if not isinstance(noise_std, Real) and isinstance(noise_std, torch.Tensor) and noise_std.numel() == 1:
        noise_std = noise_std.item()
    if isinstance(noise_std, bool) or not isinstance(noise_std, Real) or not 0 <= noise_std < LARGEST:  # NaN fails, too
        raise ValueError(f"noise_std: {shown(noise_std)} is no standard deviation; give a number >= 0.")
    return float(noise_std)


def measure(
    x: Tensor,
    degradation: Degradation,
    t: Tensor | float,
    noise_std: float,
    *,
    seed: int = 0,
    ids: np.ndarray | None = None,
    draw: int = 0,
) -> Measurement:
    """Degrade clean images and add Gaussian noise: y = A(x; t) + noise_std n, n keyed by (seed, image id, draw).

    x (B, C, H, W) in [-1, 1]; t in [0, 1], one for all or (B,); noise_std >= 0 in [-1, 1] units (twice that of [0, 1]);
    ids (B,) integers >= 0, by default 0..B-1; draw >= 0 counts the measurements of the same images. Raises ValueError for what
    is no such number or tensor, for NaN, another range, or sizes that do not fit.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        raise ValueError(f"x: {shown(x)}; images are a tensor of floats in [-1, 1].")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"x: shape {tuple(x.shape)}; images are (B, C, H, W), at least one with at least one pixel.")
    if not isinstance(degradation, Degradation):
        raise ValueError(f"degradation: {shown(degradation)}; give an object such as GaussianBlur().")
    low, high = float(x.min()), float(x.max())
    if not (low >= -1.001 and high <= 1.001):  # NaN fails both comparisons
        raise ValueError(f"x: values from {low:g} to {high:g}; images lie in [-1, 1], scale them and remove NaN.")
    noise_std = check_noise_std(noise_std)
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    if ids.shape != (len(x),):
        raise ValueError(f"ids: shape {ids.shape} for {len(x)} images; give one id per image.")
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids: {ids.dtype} values such as {ids[0]!r}; image ids are integers from 0 to 2^64 - 1.")
    if ids.min() < 0:
        raise ValueError(f"ids: {ids.min()} among them; image ids are integers >= 0.")
    try:
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"t: {shown(t)}; give a number in [0, 1], or one for each image.") from None
    t = t.expand(len(x)) if t.ndim == 0 else t
    check_level(t, len(x))
    clean = degradation.apply(x, degradation.prepare(t, tuple(x.shape[1:]), ids))
    noise = normal(clean.shape[1:], ids, seed=seed, step=0, stream=Stream.MEASUREMENT, like=clean, draw=draw)
    return Measurement(clean + noise_std * noise, degradation, t, noise_std, ids, tuple(x.shape[1:]))
