"""Super-resolution: the image as a coarser sensor sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.degradations.base import Degradation
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")


@dataclass(frozen=True)
class SuperResolution(Degradation):
    """Area average onto a grid of square cells s pixels wide, shown at the original size; s = 1 + t (factor_max - 1).

    s is continuous: the cells of an axis are [0, s), [s, 2s), ..., the last one cut off at the border. A cell takes the
    mean of what it covers, an output pixel the mean of the cells that it lies in, both by overlap; s = 1 is the
    identity, an integer s that divides the side is the usual block average. With O the overlaps in pixels (cells x
    pixels) and w the widths of the cells, an axis is K = O^T diag(1/w) O and A x = K x K^T. K is symmetric, so A is its
    own adjoint. Noise is added to every pixel of y, not once per cell.
    """

    factor_max: Annotated[
        float, Field(gt=1, description="width of a cell in pixels at t = 1; any number, 1 at t = 0")
    ] = 4.0
    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)

    def prepare(self, t, image_shape, ids):
        width_of_cell = 1 + t * (self.factor_max - 1)
        _, height, width = image_shape
        down = self._matrix(width_of_cell, height)
        return {"down": down, "across": down if width == height else self._matrix(width_of_cell, width)}

    def _matrix(self, cell: Tensor, size: int) -> Tensor:
        """K (B, size, size) of one axis for cells ``cell`` (B,) pixels wide."""
        index = torch.arange(size, dtype=cell.dtype, device=cell.device)
        start = (cell[:, None] * index).clamp(max=size)[..., None]  # (B, cells, 1); cells past the border have no width
        end = (cell[:, None] * (index + 1)).clamp(max=size)[..., None]
        overlap = (torch.minimum(end, index + 1) - torch.maximum(start, index)).clamp(min=0)
        width = end - start
        return overlap.mT @ (overlap / torch.where(width > 0, width, 1))

    def apply(self, x, state):
        return state["down"][:, None] @ x @ state["across"][:, None].mT

    def adjoint(self, y, state):
        return self.apply(y, state)
