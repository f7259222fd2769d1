"""Figures of a severity encoder: its training, the order of its answers, and how true they are."""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from flashdiff.report.image_figures import show
from flashdiff.report.panels import legend_above
from flashdiff.report.style import (
    COLUMN,
    LEVEL,
    PAGE,
    PALETTE,
    SBAR,
    SERIES,
    SIGMA,
    SMALL,
    canvas,
    need,
    styled,
)
from flashdiff.report.tables import calibration as binned

MEASURED = ("accuracy", "ordering_accuracy", "spearman_error", "calibration_ratio")
"""Columns of a learning curve, besides those named validation_..., that are no terms of the loss."""


@styled
def learning_curve(curve: pd.DataFrame, name: str) -> Figure:
    """Loss against steps, and what was measured on held-out images beside it; only that, for an encoder not trained here.

    >>> figure = figures.learning_curve(pd.read_csv("reports/severity/gaussian_blur.csv"), "gaussian blur")
    """
    need(curve, "step")
    held_out = [c for c in curve if c.startswith("validation_") or c in MEASURED]
    losses = [c for c in curve if c not in ("step", *held_out)]
    panels = max(1, bool(losses) + bool(held_out))
    figure, axes = canvas(columns=panels, width=PAGE if panels == 2 else COLUMN, height=2.6)
    left = axes[0, 0]
    for column, (style, shade) in zip(
        losses, itertools.cycle(zip(SERIES, ("black", *PALETTE), strict=False)), strict=False
    ):
        left.plot(curve.step, curve[column], label=column.replace("_", " "), color=shade, ls=style[0], lw=1.2)
    left.set_title(name.replace("_", " "), pad=8 + 11 * -(-len(losses) // 2))  # the legend stands between
    if losses:
        # a likelihood may be negative, and then an axis in powers of ten has no place for it
        scale = "log" if (curve[losses].dropna() > 0).all(axis=None) else "linear"
        left.set(xlabel="optimiser step", ylabel="training loss", yscale=scale)
        legend_above(left)
    if held_out:
        right = axes[0, -1]
        for column, ((line, mark), shade) in zip(
            held_out, itertools.cycle(zip(SERIES, PALETTE, strict=False)), strict=False
        ):
            part, words = curve[["step", column]].dropna(), column.replace("_", " ")
            right.plot(part.step, part[column], color=shade, ls=line, marker=mark, ms=3, lw=1.2, label=words)
        right.set(
            xlabel="optimiser step",
            ylabel="on held-out images" if "accuracy" not in held_out else "on training batches",
        )
        legend_above(right)
    return figure


@styled
def severity_against_level_per_image(rows: pd.DataFrame, shown: int = 60) -> Figure:
    """The paper's Fig. 3: predicted severity along each image's levels, one thin line per image, and the mean.

    >>> rows = read_rows("data/results/ordering-gaussian_blur.parquet")
    >>> figure = figures.severity_against_level_per_image(rows)
    """
    need(rows, "image", "t", "sigma_hat")
    figure, axes = canvas(height=2.6)
    axis = axes[0, 0]
    for _, path in rows[rows.image < shown].groupby("image"):
        axis.plot(path.t, path.sigma_hat, color=PALETTE[0], lw=0.5, alpha=0.45)
    mean = rows.groupby("t").sigma_hat.mean()
    axis.plot(mean.index, mean, color="black", lw=2, marker="o", ms=3, label=f"mean of {rows.image.nunique()} images")
    axis.plot([], [], color=PALETTE[0], lw=0.8, label="one image each")
    axis.set(xlabel=LEVEL, ylabel=SIGMA)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def ordering_by_pair(rows: pd.DataFrame) -> Figure:
    """Share of images whose severities at two levels are in the right order, for every pair of levels.

    >>> rows = read_rows("data/results/ordering-gaussian_blur.parquet")
    >>> figure = figures.ordering_by_pair(rows)
    """
    import seaborn as sns  # a second and more, which no other figure waits for

    need(rows, "image", "t", "sigma_hat")
    sigma = rows.pivot(index="image", columns="t", values="sigma_hat")
    levels = len(sigma.columns)
    share = np.full((levels, levels), np.nan)
    for i in range(levels):
        for j in range(i + 1, levels):
            share[j, i] = (sigma.iloc[:, i] <= sigma.iloc[:, j]).mean()
    figure, axes = canvas(height=3.0)
    names = [f"{t:.2f}" for t in sigma.columns]
    sns.heatmap(
        pd.DataFrame(share * 100, index=names, columns=names).iloc[1:, :-1],
        ax=axes[0, 0], annot=True, fmt=".0f", cmap="viridis", vmin=50, vmax=100, annot_kws={"size": SMALL},
        cbar_kws={"label": "pairs in the right order (%)"},
    )  # fmt: skip
    axes[0, 0].set(xlabel="lower level t", ylabel="higher level t")
    return figure


@styled
def severity_shares(shares: pd.DataFrame) -> Figure:
    """What explains predicted severity: the shares of its variance that belong to the level, to the image, and to what is
    left, as bars of per cent.

    shares: what :func:`flashdiff.report.tables.severity_shares` says.

    >>> rows = read_rows("data/results/ordering-gaussian_blur.parquet")
    >>> figure = figures.severity_shares(tables.severity_shares(rows))
    """
    need(shares, "part", "share")
    figure, axes = canvas(height=1.3)
    axis = axes[0, 0]
    bars = axis.barh(shares.part, 100 * shares.share, height=0.6, color=PALETTE[0])
    axis.bar_label(bars, fmt="{:.0f} %", padding=2, fontsize=7)
    axis.set(xlabel="share of the variance of σ̂ (%)", xlim=(0, 105))
    axis.invert_yaxis()
    return figure


@styled
def severity_against_level(
    rows: pd.DataFrame, outliers: pd.DataFrame | None = None, pictures: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """The paper's Fig. 4: predicted severity against level, a dot per test image, and the mean of ten bins.

    With outliers (:func:`flashdiff.report.tables.outliers`) and pictures (truth and measurement (n, C, H, W) by image), those
    easier and those harder than their level stand beside it, clean and measured, each tied to its dot.

    >>> rows = read_rows("data/results/severity-gaussian_blur.parquet")
    >>> figure = figures.severity_against_level(rows)
    """
    need(rows, "t", "sigma_hat")
    if outliers is None:
        figure, axes = canvas(height=2.6)
        axis = axes[0, 0]
    else:
        axis, figure = _with_thumbnails(outliers[outliers.kind.isin(["easy", "hard"])], pictures)
    axis.scatter(rows.t, rows.sigma_hat, s=4, alpha=0.35, color=PALETTE[0], linewidths=0, rasterized=True)
    bins = pd.cut(rows.t, np.linspace(0, 1, 11), include_lowest=True)
    mean = rows.groupby(bins, observed=True)[["t", "sigma_hat"]].mean()
    axis.plot(mean.t, mean.sigma_hat, color="black", marker="o", ms=4, lw=1.5, label="mean per tenth of the range")
    spearman = rows[["t", "sigma_hat"]].corr("spearman").iloc[0, 1]
    axis.set(xlabel=LEVEL, ylabel=SIGMA, title=f"{len(rows)} test images, Spearman correlation {spearman:.2f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _with_thumbnails(outliers: pd.DataFrame, pictures: Mapping[str, np.ndarray]) -> tuple[Axes, Figure]:
    """Axes for a plot of severity over level, beside it every outlier, clean and measured, tied to its dot, high ones on top."""
    figure = Figure(figsize=(PAGE, 0.55 * len(outliers)), layout="constrained")
    grid = figure.add_gridspec(len(outliers), 3, width_ratios=[9, 1, 1])
    axis = figure.add_subplot(grid[:, 0])
    for line, row in enumerate(outliers.sort_values("sigma_hat", ascending=False).itertuples()):
        cells = [figure.add_subplot(grid[line, 1 + column]) for column in range(2)]
        for cell, name, words in zip(cells, ("truth", "measurement"), ("clean", "measured"), strict=True):
            show(cell, pictures[name][row.image], words if line == 0 else "")
        tie = ConnectionPatch(
            (0, 0.5), (row.t, row.sigma_hat), "axes fraction", "data", axesA=cells[0], axesB=axis, color="0.3", lw=0.6
        )
        figure.add_artist(tie)
        axis.plot([row.t], [row.sigma_hat], "o", ms=4, color=PALETTE[1], zorder=3)
    return axis, figure


@styled
def calibration(rows: pd.DataFrame) -> Figure:
    """True latent error against predicted severity; on the diagonal the prediction is right.

    >>> rows = read_rows("data/results/severity-gaussian_blur.parquet")
    >>> figure = figures.calibration(rows)
    """
    need(rows, "sigma_hat", "sbar")
    figure, axes = canvas(height=3.4)
    axis = axes[0, 0]
    axis.scatter(rows.sigma_hat, rows.sbar, s=4, alpha=0.3, color=PALETTE[0], linewidths=0, rasterized=True)
    bins = binned(rows, bins=10)
    axis.plot(bins.sigma_hat, bins.sbar, color="black", marker="o", ms=4, lw=1.2, label="mean of ten equal bins")
    limits = [0, 1.05 * max(rows.sigma_hat.max(), rows.sbar.max())]
    axis.plot(limits, limits, color="0.5", ls="--", lw=1, label="perfect calibration")
    axis.set(xlabel=SIGMA, ylabel=SBAR, xlim=limits, ylim=limits, aspect="equal")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def error_statistics(rows: pd.DataFrame) -> Figure:
    """How far the latent error is from independent normal entries: excess kurtosis and correlation of neighbours.

    >>> rows = read_rows("data/results/severity-gaussian_blur.parquet")
    >>> figure = figures.error_statistics(rows)
    """
    import seaborn as sns  # a second and more, which no other figure waits for

    need(rows, "kurtosis", "neighbour_correlation")
    figure, axes = canvas(columns=2, width=PAGE, height=2.2)
    labels = {
        "kurtosis": "excess kurtosis of an image's latent error",
        "neighbour_correlation": "correlation of neighbouring entries",
    }
    for axis, (column, words) in zip(axes[0], labels.items(), strict=True):
        sns.histplot(x=rows[column].clip(*rows[column].quantile([0.005, 0.995])), ax=axis, color=PALETTE[0], bins=30)
        axis.axvline(0, color="black", ls="--", lw=1)
        axis.text(
            0, 1, " independent normal: 0", transform=axis.get_xaxis_transform(), va="bottom", ha="center", fontsize=7
        )
        axis.set(xlabel=words, ylabel="test images")
    return figure
