"""Blur by one kernel per image, with reflection at the borders, and the exact transpose of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")


def from_points(points: Tensor, radius: int) -> Tensor:
    """The kernels of cameras that spend equal times at ``points``: (B, n, 2) -> (B, 2 radius + 1, 2 radius + 1).

    points: offsets (down, across) in pixels, at most ``radius``. Each is shared among its four neighbours by bilinear
    weights, so :func:`correlate` gives the mean of the n images, each displaced and interpolated bilinearly.
    """
    taps = torch.arange(-radius, radius + 1, dtype=points.dtype, device=points.device)
    down, across = ((1 - (points[..., axis, None] - taps).abs()).clamp(min=0) for axis in (0, 1))  # (B, n, taps)
    return down.mT @ across / points.shape[1]


def radius_of(extent: float, image_shape: tuple[int, int, int], field: str) -> int:
    """Half width of a kernel that holds points up to ``extent`` pixels away; ValueError where reflection ends before."""
    radius = int(-(-extent // 1))
    if radius >= min(image_shape[1:]):
        raise ValueError(
            f"{field}: reaches {radius} pixels beyond a border, but an image of {image_shape[1]} x {image_shape[2]} "
            f"pixels can be reflected by {min(image_shape[1:]) - 1} at most; lower it."
        )
    return radius


def correlate(x: Tensor, kernels: Tensor) -> Tensor:
    """y[p] = sum over o of kernel[o] x[p + o], reflected at the borders; x (B, C, H, W), kernels (B, k, k), k odd."""
    batch, channels = x.shape[:2]
    radius = kernels.shape[-1] // 2
    padded = torch.nn.functional.pad(x, (radius,) * 4, mode="reflect")
    y = torch.nn.functional.conv2d(
        padded.flatten(0, 1)[None], _per_channel(kernels, channels), groups=batch * channels
    )[0]
    return y.unflatten(0, (batch, channels))


def correlate_transposed(y: Tensor, kernels: Tensor) -> Tensor:
    """The transpose of :func:`correlate`: <correlate(x), y> = <x, correlate_transposed(y)>, borders included."""
    batch, channels = y.shape[:2]
    radius = kernels.shape[-1] // 2
    grouped = _per_channel(kernels, channels)
    padded = torch.nn.functional.conv_transpose2d(y.flatten(0, 1)[None], grouped, groups=batch * channels)[0]
    return _fold(_fold(padded, radius, 1), radius, 2).unflatten(0, (batch, channels))


def _per_channel(kernels: Tensor, channels: int) -> Tensor:
    return kernels.repeat_interleave(channels, 0)[:, None]


def _fold(padded: Tensor, radius: int, dim: int) -> Tensor:
    """Transpose of reflection padding along ``dim``: what was copied outwards comes back and adds up."""
    size = padded.shape[dim] - 2 * radius
    before, inside, after = padded.split([radius, size, radius], dim)
    inside = inside.clone()
    inside.narrow(dim, 1, radius).add_(before.flip(dim))
    inside.narrow(dim, size - 1 - radius, radius).add_(after.flip(dim))
    return inside
