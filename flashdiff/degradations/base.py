"""What every degradation is: A(x; t), prepared once per measurement, and its adjoint where it is linear."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import lazy_loader as lazy

if TYPE_CHECKING:
    from torch import Tensor

np = lazy.load("numpy")


State = dict[str, "Tensor"]


class Degradation(ABC):
    """One family of degradations; a subclass says how severity t becomes an operator on images."""

    linear: ClassVar[bool] = False

    def check_image(self, image_shape: tuple[int, int, int]) -> None:  # noqa: B027  most take any image
        """ValueError where images (C, H, W) of that shape cannot be degraded; a study asks before anything trains."""

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


def check_range(degradation: Degradation, name: str) -> None:
    """Raise ValueError unless NAME_min < NAME_max."""
    low, high = getattr(degradation, f"{name}_min"), getattr(degradation, f"{name}_max")
    if not low < high:
        raise ValueError(
            f"{type(degradation).__name__}: {name}_max is {high!r}; give a value above {name}_min, {low!r}."
        )
