"""CelebA-HQ and FFHQ: image files whose names are their numbers.

CelebA-HQ at 256 x 256 is a folder 00000.jpg ... 29999.jpg (Karras et al. 2018, arXiv:1710.10196). FFHQ (Karras et al.
2019, arXiv:1812.04948) is a folder 00000.png ... 69999.png, the same in subfolders of a thousand, or what NVIDIA's
dataset_tool.py writes: 00000/img00000000.png. The number decides what a list means: those beside the published latent
diffusion models (github.com/CompVis/taming-transformers) name CelebA-HQ's images as arrays, imgHQ00001.npy, and FFHQ's
as 00001.png; those of Flash-Diffusion (github.com/z-fabian/flash-diffusion) name both as 00001.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from flashdiff.datasets.collection import Collection, by_key, folder_of
from flashdiff.datasets.folder import image_names

_NUMBER = re.compile(r"[^0-9]*([0-9]+)")


def number(name: str) -> str | None:
    """The number at the end of a file's name without its suffix, in plain digits; None where there is none."""
    match = _NUMBER.fullmatch(PurePosixPath(name).stem)
    return str(int(match[1])) if match else None


def numbered(entry: Mapping, field: str) -> Collection:
    """Every image file below ``entry["images"]``, in the order of their numbers, which are their keys."""
    folder = folder_of(entry, field)
    names = by_key(folder, image_names(folder), number, field)
    ordered = {key: names[key] for key in sorted(names, key=int)}
    return Collection(field, str(folder), ordered, number, folder.joinpath)
