"""Linear motion blur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import Stream, uniform
from flashdiff.degradations import kernels
from flashdiff.degradations.base import Degradation, check_range
from flashdiff.fields import check_fields

torch = lazy.load("torch")


POINTS_PER_PIXEL = 8
"""Camera positions per pixel of the longest motion; the kernel is then within 1e-3 of the integral along the line."""


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """The camera moves in a straight line while the shutter is open, the same in all channels, reflected at the borders.

    y(p) = 1/L integral over s from -L/2 to L/2 of x(p + s u), x interpolated bilinearly; L = length_min + t (length_max -
    length_min) pixels, 0 = identity. The direction u is the image's own, uniform over all, keyed by (angle_seed, image
    id): more severe means further along the same line. A^T is exact, borders included.
    """

    length_min: Annotated[float, Field(ge=0, description="pixels at t = 0")] = 0.0
    length_max: Annotated[float, Field(gt=0, description="pixels at t = 1")] = 20.0
    angle_seed: Annotated[int, Field(ge=0, description="of the images' directions")] = 0
    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)
        check_range(self, "length")

    def check_image(self, image_shape):
        kernels.radius_of(self.length_max / 2, image_shape, "length_max")

    def prepare(self, t, image_shape, ids):
        radius = kernels.radius_of(self.length_max / 2, image_shape, "length_max")
        length = self.length_min + t * (self.length_max - self.length_min)
        angle = math.pi * uniform(ids, seed=self.angle_seed, step=0, stream=Stream.DEGRADATION, like=t)
        direction = torch.stack([angle.sin(), angle.cos()], dim=-1)
        n = POINTS_PER_PIXEL * math.ceil(self.length_max)
        positions = (torch.arange(n, dtype=t.dtype, device=t.device) + 0.5) / n - 0.5  # midpoints of n equal parts
        points = length[:, None, None] * positions[:, None] * direction[:, None]
        return {"kernel": kernels.from_points(points, radius)}

    def apply(self, x, state):
        return kernels.correlate(x, state["kernel"])

    def adjoint(self, y, state):
        return kernels.correlate_transposed(y, state["kernel"])
