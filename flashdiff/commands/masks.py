"""Inpainting of pictures from elsewhere: the mask is a file, or read off the measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from flashdiff.commands.pictures import Picture
from flashdiff.datasets.images import read_image
from flashdiff.degradations import Degradation


@dataclass(frozen=True)
class KnownMasks(Degradation):
    """Inpainting with each image's own mask, by image id: A x = m x; 1 where a pixel is kept, (1, H, W), and A^T = A."""

    keep: Mapping[int, Tensor] = field(repr=False)
    linear: ClassVar[bool] = True

    def prepare(self, t, image_shape, ids):
        return {"keep": torch.stack([self.keep[int(image)] for image in ids]).to(t)}

    def apply(self, x, state):
        return x * state["keep"]

    def adjoint(self, y, state):
        return self.apply(y, state)


def read_off(y: Tensor, noise_std: float) -> Tensor:
    """Kept pixels (B, 1, H, W), 1 or 0: dropped are those that are mid-grey, 0, in all channels of y (B, C, H, W).

    In a picture of 8 bits mid-grey lies between two values, 1/255 from each; noise moves it further, by less than five
    standard deviations but for one value in 1.7 million. A pixel of the scene that is as grey is taken for a dropped one:
    the prior fills it in.
    """
    return (y.abs() > 1.01 / 255 + 5 * noise_std).any(1, keepdim=True).to(y.dtype)


def read_files(pictures: Sequence[Picture], masks: Mapping[str, Path], size: int) -> Tensor:
    """Kept pixels (B, 1, H, W), 1 or 0, of the mask files by the pictures' names: white is kept, black is missing."""
    files = [read_image(path, size, 1, str(path)) for path in (masks[picture.name] for picture in pictures)]
    return torch.from_numpy(np.stack(files) >= 128).float()


def level_of(keep: Tensor, drop_max: float, exponent: float) -> Tensor:
    """The level t (B,) in [0, 1] at which random inpainting drops as many pixels; dropped share = drop_max t^exponent."""
    return ((1 - keep.flatten(1).mean(1)) / drop_max).clamp(0, 1) ** (1 / exponent)
