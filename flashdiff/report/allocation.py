"""A budget for a set: quality against the budget by who gets how many evaluations, its table, its figure and its sentence."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashdiff.measures import MEASURES
from flashdiff.report.intervals import bootstrap, by_method
from flashdiff.report.names import pair_columns
from flashdiff.report.style import PAGE, PALETTE, SMALL, canvas, need, styled
from flashdiff.report.tables import spread
from flashdiff.trust.allocation import SAME, TUNED, allocate, severity_of, table_of, worth_of

SHARED, HINDSIGHT = "shared", "hindsight"
WAYS = {
    SAME: "equal shares",
    TUNED: "tuned rule, each image by itself",
    SHARED: "by predicted severity",
    HINDSIGHT: "best shares, in hindsight",
}
"""What readers call the ways to share a budget, in the order of the table."""
POINTS = 60
"""Images, evenly spread by rank of severity, whose evaluations are drawn."""


def ways_of(rows: pd.DataFrame, bins: int) -> pd.DataFrame:
    """What every test image gets and becomes in every way of WAYS at every budget: way, budget, image, sigma_hat, nfe, psnr,
    perceptual.

    rows: :func:`flashdiff.study.allocation.rows_of`'s; bins: of predicted severity, in which validation images say what
    evaluations are worth. Budgets: the numbers of evaluations that images walked with, but for the largest, where there is
    nothing to share. Hindsight shares the same budget by every image's own PSNR.
    """
    psnr, perceptual, nfe = (table_of(rows, "test", measure) for measure in ("psnr", "perceptual", "nfe"))
    sigma_hat, cost = severity_of(rows, "test"), nfe.to_numpy()
    told = {SHARED: worth_of(rows, bins)(sigma_hat), HINDSIGHT: psnr.to_numpy()}
    images, found = np.arange(len(psnr)), []
    for column, budget in list(enumerate(psnr.columns))[1:-1]:
        gets = {SAME: np.full(len(psnr), column)}
        gets |= {way: allocate(quality, cost, float(budget)) for way, quality in told.items()}
        for way, at in gets.items():
            own = {
                "nfe": cost[images, at],
                "psnr": psnr.to_numpy()[images, at],
                "perceptual": perceptual.to_numpy()[images, at],
            }
            found.append(
                pd.DataFrame({"way": way, "budget": float(budget), "image": images, "sigma_hat": sigma_hat} | own)
            )
    tuned = rows[(rows["method"] == TUNED) & rows["number"].isin([*psnr.columns[1:-1]])]
    tuned = tuned.rename(columns={"method": "way", "number": "budget"})[[*found[0]]]
    return pd.concat([*found, tuned], ignore_index=True)


def _gain(psnr: pd.DataFrame, way: str, over: str, n_resamples: int, seed: int) -> dict:
    return bootstrap((psnr[way] - psnr[over]).to_numpy(float), np.mean, n_resamples, seed)


def table(ways: Mapping[str, pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per pair, tuned budget and way: mean evaluations and PSNR, paired gains in PSNR over equal shares and over the
    tuned rule and in perceptual distance over the tuned rule, and which share it closes of the regret of equal shares to the
    best shares in hindsight, NaN where there is none beyond chance. Gains have 95% intervals over images, the shares as they
    are. No rows where no study measured it.

    ways: {pair: of :func:`ways_of`}.
    """
    found = []
    distance = MEASURES["perceptual"]
    for item, of_pair in ways.items():
        head = pair_columns(item)
        for budget in of_pair[of_pair.way == TUNED].budget.unique():
            part = of_pair[of_pair.budget == budget].assign(method=of_pair.way)
            psnr, perceptual = (by_method(part, name).astype(float) for name in ("psnr", "perceptual"))
            regret = _gain(psnr, HINDSIGHT, SAME, n_resamples, seed)
            for way, name in WAYS.items():
                own = part[part.way == way]
                row = head | {"budget": float(budget), "shares": name, "nfe": own.nfe.mean(), "psnr": own.psnr.mean()}
                row |= spread("over_equal_shares_db", _gain(psnr, way, SAME, n_resamples, seed))
                row |= spread("over_tuned_rule_db", _gain(psnr, way, TUNED, n_resamples, seed))
                both = perceptual[way].to_numpy(), perceptual[TUNED].to_numpy()
                row |= spread(distance.gain, bootstrap(both, distance.improvement, n_resamples, seed))
                closed = float("nan")
                if regret["low"] is not None and regret["low"] > 0:  # else there is none beyond chance
                    closed = (psnr[way] - psnr[SAME]).mean() / regret["value"]
                found.append(row | {"regret_closed": closed})
    return pd.DataFrame(found)


def curves(ways: Mapping[str, pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """What :func:`budget_for_a_set` draws. Rows of kind "quality": per pair, way and budget the mean PSNR, and the gain over
    equal shares with its interval; of kind "given": of some images of rising severity sigma_hat and nfe, per budget that is
    tuned, of the tuned rule and of shares by predicted severity."""
    found = []
    for item, of_pair in ways.items():
        head = pair_columns(item)
        for budget, part in of_pair.groupby("budget"):
            psnr = by_method(part.assign(method=part.way), "psnr").astype(float)
            for way in (way for way in WAYS if way in psnr):
                gain = spread("gain", _gain(psnr, way, SAME, n_resamples, seed))
                own = {"kind": "quality", "way": WAYS[way], "budget": budget, "psnr": psnr[way].mean()}
                found.append(pd.DataFrame([head | own | gain]))
            for way in (TUNED, SHARED) if TUNED in psnr else ():
                by_severity = part[part.way == way].sort_values("sigma_hat", kind="stable")
                at = np.unique(np.linspace(0, len(by_severity) - 1, POINTS).round().astype(int))
                shown = by_severity.iloc[at][["sigma_hat", "nfe"]]
                found.append(shown.assign(**head, kind="given", way=WAYS[way], budget=budget))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@styled
def budget_for_a_set(table: pd.DataFrame) -> Figure:
    """A row per pair: PSNR over the mean number of evaluations, gain in PSNR over equal shares, and how many evaluations images
    get over their predicted severity.

    table: of :func:`curves`.

    >>> table = pd.read_csv("reports/figures_pdf/allocation/budget_for_a_set.csv")
    >>> figure = figures.budget_for_a_set(table)
    """
    need(
        table,
        "degradation",
        "solver",
        "kind",
        "way",
        "budget",
        "psnr",
        "gain",
        "gain_low",
        "gain_high",
        "sigma_hat",
        "nfe",
    )
    pairs = list(table.groupby(["degradation", "solver"], sort=False))
    colours = dict(zip(WAYS.values(), ("0.35", PALETTE[1], PALETTE[0], PALETTE[2]), strict=True))
    figure, axes = canvas(rows=len(pairs), columns=3, width=PAGE, height=0.6 + 1.9 * len(pairs))
    for ((degradation, _), of_pair), (quality, gains, given) in zip(pairs, axes, strict=True):
        for way in (way for way in WAYS.values() if (of_pair.way == way).any()):
            part = of_pair[(of_pair.kind == "quality") & (of_pair.way == way)].sort_values("budget")
            own = {"color": colours[way], "marker": "o", "ms": 2.5}
            quality.plot(part.budget, part.psnr, lw=1.2, label=way if axes[0, 0] is quality else None, **own)
            if way != WAYS[SAME]:
                ends = [part.gain - part.gain_low, part.gain_high - part.gain]
                gains.errorbar(part.budget, part.gain, yerr=ends, lw=1.2, elinewidth=0.9, capsize=1.3, **own)
            for number, (_, images) in enumerate(
                of_pair[(of_pair.kind == "given") & (of_pair.way == way)].groupby("budget")
            ):
                line = ("-", "--", ":")[number % 3]
                given.plot(images.sigma_hat, images.nfe, color=colours[way], lw=1.2, ls=line, drawstyle="steps-mid")
        gains.axhline(0, color=colours[WAYS[SAME]], lw=0.8, ls="--")
        quality.set(ylabel=f"{degradation.replace('_', ' ')}\nPSNR (dB)")
        gains.set(ylabel="gain over equal shares (dB)")
        given.set(ylabel="evaluations of an image", ylim=(0, None))
    for axis, label in zip(axes[-1], ("mean evaluations", "mean evaluations", "predicted severity σ̂"), strict=True):
        axis.set_xlabel(label)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure


def sentence(table: pd.DataFrame) -> str:
    """What sharing by predicted severity comes to, a line per pair; "" of no rows.

    It pays where the whole interval of its gain over the tuned rule, plain Flash at equal cost, lies above 0, and costs
    where it lies below.
    """
    told = []
    if table.empty:
        return ""
    for (degradation, _), of_pair in table.groupby(["degradation", "solver"], sort=False):
        budgets = []
        for budget, part in of_pair.groupby("budget"):
            of = part.set_index("shares")
            own, best = of.loc[WAYS[SHARED]], of.loc[WAYS[HINDSIGHT]]
            low, high = own.over_tuned_rule_db_low, own.over_tuned_rule_db_high
            verdict = "pays" if low > 0 else "costs" if high < 0 else "no difference beyond chance"
            budgets.append(
                f"{budget:g} on average {own.over_tuned_rule_db:+.3f} dB [{low:.3f}, {high:.3f}], {verdict} (regret of equal shares to "
                f"the best in hindsight: {best.over_equal_shares_db:.3f} dB)"
            )
        told.append(
            f"{degradation.replace('_', ' ').capitalize()}, evaluations shared by predicted severity, PSNR over the tuned rule: "
            f"{'; '.join(budgets)}."
        )
    return "\n".join(told)
