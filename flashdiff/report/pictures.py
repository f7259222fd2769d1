"""The row of real pictures that opens the page: an easy and a hard image, from the measurement to the truth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from flashdiff.datasets.splits import to_bytes
from flashdiff.report.style import emptied, need
from flashdiff.study.methods import flash_method, main_rule, rules
from flashdiff.study.records import read_json, write_json

INDEX = "pictures.json"


def walk_of(rows: pd.DataFrame, ratio: Mapping) -> str:
    """The walk that stands for Flash: the cheapest of few steps that beats the baseline, else the long one.

    rows: of :func:`flashdiff.study.examples.walk`; ratio: ``nfe_ratio_100`` of the pair's few-step metrics.
    """
    if ratio["value"] is not None:
        return f"{ratio['budget']:g}/adaptive/{ratio['tuned_for']}"
    return flash_method(main_rule(rules(rows.walk.unique())))


def save_row(
    rows: pd.DataFrame, images: Mapping[str, np.ndarray], folder: str | Path, pair: tuple[str, str], flash: str
) -> Path:
    """Write the pictures of one (degradation, solver) pair, one PNG each in its own size, and an index of them.

    rows, images: what :func:`flashdiff.study.examples.walk` returns; flash: the walk that is shown beside D(z_hat) and the
    baseline. What stood in the folder is removed. Returns the index; ValueError where a column is missing.
    """
    from PIL import Image

    need(rows, "kind", "image", "walk", "draw", "t", "sigma_hat", "psnr", "nfe")
    folder, first = emptied(folder), rows[rows.draw == 0]
    shown = []
    for k, kind in enumerate(first.kind.unique()):
        lines = first[first.kind == kind].set_index("walk")
        cells = []
        walks = {
            "measurement": None,
            "no_diffusion": "no_diffusion",
            "full_length": "full_length",
            "flash": flash,
            "truth": None,
        }
        for name, walk in walks.items():
            file = f"{kind}-{name}.png"
            pixels = to_bytes(images[walk or name][k])
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(folder / file)
            cell = {"name": name, "file": file}
            if walk is not None:
                cell |= {"psnr": round(float(lines.psnr[walk]), 2), "nfe": int(lines.nfe[walk])}
            cells.append(cell)
        line = lines.loc[flash]
        head = {"kind": kind, "image": int(line.image), "t": round(float(line.t), 3)}
        shown.append(head | {"sigma_hat": round(float(line.sigma_hat), 3), "cells": cells})
    write_json(folder / INDEX, {"degradation": pair[0], "solver": pair[1], "shown": shown})
    return folder / INDEX


def read_row(reports: Path, folder: str, pairs: list[tuple[str, str]]) -> dict | None:
    """The index that :func:`save_row` wrote, its files as paths below ``reports``; None where there is none, or where it is
    of a pair that the study no longer has."""
    if not (reports / folder / INDEX).is_file():
        return None
    row = read_json(reports / folder / INDEX)
    if (row["degradation"], row["solver"]) not in pairs:
        return None
    for image in row["shown"]:
        for cell in image["cells"]:
            cell["path"] = f"{folder}/{cell['file']}"
    return row
