"""The spread of several samples: whether it tells the error, what the samples' mean is worth, its figure and its sentence."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashdiff.report.intervals import bootstrap, ratio_of_means, spearman
from flashdiff.report.names import pair_columns
from flashdiff.report.style import PAGE, PALETTE, SMALL, canvas, need, styled
from flashdiff.report.tables import spread as columns

SAMPLERS = {
    "few_start": "few steps, start noise",
    "few_fresh": "few steps, fresh noise",
    "full": "published walk",
}
"""What readers call the samplers."""
COLOURS = dict(zip(SAMPLERS.values(), (PALETTE[0], PALETTE[1], PALETTE[2]), strict=True))
NOMINAL = 90
"""The level, in percent, that the table and the sentence say coverage at."""


def _levels(rows: pd.DataFrame, kind: str) -> list[str]:
    return [name for name in rows if name.startswith(f"{kind}_") and name.split("_")[1][:1].isdigit()]


def table(rows: Mapping[str, pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per pair and sampler, with 95% intervals over images: evaluations of all samples; PSNR of one sample, of the
    mean of all, and the mean's gain over one walk at the cost of all few-step samples; area under the
    sparsification error over that of a random order (0: the oracle's order, 1: chance); coverage of 90% intervals on the
    object's pixels, as it is and with the factor; and the rank correlation of an image's spread, and of sigma_hat, with
    its error. No rows where no study measured it.

    rows: {pair: of :func:`flashdiff.study.spread.rows_of`}.
    """
    found = []
    for item, of_pair in rows.items():
        for sampler, part in of_pair.groupby("sampler", sort=False):
            part = part.sort_values("image")

            def interval(name, statistic, *names, part=part):
                told = tuple(part[column].to_numpy(float) for column in names)
                return columns(name, bootstrap(told, statistic, n_resamples, seed))

            row = {**pair_columns(item), "sampler": SAMPLERS[sampler], "images": len(part)}
            row |= {"samples": int(part.samples.iloc[0]), "nfe": float((part.nfe * part.samples).mean())}
            row |= interval("psnr_of_one", np.mean, "psnr_one")
            row |= interval("psnr_of_mean", np.mean, "psnr_mean")
            gain = part.psnr_mean.to_numpy(float) - part.psnr_walk.to_numpy(float)
            row |= columns("mean_over_one_walk", bootstrap(gain, np.mean, n_resamples, seed))
            row |= interval("relative_ause", ratio_of_means, "ause", "ause_random")
            row |= interval("coverage", np.mean, f"object_{NOMINAL}")
            row |= {"factor": float(part["scale"].iloc[0])}
            row |= interval("coverage_scaled", np.mean, f"scaled_{NOMINAL}")
            row |= interval("spearman_of_spread", spearman, "spread", "rmse")
            row |= interval("spearman_of_sigma", spearman, "sigma_hat", "rmse")
            found.append(row)
    return pd.DataFrame(found)


def curves(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What :func:`posterior_spread` draws: per pair and sampler means over images of kind "left" (sparsification: x the share
    of pixels taken away), "oracle" (the same in the order of the error), "object" and "scaled" (x the nominal level, y the
    coverage)."""
    found = []
    for item, of_pair in rows.items():
        for sampler, part in of_pair.groupby("sampler", sort=False):
            head = {**pair_columns(item), "sampler": SAMPLERS[sampler]}
            for kind in ("left", "oracle", "object", "scaled"):
                for name in _levels(part, kind):
                    x = float(name.split("_")[1]) / 100
                    found.append(head | {"kind": kind, "x": x, "y": float(part[name].astype(float).mean())})
    return pd.DataFrame(found)


def examples(folder: str | Path, rows: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, np.ndarray]]:
    """{degradation: {"measurement", "mean", "spread", "error"}} of each pair's example, images (H, W) of the mean over channels:
    of the first sampler that adds fresh noise. Pairs without rows have none."""
    found = {}
    for item, of_pair in rows.items():
        if of_pair.empty:
            continue
        with np.load(Path(folder) / f"{item}.npz") as arrays:
            mean, spread = arrays["few_fresh/mean"], arrays["few_fresh/spread"]
            shown = {"measurement": arrays["measurement"], "mean": mean, "spread": spread}
            shown["error"] = np.abs(mean - arrays["truth"])
        found[item] = {name: image.mean(0) for name, image in shown.items()}
    return found


@styled
def posterior_spread(table: pd.DataFrame, examples: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> Figure:
    """A row per pair: an example (measurement, mean of the samples, their spread, the mean's error; the last two on one
    scale), the error that is left when the least sure pixels go, and the coverage of intervals.

    table: of :func:`curves`; examples: of :func:`examples`, by pair; without them the curves stand alone.

    >>> table = pd.read_csv("reports/figures_pdf/spread/posterior_spread.csv")
    >>> figure = figures.posterior_spread(table)
    """
    need(table, "degradation", "solver", "sampler", "kind", "x", "y")
    pairs = list(table.groupby(["degradation", "solver"], sort=False))
    figure, axes = canvas(rows=len(pairs), columns=6 if examples else 2, width=PAGE, height=0.55 + 1.45 * len(pairs))
    if examples:
        axes[0, 0].get_gridspec().set_width_ratios([1, 1, 1, 1, 1.9, 1.9])
    for number, (((degradation, solver), of_pair), row) in enumerate(zip(pairs, axes, strict=True)):
        if examples:
            own = examples[f"{degradation}-{solver}"]
            largest = max(float(own["spread"].max()), float(own["error"].max()), 1e-6)
            for axis, (name, image) in zip(row[:4], own.items(), strict=True):
                scale = {"cmap": "gray", "vmin": -1, "vmax": 1}
                if name in ("spread", "error"):
                    scale = {"cmap": "magma", "vmin": 0, "vmax": largest}
                axis.imshow(image, interpolation="nearest", **scale)
                axis.set(xticks=[], yticks=[])
                axis.grid(visible=False)
                axis.spines[:].set_visible(False)
                if number == 0:
                    axis.set_title({"error": "|error|"}.get(name, name))
            row[0].set_ylabel(degradation.replace("_", " "))
        left, covered = row[-2:]
        if not examples:
            left.set_title(degradation.replace("_", " "))
        for sampler, part in of_pair.groupby("sampler", sort=False):
            of = {kind: points.sort_values("x") for kind, points in part.groupby("kind")}
            colour, label = COLOURS[sampler], sampler if number == 0 else None
            left.plot(of["left"].x, of["left"].y, color=colour, lw=1.2, label=label)
            left.plot(of["oracle"].x, of["oracle"].y, color=colour, lw=0.7, ls=":")
            covered.plot(of["object"].x, of["object"].y, color=colour, lw=1.2, marker="o", ms=2.5)
            covered.plot(of["scaled"].x, of["scaled"].y, color=colour, lw=0.8, ls="--", marker="s", ms=2, mfc="none")
        left.axhline(1, color="0.5", lw=0.8, ls="--")
        covered.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls="--")
        left.set(ylabel="error left / all", ylim=(0, None))
        covered.set(ylabel="coverage", xlim=(0.4, 1), ylim=(0, 1))
    left.set_xlabel("least sure pixels taken away")
    covered.set_xlabel("nominal level")
    figure.legend(loc="outside upper center", ncols=3, fontsize=SMALL)
    return figure


def sentence(table: pd.DataFrame) -> str:
    """What the spreads come to, pair by pair; "" of no rows.

    The more honest of two spreads is the one whose coverage is nearer to the nominal level, where their intervals over
    images do not overlap; otherwise chance explains the difference.
    """
    told = []
    if table.empty:
        return ""
    for (degradation, _), part in table.groupby(["degradation", "solver"], sort=False):
        sampled = dict(part.set_index("sampler").iterrows())
        texts = [
            f"{name}: coverage {row.coverage:.0%} [{row.coverage_low:.0%}, {row.coverage_high:.0%}] of nominal {NOMINAL}%, "
            f"relative AUSE {row.relative_ause:.2f}, mean over one walk at the cost of all {row.mean_over_one_walk:+.2f} dB "
            f"[{row.mean_over_one_walk_low:.2f}, {row.mean_over_one_walk_high:.2f}]"
            for name, row in sampled.items()
        ]
        text = f"{degradation.replace('_', ' ')}: " + "; ".join(texts) + "."
        few, full = sampled.get(SAMPLERS["few_fresh"]), sampled.get(SAMPLERS["full"])
        if few is not None and full is not None:
            text += " " + _verdict(few, full)
        told.append(text)
    return "\n".join(told)


def _verdict(few: pd.Series, full: pd.Series) -> str:
    apart = few.coverage_high < full.coverage_low or full.coverage_high < few.coverage_low
    if not apart:
        return "Neither spread is more honest than the other beyond chance."
    nearer = abs(few.coverage - NOMINAL / 100) < abs(full.coverage - NOMINAL / 100)
    return f"The spread of {'few steps' if nearer else 'the published walk'} is the more honest one."
