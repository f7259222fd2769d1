"""How the embedded prior is trained: the losses of its autoencoder and of its denoiser, for :mod:`flashdiff.training.loop`."""

import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashdiff.batch import Stream, normal, per_sample, uniform
from flashdiff.datasets.splits import to_float
from flashdiff.degradations.measurement import Measurement
from flashdiff.devices import device
from flashdiff.flash import FullLength
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.solvers.unconditional import Unconditional, Unmeasured
from flashdiff.training.loop import Recipe, keyed, train
from flashdiff.walks import EvenlySpaced

LATENT_NOISE = 0.3
"""A walk's result errs by about this much; the learning curve says what a decoder makes of it."""


def build_autoencoder(
    image_channels: int, pixel_unshuffle: int, channels: list[int], latent_channels: int, layers: int
) -> nn.Module:
    """A KL autoencoder on folded pixels: every entry of ``channels`` after the first halves the resolution once more."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=image_channels * pixel_unshuffle**2,
        out_channels=image_channels * pixel_unshuffle**2,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def build_denoiser(latent_channels: int, latent_size: int, channels: list[int], layers: int, head: int) -> nn.Module:
    """An eps-predicting UNet with self-attention at every resolution but the finest."""
    from diffusers import UNet2DModel

    coarser = len(channels) - 1
    return UNet2DModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * coarser),
        up_block_types=(*["AttnUpBlock2D"] * coarser, "UpBlock2D"),
        attention_head_dim=head,
    )


def normalised(mean: Tensor) -> Tensor:
    """Latents (B, c, h, w) with mean 0 and standard deviation 1 in every channel, over the batch and all positions."""
    over = (0, 2, 3)
    return (mean - mean.mean(over, keepdim=True)) / mean.std(over, keepdim=True)


def autoencoder_loss(images: np.ndarray, pixel_unshuffle: int, l1: float, noise: float, seed: int) -> Callable:
    """Reconstruction (squared + l1 x absolute error) from normalised latents with fixed noise, on randomly mirrored images.

    images (n, C, H, W) uint8; noise: its standard deviation, in units of a channel's. Normalising gives every channel the
    same capacity, so none can die as under a KL divergence, which switches off the ones that cost more than they carry; the
    noise makes the decoder smooth. Terms are means over entries.
    """

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(model.parameters()).device
        x = to_float(images[ids]).to(device)
        mirrored = per_sample(uniform(ids, seed=seed, step=step, stream=Stream.FLIP, like=x) < 0.5, x)
        x = F.pixel_unshuffle(torch.where(mirrored, x.flip(-1), x), pixel_unshuffle)
        z = normalised(model.encode(x).latent_dist.mean)
        draw = normal(z.shape[1:], ids, seed=seed, step=step, stream=Stream.TRAINING_NOISE, like=x)
        error = model.decode(z + noise * draw).sample.float() - x
        mse = error.square().mean()
        return mse + l1 * error.abs().mean(), {"mse": mse}

    return loss


@torch.no_grad()
def fold_normalisation(autoencoder: nn.Module, images: np.ndarray, pixel_unshuffle: int, noise: float) -> None:
    """Put the mean and standard deviation of every latent channel over uint8 images into the encoder's last convolution.

    So the autoencoder is a plain diffusers ``AutoencoderKL`` whose latents are what :func:`autoencoder_loss` normalised, with
    scaling_factor 1 and the training's noise as the posterior's standard deviation.
    """
    channels = autoencoder.config.latent_channels
    latents = encode_all(autoencoder, images, pixel_unshuffle).transpose(0, 2).flatten(1)
    last = autoencoder.quant_conv
    mean, std = latents.mean(1).to(last.bias), latents.std(1).to(last.bias)
    last.weight[:channels] /= std[:, None, None, None]
    last.bias[:channels] = (last.bias[:channels] - mean) / std
    last.weight[channels:] = 0
    last.bias[channels:] = 2 * math.log(max(noise, 1e-6))
    autoencoder.register_to_config(scaling_factor=1.0)


def denoiser_loss(latents: Tensor, abar: Tensor, seed: int) -> Callable:
    """||eps_theta(z_i, i) - eps||^2, mean over entries, i uniform over the diffusion (Ho et al. 2020, Eq. 14).

    latents (2, n, c, h, w): scaled latents of the images and of their mirror images; abar (N,).
    """

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(model.parameters()).device
        draw = {"seed": seed, "step": step, "like": latents}
        mirrored = (uniform(ids, stream=Stream.FLIP, **draw) < 0.5).long()
        z0 = latents[mirrored, torch.from_numpy(ids)].to(device)
        i = (uniform(ids, stream=Stream.TIMESTEP, **draw) * len(abar)).long()
        noise = normal(latents.shape[2:], ids, stream=Stream.TRAINING_NOISE, **draw).to(device)
        signal = per_sample(abar[i].float(), z0)
        predicted = model(signal.sqrt() * z0 + (1 - signal).sqrt() * noise, i.to(device)).sample
        return F.mse_loss(predicted.float(), noise), {}

    return loss


@torch.no_grad()
def encode_all(autoencoder: nn.Module, images: np.ndarray, pixel_unshuffle: int, batch_size: int = 500) -> Tensor:
    """Unscaled latent means (2, n, c, h, w) of the images and of their mirror images, on the CPU."""
    device = next(autoencoder.parameters()).device
    parts = []
    for first in range(0, len(images), batch_size):
        x = to_float(images[first : first + batch_size]).to(device)
        both = torch.cat([x, x.flip(-1)])
        mode = autoencoder.encode(F.pixel_unshuffle(both, pixel_unshuffle)).latent_dist.mode()
        parts.append(mode.unflatten(0, (2, len(x))).cpu())
    return torch.cat(parts, dim=1)


@torch.no_grad()
def psnr_of_autoencoder(autoencoder: nn.Module, images: np.ndarray, pixel_unshuffle: int, noise: float = 0.0) -> float:
    """Mean PSNR in dB of uint8 images decoded from their normalised latents, ``noise`` (standard deviation) added to them."""
    x = F.pixel_unshuffle(to_float(images).to(next(autoencoder.parameters()).device), pixel_unshuffle)
    z = normalised(autoencoder.encode(x).latent_dist.mode())
    z = z + noise * torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
    return float(psnr(autoencoder.decode(z).sample, x).mean())


def train_autoencoder(
    images: np.ndarray, validation: np.ndarray, pixel_unshuffle: int, parameters: Mapping, checkpoint: str | os.PathLike
) -> tuple[nn.Module, pd.DataFrame]:
    """Train the autoencoder on uint8 images (n, C, H, W); returns it, every latent channel of unit variance, and its curve.

    ``parameters`` is the study's ``prior.autoencoder``. The curve holds the PSNR of 1000 validation images in dB, and their
    PSNR with noise of standard deviation :data:`LATENT_NOISE` in the latents.
    """
    architecture = {name: parameters[name] for name in ("channels", "latent_channels", "layers")}
    torch.manual_seed(parameters["seed"])
    model = build_autoencoder(images.shape[1], pixel_unshuffle, **architecture).to(
        device(), memory_format=torch.channels_last
    )
    curve = train(
        model,
        autoencoder_loss(images, pixel_unshuffle, parameters["l1"], parameters["noise"], parameters["seed"]),
        len(images),
        Recipe.of(parameters),
        keyed(checkpoint, dict(parameters), pixel_unshuffle, images),
        evaluate=lambda m: {
            "validation_psnr": psnr_of_autoencoder(m, validation[:1000], pixel_unshuffle),
            "validation_psnr_noisy": psnr_of_autoencoder(m, validation[:1000], pixel_unshuffle, LATENT_NOISE),
        },
        evaluate_every=500,
        title="autoencoder",
    )
    fold_normalisation(model, images, pixel_unshuffle, parameters["noise"])
    return model, curve


def train_denoiser(
    autoencoder: nn.Module,
    images: np.ndarray,
    validation: np.ndarray,
    pixel_unshuffle: int,
    abar: Tensor,
    parameters: Mapping,
    checkpoint: str | os.PathLike,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train the denoiser on the autoencoder's scaled latents; returns it and its learning curve.

    ``parameters`` is the study's ``prior.denoiser``; abar (N,) the diffusion's alphas_cumprod. The curve holds the loss
    on up to 2000 validation images, always with the same noise and timesteps.
    """
    scale = autoencoder.config.scaling_factor
    latents = encode_all(autoencoder, images, pixel_unshuffle) * scale
    held_out = encode_all(autoencoder, validation[:2000], pixel_unshuffle) * scale
    held_out_loss = denoiser_loss(held_out, abar, seed=parameters["seed"] + 1)
    parts = np.array_split(np.arange(held_out.shape[1]), -(-held_out.shape[1] // 500))

    def evaluate(model: nn.Module) -> dict[str, float]:
        losses = [float(held_out_loss(model, ids, 0)[0]) * len(ids) for ids in parts]
        return {"validation_loss": sum(losses) / held_out.shape[1]}

    torch.manual_seed(parameters["seed"])
    shape = latents.shape[2:]
    model = build_denoiser(shape[0], shape[1], parameters["channels"], parameters["layers"], parameters["head"]).to(
        device()
    )
    curve = train(
        model,
        denoiser_loss(latents, abar, parameters["seed"]),
        len(images),
        Recipe.of(parameters),
        keyed(checkpoint, dict(parameters), abar.tolist(), autoencoder, images),
        evaluate=evaluate,
        evaluate_every=500,
        title="denoiser",
    )
    return model, curve


def draw_samples(prior: Prior, image_shape: tuple[int, int, int], n: int, n_steps: int, seed: int = 0) -> Tensor:
    """n unconditional samples (n, C, H, W) in [-1, 1] by ancestral steps over n_steps evenly spaced indices; on the CPU."""
    nothing = Measurement(
        torch.empty(n, 0, dtype=prior.unet.dtype), Unmeasured(), torch.zeros(n), 0.0, np.arange(n), image_shape
    )
    solver = Unconditional(EvenlySpaced(n_steps))
    return FullLength(prior, solver, seed, batch_size=n, mixed_precision="no", progress=False)(nothing).images
