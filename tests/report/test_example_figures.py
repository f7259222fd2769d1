"""Figures of an easy and a hard image: what is framed, marked and written under the pictures."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from synthetic import EXAMPLE_STARTS, example_arrays, example_rows

from flashdiff import figures
from flashdiff.report.example_figures import STARTING, _latent


def images_of(figure):
    return [axis for axis in figure.axes if axis.images]


def test_the_best_start_of_each_image_is_framed():
    """By hand: the easy image is best from 9, the hard one from 81; no other picture has a frame."""
    figure = figures.starts_of_images(example_rows(), example_arrays())
    framed = [axis for axis in images_of(figure) if any(spine.get_visible() for spine in axis.spines.values())]
    rows = np.array_split(images_of(figure), 2)
    assert framed == [rows[k][1 + EXAMPLE_STARTS.index(best)] for k, best in enumerate((9, 81))]
    assert {to_hex(axis.spines["left"].get_edgecolor()) for axis in framed} == {STARTING}


def test_the_curve_below_is_the_mean_over_draws():
    rows = example_rows()
    figure = figures.starts_of_images(rows, example_arrays())
    curves = [axis for axis in figure.axes if not axis.images and axis.lines]
    for axis, kind in zip(curves, ("easy", "hard"), strict=True):
        own = rows[(rows.kind == kind) & rows.walk.str.startswith("fixed_")]
        line = axis.containers[0].lines[0]
        np.testing.assert_array_equal(line.get_xdata(), np.array(EXAMPLE_STARTS) + 1)
        expected = [own[own.start == start].psnr.sum() / 4 for start in EXAMPLE_STARTS]
        np.testing.assert_allclose(line.get_ydata(orig=False), expected)


def test_the_start_lies_on_the_curve_of_the_signal_to_noise_ratio():
    """And its dashed level is the severity's: SNR = 1 / sigma^2 (paper, Eq. of the matched start)."""
    rows, arrays = example_rows(), example_arrays()
    figure = figures.overview(rows, arrays)
    curves = [axis for axis in figure.axes if not axis.images]
    for axis, start, sigma in zip(curves, (6, 112), (0.1, 0.5), strict=True):
        level, mark = axis.lines[1], axis.lines[2]
        assert level.get_ydata()[0] == pytest.approx(1 / sigma**2)
        (at,), (snr,) = mark.get_xdata(), mark.get_ydata()
        assert at == start and snr == pytest.approx(arrays["abar"][start] / (1 - arrays["abar"][start]))


def test_trajectories_name_the_index_of_every_picture():
    arrays = example_arrays()
    figure = figures.trajectories(example_rows(), arrays)
    lines = np.array_split(images_of(figure), 4)
    walks = [("full_length", 0), ("flash_consistent", 0), ("full_length", 1), ("flash_consistent", 1)]
    for cells, (walk, k) in zip(lines, walks, strict=True):
        assert [axis.get_xlabel() for axis in cells[:7]] == [f"i = {index}" for index in arrays[f"index/{walk}"][k]]
        shown = np.asarray(cells[3].images[0].get_array())[..., 0]
        np.testing.assert_allclose(shown, (arrays[f"path/{walk}"][k, 3, 0] + 1) / 2)


def test_the_channels_of_a_latent_stand_in_a_square():
    z = np.arange(4.0).reshape(4, 1, 1) * 3 - 3  # -3, 0, 3, 6: the last is beyond what is shown
    np.testing.assert_allclose(_latent(z), [[[-1, 0], [1, 1]]])
    assert _latent(np.zeros((3, 2, 2))).shape == (1, 4, 4)
