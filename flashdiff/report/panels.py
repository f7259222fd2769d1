"""What panels of several figures share: words along an axis, a panel without numbers, marks beyond its limits."""

from collections.abc import Iterable, Mapping
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes

from flashdiff.measures import Measure
from flashdiff.report.names import colour, label, measure_label, measure_with_unit
from flashdiff.report.style import SMALL


def better(measure: Measure, distances: Mapping[str, str]) -> str:
    """A measure, its unit, and which direction is better."""
    return f"{measure_with_unit(measure, distances)}, {'higher' if measure.higher_is_better else 'lower'} is better"


def gain_in_words(measure: Measure, distances: Mapping[str, str]) -> str:
    """What a gain in a measure is, and its unit."""
    change = "decrease" if not measure.higher_is_better else "increase" if measure.relative else "gain"
    unit = "%" if measure.relative else measure.unit
    return f"{measure_label(measure, distances)}, {change}" + (f" ({unit})" if unit else "")


def not_measured(axis: Axes, **labels: str) -> None:
    """A panel that says so: a column of NaN gives an axis no limits."""
    axis.set(xticks=[], yticks=[], **labels)
    axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color="0.4")


def legend_above(axis: Axes) -> None:
    """The legend of a panel, two entries a line, above what is drawn."""
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2, borderaxespad=0)


def cut_off(
    axis: Axes,
    along: Literal["x", "y"],
    low: float,
    high: float,
    marks: Iterable[tuple[float, float, str]],
    number: str = "{:.3g}",
) -> None:
    """Limits along x or y from low to high with a margin; a mark beyond them becomes an arrow at the edge with its number.

    marks: (value, place on the other axis, colour), whose limits are set before.
    """
    margin = 0.12 * (high - low)
    low, high = low - margin, high + margin
    (axis.set_xlim if along == "x" else axis.set_ylim)(low, high)
    for value, place, hue in marks:
        if low <= value <= high:
            continue
        beyond, text = value > high, number.format(value)
        if along == "x":
            text = f"{text} ▸" if beyond else f"◂ {text}"
            where = {"xy": (float(beyond), place), "xycoords": axis.get_yaxis_transform(), "va": "center"}
            where |= {"ha": "right" if beyond else "left"}
        else:
            arrow, upright = ("▴", "top") if beyond else ("▾", "bottom")
            right_half = axis.transLimits.transform(axis.transScale.transform((place, low)))[0] > 0.5
            text = f"{text} {arrow}  " if right_half else f"  {arrow} {text}"
            where = {"xy": (place, float(beyond)), "xycoords": axis.get_xaxis_transform(), "va": upright}
            where |= {"ha": "right" if right_half else "left"}
        axis.annotate(text, size=SMALL, color=hue, **where)


def baseline_style(method: str, weak: bool) -> dict[str, str]:
    """Colour, filling and label of a method's mark: that of a weak full-length baseline is hollow, and its label says so."""
    hollow = weak and method == "full_length"
    label_of = label(method) + (", weak" if hollow else "")
    return {"color": colour(method), "markerfacecolor": "white" if hollow else colour(method), "label": label_of}


def cut_off_baseline(axis: Axes, along: Literal["x", "y"], quality: pd.DataFrame, column: str, place: float) -> None:
    """:func:`cut_off` of a weak full-length baseline in a panel with the intervals of all other methods.

    quality: by method, with the column, its _low and its _high; place: that of the baseline on the other axis.
    """
    others = quality.drop("full_length")
    mark = (quality.loc["full_length", column], place, "0.25")
    cut_off(axis, along, others[f"{column}_low"].min(), others[f"{column}_high"].max(), [mark])
