"""Inpainting: some pixels are missing, and mid-grey (0) stands in their place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.degradations.base import Degradation
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")
np = lazy.load("numpy")


class _Masked(Degradation):
    """A x = m x with a mask m (B, 1, H, W) in [0, 1], the same in all channels; A^T = A."""

    linear: ClassVar[bool] = True

    def apply(self, x, state):
        return x * state["keep"]

    def adjoint(self, y, state):
        return y * state["keep"]


@dataclass(frozen=True)
class RandomInpainting(_Masked):
    """Random pixels dropped and filled with mid-grey (0): a share drop_max * t^exponent of them, the same in all channels.

    The random field u in [0, 1)^{H x W} is fixed by ``field_seed`` and a pixel is dropped where u >= 1 - share, so masks are
    nested: more severe means strictly more pixels gone. An exponent above 1 makes more of the levels easy ones. Published:
    ratios 0.2 to 1, that is drop_max 0.8, exponent 1.
    """

    drop_max: Annotated[float, Field(gt=0, le=1, description="share of pixels dropped at t = 1")] = 0.8
    exponent: Annotated[float, Field(gt=0, description="of t in the share of pixels dropped")] = 1.0
    field_seed: Annotated[int, Field(ge=0, description="of the random field of all masks")] = 0

    def __post_init__(self):
        check_fields(self)

    def prepare(self, t, image_shape, ids):
        field = _uniform_field(self.field_seed, *image_shape[1:]).to(t)
        share = self.drop_max * t**self.exponent
        return {"keep": (field < per_sample(1 - share, field[None, None])).to(t)}


@lru_cache(maxsize=8)
def _uniform_field(seed: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((height, width)))


@dataclass(frozen=True)
class BoxInpainting(_Masked):
    """A centred box is missing, filled with mid-grey (0); its height and width are the share side_max * t of the image's.

    A pixel that the box covers in part keeps the rest of its light, as a sensor's pixel would: m = 1 - covered share.
    So A is continuous in t and every level differs from the next (whole pixels would give a centred box in an image of
    32 pixels half a dozen sizes), and masks are nested: m falls with t everywhere. Source: the edge of partly covered
    pixels follows the paper's released code, which has it on a one-pixel perimeter.
    """

    side_max: Annotated[
        float, Field(gt=0, le=1, description="height and width of the box at t = 1, as a share of the image's")
    ] = 0.5

    def __post_init__(self):
        check_fields(self)

    def prepare(self, t, image_shape, ids):
        covered = [self._covered(t, size) for size in image_shape[1:]]
        return {"keep": 1 - (covered[0][:, :, None] * covered[1][:, None])[:, None]}

    def _covered(self, t: Tensor, size: int) -> Tensor:
        """(B, size): the share of each pixel of a line that lies within the box."""
        side = self.side_max * size * t[:, None]
        pixel = torch.arange(size, dtype=t.dtype, device=t.device)
        start, end = (size - side) / 2, (size + side) / 2
        return (torch.minimum(end, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0)
