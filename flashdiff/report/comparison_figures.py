"""Figures of one comparison of methods: quality against cost, where walks begin, seconds."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashdiff.measures import Measure, in_figures
from flashdiff.report.names import DISTANCES, colour, label, marker
from flashdiff.report.panels import baseline_style, better, cut_off_baseline, not_measured
from flashdiff.report.style import (
    NFE,
    PAGE,
    PALETTE,
    SERIES,
    canvas,
    need,
    steps_on_log_axis,
    styled,
)
from flashdiff.report.weak import is_weak, reference
from flashdiff.study.methods import adaptive, fixed_starts, ladder


def _need_quality(table: pd.DataFrame) -> list[Measure]:
    """The measures that are drawn; ValueError where the table of a figure of quality lacks one."""
    measures = in_figures()
    need(table, "method", "nfe", *(f"{measure.name}{end}" for measure in measures for end in ("", "_low", "_high")))
    return measures


@styled
def quality_against_steps(quality: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """The paper's Fig. 2: quality against mean NFE. The line joins fixed starts; marks are adaptive methods, with 95% intervals
    of their difference to the full-length baseline or, where that is weak, to D(z_hat). One panel per measure that is drawn.

    A weak baseline (:mod:`flashdiff.report.weak`) is hollow and does not set the limits of the axis; beyond them it is an arrow.
    quality: what :func:`flashdiff.report.tables.quality_against_baseline` says; distances: what readers call the study's
    (:func:`flashdiff.report.names.distance_names`). A measure that is NaN throughout is drawn as not measured.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.quality_against_steps(tables.quality_against_baseline(rows, 2000))
    """
    measures = _need_quality(quality)
    table = quality.set_index("method")
    fixed = table.loc[fixed_starts(table.index)].sort_values("nfe")
    weak = is_weak(table.nfe)
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
            style = {"fmt": marker(method), "ms": 7, "capsize": 2} | baseline_style(method, weak)
            axis.errorbar(row.nfe, row[column], yerr=spread, **style)
        axis.axhline(table.loc["full_length", column], color=colour("full_length"), ls="--", lw=1)
        nothing = "no_diffusion"
        axis.axhline(table.loc[nothing, column], color=colour(nothing), ls=":", lw=1.2, label=label(nothing))
        steps_on_log_axis(axis)
        axis.set(xlabel=NFE, ylabel=better(measure, distances))
        if weak:
            cut_off_baseline(axis, "y", table, column, table.nfe["full_length"])
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
    for number, ((images, part), shade, (line, mark)) in enumerate(zip(thirds, shades, SERIES, strict=False)):
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
    difference to the full-length baseline or, where that is weak, to D(z_hat), whose level is dashed; behind each name its NFE.

    A weak baseline (:mod:`flashdiff.report.weak`) is hollow and does not set the limits of the axis; beyond them it is an arrow.
    quality: what :func:`flashdiff.report.tables.quality_against_baseline` says; distances: what readers call the study's
    (:func:`flashdiff.report.names.distance_names`). A measure that is NaN throughout is drawn as not measured.

    >>> rows = read_rows("data/results/reconstruction-gaussian_blur-ldps.parquet")
    >>> figure = figures.quality_of_methods(tables.quality_against_baseline(rows, 2000))
    """
    measures = _need_quality(quality)
    table = quality[~quality.method.isin(ladder(quality.method))]
    nfe = quality.set_index("method").nfe
    weak, dashed = is_weak(nfe), reference(nfe)
    names = [f"{baseline_style(row.method, weak)['label']} ({row.nfe:.0f})" for row in table.itertuples()]
    figure, axes = canvas(columns=len(measures), width=PAGE, height=0.5 + 0.2 * len(table))
    for axis, measure in zip(axes[0], measures, strict=True):
        column = measure.name
        if table[column].isna().all():
            not_measured(axis, xlabel=better(measure, distances))
            continue
        axis.axvline(table.loc[table.method == dashed, column].item(), color=colour(dashed), ls="--", lw=1)
        for y, row in enumerate(table.to_dict("records")):
            spread = [[row[column] - row[f"{column}_low"]], [row[f"{column}_high"] - row[column]]]
            style = {"fmt": "o", "ms": 5, "capsize": 2} | baseline_style(row["method"], weak) | {"label": names[y]}
            axis.errorbar(row[column], y, xerr=spread, **style)
        axis.set(xlabel=better(measure, distances), ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), labels=[])
        if weak:
            at = table.method.tolist().index("full_length")
            cut_off_baseline(axis, "x", table.set_index("method"), column, at)
    axes[0, 0].set_yticks(range(len(names)), labels=names)
    return figure
