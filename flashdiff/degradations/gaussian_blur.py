"""Gaussian blur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.degradations.base import Degradation, check_range
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")


@dataclass(frozen=True)
class GaussianBlur(Degradation):
    """Gaussian blur with reflection padding, standard deviation std_min + t (std_max - std_min) pixels (published: 0.3 to 3).

    The kernel is sampled at integer offsets up to ``radius`` and normalised (published: 30, that is 61 x 61). It is
    separable and padding is linear, so the blur is one matrix per image and axis: A x = K x K^T, and A^T y = K^T y K
    holds exactly, borders included.
    """

    std_min: Annotated[float, Field(ge=0, description="pixels at t = 0")] = 0.3
    std_max: Annotated[float, Field(gt=0, description="pixels at t = 1")] = 3.0
    radius: Annotated[int, Field(ge=1, description="half width of the kernel in pixels")] = 30
    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)
        check_range(self, "std")

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
