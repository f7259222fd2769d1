"""How a severity encoder is trained: its loss from :mod:`flashdiff.severity`, the loop from :mod:`flashdiff.training.loop`."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from flashdiff.batch import Stream, slice_size, uniform
from flashdiff.datasets.splits import split_ids, to_float
from flashdiff.degradations import Degradation, measure
from flashdiff.devices import device
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.severity import (
    SeverityEncoder,
    latent_error_variance,
    ordering_accuracy,
    severity_at_levels,
    training_loss,
)
from flashdiff.training.loop import Recipe, decisive, keyed, train

CHECKPOINT = ".build/severity/{degradation}/encoder.ckpt"
"""Where the training of a degradation's encoder stands, below the study's folder, until its stage has saved the result."""
LIVE = ".build/live/{degradation}"
"""Where DVCLive keeps its learning curve."""
LEVELS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Levels at which an encoder's card says what it errs."""
HELD_OUT = 500
"""Validation images behind the learning curve; ordering accuracy takes the first 100 of them at 10 levels."""


def recipe(seed: int, severity: Mapping, degradation: Mapping) -> dict:
    """What an encoder was trained by: the study's seed, and what its sections say, without what they leave open (null), in
    alphabetical order.

    So neither a field that the schema gains later, nor another order of its fields, nor what a machine chooses for itself
    (:func:`flashdiff.training.loop.decisive`) makes trained encoders and tuned step sizes look out of date.
    """
    return {"seed": seed, "severity": _said(decisive(severity)), "degradation": _said(degradation)}


def _said(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {name: _said(value) for name, value in sorted(section.items()) if value is not None}


def held_out_evaluation(
    prior: Prior, degradation: Degradation, noise_std: float, validation: np.ndarray, seed: int
) -> Callable[[SeverityEncoder], dict[str, float]]:
    """What a learning curve says of an encoder on held-out images (n, C, H, W) uint8, of which the first HELD_OUT count.

    ordering_accuracy, spearman_error (sigma_hat against the true latent error) and calibration_ratio (mean sigma_hat /
    mean true error).
    """
    x = to_float(validation[:HELD_OUT])
    ids = split_ids("validation", len(x))
    t = uniform(ids, seed=seed, step=0, stream=Stream.LEVEL, like=x)
    y = measure(x, degradation, t, noise_std, seed=seed, ids=ids).y
    z0 = prior.encode_in_slices(x).to(device())
    levels = torch.linspace(0, 1, 10)

    def evaluate(model: SeverityEncoder) -> dict[str, float]:
        severity = model.infer(y)
        sbar = latent_error_variance(severity.z_hat, z0).sqrt()
        pairs = pd.DataFrame({"sigma_hat": severity.sigma_hat.cpu().numpy(), "sbar": sbar.cpu().numpy()})
        by_level = severity_at_levels(model, x[:100], degradation, noise_std, levels, seed=seed, ids=ids[:100])
        return {
            "ordering_accuracy": float(ordering_accuracy(by_level).mean()),
            "spearman_error": float(pairs.corr("spearman").iloc[0, 1]),
            "calibration_ratio": float(pairs.sigma_hat.mean() / pairs.sbar.mean()),
        }

    return evaluate


def held_out_in_words(curve: pd.DataFrame) -> str:
    """What the last row of a learning curve says on held-out images and, where severity is off by a fifth, what to do.

    An encoder that has learnt its training images by heart takes their error for that of all images: its severity is too low.
    """
    evaluated = curve.dropna(subset="calibration_ratio")
    last = evaluated.iloc[-1]
    said = (
        f"On held-out images the encoder puts {last.ordering_accuracy:.1%} of the pairs of levels in the right order; its "
        f"severity correlates with the true error at {last.spearman_error:.2f} (Spearman), and is {last.calibration_ratio:.2f} "
        "of it on average."
    )
    if last.calibration_ratio > 1.25:
        return f"{said} That is too much: raise severity.steps."
    if last.calibration_ratio >= 0.8:
        return said
    best = evaluated.loc[np.log(evaluated.calibration_ratio).abs().idxmin()]
    before = f" (at step {best.step:.0f} it was {best.calibration_ratio:.2f})" if best.step < last.step else ""
    return f"{said} That is too little: it knows its training images by heart. Lower severity.steps{before}, or give more images."


def error_by_level(
    encoder: SeverityEncoder, prior: Prior, degradations: Mapping[str, Degradation], noise_stds: Sequence[float],
    images: np.ndarray, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """What an encoder errs on uint8 images (n, C, H, W), one row per degradation, level of LEVELS and noise_std.

    Columns: degradation, t, noise_std; means over the images of sbar (the latent error), sigma_hat (what it says of it),
    sbar_e0 (the latent error of the prior's own encoder on the same measurement), and the PSNR of D(z_hat) in dB.
    """
    x = to_float(images)
    z0, ids, table = prior.encode_in_slices(x), split_ids("validation", len(x)), []
    for (name, degradation), t, noise_std in itertools.product(degradations.items(), LEVELS, noise_stds):
        y = measure(x, degradation, t, noise_std, seed=seed, ids=ids).y
        told = encoder.infer(y).to("cpu")
        decoded = prior.decode_in_slices(told.z_hat, slice_size(x))
        table.append(
            {
                "degradation": name,
                "t": t,
                "noise_std": noise_std,
                "sbar": float(latent_error_variance(told.z_hat, z0).sqrt().mean()),
                "sigma_hat": float(told.sigma_hat.mean()),
                "sbar_e0": float(latent_error_variance(prior.encode_in_slices(y), z0).sqrt().mean()),
                "psnr": float(psnr(decoded, x).mean()),
            }
        )
    return pd.DataFrame(table)


def check_fits(encoder: SeverityEncoder, prior: Prior, folder: str | os.PathLike) -> None:
    """Raise ValueError naming the folder and the field when an encoder was made for another prior."""
    expected = {
        "in_channels": prior.autoencoder.config.in_channels // prior.pixel_unshuffle**2,
        "latent_channels": prior.autoencoder.config.latent_channels,
        "pixel_unshuffle": prior.pixel_unshuffle,
        "scaling_factor": prior.scaling_factor,
    }
    for field, value in expected.items():
        if encoder.config[field] != value:
            raise ValueError(
                f"{folder}: {field} is {encoder.config[field]}, the prior's is {value}; give the prior's own encoder, or "
                "remove the folder to train one."
            )


def take_shipped_encoder(
    folder: str | os.PathLike,
    prior: Prior,
    degradation: Degradation,
    noise_std: float,
    validation: np.ndarray,
    seed: int,
) -> tuple[SeverityEncoder, pd.DataFrame]:
    """An encoder that lies beside the prior, in place of training one, and a curve of one row: what it does on held-out images.

    folder: what ``SeverityEncoder.save_pretrained`` wrote; other arguments as those of :func:`train_severity_encoder`.
    Raises ValueError when the encoder was made for another prior.
    """
    prior, encoder = prior.to(device()), SeverityEncoder.from_pretrained(folder).to(device()).eval()
    check_fits(encoder, prior, folder)
    evaluate = held_out_evaluation(prior, degradation, noise_std, validation, seed)
    return encoder, pd.DataFrame([{"step": 0} | evaluate(encoder)])


def initial_encoder(
    prior: Prior, init: str | os.PathLike | None, architecture: Mapping | None, seed: int
) -> SeverityEncoder:
    """What a training starts from, as the study's ``severity`` section says.

    init: the folder of the prior's autoencoder, or None, for a copy of the prior's encoder, in the published architecture or
    with a network that corrects it ({"channels", "layers"}) and is drawn with ``seed``; or the folder of a severity encoder.
    Raises FileNotFoundError when nothing lies there, ValueError when it is no such model or was made for another prior.
    """
    shape = architecture or {"channels": (), "layers": 1}
    if init is None:
        return SeverityEncoder.from_prior(prior, seed, shape["channels"], shape["layers"])
    config = Path(init, "config.json")
    if not config.is_file():
        raise FileNotFoundError(
            f"severity.init: {init} holds no model (config.json is missing); give data/prior/vae, data/prior/vqvae, or the "
            "folder of a severity encoder."
        )
    kind = json.loads(config.read_text(encoding="utf-8")).get("_class_name")
    if kind == type(prior.autoencoder).__name__:
        return SeverityEncoder.from_prior(prior, seed, shape["channels"], shape["layers"])
    if kind != SeverityEncoder.__name__:
        raise ValueError(
            f"severity.init: {init} holds a {kind}; give the prior's {type(prior.autoencoder).__name__} or a SeverityEncoder."
        )
    encoder = SeverityEncoder.from_pretrained(init)
    check_fits(encoder, prior, init)
    if architecture and tuple(encoder.config.correction_channels) != tuple(architecture["channels"]):
        raise ValueError(
            f"severity.architecture: {dict(architecture)}, and the encoder in {init} has correction_channels "
            f"{list(encoder.config.correction_channels)}; remove it, or start from the prior's autoencoder."
        )
    return encoder


def train_severity_encoder(
    prior: Prior,
    degradation: Degradation,
    noise_std: float,
    images: np.ndarray,
    validation: np.ndarray,
    parameters: Mapping,
    seed: int,
    checkpoint: str | os.PathLike,
    live: str | os.PathLike | None = None,
) -> tuple[SeverityEncoder, pd.DataFrame]:
    """Train a severity encoder; returns it and its learning curve.

    images, validation (n, C, H, W) uint8; ``parameters`` is the study's ``severity`` section: the fields of Recipe, where the
    training starts (see :func:`initial_encoder`), and its loss (loss, lambda_sigma, lambda_image, noise:
    see :func:`flashdiff.severity.training_loss`). Continues from ``checkpoint`` (its :func:`keyed` name) when it
    exists, whichever number of processes and whichever accumulation it was written with. ``live``: a folder for DVCLive.
    The curve holds the loss terms and what :func:`held_out_evaluation` says.
    """
    chosen = {name: parameters[name] for name in ("lambda_sigma", "lambda_image")} | {
        "loss": parameters.get("loss", "squared")
    }
    said = {name: value for name, value in decisive(parameters).items() if value is not None}
    prior = prior.to(device(), memory_format=torch.channels_last)
    encoder = initial_encoder(prior, parameters.get("init"), parameters.get("architecture"), seed)
    encoder = encoder.to(device(), memory_format=torch.channels_last)

    curve = train(
        encoder,
        training_loss(prior, degradation, parameters.get("noise") or noise_std, images, seed=seed, **chosen),
        len(images),
        Recipe.of(parameters, seed=seed),
        keyed(checkpoint, said, seed, repr(degradation), noise_std, prior.autoencoder, encoder, images),
        evaluate=held_out_evaluation(prior, degradation, noise_std, validation, seed),
        evaluate_every=max(250, parameters["steps"] // 40),
        title="severity encoder",
        parameters=[weights for weights in encoder.parameters() if weights.requires_grad],
        live=live,
    )
    return encoder, curve
