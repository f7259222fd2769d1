"""A study's ``data`` section: from what it asks for to its three splits."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from flashdiff.datasets.mnist import fashion_mnist
from flashdiff.datasets.own_images import image_folder, train_and_test
from flashdiff.datasets.splits import SPLITS, Parts, open_split, write_splits

# name in the study file -> what yields its splits; ``images:`` in the study file takes the user's own instead
DATASETS: dict[str, Callable[[Mapping, int, str | Path, bool], Parts]] = {"fashion-mnist": fashion_mnist}


def prepare(
    data: Mapping, seed: int, raw_folder: str | Path, splits_folder: str | Path, progress: bool = True
) -> pd.DataFrame:
    """Fetch and split what the study's ``data`` section asks for, read it back, and tell what there is now.

    data: name, images (None, or the place of the user's own), image_size, channels, validation and, with images, test;
    perhaps layout, list, split and column of these images, train, and a test_set with the same fields. Returns one row per
    split: split, images (count), shape ("C x H x W"), sha256.
    """
    write_splits(splits_folder, _source(data)(data, seed, raw_folder, progress), data["name"])
    splits = [open_split(splits_folder, name).verify() for name in SPLITS]
    shape = " x ".join(map(str, splits[0].images.shape[1:]))
    return pd.DataFrame([{"split": s.name, "images": len(s), "shape": shape, "sha256": s.sha256} for s in splits])


def _source(data: Mapping) -> Callable[[Mapping, int, str | Path, bool], Parts]:
    if data.get("images") is not None:
        return image_folder if data.get("test_set") is None else train_and_test
    if data["name"] not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"data.name: {data['name']!r} is not known; take {known}, or give a folder as data.images.")
    for field in ("layout", "list", "split", "column", "test_set", "train"):
        if data.get(field) is not None:
            raise ValueError(
                f"data.{field}: plays no part without data.images; remove it, or say where the images are."
            )
    return DATASETS[data["name"]]
