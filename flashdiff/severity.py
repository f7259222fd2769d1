"""The severity encoder: a measurement in, a latent estimate and its predicted error out; how well it orders severity."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Encoder
from torch import Tensor, nn

from flashdiff.batch import Stream, normal, slice_size, uniform
from flashdiff.datasets.splits import to_float
from flashdiff.degradations import Degradation, measure
from flashdiff.prior import Prior


class Severity(NamedTuple):
    """What the encoder says of measurements: z_hat (B, c, h, w), scaled latents; variance (B,) = sigma_hat^2 >= 0."""

    z_hat: Tensor
    variance: Tensor

    @property
    def sigma_hat(self) -> Tensor:
        """Predicted severity (B,): standard deviation of z_hat's error, in units of the scaled latent."""
        return self.variance.sqrt()

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(self.z_hat.to(device), self.variance.to(device))


class SeverityEncoder(ModelMixin, ConfigMixin):
    """E_theta(y) -> (z_hat, sigma_hat): the prior's encoder with a second 1x1 convolution that tells its own error.

    sigma_hat^2 is the mean over positions and channels of that convolution's squared output, times scaling_factor^2 so
    that it is in units of the scaled latent. Model of the error: z_hat = z0 + e, e ~ N(0, sigma_hat^2 I).
    Measurements y (B, in_channels, H, W) around [-1, 1]. Source: Fabian et al. 2024, section on severity encoding.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        feature_channels: int,
        down_block_types: tuple[str, ...],
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        norm_num_groups: int,
        mid_block_add_attention: bool,
        scaling_factor: float,
        pixel_unshuffle: int = 1,
    ):
        super().__init__()
        self.encoder = Encoder(
            in_channels=in_channels * pixel_unshuffle**2,
            out_channels=feature_channels,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=mid_block_add_attention,
            double_z=False,
        )
        self.quant_conv = nn.Conv2d(feature_channels, latent_channels, 1)
        self.std_conv = nn.Conv2d(feature_channels, latent_channels, 1)

    @classmethod
    def from_prior(cls, prior: Prior, seed: int = 0) -> Self:
        """A copy of the prior's encoder, same weights; std_conv is new, drawn with ``seed``.

        Of a KL autoencoder's moments only the mean is kept: its log-variances lie near -9, and their squares would
        start the severity loss at thousands.
        """
        autoencoder = prior.autoencoder
        weight, bias = autoencoder.quant_conv.weight, autoencoder.quant_conv.bias
        config = autoencoder.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = cls(
                in_channels=config.in_channels // prior.pixel_unshuffle**2,
                latent_channels=config.latent_channels,
                feature_channels=weight.shape[1],
                down_block_types=config.down_block_types,
                block_out_channels=config.block_out_channels,
                layers_per_block=config.layers_per_block,
                norm_num_groups=config.norm_num_groups,
                mid_block_add_attention=config.mid_block_add_attention,
                scaling_factor=prior.scaling_factor,
                pixel_unshuffle=prior.pixel_unshuffle,
            )
        encoder.encoder.load_state_dict(autoencoder.encoder.state_dict())
        mean = {"weight": weight[: config.latent_channels], "bias": bias[: config.latent_channels]}
        encoder.quant_conv.load_state_dict(mean)
        return encoder.to(weight.device)

    def forward(self, y: Tensor) -> Severity:
        features = self.encoder(F.pixel_unshuffle(y, self.config.pixel_unshuffle))
        variance = self.std_conv(features).square().flatten(1).mean(1)
        scale = self.config.scaling_factor
        return Severity(self.quant_conv(features) * scale, variance * scale**2)

    @torch.no_grad()
    def infer(self, y: Tensor, batch_size: int | None = None) -> Severity:
        """The encoder on any number of measurements, in slices of batch_size (None: as many as fit anywhere).

        Raises ValueError for NaN or a wrong shape.
        """
        if y.ndim != 4 or y.shape[1] != self.config.in_channels:
            raise ValueError(f"y: shape {tuple(y.shape)}; this encoder takes (B, {self.config.in_channels}, H, W).")
        if not bool(torch.isfinite(y).all()):
            raise ValueError("y: contains NaN or infinite values; remove them before encoding.")
        parts = [self(part.to(self.device, self.dtype)) for part in y.split(batch_size or slice_size(y))]
        return Severity(torch.cat([p.z_hat for p in parts]), torch.cat([p.variance for p in parts]))


def latent_error_variance(z_hat: Tensor, z0: Tensor) -> Tensor:
    """sbar^2 (B,): sample variance (divisor d - 1) of the entries of z_hat - z0, per image."""
    return (z_hat - z0).flatten(1).var(1, unbiased=True)


def severity_loss_terms(
    output: Severity, z0: Tensor, x0: Tensor, decode: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms of the loss, each (B,): latent error, severity error, image error; all are per-image means.

    (1/d) ||z_hat - z0||^2, (sigma_hat^2 - sbar^2)^2 and (1/d_x) ||D0(z_hat) - x0||^2. The released code sums the image
    term over the batch before dividing, so that it grows with the batch size; the paper's mean is used here.
    """
    latent = (output.z_hat - z0).square().flatten(1).mean(1)
    severity = (output.variance - latent_error_variance(output.z_hat, z0)).square()
    image = (decode(output.z_hat) - x0).square().flatten(1).mean(1)
    return latent, severity, image


def training_loss(
    prior: Prior,
    degradation: Degradation,
    noise_std: float,
    images: np.ndarray,
    *,
    lambda_sigma: float = 1.0,
    lambda_image: float = 1.0,
    seed: int = 0,
) -> Callable:
    """The severity encoder's loss for :func:`flashdiff.training.loop.train`: t ~ U[0, 1] and noise anew at every step.

    images (n, C, H, W) uint8; their latents z0 = E0(x0) are computed on the fly, E0 and D0 stay frozen.
    """

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = prior.abar.device
        x0 = to_float(images[ids]).to(device)
        with torch.no_grad():
            z0 = prior.encode(x0)  # first, so that a GPU encodes while the CPU draws the noise
        t = uniform(ids, seed=seed, step=step, stream=Stream.LEVEL, like=x0)
        clean = degradation.apply(x0, degradation.prepare(t, tuple(x0.shape[1:]), ids))
        noise = normal(clean.shape[1:], ids, seed=seed, step=step, stream=Stream.TRAINING_NOISE, like=clean)
        latent, severity, image = severity_loss_terms(model(clean + noise_std * noise), z0, x0, prior.decode)
        total = latent + lambda_sigma * severity + lambda_image * image
        return total.mean(), {"latent": latent.mean(), "severity": severity.mean(), "image": image.mean()}

    return loss


def ordering_accuracy(sigma: Tensor) -> Tensor:
    """Share of level pairs in the right order, per image (Definition 1): sigma (n, T), levels increasing -> (n,).

    A pair i < j counts when sigma_i <= sigma_j.
    """
    if sigma.ndim != 2 or sigma.shape[1] < 2:
        raise ValueError(f"sigma: shape {tuple(sigma.shape)}; give (images, levels) with at least two levels.")
    first, second = torch.triu_indices(sigma.shape[1], sigma.shape[1], offset=1)
    return (sigma[:, first] <= sigma[:, second]).double().mean(1)


def severity_at_levels(
    encoder: SeverityEncoder,
    x: Tensor,
    degradation: Degradation,
    noise_std: float,
    levels: Tensor,
    *,
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Tensor:
    """sigma_hat (n, T) of clean images x (n, C, H, W) degraded at levels (T,), every level with its own noise.

    ids (n,) key the noise, by default 0..n-1.
    """
    columns = []
    for k, level in enumerate(levels):
        y = measure(x, degradation, float(level), noise_std, seed=seed + k, ids=ids).y
        columns.append(encoder.infer(y).sigma_hat)
    return torch.stack(columns, dim=1)
