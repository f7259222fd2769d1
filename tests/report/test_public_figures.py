"""flashdiff.figures: the figures under one name, and their examples run in the folder of a study."""

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figure_cases import FROM_ROWS, curve, pictures
from matplotlib.figure import Figure
from synthetic import (
    ablation_rows,
    example_arrays,
    example_rows,
    ordering_rows,
    reconstruction_rows,
    severity_rows,
    timings,
    write_metrics,
)

from flashdiff import figures
from flashdiff.report import headline, tables
from flashdiff.study import records

NAMES = [name for name in figures.__all__ if name != "save"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with the files of a finished study that examples read, from synthetic rows."""
    folder = tmp_path_factory.mktemp("study")
    results, beside = folder / "data/results", folder / "reports/figures_pdf/frontier-gaussian_blur-ldps"
    for made in (results, beside, folder / "data/ablation", folder / "reports/severity"):
        made.mkdir(parents=True)
    records.write_rows(ordering_rows(), results / "ordering-gaussian_blur.parquet")
    records.write_rows(severity_rows(), results / "severity-gaussian_blur.parquet")
    records.write_rows(reconstruction_rows(), results / "reconstruction-gaussian_blur-ldps.parquet")
    records.write_rows(example_rows(), results / "examples-gaussian_blur-ldps.parquet")
    records.write_arrays(results / "examples-gaussian_blur-ldps.npz", example_arrays())
    records.write_json(results / "timings-gaussian_blur-ldps.json", timings())
    images = {name: pictures(10) for name in ("truth", "measurement", *reconstruction_rows().method.unique())}
    np.savez(results / "images-gaussian_blur-ldps.npz", t=np.linspace(0, 1, 10), **images)
    curve().to_csv(folder / "reports/severity/gaussian_blur.csv", index=False)
    ablation_rows().to_csv(folder / "data/ablation/gaussian_blur.csv", index=False)
    for name in ("frontier", "frechet", "gain_over_fixed", "gain_by_severity"):
        FROM_ROWS[name][0]().to_csv(beside / f"{name}.csv", index=False)
    (folder / "reports/comparisons").mkdir()
    FROM_ROWS["frontier_of_solvers"][0]().to_csv(folder / "reports/comparisons/frontier_of_solvers.csv", index=False)
    beside = folder / "reports/figures_pdf/robustness-gaussian_blur-ldps"
    beside.mkdir(parents=True)
    for name in ("noise_robustness", "unseen_classes", "encoder_choices", "start_choices"):
        FROM_ROWS[name][0]().to_csv(beside / f"{name}.csv", index=False)
    beside = folder / "reports/figures_pdf/confidence"
    beside.mkdir(parents=True)
    for name in ("confidence", "intervals_held"):
        FROM_ROWS[name][0]().to_csv(beside / f"{name}.csv", index=False)
    for stage, name in (
        ("allocation", "budget_for_a_set"),
        ("blind", "blind_levels"),
        ("calibrated_start", "calibrated_start"),
        ("shift", "shift_roc"),
        ("spread", "posterior_spread"),
    ):
        beside = folder / "reports/figures_pdf" / stage
        beside.mkdir(parents=True)
        FROM_ROWS[name][0]().to_csv(beside / f"{name}.csv", index=False)
    write_metrics(folder)
    return folder


def test_the_module_has_every_figure_of_the_reports():
    """Read from the sources: every public function of flashdiff.report that draws in the house style."""
    drawn = set()
    for path in Path(figures.__file__).parent.glob("report/*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            marks = [getattr(mark, "id", None) for mark in getattr(node, "decorator_list", [])]
            if "styled" in marks and not node.name.startswith("_"):
                drawn.add(node.name)
    assert set(figures.__all__) - {"save"} == drawn - {"one_image"}  # that one is the explorer's
    assert all(callable(getattr(figures, name)) for name in figures.__all__)


def test_an_unknown_figure_is_named_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'fronteir'; it has .*frontier"):
        _ = figures.fronteir


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_figure_runs_and_draws(name, study, monkeypatch):
    monkeypatch.chdir(study)
    known = {"np": np, "pd": pd, "figures": figures, "headline": headline, "tables": tables}
    known |= {"read_rows": records.read_rows, "read_timings": records.read_timings, "read_json": records.read_json}
    example = doctest.DocTestParser().get_doctest(getattr(figures, name).__doc__, known, name, None, 0)
    assert example.examples
    result = doctest.DocTestRunner(verbose=False).run(example, clear_globs=False)
    assert result.failed == 0 and isinstance(example.globs["figure"], Figure)


def test_the_import_brings_neither_torch_nor_matplotlib():
    told = "import sys, flashdiff.figures; print(sorted({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_drawing_brings_no_seaborn_and_no_pyplot():
    loaded = "import sys; from flashdiff import figures; figures.frontier, figures.calibration"
    told = loaded + "; print(sorted({'seaborn', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
