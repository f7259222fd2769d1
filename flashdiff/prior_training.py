"""How the embedded prior is trained: the losses of its autoencoder and of its denoiser, for :mod:`flashdiff.training`."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashdiff.batch import Stream, normal, rows, uniform
from flashdiff.datasets import to_float


def build_autoencoder(image_channels: int, pixel_unshuffle: int, channels: list[int], latent_channels: int, layers: int) -> nn.Module:
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
        mirrored = rows(uniform(ids, seed=seed, step=step, stream=Stream.FLIP, like=x) < 0.5, x)
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
        signal = rows(abar[i].float(), z0)
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


def psnr_of_autoencoder(autoencoder: nn.Module, images: np.ndarray, pixel_unshuffle: int) -> float:
    """Mean PSNR in dB of the reconstructions of uint8 images, after clipping to the image range."""
    device = next(autoencoder.parameters()).device
    with torch.no_grad():
        x = F.pixel_unshuffle(to_float(images).to(device), pixel_unshuffle)
        error = autoencoder.decode(autoencoder.encode(x).latent_dist.mode()).sample.clamp(-1, 1) - x
        return float((10 * (4 / error.square().flatten(1).mean(1)).log10()).mean())
