"""The three splits of a study: ``train.npy``, ``validation.npy`` and ``test.npy``, uint8 (N, C, H, W), with labels.

Whatever the source, a study sees these files, described by ``splits.json``. They are written one image at a time and
read memory-mapped, so that a data set larger than the memory is split in the same way.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Images = Iterable[tuple[np.ndarray, int]]  # (image uint8 (C, H, W), label; -1 where there is none)
Parts = Mapping[str, Images]  # the images of every split, consumed one after the other in this order

SPLITS = ("train", "validation", "test")
IDS_PER_SPLIT = 2**32
"""Ids of a split start at its place in SPLITS times this, more images than any split has."""
_AGAIN = "run the study's stage download again"


def split_ids(split: str, n: int) -> np.ndarray:
    """Ids (n,) of a split's first n images, which key their levels and their noise: no two splits share one."""
    return SPLITS.index(split) * IDS_PER_SPLIT + np.arange(n)


def to_float(images: np.ndarray) -> Tensor:
    """uint8 images (B, C, H, W) in 0..255 -> float32 in [-1, 1]."""
    return torch.tensor(images, dtype=torch.float32).div_(127.5).sub_(1)  # copies: splits are mapped read-only


def to_bytes(images: Tensor | np.ndarray) -> np.ndarray:
    """Images of any shape in [-1, 1] -> uint8 0..255 of the same shape, the inverse of :func:`to_float`.

    What lies beyond -1 or 1 is black or white; between two levels the nearer is taken, at half way the even one.
    ValueError for NaN and infinite values: a walk that diverged is no picture.
    """
    if isinstance(images, Tensor):
        images = images.detach().to("cpu", torch.float64 if images.dtype == torch.float64 else torch.float32).numpy()
    if not np.isfinite(images).all():
        bad = np.size(images) - np.count_nonzero(np.isfinite(images))
        raise ValueError(f"image: {bad} of {np.size(images)} values are NaN or infinite; they have no colour.")
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def write_splits(folder: str | Path, parts: Parts, source: str) -> None:
    """Write every part as NAME.npy uint8 (N, C, H, W) and NAME-labels.npy int64 (N,), and splits.json about them all.

    ``parts`` are consumed one after the other in their order. splits.json comes last, so that splits cut off while
    being written do not pass for complete. ValueError when an image is in two splits, when a split is empty or images
    differ in shape.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "splits.json").unlink(missing_ok=True)
    home: dict[bytes, str] = {}  # digest of an image -> its split
    description: dict = {"source": source, "shape": None, "splits": {}}
    for name, images in parts.items():
        with open(folder / f"{name}.npy.part", "wb") as file:
            labels: list[int] = []
            for image, label in images:
                description["shape"] = shape = description["shape"] or list(image.shape)
                this = f"{source}: {name} image {len(labels)}"
                if list(image.shape) != shape or image.dtype != np.uint8:
                    raise ValueError(
                        f"{this} is {image.dtype} {list(image.shape)}, not uint8 {shape}; convert it first."
                    )
                pixels = image.tobytes()
                other = home.setdefault(hashlib.sha256(pixels).digest(), name)
                if other != name:
                    raise ValueError(f"{this} has the pixels of an image of split {other}; remove one of the two.")
                if not labels:
                    _npy_header(file, 1, shape)
                file.write(pixels)
                labels.append(int(label))
            if not labels:
                raise ValueError(f"{source}: no image is left for split {name}; ask for fewer in the others.")
            _npy_header(file, len(labels), shape)
        np.save(folder / f"{name}-labels.npy", np.array(labels, "<i8"))
        os.replace(folder / f"{name}.npy.part", folder / f"{name}.npy")
        images = np.load(folder / f"{name}.npy", mmap_mode="r")
        description["splits"][name] = {"images": len(labels), "sha256": _content(images, np.array(labels))}
    part = folder / "splits.json.part"
    part.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
    os.replace(part, folder / "splits.json")


def _npy_header(file: io.BufferedWriter, count: int, shape: Sequence[int]) -> None:
    # NumPy leaves room for the first axis to grow, so that the header can be written again once the count is known.
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _content(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the pixels, then of the labels as little-endian 64-bit integers."""
    digest = hashlib.sha256()
    for first in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[first : first + 1024]))
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


class Split:
    """One split of a study's images; image ids are 0 .. len - 1.

    ``images`` uint8 (N, C, H, W), memory-mapped; ``labels`` int64 (N,), -1 where there is none; ``sha256`` of both as
    they were written, the same on every machine; ``split[ids]`` is a copy of these images, uint8 (B, C, H, W).
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, sha256: str):
        self.name, self.images, self.labels, self.sha256 = name, images, labels, sha256

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, ids: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        return np.array(self.images[ids])

    def verify(self) -> "Split":
        """Read everything and compare with ``sha256``; ValueError when it differs."""
        if _content(self.images, self.labels) != self.sha256:
            raise ValueError(f"Split {self.name}: its content is not what splits.json says; {_AGAIN}.")
        return self


def open_split(folder: str | Path, name: str) -> Split:
    """Open a split that :func:`write_splits` wrote; ValueError when a file is missing, cut off or of another kind."""
    if name not in SPLITS:
        raise ValueError(f"Split {name!r}: there is none of this name; take one of {', '.join(SPLITS)}.")
    folder = Path(folder)
    try:
        description = json.loads((folder / "splits.json").read_text())
        about, shape = description["splits"][name], description["shape"]
        expected = {name: ("uint8", (about["images"], *shape)), f"{name}-labels": ("int64", (about["images"],))}
        sha256 = str(about["sha256"])
    except FileNotFoundError:
        raise ValueError(f"{folder}: no complete splits in this folder (splits.json is missing); {_AGAIN}.") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{folder / 'splits.json'}: does not describe split {name}; {_AGAIN}.") from None
    arrays = []
    for stem, (dtype, dimensions) in expected.items():
        path = folder / f"{stem}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # no archive, and no pickle
        except FileNotFoundError:
            raise ValueError(f"{path}: missing; {_AGAIN}.") from None
        except Exception as error:  # bytes of another kind make the reader raise whatever they happen to
            raise ValueError(f"{path}: cut off or not a NumPy file ({error}); {_AGAIN}.") from None
        if array.dtype != dtype or array.shape != dimensions:
            raise ValueError(f"{path}: holds {array.dtype} {array.shape}, not {dtype} {dimensions}; {_AGAIN}.")
        arrays.append(array)
    return Split(name, arrays[0], np.array(arrays[1]), sha256)
