"""The table of measures: what a gain is, that every entry computes its column, and that reading the table costs nothing."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from flashdiff.measures import MEASURES, Measure, in_figures, optional, quality
from flashdiff.measures.published import PublishedDistances

OURS, THEIRS = np.array([1.0, 2.0, 6.0]), np.array([2.0, 4.0, 6.0])


@pytest.mark.parametrize(
    ("higher", "relative", "gain"), [(True, False, -1.0), (False, False, 1.0), (True, True, -0.25), (False, True, 0.25)]
)
def test_a_gain_is_positive_where_a_method_is_better(higher, relative, gain):
    measure = Measure("some", "some", "", "some_gain", None, higher_is_better=higher, relative=relative)
    assert measure.improvement(OURS, THEIRS) == gain
    assert measure.improvement(OURS, OURS) == 0 and not np.signbit(measure.improvement(OURS, OURS))


def test_what_gains_are_counted_in():
    assert {name: measure.gain_unit for name, measure in MEASURES.items()} == {
        "psnr": "dB",
        "frame_psnr": "dB",
        "ssim": "SSIM",
        "perceptual": "relative",
    }


def test_names_are_keys_and_every_gain_has_its_own():
    assert all(name == measure.name for name, measure in MEASURES.items())
    assert len({measure.gain for measure in MEASURES.values()}) == len(MEASURES)
    assert [measure.name for measure in in_figures()] == ["psnr", "perceptual"] and optional() == ["perceptual"]


def test_every_measure_gives_a_number_per_image():
    x, truth = torch.rand(3, 1, 16, 16), torch.rand(3, 1, 16, 16)
    found = {name: measure.compute(x, truth, PublishedDistances(None, None)) for name, measure in MEASURES.items()}
    assert {values.shape for values in found.values()} == {(3,)} and np.isnan(found["perceptual"]).all()
    np.testing.assert_array_equal(found["psnr"], quality.psnr(x, truth))
    np.testing.assert_array_equal(found["ssim"], quality.ssim(x, truth))


def test_reading_the_table_imports_no_torch():
    code = "import sys, flashdiff.measures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
