"""Original latent-diffusion checkpoints of CompVis (`.ckpt` with `config.yaml`) in the layout that the prior reads.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", publish their unconditional models
as Lightning checkpoints. The architectures are those of diffusers under other names, so the converter is a table of
names, built from the config; with it every tensor of the file is either used or known not to be needed. Files are read
as data: nothing in them is executed.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flashdiff.prior import Prior
from flashdiff.weights.checkpoints import account, read_checkpoint
from flashdiff.weights.compvis_config import DiffusionParameters, read_config
from flashdiff.weights.compvis_names import fill, first_stage_sources, unet_sources

FIRST_STAGE, UNET, EMA = "first_stage_model.", "model.diffusion_model.", "model_ema."


def _averaged(key: str) -> str:
    """The name of a UNet tensor's exponential moving average: without the dots."""
    return EMA + f"diffusion_model.{key}".replace(".", "")


class LatentDiffusion(NamedTuple):
    """A model as diffusers has it: AutoencoderKL or VQModel, UNet2DModel, and the arguments of its DDPMScheduler."""

    autoencoder: nn.Module
    unet: nn.Module
    scheduler: dict[str, Any]

    @property
    def alphas_cumprod(self) -> Tensor:
        """abar (N,) of the scheduler."""
        from diffusers import DDPMScheduler

        return DDPMScheduler(**self.scheduler).alphas_cumprod


def read_compvis(checkpoint: str | Path, config: str | Path, *, ema: bool = True) -> LatentDiffusion:
    """The model in a CompVis checkpoint.

    checkpoint: a .ckpt with an unconditional UNet and a VQ or KL autoencoder; config: its config.yaml; ema: the
    averaged weights of the UNet, which the original code samples with, or those of the last training step.

    Raises FileNotFoundError, or ValueError with one sentence: a file that would run code, a config that lacks an entry
    or describes another kind of model, tensors that are missing, unknown or of a wrong shape, a noise schedule that is
    not the config's.
    """
    from diffusers import AutoencoderKL, UNet2DModel, VQModel

    state, _ = read_checkpoint(checkpoint)
    parameters = read_config(Path(config))
    first = parameters.first_stage_config
    # without memory of their own: the tensors of the file become the parameters
    with torch.device("meta"):
        if first.quantised:
            codes = {"num_vq_embeddings": first.params.n_embed, "vq_embed_dim": first.params.embed_dim}
            autoencoder = VQModel(**first.params.ddconfig.diffusers(), **codes)
        else:
            autoencoder = AutoencoderKL(**first.params.ddconfig.diffusers())
        unet = UNet2DModel(**parameters.unet_config.params.diffusers())
    schedule = _schedule(parameters)
    of_autoencoder, of_unet = first_stage_sources(autoencoder), unet_sources(unet)

    last = {UNET + source.key: source.shape for source in of_unet.values()}
    average = {_averaged(source.key): source.shape for source in of_unet.values()}
    chosen, other = (average, last) if ema else (last, average)
    if ema and not any(key in state for key in average):
        raise ValueError(
            f"checkpoint: {checkpoint} holds no averaged weights ({EMA}...); ask for the raw ones (ema=False, --raw)."
        )
    needed = {FIRST_STAGE + source.key: source.shape for source in of_autoencoder.values()} | chosen
    needed |= {key: tuple(value.shape) for key, value in schedule.items()}
    if any(key in state for key in other):  # not needed, but half of them would tell of a damaged file
        needed |= other
    if parameters.scale_by_std:
        needed["scale_factor"] = ()
    spare = {f"{EMA}decay", f"{EMA}num_updates", "logvar"}
    spare |= {key for key in state if key.startswith(f"{FIRST_STAGE}loss.")}  # discriminator and perceptual loss
    account(checkpoint, state, needed, spare)
    for key, values in schedule.items():
        rounding = (
            torch.finfo(state[key].dtype).eps if state[key].is_floating_point() else 0.0
        )  # of half precision, say
        if not torch.allclose(state[key].double(), values, rtol=max(1e-5, rounding), atol=1e-7):
            raise ValueError(
                f"checkpoint: {checkpoint}: {key} is not what linear_start {parameters.linear_start}, linear_end"
                f" {parameters.linear_end} and timesteps {parameters.timesteps} of {config} give; give the config.yaml"
                " that belongs to it."
            )

    fill(autoencoder, of_autoencoder, state, FIRST_STAGE)
    named = {
        name: source._replace(key=_averaged(source.key) if ema else UNET + source.key)
        for name, source in of_unet.items()
    }
    fill(unet, named, state)
    scale = float(state["scale_factor"]) if parameters.scale_by_std else parameters.scale_factor
    autoencoder.register_to_config(scaling_factor=scale)
    return LatentDiffusion(autoencoder, unet, parameters.scheduler())


def load_compvis_prior(checkpoint: str | Path, config: str | Path | None = None, *, ema: bool = True) -> Prior:
    """The prior in an original checkpoint; config: by default the config.yaml beside it; otherwise as :func:`read_compvis`."""
    config = Path(checkpoint).with_name("config.yaml") if config is None else config
    model = read_compvis(checkpoint, config, ema=ema)
    return Prior(model.autoencoder, model.unet, model.alphas_cumprod)


def _schedule(parameters: DiffusionParameters) -> dict[str, Tensor]:
    """The schedule's buffers (N,) under their original names, from the closed forms (Ho et al. 2020), in float64."""
    start, end, n = parameters.linear_start, parameters.linear_end, parameters.timesteps
    beta = torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    v = parameters.v_posterior
    variance = (1 - v) * beta * (1 - before) / (1 - abar) + v * beta
    return {
        "betas": beta,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - abar).log(),
        "sqrt_recip_alphas_cumprod": (1 / abar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": beta * before.sqrt() / (1 - abar),
        "posterior_mean_coef2": (1 - before) * (1 - beta).sqrt() / (1 - abar),
    }
