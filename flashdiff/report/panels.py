"""What panels of several figures share: words along an axis, and a panel without numbers."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from flashdiff.measures import Measure
from flashdiff.report.names import measure_label, measure_with_unit


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
