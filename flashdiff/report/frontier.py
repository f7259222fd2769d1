"""What few-step walks reach for their evaluations: their rows, those of the long walks, and those of other training
seeds in; metrics and tables out.

A run is a method at a budget, tuned for one measure; long walks and D(z_hat) are runs without either. Every comparison
is between two runs on the same images and the same training seeds of the severity encoder.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report.intervals import crossed_bootstrap
from flashdiff.report.names import DISTANCES, distance_names, measure_label
from flashdiff.report.tables import spread
from flashdiff.report.weak import is_weak, reference
from flashdiff.study.methods import adaptive, flash_method, main_rule, rules

BASELINES = ("no_diffusion", "full_length")
"""What the adaptive walk is held against at every budget, beside the other methods of that budget."""
ONE_FOR_ALL_SEEDS = "full_length"
"""The run that asks no severity encoder: it is the same whatever the encoder's training seed."""


class Run(NamedTuple):
    """What rows belong to; budget (mean evaluations asked) and tuned_for (a measure) are None for long walks and
    D(z_hat)."""

    method: str
    budget: float | None = None
    tuned_for: str | None = None


Runs = Mapping[Run, pd.DataFrame]
"""Run -> its rows as a table: a line per training seed, a column per number and image."""


def runs(few: pd.DataFrame, long: pd.DataFrame, seeds: pd.DataFrame) -> Runs:
    """All runs of a pair.

    few: rows of the few-step walks (budget, method, tuned_for, image, cost and measures); long: the pair's
    reconstruction rows, of which the adaptive walks and :data:`BASELINES` count; seeds: rows of further training seeds
    of the encoder, with the columns of ``few`` and a seed other than 0, which is the study's own; it may have no rows,
    and those of a run that the study does not have are left out. Raises ValueError where a run has an image
    twice in one seed.
    """
    walks = [*BASELINES, *adaptive(long.method)]
    # D(z_hat) of the few-step walks is of more images than that of the long ones
    of_long = long[long.method.isin(walks) & ~long.method.isin(set(few.method))]
    parts = [few.assign(seed=0), of_long.assign(seed=0), *([seeds] if len(seeds) else [])]
    rows = pd.concat(parts, ignore_index=True)
    without = rows.method.isin(walks)
    rows.loc[without, ["budget", "tuned_for"]] = None
    found = {}
    for (method, budget, tuned_for), part in rows.groupby(["method", "budget", "tuned_for"], sort=False, dropna=False):
        if not (part.seed == 0).any():
            continue
        run = Run(method) if method in walks else Run(method, float(budget), tuned_for)
        if part.duplicated(["seed", "image"]).any():
            raise ValueError(
                f"{' '.join(map(str, run))}: an image stands twice in one seed; the study's own seed is 0."
            )
        numbers = part.set_index(["seed", "image"])[["nfe", "decodes", *MEASURES]]
        found[run] = numbers.astype(float).unstack("image").sort_index()
    return found


def budgets(found: Runs) -> list[float]:
    """The budgets that were walked, the smallest first."""
    return sorted({run.budget for run in found if run.budget is not None})


def objectives(found: Runs) -> list[str]:
    """The measures that few-step walks were tuned for, in the order of MEASURES."""
    tuned = {run.tuned_for for run in found}
    return [name for name in MEASURES if name in tuned]


def opponents(found: Runs, budget: float) -> list[str]:
    """The other methods of a budget, as they come, then the long walks' :data:`BASELINES`."""
    others = dict.fromkeys(run.method for run in found if run.budget == budget and run.method != "adaptive")
    return [*others, *(method for method in BASELINES if Run(method) in found)]


def _columns(table: pd.DataFrame, images: pd.Index) -> dict[str, np.ndarray]:
    return {name: table[name][images].to_numpy() for name in ("nfe", "decodes", *MEASURES)}


def _images(table: pd.DataFrame) -> pd.Index:
    """The images that every seed of the table has; a measure may be missing throughout, the cost is always there."""
    return table["nfe"].dropna(axis=1).columns


def _on_common_ground(found: Runs, ours: Run, theirs: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The numbers (seeds, images) of two runs on the seeds that both have, and the images that both have in all of
    them."""
    a, b = found[ours], found[theirs]
    if theirs.method == ONE_FOR_ALL_SEEDS:
        images = _images(a).intersection(_images(b))
        return _columns(a, images), _columns(b.iloc[:1], images)
    seeds = a.index.intersection(b.index)
    a, b = a.loc[seeds], b.loc[seeds]
    images = _images(a).intersection(_images(b))
    return _columns(a, images), _columns(b, images)


def _mean(mean: float) -> float:
    return mean


def means(found: Runs, run: Run, n_resamples: int, seed: int = 0) -> dict[str, dict]:
    """Mean cost and quality of a run over its seeds and images, with intervals: nfe, decodes and every measure."""
    table = found[run]
    columns = _columns(table, _images(table))
    return {name: crossed_bootstrap(column, _mean, n_resamples, seed) for name, column in columns.items()}


def gains(found: Runs, ours: Run, theirs: Run, n_resamples: int, seed: int = 0) -> dict[str, dict]:
    """Gains of a run over another, with intervals over seeds and images: one per measure, under the name of its gain,
    and nfe_ratio (mean of theirs / mean of ours)."""
    a, b = _on_common_ground(found, ours, theirs)

    def interval(statistic: Callable[..., float], name: str) -> dict:
        return crossed_bootstrap((a[name], b[name]), statistic, n_resamples, seed)

    # both kinds of gain are made of means, so that they can be taken of the resampled means
    of_measures = {measure.gain: interval(measure.improvement, name) for name, measure in MEASURES.items()}
    return of_measures | {"nfe_ratio": interval(lambda x, y: y / x if x else math.nan, "nfe")}


def regret(found: Runs, budget: float, measure: str, n_resamples: int, seed: int = 0) -> dict | None:
    """What a severity encoder that knew its own error would gain over the one at hand in a measure, both walks tuned for
    PSNR: positive where the oracle is better; None where it was not walked."""
    oracle, ours = (Run(method, budget, "psnr") for method in ("oracle", "adaptive"))
    if oracle not in found or ours not in found:
        return None
    return gains(found, oracle, ours, n_resamples, seed)[MEASURES[measure].gain]


def nfe_ratio(found: Runs, of_budgets: Mapping, n_resamples: int, seed: int = 0) -> dict:
    """Evaluations of the full-length baseline / those of the cheapest few-step setting that is better in everything.

    A setting is the adaptive walk at a budget, tuned for one measure. It is better where its gains over the baseline in
    every measure that walks are tuned for have intervals above 0. The smallest budget with such a setting counts, and
    in it the first in the order of :func:`objectives`. of_budgets: the gains, {budget: {method: {tuned_for: gains}}}.

    Returns the ratio's interval over all images of the few-step walk (the baseline walks equally far for every image),
    with "budget" and "tuned_for", all None where there is no such setting, and "tested": whether any was measured in
    everything.
    """
    names, tested = objectives(found), False
    for budget in budgets(found):
        for tuned_for in names:
            over = of_budgets[f"{budget:g}"].get("full_length", {}).get(tuned_for)
            intervals = [over[MEASURES[name].gain] for name in names] if over else []
            if not intervals or any(interval["value"] is None for interval in intervals):
                continue
            tested = True
            if all(interval["low"] > 0 for interval in intervals):
                table = found[Run("adaptive", budget, tuned_for)]
                nfe = table["nfe"][_images(table)].to_numpy()
                full = np.full_like(nfe, found[Run("full_length")]["nfe"].iloc[0].mean())
                ratio = crossed_bootstrap((full, nfe), lambda x, y: x / y, n_resamples, seed)
                return ratio | {"budget": budget, "tuned_for": tuned_for, "tested": True}
    nothing = dict.fromkeys(("value", "low", "high", "n", "seeds", "budget", "tuned_for"))
    return nothing | {"tested": tested}


def ratio_in_words(ratio: Mapping, distances: Mapping[str, str] = DISTANCES["features"]) -> str:
    """What :func:`nfe_ratio` says, as a sentence; distances: what readers call the study's."""
    if ratio["value"] is None:
        return "No setting beats the full-length baseline in every measure." if ratio["tested"] else "Not tested."
    return (
        f"{ratio['value']:.1f} times fewer evaluations than the full-length baseline, 95% interval "
        f"[{ratio['low']:.1f}, {ratio['high']:.1f}]: budget {ratio['budget']:g}, tuned for "
        f"{measure_label(MEASURES[ratio['tuned_for']], distances)}."
    )


def metrics(found: Runs, n_resamples: int, seed: int = 0, distances: str = "features") -> dict:
    """What the stage reports of a pair: means of every run, gains of the adaptive walk over everything else at each
    budget, what it loses to the oracle, and at what cost it beats the full-length baseline.

    Few-step walks are compared tuned for the same measure; a gain over a long walk, or over D(z_hat), is of one setting
    in all measures. distances: what measured them (``reconstruction.distances``); their names for readers are in
    "distances".
    """
    few = [run for run in found if run.budget is not None]
    methods: dict = {f"{budget:g}": {} for budget in budgets(found)}
    for run in few:
        of_method = methods[f"{run.budget:g}"].setdefault(run.method, {})
        of_method[run.tuned_for] = means(found, run, n_resamples, seed)
    compared: dict = {}
    regrets: dict = {}
    for budget in budgets(found):
        of_budget = compared.setdefault(f"{budget:g}", {})
        for method in opponents(found, budget):
            for name in objectives(found):
                ours, theirs = (
                    Run("adaptive", budget, name),
                    Run(method) if method in BASELINES else Run(method, budget, name),
                )
                if ours in found and theirs in found:
                    of_budget.setdefault(method, {})[name] = gains(found, ours, theirs, n_resamples, seed)
        regrets[f"{budget:g}"] = {name: regret(found, budget, name, n_resamples, seed) for name in objectives(found)}
    images = max((len(_images(found[run])) for run in few), default=0)
    return {
        "distances": distance_names(distances, images),
        "seeds": max(len(table) for table in found.values()),
        "methods": methods,
        "long": {run.method: means(found, run, n_resamples, seed) for run in found if run.budget is None},
        "gains": compared,
        "regret_to_oracle": regrets,
        "nfe_ratio_100": nfe_ratio(found, compared, n_resamples, seed),
    }


def budget_table(summary: Mapping) -> pd.DataFrame:
    """One row per run: mean NFE and quality with 95% intervals over seeds and images, and mean decodes; long walks
    last.

    summary: what :func:`metrics` says.
    """
    table = []
    for budget, methods in summary["methods"].items():
        for method, tuned in methods.items():
            for name, of_run in tuned.items():
                table.append({"budget": float(budget), "method": method, "tuned_for": name} | _spreads(of_run))
    for method, of_run in summary["long"].items():
        table.append({"budget": math.nan, "method": method, "tuned_for": ""} | _spreads(of_run))
    return pd.DataFrame(table)


def _spreads(of_run: Mapping[str, Mapping]) -> dict[str, float]:
    row = {"images": of_run["nfe"]["n"], "seeds": of_run["nfe"]["seeds"]}
    for name in ("nfe", *MEASURES):
        row |= spread(name, of_run[name])
    return row | {"decodes": of_run["decodes"]["value"]}


def gain_table(summary: Mapping) -> pd.DataFrame:
    """One row per budget, opponent and objective: gains of the adaptive walk, with 95% intervals over seeds and images.

    summary: what :func:`metrics` says.
    """
    table = []
    for budget, methods in summary["gains"].items():
        for method, tuned in methods.items():
            for name, of_run in tuned.items():
                shared = of_run["nfe_ratio"]
                row = {"budget": float(budget), "baseline": method, "tuned_for": name}
                row |= {"images": shared["n"], "seeds": shared["seeds"]}
                for gain in (measure.gain for measure in MEASURES.values()):
                    row |= spread(gain, of_run[gain])
                table.append(row | {"nfe_ratio": shared["value"]})
    return pd.DataFrame(table)


def frontier_table(found: Runs, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per run: mean NFE and every measure that is drawn, all on the images that every run has, with the 95%
    interval of the difference to the full-length baseline, or to D(z_hat) where that is weak
    (:func:`flashdiff.report.weak.reference`), on the same images and seeds, laid around the run's mean.

    So runs of 256 images and of 64 can stand in one figure. An interval that leaves out the reference's mean is a
    difference that chance does not explain; how much images differ, which all runs share, is not in it. Raises
    ValueError where no two images are in every run.
    """
    shared = None
    for table in found.values():
        shared = _images(table) if shared is None else shared.intersection(_images(table))
    if shared is None or len(shared) < 2:
        raise ValueError("few-step walks and long walks: fewer than two images are in all of them; rerun walk_budgets.")
    common = {run: table.loc[:, table.columns.get_level_values("image").isin(shared)] for run, table in found.items()}
    of_long = {run.method: table["nfe"].to_numpy().mean() for run, table in common.items() if run.budget is None}
    baseline, rows = Run(reference(of_long)), []
    for run in common:
        ours, theirs = _on_common_ground(common, run, baseline)
        row = {"budget": run.budget, "method": run.method, "tuned_for": run.tuned_for or ""}
        row |= {"images": len(shared), "seeds": len(common[run]), "nfe": ours["nfe"].mean()}
        for name in (measure.name for measure in in_figures()):
            difference = crossed_bootstrap((ours[name], theirs[name]), lambda x, y: x - y, n_resamples, seed)
            at = theirs[name].mean()
            row |= {end: at + value for end, value in spread(name, difference).items()}
        rows.append(row)
    return pd.DataFrame(rows).astype({"budget": float})


def frechet_table(rows: Sequence[Mapping]) -> pd.DataFrame:
    """One row per walk: mean NFE, the Frechet distance of its images to the true ones, and what that is less the distance
    of D(z_hat) and of the best fixed start and steps, with 95% intervals over images; D(z_hat) last, as in
    :func:`budget_table`.

    rows: the record of :func:`flashdiff.study.frechet.rows_of`, which leaves out cells that are missing. No rows where
    nothing was measured. Distances are biased upwards, the more the fewer the images: only those of as many compare.
    """
    ends = [f"{name}{end}" for name in ("minus_no_diffusion", "minus_fixed") for end in ("", "_low", "_high")]
    columns = ["budget", "method", "tuned_for", "images", "nfe", "frechet_distance", *ends]
    return pd.DataFrame(rows, columns=columns).sort_values("budget", kind="stable", ignore_index=True)


def gains_by_severity(few: pd.DataFrame, n_resamples: int, seed: int = 0, parts: int = 4) -> pd.DataFrame:
    """What few steps gain over D(z_hat), for parts of the images with equal counts, from low to high predicted severity.

    few: rows of :func:`flashdiff.study.budgets.walk`, of which the methods adaptive and fixed count. One row per part
    (1 to ``parts``), method, budget and objective: sigma_hat and nfe, means of the part, and gains with 95% intervals over
    its images.
    """
    nothing = few[few.method == "no_diffusion"].set_index("image")
    part_of = pd.qcut(nothing.sigma_hat.rank(method="first"), parts, labels=range(1, parts + 1)).astype(int)
    rows = []
    walked = few[few.method.isin(("adaptive", "fixed"))]
    for (method, budget, tuned_for), run in walked.groupby(["method", "budget", "tuned_for"], sort=False):
        for part, images in part_of.groupby(part_of):
            ours, theirs = run.set_index("image").loc[images.index], nothing.loc[images.index]
            row = {"part": part, "method": method, "budget": budget, "tuned_for": tuned_for, "images": len(ours)}
            row |= {"sigma_hat": ours.sigma_hat.mean(), "nfe": ours.nfe.mean()}
            for name, measure in MEASURES.items():
                both = ours[name].to_numpy(), theirs[name].to_numpy()
                row |= spread(measure.gain, crossed_bootstrap(both, measure.improvement, n_resamples, seed))
            rows.append(row)
    return pd.DataFrame(rows)


NOTHING, FEW, LONG, FULL = "no diffusion", "few steps", "long walk", "full length"
"""What a solver reaches, in the order of its evaluations."""


def frontier_of_solvers(tables: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """What :func:`flashdiff.report.pair_figures.frontier_of_solvers` draws: per degradation and solver a row for D(z_hat), for
    Flash with few steps at every budget and objective, for its long walk and for the full-length baseline: part (NOTHING, FEW,
    LONG, FULL), tuned_for, weak (whether the solver's baseline is), nfe and every measure that is drawn.

    tables: {(degradation, solver): of :func:`frontier_table`}. Only degradations with several solvers, or all where none has.
    """
    solvers = pd.Series([degradation for degradation, _ in tables]).value_counts()
    measures, found = [measure.name for measure in in_figures()], []
    for (degradation, solver), table in tables.items():
        if solvers[degradation] == 1 < solvers.max():
            continue
        parts = {"no_diffusion": NOTHING, "adaptive": FEW, "full_length": FULL}
        parts |= {flash_method(main_rule(rules(table.method))): LONG}
        own = table[table.method.isin(parts)]
        weak = is_weak(table[table.budget.isna()].set_index("method").nfe)
        own = own.assign(degradation=degradation, solver=solver, part=own.method.map(parts), weak=weak)
        found.append(
            own.fillna({"tuned_for": ""})[["degradation", "solver", "part", "tuned_for", "weak", "nfe", *measures]]
        )
    return pd.concat(found, ignore_index=True)
