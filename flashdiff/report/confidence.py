"""Prediction intervals on the study's test images: how many hold what they promise, as a figure, a table and a sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator, PercentFormatter

from flashdiff.report.style import PAGE, PALETTE, SIGMA, SMALL, canvas, need, styled
from flashdiff.study.records import read_json, read_rows
from flashdiff.trust.conformal import Interval, group
from flashdiff.trust.promises import LOWEST, NO_DIFFUSION, TUNED

TOLERANCE = 0.02
"""How far a measured coverage may lie from the promised one: of 90%, 88% to 92%."""
METHODS = {NO_DIFFUSION: "D(ẑ)", TUNED["psnr"]: "few steps", TUNED["perceptual"]: "few steps, as restored"}
SHOWN = (NO_DIFFUSION, TUNED["psnr"])
"""Methods that are drawn; the third differs from the second in little."""
GROUPS = ("all", "easiest third", "middle third", "hardest third")
COLUMN = dict(zip(GROUPS, ("held", "held_easiest_third", "held_middle_third", "held_hardest_third"), strict=True))
"""Group of images -> its column in the table for readers."""
WIDTHS = {"plain": "one for all", "by_severity": "by severity"}
DOTS = 300
"""Images that are drawn as dots: more would hide the band; all are counted."""


def test_images(folder: Path, degradation: str, solver: str, evaluations: float) -> dict[str, pd.DataFrame]:
    """{method: rows} with sigma_hat and the measures of the test images that the study has restored: D(z_hat) of stage
    measure_severity, the walks of stage walk_budgets."""
    walked = read_rows(folder / f"budgets-{degradation}-{solver}.parquet")
    walked = walked[(walked.method == "adaptive") & (walked.budget == evaluations)]
    found = {NO_DIFFUSION: read_rows(folder / f"severity-{degradation}.parquet")}
    return found | {method: walked[walked.tuned_for == objective] for objective, method in TUNED.items()}


def intervals_of(
    record: str | Path, results: str | Path, pairs: Sequence[tuple[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What every test image was promised and became, and the table of how many intervals hold.

    record: folder of the tables that ship (:func:`flashdiff.study.confidence.calibrated`); results: folder of the study's
    results. The first: a row per image and method, with sigma_hat, the third of severity (1 to 3, by the validation images'
    thirds), and per measure value, _low and _high; the second as :func:`coverage_table`. Both empty without intervals.
    """
    parts, tables = [], []
    for degradation, solver in pairs:
        shipped = read_json(Path(record) / f"{degradation}-{solver}.json")
        if not shipped["intervals"]:
            continue
        for method, rows in test_images(Path(results), degradation, solver, shipped["evaluations"]).items():
            sigma_hat = rows.sigma_hat.to_numpy(float)
            part: dict = {"degradation": degradation, "method": method, "sigma_hat": sigma_hat}
            for measure in LOWEST:
                written = shipped["intervals"][method][measure]
                interval = Interval.from_dict(written)
                part["third"] = 1 + group(sigma_hat, interval.edges)
                low, high = interval(sigma_hat)
                part |= {measure: rows[measure].to_numpy(float), f"{measure}_low": low, f"{measure}_high": high}
            parts.append(pd.DataFrame(part))
            widths = {measure: shipped["intervals"][method][measure]["width"] for measure in LOWEST}
            tables.append(coverage_table(parts[-1], widths, shipped["coverage"]))
    if not parts:
        return pd.DataFrame(), pd.DataFrame()
    return pd.concat(parts, ignore_index=True), pd.concat(tables, ignore_index=True)


def coverage_table(part: pd.DataFrame, widths: Mapping[str, str], promised: float) -> pd.DataFrame:
    """One row per measure and group of images: how many are held, as a share with its exact 95% interval (Clopper and Pearson
    1934), beside the promised one, and the mean width of the intervals in the unit of the measure.

    part: rows of one degradation and method of :func:`intervals_of`.
    """
    found = []
    for measure, kind in widths.items():
        held = part[measure].between(part[f"{measure}_low"], part[f"{measure}_high"])
        width = part[f"{measure}_high"] - part[f"{measure}_low"]
        for number, name in enumerate(GROUPS):
            at = part.third == number if number else part.third > 0
            n, count = int(at.sum()), int(held[at].sum())
            share = {"coverage": np.nan, "coverage_low": np.nan, "coverage_high": np.nan}
            if n:
                low, high = scipy.stats.binomtest(count, n).proportion_ci()
                share = {"coverage": count / n, "coverage_low": low, "coverage_high": high}
            head = {"degradation": part.degradation.iloc[0], "of": METHODS[part.method.iloc[0]], "measure": measure}
            own = {"width": WIDTHS[kind], "severity": name, "images": n, "promised": promised}
            found.append(head | own | share | {"mean_width": width[at].mean()})
    return pd.DataFrame(found)


def by_thirds(table: pd.DataFrame) -> pd.DataFrame:
    """The table for readers, one row per degradation, method and measure: the promised share, the share of all test images that
    is held and of every third, each with its interval, and the mean width."""
    if table.empty:
        return pd.DataFrame()
    keys, found = ["degradation", "of", "measure", "width", "promised"], []
    for head, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, head, strict=True)) | {"images": int(part.images.iloc[0])}
        for name, at in part.set_index("severity").iterrows():
            column = COLUMN[name]
            row |= {column: at.coverage, f"{column}_low": at.coverage_low, f"{column}_high": at.coverage_high}
        found.append(row | {"mean_width": part.mean_width.iloc[0]})
    return pd.DataFrame(found)


def sentence(table: pd.DataFrame) -> str:
    """What the table of :func:`by_thirds` means, computed from it: how often the intervals hold, and where they do not."""
    if table.empty:
        return "No intervals were calibrated."
    promised, (overall, *thirds) = table.promised.iloc[0], COLUMN.values()
    lowest, highest = promised - TOLERANCE, promised + TOLERANCE
    shares = table[thirds].to_numpy()
    # 0.92 - 0.9 is more than 0.02 in floating point
    inside = int((np.abs(shares - promised) <= TOLERANCE + 1e-9).sum())
    all_inside = int(((table[overall] - promised).abs() <= TOLERANCE + 1e-9).sum())
    off = [
        f"{row['degradation'].replace('_', ' ')}, {row['of']}, {row['measure']}, {name} ({row[column]:.1%})"
        for _, row in table.iterrows()
        for name, column in COLUMN.items()
        if row[f"{column}_low"] > highest or row[f"{column}_high"] < lowest
    ]
    return (
        f"Promised to hold {promised:.0%} of the images, the intervals hold {table[overall].min():.1%} to "
        f"{table[overall].max():.1%} of the test images: {all_inside} of {len(table)} shares over all images and {inside} of "
        f"{shares.size} over thirds lie within {lowest:.0%} to {highest:.0%}. Outside beyond the chance of the test images: {'; '.join(off) or 'none'}."
    )


def dots(points: pd.DataFrame) -> pd.DataFrame:
    """What :func:`confidence` draws of the points of :func:`intervals_of`: the methods SHOWN, up to DOTS images of each pair and
    method, evenly in the order of severity."""
    columns = ["degradation", "method", "sigma_hat", "third", "psnr", "psnr_low", "psnr_high"]
    parts = [
        part.sort_values("sigma_hat", kind="stable").iloc[
            np.linspace(0, len(part) - 1, min(DOTS, len(part))).astype(int)
        ]
        for (_, method), part in points.groupby(["degradation", "method"], sort=False)
        if method in SHOWN
    ]
    return pd.concat(parts, ignore_index=True)[columns]


@styled
def confidence(rows: pd.DataFrame) -> Figure:
    """What sigma_hat alone promises of the PSNR before any diffusion, as a band over severity with test images as dots: of
    D(z_hat) and of few steps, a line of panels per degradation.

    rows: of :func:`dots`.

    >>> figure = figures.confidence(pd.read_csv("reports/figures_pdf/confidence/confidence.csv"))
    """
    need(rows, "degradation", "method", "sigma_hat", "third", "psnr", "psnr_low", "psnr_high")
    names = rows.degradation.unique()
    figure, axes = canvas(columns=len(SHOWN), rows=len(names), width=PAGE, height=0.4 + 1.9 * len(names))
    for line, name in zip(axes, names, strict=True):
        own = rows[rows.degradation == name]
        ends = own[["psnr", "psnr_low"]].to_numpy(float)
        # an interval of too few images is infinite: it fills the panel
        lowest, highest = ends[np.isfinite(ends)].min() - 0.5, own.psnr.max() + 0.5
        for axis, method, colour in zip(line, SHOWN, PALETTE, strict=False):
            part = own[own.method == method].sort_values("sigma_hat", kind="stable")
            for _, third in part.groupby("third"):  # each may have a width of its own
                low, high = third.psnr_low.clip(lower=lowest), third.psnr_high.clip(upper=highest)
                axis.fill_between(third.sigma_hat, low, high, color=colour, alpha=0.25, lw=0)
            axis.plot(part.sigma_hat, part.psnr, ".", color=colour, ms=2.5)
            axis.set(ylim=(lowest, highest), xlabel=SIGMA, ylabel="PSNR (dB)")
            axis.set_title(f"{name.replace('_', ' ')}, {METHODS[method]}")
    shown = [Patch(color="0.4", alpha=0.25, lw=0, label="promised interval")]
    shown.append(Line2D([], [], color="0.4", ls="", marker=".", ms=3, label="test images"))
    figure.legend(handles=shown, loc="outside lower center", ncols=2, fontsize=SMALL)
    return figure


@styled
def intervals_held(table: pd.DataFrame) -> Figure:
    """Which share of the test images the intervals hold, over all and by third of severity, with its interval: a panel per
    degradation. Dashed, what is promised, and in grey what lies within TOLERANCE of it.

    table: of :func:`by_thirds`.

    >>> figure = figures.intervals_held(pd.read_csv("reports/figures_pdf/confidence/intervals_held.csv"))
    """
    need(
        table,
        "degradation",
        "of",
        "measure",
        "promised",
        *(f"{c}{e}" for c in COLUMN.values() for e in ("", "_low", "_high")),
    )
    names = table.degradation.unique()
    figure, axes = canvas(columns=len(names), width=PAGE, height=2.9)
    lines = np.arange(len(GROUPS))[::-1]
    for number, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        own = table[(table.degradation == name) & table.of.isin([METHODS[method] for method in SHOWN])]
        promised = own.promised.iloc[0]
        axis.axvspan(promised - TOLERANCE, promised + TOLERANCE, color="0.9", lw=0)
        axis.axvline(promised, color="0.5", ls="--", lw=0.8)
        for shift, (_, row) in zip(np.linspace(0.27, -0.27, len(own)), own.iterrows(), strict=True):
            share, low, high = (
                row[[f"{c}{end}" for c in COLUMN.values()]].to_numpy(float) for end in ("", "_low", "_high")
            )
            colour = PALETTE[[METHODS[method] for method in SHOWN].index(row["of"])]
            is_psnr = row["measure"] == "psnr"
            label = f"{row['of']}, {'PSNR' if is_psnr else 'perceptual distance'}" if number == 0 else None
            axis.errorbar(
                share, lines + shift, xerr=[share - low, high - share], fmt="o" if is_psnr else "s", color=colour, ms=3.5,
                elinewidth=0.9, capsize=1.5, mfc=colour if is_psnr else "white", label=label,
            )  # fmt: skip
        axis.set_yticks(lines, GROUPS if number == 0 else [""] * len(lines))
        axis.set(xlabel="test images held", title=name.replace("_", " "))
        axis.xaxis.set_major_locator(MultipleLocator(0.05))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL)
    return figure
