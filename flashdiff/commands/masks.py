"""Inpainting of pictures from elsewhere: masks from files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashdiff.commands.pictures import Picture
from flashdiff.datasets.images import read_image


def read_files(pictures: Sequence[Picture], masks: Mapping[str, Path], size: int) -> Tensor:
    """Kept pixels (B, 1, H, W), 1 or 0, of the mask files by the pictures' names: white is kept, black is missing."""
    files = [read_image(path, size, 1, str(path)) for path in (masks[picture.name] for picture in pictures)]
    return torch.from_numpy(np.stack(files) >= 128).float()
