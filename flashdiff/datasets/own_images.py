"""The user's own images as a study's splits: divided by a seed, or trained on one data set and tested on another."""

import csv
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flashdiff.datasets.collection import first_of
from flashdiff.datasets.images import ImageFile, read_images
from flashdiff.datasets.layouts import open_collection
from flashdiff.datasets.splits import Parts
from flashdiff.messages import say


def image_folder(data: Mapping, seed: int, raw_folder: str | Path, progress: bool = True) -> Parts:
    """The user's own images, those in ``data["list"]`` or all of them, in the order of a keyed hash of their keys.

    The key of an image file is its name relative to ``data["images"]``; other layouts have keys of their own. The first
    ``data["test"]`` images are for testing, the next ``data["validation"]`` for validation, the others for training;
    the order depends on ``seed`` and the keys only, so another machine splits alike, and a new file moves hardly any
    other. Of files with exactly the same pixels only the first counts: a copy adds nothing to a training set, and in
    two splits at once it would be a leak. ``raw_folder``/files.csv records what became of each file: its split and its
    image id there, or the file that it is a copy of. Sizes, channels: :func:`read_image`.
    """
    test, validation = _counts(data)
    collection = open_collection(data, "data")
    keys = sorted(
        collection.choose(data.get("list")),
        key=lambda key: (hashlib.sha256(f"{seed}/{key}".encode(errors="surrogateescape")).digest(), key),
    )
    if len(keys) <= test + validation:
        holder = f"list: {data['list']} names" if data.get("list") else f"images: {collection.where} holds"
        raise ValueError(
            f"data.{holder} {len(keys)} images, too few for {test} test and {validation} validation images and at least "
            "one to train on; lower data.test and data.validation or add images."
        )
    sizes = {"test": test, "validation": validation, "train": len(keys) - test - validation}
    files = _read(map(collection.file, keys), sizes, data, progress)
    return _parts(((file.name, image) for file, image in files), sizes, 0, data, Path(raw_folder))


def train_and_test(data: Mapping, seed: int, raw_folder: str | Path, progress: bool = True) -> Parts:
    """Images to train on from ``data``, test images from ``data["test_set"]``, each in their own order.

    That order is the list's where the section has one, else that of the layout (numbers, names). The first
    ``data["test"]`` images of the test set are for testing; of the others the last ``data["validation"]`` are for
    validation and the rest, or the first ``data["train"]`` of them, for training. Where only the test set has a list,
    what it names is not trained on, as in the published LSUN experiments. ``seed`` plays no part. ValueError, before any
    image is read, when there are fewer than asked for, or when an image would be on both sides.

    Test and validation images are exactly those that are named: if one has the pixels of another in the other split,
    reading them ends in a ValueError. For training, an exact copy of an earlier image is left out. ``raw_folder``
    /files.csv is as for :func:`image_folder`, with the whole path of each file.
    """
    test, validation = _counts(data)
    training, testing = open_collection(data, "data"), open_collection(data["test_set"], "data.test_set")
    chosen, tested = training.choose(data.get("list")), testing.choose(data["test_set"].get("list"))
    if data.get("list") is None and data["test_set"].get("list") is not None:
        named = set(testing.places(tested))
        chosen = [key for key, place in zip(chosen, training.places(chosen), strict=True) if place not in named]
    if len(chosen) <= validation:
        raise ValueError(
            f"data.validation: {validation} images, but {data.get('list') or training.where} has {len(chosen)}; lower it, "
            "so that some are left to train on."
        )
    if len(tested) < test:
        raise ValueError(
            f"data.test: {test} images, but {data['test_set'].get('list') or testing.where} has {len(tested)}; lower it."
        )
    tested = tested[:test]
    used = set(testing.places(tested))
    if shared := [place for place in training.places(chosen) if place in used]:
        raise ValueError(
            f"data.test_set: {len(shared)} of its {test} images are also among those of data.images "
            f"({first_of(shared)}); give each side a list, with no image in both."
        )
    held_out, chosen = chosen[-validation:], chosen[:-validation][: data.get("train")]
    sizes = {"test": test, "validation": validation, "train": len(chosen)}
    training_files = map(training.file, chain(held_out, chosen))
    files = _read(chain(map(testing.file, tested), training_files), sizes, data, progress)
    return _parts(((file.path, image) for file, image in files), sizes, test + validation, data, Path(raw_folder))


def _counts(data: Mapping) -> tuple[int, int]:
    for name in ("test", "validation"):
        if data[name] < 1:
            raise ValueError(f"data.{name}: {data[name]}; give a count of at least 1.")
    return data["test"], data["validation"]


def _read(
    files: Iterable[ImageFile], sizes: Mapping[str, int], data: Mapping, progress: bool
) -> Iterator[tuple[ImageFile, np.ndarray]]:
    images = read_images(files, data["image_size"], data["channels"])
    return iter(tqdm(images, desc="reading images", total=sum(sizes.values()), disable=not progress))


def _parts(
    images: Iterable[tuple[str, np.ndarray]], sizes: Mapping[str, int], fixed: int, data: Mapping, raw_folder: Path
) -> Parts:
    raw_folder.mkdir(parents=True, exist_ok=True)
    needed = sum(sizes.values()) * data["channels"] * data["image_size"] ** 2
    free = shutil.disk_usage(raw_folder).free  # the splits lie on the same disk
    if needed > free:
        raise ValueError(
            f"data.images: the splits of {sum(sizes.values())} images take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free on the disk; make room, or choose fewer images by a data.list."
        )
    places = ((split, i) for split, size in sizes.items() for i in range(size))
    kept = _distinct(images, places, fixed, raw_folder / "files.csv")
    last = next(reversed(sizes))  # takes what is left, to the end: there it is said what was left out
    return {split: kept if split == last else islice(kept, size) for split, size in sizes.items()}


def _distinct(
    images: Iterable[tuple[str, np.ndarray]], places: Iterator[tuple[str, int]], fixed: int, record: Path
) -> Iterator[tuple[np.ndarray, int]]:
    """The images without exact copies; the first ``fixed`` of them are not chosen from, but taken as they come."""
    first: dict[bytes, tuple[str, str]] = {}  # digest -> name and split of the first image with these pixels
    copies = 0
    split, i = next(places)
    with open(record, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "split", "image", "copy_of"])
        for number, (name, image) in enumerate(images):
            original, home = first.setdefault(hashlib.sha256(image).digest(), (name, split))
            if original != name and number >= fixed:
                table.writerow([name, "", "", original])
                copies += 1
                continue
            if home != split:
                raise ValueError(
                    f"data.list: {split} image {name} has exactly the pixels of {home} image {original}; take one of them "
                    "out of its list."
                )
            table.writerow([name, split, i, "" if original == name else original])
            yield image, -1
            split, i = next(places, ("", 0))
    if copies:
        say(f"{copies} exact copies of other images left out, see {record}.")
