"""Several samples of every image's posterior: their spread, whether it tells the error, and what their mean is worth.

One row per test image and sampler; the samplers are few-step walks whose noise is in the start alone or in every step, too, and
the published walk.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np
import pandas as pd
from torch import Tensor

from flashdiff.flash import Flash
from flashdiff.measures.quality import psnr
from flashdiff.solvers import SOLVERS
from flashdiff.study.budgets import adaptive_choices, few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.methods import flash_method
from flashdiff.study.rows import typed
from flashdiff.trust import spread as trust

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal levels of the intervals of a pixel."""
FITTED = 0.9
"""The level at which the one factor is fitted on validation images."""
FRACTIONS = tuple(np.linspace(0, 0.95, 20).round(2).tolist())
"""Shares of the pixels that sparsification takes away."""
BLACK = -1 + 1 / 255
"""Pixels whose true value is above this, half a grey level above black, are those of the object."""
START = {"published": {"correction": [1.0]}}
"""Where few-step walks that sample start: the tuned rule adds no noise there, so all its samples agree."""
NUMBERS = (
    "t", "sigma_hat", "nfe", "spread", "rmse", "psnr_mean", "psnr_one", "psnr_walk", "nfe_walk", "scale", "ause", "ause_random",
    *(f"{kind}_{100 * level:g}" for kind in ("object", "scaled", "all") for level in LEVELS),
    *(f"{kind}_{100 * fraction:g}" for kind in ("left", "oracle") for fraction in FRACTIONS),
)  # fmt: skip
"""The record's columns besides sampler, image and samples. spread, rmse: root mean square over an image's pixels, of the
spread and of the error of the samples' mean, on the scale of [-1, 1]; psnr_one: of the first sample; psnr_walk, nfe_walk:
of one walk at the cost of all samples; nfe: of one sample; object, scaled, all: coverage of intervals over the object's
pixels, with the factor, and over all; left, oracle: sparsification."""


def samplers_of(
    validation: Bench, bench: Bench, tuned: Mapping, long: Mapping, section: Mapping, walk: Mapping
) -> dict[str, tuple[Flash, int, int]]:
    """Every sampler by name with the numbers of its validation and test images.

    tuned: {method: {objective: setting}} of ``section["evaluations"]``; long: method -> choice of the long walks; walk: the solver
    entry of few-step walks. few_start, few_fresh: the published start with the tuned step sizes, without and with fresh
    noise in every step; full: the published walk.
    """
    chosen = tuned["adaptive"]["psnr"]["solver"]
    solver = {name: value for name, value in chosen.items() if name != "walk"}
    budget, few = section["evaluations"], (section["validation"], section["n_images"])
    settings = {"few_start": 0.0, "few_fresh": 1.0}
    if "stochasticity" not in {field.name for field in fields(SOLVERS[walk["kind"]])}:
        settings = {"few_fresh": None}  # a solver whose steps have noise of their own
    found = {}
    for name, noise in settings.items():
        entry = solver if noise is None else {**solver, "stochasticity": noise}
        (choice,) = adaptive_choices(validation, budget, entry, {}, START, [0.0])
        found[name] = few_step(bench, choice), *few
    method = flash_method("published")
    if section["full_images"] and method in long:
        found["full"] = bench.flash("published", long[method]), section["full_validation"], section["full_images"]
    return found


def single_walk(validation: Bench, bench: Bench, tuned: Mapping, section: Mapping) -> pd.DataFrame:
    """What one walk reaches at the mean cost of all few-step samples: psnr_walk and nfe_walk of every test image.

    From the published start, with the tuned step sizes and steps of equal length; see :func:`samplers_of`.
    """
    solver = {name: value for name, value in tuned["adaptive"]["psnr"]["solver"].items() if name != "walk"}
    budget = section["evaluations"] * section["samples"]
    (choice,) = adaptive_choices(validation, budget, solver, {}, START, [1.0])
    result = few_step(bench, choice)(bench.measurement, bench.severity, title="one walk")
    reached = {"psnr_walk": psnr(result.images, bench.truth), "nfe_walk": result.nfe}
    return pd.DataFrame({name: np.asarray(values, dtype=float) for name, values in reached.items()})


def pixels(samples: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of samples (n, M, C, H, W): error of their mean, spread, and which pixels are the object's, each (n, P)."""
    mean, spread = trust.mean_and_spread(samples)
    n, truth = len(samples), truth.double().numpy()
    return (mean - truth).reshape(n, -1), spread.reshape(n, -1), (truth > BLACK).reshape(n, -1)


def spread_rows(samples: Tensor, nfe: Tensor, bench: Bench, scale: float) -> pd.DataFrame:
    """One row per image of samples (n, M, C, H, W) of the bench's first n images: the columns of NUMBERS but the one walk's."""
    n, number = samples.shape[:2]
    truth = bench.truth[:n]
    error, spread, inside = pixels(samples, truth)
    rows = []
    for k in range(n):
        row = {"spread": np.sqrt((spread[k] ** 2).mean()), "rmse": np.sqrt((error[k] ** 2).mean()), "scale": scale}
        row["ause"], row["ause_random"] = trust.ause(error[k], spread[k], FRACTIONS)
        for level in LEVELS:
            of = error[k][inside[k]], spread[k][inside[k]], level, number
            row[f"object_{100 * level:g}"] = trust.coverage(*of)
            row[f"scaled_{100 * level:g}"] = trust.coverage(*of, scale)
            row[f"all_{100 * level:g}"] = trust.coverage(error[k], spread[k], level, number)
        for kind, by in (("left", spread[k]), ("oracle", np.abs(error[k]))):
            left = trust.sparsification(error[k], by, FRACTIONS)
            row |= {f"{kind}_{100 * fraction:g}": value for fraction, value in zip(FRACTIONS, left, strict=True)}
        rows.append(row)
    head = {"image": np.arange(n), "samples": number, "nfe": np.asarray(nfe.double().mean(1))}
    head |= {"t": np.asarray(bench.measurement.t[:n]), "sigma_hat": np.asarray(bench.severity.sigma_hat[:n])}
    head |= {
        "psnr_mean": np.asarray(psnr(samples.mean(1), truth), dtype=float),
        "psnr_one": np.asarray(psnr(samples[:, 0], truth), dtype=float),
    }
    return pd.DataFrame(rows).assign(**head)


def rows_of(
    section: Mapping, tuned: Mapping, long: Mapping, walk: Mapping, load: Callable[[str, int], Bench]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The record of the study's section ``spread``: rows of NUMBERS for every test image and sampler; and the arrays of one
    example, the image of median severity among those that every sampler has: truth, measurement, and of every sampler mean and spread.

    tuned, long, walk: of :func:`samplers_of`; load: (split, number of images) -> bench. No images: no rows, no arrays.
    """
    if not section["n_images"]:
        return record([]), {}
    validation, bench = load("validation", section["validation"]), load("test", section["n_images"])
    samplers = samplers_of(validation, bench, tuned, long, section, walk)
    one = single_walk(validation, bench, tuned, section)
    shared = min(n for name, (_, _, n) in samplers.items())
    example = int(np.argsort(np.asarray(bench.severity.sigma_hat[:shared]), kind="stable")[shared // 2])
    arrays = {"truth": bench.truth[example].numpy(), "measurement": bench.measurement.y[example].numpy()}
    parts = []
    for name, (flash, n_validation, n) in samplers.items():
        fit, _ = _sampled(flash, validation.first(n_validation), section["samples"], f"{name}, validation")
        error, spread, inside = pixels(fit, validation.truth[:n_validation])
        scale = trust.fitted_scale(error[inside], spread[inside], FITTED, section["samples"])
        samples, nfe = _sampled(flash, bench.first(n), section["samples"], name)
        part = spread_rows(samples, nfe, bench, scale).join(one)  # by position: both are in the order of the images
        mean, of_pixels = trust.mean_and_spread(samples[example : example + 1])
        arrays |= {f"{name}/mean": mean[0].astype("float32"), f"{name}/spread": of_pixels[0].astype("float32")}
        parts.append(part.assign(sampler=name))
    return record(parts), arrays


def _sampled(flash: Flash, bench: Bench, samples: int, title: str) -> tuple[Tensor, Tensor]:
    return trust.posterior_samples(flash, bench.measurement, samples, bench.severity, title.replace("_", " "))


def record(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with sampler, image, samples and NUMBERS; of none: no rows, so that every study has the file."""
    return typed(parts, {"sampler": "str", "image": "int32", "samples": "int32"} | dict.fromkeys(NUMBERS, "float32"))
