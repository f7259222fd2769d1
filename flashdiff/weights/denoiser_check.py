"""Whether a prior's parts belong together, asked of its denoiser: how well does it find the noise in latents of real images?

A wrong scale, schedule or normalisation leaves every network intact, so no configuration tells. The denoiser does: it was
trained to find noise of a known strength in latents of one kind, and finds it badly in others.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal, slice_size
from flashdiff.datasets.splits import to_float
from flashdiff.prior import Prior

IMAGES = 16
"""How many images are looked at."""
SIGNALS = (0.95, 0.5, 0.2)
"""Shares of the signal, abar, at the three indices: from little noise to much."""
LEVELS = (0.5, 0.5**0.5, 2**0.5, 2.0)
"""Other strengths of noise that the denoiser is told, relative to the right one."""
TOLD_OTHERWISE = 0.98
"""At least this share of its error has to stay where it is told another strength than the right one."""


def denoiser_errors(prior: Prior, images: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """How well the denoiser finds the noise in scaled latents of uint8 images (n, C, H, W), a row for each of three indices.

    index: the one whose signal's share, abar, is nearest to one of SIGNALS; error: mean of (eps_theta(z_i, i) - eps)^2 over
    entries; bound: the least error of who knows the mean and the covariance of the latents' channels and nothing of images,

        mean over the eigenvalues l of the covariance of abar l / (abar l + 1 - abar),

    which a denoiser of these latents has to beat; told: the index that it finds the noise best at when it is told that
    instead, among those whose noise is LEVELS times as strong, and told_error its error then. Who believes the right thing
    errs least, so told_error below error means another schedule. latent_std: standard deviation of all entries.
    """
    z0 = prior.encode_in_slices(to_float(images))
    channels = z0.transpose(0, 1).flatten(1).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(channels).reshape(len(channels), -1)).clamp(min=0)
    abar = prior.abar[:-1].cpu()
    level = ((1 - abar) / abar).log() / 2
    rows = []
    for share in SIGNALS:
        i = int((abar - share).abs().argmin())
        noise = normal(z0.shape[1:], range(len(z0)), seed=seed, step=i, stream=Stream.CONTROL, like=z0)
        z = (abar[i].sqrt() * z0 + (1 - abar[i]).sqrt() * noise).to(z0)
        others = {int((level - level[i] - float(np.log(factor))).abs().argmin()) for factor in LEVELS} - {i}
        errors = {j: _error(prior, z, noise, j) for j in (i, *sorted(others))}
        told = min(others, key=errors.get, default=i)
        power = abar[i] * eigenvalues
        rows.append(
            {
                "index": i,
                "signal": float(abar[i]),
                "error": errors[i],
                "bound": float((power / (power + 1 - abar[i])).mean()),
                "told": told,
                "told_error": errors[told],
                "latent_std": float(channels.std()),
            }
        )
    return pd.DataFrame(rows)


@torch.no_grad()
def _error(prior: Prior, z: Tensor, noise: Tensor, index: int) -> float:
    """The mean squared error of the noise found in z (n, c, h, w) by the denoiser, told that it stands at an index."""
    found = [
        prior.predict_eps(part, torch.full((len(part),), index)).cpu().double()
        for part in z.to(prior.abar.device).split(slice_size(z))
    ]
    return float((torch.cat(found) - noise).square().mean())


def check_denoiser(prior: Prior, images: np.ndarray) -> pd.DataFrame:
    """:func:`denoiser_errors` of the first IMAGES of uint8 images (n, C, H, W); ValueError where they are out of bounds.

    The bounds: error <= bound, and told_error >= TOLD_OTHERWISE x error, at all three indices. How they were chosen, and
    what they catch: docs/trust.md. ValueError, too, for images of another size than the prior's.
    """
    images = images[np.arange(min(IMAGES, len(images)))]
    _check_size(prior, images.shape[1:])
    rows = denoiser_errors(prior, images)
    for row in rows.itertuples():
        if not row.error <= row.bound:  # so that NaN is refused, too
            raise ValueError(
                f"prior: the denoiser does not know the latents of these images, whose standard deviation is {row.latent_std:.3g}: "
                f"noised to index {row.index} (signal {row.signal:.2f}), its eps error is {row.error:.3g}, and knowing their mean and "
                f"covariance alone leaves {row.bound:.3g}; the prior's scale, normalisation or schedule is not the one that it was "
                f"trained with, or its images are of another kind (scaling_factor is {prior.scaling_factor:g}, and "
                f"{prior.scaling_factor / row.latent_std:.3g} would give the latents unit variance): correct it in the autoencoder's "
                "config.json, or give another prior."
            )
        if row.told_error < TOLD_OTHERWISE * row.error:
            raise ValueError(
                f"prior: the denoiser was trained with another schedule: noised to index {row.index} (signal {row.signal:.2f}), its eps "
                f"error is {row.error:.3g}, and {row.told_error:.3g} when it is told index {row.told}; give the "
                "scheduler_config.json that belongs to it."
            )
    return rows


def _check_size(prior: Prior, shape: tuple[int, int, int]) -> None:
    """ValueError unless images (C, H, W) have the channels, and latents of the size, that the prior was trained on."""
    channels = prior.autoencoder.config.in_channels // prior.pixel_unshuffle**2
    if shape[0] != channels:
        raise ValueError(f"data.channels: {shape[0]}, and the prior's images have {channels}; give {channels}.")
    size = prior.unet.config.sample_size
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    factor = prior.pixel_unshuffle * 2 ** (len(prior.autoencoder.config.block_out_channels) - 1)
    if shape[1:] != (factor * height, factor * width):
        raise ValueError(
            f"data.image_size: {shape[1]}, and the prior's denoiser was trained on latents of {height} x {width}, which are those of "
            f"images of {factor * height} x {factor * width}; give {factor * height}."
        )
