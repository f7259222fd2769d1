"""Clean images: fetch them, verify them, split them, hand them out.

Whatever the source, a study sees the same three files: ``train.npy``, ``validation.npy`` and ``test.npy``, uint8
(N, C, H, W), each with its labels, described by ``splits.json``. A further source (an LMDB, a Hugging Face id, a list
of files) is one function with the signature of :func:`fashion_mnist` and one line in :data:`DATASETS`: it yields one
image at a time, so that a source larger than the memory is split in the same way, and callers do not change.
"""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from flashdiff.fetch import Source, debian_mirror, debian_package, fetch, http_mirror, installed_copy, say

Images = Iterable[tuple[np.ndarray, int]]  # (image uint8 (C, H, W), label; -1 where there is none)
Parts = Mapping[str, Images]  # the images of every split, consumed one after the other in this order

SPLITS = ("train", "validation", "test")
_AGAIN = "run the study's stage download again"

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

# What counts as an image in a user's folder; anything else there (labels, notes, archives) is passed over.
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
))  # fmt: skip


def to_float(images: np.ndarray) -> Tensor:
    """uint8 images (B, C, H, W) in 0..255 -> float32 in [-1, 1]."""
    return torch.tensor(images, dtype=torch.float32).div_(127.5).sub_(1)  # copies: splits are mapped read-only


def fetch_fashion_mnist(folder: str | Path = "data/raw/fashion-mnist", progress: bool = True) -> Path:
    """Put the four IDX files of Fashion-MNIST, decompressed and verified, into ``folder``; see :func:`fetch`.

    70 000 grey images of 28 x 28 pixels in ten classes: Xiao, Rasul, Vollgraf, arXiv:1708.07747; MIT licence.
    """
    return fetch(folder, FASHION_MNIST, SOURCES, progress)


# ---------------------------------------------------------------------------------------------------- reading sources


def read_idx(path: str | Path) -> np.ndarray:
    """The uint8 array in an IDX file, the format of MNIST: 0, 0, type 8, number of axes, big-endian sizes, data."""
    content = Path(path).read_bytes()
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if not axes or len(content) != start + math.prod(shape):
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


def image_folder(data: Mapping, seed: int, raw_folder: str | Path, progress: bool = True) -> Parts:
    """The user's own images: every image file below ``data["images"]``, in the order of a keyed hash of its name.

    The first ``data["test"]`` images are for testing, the next ``data["validation"]`` for validation, the others for
    training; the order depends on ``seed`` and the relative names only, so another machine splits alike, and a new
    file moves hardly any other. Of files with exactly the same pixels only the first counts: a copy adds nothing to a
    training set, and in two splits at once it would be a leak. ``raw_folder``/files.csv records what became of each
    file: its split and its image id there, or the file that it is a copy of. Sizes, channels: :func:`read_image`.
    """
    folder, test, validation = Path(data["images"]), data["test"], data["validation"]
    if not folder.is_dir():
        raise ValueError(f"data.images: {folder} is not a folder; give the path of a folder of images.")
    for name, count in (("test", test), ("validation", validation)):
        if count < 1:
            raise ValueError(f"data.{name}: {count}; give a count of at least 1.")
    names = sorted(
        image_names(folder),
        key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest(), name),
    )
    if len(names) <= test + validation:
        raise ValueError(
            f"data.images: {folder} holds {len(names)} images, too few for {test} test and {validation} validation "
            "images and at least one to train on; lower data.test and data.validation or add images."
        )
    Path(raw_folder).mkdir(parents=True, exist_ok=True)
    sizes = {"test": test, "validation": validation, "train": len(names) - test - validation}
    places = iter([(split, i) for split, size in sizes.items() for i in range(size)])
    names = tqdm(names, desc="reading images", disable=not progress)
    read = partial(read_image, image_size=data["image_size"], channels=data["channels"])
    images = _distinct(folder, names, read, places, Path(raw_folder) / "files.csv")
    return {"test": islice(images, test), "validation": islice(images, validation), "train": images}


def image_names(folder: Path) -> list[str]:
    """Names of the image files below ``folder``, relative to it, sorted; hidden files and folders do not count."""
    paths = [p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    return sorted(p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts))


def _distinct(
    folder: Path, names: Iterable[str], read: Callable, places: Iterator[tuple[str, int]], record: Path
) -> Iterator[tuple[np.ndarray, int]]:
    first: dict[bytes, str] = {}
    copies = 0
    with open(record, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "split", "image", "copy_of"])
        for name in names:
            image = read(folder / name)
            original = first.setdefault(hashlib.sha256(image).digest(), name)
            if original == name:
                table.writerow([name, *next(places), ""])
                yield image, -1
            else:
                table.writerow([name, "", "", original])
                copies += 1
    if copies:
        say(f"{folder}: {copies} exact copies of other images left out, see {record}.")


def read_image(path: str | Path, image_size: int, channels: int) -> np.ndarray:
    """One image file of any size and kind -> uint8 (channels, image_size, image_size).

    Turned upright as its camera says, transparent parts black, 16 bits scaled to 8, the largest square in the centre
    resized with an antialiasing filter (Lanczos). channels is 1 (luma, ITU-R 601) or 3. Of an animation: the first
    picture. ValueError naming the file when it cannot be read.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels: {channels}; give 1 (grey) or 3 (colour).")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion to 8 would clip instead of scale
                values = np.asarray(image).astype(np.int64)
                if values.min() < 0 or values.max() > 65535:
                    raise OSError("more than 16 bits per pixel")
                image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
            elif image.mode == "F":
                raise OSError("floating-point pixels, whose range is anyone's guess")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            image = ImageOps.fit(
                image.convert("RGB" if channels == 3 else "L"), (image_size, image_size), Image.Resampling.LANCZOS
            )
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ValueError(f"data.images: {path} cannot be read ({error}); repair or remove it.") from error
    return np.ascontiguousarray(np.asarray(image).reshape(image_size, image_size, channels).transpose(2, 0, 1))


# -------------------------------------------------------------------------------------------------------------- splits


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
    except FileNotFoundError:
        raise ValueError(f"{folder}: no complete splits in this folder (splits.json is missing); {_AGAIN}.") from None
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder / 'splits.json'}: does not describe split {name}; {_AGAIN}.") from None
    arrays = []
    for stem, (dtype, dimensions) in expected.items():
        path = folder / f"{stem}.npy"
        try:
            array = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise ValueError(f"{path}: missing; {_AGAIN}.") from None
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: cut off or not a NumPy file ({error}); {_AGAIN}.") from None
        if array.dtype != dtype or array.shape != dimensions:
            raise ValueError(f"{path}: holds {array.dtype} {array.shape}, not {dtype} {dimensions}; {_AGAIN}.")
        arrays.append(array)
    return Split(name, arrays[0], np.array(arrays[1]), about["sha256"])


# ------------------------------------------------------------------------------------------------------ a study's data

# name in the study file -> what yields its splits; ``images:`` in the study file takes image_folder instead
DATASETS: dict[str, Callable[[Mapping, int, str | Path, bool], Parts]] = {"fashion-mnist": fashion_mnist}


def prepare(
    data: Mapping, seed: int, raw_folder: str | Path, splits_folder: str | Path, progress: bool = True
) -> pd.DataFrame:
    """Fetch and split what the study's ``data`` section asks for, read it back, and tell what there is now.

    data: name, images (None or a folder), image_size, channels, validation and, with images, test. Returns one row per
    split: split, images (count), shape ("C x H x W"), sha256.
    """
    if data.get("images") is None and data["name"] not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"data.name: {data['name']!r} is not known; take {known}, or give a folder as data.images.")
    source = DATASETS[data["name"]] if data.get("images") is None else image_folder
    write_splits(splits_folder, source(data, seed, raw_folder, progress), data["name"])
    splits = [open_split(splits_folder, name).verify() for name in SPLITS]
    shape = " x ".join(map(str, splits[0].images.shape[1:]))
    return pd.DataFrame([{"split": s.name, "images": len(s), "shape": shape, "sha256": s.sha256} for s in splits])
