"""Figures made of images: grids of samples, degradation levels, outliers, pairs, reconstructions side by side."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashdiff.report.names import label
from flashdiff.report.style import LEVEL, PAGE, PALETTE, SIGMA, SMALL, canvas, need, styled
from flashdiff.study.methods import adaptive


def show(axis: Axes, image: np.ndarray, title: str = "", below: str = "") -> None:
    """One image (C, H, W) in [-1, 1], without ticks; ``title`` above, ``below`` under it."""
    pixels = (np.clip(image, -1, 1) + 1) / 2
    pixels = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    axis.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title, fontsize=7, pad=3)
    if below:
        axis.set_xlabel(below, fontsize=SMALL, labelpad=2)


@styled
def image_grid(images: np.ndarray, title: str, columns: int = 8) -> Figure:
    """Images (n, C, H, W) in [-1, 1], row by row.

    >>> images = np.load("data/results/images-gaussian_blur-ldps.npz")
    >>> figure = figures.image_grid(images["truth"], "Test images")
    """
    count = -(-len(images) // columns)
    figure, axes = canvas(columns, count, width=PAGE, height=0.3 + PAGE / columns * count)
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, images, strict=False):
        show(axis, image)
    figure.suptitle(title)
    return figure


@styled
def degradation_levels(clean: np.ndarray, degraded: np.ndarray, levels: np.ndarray) -> Figure:
    """One row per image: the clean image (n, C, H, W), then its measurements (n, L, C, H, W) at the levels (L,).

    >>> images = np.load("data/results/images-gaussian_blur-ldps.npz")
    >>> series = images["measurement"][:1, None]
    >>> figure = figures.degradation_levels(images["truth"][:1], series, images["t"][:1])
    """
    figure, axes = canvas(1 + len(levels), len(clean), PAGE, 0.2 + PAGE / (1 + len(levels)) * len(clean))
    for row, (image, series) in enumerate(zip(clean, degraded, strict=True)):
        show(axes[row, 0], image, "clean" if row == 0 else "")
        for column, (level, measured) in enumerate(zip(levels, series, strict=True), start=1):
            show(axes[row, column], measured, f"t = {level:.1f}" if row == 0 else "")
    return figure


KINDS = {
    "easy": "easier than\nits level",
    "hard": "harder than\nits level",
    "underrated": "error\nunderrated",
    "overrated": "error\noverrated",
}
"""Kinds of outliers as readers see them."""
SHOWN = {"truth": "clean", "measurement": "measured", "no_diffusion": "D(ẑ)"}
"""What stands under one another, and what it is called."""


def _columns(axes: np.ndarray, images: np.ndarray, pictures: Mapping[str, np.ndarray]) -> None:
    """Under one another, for each of some images (k,): clean, measured, and decoded without diffusion."""
    for line, (name, words) in zip(axes, SHOWN.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            show(axis, pictures[name][image])
        line[0].set_ylabel(words, fontsize=SMALL)


@styled
def outliers(table: pd.DataFrame, pictures: Mapping[str, np.ndarray]) -> Figure:
    """Images whose severity surprises: clean, measured, and what is decoded from their latent.

    table: :func:`flashdiff.report.tables.outliers`; pictures: truth, measurement and no_diffusion (n, C, H, W) by image.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet").query("method == 'no_diffusion'")
    >>> pictures = np.load("data/results/images-gaussian_blur-ldps.npz")
    >>> figure = figures.outliers(tables.outliers(rows, k=2), pictures)
    """
    need(table, "image", "t", "sigma_hat", "sbar", "kind")
    figure, axes = canvas(len(table), len(SHOWN), PAGE, 0.62 + len(SHOWN) * PAGE / len(table))
    _columns(axes, table.image.to_numpy(), pictures)
    for column, row in enumerate(table.itertuples()):
        axes[-1, column].set_xlabel(f"t = {row.t:.2f}\nσ̂ = {row.sigma_hat:.2f}\ns̄ = {row.sbar:.2f}", fontsize=SMALL)
        if column == 0 or row.kind != table.kind[column - 1]:
            axes[0, column].set_title(KINDS[row.kind], fontsize=7, pad=3, loc="left")
    return figure


@styled
def matched_pairs(table: pd.DataFrame, pictures: Mapping[str, np.ndarray]) -> Figure:
    """Pairs of equal severity from different levels, side by side: clean, measured, and what is decoded from their latent.

    table: :func:`flashdiff.report.tables.matched_pairs`; pictures: truth, measurement and no_diffusion (n, C, H, W) by image.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet").query("method == 'no_diffusion'")
    >>> pictures = np.load("data/results/images-gaussian_blur-ldps.npz")
    >>> figure = figures.matched_pairs(tables.matched_pairs(rows, k=2), pictures)
    """
    need(table, "easy_image", "hard_image", "easy_t", "hard_t", "easy_sigma_hat", "hard_sigma_hat")
    figure, axes = canvas(2 * len(table), len(SHOWN), PAGE, 0.55 + len(SHOWN) * PAGE / (2 * len(table)))
    _columns(axes, table[["easy_image", "hard_image"]].to_numpy().ravel(), pictures)
    for pair, row in enumerate(table.itertuples()):
        axes[0, 2 * pair].set_title(f"pair {pair + 1}", fontsize=7, pad=3)
        for side, (t, sigma) in enumerate(((row.easy_t, row.easy_sigma_hat), (row.hard_t, row.hard_sigma_hat))):
            axes[-1, 2 * pair + side].set_xlabel(f"t = {t:.2f}\nσ̂ = {sigma:.2f}", fontsize=SMALL)
    figure.suptitle("Equal severity, very different degradation")
    return figure


@styled
def reconstructions(rows: pd.DataFrame, images: Mapping[str, np.ndarray], shown: int = 8) -> Figure:
    """Measurement, methods and truth side by side for images evenly spread in t; PSNR and NFE under each.

    images: (n, C, H, W) by method, with ``truth`` and ``measurement``, rows of each in the order of the image ids.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.reconstructions(rows, np.load("data/results/images-gaussian_blur-ldps.npz"), shown=2)
    """
    need(rows, "image", "method", "t", "psnr", "nfe", "sigma_hat")
    methods = ["no_diffusion", "full_length", *adaptive(rows.method)]
    first = rows[rows.method == methods[0]].reset_index(drop=True).sort_values("t")
    chosen = first.index.to_numpy()[np.linspace(0, len(first) - 1, min(shown, len(first))).round().astype(int)]
    by_method = {method: rows[rows.method == method].reset_index(drop=True) for method in methods}
    titles = ["measurement", *[label(m).replace(", ", ",\n") for m in methods], "truth"]
    figure, axes = canvas(len(titles), len(chosen), PAGE, 0.3 + (0.16 + PAGE / len(titles)) * len(chosen))
    for line, k in enumerate(chosen):
        head = by_method[methods[0]].loc[k]
        cells = [("measurement", f"t = {head.t:.2f}, σ̂ = {head.sigma_hat:.2f}")]
        for method in methods:
            cell = by_method[method].loc[k]
            cells.append((method, f"{cell.psnr:.1f} dB, {int(cell.nfe)} NFE"))
        cells.append(("truth", ""))
        for axis, title, (name, below) in zip(axes[line], titles, cells, strict=True):
            show(axis, images[name][k], title if line == 0 else "", below)
    return figure


@styled
def one_image(
    images: Mapping[str, np.ndarray],
    captions: Mapping[str, str],
    path: pd.DataFrame,
    t: float,
    sigma_hat: float,
    sbar: float,
    start: int,
) -> Figure:
    """Images (C, H, W) of one sample in a row, with captions; below them its predicted severity along the levels.

    path: columns t, sigma_hat; t, sigma_hat, sbar and start are those of the measurement shown.
    """
    need(path, "t", "sigma_hat")
    figure = Figure(figsize=(1.9 * len(images), 4.8), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.35])
    for axis, (name, image) in zip(above.subplots(1, len(images)), images.items(), strict=True):
        show(axis, image, name, captions[name])
    axis = below.subplots()
    axis.plot(path.t, path.sigma_hat, color=PALETTE[0], marker="o", ms=3, lw=1.2, label="this image at all levels")
    axis.plot([t], [sigma_hat], "o", ms=9, color=PALETTE[1], label=f"the measurement above: σ̂ = {sigma_hat:.3f}")
    axis.plot([t], [sbar], "x", ms=8, color="black", label=f"its true error: s̄ = {sbar:.3f}")
    axis.set(xlabel=LEVEL, ylabel=SIGMA, ylim=(0, None), title=f"Flash starts this image at index {start}")
    axis.legend()
    return figure
