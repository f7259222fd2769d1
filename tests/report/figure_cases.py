"""Every figure of the report from made-up rows and images: what several test files draw."""

import functools

import numpy as np
import pandas as pd
from synthetic import (
    ablation_rows,
    allocation_rows,
    blind_rows,
    calibrated_rows,
    example_arrays,
    example_rows,
    few_step_rows,
    frechet_rows,
    ordering_rows,
    promised_points,
    reconstruction_rows,
    robustness_rows,
    seed_rows,
    severity_rows,
    shift_rows,
    spread_rows,
    timings,
)

from flashdiff import figures
from flashdiff.report import allocation, blind, calibrated, confidence, frontier, robustness, shift, spread, tables


def curve():
    """Learning curve of a severity encoder: a row every 50 steps, held-out measures in every fifth."""
    step = np.arange(50, 1001, 50)
    held_out = step % 250 == 0
    columns = {
        "step": step,
        "loss": 3 / step,
        "latent": 1 / step,
        "severity": 1.5 / step,
        "image": 0.5 / step,
        "ordering_accuracy": np.where(held_out, 1 - 20 / step, np.nan),
        "spearman_error": np.where(held_out, 1 - 30 / step, np.nan),
        "calibration_ratio": np.where(held_out, 1 + 10 / step, np.nan),
    }
    return pd.DataFrame(columns)


def pictures(n, channels=1, seed=0):
    """Random images (n, channels, 6, 6) in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, 6, 6))


def seen(n=120):
    """What the figures of single test images show, by image; every one another."""
    return {name: pictures(n, seed=seed) for seed, name in enumerate(("truth", "measurement", "no_diffusion"))}


def quality_table():
    return tables.quality_against_baseline(reconstruction_rows(), n_resamples=100)


def of_solvers():
    table = frontier.frontier_table(few_step_runs(), n_resamples=100)
    return frontier.frontier_of_solvers({("gaussian_blur", "ldps"): table, ("gaussian_blur", "psld"): table})


def few_step_runs():
    return frontier.runs(few_step_rows(), reconstruction_rows(), seed_rows())


def rows_with_no_diffusion():
    """Rows of the few-step walks and, as budgets.walk has them, of D(z_hat)."""
    nothing = reconstruction_rows().query("method == 'no_diffusion'")
    return pd.concat([few_step_rows(), nothing.assign(budget=0.0, tuned_for="psnr")], ignore_index=True)


def claims():
    """Records of two pairs and of a degradation that no solver reconstructs; one gain was not measured."""
    claims = {"psnr_gain_db": 0.5, "perceptual_gain": 0.1, "nfe_ratio": 8.0}
    rows = [("ordering_accuracy", "mixture", None, None, 0.9)]
    for number, pair in enumerate([("gaussian_blur", "ldps"), ("motion_blur", "ldps_ddim40")]):
        for side, start in enumerate(("published", "consistent")):
            rows += [(claim, *pair, start, value * (1 + number + side / 2)) for claim, value in claims.items()]
    table = pd.DataFrame(rows, columns=["claim", "degradation", "solver", "start", "value"])
    table = table.assign(low=table.value - 0.05, high=table.value + 0.15).astype(object)
    table.loc[table.index[-2], ["value", "low", "high"]] = None  # the last pair's perceptual gain
    return table


def reconstructed():
    """Images of every method, of the measurement and of the truth; every image is another one."""
    names = [
        "truth",
        "measurement",
        "no_diffusion",
        "full_length",
        "flash_published",
        "flash_consistent",
        "flash_inversion",
    ]
    return {name: pictures(10, seed=number) for number, name in enumerate(names)}


OF_EXAMPLES = ["kind", "t", "sigma_hat", "walk", "draw", "start", "nfe", "psnr"]


def with_bounds(*names):
    """Columns of intervals: every name, and those of its bounds."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def held():
    """The table of intervals that hold, of every degradation and method."""
    widths = {"psnr": "by_severity", "perceptual": "plain"}
    parts = [part for _, part in promised_points().groupby(["degradation", "method"], sort=False)]
    return confidence.by_thirds(pd.concat([confidence.coverage_table(part, widths, 0.9) for part in parts]))


def calibrated_curves():
    """What the figure of the calibrated start needs, of two pairs."""
    rows = {f"{name}-ldps": calibrated_rows(seed=n) for n, name in enumerate(("gaussian_blur", "random_inpainting"))}
    return calibrated.curves(rows, calibrated.table(rows, 100))


def shares():
    """What the figure of a budget for a set needs, of two pairs."""
    names = ("gaussian_blur", "random_inpainting")
    return allocation.curves(
        {f"{name}-ldps": allocation.ways_of(allocation_rows(seed=n), 4) for n, name in enumerate(names)}, 100
    )


# figure: (its data frame, how it is drawn from one, the columns it needs)
FROM_ROWS = {
    "learning_curve": (curve, lambda rows: figures.learning_curve(rows, "gaussian_blur"), ["step"]),
    "severity_against_level_per_image": (
        ordering_rows,
        figures.severity_against_level_per_image,
        ["image", "t", "sigma_hat"],
    ),
    "ordering_by_pair": (ordering_rows, figures.ordering_by_pair, ["image", "t", "sigma_hat"]),
    "severity_shares": (lambda: tables.severity_shares(ordering_rows()), figures.severity_shares, ["part", "share"]),
    "severity_against_level": (severity_rows, figures.severity_against_level, ["t", "sigma_hat"]),
    "calibration": (severity_rows, figures.calibration, ["sigma_hat", "sbar"]),
    "error_statistics": (severity_rows, figures.error_statistics, ["kurtosis", "neighbour_correlation"]),
    "quality_against_steps": (
        quality_table,
        figures.quality_against_steps,
        ["method", "nfe", "psnr", "psnr_low", "psnr_high", "perceptual", "perceptual_low", "perceptual_high"],
    ),
    "start_distribution": (reconstruction_rows, figures.start_distribution, ["method", "start"]),
    "starts_by_severity": (
        lambda: tables.fixed_starts_by_severity(reconstruction_rows(), n_resamples=100),
        figures.starts_by_severity,
        ["images", "nfe", "flash_nfe", "psnr_gain_db", "psnr_gain_db_low", "psnr_gain_db_high"],
    ),
    "wall_clock": (
        lambda: tables.speed(timings()),
        figures.wall_clock,
        ["method", "seconds_per_image", "wall_clock_ratio", "nfe_ratio"],
    ),
    "quality_of_methods": (
        quality_table,
        figures.quality_of_methods,
        ["method", "nfe", "psnr", "psnr_low", "psnr_high", "perceptual", "perceptual_low", "perceptual_high"],
    ),
    "ablation": (ablation_rows, figures.ablation, ["loss", "architecture", "steps", "t", "error", "error_e0"]),
    "confidence": (
        lambda: confidence.dots(promised_points()),
        figures.confidence,
        ["degradation", "method", "sigma_hat", "third", *with_bounds("psnr")],
    ),
    "intervals_held": (
        held,
        figures.intervals_held,
        ["degradation", "of", "measure", "promised", *with_bounds(*confidence.COLUMN.values())],
    ),
    "noise_robustness": (
        lambda: robustness.noise_table(robustness_rows(), 100),
        figures.noise_robustness,
        [
            "true_over_assumed_noise",
            *with_bounds("latent_error", "predicted_error", "calibration_ratio"),
            *with_bounds("psnr_of_z_hat", "psnr_few_steps"),
        ],
    ),
    "unseen_classes": (
        lambda: robustness.class_levels(robustness_rows(), 100),
        figures.unseen_classes,
        ["training", "measured_on", "t", *with_bounds("latent_error")],
    ),
    "encoder_choices": (
        lambda: robustness.encoder_table(robustness_rows(), 100),
        figures.encoder_choices,
        ["choice", *with_bounds("latent_error", "calibration_ratio", "spearman_error", "ordering_accuracy")],
    ),
    "blind_levels": (
        lambda: blind.level_table(
            {"gaussian_blur-ldps": blind_rows(), "random_inpainting-ldps": blind_rows(True)}, 100
        ),
        figures.blind_levels,
        ["degradation", "told", *with_bounds("level_error", "psnr_gain_db", "perceptual_gain")],
    ),
    "shift_roc": (
        lambda: shift.roc_table({"gaussian_blur-ldps": shift_rows(), "random_inpainting-ldps": shift_rows()}, 2),
        figures.shift_roc,
        ["degradation", "shift", "false_alarms", "detections"],
    ),
    "start_choices": (
        lambda: robustness.start_table(robustness_rows(), 100),
        figures.start_choices,
        ["choice", "mean_start", *with_bounds("psnr", "psnr_gain_db")],
    ),
    "calibrated_start": (
        calibrated_curves,
        figures.calibrated_start,
        [
            *("degradation", "solver", "budget", "method", "sigma_hat", "start", "nfe"),
            *with_bounds("psnr_gain_db"),
        ],
    ),
    "budget_for_a_set": (
        shares,
        figures.budget_for_a_set,
        ["degradation", "solver", "kind", "way", "budget", "psnr", *with_bounds("gain"), "sigma_hat", "nfe"],
    ),
    "posterior_spread": (
        lambda: spread.curves({"gaussian_blur-ldps": spread_rows(), "random_inpainting-ldps": spread_rows(seed=7)}),
        figures.posterior_spread,
        ["degradation", "solver", "sampler", "kind", "x", "y"],
    ),
    "frontier": (
        lambda: frontier.frontier_table(few_step_runs(), n_resamples=100),
        figures.frontier,
        [
            "method",
            "tuned_for",
            "nfe",
            "psnr",
            "psnr_low",
            "psnr_high",
            "perceptual",
            "perceptual_low",
            "perceptual_high",
        ],
    ),
    "frechet": (
        lambda: frontier.frechet_table(frechet_rows()),
        figures.frechet,
        ["method", "tuned_for", "nfe", "frechet_distance", *with_bounds("minus_no_diffusion")],
    ),
    "gain_by_severity": (
        lambda: frontier.gains_by_severity(rows_with_no_diffusion(), n_resamples=100),
        figures.gain_by_severity,
        ["part", "method", "budget", "tuned_for", "sigma_hat", "psnr_gain_db", "perceptual_gain"],
    ),
    "gain_over_fixed": (
        lambda: frontier.gain_table(frontier.metrics(few_step_runs(), n_resamples=100)),
        figures.gain_over_fixed,
        [
            "budget",
            "baseline",
            "tuned_for",
            "psnr_gain_db",
            "psnr_gain_db_low",
            "psnr_gain_db_high",
            "perceptual_gain",
            "perceptual_gain_low",
            "perceptual_gain_high",
        ],
    ),
    "frontier_of_solvers": (
        of_solvers,
        figures.frontier_of_solvers,
        ["degradation", "solver", "part", "tuned_for", "weak", "nfe", "psnr", "perceptual"],
    ),
    "gains_of_pairs": (
        claims,
        figures.gains_of_pairs,
        ["claim", "degradation", "solver", "start", "value", "low", "high"],
    ),
    "outliers": (
        lambda: tables.outliers(severity_rows(), k=2),
        lambda table: figures.outliers(table, seen()),
        ["image", "t", "sigma_hat", "sbar", "kind"],
    ),
    "matched_pairs": (
        lambda: tables.matched_pairs(severity_rows(), k=2),
        lambda table: figures.matched_pairs(table, seen()),
        ["easy_image", "hard_image", "easy_t", "hard_t", "easy_sigma_hat", "hard_sigma_hat"],
    ),
    "reconstructions": (
        reconstruction_rows,
        lambda rows: figures.reconstructions(rows, reconstructed(), shown=2),
        ["image", "method", "t", "psnr", "nfe", "sigma_hat"],
    ),
    "overview": (
        example_rows,
        lambda rows: figures.overview(rows, example_arrays()),
        OF_EXAMPLES,
    ),
    "starts_of_images": (
        example_rows,
        lambda rows: figures.starts_of_images(rows, example_arrays()),
        OF_EXAMPLES,
    ),
    "trajectories": (
        example_rows,
        lambda rows: figures.trajectories(rows, example_arrays()),
        OF_EXAMPLES,
    ),
}
FROM_IMAGES = {
    "image_grid": lambda: figures.image_grid(pictures(3), "Three images", columns=2),
    "degradation_levels": lambda: figures.degradation_levels(pictures(2), np.zeros((2, 3, 1, 6, 6)), np.linspace(0, 1, 3)),
}  # fmt: skip


def draw(name):
    """The figure of that name from its synthetic rows."""
    if name in FROM_IMAGES:
        return FROM_IMAGES[name]()
    rows, function, _ = FROM_ROWS[name]
    return function(rows())


drawn = functools.cache(draw)
"""The same, drawn once: for tests that only look."""
