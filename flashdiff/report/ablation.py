"""The ablation of the severity encoder's training: its figure and its table, from the record that its stage keeps."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from flashdiff.report.style import LEVEL, PALETTE, SBAR, SMALL, canvas, need, styled

TRAINING = ["loss", "architecture", "steps"]
"""The columns that tell trainings apart."""
SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The levels of the table; the figure and its rows have all."""
LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "v"))
"""Line and mark of an architecture, by the order of the record, from the start again where they run out."""


@styled
def ablation(rows: pd.DataFrame) -> Figure:
    """True latent error against the level, one line per training: its colour is the loss, its style the architecture, its
    width the number of steps; dotted in grey, the prior's own encoder untrained.

    rows: of :func:`flashdiff.study.ablation.errors_of_trainings`, at least one training.

    >>> figure = figures.ablation(pd.read_csv("data/ablation/gaussian_blur.csv"))
    """
    need(rows, *TRAINING, "t", "error", "error_e0")
    colours = dict(zip(rows.loss.unique(), PALETTE, strict=False))
    styles = {name: LINES[k % len(LINES)] for k, name in enumerate(rows.architecture.unique())}
    lengths = sorted(rows.steps.unique())
    widths = dict(zip(lengths, np.linspace(0.8, 2.2, len(lengths)), strict=True))
    figure, axes = canvas(height=3.6)
    axis = axes[0, 0]
    for (loss, architecture, steps), part in rows.groupby(TRAINING, sort=False):
        line, mark = styles[architecture]
        axis.plot(part.t, part.error, color=colours[loss], ls=line, marker=mark, ms=3.5, lw=widths[steps])
    untrained = rows.groupby("t").error_e0.first()
    axis.plot(untrained.index, untrained, color="0.5", ls=":", lw=1.2)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel=LEVEL, ylabel=SBAR)
    handles = [Line2D([], [], color=colour, lw=1.6, label=f"{loss} loss") for loss, colour in colours.items()]
    handles += [
        Line2D([], [], color="0.3", ls=line, marker=mark, ms=3.5, lw=1.2, label=f"{_words(name)} architecture")
        for name, (line, mark) in styles.items()
    ]
    handles += [Line2D([], [], color="0.3", lw=width, label=f"{steps} steps") for steps, width in widths.items()]
    handles += [Line2D([], [], color="0.5", ls=":", lw=1.2, label="prior's encoder, untrained")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=SMALL)
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per training: its true latent error at the levels SHOWN (error_at_...), and over these calibration_ratio,
    mean sigma_hat / mean true error, and the mean PSNR of D(z_hat) in dB. An empty record has no rows.

    rows: of :func:`flashdiff.study.ablation.errors_of_trainings`.
    """
    need(rows, *TRAINING, "t", "error", "sigma_hat", "psnr")
    shown = rows[rows.t.isin(SHOWN)]
    errors = {t: f"error_at_{t:g}" for t in SHOWN}
    found = []
    for training, part in shown.groupby(TRAINING, sort=False):
        at = part.set_index("t").error
        row = dict(zip(TRAINING, training, strict=True)) | {name: at[t] for t, name in errors.items()}
        found.append(row | {"calibration_ratio": part.sigma_hat.mean() / at.mean(), "psnr": part.psnr.mean()})
    return pd.DataFrame(found, columns=[*TRAINING, *errors.values(), "calibration_ratio", "psnr"])
