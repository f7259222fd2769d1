"""An ablation of the severity encoder's training: what its loss, its architecture and its length each do to its error."""

import itertools
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from flashdiff.degradations import build
from flashdiff.devices import device
from flashdiff.prior import Prior
from flashdiff.training.severity import error_by_level, train_severity_encoder

CHECKPOINT = ".build/ablation/{degradation}/encoder.ckpt"
"""Where the trainings of a degradation stand, below the study's folder, until their stage has saved its record."""
MEASURED = {"sbar": "error", "sigma_hat": "sigma_hat", "sbar_e0": "error_e0", "psnr": "psnr"}
"""What :func:`flashdiff.training.severity.error_by_level` says of an encoder -> its column in the record."""


class Training(NamedTuple):
    """One training of an ablation: its loss, the name of its architecture, and its optimiser steps."""

    loss: str
    architecture: str
    steps: int


TRAINING = list(Training._fields)
COLUMNS = (*TRAINING, "t", *MEASURED.values())


def no_rows() -> pd.DataFrame:
    """The record of no training, with its columns, so that a study without an ablation has the file, too."""
    kinds = {"loss": "object", "architecture": "object", "steps": "int64"}
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "float64")) for name in COLUMNS})


def trainings(ablation: Mapping) -> list[Training]:
    """Every loss with every architecture and every length of the study's ``ablation`` section."""
    fields = (ablation["losses"], ablation["architectures"], ablation["steps"])
    return [Training(*choice) for choice in itertools.product(*fields)]


def severity_section(training: Training, equal: Mapping, ablation: Mapping) -> dict:
    """A training as a ``severity`` section, from the prior's own encoder; equal: the fields that all trainings share."""
    own = {
        "init": None,
        "architecture": ablation["architectures"][training.architecture],
        "loss": training.loss,
        "steps": training.steps,
        "learning_rate": ablation["learning_rate"],
    }
    return {**equal, **own}


def errors_of_trainings(
    prior: Prior,
    degradation: Mapping,
    images: np.ndarray,
    validation: np.ndarray,
    equal: Mapping,
    ablation: Mapping,
    seed: int,
    checkpoint: str | os.PathLike,
) -> pd.DataFrame:
    """Train an encoder in every way of the ablation and measure it: one row per training and level, of COLUMNS.

    images, validation (n, C, H, W) uint8, of which the first ``n_images`` are measured; degradation, ablation: the study's
    entry and section; equal: what all trainings share of its ``severity`` section, batch_size, ema, lambda_sigma, lambda_image
    and mixed_precision. Means over images: error, the standard deviation of z_hat - z0 (latent units), sigma_hat, what
    the encoder says of it, error_e0, that of the prior's own encoder, untrained, and psnr, of D(z_hat) (dB). Every training
    sees the same images, levels and noise, and continues from its own checkpoint. Raises ValueError when an architecture does
    not fit the prior.
    """
    operator, noise_std = build(degradation)
    prior, parts = prior.to(device()), []
    for training in trainings(ablation):
        section = severity_section(training, equal, ablation)
        arguments = (operator, noise_std, images, validation, section, seed, checkpoint)
        encoder, _ = train_severity_encoder(prior, *arguments)
        measured = error_by_level(
            encoder, prior, {"": operator}, [noise_std], validation[: ablation["n_images"]], seed
        ).rename(columns=MEASURED)
        parts.append(measured.assign(**training._asdict())[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else no_rows()
