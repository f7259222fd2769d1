"""Degradation operators A(x; t), their adjoints where they are linear, and measurements y = A(x; t) + n.

A degradation is a frozen dataclass and pure: what depends on the severity t (and on the image's identity) alone is
*prepared* once per measurement as a dict of per-sample tensors, and ``apply`` / ``adjoint`` use it at every solver
step. Images x, y are (B, C, H, W), clean range [-1, 1]; t (B,) is the severity level in [0, 1], one per sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal, rows

State = dict[str, Tensor]


class Degradation(ABC):
    """One family of degradations; a subclass says how severity t becomes an operator on images."""

    linear: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, t: Tensor, image_shape: tuple[int, int, int], ids: np.ndarray) -> State:
        """What ``apply`` needs, from t (B,), the clean image's (C, H, W) and ids (B,): tensors with leading size B."""

    @abstractmethod
    def apply(self, x: Tensor, state: State) -> Tensor:
        """A(x; t), differentiable in x."""

    def adjoint(self, y: Tensor, state: State) -> Tensor:
        """A^T(y; t) of a linear degradation: <A x, y> = <x, A^T y> for every sample."""
        raise TypeError(
            f"degradation: {type(self).__name__} is not linear and has no adjoint; use a solver without A^T."
        )

    def A(self, x: Tensor, t: Tensor, ids: np.ndarray | None = None) -> Tensor:
        """A(x; t) in one call, for a single use; raises ValueError for t outside [0, 1] or of another batch size."""
        check_level(t, len(x))
        return self.apply(x, self.prepare(t.to(x), tuple(x.shape[1:]), np.arange(len(x)) if ids is None else ids))

    def AT(self, y: Tensor, t: Tensor, ids: np.ndarray | None = None) -> Tensor:
        """A^T(y; t) in one call, for degradations that keep the image's shape."""
        check_level(t, len(y))
        return self.adjoint(y, self.prepare(t.to(y), tuple(y.shape[1:]), np.arange(len(y)) if ids is None else ids))


def check_level(t: Tensor, batch: int) -> None:
    """Raise ValueError unless t is (batch,) with values in [0, 1]."""
    if t.shape != (batch,):
        raise ValueError(f"t: shape {tuple(t.shape)} for {batch} images; give one severity level per image.")
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t: values from {float(t.min()):g} to {float(t.max()):g}; severity levels lie in [0, 1].")


@dataclass(frozen=True)
class GaussianBlur(Degradation):
    """Gaussian blur with reflection padding, standard deviation std_min + t (std_max - std_min) pixels (published: 0.3 to 3).

    The kernel is sampled at integer offsets up to ``radius`` and normalised (published: 30, that is 61 x 61). It is
    separable and padding is linear, so the blur is one matrix per image and axis: A x = K x K^T, and A^T y = K^T y K
    holds exactly, borders included.
    """

    std_min: float = 0.3
    std_max: float = 3.0
    radius: int = 30
    linear: ClassVar[bool] = True

    def prepare(self, t, image_shape, ids):
        std = self.std_min + t * (self.std_max - self.std_min)
        _, height, width = image_shape
        down = self._matrix(std, height)
        return {"down": down, "across": down if width == height else self._matrix(std, width)}

    def _matrix(self, std: Tensor, size: int) -> Tensor:
        """(B, size, size): row r holds the weights with which the pixels of a line enter pixel r of the blurred line."""
        radius = min(self.radius, size - 1)  # reflection cannot reach further than the line itself
        offsets = torch.arange(-radius, radius + 1, device=std.device)
        kernel = torch.exp(-0.5 * (offsets / std.clamp(min=1e-3)[:, None]) ** 2)
        kernel = kernel / kernel.sum(1, keepdim=True)
        source = (torch.arange(size, device=std.device)[:, None] + offsets).abs()  # reflected at the first pixel ...
        source = torch.where(source >= size, 2 * (size - 1) - source, source)  # ... and at the last
        matrix = torch.zeros(len(std), size, size, dtype=std.dtype, device=std.device)
        return matrix.scatter_add_(2, source.expand(len(std), -1, -1), kernel[:, None, :].expand(-1, size, -1))

    def apply(self, x, state):
        return state["down"][:, None] @ x @ state["across"][:, None].mT

    def adjoint(self, y, state):
        return state["down"][:, None].mT @ y @ state["across"][:, None]


@dataclass(frozen=True)
class RandomInpainting(Degradation):
    """Random pixels dropped and filled with mid-grey (0): a share drop_max * t of them, the same in all channels.

    The random field u in [0, 1)^{H x W} is fixed by ``field_seed`` and a pixel is dropped where u >= 1 - drop_max * t,
    so masks are nested: more severe means strictly more pixels gone. Published: ratios 0.2 to 1, that is drop_max 0.8.
    """

    drop_max: float = 0.8
    field_seed: int = 0
    linear: ClassVar[bool] = True

    def prepare(self, t, image_shape, ids):
        field = _uniform_field(self.field_seed, *image_shape[1:]).to(t)
        return {"keep": (field < rows(1 - self.drop_max * t, field[None, None])).to(t)}

    def apply(self, x, state):
        return x * state["keep"]

    def adjoint(self, y, state):
        return y * state["keep"]


@lru_cache(maxsize=8)
def _uniform_field(seed: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((height, width)))


DEGRADATIONS: dict[str, type[Degradation]] = {"gaussian_blur": GaussianBlur, "random_inpainting": RandomInpainting}


def build(parameters: Mapping) -> tuple[Degradation, float]:
    """A study's degradation entry -> (degradation, noise_std): ``kind`` selects the class, the rest are its fields.

    Raises ValueError naming an unknown kind, TypeError from the dataclass for an unknown field.
    """
    fields = dict(parameters)
    kind, noise_std = fields.pop("kind"), float(fields.pop("noise_std"))
    if kind not in DEGRADATIONS:
        raise ValueError(f"degradations: kind {kind!r} is unknown; choose one of {', '.join(DEGRADATIONS)}.")
    return DEGRADATIONS[kind](**fields), noise_std


@dataclass(frozen=True)
class Operator:
    """A degradation with its severity fixed: what a solver step sees. Rows of the state belong to rows of the batch."""

    degradation: Degradation
    state: State

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
        return Operator(self.degradation, state)

    def select(self, index: slice | np.ndarray) -> "Measurement":
        """Some of the samples as a measurement of their own."""
        return Measurement(
            self.y[index], self.degradation, self.t[index], self.noise_std, self.ids[index], self.image_shape
        )


def measure(
    x: Tensor,
    degradation: Degradation,
    t: Tensor | float,
    noise_std: float,
    *,
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Measurement:
    """Degrade clean images and add Gaussian noise: y = A(x; t) + noise_std n, n keyed by (seed, image id).

    x (B, C, H, W) in [-1, 1]; t in [0, 1], one for all or (B,); noise_std >= 0 in [-1, 1] units (twice that of [0, 1]);
    ids (B,) integers >= 0, by default 0..B-1. Raises ValueError for NaN, another range, or sizes that do not fit.
    """
    if x.ndim != 4:
        raise ValueError(f"x: shape {tuple(x.shape)}; images are (B, C, H, W).")
    low, high = float(x.min()), float(x.max())
    if not (low >= -1.001 and high <= 1.001):  # NaN fails both comparisons
        raise ValueError(f"x: values from {low:g} to {high:g}; images lie in [-1, 1], scale them and remove NaN.")
    if noise_std < 0:
        raise ValueError(f"noise_std: {noise_std:g} is negative; give a standard deviation >= 0.")
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    if ids.shape != (len(x),):
        raise ValueError(f"ids: shape {ids.shape} for {len(x)} images; give one id per image.")
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    t = t.expand(len(x)) if t.ndim == 0 else t
    check_level(t, len(x))
    clean = degradation.apply(x, degradation.prepare(t, tuple(x.shape[1:]), ids))
    noise = normal(clean.shape[1:], ids, seed=seed, step=0, stream=Stream.MEASUREMENT, like=clean)
    return Measurement(clean + noise_std * noise, degradation, t, noise_std, ids, tuple(x.shape[1:]))
