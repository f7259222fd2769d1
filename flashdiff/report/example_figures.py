"""Figures of two images, an easy and a hard one: the method at work, five starts, and the way down."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashdiff.report.image_figures import show
from flashdiff.report.names import label
from flashdiff.report.style import GREY, PAGE, PALETTE, SMALL, canvas, need, styled
from flashdiff.study.methods import flash_method, main_rule, rules

COLUMNS = ("kind", "t", "sigma_hat", "walk", "draw", "start", "nfe", "psnr")
STARTING = PALETTE[1]
"""The colour of where a walk begins."""


def _flash(rows: pd.DataFrame) -> str:
    """The walk that stands for Flash."""
    return flash_method(main_rule(rules(rows.walk.unique())))


def _of(rows: pd.DataFrame, walk: str) -> pd.DataFrame:
    """The first draw of a walk, one row per image, in the order of the images."""
    return rows[(rows.walk == walk) & (rows.draw == 0)].reset_index(drop=True)


def _latent(z: np.ndarray) -> np.ndarray:
    """A latent (c, h, w) as one grey image (1, ...) in [-1, 1], its channels in a square, three standard deviations wide."""
    side = int(np.ceil(np.sqrt(len(z))))
    tiles = np.full((side * side, *z.shape[1:]), -3.0)
    tiles[: len(z)] = z
    height, width = z.shape[1:]
    square = tiles.reshape(side, side, height, width).transpose(0, 2, 1, 3).reshape(1, side * height, side * width)
    return np.clip(square / 3, -1, 1)


@styled
def overview(rows: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> Figure:
    """The method on a real image, a line per image: measurement, estimate of the clean latent, its place on the SNR curve,
    the walk down from there, result and truth.

    rows, arrays: what :func:`flashdiff.study.examples.walk` returns.

    >>> rows = read_rows("data/results/examples-gaussian_blur-ldps.parquet")
    >>> figure = figures.overview(rows, np.load("data/results/examples-gaussian_blur-ldps.npz"))
    """
    need(rows, *COLUMNS)
    flash = _flash(rows)
    line = _of(rows, flash)
    figure = Figure(figsize=(PAGE, 0.3 + 0.95 * len(line)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)
    axes = figure.subplots(len(line), 9, squeeze=False, width_ratios=[1, 1, 2.4, 1, 1, 1, 1, 1, 1])
    snr = arrays["abar"] / (1 - arrays["abar"])
    for k, (row, cells) in enumerate(zip(line.itertuples(), axes, strict=True)):
        index, path = arrays[f"index/{flash}"][k], arrays[f"path/{flash}"][k]
        on_the_way = np.linspace(0, len(path) - 1, 4).round().astype(int)
        show(cells[0], arrays["measurement"][k], "measured" if k == 0 else "", f"t = {row.t:.2f}")
        cells[0].set_ylabel(f"{row.kind} image", fontsize=SMALL)
        show(cells[1], _latent(arrays["z_hat"][k]), "latent ẑ" if k == 0 else "", f"σ̂ = {row.sigma_hat:.2f}")
        _curve(cells[2], snr, row.start, row.sigma_hat, labelled=k == len(line) - 1)
        for axis, at in zip(cells[3:7], on_the_way, strict=True):
            show(axis, path[at], "", f"i = {index[at]}")
        show(cells[7], arrays[flash][k], "result" if k == 0 else "", f"{row.psnr:.1f} dB")
        show(cells[8], arrays["truth"][k], "truth" if k == 0 else "")
    axes[0, 2].set_title("where the walk begins", fontsize=7, pad=3)
    axes[0, 4].set_title("the walk down", fontsize=7, pad=3, loc="left")
    return figure


def _curve(axis: Axes, snr: np.ndarray, start: int, sigma_hat: float, labelled: bool) -> None:
    """Signal-to-noise ratio over the diffusion's index; the level of the severity, and the start where the two meet."""
    axis.plot(np.arange(len(snr)), snr, color="black", lw=1.1)
    level = 1 / sigma_hat**2
    axis.plot([0, max(start, 0)], [level, level], color=STARTING, lw=0.9, ls="--")
    axis.plot([max(start, 0)], [snr[max(start, 0)]], "o", ms=4, color=STARTING)
    axis.axvspan(start, len(snr), color="0.93", lw=0)
    axis.annotate(
        f"start {start}", (max(start, 0), snr[max(start, 0)]), xytext=(5, 3), textcoords="offset points", size=SMALL,
        color=STARTING,
    )  # fmt: skip
    axis.set_box_aspect(0.42)
    axis.set(yscale="log", xlim=(0, len(snr)), ylim=(snr.min(), snr.max()))
    axis.set_ylabel("SNR", labelpad=1)
    axis.tick_params(pad=1.5)
    if labelled:
        axis.set_xlabel("index i, shaded: left out", labelpad=2)
    else:
        axis.set_xticklabels([])


@styled
def starts_of_images(rows: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> Figure:
    """Two images from the same starts, the best one framed; below, PSNR against the start, mean and range over draws.

    The diamond is the walk from where the severity encoder has them start; the dashed line is the full-length baseline.

    >>> rows = read_rows("data/results/examples-gaussian_blur-ldps.parquet")
    >>> figure = figures.starts_of_images(rows, np.load("data/results/examples-gaussian_blur-ldps.npz"))
    """
    need(rows, *COLUMNS)
    fixed = rows[rows.walk.str.startswith("fixed_")]
    starts, kinds = sorted(fixed.start.unique()), list(rows.kind.unique())
    figure = Figure(figsize=(PAGE, 1.15 * len(kinds) + 2.1), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.15 * len(kinds), 2.1])
    pictures = above.subplots(len(kinds), len(starts) + 2, squeeze=False)
    curves = below.subplots(1, len(kinds), squeeze=False)[0]
    for k, kind in enumerate(kinds):
        own = rows[rows.kind == kind]
        means = fixed[fixed.kind == kind].groupby("start").psnr.agg(["mean", "min", "max"]).loc[starts]
        best = int(means["mean"].to_numpy().argmax())
        show(pictures[k, 0], arrays["measurement"][k], "measured" if k == 0 else "", f"t = {own.t.iloc[0]:.2f}")
        pictures[k, 0].set_ylabel(f"{kind} image", fontsize=SMALL)
        for axis, start, psnr in zip(pictures[k, 1:-1], starts, means["mean"], strict=True):
            show(axis, arrays[f"fixed_{start}"][k], f"start {start}" if k == 0 else "", f"{psnr:.1f} dB")
        for spine in pictures[k, 1 + best].spines.values():
            spine.set(visible=True, color=STARTING, linewidth=2)
        show(pictures[k, -1], arrays["truth"][k], "truth" if k == 0 else "")
        _quality(curves[k], kind, means, own)
    curves[0].set_ylabel("PSNR (dB)")
    below.legend(*curves[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _quality(axis: Axes, kind: str, means: pd.DataFrame, own: pd.DataFrame) -> None:
    """PSNR of one image against the start of its walk; own: all rows of the image."""
    axis.errorbar(
        means.index + 1, means["mean"], yerr=[means["mean"] - means["min"], means["max"] - means["mean"]], color=PALETTE[0],
        marker="o", ms=3.5, lw=1.1, capsize=2, label="one start for both",
    )  # fmt: skip
    flash = own[own.walk == _flash(own)].iloc[0]
    axis.plot([flash.start + 1], [flash.psnr], "D", color=STARTING, ms=5, label=label(flash.walk))
    axis.axhline(own[own.walk == "full_length"].psnr.iloc[0], color=GREY, ls="--", lw=1, label=label("full_length"))
    axis.axhline(own[own.walk == "no_diffusion"].psnr.iloc[0], color="0.35", ls=":", lw=1, label=label("no_diffusion"))
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="evaluations from the start (index + 1)", title=f"{kind} image")


@styled
def trajectories(rows: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> Figure:
    """What the denoiser takes an image for on the way down, D(z0_hat), for the baseline and for Flash, two images.

    >>> rows = read_rows("data/results/examples-gaussian_blur-ldps.parquet")
    >>> figure = figures.trajectories(rows, np.load("data/results/examples-gaussian_blur-ldps.npz"))
    """
    need(rows, *COLUMNS)
    walks, kinds = ("full_length", _flash(rows)), list(rows.kind.unique())
    points = arrays[f"path/{walks[0]}"].shape[1]
    figure, axes = canvas(points + 2, len(walks) * len(kinds), PAGE, 0.2 + 0.84 * len(walks) * len(kinds))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    for k, kind in enumerate(kinds):
        for j, walk in enumerate(walks):
            cells, row = axes[len(walks) * k + j], _of(rows, walk).loc[k]
            for axis, image, index in zip(cells, arrays[f"path/{walk}"][k], arrays[f"index/{walk}"][k], strict=False):
                show(axis, image, "", f"i = {index}")
            show(cells[points], arrays[walk][k], "result" if k == j == 0 else "", f"{row.psnr:.1f} dB")
            show(cells[points + 1], arrays["truth"][k], "truth" if k == j == 0 else "")
            name = "baseline" if walk == "full_length" else "Flash"
            cells[0].set_ylabel(f"{name},\n{kind} image", fontsize=SMALL)
    return figure
