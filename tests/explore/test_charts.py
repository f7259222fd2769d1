"""Pictures and curves for the browser: pixels survive, marks stand where the numbers say, and the drawing is well formed."""

import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiff.explore.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Chart,
    LevelChart,
    StartChart,
    img,
    png,
)

LINEAR, LOG = Axis("x", 0, 2, [(1, "1")]), Axis("y", 0.01, 100, [(1, "1")], log=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_the_pixels(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (1, channels, 5, 7), dtype=np.uint8)
    with Image.open(io.BytesIO(png(torch.from_numpy(pixels).float() / 127.5 - 1))) as read:
        np.testing.assert_array_equal(np.asarray(read).reshape(5, 7, channels), pixels[0].transpose(1, 2, 0))


def test_values_beyond_the_range_are_black_and_white():
    with Image.open(io.BytesIO(png(torch.tensor([[[[-9.0, 9.0]]]])))) as read:
        assert np.asarray(read).tolist() == [[0, 255]]


def test_a_name_cannot_leave_its_alt_text():
    assert 'alt="&quot;&gt;&lt;script&gt;"' in img(torch.zeros(1, 1, 2, 2), '"><script>')


@pytest.mark.parametrize(
    ("x", "y", "across", "up"), [(0, 0.01, 0, 0), (2, 100, 1, 1), (1, 1, 0.5, 0.5), (0.5, 10, 0.25, 0.75), (9, 0, 1, 0)]
)
def test_data_stand_where_the_axes_say(x, y, across, up):
    expected = LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
    assert Chart(LINEAR, LOG, "title").at(x, y) == pytest.approx(expected)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # raises where it is not well formed


def test_the_walk_begins_at_its_start_on_the_curve(fine_prior):
    chart = StartChart(fine_prior)
    svg = chart.svg(0.5, np.array([120, 60, 0]))
    *_, start = parsed(svg).iter("circle")  # the last and largest
    abar = float(fine_prior.abar[120])
    expected = chart.chart.at(121, abar / (1 - abar))
    assert (float(start.get("cx")), float(start.get("cy"))) == pytest.approx(expected, abs=0.06)
    assert "start 120" in svg and "index 120 and takes 3 steps" in parsed(svg).get("aria-label")


def test_the_severity_s_line_meets_the_curve_at_its_variance(fine_prior):
    chart = StartChart(fine_prior)
    (dashed,) = [
        line for line in parsed(chart.svg(0.5, np.array([0]))).iter("polyline") if line.get("stroke-dasharray")
    ]
    (_, y), (end, _) = ([float(v) for v in point.split(",")] for point in dashed.get("points").split())
    assert y == pytest.approx(chart.chart.at(1, 1 / 0.25)[1], abs=0.06)
    snr = fine_prior.abar[:-1] / (1 - fine_prior.abar[:-1])
    nearest = int((snr.log() - math.log(4)).abs().argmin())
    assert end == pytest.approx(chart.chart.at(nearest + 1, 4)[0], abs=0.06)


@pytest.mark.parametrize("start", [0, 5, 999])
def test_the_start_is_named_within_the_drawing(fine_prior, start):
    svg = StartChart(fine_prior).svg(0.5, np.arange(start, -1, -1))
    (name,) = [text for text in parsed(svg).iter("text") if text.text == f"start {start}"]
    x, letters = float(name.get("x")), 7.5 * len(f"start {start}")  # of 13 pixels height
    left = x - letters if name.get("text-anchor") == "end" else x
    assert left >= LEFT and left + letters <= WIDTH


def test_the_level_is_marked_and_the_true_error(fine_prior):
    chart = LevelChart()
    svg = chart.svg(np.array([0.0, 1.0]), np.array([0.1, 0.7]), 0.5, 0.4, 0.3, (0.35, 0.45))
    (mark,) = parsed(svg).iter("circle")
    assert (float(mark.get("cx")), float(mark.get("cy"))) == pytest.approx(chart.chart.at(0.5, 0.4), abs=0.06)
    assert re.search("at level 0.50 it is 0.400, the true error is 0.300", parsed(svg).get("aria-label"))
    assert len(list(parsed(svg).iter("polyline"))) == 2
    without = chart.svg(np.array([0.0, 1.0]), np.array([0.1, 0.7]), 0.5, 0.4, 0.3, None)
    assert len(list(parsed(without).iter("polyline"))) == 1
