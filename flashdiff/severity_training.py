"""How a severity encoder is trained: its loss from :mod:`flashdiff.severity`, the loop from :mod:`flashdiff.training`."""

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from flashdiff.batch import Stream, uniform
from flashdiff.datasets import to_float
from flashdiff.degradations import Degradation, measure
from flashdiff.devices import device
from flashdiff.prior import Prior
from flashdiff.severity import (
    SeverityEncoder,
    latent_error_variance,
    ordering_accuracy,
    severity_at_levels,
    training_loss,
)
from flashdiff.training import Recipe, keyed, train

HELD_OUT = 500
"""Validation images behind the learning curve; ordering accuracy takes the first 100 of them at 10 levels."""


def recipe(seed: int, severity: Mapping, degradation: Mapping) -> dict:
    """What an encoder was trained by: the study's seed, and what its sections say, without what they leave open (null).

    So a field that the schema gains later does not make trained encoders and tuned step sizes look out of date.
    """
    said = {"severity": severity, "degradation": degradation}
    return {"seed": seed} | {name: {k: v for k, v in part.items() if v is not None} for name, part in said.items()}


def train_severity_encoder(
    prior: Prior,
    degradation: Degradation,
    noise_std: float,
    images: np.ndarray,
    validation: np.ndarray,
    parameters: Mapping,
    seed: int,
    checkpoint: str | os.PathLike,
) -> tuple[SeverityEncoder, pd.DataFrame]:
    """Train a severity encoder from the prior's encoder; returns it and its learning curve.

    images, validation (n, C, H, W) uint8; ``parameters`` is the study's ``severity`` section: the fields of Recipe, and
    the weights lambda_sigma and lambda_image of the loss. Continues from ``checkpoint`` (its :func:`keyed` name) when it
    exists. The curve holds the loss terms and, on held-out images, ordering_accuracy, spearman_error (sigma_hat against
    the true latent error) and calibration_ratio (mean sigma_hat / mean true error).
    """
    weights = {name: parameters[name] for name in ("lambda_sigma", "lambda_image")}
    prior = prior.to(device(), memory_format=torch.channels_last)
    encoder = SeverityEncoder.from_prior(prior, seed=seed).to(memory_format=torch.channels_last)

    x = to_float(validation[:HELD_OUT])
    t = uniform(range(len(x)), seed=seed, step=0, stream=Stream.LEVEL, like=x)
    y = measure(x, degradation, t, noise_std, seed=seed).y
    with torch.no_grad():
        z0 = torch.cat([prior.encode(part.to(device())) for part in x.split(250)])
    levels = torch.linspace(0, 1, 10)

    def evaluate(model: SeverityEncoder) -> dict[str, float]:
        severity = model.infer(y)
        sbar = latent_error_variance(severity.z_hat, z0).sqrt()
        pairs = pd.DataFrame({"sigma_hat": severity.sigma_hat.cpu().numpy(), "sbar": sbar.cpu().numpy()})
        by_level = severity_at_levels(model, x[:100], degradation, noise_std, levels, seed=seed)
        return {
            "ordering_accuracy": float(ordering_accuracy(by_level).mean()),
            "spearman_error": float(pairs.corr("spearman").iloc[0, 1]),
            "calibration_ratio": float(pairs.sigma_hat.mean() / pairs.sbar.mean()),
        }

    curve = train(
        encoder,
        training_loss(prior, degradation, noise_std, images, seed=seed, **weights),
        len(images),
        Recipe.of(parameters, seed=seed),
        keyed(checkpoint, dict(parameters), seed, repr(degradation), noise_std, prior.autoencoder, images),
        evaluate=evaluate,
        evaluate_every=250,
        title="severity encoder",
    )
    return encoder, curve
