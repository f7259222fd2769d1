"""Figures of few-step walks: quality against evaluations for everything that was walked, and what adaptivity gains."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flashdiff.measures import MEASURES, Measure, in_figures
from flashdiff.report.names import DISTANCES, colour, label, marker
from flashdiff.report.panels import baseline_style, better, cut_off_baseline, gain_in_words, not_measured
from flashdiff.report.style import NFE, PAGE, PALETTE, canvas, need, steps_on_log_axis, styled
from flashdiff.report.weak import is_weak
from flashdiff.study.methods import adaptive

LINES = {
    "adaptive": {"color": "black", "marker": "o", "lw": 1.8},
    "fixed": {"color": PALETTE[2], "marker": "s", "ls": "--", "lw": 1.2},
    "forward": {"color": PALETTE[4], "marker": "v", "ls": "-.", "lw": 1.2},
    "oracle": {"color": "black", "ls": ":", "lw": 1.2},
}
"""How a few-step method is drawn, in the order of the legend; shuffled severities stand in the tables alone."""
OTHERS = (
    {"color": PALETTE[7], "marker": "P", "ls": (0, (4, 1)), "lw": 1.2},
    {"color": PALETTE[5], "marker": "*", "ls": (0, (1, 1)), "lw": 1.2},
)
"""How walks with another solver are drawn, from the start again where they run out."""


def _objective(measure: Measure, tuned: pd.Series) -> str:
    """What the walks of a panel are tuned for: its measure, else the first that any is tuned for."""
    known = [name for name in MEASURES if (tuned == name).any()]
    return measure.name if measure.name in known else known[0]


def _in_two_lines(words: str) -> str:
    """The words of an axis that is too short for them in one line."""
    return words.replace(", ", ",\n")


def _bars(part: pd.DataFrame, column: str, scale: float = 1) -> list[pd.Series]:
    return [scale * (part[column] - part[f"{column}_low"]), scale * (part[f"{column}_high"] - part[column])]


@styled
def frontier(table: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """Quality against mean NFE, one panel per measure that is drawn: lines join the budgets of a few-step method, tuned
    for the panel's measure; marks are long walks; at the left edge D(z_hat), without evaluations. With 95% intervals of
    the difference to the full-length baseline, whose level is dashed, or, where that is weak, to D(z_hat); the oracle has none.

    A weak baseline (:mod:`flashdiff.report.weak`) is hollow and does not set the limits of the axis; beyond them it is an arrow.
    table: what :func:`flashdiff.report.frontier.frontier_table` says; distances: what readers call the study's
    (:func:`flashdiff.report.names.distance_names`). A measure that is NaN throughout is drawn as not measured.

    >>> table = pd.read_csv("reports/figures_pdf/frontier-gaussian_blur-ldps/frontier.csv")
    >>> figure = figures.frontier(table.fillna({"tuned_for": ""}))
    """
    measures = in_figures()
    ends = ("", "_low", "_high")
    need(table, "method", "tuned_for", "nfe", *(f"{measure.name}{end}" for measure in measures for end in ends))
    figure, axes = canvas(columns=len(measures), width=PAGE, height=3.4)
    few, long = table[table.tuned_for != ""], table[table.tuned_for == ""].set_index("method")
    weak = is_weak(long.nfe)
    for axis, measure in zip(axes[0], measures, strict=True):
        if table[measure.name].isna().all():
            not_measured(axis, xlabel=NFE, ylabel=_in_two_lines(better(measure, distances)))
            continue
        of_panel = few[few.tuned_for == _objective(measure, few.tuned_for)]
        _lines(axis, of_panel, measure.name)
        _marks(axis, long, measure.name)
        steps_on_log_axis(axis, (1, 3))  # 3 and 30 are near what is asked for
        if weak:
            drawn = pd.concat([long, of_panel[~of_panel.method.isin(("oracle", "shuffled"))].set_index("method")])
            cut_off_baseline(axis, "y", drawn, measure.name, long.nfe["full_length"])
        axis.set(xlabel=NFE, ylabel=_in_two_lines(better(measure, distances)))
    shown = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2)
    return figure


@styled
def frechet(table: pd.DataFrame) -> Figure:
    """Frechet distance to the true images against mean NFE, lower is better: a line joins the budgets of Flash and one those
    of the best fixed start and steps; the level is what no diffusion reaches. Intervals are of the difference to that
    level, laid around the distance.

    table: what :func:`flashdiff.report.frontier.frechet_table` says, with a row for D(z_hat).

    >>> table = pd.read_csv("reports/figures_pdf/frontier-gaussian_blur-ldps/frechet.csv")
    >>> figure = figures.frechet(table.fillna({"tuned_for": ""}))
    """
    column = "frechet_distance"
    ends = ("", "_low", "_high")
    need(table, "method", "tuned_for", "nfe", column, *(f"minus_no_diffusion{end}" for end in ends))
    figure, axes = canvas(height=2.6)
    axis, long = axes[0, 0], table[table.tuned_for == ""].set_index("method")
    around = {f"{column}{end}": long[column]["no_diffusion"] + table[f"minus_no_diffusion{end}"] for end in ends[1:]}
    _lines(axis, table.assign(**around)[table.tuned_for != ""], column)
    _marks(axis, long, column)
    steps_on_log_axis(axis, (1, 3))
    axis.set(xlabel=NFE, ylabel="Frechet distance, lower is better")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _lines(axis: Axes, few: pd.DataFrame, column: str) -> None:
    """Every few-step method of a panel that has a style, intervals included but for those of the oracle."""
    others = [m for m in few.method.unique() if m not in LINES and m != "shuffled"]
    styles = LINES | {method: OTHERS[number % len(OTHERS)] for number, method in enumerate(others)}
    for method in [method for method in styles if (few.method == method).any()]:
        part = few[few.method == method].sort_values("nfe")
        bars = None if method == "oracle" else _bars(part, column)
        front = {"ms": 4, "capsize": 2, "zorder": 3 if method == "adaptive" else 2}
        axis.errorbar(part.nfe, part[column], yerr=bars, label=label(method), **front, **styles[method])


def _marks(axis: Axes, long: pd.DataFrame, column: str) -> None:
    """Long walks as marks, the baseline's level, and D(z_hat) at the left edge with its level."""
    weak = is_weak(long.nfe)
    for method in [m for m in (*adaptive(long.index), "full_length") if m in long.index]:
        row = long.loc[[method]]
        style = {"fmt": marker(method), "ms": 7, "capsize": 2} | baseline_style(method, weak)
        axis.errorbar(row.nfe, row[column], yerr=_bars(row, column), **style)
    if "full_length" in long.index:
        axis.axhline(long.loc["full_length", column], color=colour("full_length"), ls="--", lw=1)
    nothing = "no_diffusion"
    if nothing in long.index:  # a logarithmic axis has no place for no evaluations
        at = long.loc[nothing, column]
        style = {"color": colour(nothing), "ls": "-.", "lw": 1}
        axis.axhline(at, **style)
        style |= {"marker": "<", "ms": 6, "clip_on": False, "label": f"{label(nothing)}, NFE 0"}
        axis.plot([0], [at], transform=axis.get_yaxis_transform(), **style)


def _gain_panels(
    axes: Sequence[Axes], table: pd.DataFrame, distances: Mapping[str, str]
) -> Iterator[tuple[Axes, pd.DataFrame, str, int]]:
    """The panels of gains by budget that have something to draw: axis, the rows tuned for its measure, the gain's column
    and its scale. Zero is drawn before, the axes are labelled after; a measure that is NaN throughout is said to be."""
    for axis, measure in zip(axes, in_figures(), strict=True):
        labels = {
            "xlabel": "mean evaluations asked (budget)",
            "ylabel": _in_two_lines(gain_in_words(measure, distances)),
        }
        if table[measure.gain].isna().all():
            not_measured(axis, **labels)
            continue
        tuned = table[table.tuned_for == _objective(measure, table.tuned_for)].sort_values("budget")
        axis.axhline(0, color="0.4", lw=1)
        yield axis, tuned, measure.gain, 100 if measure.relative else 1
        steps_on_log_axis(axis)
        axis.set(xticks=tuned.budget.unique(), **labels)


@styled
def gain_over_fixed(table: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """What Flash with few steps gains at each budget over the best fixed start and steps, both tuned for the panel's
    measure, with 95% intervals over seeds and images; zero is no gain. One panel per measure that is drawn.

    table: what :func:`flashdiff.report.frontier.gain_table` says; distances: what readers call the study's.

    >>> table = pd.read_csv("reports/figures_pdf/frontier-gaussian_blur-ldps/gain_over_fixed.csv")
    >>> figure = figures.gain_over_fixed(table)
    """
    measures = in_figures()
    ends = ("", "_low", "_high")
    need(table, "budget", "baseline", "tuned_for", *(f"{m.gain}{end}" for m in measures for end in ends))
    over = table[table.baseline == "fixed"]
    figure, axes = canvas(columns=len(measures), width=PAGE, height=2.4)
    for axis, part, gain, scale in _gain_panels(axes[0], over, distances):
        style = {"color": "black", "marker": "o", "ms": 4, "lw": 1.2, "capsize": 2}
        axis.errorbar(part.budget, scale * part[gain], yerr=_bars(part, gain, scale), **style)
    return figure


@styled
def gain_by_severity(table: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """What few steps gain over D(z_hat), by budget and by part of the images, from low to high severity: solid for Flash,
    dashed for the best fixed start and steps, both tuned for the panel's measure. One panel per measure that is drawn.

    table: what :func:`flashdiff.report.frontier.gains_by_severity` says; distances: what readers call the study's.

    >>> table = pd.read_csv("reports/figures_pdf/frontier-gaussian_blur-ldps/gain_by_severity.csv")
    >>> figure = figures.gain_by_severity(table)
    """
    measures = in_figures()
    need(table, "part", "method", "budget", "tuned_for", "sigma_hat", *(measure.gain for measure in measures))
    figure, axes = canvas(columns=len(measures), width=PAGE, height=2.9)
    mean = table.groupby("part").sigma_hat.mean()
    shades = dict(zip(mean.index, mpl.colormaps["viridis"](np.linspace(0.05, 0.85, len(mean))), strict=True))
    for axis, tuned, gain, scale in _gain_panels(axes[0], table, distances):
        for (part, method), line in tuned.groupby(["part", "method"]):
            drawn = {"ls": "-", "marker": "o"} if method == "adaptive" else {"ls": "--", "marker": "s"}
            axis.plot(line.budget, scale * line[gain], color=shades[part], ms=3, lw=1.2, **drawn)
    handles = [Line2D([], [], color=shades[part], label=f"severity ≈ {value:.2f}") for part, value in mean.items()]
    handles += [
        Line2D([], [], color="0.3", ls=ls, marker=marker, ms=3, label=label(method))
        for method, ls, marker in (("adaptive", "-", "o"), ("fixed", "--", "s"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
