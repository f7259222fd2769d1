"""Tables of the reports: per-image rows in, one small data frame out; saved as CSV and LaTeX."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report.intervals import CORRELATIONS, bootstrap, by_method, paired_gains
from flashdiff.report.latex import to_latex
from flashdiff.report.names import DISTANCES, label
from flashdiff.report.weak import reference
from flashdiff.study.methods import EQUAL_COST, adaptive, fixed_starts, flash_method, main_rule, rules


def save(
    table: pd.DataFrame, folder: str | Path, name: str, distances: Mapping[str, str] = DISTANCES["features"]
) -> pd.DataFrame:
    """Write a table as CSV, numbers and names as they are, and as the LaTeX of :func:`flashdiff.report.latex.to_latex`;
    return it. distances: what readers call the study's (:func:`flashdiff.report.names.distance_names`)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    (folder / f"{name}.tex").write_text(to_latex(table, distances), encoding="utf-8")
    return table


def _number(value: float | None) -> float:
    """A number of a metrics file; NaN, and so an empty cell, where it has none."""
    return float("nan") if value is None else value


def spread(name: str, interval: Mapping[str, float | None]) -> dict[str, float]:
    """An interval as columns name, name_low and name_high; NaN where it has no number."""
    ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    return {column: _number(interval[end]) for column, end in ends.items()}


def quality_and_nfe(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per method: mean NFE and the mean of every measure with 95% intervals, and mean decodes."""
    table = []
    for method, part in rows.groupby("method", sort=False):
        row = {"method": method}
        for name in ("nfe", *MEASURES):
            row |= spread(name, bootstrap(part[name].to_numpy(dtype=float), np.mean, n_resamples, seed))
        table.append(row | {"decodes": float(part.decodes.mean())})
    return pd.DataFrame(table)


def quality_against_baseline(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per method: mean NFE and the mean of every measure that is drawn, with the 95% interval of the difference to the
    full-length baseline, or to D(z_hat) where that is weak (:func:`flashdiff.report.weak.reference`), on the same images, laid
    around the method's mean.

    An interval that leaves out the reference's mean is a difference that chance does not explain. How much images differ,
    which all methods share, is not in it; it is in those of :func:`quality_and_nfe`.
    """
    columns = {measure.name: by_method(rows, measure.name) for measure in in_figures()}
    cost, table = rows.groupby("method", sort=False).nfe.mean(), []
    baseline = reference(cost)
    for method, nfe in cost.items():
        row = {"method": method, "nfe": nfe}
        for name, column in columns.items():
            difference = bootstrap((column[method] - column[baseline]).to_numpy(float), np.mean, n_resamples, seed)
            at = column[baseline].mean()
            row |= {end: at + value for end, value in spread(name, difference).items()}
        table.append(row)
    return pd.DataFrame(table)


def paired_comparison(rows: pd.DataFrame, method: str, baseline: str, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row: gains of a method over a baseline on the same images, with 95% intervals of the paired difference."""
    row: dict = {"method": method, "baseline": baseline}
    for name, interval in paired_gains(rows, method, baseline, n_resamples, seed).items():
        row |= spread(name, interval)
    return pd.DataFrame([row])


THIRDS = ("least severe third", "middle third", "most severe third")
"""The images of a comparison in three groups of equal count by predicted severity."""


def _third(rows: pd.DataFrame) -> pd.Series:
    """The third of every image, by image."""
    sigma = rows.groupby("image").sigma_hat.first()
    return pd.qcut(sigma.rank(method="first"), len(THIRDS), labels=THIRDS)


def fixed_starts_by_severity(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """What every fixed start does for each third of the images: one row per third and start, in the order of cost.

    nfe: the start's cost; psnr_gain_db: gain over the start of equal mean cost, paired, with its 95% interval; flash_nfe:
    what Flash, with its main start rule, spends on this third. ``rows`` hold one row per image and method, each image with
    its sigma_hat.
    """
    psnr, nfe, third = by_method(rows, "psnr"), by_method(rows, "nfe"), _third(rows)
    fixed = sorted(fixed_starts(psnr), key=lambda method: nfe[method].mean())
    main, table = flash_method(main_rule(rules(psnr))), []
    for images, of_third in psnr.groupby(third, observed=True):
        cost = nfe.loc[of_third.index].mean()
        for method in fixed:
            gain = bootstrap((of_third[method] - of_third.fixed_mean).to_numpy(), np.mean, n_resamples, seed)
            head = {"images": images, "nfe": cost[method], "flash_nfe": cost[main]}
            table.append(head | spread("psnr_gain_db", gain))
    return pd.DataFrame(table)


def headroom(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """What a choice of the start can gain: the best of the fixed starts for all images, for each third by severity, and
    for each image, beside what Flash reaches; psnr_gain_db is over the best start for all, paired, with its 95% interval.
    No rows where there is one fixed start: it leaves nothing to choose.

    The choices look at the very PSNR that they are measured by: no rule that chooses from these starts gains more. The
    one per image follows the luck of the noise, too, which no severity can tell.
    """
    psnr, nfe, third = by_method(rows, "psnr"), by_method(rows, "nfe"), _third(rows)
    fixed = psnr[fixed_starts(psnr)]
    of_third = fixed.groupby(third, observed=True).mean().idxmax(axis=1)
    choices = {
        "best fixed start for all": pd.Series(fixed.mean().idxmax(), psnr.index),
        "best fixed start for each third of severity": third.astype(object).map(of_third),
        "best fixed start for each image": fixed.idxmax(axis=1),
    }
    choices |= {label(method): pd.Series(method, psnr.index) for method in adaptive(psnr)}

    def chosen(column: pd.DataFrame, choice: pd.Series) -> np.ndarray:
        return column.to_numpy(float)[np.arange(len(column)), column.columns.get_indexer(choice)]

    for_all, table = chosen(psnr, choices["best fixed start for all"]), []
    for name, choice in choices.items():
        reached = chosen(psnr, choice)
        row = {"start": name, "nfe": chosen(nfe, choice).mean(), "psnr": reached.mean()}
        table.append(row | spread("psnr_gain_db", bootstrap(reached - for_all, np.mean, n_resamples, seed)))
    return pd.DataFrame(table)[: None if len(fixed.columns) > 1 else 0]


def comparisons(summaries: Mapping[tuple[str, str], Mapping]) -> pd.DataFrame:
    """One row per degradation, solver and method, controls left out: mean cost and quality, and the Frechet distance where
    one was measured.

    ``summaries``: (degradation, solver) -> what :func:`flashdiff.report.summaries.reconstruction_metrics` says, with "frechet".
    """
    table = []
    for (degradation, solver), summary in summaries.items():
        for method in ("no_diffusion", "full_length", *EQUAL_COST, *adaptive(summary["methods"])):
            if method not in summary["methods"]:
                continue
            names = ("nfe", "decodes", *MEASURES)
            means = {name: _number(summary["methods"][method][name]["value"]) for name in names}
            frechet = _number(summary.get("frechet", {}).get(method, {}).get("value"))
            head = {"degradation": degradation, "solver": solver, "method": method}
            table.append(head | means | {"frechet": frechet})
    table = pd.DataFrame(table)
    return table if table.frechet.notna().any() else table.drop(columns="frechet")


def across_solvers(rows: Mapping[tuple[str, str], pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """Flash with every solver of a degradation against one reference, the full-length baseline of the degradation's first
    solver: one row per pair, with the main start rule.

    rows: (degradation, solver) -> its reconstruction rows; the pairs of a degradation share images and measurements, so
    that gains are paired: those of :func:`flashdiff.report.intervals.paired_gains`, with 95% intervals.
    """
    table, references, main = [], {}, next(iter(MEASURES.values()))
    for (degradation, solver), of_pair in rows.items():
        reference, baseline = references.setdefault(degradation, (solver, of_pair[of_pair.method == "full_length"]))
        ours = of_pair[of_pair.method == flash_method(main_rule(rules(of_pair.method)))]
        both = pd.concat([ours.assign(method="flash"), baseline.assign(method="reference")])
        row = {"degradation": degradation, "solver": solver, "reference": reference}
        row |= {"nfe": ours.nfe.mean(), "decodes": ours.decodes.mean(), main.name: ours[main.name].mean()}
        for name, interval in paired_gains(both, "flash", "reference", n_resamples, seed).items():
            row |= spread(name, interval)
        table.append(row)
    return pd.DataFrame(table)


def severity_correlations(
    rows: pd.DataFrame, n_resamples: int, seed: int = 0, against: Iterable[str] | None = None
) -> pd.DataFrame:
    """Correlation of sigma_hat with other columns, with intervals; by default with the level, the true latent error, and the
    quality of D(z_hat)."""
    table = []
    for name in ("t", "sbar", *(measure.name for measure in in_figures())) if against is None else against:
        row: dict = {"sigma_hat against": name}
        for kind, correlation in CORRELATIONS.items():
            columns = (rows.sigma_hat.to_numpy(), rows[name].to_numpy())
            row |= spread(kind, bootstrap(columns, correlation, n_resamples, seed))
        table.append(row)
    return pd.DataFrame(table)


def calibration(rows: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Images in equal-count bins of sigma_hat: mean prediction against the mean true error, and how many."""
    number = pd.qcut(rows.sigma_hat.rank(method="first"), min(bins, len(rows)), labels=False)
    table = rows.groupby(number)[["sigma_hat", "sbar"]].mean()
    return table.assign(n=rows.groupby(number).size()).rename_axis("bin").reset_index()


def expected_given_level(rows: pd.DataFrame) -> np.ndarray:
    """sigma_hat that the level alone lets one expect (n,): the non-decreasing least-squares fit of sigma_hat on t."""
    order = np.argsort(rows.t.to_numpy(), kind="stable")
    fitted = np.empty(len(rows))
    fitted[order] = isotonic_regression(rows.sigma_hat.to_numpy()[order]).x
    return fitted


def severity_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """How much of the variance of sigma_hat the level, the image, and neither of them alone explain: part, component, share.

    Variance components of the two-way layout without replication, sigma_hat(image, level) = mean + level + image + rest,
    by the method of moments: E MS_level = v_rest + images * v_level, E MS_image = v_rest + levels * v_image (Searle,
    Casella and McCulloch 1992, section 4.4). A negative estimate is 0; shares are of the sum, NaN where nothing varies.
    rows: one per image and level (image, t, sigma_hat), every image at every level; raises ValueError otherwise.
    """
    sigma = rows.pivot(index="image", columns="t", values="sigma_hat")
    images, levels = sigma.shape
    if images < 2 or levels < 2 or sigma.isna().any(axis=None):
        raise ValueError(
            f"rows: {len(rows)} of {images} images and {levels} levels; give two or more of each, every image at every level."
        )
    values = sigma.to_numpy(float)
    of_level, of_image = values.mean(axis=0), values.mean(axis=1)
    rest = values - of_level - of_image[:, None] + values.mean()
    mean_square = (rest**2).sum() / ((images - 1) * (levels - 1))
    level = (images * of_level.var(ddof=1) - mean_square) / images
    image = (levels * of_image.var(ddof=1) - mean_square) / levels
    component = np.clip([level, image, mean_square], 0, None)
    total = component.sum() or np.nan
    parts = ["level t", "image", "both together, and noise"]
    return pd.DataFrame({"part": parts, "component": component, "share": component / total})


def outliers(rows: pd.DataFrame, k: int = 3) -> pd.DataFrame:
    """The k images each that surprise most, by kind, the most surprising first.

    easy, hard: severity far below and far above what the level lets expect (column expected); underrated, overrated: the
    encoder takes its own error for far smaller or larger than it is, by the ratio sbar / sigma_hat.
    """
    table = rows[["image", "t", "sigma_hat", "sbar"]].assign(expected=expected_given_level(rows))
    by_level = (table.sigma_hat - table.expected).sort_values(kind="stable").index
    by_ratio = (table.sbar / table.sigma_hat).sort_values(kind="stable").index
    kinds = {
        "easy": by_level[:k],
        "hard": by_level[::-1][:k],
        "underrated": by_ratio[::-1][:k],
        "overrated": by_ratio[:k],
    }
    return pd.concat([table.loc[index].assign(kind=kind) for kind, index in kinds.items()], ignore_index=True)


def matched_pairs(rows: pd.DataFrame, k: int = 5) -> pd.DataFrame:
    """Pairs of nearly equal sigma_hat from very different levels: an easy image at a high t, a hard one at a low t.

    One pair per fifth (kth) of the range of sigma_hat: in each, the largest difference in level.
    """
    by_severity = rows.sort_values("sigma_hat", kind="stable").iloc[len(rows) // 20 : len(rows) - len(rows) // 20]
    table = []
    for part in np.array_split(by_severity[["image", "t", "sigma_hat"]].to_numpy(), k):
        # within a narrow window of sigma_hat around the middle of the part, the extremes of t
        middle = part[len(part) // 2, 2]
        near = part[np.argsort(np.abs(part[:, 2] - middle), kind="stable")[: max(2, len(part) // 8)]]
        easy, hard = near[near[:, 1].argmax()], near[near[:, 1].argmin()]
        pair = {"easy_image": int(easy[0]), "hard_image": int(hard[0]), "easy_t": easy[1], "hard_t": hard[1]}
        table.append(pair | {"easy_sigma_hat": easy[2], "hard_sigma_hat": hard[2]})
    return pd.DataFrame(table)


def speed(timings: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """One row per method that walks: seconds, NFE, milliseconds per evaluation, and both ratios to the full length."""
    walked = {method: t for method, t in timings.items() if t["nfe"] > 0}
    table = pd.DataFrame([{"method": method, **t} for method, t in walked.items()])
    full = table.set_index("method").loc["full_length"]
    return table.assign(
        milliseconds_per_evaluation=1e3 * table.seconds / table.nfe,
        seconds_per_image=table.seconds / table.images,
        wall_clock_ratio=full.seconds / table.seconds,
        nfe_ratio=full.nfe / table.nfe,
    )
