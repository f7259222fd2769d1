"""Figures at the size at which they are printed: width, text, colours and legends."""

import functools
import itertools
import re

import numpy as np
import pytest
from colorspacious import cspace_convert
from figure_cases import FROM_IMAGES, FROM_ROWS, claims, draw, drawn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from flashdiff import figures
from flashdiff.report import style

ALL = [*FROM_ROWS, *FROM_IMAGES]
WIDTHS = (234, 487)
BLINDNESS = ("deuteranomaly", "protanomaly", "tritanomaly")
"""In full: the simulations of Machado, Oliveira and Fernandes 2009, as colorspacious has them."""


@functools.cache
def laid_out(name):
    """A figure whose texts and axes have their places."""
    figure = drawn(name)
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_as_wide_as_a_column_or_the_page_and_every_text_can_be_read(name, tmp_path):
    figure = draw(name)
    figures.save(figure, tmp_path, name)
    pdf = (tmp_path / f"{name}.pdf").read_bytes()
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", pdf)
    assert min(abs(float(box) - width) for width in WIDTHS) < 0.01
    assert b"/Type3" not in pdf and (b"/FontFile2" in pdf or not texts(figure))  # TrueType, embedded
    assert min((text.get_fontsize() for text in texts(figure)), default=6.5) >= 6.5


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_cut_off_at_the_edge_of_a_figure(name):
    figure = laid_out(name)
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < size[0] + 0.02 and box.y1 < size[1] + 0.02


@pytest.mark.parametrize("name", FROM_ROWS)
def test_no_legend_covers_what_is_drawn(name):
    figure = laid_out(name)
    legends = figure.legends + [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    for legend, axis in itertools.product(legends, figure.axes):
        assert not legend.get_window_extent().padded(-1).overlaps(axis.get_window_extent())


@pytest.mark.parametrize("name", FROM_ROWS)
def test_axes_are_linear_or_logarithmic_throughout(name):
    assert {scale for axis in drawn(name).axes for scale in (axis.get_xscale(), axis.get_yscale())} <= {"linear", "log"}


def seen(colours):
    """The colours (n,) in CAM02-UCS, where a distance of 1 is about what a person can just tell: as they are, and as the
    colour blind see them, (4, n, 3)."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    spaces = [{"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100} for kind in BLINDNESS]
    views = [rgb, *(np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1) for space in spaces)]
    return np.stack([cspace_convert(view, "sRGB1", "CAM02-UCS") for view in views])


def least_distance(colours):
    views = seen(colours)
    distance = np.linalg.norm(views[:, :, None] - views[:, None], axis=-1)
    return distance[:, ~np.eye(len(colours), dtype=bool)].min()


def test_the_palette_survives_colour_blindness():
    assert least_distance([*style.PALETTE, "black", style.GREY, "white"]) > 15


def test_red_and_green_of_equal_lightness_would_not():
    assert least_distance(["#c03020", "#508000"]) < 15


def told_by(handle):
    """(colour, mark, line) of a legend's handle, intervals included; None for one that is no line."""
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    return (
        (line.get_color(), line.get_marker(), line.get_linestyle())
        if hasattr(line, "get_linestyle") and hasattr(line, "get_marker")
        else None
    )


@pytest.mark.parametrize("name", ["frontier", "quality_against_steps", "starts_by_severity", "learning_curve"])
def test_series_of_a_panel_differ_in_colour_or_line_and_mark_to_everyone(name):
    for axis in drawn(name).axes:
        told = [one for one in map(told_by, axis.get_legend_handles_labels()[0]) if one]
        for (one, *shape), (other, *its) in itertools.combinations(told, 2):
            assert shape != its
            same = to_rgb(one) == to_rgb(other)  # then the line alone tells them apart
            assert same or least_distance([one, other]) > 10


def test_a_weak_baseline_is_marked_and_does_not_stretch_the_axis():
    table = claims()
    weak = (table.solver == "ldps_ddim40").to_numpy()
    table.loc[weak & (table.claim == "nfe_ratio").to_numpy(), ["value", "low", "high"]] = 1.0
    table.loc[weak & (table.claim == "psnr_gain_db").to_numpy(), ["value", "low", "high"]] = 50.0
    figure = figures.gains_of_pairs(table)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["gaussian blur, LDPS", "motion blur, LDPS (ddim40)*"]
    assert figure.axes[0].get_xlim()[1] < 2 and "weak baseline" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.axes[0].texts] == ["+50.0 ▸"] * 2
