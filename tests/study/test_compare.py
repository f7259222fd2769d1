"""Experiments side by side: what differs and nothing else, in lines that a terminal holds."""

import pytest

from flashdiff.study.compare import comparison, to_text

FILE = "reports/summary/gaussian_blur-ldps.json"
FACTS = {"typ": "baseline", "Created": None, "parent": None, "State": None, "Executor": None}


def row(experiment, revision, **values):
    return {"Experiment": experiment, "rev": revision, **FACTS, **values}


ROWS = [
    row(
        None, "workspace", **{f"{FILE}:ordering_accuracy": 0.982844, "severity.steps": 100, "seed": 0, f"{FILE}:nfe": 3}
    ),
    row(None, "main", **{f"{FILE}:ordering_accuracy": 0.975, "severity.steps": 300, "seed": 0, f"{FILE}:nfe": 3}),
    row(
        "surgy-bark",
        "1234567",
        **{f"{FILE}:ordering_accuracy": None, "severity.steps": 300, "seed": 0, f"{FILE}:nfe": 3},
    ),
]


def test_only_what_differs_is_shown_parameters_first():
    checksums = [{"flashdiff": f"75d46faf53902aaf3e9d1a5314b2021{n}.dir", "data/x.csv": f"{n}" * 32} for n in range(3)]
    table = comparison([row | checksum for row, checksum in zip(ROWS, checksums, strict=True)])
    assert list(table.columns) == ["workspace", "main", "surgy-bark"]
    assert table.loc["severity.steps"].tolist() == ["100", "300", "300"]
    assert table.loc["gaussian_blur-ldps: ordering_accuracy"].tolist() == ["0.9828", "0.975", "-"]
    assert list(table.index) == ["severity.steps", "gaussian_blur-ldps: ordering_accuracy"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_the_terminal(width):
    long = {f"{FILE}:adaptive_vs_best_fixed_few.{budget}.perceptual_distance_of_the_walk": 0.1 for budget in range(9)}
    rows = [row(f"experiment-{n}", "main", **{name: value + n for name, value in long.items()}) for n in range(12)]
    text = to_text(comparison(rows), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(f"experiment-{n}" in text for n in range(12))
    assert text.count("perceptual_distance_of_the_walk") >= 9  # the end of a name says what it is


def test_equal_experiments_get_a_sentence():
    assert to_text(comparison(ROWS[1:2] * 2), 80) == "Nothing differs: run `dvc exp run -S NAME=VALUE` first."
