"""Linear motion blur."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from flashdiff.batch import Stream, uniform
from flashdiff.degradations import kernels
from flashdiff.degradations.base import Degradation, check_range

POINTS_PER_PIXEL = 8
"""Camera positions per pixel of the longest motion; the kernel is then within 1e-3 of the integral along the line."""


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """The camera moves in a straight line while the shutter is open, the same in all channels, reflected at the borders.

    y(p) = 1/L integral over s from -L/2 to L/2 of x(p + s u), x interpolated bilinearly; L = length_min + t (length_max -
    length_min) pixels, 0 = identity. The direction u is the image's own, uniform over all, keyed by (angle_seed, image
    id): more severe means further along the same line. A^T is exact, borders included.
    """

    length_min: float = 0.0
    length_max: float = 20.0
    angle_seed: int = 0
    linear: ClassVar[bool] = True

    def __post_init__(self):
        check_range(self, "length", at_least=0)

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
