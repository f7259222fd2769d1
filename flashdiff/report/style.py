"""One style for all figures: sizes, the palette, what axes are called; and how a figure is saved."""

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

COLUMN, PAGE = 234 / 72, 487 / 72
"""Inches: the width of a column and of the text of a printed page. A figure has one or the other."""
SMALL = 6.5
"""Points: no text of a figure is smaller, and none is scaled when it is printed."""
PALETTE = ("#3c8be0", "#d85227", "#0d4411", "#8b4d81", "#cac211", "#12d7fc", "#631148", "#0609f9")
"""Colours that stay apart from one another, from black and from :data:`GREY` in the eyes of the colour blind: searched
for at random, for the largest least distance in CAM02-UCS under the simulations of Machado et al. 2009."""
GREY = "0.55"
LEVEL, SIGMA, SBAR = "severity level t", "predicted severity σ̂ (latent units)", "true latent error s̄ (latent units)"
NFE = "denoiser evaluations (NFE)"
SERIES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "v"))
"""Line and mark of series by their order, from the start again where they run out."""
STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "figure.dpi": 110,
    "pdf.fonttype": 42,
}


def styled(make):
    """Decorator of a figure function: everything it draws, legends included, is drawn in the house style."""

    @functools.wraps(make)
    def wrapper(*arguments, **options):
        with rc_context(STYLE):
            return make(*arguments, **options)

    return wrapper


def need(rows: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError naming the columns that a figure needs and ``rows`` lack."""
    if missing := [column for column in columns if column not in rows]:
        raise ValueError(f"rows: column {', '.join(missing)} is missing; this figure needs {', '.join(columns)}.")


def canvas(columns: int = 1, rows: int = 1, width: float = COLUMN, height: float = 2.4) -> tuple[Figure, np.ndarray]:
    """An empty figure in the house style and its axes (rows, columns); width and height in inches of all of it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def steps_on_log_axis(axis: Axes, numbers: Sequence[int] = (1, 2, 5)) -> None:
    """Denoiser evaluations along x, logarithmic, with plain numbers at these multiples of every decade."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=numbers, numticks=12))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def print_folder(folder: str | Path) -> Path:
    """Where what is for print goes: into ``folder`` itself or, below reports/figures, beside it in reports/figures_pdf."""
    return Path(str(folder).replace("reports/figures/", "reports/figures_pdf/"))


def emptied(folder: str | Path) -> Path:
    """The folder, made anew with its :func:`print_folder`, so that what an earlier run drew there does not stay."""
    for made in {Path(folder), print_folder(folder)}:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
    return Path(folder)


def save(figure: Figure, folder: str | Path, name: str, rows: pd.DataFrame | None = None) -> None:
    """Write name.png into ``folder``, and name.pdf and the rows as name.csv into its :func:`print_folder`. Bytes do not differ
    between runs."""
    folder, beside = Path(folder), print_folder(folder)
    for needed in (folder, beside):
        needed.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
        figure.savefig(beside / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    if rows is not None:
        rows.to_csv(beside / f"{name}.csv", index=False, float_format="%.6g")
