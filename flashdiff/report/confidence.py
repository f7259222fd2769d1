"""Prediction intervals on the study's test images: how many hold what they promise, as a figure, a table and a sentence."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

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
    """The table for readers, one row per degradation, method and measure: coverage of all images and of every third, each with
    its interval, and the mean width."""
    if table.empty:
        return pd.DataFrame()
    keys, found = ["degradation", "of", "measure", "width"], []
    for head, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, head, strict=True)) | {"images": int(part.images.iloc[0])}
        for name, at in part.set_index("severity").iterrows():
            column = "coverage" if name == GROUPS[0] else name.replace(" ", "_")
            row |= {column: at.coverage, f"{column}_low": at.coverage_low, f"{column}_high": at.coverage_high}
        found.append(row | {"mean_width": part.mean_width.iloc[0]})
    return pd.DataFrame(found)


def sentence(table: pd.DataFrame) -> str:
    """What the table means, computed from it: how often the intervals hold, and where they do not."""
    if table.empty:
        return "No intervals were calibrated."
    promised, overall = table.promised.iloc[0], table[table.severity == GROUPS[0]]
    thirds = table[table.severity != GROUPS[0]]

    def near(part: pd.DataFrame) -> str:
        inside = (part.coverage - promised).abs() <= TOLERANCE + 1e-9
        return f"{inside.sum()} of {len(part)}"

    off = table[(table.coverage_low > promised + TOLERANCE) | (table.coverage_high < promised - TOLERANCE)]
    named = "; ".join(
        f"{row.degradation.replace('_', ' ')}, {row.of}, {row.measure}, {row.severity}: {row.coverage:.0%}"
        for row in off.itertuples()
    )
    chance = f"beyond chance outside: {named}" if named else "none is outside beyond chance"
    return (
        f"Promised {promised:.0%}, held on test images {overall.coverage.min():.1%} to {overall.coverage.max():.1%}: "
        f"{near(overall)} over all images and {near(thirds)} thirds lie within {promised - TOLERANCE:.0%} to "
        f"{promised + TOLERANCE:.0%}, {chance}."
    )


@styled
def confidence(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """What sigma_hat alone promises before any diffusion: the interval of the PSNR as a band over severity with test images as
    dots, of D(z_hat) and of few steps; and the share of test images that the intervals hold, over all and by third of severity.

    points, table: of :func:`intervals_of`; the table is drawn for PSNR and for the perceptual distance.

    >>> points = pd.read_csv("reports/figures_pdf/confidence/confidence.csv")
    >>> table = pd.read_csv("reports/tables/confidence.csv")
    >>> figure = figures.confidence(points, table)
    """
    need(points, "degradation", "method", "sigma_hat", "psnr", "psnr_low", "psnr_high")
    need(table, "degradation", "of", "measure", "severity", "promised", "coverage", "coverage_low", "coverage_high")
    names = points.degradation.unique()
    figure, axes = canvas(columns=3, rows=len(names), width=PAGE, height=0.5 + 2.0 * len(names))
    for line, name in zip(axes, names, strict=True):
        own = points[points.degradation == name]
        values = own[own.method.isin(SHOWN)]
        span = values.psnr_low.min(), values.psnr_high.max()
        for axis, method, colour in zip(line, SHOWN, PALETTE, strict=False):
            part = own[own.method == method].sort_values("sigma_hat", kind="stable")
            axis.fill_between(part.sigma_hat, part.psnr_low, part.psnr_high, color=colour, alpha=0.25, lw=0, label="90% interval")
            dots = part.iloc[np.linspace(0, len(part) - 1, min(DOTS, len(part))).astype(int)]
            axis.plot(dots.sigma_hat, dots.psnr, ".", color=colour, ms=2.5, label="test images")
            axis.set(ylim=span, xlabel=SIGMA.split(" (")[0], ylabel="PSNR (dB)")
            axis.set_title(f"{name.replace('_', ' ')}, {METHODS[method]}")
        _coverage(line[2], table[(table.degradation == name) & table.of.isin([METHODS[m] for m in SHOWN])])
        line[2].set_title(f"{name.replace('_', ' ')}, held")
    handles, labels = line[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=SMALL)
    return figure


def _coverage(axis, table: pd.DataFrame) -> None:
    """Shares of images held with their intervals, a line per group and a mark per method and measure."""
    lines = np.arange(len(GROUPS))[::-1]
    promised = table.promised.iloc[0]
    axis.axvspan(promised - TOLERANCE, promised + TOLERANCE, color="0.9", lw=0)
    axis.axvline(promised, color="0.5", ls="--", lw=0.8)
    shifts = np.linspace(0.27, -0.27, table.groupby(["of", "measure"]).ngroups)
    for shift, ((of, measure), part) in zip(shifts, table.groupby(["of", "measure"], sort=False), strict=True):
        colour = PALETTE[[METHODS[m] for m in SHOWN].index(of)]
        mark = "o" if measure == "psnr" else "s"
        ends = [part.coverage - part.coverage_low, part.coverage_high - part.coverage]
        label = f"{of}, {'PSNR' if measure == 'psnr' else 'distance'}"
        axis.errorbar(
            part.coverage, lines + shift, xerr=ends, fmt=mark, color=colour, ms=3.2, elinewidth=0.9, capsize=1.5,
            mfc=colour if measure == "psnr" else "white", label=label,
        )  # fmt: skip
    axis.set_yticks(lines, GROUPS)
    axis.set_xlabel("test images held")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


