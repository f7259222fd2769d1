"""What a stage reports: summaries of per-image rows, with intervals, for the metrics files."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from flashdiff.measures import MEASURES
from flashdiff.report.intervals import CORRELATIONS, bootstrap, paired_gains, ratio_of_means
from flashdiff.report.names import distance_names
from flashdiff.report.tables import calibration, severity_correlations
from flashdiff.study.methods import adaptive, baselines
from flashdiff.study.records import significant


def ordering_metrics(rows: pd.DataFrame, seed: int = 0, n_resamples: int = 2000) -> dict:
    """Ordering accuracy over images, from one row per image x level (image, t, sigma_hat)."""
    import torch

    from flashdiff.severity import ordering_accuracy

    sigma = rows.sort_values(["image", "t"]).groupby("image").sigma_hat.apply(np.array)
    answers = torch.from_numpy(np.stack(sigma.to_list()))
    accuracy = {"ordering_accuracy": False, "ordering_accuracy_strict": True}
    return {
        name: bootstrap(ordering_accuracy(answers, strict).numpy(), np.mean, n_resamples, seed)
        for name, strict in accuracy.items()
    } | {"levels": int(rows.t.nunique())}


def severity_metrics(
    rows: pd.DataFrame,
    n_resamples: int,
    seed: int = 0,
    distances: str = "features",
    correlations: pd.DataFrame | None = None,
) -> dict:
    """How predicted severity relates to level and true error; calibration; how Gaussian the error is.

    distances: what measured them (``reconstruction.distances``); their names for readers are in "distances". correlations: what
    :func:`flashdiff.report.tables.severity_correlations` said of the same rows, so that it is not computed twice.
    """
    sigma, sbar = (rows[name].to_numpy() for name in ("sigma_hat", "sbar"))
    if correlations is None:
        correlations = severity_correlations(rows, n_resamples, seed, ("t", "sbar"))
    against = correlations.set_index("sigma_hat against")
    summary: dict = {"distances": distance_names(distances, len(rows))}
    for name in CORRELATIONS:
        for column, what in (("t", "level"), ("sbar", "error")):
            found = (against.loc[column, f"{name}{end}"] for end in ("", "_low", "_high"))
            ends = [None if pd.isna(value) else float(value) for value in found]
            summary[f"{name}_{what}"] = dict(zip(("value", "low", "high"), ends, strict=True), n=len(rows))
    summary["calibration_ratio"] = bootstrap((sigma, sbar), ratio_of_means, n_resamples, seed)
    bins = calibration(rows, bins=10)
    gap = float(np.average((bins.sigma_hat - bins.sbar).abs(), weights=bins.n))
    summary["expected_calibration_error"] = significant(gap)
    summary["mean_start"] = bootstrap(rows.start.to_numpy(dtype=float), np.mean, n_resamples, seed)
    summary |= {f"start_p{q:02d}": float(np.percentile(rows.start, q)) for q in (5, 95)}
    summary["start_spread"] = bootstrap(rows.start.to_numpy(dtype=float), _spread, n_resamples, seed)
    for name, column in (("encoder_error_clean", "clean_sbar"), ("clean_psnr", "clean_psnr")):
        summary[name] = bootstrap(rows[column].to_numpy(dtype=float), np.mean, n_resamples, seed)
    summary["encoder_cost"] = {"value": significant(rows.encoder_cost.iloc[0]), "low": None, "high": None, "n": 1}
    for name in ("kurtosis", "neighbour_correlation"):
        summary[name] = bootstrap(rows[name].to_numpy(), np.mean, n_resamples, seed)
    return summary


def _spread(starts: np.ndarray, axis: int | None = None) -> float | np.ndarray:
    """95th / 5th percentile of the evaluations from these indices down, so that index 0 has a ratio, too."""
    low, high = np.percentile(starts + 1, (5, 95), axis)
    return high / low


def reconstruction_metrics(
    rows: pd.DataFrame, n_resamples: int, seed: int = 0, distances: str = "features", costs: pd.DataFrame | None = None
) -> dict:
    """Quality and cost of every method, and the paired gains of the adaptive ones over every baseline.

    costs: :func:`flashdiff.study.comparison.costs` of more images than were reconstructed, for start, nfe and nfe_ratio of
    the methods that it has; distances: what measured them (``reconstruction.distances``); their names for readers are in "distances".
    """
    methods = {}
    for method, part in rows.groupby("method", sort=False):
        names = (*MEASURES, "start", "nfe", "decodes", "residual")
        methods[method] = {
            name: bootstrap(part[name].to_numpy(dtype=float), np.mean, n_resamples, seed) for name in names
        }
    gains = {
        method: {
            baseline: paired_gains(rows, method, baseline, n_resamples, seed)
            for baseline in baselines(method)
            if baseline in methods
        }
        for method in adaptive(methods)
    }
    counted = {} if costs is None else dict(iter(costs.groupby("method")))
    for method in gains.keys() & counted.keys() if "full_length" in counted else ():
        ours, theirs = counted[method], counted["full_length"].nfe.to_numpy(dtype=float)
        for name in ("start", "nfe"):
            methods[method][name] = bootstrap(ours[name].to_numpy(dtype=float), np.mean, n_resamples, seed)
        gains[method]["full_length"]["nfe_ratio"] = bootstrap(
            (theirs, ours.nfe.to_numpy(dtype=float)), ratio_of_means, n_resamples, seed
        )
    names = distance_names(distances, rows.image.nunique())
    return {"distances": names, "methods": methods, "gains": gains}


def speed_metrics(timings: Mapping[str, Mapping[str, float]]) -> dict:
    """Wall clock of the adaptive methods against the full-length baseline, from one run of each: no interval."""
    full = timings["full_length"]["seconds"]
    walked = adaptive(timings)
    measured = {method: timings[method] for method in (*walked, "full_length")}
    return {
        "wall_clock_ratio": {
            method: {
                "value": significant(full / timings[method]["seconds"]),
                "low": None,
                "high": None,
                "n": timings[method]["images"],
            }
            for method in walked
        },
        "seconds_per_image": {method: significant(t["seconds"] / t["images"]) for method, t in measured.items()},
        "milliseconds_per_evaluation": {
            method: significant(1e3 * t["seconds"] / t["nfe"]) for method, t in measured.items()
        },
    }
