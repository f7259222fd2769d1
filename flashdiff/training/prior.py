"""How the embedded prior is trained: the losses of its autoencoder and of its denoiser, for :mod:`flashdiff.training.loop`."""

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


def autoencoder_loss(images: np.ndarray, pixel_unshuffle: int, l1: float, kl: float, seed: int) -> Callable:
    """Reconstruction (squared + l1 x absolute error) + kl x KL divergence, on randomly mirrored images.

    images (n, C, H, W) uint8. All terms are means over entries, so that ``kl`` does not depend on the image size.
    """

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(model.parameters()).device
        x = to_float(images[ids]).to(device)
        mirrored = per_sample(uniform(ids, seed=seed, step=step, stream=Stream.FLIP, like=x) < 0.5, x)
        x = F.pixel_unshuffle(torch.where(mirrored, x.flip(-1), x), pixel_unshuffle)
        posterior = model.encode(x).latent_dist
        noise = normal(posterior.mean.shape[1:], ids, seed=seed, step=step, stream=Stream.TRAINING_NOISE, like=x)
        error = model.decode(posterior.mean + posterior.std * noise).sample.float() - x
        mse, divergence = error.square().mean(), posterior.kl().mean() / noise[0].numel()
        return mse + l1 * error.abs().mean() + kl * divergence, {"mse": mse, "kl": divergence}

    return loss


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
def psnr_of_autoencoder(autoencoder: nn.Module, images: np.ndarray, pixel_unshuffle: int) -> float:
    """Mean PSNR in dB of the reconstructions of uint8 images; folded or not, pixels are the same."""
    x = F.pixel_unshuffle(to_float(images).to(next(autoencoder.parameters()).device), pixel_unshuffle)
    return float(psnr(autoencoder.decode(autoencoder.encode(x).latent_dist.mode()).sample, x).mean())


def train_autoencoder(
    images: np.ndarray, validation: np.ndarray, pixel_unshuffle: int, parameters: Mapping, checkpoint: str | os.PathLike
) -> tuple[nn.Module, pd.DataFrame]:
    """Train the autoencoder on uint8 images (n, C, H, W); returns it, scaled to unit latents, and its learning curve.

    ``parameters`` is the study's ``prior.autoencoder``. The curve holds the PSNR of 1000 validation images in dB.
    """
    architecture = {name: parameters[name] for name in ("channels", "latent_channels", "layers")}
    torch.manual_seed(parameters["seed"])
    model = build_autoencoder(images.shape[1], pixel_unshuffle, **architecture).to(
        device(), memory_format=torch.channels_last
    )
    curve = train(
        model,
        autoencoder_loss(images, pixel_unshuffle, parameters["l1"], parameters["kl"], parameters["seed"]),
        len(images),
        Recipe.of(parameters),
        keyed(checkpoint, dict(parameters), pixel_unshuffle, images),
        evaluate=lambda m: {"validation_psnr": psnr_of_autoencoder(m, validation[:1000], pixel_unshuffle)},
        evaluate_every=500,
        title="autoencoder",
    )
    # The diffusion expects latents of about unit variance; one factor for all channels, as published models have it.
    scale = 1 / float(encode_all(model, images, pixel_unshuffle).std())
    model.register_to_config(scaling_factor=scale)
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
