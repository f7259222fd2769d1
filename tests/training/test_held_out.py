"""What a training says of its encoder on held-out images, and when it says what to do."""

import math

import pandas as pd
import pytest

from flashdiff.training.severity import held_out_in_words


def curve(*ratios):
    """Rows every 50 steps, evaluated at every second one."""
    rows = []
    for k, ratio in enumerate(ratios, start=1):
        measured = {"ordering_accuracy": 0.9876, "spearman_error": 0.943, "calibration_ratio": ratio}
        rows += [{"step": 100 * k - 50}, {"step": 100 * k} | measured]
    return pd.DataFrame(rows)


def test_figures_of_the_last_evaluation_are_said_and_nothing_else_where_they_are_right():
    said = held_out_in_words(curve(0.3, 1.04))
    assert "98.8% of the pairs" in said and "0.94 (Spearman), and is 1.04 of it on average." in said
    assert said.endswith("average.")


@pytest.mark.parametrize(
    ("ratios", "advice"),
    [
        ((0.93, 1.1, 0.19), "by heart. Lower severity.steps (at step 100 it was 0.93), or give more images."),
        ((0.5,), "by heart. Lower severity.steps, or give more images."),
        ((0.4, 0.79), "by heart. Lower severity.steps, or give more images."),
        ((0.9, 1.26), "too much: raise severity.steps."),
        ((2.0, 0.8), "is 0.80 of it on average."),
        ((2.0, 1.25), "is 1.25 of it on average."),
    ],
)
def test_a_severity_that_is_off_by_a_fifth_gets_a_remedy(ratios, advice):
    assert held_out_in_words(curve(*ratios)).endswith(advice)


def test_a_shipped_encoder_has_one_row():
    row = {"step": 0, "ordering_accuracy": 1.0, "spearman_error": 0.9, "calibration_ratio": math.exp(-1)}
    assert held_out_in_words(pd.DataFrame([row])).endswith("Lower severity.steps, or give more images.")
