"""The severity encoder: a measurement in, a latent estimate and its predicted error out; how well it orders severity."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Encoder
from torch import Tensor, nn

from flashdiff.batch import Stream, normal, per_sample, slice_size, uniform
from flashdiff.datasets.splits import to_float
from flashdiff.degradations import Degradation, measure
from flashdiff.diffusers_folder import load_whole
from flashdiff.prior import Prior

GATE_OPEN = 2.0
"""Where the gate of a correcting encoder begins: sigmoid(2) = 0.88 of E0(y) passes, and its gradient is alive."""


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
    """E_theta(y) -> (z_hat, sigma_hat): a latent estimate of the clean image, and its own error.

    Two architectures. The published one (no ``correction_channels``) is the prior's encoder E0 with a second 1x1 convolution
    for the error. The other keeps E0 frozen and corrects it, z_hat = g E0(y) + c, with gate g in (0, 1), correction c and the
    error from a network of its own, so that a clean image costs nothing and a useless E0(y) is left aside.

    sigma_hat^2 is the mean over positions and channels of the error maps' squares, times scaling_factor^2 so that it is in
    units of the scaled latent. Model of the error: z_hat = z0 + e, e ~ N(0, sigma_hat^2 I). Measurements y
    (B, in_channels, H, W) around [-1, 1]. Source: Fabian et al. 2024, section on severity encoding; the correction is ours.
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
        correction_channels: tuple[int, ...] = (),
        correction_layers: int = 1,
    ):
        super().__init__()
        folded = in_channels * pixel_unshuffle**2
        self.encoder = Encoder(
            in_channels=folded,
            out_channels=feature_channels,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=mid_block_add_attention,
            double_z=False,
        )
        self.quant_conv = nn.Conv2d(feature_channels, latent_channels, 1)
        if correction_channels:
            self.correction = Encoder(
                in_channels=folded,
                out_channels=3 * latent_channels,  # correction, error and gate
                down_block_types=("DownEncoderBlock2D",) * len(correction_channels),
                block_out_channels=tuple(correction_channels),
                layers_per_block=correction_layers,
                norm_num_groups=8,
                mid_block_add_attention=True,
                double_z=False,
            )
            for part in (self.encoder, self.quant_conv):
                part.requires_grad_(False)
        else:
            self.std_conv = nn.Conv2d(feature_channels, latent_channels, 1)

    @classmethod
    def from_pretrained(cls, path: str | Path, **options) -> Self:
        """Load what ``save_pretrained`` wrote; options are those of diffusers' ModelMixin.

        ValueError in one sentence where a folder's weights are damaged, incomplete, or another network's; FileNotFoundError.
        """
        return load_whole("severity encoder", super().from_pretrained, path, **options)

    @classmethod
    def from_prior(
        cls, prior: Prior, seed: int = 0, correction_channels: Sequence[int] = (), correction_layers: int = 1
    ) -> Self:
        """A copy of the prior's encoder, same weights; what is new is drawn with ``seed``.

        correction_channels: feature maps per resolution of the network that corrects E0, one for each of the prior's
        resolutions; empty: the published architecture. Of a KL autoencoder's moments only the mean is kept: its log-variances
        lie near -9, and their squares would start the severity loss at thousands.
        """
        autoencoder = prior.autoencoder
        weight, bias = autoencoder.quant_conv.weight, autoencoder.quant_conv.bias
        config = autoencoder.config
        resolutions = len(config.block_out_channels)
        if correction_channels and len(correction_channels) != resolutions:
            raise ValueError(
                f"severity.architecture.channels: {list(correction_channels)} for an autoencoder of {resolutions} resolutions; "
                "give one number for each."
            )
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
                correction_channels=tuple(correction_channels),
                correction_layers=correction_layers,
            )
        encoder.encoder.load_state_dict(autoencoder.encoder.state_dict())
        mean = {"weight": weight[: config.latent_channels], "bias": bias[: config.latent_channels]}
        encoder.quant_conv.load_state_dict(mean)
        return encoder.to(weight.device)

    @property
    def corrects(self) -> bool:
        """Whether this encoder corrects a frozen E0."""
        return bool(self.config.correction_channels)

    def forward(self, y: Tensor) -> Severity:
        folded, scale = F.pixel_unshuffle(y, self.config.pixel_unshuffle), self.config.scaling_factor
        if self.corrects:
            # The rounding of bf16 would cost a clean image what E0 gives for nothing.
            with torch.autocast(y.device.type, enabled=False):
                own = self.quant_conv(self.encoder(folded))
            # The whole tensor in one cast: its parts are summed and squared below in full precision.
            correction, error, gate = self.correction(folded).to(own.dtype).chunk(3, dim=1)
            z_hat = torch.sigmoid(gate + GATE_OPEN) * own + correction
        else:
            features = self.encoder(folded)
            z_hat, error = self.quant_conv(features), self.std_conv(features)
        return Severity(z_hat * scale, error.square().flatten(1).mean(1) * scale**2)

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


def negative_log_likelihood(output: Severity, z0: Tensor) -> Tensor:
    """The paper's own error model as a loss (B,): v^(1/2) (mean e^2 / v + log v), e = z_hat - z0, v = sigma_hat^2.

    Up to constants the negative log-likelihood of z_hat = z0 + e, e ~ N(0, v I), per entry, weighted by the detached v^(1/2).
    It weighs every image by its own severity, where the squared error is nearly all hard images'; the weight keeps those of
    them that are predicted uncertain from being given up. Source: Seitzer et al. 2022 (beta-NLL, beta = 1/2).
    """
    # An error of a thousandth of a latent's spread is nothing: below it the logarithm would reward nothing but itself.
    variance = output.variance + 1e-6
    error = (output.z_hat - z0).square().flatten(1).mean(1)
    return variance.detach().sqrt() * (error / variance + variance.log())


LOSSES = ("squared", "likelihood")
"""What a severity encoder is trained by: the published loss, or :func:`negative_log_likelihood` in place of its two latent terms."""


def training_loss(
    prior: Prior,
    degradation: Degradation,
    noise_std: float | Sequence[float],
    images: np.ndarray,
    *,
    loss: str = "squared",
    lambda_sigma: float = 1.0,
    lambda_image: float = 1.0,
    seed: int = 0,
) -> Callable:
    """The severity encoder's loss for :func:`flashdiff.training.loop.train`: t ~ U[0, 1] and noise anew at every step.

    images (n, C, H, W) uint8; their latents z0 = E0(x0) are computed on the fly, E0 and D0 stay frozen. noise_std: of the
    measurement, or (lowest, highest), and every image of every step draws its own from between. loss: one of LOSSES, plus
    lambda_image times the image term; lambda_sigma is the squared loss's alone.
    """
    lowest, highest = (noise_std, noise_std) if isinstance(noise_std, int | float) else noise_std

    def per_image(output: Severity, z0: Tensor, x0: Tensor) -> dict[str, Tensor]:
        if loss == "squared":
            latent, severity, image = severity_loss_terms(output, z0, x0, prior.decode)
            total = latent + lambda_sigma * severity + lambda_image * image
            return {"total": total, "latent": latent, "severity": severity, "image": image}
        likelihood = negative_log_likelihood(output, z0)
        terms = {"total": likelihood, "latent": (output.z_hat - z0).square().flatten(1).mean(1), "nll": likelihood}
        if lambda_image:
            terms["image"] = (prior.decode(output.z_hat) - x0).square().flatten(1).mean(1)
            terms["total"] = likelihood + lambda_image * terms["image"]
        return terms

    def of_batch(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        device = prior.abar.device
        draw = {"seed": seed, "step": step}
        x0 = to_float(images[ids]).to(device)
        with torch.no_grad():
            z0 = prior.encode(x0)  # first, so that a GPU encodes while the CPU draws the noise
        t = uniform(ids, stream=Stream.LEVEL, like=x0, **draw)
        clean = degradation.apply(x0, degradation.prepare(t, tuple(x0.shape[1:]), ids))
        noise = normal(clean.shape[1:], ids, stream=Stream.TRAINING_NOISE, like=clean, **draw)
        std: float | Tensor = lowest
        if highest > lowest:
            std = lowest + (highest - lowest) * uniform(ids, stream=Stream.NOISE_LEVEL, like=clean, **draw)
            std = per_sample(std, clean)
        terms = per_image(model(clean + std * noise), z0, x0)
        return terms.pop("total").mean(), {name: term.mean() for name, term in terms.items()}

    return of_batch


def ordering_accuracy(sigma: Tensor, strict: bool = False) -> Tensor:
    """Share of level pairs in the right order, per image (Definition 1): sigma (n, T), levels increasing -> (n,).

    A pair i < j counts when sigma_i <= sigma_j, so that an encoder that answers the same to everything has 1; with ``strict``
    when sigma_i < sigma_j, and it has 0.
    """
    if sigma.ndim != 2 or sigma.shape[1] < 2:
        raise ValueError(f"sigma: shape {tuple(sigma.shape)}; give (images, levels) with at least two levels.")
    first, second = torch.triu_indices(sigma.shape[1], sigma.shape[1], offset=1)
    right = sigma[:, first] < sigma[:, second] if strict else sigma[:, first] <= sigma[:, second]
    return right.double().mean(1)


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
        y = measure(x, degradation, float(level), noise_std, seed=seed, ids=ids, draw=k).y
        columns.append(encoder.infer(y).sigma_hat)
    return torch.stack(columns, dim=1)
