"""Nonlinear blur: camera shake in linear light with saturation, or the learned operator of Tran et al. 2021."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal, per_sample
from flashdiff.degradations import encoded_blur, kernels
from flashdiff.degradations.base import Degradation, check_field, check_range

POINTS_PER_PIXEL = 8
HARMONICS = 3
TURN_STD = 1.5
"""Standard deviation, in radians, of the lowest harmonic of the direction of motion; that of the m-th is 1/m of it."""


@dataclass(frozen=True)
class NonlinearBlur(Degradation):
    """Blur that is not linear in the image, differentiable, without adjoint; two implementations behind one name.

    **weights is None**: hand-held camera. While the shutter is open the camera moves along a random smooth path of
    length L = length_min + t (length_max - length_min) pixels, light adds up, the sensor saturates:

        y = r( min(g * mean over s of r^-1(x)(p + path(s)), 1) ),   g = 1 + t (gain_max - 1)

    with the camera response r (see :func:`response`) on [0, 1], which is [-1, 1] here; x is interpolated bilinearly and
    reflected at the borders. The path is the image's own, keyed by (path_seed, image id), and only scaled by L; the
    longer exposure of a longer path is g times as bright. At t = 0 with length_min = 0 this is the identity. Saturated
    pixels have gradient 0.

    **weights given** (a file, or an https URL with its ``sha256``): y = F(x, k) of Tran, Tran, Phung, Hoai, "Explore
    Image Deblurring via Encoded Blur Kernel Space" (CVPR 2021), clipped to [-1, 1], with a code of its own for every
    image, k = 1.2 t N(0, I), keyed by (path_seed, image id). The published operator has no severity: it is t = 1. RGB
    images, sides in multiples of 128, published 256. Lengths and gain play no part. See
    :mod:`flashdiff.degradations.encoded_blur`.
    """

    length_min: float = 0.0
    length_max: float = 20.0
    gain_max: float = 1.5
    path_seed: int = 0
    weights: str | None = None
    sha256: str | None = None

    def __post_init__(self):
        check_range(self, "length", at_least=0)
        check_field(self, "gain_max", 1 <= self.gain_max < math.inf, "give 1 (no saturation) or more")
        encoded_blur.check_source(self.weights, self.sha256)

    def prepare(self, t, image_shape, ids):
        if self.weights is not None:
            return {"code": t[:, None, None, None] * encoded_blur.codes(image_shape, ids, self.path_seed, like=t)}
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
        if self.weights is not None:
            return encoded_blur.apply(x, state["code"], self.weights, self.sha256)
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
