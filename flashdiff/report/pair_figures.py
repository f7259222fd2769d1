"""Figures of all pairs of a study: Flash against the full-length baseline of each, and what each solver reaches for its evaluations."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flashdiff.measures import in_figures
from flashdiff.report.frontier import FEW, FULL, LONG, NOTHING
from flashdiff.report.names import DISTANCES, colour, label, marker, solver_label
from flashdiff.report.panels import better, cut_off, gain_in_words, not_measured
from flashdiff.report.style import (
    GREY,
    NFE,
    PAGE,
    PALETTE,
    SERIES,
    SMALL,
    canvas,
    need,
    steps_on_log_axis,
    styled,
)
from flashdiff.report.weak import weak_pairs
from flashdiff.starts import STARTS
from flashdiff.study.methods import flash_method


@styled
def gains_of_pairs(records: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """Flash against the full-length baseline, one line per pair of a degradation and a solver: gain in every measure that is
    drawn, and saved evaluations, each with its interval and for every start rule that there are records of.

    Where the baseline is weak (:mod:`flashdiff.report.weak`), the pair's name ends in *, its marks are hollow, and they do not
    set the limits of the axis; a mark beyond them is an arrow at the edge with its number.
    records: what :func:`flashdiff.report.headline.collect` says, as a table; distances: what readers call the study's.

    >>> records = headline.collect(".", "fashion-mnist", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    >>> figure = figures.gains_of_pairs(pd.DataFrame(records))
    """
    need(records, "claim", "degradation", "solver", "start", "value", "low", "high")
    pairs = records.dropna(subset="solver")[["degradation", "solver"]].drop_duplicates().to_numpy().tolist()
    known = weak_pairs(records.to_dict("records"))
    weak = np.array([tuple(pair) in known for pair in pairs], dtype=bool)
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
            marks = [
                (value, at, line.get_color())
                for line in (container.lines[0] for container in axis.containers)
                for value, at in zip(line.get_xdata(), line.get_ydata(), strict=True)
            ]
            cut_off(axis, "x", min(nothing, ends.min()), max(nothing, ends.max()), marks, "{:+.1f}")
    axes[0, 0].set_yticklabels(names)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(starts))
    if weak.any():
        figure.supxlabel("* weak baseline: it takes as few evaluations as Flash; hollow", fontsize=SMALL)
    return figure


@styled
def frontier_of_solvers(table: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """Quality against mean NFE, a row per degradation, a panel per measure that is drawn and a colour per solver: a line through
    the budgets of Flash with few steps, tuned for the panel's measure, dotted on to its long walk (diamond) and to the
    full-length baseline (cross); D(z_hat), which is the same for all solvers, as a level.

    The cross of a weak baseline (:mod:`flashdiff.report.weak`) is hollow and does not set the limits of the axis; beyond them it
    is an arrow at the edge with its number.
    table: what :func:`flashdiff.report.frontier.frontier_of_solvers` says; distances: what readers call the study's. A measure
    that is NaN throughout is drawn as not measured.

    >>> table = pd.read_csv("reports/comparisons/frontier_of_solvers.csv")
    >>> figure = figures.frontier_of_solvers(table.fillna({"tuned_for": ""}))
    """
    measures = in_figures()
    need(table, "degradation", "solver", "part", "tuned_for", "weak", "nfe", *(measure.name for measure in measures))
    degradations, solvers = table.degradation.unique(), enumerate(table.solver.unique())
    series = {solver: (PALETTE[n % len(PALETTE)], SERIES[n % len(SERIES)][1]) for n, solver in solvers}
    weak = (table.part == FULL) & table.weak
    size = {"columns": len(measures), "rows": len(degradations)}
    figure, axes = canvas(**size, width=PAGE, height=0.6 + 2.2 * len(degradations))
    for row, degradation in zip(axes, degradations, strict=True):
        of_degradation = table[table.degradation == degradation]
        for axis, measure in zip(row, measures, strict=True):
            labels = {"xlabel": NFE, "ylabel": better(measure, distances).replace(", ", ",\n")}
            if of_degradation[measure.name].isna().all():
                not_measured(axis, **labels)
                continue
            axis.axhline(of_degradation[of_degradation.part == NOTHING][measure.name].mean(), color=GREY, ls="-.", lw=1)
            for solver, (hue, mark) in series.items():
                own = of_degradation[of_degradation.solver == solver].sort_values("nfe", kind="stable")
                few = own[(own.part == FEW) & (own.tuned_for == measure.name)]
                rest = pd.concat([few.tail(1), own[own.part.isin((LONG, FULL))]])
                axis.plot(rest.nfe, rest[measure.name], color=hue, ls=":", lw=0.9)
                axis.plot(few.nfe, few[measure.name], color=hue, marker=mark, ms=3.5, lw=1.3)
                for part, of_part in ((LONG, "D"), (FULL, "X")):
                    at = own[own.part == part]
                    inside = "white" if weak[at.index].any() else hue
                    axis.plot(at.nfe, at[measure.name], of_part, color=hue, ms=5, markerfacecolor=inside)
            steps_on_log_axis(axis, (1, 3))
            axis.set(title=degradation.replace("_", " "), **labels)
            beside = of_degradation[weak[of_degradation.index]]
            if len(beside):
                strong = of_degradation[measure.name].drop(beside.index)
                hues = [series[solver][0] for solver in beside.solver]
                marks = zip(beside[measure.name], beside.nfe, hues, strict=True)
                cut_off(axis, "y", strong.min(), strong.max(), marks)
    shown = [
        Line2D([], [], color=hue, marker=mark, ms=3.5, lw=1.3, label=solver_label(solver))
        for solver, (hue, mark) in series.items()
    ]
    black = {"color": "0.25", "ls": ""}
    shown += [Line2D([], [], marker="D", ms=5, label="long walk of Flash", **black)]
    shown += [Line2D([], [], marker="X", ms=5, label=label("full_length"), **black)]
    if weak.any():
        words = "weak baseline (arrow: beyond the axis)"
        shown += [Line2D([], [], marker="X", ms=5, markerfacecolor="white", label=words, **black)]
    shown += [Line2D([], [], color=GREY, ls="-.", lw=1, label=label("no_diffusion"))]
    figure.legend(handles=shown, loc="outside lower center", ncols=3)
    return figure
