"""A calibrated start: what it gains over the rules set by hand, how much of the regret it closes, its figure and its sentence."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashdiff.measures import MEASURES
from flashdiff.report.intervals import bootstrap, by_method
from flashdiff.report.names import pair_columns
from flashdiff.report.style import PAGE, PALETTE, SMALL, canvas, need, styled
from flashdiff.report.tables import spread

BASELINE = "adaptive"
"""The tuned rule: what gains and the regret are over."""
METHODS = {
    "published": "published start",
    "consistent": "consistent start",
    "fixed": "best fixed start",
    "adaptive": "tuned rule, set by hand",
    "correlation": "white part of the error",
    "calibrated": "calibrated start",
    "told_truth": "calibrated, told the true error",
    "hindsight": "best start of each image, in hindsight",
}
"""What readers call the methods, in the order of the table."""
CURVES = ("consistent", "correlation", "adaptive", "calibrated")
"""Methods whose starts are drawn over the severity."""
POINTS = 16
"""Images, evenly spread by rank of severity, that curves are drawn through."""
HALF = 0.5
"""The share of the regret that the goal is to close."""


def table(rows: Mapping[str, pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per pair, budget and method: mean start, evaluations, and paired over the tuned rule the gains in PSNR and
    perceptual distance; of the regret, in PSNR, to the best start of each image the share that is closed. With 95%
    intervals over images. No rows where no study measured it.

    rows: {pair: of :func:`flashdiff.study.calibrated.rows_of`}. The best start of each image is the best of the tried ones
    and the tuned rule's own, so that the regret is never below 0.
    """
    found = []
    distance = MEASURES["perceptual"]
    for item, of_pair in rows.items():
        for budget, part in of_pair.groupby("budget", sort=False):
            psnr, perceptual = (by_method(part, name).astype(float) for name in ("psnr", "perceptual"))
            over = (psnr.hindsight > psnr[BASELINE]).to_numpy()
            for of in (psnr, perceptual):  # the tuned rule's own start is one of those that hindsight has
                of["hindsight"] = np.where(over, of.hindsight, of[BASELINE])
            regret = (psnr.hindsight - psnr[BASELINE]).to_numpy()
            means = part.groupby("method")[["start", "nfe"]].mean()
            for method in (name for name in METHODS if name in psnr):
                gain = (psnr[method] - psnr[BASELINE]).to_numpy()
                row = {**pair_columns(item), "budget": float(budget), "method": METHODS[method]}
                row |= {"mean_start": means.start[method], "nfe": means.nfe[method]}
                row |= spread("psnr_gain_db", bootstrap(gain, np.mean, n_resamples, seed))
                both = perceptual[method].to_numpy(), perceptual[BASELINE].to_numpy()
                row |= spread(distance.gain, bootstrap(both, distance.improvement, n_resamples, seed))
                closed = bootstrap((gain, regret), _share, n_resamples, seed)
                found.append(row | spread("regret_closed", closed))
    return pd.DataFrame(found)


def _share(gain: np.ndarray, regret: np.ndarray, axis: int | None = None) -> float | np.ndarray:
    """Of the mean regret, the share that the mean gain closes; NaN where there is none."""
    there = np.mean(regret, axis)
    return np.mean(gain, axis) / np.where(there > 0, there, np.nan)


def curves(rows: Mapping[str, pd.DataFrame], measured: pd.DataFrame) -> pd.DataFrame:
    """What :func:`calibrated_start` draws: per pair, budget and method some images of rising severity with sigma_hat, start
    and nfe, and the method's gain in PSNR with its interval, the same in each of its rows.

    measured: :func:`table` of the same rows.
    """
    found = []
    for item, of_pair in rows.items():
        for (budget, method), part in of_pair.groupby(["budget", "method"], sort=False):
            head = {**pair_columns(item), "budget": float(budget), "method": METHODS[method]}
            (of_method,) = measured[(measured[[*head]] == pd.Series(head)).all(axis=1)].to_dict("records")
            gains = {name: of_method[name] for name in of_method if name.startswith("psnr_gain_db")}
            by_severity = part.sort_values("sigma_hat", kind="stable")
            shown = by_severity.iloc[np.unique(np.linspace(0, len(part) - 1, POINTS).round().astype(int))]
            found.append(shown[["sigma_hat", "start", "nfe"]].assign(**head, **gains))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@styled
def calibrated_start(table: pd.DataFrame) -> Figure:
    """A row per pair: the start over the predicted severity, the steps, and the gain in PSNR over the tuned rule.

    table: of :func:`curves`. Lines: solid for the lowest budget, dashed for the next, and so on.

    >>> table = pd.read_csv("reports/figures_pdf/calibrated_start/calibrated_start.csv")
    >>> figure = figures.calibrated_start(table)
    """
    intervals = (f"psnr_gain_db{end}" for end in ("", "_low", "_high"))
    need(table, "degradation", "solver", "budget", "method", "sigma_hat", "start", "nfe", *intervals)
    pairs, budgets = list(table.groupby(["degradation", "solver"], sort=False)), sorted(table.budget.unique())
    colours = {
        METHODS[name]: PALETTE[n] for n, name in enumerate(("calibrated", "adaptive", "consistent", "correlation"))
    }
    names = [name for name in METHODS.values() if name in set(table.method)][::-1]
    figure, axes = canvas(rows=len(pairs), columns=3, width=PAGE, height=0.5 + 1.9 * len(pairs))
    for ((degradation, _), of_pair), (starts, steps, gains) in zip(pairs, axes, strict=True):
        for number, budget in enumerate(budgets):
            of_budget = of_pair[of_pair.budget == budget]
            line = ("-", "--", ":")[number % 3]
            for method in (METHODS[name] for name in CURVES):
                part = of_budget[of_budget.method == method]
                # the rule set by hand lies below the fit, and shows where they agree
                own = {"color": colours[method], "ls": line, "lw": 2.4 if method == METHODS[BASELINE] else 1.2}
                # these rules' starts do not hang on the budget
                if number == 0 or method in (METHODS["calibrated"], METHODS["adaptive"]):
                    label = method if number == 0 and axes[0, 0] is starts else None
                    starts.plot(part.sigma_hat, part.start + 1, label=label, **own)
                if method in (METHODS["calibrated"], METHODS["adaptive"]):
                    steps.plot(part.sigma_hat, part.nfe, **own)
            of_methods = of_budget.groupby("method").first()
            at = np.array([names.index(method) for method in of_methods.index]) + 0.16 * (
                0.5 * (len(budgets) - 1) - number
            )
            ends = [
                of_methods.psnr_gain_db - of_methods.psnr_gain_db_low,
                of_methods.psnr_gain_db_high - of_methods.psnr_gain_db,
            ]
            gains.errorbar(
                of_methods.psnr_gain_db, at, xerr=ends, ls="none", marker=("o", "s", "^")[number % 3], ms=3, elinewidth=0.9,
                capsize=1.3, color=("0.1", "0.5", "0.7")[number % 3],
                label=f"{budget:g} evaluations" if axes[0, 0] is starts else None,
            )  # fmt: skip
        starts.set_yscale("log")
        starts.set(ylabel=f"{degradation.replace('_', ' ')}\nstart index + 1")
        steps.set(ylabel="steps", ylim=(0, None))
        gains.axvline(0, color="0.5", lw=0.8, ls="--")
        gains.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes[-1, 0].set_xlabel("predicted severity σ̂")
    axes[-1, 1].set_xlabel("predicted severity σ̂")
    axes[-1, 2].set_xlabel("gain in PSNR (dB)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure


def sentence(table: pd.DataFrame) -> str:
    """What the calibrated start comes to, pair by pair, and whether half of the regret is closed; "" of no rows.

    The goal counts as met where the whole interval of the share lies at or above a half, as missed where it lies below.
    """
    told = []
    if table.empty:
        return ""
    for (degradation, solver, budget), part in table.groupby(["degradation", "solver", "budget"], sort=False):
        of = part.set_index("method")
        own, best = of.loc[METHODS["calibrated"]], of.loc[METHODS["hindsight"]]
        name = degradation.replace("_", " ") + (f" ({solver})" if table.solver.nunique() > 1 else "")
        head = (
            f"{name}, {budget:g} evaluations: {own.psnr_gain_db:+.3f} dB [{own.psnr_gain_db_low:.3f}, {own.psnr_gain_db_high:.3f}] "
            f"over the tuned rule"
        )
        if not best.psnr_gain_db_low > 0 or pd.isna(own.regret_closed):
            told.append(f"{head}; there is no regret to close beyond chance.")
            continue
        met = own.regret_closed_low >= HALF
        missed = own.regret_closed_high < HALF
        verdict = "the goal of a half is met" if met else "the goal of a half is missed" if missed else "undecided"
        told.append(
            f"{head}, {own.regret_closed:.0%} [{own.regret_closed_low:.0%}, {own.regret_closed_high:.0%}] of the regret of "
            f"{best.psnr_gain_db:.3f} dB to the best start of each image in hindsight: {verdict}."
        )
    return "\n".join(told)
