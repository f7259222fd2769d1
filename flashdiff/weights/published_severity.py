"""The published severity encoders of Fabian et al. 2024, as their authors' code saves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.weights.checkpoints import account, read_checkpoint
from flashdiff.weights.compvis_config import FirstStage, checked
from flashdiff.weights.compvis_names import Source, fill, first_stage_sources


def load_published(checkpoint: str | Path, prior: Prior) -> SeverityEncoder:
    """A published severity encoder (.ckpt of about 85 MB) as a SeverityEncoder of the prior that it was trained for.

    The file holds a ``state_dict`` with the names of CompVis' encoder (``encoder.*``, ``quant_conv.*``, ``std_conv.*``)
    and ``hyper_parameters``, of which ``model_config`` describes that encoder. Its outputs are in units of the
    autoencoder's latent; those of the result are in units of the scaled latent: z_hat = scaling_factor x mean,
    sigma_hat^2 = scaling_factor^2 x variance. That of a KL autoencoder has no ``std_conv``: the second half of
    ``quant_conv`` plays its part.

    Raises FileNotFoundError, or ValueError with one sentence: a file that would run code or refers to classes, another
    architecture than the prior's, tensors that are missing, unknown or of a wrong shape.
    """
    state, beside = read_checkpoint(checkpoint)
    settings = beside.get("hyper_parameters")
    if not isinstance(settings, dict) or "model_config" not in settings:
        raise ValueError(
            f"checkpoint: {checkpoint} has no hyper_parameters with a model_config; give a published severity encoder"
            " (the authors' training checkpoints become one by their extract_sev_encoder_ckpt)."
        )
    first = checked(FirstStage, settings["model_config"], f"checkpoint: {checkpoint}: model_config")
    _compare(checkpoint, first, prior)
    encoder = SeverityEncoder.from_prior(prior)
    sources = first_stage_sources(encoder)
    if not first.quantised:
        sources |= _halves(sources)
    account(checkpoint, state, {source.key: source.shape for source in sources.values()}, ())
    device = encoder.device
    fill(encoder, sources, _on_features(state) if first.quantised else state)
    return encoder.to(device).eval()


def _compare(checkpoint: str | Path, first: FirstStage, prior: Prior) -> None:
    expected: dict[str, Any] = {"quantised": first.quantised, "pixel_unshuffle": 1, **first.params.ddconfig.diffusers()}
    actual = {"quantised": prior.quantised, "pixel_unshuffle": prior.pixel_unshuffle, **prior.autoencoder.config}
    for name in (
        "quantised",
        "pixel_unshuffle",
        "in_channels",
        "latent_channels",
        "down_block_types",
        "block_out_channels",
        "layers_per_block",
        "norm_num_groups",
    ):
        own = list(actual[name]) if isinstance(actual[name], tuple) else actual[name]
        if own != expected[name]:
            raise ValueError(
                f"checkpoint: {checkpoint} was trained for another autoencoder than the prior's ({name}:"
                f" {expected[name]}, not {own}); load the prior that it belongs to."
            )


def _on_features(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with a ``std_conv`` on the encoder's features.

    The authors' code applies it to the output of ``quant_conv``. Both are linear maps per position, so their product
    does on the features what the two do one after the other.
    """
    named = ("quant_conv.weight", "quant_conv.bias", "std_conv.weight", "std_conv.bias")
    mean, offset, spread, own = (state[name].double() for name in named)
    product = torch.einsum("ozhw,zfhw->ofhw", spread, mean)
    moved = own + spread[:, :, 0, 0] @ offset
    return {**state, "std_conv.weight": product, "std_conv.bias": moved}


def _halves(sources: dict[str, Source]) -> dict[str, Source]:
    """``quant_conv`` and ``std_conv`` as the first and the second half of the original's one convolution."""
    halves = {}
    for parameter in ("weight", "bias"):
        shape = sources[f"quant_conv.{parameter}"].shape
        both = (2 * shape[0], *shape[1:])
        halves[f"quant_conv.{parameter}"] = Source(f"quant_conv.{parameter}", both, lambda t: t.chunk(2)[0])
        halves[f"std_conv.{parameter}"] = Source(f"quant_conv.{parameter}", both, lambda t: t.chunk(2)[1])
    return halves
