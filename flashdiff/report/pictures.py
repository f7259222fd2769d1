"""The row of real pictures that opens the page: an easy and a hard image, from the measurement to the truth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from flashdiff.datasets.splits import to_bytes
from flashdiff.report.style import emptied, need
from flashdiff.study.methods import adaptive, flash_method, main_rule, rules
from flashdiff.study.records import read_json, write_json

CHOSEN = {"easy": 0.2, "hard": 0.8}
"""Which images: where they stand among all images of the comparison by predicted severity, so that nobody picks them."""
INDEX = "pictures.json"


def save_row(rows: pd.DataFrame, images: Mapping[str, np.ndarray], folder: str | Path, pair: tuple[str, str]) -> Path:
    """Write the pictures of one (degradation, solver) pair, one PNG each in its own size, and an index of them.

    rows: a line per image and method (image, method, t, sigma_hat, psnr, nfe); images: (n, C, H, W) in [-1, 1] by
    method, with ``truth`` and ``measurement``, in the order of the image ids, as the comparison stores them. What stood in
    the folder is removed. Returns the index; ValueError where a column is missing.
    """
    from PIL import Image

    need(rows, "image", "method", "t", "sigma_hat", "psnr", "nfe")
    folder, flash = emptied(folder), flash_method(main_rule(rules(adaptive(rows.method))))
    by_method = {method: part.sort_values("image").reset_index(drop=True) for method, part in rows.groupby("method")}
    ranked = by_method[flash].sigma_hat.sort_values(kind="stable").index
    shown = []
    for kind, quantile in CHOSEN.items():
        k = ranked[round(quantile * (len(ranked) - 1))]
        cells = []
        for name in ("measurement", "no_diffusion", "full_length", flash, "truth"):
            file = f"{kind}-{name}.png"
            pixels = to_bytes(images[name][k])
            Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(folder / file)
            cell = {"name": name, "file": file}
            if name in by_method:
                line = by_method[name].loc[k]
                cell |= {"psnr": round(float(line.psnr), 2), "nfe": int(line.nfe)}
            cells.append(cell)
        line = by_method[flash].loc[k]
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
