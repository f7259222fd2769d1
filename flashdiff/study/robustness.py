"""What the severity encoder and its walks bear that they were not made for, and what single choices do: one row per image and run."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from flashdiff.batch import slice_size
from flashdiff.datasets.splits import Split, split_ids, to_float
from flashdiff.degradations import Degradation, measure
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.severity import Severity, SeverityEncoder, latent_error_variance
from flashdiff.study.budgets import Choice, adaptive_choices, few_step
from flashdiff.study.comparison import Bench, best
from flashdiff.study.rows import typed
from flashdiff.training.severity import initial_encoder, train_severity_encoder

CHECKPOINT = ".build/robustness/{pair}/encoder.ckpt"
"""Where the trainings of a pair stand, below the study's folder, until their stage has saved its record."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Levels at which every image is asked of every encoder."""
CURVE = 32
"""Validation images behind the learning curves, which are not kept."""
COLUMNS = {
    "experiment": "object", "variant": "object", "method": "object", "unseen": "bool", "image": "int32", "t": "float32",
    "sigma_hat": "float32", "sbar": "float32", "psnr": "float32", "start": "int32", "nfe": "int32",
}  # fmt: skip
"""The record's columns and their types. Six digits are kept: the record is in git."""
NO_WALK = {"method": "no_diffusion", "start": -1, "nfe": 0}
"""What rows say where D(z_hat) is measured and nothing walks."""
Runs = Mapping[tuple[str, str], tuple[float, Choice]]
"""(experiment, variant) -> true noise over the assumed one, and the few-step setting."""


def record(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed((part.assign(unseen=part.get("unseen", False)) for part in parts), COLUMNS)


def _errors(prior: Prior, told: Severity, z0: Tensor, x: Tensor) -> dict[str, np.ndarray]:
    """What an encoder told of images, and what is true of it: sigma_hat, sbar, and psnr of D(z_hat) in dB, each (n,)."""
    decoded = prior.decode_in_slices(told.z_hat, slice_size(x))
    columns = {
        "sigma_hat": told.sigma_hat,
        "sbar": latent_error_variance(told.z_hat, z0).sqrt(),
        "psnr": psnr(decoded, x),
    }
    return {name: np.asarray(column, dtype=float) for name, column in columns.items()}


# ------------------------------------------------------------------------------------------------------------- walks


def tuned_start(bench: Bench, evaluations: float, walk: Mapping, rule: str, options: Mapping, power: float) -> Choice:
    """The few-step setting with a start rule whose images on ``bench``, of validation, have the best mean PSNR.

    walk: {"solver": entry, "candidates": {field: values}}, options: {option: values} of the rule, power: how steps grow; see
    :func:`flashdiff.study.budgets.adaptive_choices`. So no rule walks with steps that were tuned for another.
    """
    trials = []
    choices = adaptive_choices(bench, evaluations, walk["solver"], walk["candidates"], {rule: options}, [power])
    for choice in choices:
        images = few_step(bench, choice)(bench.measurement, bench.severity, title=f"tune {rule}").images
        trials.append({"choice": choice, "psnr": float(psnr(images, bench.truth).mean())})
    return best(trials, "psnr")


def choices_of_starts(
    bench: Bench, evaluations: float, walk: Mapping, tuned: Mapping, starts: Mapping[str, Mapping]
) -> dict[str, Choice]:
    """{start rule: few-step setting}: every rule of ``starts``, tuned now, and those that the study has tuned already.

    tuned: {method: {objective: setting}} of one budget, :func:`flashdiff.study.budgets.tune`'s, of which the adaptive walk
    and the best fixed start are taken, tuned for PSNR; the former in place of a rule of the same name, and the numbers of
    steps of the others grow with the start as its do. No starts: none.
    """
    if not starts:
        return {}
    adaptive = tuned["adaptive"]["psnr"]
    known = {adaptive["start"]["rule"]: adaptive, "fixed": tuned["fixed"]["psnr"]}
    power = adaptive["solver"]["walk"]["power"]
    found = {
        rule: tuned_start(bench, evaluations, walk, rule, options, power)
        for rule, options in starts.items()
        if rule not in known
    }
    return found | known


def runs_of(
    noise: Sequence[float], tuned: Mapping, starts: Mapping[str, Choice], corrections: Sequence[float]
) -> dict[tuple[str, str], tuple[float, Choice]]:
    """Every run of the experiments noise, start and correction, in the order of the record.

    noise: true noise over the assumed one; starts: of :func:`choices_of_starts`; corrections: of the published start,
    which changes in nothing else. Raises ValueError where there are corrections and no published start.
    """
    if corrections and "published" not in starts:
        raise ValueError(
            "robustness.corrections: there is no published start to correct; name it in robustness.starts."
        )
    runs: dict[tuple[str, str], tuple[float, Choice]] = {}
    for ratio in noise:
        runs["noise", f"{ratio:g}"] = ratio, tuned["adaptive"]["psnr"]
    for rule, choice in starts.items():
        runs["start", rule] = 1.0, choice
    for c in corrections:
        choice = starts["published"]
        runs["correction", f"{c:g}"] = 1.0, {**choice, "start": {**choice["start"], "correction": c}}
    return runs


def walk_rows(bench: Bench, runs: Runs) -> pd.DataFrame:
    """What the bench's images become in each run: rows of COLUMNS, one per image, and for the noise two, D(z_hat) and the walk.

    The encoder and the solver are told the assumed noise, ``bench.measurement.noise_std``; the measurements have the run's. Every run sees
    the same images, levels and draws. Runs that are the same walk once.
    """
    told, walked, parts = {}, {}, []
    z0 = bench.prior.encode_in_slices(bench.truth)
    for (experiment, variant), (ratio, choice) in runs.items():
        if ratio not in told:
            measurement = with_noise(bench, ratio)
            severity = bench.encoder.infer(measurement.y, bench.batch_size).to("cpu")
            told[ratio] = measurement, severity, _errors(bench.prior, severity, z0, bench.truth)
        measurement, severity, errors = told[ratio]
        key = ratio, json.dumps(choice, sort_keys=True)
        if key not in walked:
            walked[key] = few_step(bench, choice)(measurement, severity, title=f"{experiment} {variant}")
        result = walked[key]
        head = {"experiment": experiment, "variant": variant, "image": np.arange(len(bench.truth))}
        shared = head | {"t": np.asarray(measurement.t, dtype=float)} | errors
        if experiment == "noise":
            parts.append(pd.DataFrame(shared | NO_WALK))
        own = {
            "method": "few_step",
            "psnr": np.asarray(psnr(result.images, bench.truth), dtype=float),
            "start": np.asarray(result.start),
            "nfe": np.asarray(result.nfe),
        }
        parts.append(pd.DataFrame(shared | own))
    return record(parts)


def with_noise(bench: Bench, ratio: float):
    """The bench's measurement with ``ratio`` times the noise that it says it has; image, level and draw are the same."""
    assumed = bench.measurement
    true = measure(
        bench.truth, assumed.degradation, assumed.t, ratio * assumed.noise_std, seed=bench.seed, ids=assumed.ids
    )
    return replace(true, noise_std=assumed.noise_std)


# ---------------------------------------------------------------------------------------------------------- encoders


def encoder_rows(
    encoder: SeverityEncoder, prior: Prior, x: Tensor, degradation: Degradation, noise_std: float, seed: int
) -> pd.DataFrame:
    """What an encoder errs on x (n, C, H, W) in [-1, 1], the first test images, at every level of LEVELS: a row per image
    and level with image, t, sigma_hat, sbar, psnr and what NO_WALK says; every level has its own noise."""
    z0, ids, parts = prior.encode_in_slices(x), split_ids("test", len(x)), []
    for draw, t in enumerate(LEVELS):
        y = measure(x, degradation, t, noise_std, seed=seed, ids=ids, draw=draw).y
        errors = _errors(prior, encoder.infer(y).to("cpu"), z0, x)
        parts.append(pd.DataFrame({"image": np.arange(len(x)), "t": t} | errors | NO_WALK))
    return pd.concat(parts, ignore_index=True)


def training_sections(severity: Mapping, robustness: Mapping) -> dict[tuple[str, str], dict]:
    """(experiment, variant) -> the ``severity`` section of its training, all from the prior's own encoder.

    classes: with every class and without the unseen ones, with the study's own loss and ``robustness.architecture``;
    lambda_sigma: the published loss and architecture with other weights of the severity term. All else is the study's.
    """
    shared = {**severity, "init": None, "noise": None} | {
        name: robustness[name] for name in ("steps", "learning_rate", "architecture")
    }
    sections = {}
    if robustness["unseen"]:
        sections |= {("classes", variant): shared for variant in ("all", "without")}
    for weight in robustness["lambda_sigma"]:
        published = {"loss": "squared", "architecture": None, "lambda_sigma": weight}
        sections["lambda_sigma", f"{weight:g}"] = shared | published
    return sections


def trained_rows(
    prior: Prior,
    degradation: Degradation,
    noise_std: float,
    train: Split,
    validation: Split,
    test: Split,
    severity: Mapping,
    robustness: Mapping,
    seed: int,
    checkpoint: str | os.PathLike,
) -> pd.DataFrame:
    """Train every encoder of :func:`training_sections` and measure it on the first ``encoder_images`` test images.

    severity, robustness: the study's sections. Rows of COLUMNS; unseen: whether the image is of a class that the training
    "without" has not seen (the prior has). Each continues from its own checkpoint. Raises ValueError for a class that the images lack.
    """
    n, unseen = robustness["encoder_images"], robustness["unseen"]
    for split in (train, test) if unseen else ():
        if missing := sorted({*unseen} - {*split.labels[: n if split is test else None].tolist()}):
            raise ValueError(
                f"robustness.unseen: {missing} are not among the labels of the {split.name} images that are used; "
                "name other classes, or none ([])."
            )
    kept, of_unseen = ~np.isin(train.labels, unseen), np.isin(test.labels[:n], unseen)
    x, parts = to_float(test[np.arange(n)]), []
    for (experiment, variant), section in training_sections(severity, robustness).items():
        images = train.images[kept] if variant == "without" else train.images
        arguments = (prior, degradation, noise_std, images, validation.images[:CURVE], section, seed, checkpoint)
        encoder, _ = train_severity_encoder(*arguments)
        rows = encoder_rows(encoder, prior, x, degradation, noise_std, seed)
        own = {"experiment": experiment, "variant": variant}
        parts.append(rows.assign(**own, unseen=of_unseen[rows.image] & (experiment == "classes")))
    return record(parts)


def shared_rows(
    prior: Prior,
    own: SeverityEncoder,
    degradation: Degradation,
    noise_std: float,
    test: Split,
    severity: Mapping,
    robustness: Mapping,
    seed: int,
) -> pd.DataFrame:
    """One encoder for all against one each, on the first ``encoder_images`` test images: rows of COLUMNS.

    for_all: what the study's trainings start from (``severity.init``), as it is; own: what the degradation's training made
    of it. No rows without ``robustness.one_for_all``.
    """
    if not robustness["one_for_all"]:
        return record([])
    x = to_float(test[np.arange(robustness["encoder_images"])])
    for_all = initial_encoder(prior, severity["init"], severity["architecture"], seed)
    encoders = {"for_all": for_all.to(own.device), "own": own}
    return record(
        encoder_rows(encoder, prior, x, degradation, noise_std, seed).assign(experiment="encoder", variant=variant)
        for variant, encoder in encoders.items()
    )
