"""Nonlinear blur: camera shake in linear light with saturation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import Stream, normal, per_sample
from flashdiff.degradations import kernels
from flashdiff.degradations.base import Degradation, check_range
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")
np = lazy.load("numpy")


POINTS_PER_PIXEL = 8
HARMONICS = 3
TURN_STD = 1.5
"""Standard deviation, in radians, of the lowest harmonic of the direction of motion; that of the m-th is 1/m of it."""


@dataclass(frozen=True)
class NonlinearBlur(Degradation):
    """Hand-held camera: blur that is not linear in the image, differentiable, without adjoint.

    While the shutter is open the camera moves along a random smooth path of length L = length_min + t (length_max -
    length_min) pixels, light adds up, the sensor saturates:

        y = r( min(g * mean over s of r^-1(x)(p + path(s)), 1) ),   g = 1 + t (gain_max - 1)

    with the camera response r (see :func:`response`) on [0, 1], which is [-1, 1] here; x is interpolated bilinearly and
    reflected at the borders. The path is the image's own, keyed by (path_seed, image id), and only scaled by L; the
    longer exposure of a longer path is g times as bright. At t = 0 with length_min = 0 this is the identity. Saturated
    pixels have gradient 0. What papers call nonlinear blur is :class:`flashdiff.degradations.EncodedBlur`.
    """

    length_min: Annotated[float, Field(ge=0, description="length of the camera's path in pixels at t = 0")] = 0.0
    length_max: Annotated[float, Field(gt=0, description="pixels at t = 1")] = 20.0
    gain_max: Annotated[float, Field(ge=1, description="exposure at t = 1 relative to t = 0; above 1 it saturates")] = (
        1.5
    )
    path_seed: Annotated[int, Field(ge=0, description="of the images' paths")] = 0

    def __post_init__(self):
        check_fields(self)
        check_range(self, "length")

    def check_image(self, image_shape):
        kernels.radius_of(self.length_max / 2, image_shape, "length_max")

    def prepare(self, t, image_shape, ids):
        radius = kernels.radius_of(self.length_max / 2, image_shape, "length_max")
        length = self.length_min + t * (self.length_max - self.length_min)
        points = length[:, None, None] * self._paths(ids, t)
        return {"kernel": kernels.from_points(points, radius), "gain": 1 + t * (self.gain_max - 1)}

    def _paths(self, ids: np.ndarray, like: Tensor) -> Tensor:
        """(B, n, 2): paths of length 1 at constant speed, n positions evenly spaced in time, centred on their mean.

        The direction of motion starts anywhere and turns by a few cosines with random amplitudes, so paths are smooth.
        """
        n = POINTS_PER_PIXEL * math.ceil(self.length_max)
        draws = normal((2 + HARMONICS,), ids, seed=self.path_seed, step=0, stream=Stream.DEGRADATION, like=like)
        time = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n
        m = torch.arange(1, HARMONICS + 1, dtype=like.dtype, device=like.device)
        turns = (TURN_STD / m * draws[:, 2:]) @ torch.cos(math.pi * m[:, None] * time)
        direction = torch.atan2(draws[:, :1], draws[:, 1:2]) + turns
        steps = torch.stack([direction.sin(), direction.cos()], dim=-1) / n
        points = steps.cumsum(1) - steps / 2  # midpoints of the n steps
        return points - points.mean(1, keepdim=True)

    def apply(self, x, state):
        light = kernels.correlate(linear_light((x + 1) / 2), state["kernel"])
        return 2 * response((per_sample(state["gain"], light) * light).clamp(max=1)) - 1


_TOE = 0.04045
"""Where the straight toe of sRGB's curve ends, as an image value."""


def response(light: Tensor) -> Tensor:
    """The camera response r: linear light -> image value, both in [0, 1]; sRGB's curve (IEC 61966-2-1), near gamma 2.2.

    Its toe is a straight line, which goes on below 0. A pure power would have an infinite slope at black, and black
    borders are common. Solver estimates that leave the range keep a finite gradient.
    """
    toe = light <= _TOE / 12.92
    power = (
        1.055 * torch.where(toe, 1, light) ** (1 / 2.4) - 0.055
    )  # where(): the gradient of the unused side stays finite
    return torch.where(toe, 12.92 * light, power)


def linear_light(value: Tensor) -> Tensor:
    """The inverse camera response r^-1: image value -> linear light, the exact inverse of :func:`response`."""
    toe = value <= _TOE
    return torch.where(toe, value / 12.92, ((torch.where(toe, 1, value) + 0.055) / 1.055) ** 2.4)
