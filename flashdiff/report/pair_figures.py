"""The figure of all pairs of a study: Flash against the full-length baseline of each."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashdiff.measures import in_figures
from flashdiff.report.names import DISTANCES, colour, label, marker, solver_label
from flashdiff.report.panels import gain_in_words
from flashdiff.report.style import (
    PAGE,
    SMALL,
    canvas,
    need,
    styled,
)
from flashdiff.starts import STARTS
from flashdiff.study.methods import flash_method


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
