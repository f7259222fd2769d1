"""Whether images that are tested or tuned on were trained on: by their pixels, exactly and nearly.

No two splits share an image: :func:`.splits.write_splits` refuses that. Here the files on disk are counted once more,
independently, and so are the images that are nearly the same: two photographs of one scene, or one garment twice.
"""

import hashlib
from pathlib import Path

import numpy as np

from flashdiff.datasets.splits import SPLITS, Split, open_split

ALIKE = 0.99
"""Correlation of the pixels of two images from which on they count as nearly the same."""
RULE = (
    f"nearly the same: the pixels of two images correlate by at least {ALIKE}, whatever their brightness and contrast; "
    "images of one colour are not compared"
)
PAIRS = (("test", "train"), ("test", "validation"), ("validation", "train"))
"""Of the first, which is tested or chosen on, the images are counted that the second has, too."""
_BLOCKS, _ROWS = 12, 256


def count_overlap(folder: str | Path) -> dict:
    """What the splits of a study share: counts, and the rule of what is nearly the same.

    ``exact`` and ``near``: for every one of PAIRS, written "test in train", how many images of the first the second
    has, too (an exact copy is also a near one, unless it is of one colour). ``within``: for every split, how many images
    are exact copies of an earlier one there. Some ten seconds for 70 000 images of 32 x 32.
    """
    splits = {name: open_split(folder, name) for name in SPLITS}
    digests = {
        name: [hashlib.sha256(image.tobytes()).digest() for image in split.images] for name, split in splits.items()
    }
    small = {name: _signatures(split) for name, split in splits.items()}
    exact, near = {}, {}
    for first, second in PAIRS:
        known = set(digests[second])
        exact[f"{first} in {second}"] = sum(digest in known for digest in digests[first])
        near[f"{first} in {second}"] = _alike(splits[first], splits[second], small[first], small[second])
    within = {name: len(found) - len(set(found)) for name, found in digests.items()}
    return {"exact": exact, "near": near, "within": within, "rule": RULE}


def in_words(overlap: dict) -> str:
    """The counts of :func:`count_overlap` in one line."""
    exact, near = overlap["exact"], overlap["near"]
    counts = "; ".join(f"{pair}: {exact[pair]} the same, {near[pair]} nearly" for pair in exact)
    return f"{counts} ({overlap['rule'].partition(': ')[2]})."


def _chunk(images: np.ndarray) -> int:
    """How many images are worked on at a time: four million numbers."""
    return max(1, 2**22 // images[0].size)


def _signatures(split: Split) -> np.ndarray:
    """Unit vectors (n, d) float32 whose inner product bounds the correlation of two images from above; 0 for one colour.

    Normalised pixels are projected on the 12 x 12 blocks of every channel; one entry more holds the length of what is
    left over, of which the bound assumes that it points the same way in both images.
    """
    _, height, width = split.images.shape[1:]
    rows, columns = (np.unique(np.arange(_BLOCKS) * side // _BLOCKS) for side in (height, width))
    area = np.diff([*rows, height])[:, None] * np.diff([*columns, width])
    parts = []
    chunk = _chunk(split.images)
    for at in range(0, len(split), chunk):
        x = _normalised(split.images[at : at + chunk])
        blocks = np.add.reduceat(np.add.reduceat(x, rows, axis=2), columns, axis=3) / np.sqrt(area)
        blocks = blocks.reshape(len(x), -1)
        length = np.square(x).sum((1, 2, 3))  # 1, or 0 for one colour
        rest = np.sqrt((length - np.square(blocks).sum(1)).clip(min=0))
        parts.append(np.concatenate([blocks, rest[:, None]], axis=1).astype(np.float32))
    return np.concatenate(parts)


def _normalised(images: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) less their mean, divided by their length: inner products are correlations; one colour is 0."""
    x = images.astype(np.float64)
    x -= x.mean((1, 2, 3), keepdims=True)
    length = np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True))
    return np.divide(x, length, out=np.zeros_like(x), where=length > 1e-6)


def _alike(first: Split, second: Split, small_first: np.ndarray, small_second: np.ndarray) -> int:
    """How many images of the first have one in the second that is nearly the same."""
    found, chunk = np.zeros(len(first), bool), _chunk(first.images)
    for at in range(0, len(first), _ROWS):
        bound = small_first[at : at + _ROWS] @ small_second.T
        rows, columns = np.nonzero(bound >= ALIKE - 1e-4)  # float32
        for part in range(0, len(rows), chunk):
            i, j = rows[part : part + chunk], columns[part : part + chunk]
            a, b = _normalised(first[at + i]), _normalised(second[j])
            found[at + i[(a * b).sum((1, 2, 3)) >= ALIKE]] = True
    return int(found.sum())
