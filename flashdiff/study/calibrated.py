"""A start and number of steps per image that are fitted on validation images, beside the rules that are set by hand and oracles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from flashdiff.flash import Flash, Result
from flashdiff.severity import Severity, latent_error_variance
from flashdiff.solvers import build
from flashdiff.starts import SHORT_STARTS, FixedStart, match_snr
from flashdiff.study.budgets import Choice, adaptive_choices, few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.rows import typed
from flashdiff.trust.calibrated_start import (
    CalibratedStart,
    CalibratedWalk,
    Calibration,
    Trials,
    at_budget,
    calibrate,
    correlation_by_severity,
    neighbour_correlation,
)
from flashdiff.walks import EvenlySpaced
from flashdiff.walks import build as build_walk

COLUMNS = {
    "budget": "float32", "method": "str", "image": "int32", "t": "float32", "sigma_hat": "float32", "sbar": "float32",
    "correlation": "float32", "start": "int32", "nfe": "int32", "psnr": "float32", "perceptual": "float32",
}  # fmt: skip
"""The record's columns and their types; correlation: of the latent error with itself one entry further."""
HAND = {"published": {"correction": [1.0]}, "consistent": {"k": [1.0]}}
"""Published start rules, which walk with the step size of the tuned rule and as many evaluations."""
HINDSIGHT = "hindsight"
"""The best of the tried starts for each image, in the order of its PSNR, with as many steps for all."""


def truth_of(bench: Bench) -> tuple[Severity, Tensor]:
    """The severity with the true error in place of the predicted one, and the error's correlation of neighbours (n,)."""
    z0 = bench.prior.encode_in_slices(bench.truth)
    variance = latent_error_variance(bench.severity.z_hat, z0)
    return bench.severity._replace(variance=variance), neighbour_correlation(bench.severity.z_hat - z0)


def flash_with(bench: Bench, choice: Choice, start, walk) -> Flash:
    """Flash with the solver of a few-step setting, but another start rule and another walk, as they are."""
    solver = replace(build(choice["solver"]), walk=walk)
    return Flash(bench.prior, bench.encoder, solver, start, **bench.options)


def trials_of(bench: Bench, choice: Choice, starts: Sequence[int], steps: Sequence[int]) -> Trials:
    """The PSNR of every image from every start with every number of steps, with the solver of a few-step setting."""
    psnr = [
        [
            bench.quality(
                flash_with(bench, choice, FixedStart(start, 0.0), EvenlySpaced(number))(
                    bench.measurement, bench.severity, title=f"from {start}, {number} steps"
                ).images
            )["psnr"]
            for number in steps
        ]
        for start in starts
    ]
    return Trials(np.array(starts), np.array(steps), np.moveaxis(np.array(psnr), -1, 0))


def by_hand(bench: Bench, choice: Choice):
    """Starts and steps of a tuned adaptive setting as functions of sigma_hat (n,)."""
    options = dict(choice["start"])
    rule, walk = SHORT_STARTS[options.pop("rule")](**options), build_walk(choice["solver"]["walk"])

    def starts(sigma_hat: np.ndarray) -> np.ndarray:
        variance = bench.severity.variance.new_tensor(np.asarray(sigma_hat) ** 2)
        return rule.index(bench.prior, variance.to(bench.prior.abar.device)).cpu().numpy()

    return starts, lambda sigma_hat: walk.steps(starts(sigma_hat))


def calibration_of(
    bench: Bench, choice: Choice, budget: float, starts: Sequence[int], steps: Sequence[int], bins: int, folds: int
) -> Calibration:
    """The start rule and walk fitted on ``bench``'s validation images, drawn towards a tuned adaptive setting."""
    trials, sigma_hat = trials_of(bench, choice, starts, steps), bench.severity.sigma_hat.double().numpy()
    return calibrate(sigma_hat, trials, by_hand(bench, choice), budget, bins=bins, folds=folds, seed=bench.seed)


def correlated_start(bench: Bench, budget: float, bins: int) -> tuple[CalibratedStart, CalibratedWalk]:
    """The start that treats as noise what of the predicted error is white: SNR(i) = 1 / ((1 - rho) sigma^2), rho the mean
    correlation of neighbours among validation images of like severity; with as many steps for all."""
    sigma_hat, correlation = bench.severity.sigma_hat.double().numpy(), truth_of(bench)[1].numpy()
    knots, rho = correlation_by_severity(sigma_hat, correlation, bins)
    variance = bench.severity.variance.new_tensor((1 - rho) * knots**2).to(bench.prior.abar.device)
    index = np.maximum.accumulate(match_snr(bench.prior, variance).cpu().numpy())
    return at_budget(sigma_hat, knots, index.astype(float), np.full(len(knots), float(budget)), budget)


def methods_of(
    validation: Bench, bench: Bench, tuned: Mapping, budget: float, starts: Sequence[int], steps: Sequence[int],
    bins: int, folds: int,
) -> tuple[dict[str, tuple[Flash, Severity]], Calibration]:  # fmt: skip
    """Every method of a budget, its Flash and the severity it is told; and what was fitted.

    tuned: {method: {objective: setting}} of the budget, :func:`flashdiff.study.budgets.tune`'s. adaptive, fixed: as tuned for
    PSNR; published, consistent: with the tuned rule's step size, at equal mean evaluations on validation images;
    correlation: :func:`correlated_start`; calibrated; told_truth: calibrated, told the true error; start_INDEX: what
    hindsight chooses from.
    """
    choice = tuned["adaptive"]["psnr"]
    solver = {name: value for name, value in choice["solver"].items() if name != "walk"}
    power = choice["solver"]["walk"]["power"]
    fitted = calibration_of(validation, choice, budget, starts, steps, bins, folds)
    ours = flash_with(bench, choice, fitted.start, fitted.walk)
    runs = {name: (few_step(bench, tuned[name]["psnr"]), bench.severity) for name in ("adaptive", "fixed")}
    for rule, options in HAND.items():
        (setting,) = adaptive_choices(validation, budget, solver, {}, {rule: options}, [power])
        runs[rule] = few_step(bench, setting), bench.severity
    runs["correlation"] = flash_with(bench, choice, *correlated_start(validation, budget, bins)), bench.severity
    runs["calibrated"] = ours, bench.severity
    runs["told_truth"] = ours, truth_of(bench)[0]
    for start in starts:
        walk = EvenlySpaced(max(1, int(budget)))
        runs[f"start_{start}"] = flash_with(bench, choice, FixedStart(start, 0.0), walk), bench.severity
    return runs, fitted


def walk_rows(bench: Bench, runs: Mapping[str, tuple[Flash, Severity]], budget: float) -> pd.DataFrame:
    """What the bench's images become with every method: rows of COLUMNS, one per image and method.

    The methods start_INDEX become one, hindsight: of each image the one with the highest PSNR.
    """
    truth, correlation = truth_of(bench)
    shared = {
        "budget": budget,
        "image": np.arange(len(bench.truth)),
        "t": np.asarray(bench.measurement.t, dtype=float),
        "sigma_hat": np.asarray(bench.severity.sigma_hat),
        "sbar": np.asarray(truth.sigma_hat),
        "correlation": np.asarray(correlation),
    }
    parts, tried = [], []
    for method, (flash, severity) in runs.items():
        result: Result = flash(bench.measurement, severity, title=f"{budget:g} {method}")
        quality = {name: bench.quality(result.images)[name] for name in ("psnr", "perceptual")}
        walked = {"method": method, "start": np.asarray(result.start), "nfe": np.asarray(result.nfe)}
        (tried if method.startswith("start_") else parts).append(pd.DataFrame(shared | walked | quality))
    if tried:
        several = pd.concat(tried, ignore_index=True)
        parts.append(several.loc[several.groupby("image").psnr.idxmax()].assign(method=HINDSIGHT))
    return record(parts)


def record(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed(parts, COLUMNS)


def rows_of(
    section: Mapping, tuned: Mapping, load: Callable[[str, int], Bench]
) -> tuple[pd.DataFrame, dict[float, Calibration]]:
    """Rows of COLUMNS for every budget of the study's section ``calibrated``, and what was fitted, by budget.

    tuned: {budget: {method: {objective: setting}}}; load: (split, number of images) -> bench. No budgets: no rows.
    """
    parts, fitted = [], {}
    if section["evaluations"]:
        validation, bench = load("validation", section["validation"]), load("test", section["n_images"])
    for budget in section["evaluations"]:
        steps = sorted({max(1, round(share * budget)) for share in section["shares"]})
        options = tuned[f"{budget:g}"], budget, section["starts"], steps, section["bins"], section["folds"]
        runs, fitted[budget] = methods_of(validation, bench, *options)
        parts.append(walk_rows(bench, runs, budget))
    return record(parts), fitted


def described(fitted: Mapping[float, Calibration]) -> pd.DataFrame:
    """One row per budget: the weight of the fit against the rule set by hand, its starts and steps from the lowest severity
    to the highest, and the gain in PSNR on validation images that it has not seen."""
    return pd.DataFrame(
        {
            "budget": budget,
            "weight": found.weight,
            "sigma_hat": [round(value, 3) for value in found.start.sigma_hat],
            "starts": [round(value, 1) for value in found.start.starts],
            "steps": [round(value, 2) for value in found.walk.numbers],
            "validation gain (dB)": round(found.gains[found.weight], 4),
        }
        for budget, found in fitted.items()
    )
