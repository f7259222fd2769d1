"""Figures of the reports: f(rows) -> matplotlib Figure, in the style of :mod:`flashdiff.report.style`.

Figures are built without pyplot, so that nothing is global and nothing stays open; in a notebook the last expression of
a cell shows them.
"""

import itertools
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashdiff.measures import Measure, in_figures
from flashdiff.report.ablation import ablation
from flashdiff.report.frontier_figures import frontier, gain_by_severity, gain_over_fixed
from flashdiff.report.image_figures import degradation_levels, image_grid, matched_pairs, outliers, reconstructions
from flashdiff.report.names import DISTANCES, colour, label, marker, solver_label
from flashdiff.report.panels import better, gain_in_words, not_measured
from flashdiff.report.robustness import encoder_choices, noise_robustness, start_choices, unseen_classes
from flashdiff.report.style import (
    COLUMN,
    LEVEL,
    NFE,
    PAGE,
    PALETTE,
    SBAR,
    SIGMA,
    SMALL,
    canvas,
    need,
    save,
    steps_on_log_axis,
    styled,
)
from flashdiff.report.tables import calibration as binned
from flashdiff.starts import STARTS
from flashdiff.study.methods import adaptive, fixed_starts, flash_method, ladder

__all__ = [
    "ablation", "calibration", "degradation_levels", "encoder_choices", "error_statistics", "frontier",
    "gain_by_severity", "gain_over_fixed", "gains_of_pairs", "image_grid", "learning_curve", "matched_pairs",
    "noise_robustness", "ordering_by_pair", "outliers", "quality_against_steps", "quality_of_methods",
    "reconstructions", "save", "severity_against_level", "severity_against_level_per_image", "severity_shares",
    "start_choices", "start_distribution", "starts_by_severity", "unseen_classes", "wall_clock",
]  # fmt: skip

MEASURED = ("accuracy", "ordering_accuracy", "spearman_error", "calibration_ratio")
"""Columns of a learning curve, besides those named validation_..., that are no terms of the loss."""


LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "v"))
"""Line and mark of series by their order, from the start again where they run out."""


def _legend_above(axis: Axes) -> None:
    """The legend of a panel, two entries a line, above what is drawn."""
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2, borderaxespad=0)


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
        losses, itertools.cycle(zip(LINES, ("black", *PALETTE), strict=False)), strict=False
    ):
        left.plot(curve.step, curve[column], label=column.replace("_", " "), color=shade, ls=style[0], lw=1.2)
    left.set_title(name.replace("_", " "), pad=8 + 11 * -(-len(losses) // 2))  # the legend stands between
    if losses:
        # a likelihood may be negative, and then an axis in powers of ten has no place for it
        scale = "log" if (curve[losses].dropna() > 0).all(axis=None) else "linear"
        left.set(xlabel="optimiser step", ylabel="training loss", yscale=scale)
        _legend_above(left)
    if held_out:
        right = axes[0, -1]
        for column, ((line, mark), shade) in zip(
            held_out, itertools.cycle(zip(LINES, PALETTE, strict=False)), strict=False
        ):
            part, words = curve[["step", column]].dropna(), column.replace("_", " ")
            right.plot(part.step, part[column], color=shade, ls=line, marker=mark, ms=3, lw=1.2, label=words)
        right.set(
            xlabel="optimiser step",
            ylabel="on held-out images" if "accuracy" not in held_out else "on training batches",
        )
        _legend_above(right)
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
def severity_against_level(rows: pd.DataFrame) -> Figure:
    """The paper's Fig. 4: predicted severity against level, a dot per test image, and the mean of ten bins.

    >>> rows = read_rows("data/results/severity-gaussian_blur.parquet")
    >>> figure = figures.severity_against_level(rows)
    """
    need(rows, "t", "sigma_hat")
    figure, axes = canvas(height=2.6)
    axis = axes[0, 0]
    axis.scatter(rows.t, rows.sigma_hat, s=4, alpha=0.35, color=PALETTE[0], linewidths=0, rasterized=True)
    bins = pd.cut(rows.t, np.linspace(0, 1, 11), include_lowest=True)
    mean = rows.groupby(bins, observed=True)[["t", "sigma_hat"]].mean()
    axis.plot(mean.t, mean.sigma_hat, color="black", marker="o", ms=4, lw=1.5, label="mean per tenth of the range")
    spearman = rows[["t", "sigma_hat"]].corr("spearman").iloc[0, 1]
    axis.set(xlabel=LEVEL, ylabel=SIGMA, title=f"{len(rows)} test images, Spearman correlation {spearman:.2f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


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


def _need_quality(table: pd.DataFrame) -> list[Measure]:
    """The measures that are drawn; ValueError where the table of a figure of quality lacks one."""
    measures = in_figures()
    need(table, "method", "nfe", *(f"{measure.name}{end}" for measure in measures for end in ("", "_low", "_high")))
    return measures


@styled
def quality_against_steps(quality: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """The paper's Fig. 2: quality against mean NFE. The line joins fixed starts; marks are adaptive methods, with 95% intervals
    of their difference to the full-length baseline, whose level is dashed. One panel per measure that is drawn.

    quality: what :func:`flashdiff.report.tables.quality_against` says of the full-length baseline; distances: what readers call
    the study's (:func:`flashdiff.report.names.distance_names`). A measure that is NaN throughout is drawn as not measured.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.quality_against_steps(tables.quality_against(rows, "full_length", 2000))
    """
    measures = _need_quality(quality)
    table = quality.set_index("method")
    fixed = table.loc[fixed_starts(table.index)].sort_values("nfe")
    figure, axes = canvas(columns=len(measures), width=PAGE, height=3.1)
    for axis, measure in zip(axes[0], measures, strict=True):
        column = measure.name
        if table[column].isna().all():
            not_measured(axis, xlabel=NFE, ylabel=better(measure, distances))
            continue
        axis.plot(
            fixed.nfe,
            fixed[column],
            color=PALETTE[2],
            marker="s",
            ms=4,
            lw=1.2,
            label="fixed start, same for all images",
        )
        for method in (*adaptive(table.index), "full_length"):
            row = table.loc[method]
            spread = [[row[column] - row[f"{column}_low"]], [row[f"{column}_high"] - row[column]]]
            axis.errorbar(
                row.nfe, row[column], yerr=spread, fmt=marker(method), ms=7, capsize=2, color=colour(method),
                label=label(method),
            )  # fmt: skip
        axis.axhline(table.loc["full_length", column], color=colour("full_length"), ls="--", lw=1)
        nothing = "no_diffusion"
        axis.axhline(table.loc[nothing, column], color=colour(nothing), ls=":", lw=1.2, label=label(nothing))
        steps_on_log_axis(axis)
        axis.set(xlabel=NFE, ylabel=better(measure, distances))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def starts_by_severity(table: pd.DataFrame) -> Figure:
    """PSNR of fixed starts against their cost, one line per third of the images by severity, relative to the start of
    equal mean cost, with 95% intervals; where Flash starts each third is marked.

    table: what :func:`flashdiff.report.tables.fixed_starts_by_severity` says.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.starts_by_severity(tables.fixed_starts_by_severity(rows, 2000))
    """
    gain = "psnr_gain_db"
    need(table, "images", "nfe", "flash_nfe", *(f"{gain}{end}" for end in ("", "_low", "_high")))
    figure, axes = canvas(height=3.3)
    axis = axes[0, 0]
    axis.axhline(0, color="0.4", lw=1)
    thirds = table.groupby("images", sort=False)
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.8, len(thirds)))
    for number, ((images, part), shade, (line, mark)) in enumerate(zip(thirds, shades, LINES, strict=False)):
        spread = [part[gain] - part[f"{gain}_low"], part[f"{gain}_high"] - part[gain]]
        aside = 1.02 ** (number - 1)  # else the intervals cover each other
        axis.errorbar(
            part.nfe * aside, part[gain], yerr=spread, marker=mark, ls="-" if line == ":" else line, ms=4, lw=1.2,
            capsize=2, color=shade, label=images,
        )  # fmt: skip
        axis.axvline(part.flash_nfe.iloc[0], color=shade, ls=":", lw=1.5)
        axis.plot(
            part.flash_nfe.iloc[0], 1, mark, ms=4, color=shade, transform=axis.get_xaxis_transform(), clip_on=False
        )
    axis.plot([], [], color="0.4", ls=":", lw=1.5, label="where Flash starts them (mean)")
    steps_on_log_axis(axis)
    axis.set(xlabel=f"{NFE} of a fixed start", ylabel="PSNR, gain over the start of equal NFE (dB)")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def start_distribution(rows: pd.DataFrame) -> Figure:
    """Where Flash starts, with the first of its start rules: histogram of the start index over the test images.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.start_distribution(rows)
    """
    import seaborn as sns  # a second and more, which no other figure waits for

    need(rows, "method", "start")
    method = adaptive(rows.method)[0]
    start = rows[rows.method == method].start
    figure, axes = canvas(height=2.4)
    axis = axes[0, 0]
    sns.histplot(x=start, ax=axis, color=colour(method), bins=20)
    axis.axvline(start.mean(), color="black", ls="--", lw=1, label=f"mean {start.mean():.0f}")
    axis.set(
        xlabel="start index of the reverse diffusion",
        ylabel="test images",
        title="every image starts where its severity says",
    )
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def wall_clock(speed: pd.DataFrame) -> Figure:
    """Seconds per image of every method that walks, and how the ratio of seconds follows the ratio of evaluations.

    >>> timings = read_timings("data/results/timings-gaussian_blur-ldps.json", timed=True)
    >>> figure = figures.wall_clock(tables.speed(timings))
    """
    need(speed, "method", "seconds_per_image", "wall_clock_ratio", "nfe_ratio")
    table = speed[speed.method.isin(["full_length", *adaptive(speed.method), "fixed_mean"])]
    names = [label(m) for m in table.method]
    figure, axes = canvas(width=PAGE, height=0.7 + 0.26 * len(table))
    axis = axes[0, 0]
    if table.seconds_per_image.isna().all():
        not_measured(axis, xlabel="seconds per image")
        return figure
    axis.barh(names, table.seconds_per_image, color=[colour(m) for m in table.method], height=0.6)
    for y, (_, row) in enumerate(table.iterrows()):
        text = f" {row.seconds_per_image:.2f} s; {row.wall_clock_ratio:.1f} times less time, {row.nfe_ratio:.1f} times fewer evaluations"
        axis.text(
            row.seconds_per_image,
            y,
            text if row.method != "full_length" else f" {row.seconds_per_image:.2f} s",
            va="center",
            fontsize=7,
        )
    axis.set(xlabel="seconds per image, all images in one run", xlim=(0, 1.15 * table.seconds_per_image.max()))
    axis.invert_yaxis()
    return figure


@styled
def quality_of_methods(quality: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """Every measure that is drawn, of every method and control but the ladder of fixed starts, with 95% intervals of their
    difference to the full-length baseline, whose level is dashed; behind each name its mean NFE.

    quality: what :func:`flashdiff.report.tables.quality_against` says of the full-length baseline; distances: what readers call
    the study's (:func:`flashdiff.report.names.distance_names`). A measure that is NaN throughout is drawn as not measured.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.quality_of_methods(tables.quality_against(rows, "full_length", 2000))
    """
    measures = _need_quality(quality)
    table = quality[~quality.method.isin(ladder(quality.method))]
    names = [f"{label(row.method)} ({row.nfe:.0f})" for row in table.itertuples()]
    figure, axes = canvas(columns=len(measures), width=PAGE, height=0.5 + 0.2 * len(table))
    for axis, measure in zip(axes[0], measures, strict=True):
        column = measure.name
        if table[column].isna().all():
            not_measured(axis, xlabel=better(measure, distances))
            continue
        baseline = table.loc[table.method == "full_length", column].item()
        axis.axvline(baseline, color=colour("full_length"), ls="--", lw=1)
        for y, row in enumerate(table.to_dict("records")):
            spread = [[row[column] - row[f"{column}_low"]], [row[f"{column}_high"] - row[column]]]
            style = {"fmt": "o", "ms": 5, "capsize": 2, "color": colour(row["method"])}
            axis.errorbar(row[column], y, xerr=spread, label=names[y], **style)
        axis.set(xlabel=better(measure, distances), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), labels=[])
    axes[0, 0].set_yticks(range(len(names)), labels=names)
    return figure


@styled
def gains_of_pairs(records: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """Flash against the full-length baseline, one line per pair of a degradation and a solver: gain in every measure that is
    drawn, and saved evaluations, each with its interval and for every start rule that there are records of.

    A baseline that takes no more evaluations than Flash is weak: its pair's name ends in *, its marks are hollow, and they
    do not set the limits of the axis; a mark beyond them is an arrow at the edge with its number.
    records: what :func:`flashdiff.report.headline.collect` says, as a table; distances: what readers call the study's.

    >>> records = headline.collect(".", "fashion-mnist", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    >>> figure = figures.gains_of_pairs(pd.DataFrame(records))
    """
    need(records, "claim", "degradation", "solver", "start", "value", "low", "high")
    pairs = records.dropna(subset="solver")[["degradation", "solver"]].drop_duplicates().to_numpy().tolist()
    weak = _weak(records, pairs)
    stars = ["*" if one else "" for one in weak]
    names = [f"{d.replace('_', ' ')}, {solver_label(s)}{star}" for (d, s), star in zip(pairs, stars, strict=True)]
    starts = [rule for rule in STARTS if (records.start == rule).any()]
    panels = {m.gain: (gain_in_words(m, distances), 100 if m.relative else 1, 0) for m in in_figures()}
    panels["nfe_ratio"] = ("evaluations, baseline / Flash", 1, 1)
    figure, axes = canvas(columns=len(panels), width=PAGE, height=0.9 + 0.2 * len(pairs))
    for axis, (claim, (words, scale, nothing)) in zip(axes[0], panels.items(), strict=True):
        axis.axvline(nothing, color="0.4", lw=1)
        of_claim = records[(records.claim == claim) & records.value.notna()]
        for side, start in enumerate(starts):
            found = of_claim[of_claim.start == start]
            aside = (side - (len(starts) - 1) / 2) * 0.6 / len(starts)
            at = np.array([pairs.index([row.degradation, row.solver]) for row in found.itertuples()], dtype=int)
            value, low, high = (scale * found[name].astype(float) for name in ("value", "low", "high"))
            method = flash_method(start)
            axis.errorbar(value, at + aside, xerr=[value - low, high - value], fmt=marker(method), ms=3.5, lw=1.1,
                          color=colour(method), label=label(method))  # fmt: skip
            hollow = weak[at]
            axis.plot(value[hollow], (at + aside)[hollow], marker(method), ms=1.8, color="white", zorder=4)
        axis.set(yticks=range(len(names)), yticklabels=[], ylim=(len(names) - 0.5, -0.5))
        axis.set_xlabel(words, fontsize=SMALL)
        strong = ~weak[[pairs.index(pair) for pair in of_claim[["degradation", "solver"]].to_numpy().tolist()]]
        if weak.any() and strong.any():
            ends = scale * of_claim[["low", "high"]][strong].astype(float).to_numpy()
            _keep_within(axis, min(nothing, ends.min()), max(nothing, ends.max()))
    axes[0, 0].set_yticklabels(names)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(starts))
    if weak.any():
        figure.supxlabel("* weak baseline: it takes as few evaluations as Flash; hollow", fontsize=SMALL)
    return figure


def _weak(records: pd.DataFrame, pairs: list[list[str]]) -> np.ndarray:
    """Which pairs have a baseline that takes less than one and a half times the evaluations of Flash, (pairs,) bool."""
    ratio = (
        records[(records.claim == "nfe_ratio") & records.value.notna()].groupby(["degradation", "solver"]).value.min()
    )
    return np.array([ratio.get(tuple(pair), np.inf) < 1.5 for pair in pairs], dtype=bool)


def _keep_within(axis: Axes, low: float, high: float) -> None:
    """Limits along x from low to high with a margin; a mark beyond them becomes an arrow at the edge with its number."""
    margin = 0.12 * (high - low)
    axis.set_xlim(low - margin, high + margin)
    for container in axis.containers:
        line = container.lines[0]
        for value, at in zip(line.get_xdata(), line.get_ydata(), strict=True):
            if not low - margin <= value <= high + margin:
                right = value > high
                axis.annotate(
                    f"{value:+.1f}" + " ▸" if right else "◂ " + f"{value:+.1f}", (1 if right else 0, at),
                    xycoords=axis.get_yaxis_transform(), size=SMALL, color=line.get_color(), va="center",
                    ha="right" if right else "left",
                )  # fmt: skip
