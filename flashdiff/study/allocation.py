"""Walks of every number of evaluations for every image: what a budget for a set is shared by, and measured on.

Validation images say what evaluations are worth at each severity; test images have walked with every number, so that every
way of sharing a budget, the best in hindsight included, is a choice among walks that were taken.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashdiff.batch import slice_size
from flashdiff.measures import MEASURES
from flashdiff.study.budgets import Choice, few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.rows import typed
from flashdiff.trust.allocation import SAME, TUNED

COLUMNS = {
    "split": "str", "method": "str", "number": "float32", "image": "int32", "t": "float32", "sigma_hat": "float32",
    "nfe": "int32", "psnr": "float32", "perceptual": "float32",
}  # fmt: skip
"""The record's columns and their types: a row per image and walk. number: of evaluations, wanted for each image (SAME) or on
average over validation images (TUNED); nfe: what the image took, fewer where its start leaves less room."""


def settings(tuned: Mapping[str, Mapping], numbers: Sequence[int]) -> dict[int, Choice]:
    """{number >= 1: the few-step setting of a walk with as many steps for every image}.

    tuned: {budget: {method: {objective: setting}}} of :func:`flashdiff.study.budgets.tune`; a number between two budgets
    takes solver and start rule of the one that is nearer by ratio, as tuned for PSNR.
    """
    found = {}
    for number in numbers:
        nearest = min(tuned, key=lambda budget: abs(math.log(float(budget) / number)))
        choice = tuned[nearest]["adaptive"]["psnr"]
        walk = {"kind": "evenly_spaced", "steps": number}
        found[number] = {"solver": {**choice["solver"], "walk": walk}, "start": dict(choice["start"])}
    return found


def rows_of(section: Mapping, tuned: Mapping[str, Mapping], load: Callable[[str, int], Bench]) -> pd.DataFrame:
    """The record of the study's section ``allocation``: rows of COLUMNS of the validation and the test images.

    load: (split, number of images) -> bench. No images: no rows.
    """
    parts: list[pd.DataFrame] = []
    for split, n_images in (("validation", section["validation"]), ("test", section["n_images"])):
        if section["n_images"]:
            runs = {(SAME, number): choice for number, choice in settings(tuned, section["numbers"]).items()}
            if split == "test":
                plain = {float(budget): methods["adaptive"]["psnr"] for budget, methods in tuned.items()}
                runs |= {(TUNED, budget): plain[budget] for budget in plain if budget < max(section["numbers"])}
            parts += walked(load(split, n_images), split, runs)
    return record(parts)


def walked(bench: Bench, split: str, runs: Mapping[tuple[str, float], Choice]) -> Iterator[pd.DataFrame]:
    """What the bench's images become with every run, (method, number) -> setting, and without a step: number 0."""
    head = {
        "split": split, "image": np.arange(len(bench.truth)), "t": np.asarray(bench.measurement.t),
        "sigma_hat": np.asarray(bench.severity.sigma_hat),
    }  # fmt: skip

    def part(method: str, number: float, nfe: Any, images) -> pd.DataFrame:
        names = ("psnr", "perceptual")
        found = {name: np.asarray(MEASURES[name].compute(images, bench.truth, bench.distances)) for name in names}
        return pd.DataFrame(head | {"method": method, "number": number, "nfe": nfe} | found)

    decoded = bench.prior.decode_in_slices(bench.severity.z_hat, slice_size(bench.truth)).cpu().clamp(-1, 1)
    yield part(SAME, 0, 0, decoded)
    for (method, number), choice in runs.items():
        result = few_step(bench, choice)(bench.measurement, bench.severity, title=f"{split}, {method} {number:g}")
        yield part(method, number, np.asarray(result.nfe), result.images)


def record(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed(parts, COLUMNS)
