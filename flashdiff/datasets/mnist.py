"""Fashion-MNIST, fetched and verified, and any other data set in the IDX files of MNIST."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flashdiff.datasets.fetch import Source, debian_mirror, debian_package, fetch, http_mirror, installed_copy
from flashdiff.datasets.splits import Parts

# Checksums of the decompressed files: Debian and the publishers compress the same bytes differently.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_INSTALLED = "usr/share/datasets/fashion-mnist"  # where Debian's package keeps the files
SOURCES: dict[str, Source] = {
    f"the copy in /{_INSTALLED}": installed_copy(f"/{_INSTALLED}"),
    "Debian's package dataset-fashion-mnist": debian_package("dataset-fashion-mnist", _INSTALLED, 30_900_652),
    "Debian's mirror": debian_mirror(
        "http://deb.debian.org/debian/pool/main/d/dataset-fashion-mnist/"
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        _INSTALLED,
    ),
    "the publishers' site": http_mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),
    "the publishers' repository": http_mirror(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
    ),
}


def fetch_fashion_mnist(folder: str | Path = "data/raw/fashion-mnist", progress: bool = True) -> Path:
    """Put the four IDX files of Fashion-MNIST, decompressed and verified, into ``folder``; see :func:`fetch`.

    70 000 grey images of 28 x 28 pixels in ten classes: Xiao, Rasul, Vollgraf, arXiv:1708.07747; MIT licence.
    """
    return fetch(folder, FASHION_MNIST, SOURCES, progress)


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, the format of MNIST: 0, 0, type 8, number of axes, big-endian sizes, data."""
    content = Path(path).read_bytes()
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if not 1 <= axes <= 4 or len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: not a complete IDX file of bytes; delete it and fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def fashion_mnist(data: Mapping, seed: int, raw_folder: str | Path, progress: bool = True) -> Parts:
    """Fashion-MNIST, padded with black to ``data["image_size"]``: 70 000 grey images of 28 x 28.

    Test is the official one; validation the last ``data["validation"]`` images of the official training set. ``seed``
    plays no part.
    """
    raw = fetch_fashion_mnist(raw_folder, progress)
    return idx_parts(raw, data["image_size"], data["channels"], data["validation"])


def idx_parts(raw: Path, image_size: int, channels: int, validation: int) -> Parts:
    """The splits of a folder with the four IDX files of MNIST or one of its relatives, padded with black."""
    if channels != 1:
        raise ValueError(f"data.channels: {channels}, but the images of {raw} are grey; set it to 1.")
    official = {}
    for name in ("train", "t10k"):
        images, labels = read_idx(raw / f"{name}-images-idx3-ubyte"), read_idx(raw / f"{name}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.ndim != 1:
            raise ValueError(
                f"{raw}: the {name} images have {images.ndim} axes and the labels {labels.ndim}, not 3 and 1; fetch the files again."
            )
        if len(images) != len(labels):
            raise ValueError(f"{raw}: {len(images)} {name} images but {len(labels)} labels; fetch the files again.")
        margins = [(image_size - side) // 2 for side in images.shape[1:]]
        if min(margins) < 0:
            raise ValueError(f"data.image_size: {image_size} is smaller than the {images.shape[1]} pixels of {raw}.")
        padding = [(m, image_size - side - m) for m, side in zip(margins, images.shape[1:], strict=True)]
        official[name] = np.pad(images, [(0, 0), *padding])[:, None], labels
    images, labels = official["train"]
    if not 1 <= validation < len(images):
        raise ValueError(f"data.validation: {validation}; give a count from 1 to {len(images) - 1}.")
    return {
        "train": zip(images[:-validation], labels[:-validation], strict=True),
        "validation": zip(images[-validation:], labels[-validation:], strict=True),
        "test": zip(*official["t10k"], strict=True),
    }
