"""Original latent-diffusion checkpoints of CompVis (`.ckpt` with `config.yaml`) in the layout that the prior reads.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", publish their unconditional models
as Lightning checkpoints. The architectures are those of diffusers under other names, so the converter is a table of
names, built from the config; with it every tensor of the file is either used or known not to be needed. Files are read
as data: nothing in them is executed.
"""

import os
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch import Tensor, nn

from flashdiff.prior import Prior

# ----------------------------------------------------------------------------------------------------------- the config


class Architecture(BaseModel):
    """Arguments of an original network: all of them have to be known, because some leave no trace in the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Settings(BaseModel):
    """Settings of which some concern the training only: the others are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class AutoencoderNetwork(Architecture):
    """``ddconfig``: encoder and decoder of a first stage."""

    ch: int = Field(gt=0)
    out_ch: int
    ch_mult: list[int] = Field(min_length=1)
    num_res_blocks: int = Field(gt=0)
    attn_resolutions: list[int]
    in_channels: int
    resolution: int
    z_channels: int
    double_z: bool
    dropout: float = 0.0
    resamp_with_conv: Literal[True] = True
    use_linear_attn: Literal[False] = False
    attn_type: Literal["vanilla"] = "vanilla"
    give_pre_end: Literal[False] = False
    tanh_out: Literal[False] = False

    def diffusers(self) -> dict[str, Any]:
        """Arguments of diffusers' autoencoders."""
        # The original network attends at a level if its resolution is listed, for images of the training's size.
        attends = [self.resolution // 2**level in self.attn_resolutions for level in range(len(self.ch_mult))]
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_ch,
            "down_block_types": [f"{'Attn' if a else ''}DownEncoderBlock2D" for a in attends],
            "up_block_types": [f"{'Attn' if a else ''}UpDecoderBlock2D" for a in reversed(attends)],
            "block_out_channels": [self.ch * factor for factor in self.ch_mult],
            "layers_per_block": self.num_res_blocks,
            "latent_channels": self.z_channels,
            "norm_num_groups": 32,
            "sample_size": self.resolution,
        }


class AutoencoderParameters(Settings):
    embed_dim: int
    n_embed: int | None = None
    remap: None = None
    ddconfig: AutoencoderNetwork


class FirstStage(Settings):
    """``first_stage_config``: the autoencoder. The two VQ classes differ in their methods, not in their weights."""

    target: Literal[
        "ldm.models.autoencoder.VQModelInterface",
        "ldm.models.autoencoder.VQModel",
        "ldm.models.autoencoder.AutoencoderKL",
    ]
    params: AutoencoderParameters

    @property
    def quantised(self) -> bool:
        return not self.target.endswith("AutoencoderKL")

    @model_validator(mode="after")
    def _consistent(self) -> "FirstStage":
        network = self.params.ddconfig
        if network.double_z == self.quantised:
            raise ValueError(f"double_z is {network.double_z}, which contradicts the target")
        if self.params.embed_dim != network.z_channels:
            raise ValueError(f"embed_dim is {self.params.embed_dim} and z_channels {network.z_channels}, not the same")
        if self.quantised and self.params.n_embed is None:
            raise ValueError("n_embed is missing")
        return self


class UNetParameters(Architecture):
    image_size: int
    in_channels: int
    out_channels: int
    model_channels: int = Field(gt=0)
    attention_resolutions: list[int]
    num_res_blocks: int = Field(gt=0)
    channel_mult: list[int] = Field(min_length=1)
    num_head_channels: int = Field(gt=0)
    dropout: float = 0.0
    conv_resample: Literal[True] = True
    dims: Literal[2] = 2
    num_classes: None = None
    use_checkpoint: bool = False
    use_scale_shift_norm: Literal[False] = False
    resblock_updown: Literal[False] = False
    use_new_attention_order: Literal[False] = False
    use_spatial_transformer: Literal[False] = False

    def diffusers(self) -> dict[str, Any]:
        """Arguments of diffusers' UNet2DModel."""
        # Here, attention_resolutions are factors of downsampling.
        attends = [2**level in self.attention_resolutions for level in range(len(self.channel_mult))]
        return {
            "sample_size": self.image_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": [self.model_channels * factor for factor in self.channel_mult],
            "layers_per_block": self.num_res_blocks,
            "down_block_types": [f"{'Attn' if a else ''}DownBlock2D" for a in attends],
            "up_block_types": [f"{'Attn' if a else ''}UpBlock2D" for a in reversed(attends)],
            "attention_head_dim": self.num_head_channels,
            "dropout": self.dropout,
            "norm_num_groups": 32,
        }


class UNet(Settings):
    target: Literal["ldm.modules.diffusionmodules.openaimodel.UNetModel"]
    params: UNetParameters


class DiffusionParameters(Settings):
    linear_start: float = Field(gt=0, lt=1)
    linear_end: float = Field(gt=0, lt=1)
    timesteps: int = Field(gt=1)
    beta_schedule: Literal["linear"] = "linear"
    parameterization: Literal["eps"] = "eps"
    v_posterior: float = 0.0
    scale_factor: float = 1.0
    scale_by_std: bool = False
    cond_stage_config: Literal["__is_unconditional__"]
    unet_config: UNet
    first_stage_config: FirstStage

    @model_validator(mode="after")
    def _consistent(self) -> "DiffusionParameters":
        first, unet = self.first_stage_config, self.unet_config.params
        if first.target.endswith("VQModel"):
            raise ValueError(
                "the first stage is VQModel, whose latents are quantised; VQModelInterface and AutoencoderKL are read"
            )
        if not unet.in_channels == unet.out_channels == first.params.embed_dim:
            raise ValueError(
                f"in_channels, out_channels and embed_dim are {unet.in_channels}, {unet.out_channels} and"
                f" {first.params.embed_dim}, not the same"
            )
        return self

    def scheduler(self) -> dict[str, Any]:
        """Arguments of diffusers' DDPMScheduler; what LDM calls linear is linear in sqrt(beta)."""
        return {
            "num_train_timesteps": self.timesteps,
            "beta_start": self.linear_start,
            "beta_end": self.linear_end,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,  # latents have no fixed range
        }


class LatentDiffusion(Settings):
    target: Literal["ldm.models.diffusion.ddpm.LatentDiffusion"]
    params: DiffusionParameters


class Config(Settings):
    model: LatentDiffusion


Schema = TypeVar("Schema", bound=BaseModel)


def checked(schema: type[Schema], content: Any, where: str) -> Schema:
    """``content`` in a schema; raises ValueError with one sentence, which starts with ``where``."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        found = "; ".join(_problem(problem) for problem in error.errors())
        raise ValueError(
            f"{where}: {found}; give the file published with the weights (other kinds of model are not read)."
        ) from None


def _problem(problem: Mapping[str, Any]) -> str:
    field, kind = ".".join(str(part) for part in problem["loc"]), problem["type"]
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return f"{field} is missing"
    if kind == "extra_forbidden":
        return f"{field} is not supported"
    if kind == "value_error":
        return f"{field}: {message}"
    value = repr(problem["input"])
    value = value if len(value) < 60 else f"{value[:60]}..."
    return f"{field or 'its content'} is {value}, but {message[0].lower()}{message[1:]}"


def _read_config(path: Path) -> DiffusionParameters:
    if not path.is_file():
        raise FileNotFoundError(f"config: there is no file '{path}'; give the checkpoint's config.yaml.")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"config: {path} is no YAML ({reason}); give the config.yaml published with the weights."
        ) from None
    return checked(Config, content, f"config: {path}").model.params


# -------------------------------------------------------------------------------------------------- reading checkpoints


def _stand_in(name: str) -> type:
    """A class that takes the place of a global in a pickle, and does nothing with whatever it is given."""
    module, _, own = name.rpartition(".")
    body = {
        "__module__": module,
        "__new__": lambda cls, *_, **__: object.__new__(cls),
        "__init__": lambda *_, **__: None,
        "__setstate__": lambda *_: None,
    }
    return type(own, (), body)


STAND_INS = [
    _stand_in(name)
    for name in (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
    )
]
"""What CompVis' checkpoints refer to beside tensors: the state of Lightning's callbacks, with scalars of numpy. None of
it is needed, so these names, and no others, get classes that do nothing."""


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The ``state_dict`` of a Lightning checkpoint, mapped from disk, and all that stands beside it.

    Read as data: raises FileNotFoundError, or ValueError for a file that refers to code, is no checkpoint or holds no
    ``state_dict`` of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file '{path}'; give the path of the published .ckpt.")
    try:
        with torch.serialization.safe_globals(STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # bytes of another kind make the reader raise whatever they happen to
        reason = " ".join(str(error).split())
        if named := re.search(r"GLOBAL (\S+)", reason):
            raise ValueError(
                f"checkpoint: {path} refers to {named[1]}, which is neither a tensor nor plain data, and was not"
                " loaded; give the published file, or save its state_dict and its settings as tensors, dicts, lists,"
                " strings and numbers."
            ) from None
        raise ValueError(
            f"checkpoint: {path} is not readable as tensors ({reason[:200]}); give the published .ckpt."
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"checkpoint: {path} holds no state_dict of named tensors; give the published .ckpt.")
    return state, {name: value for name, value in content.items() if name != "state_dict"}


def account(
    path: str | Path, state: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]], spare: Collection[str]
) -> None:
    """Raise ValueError unless the tensors are exactly those needed, in their shapes, and some of the spare ones."""
    lacking = [key for key in needed if key not in state]
    unknown = [key for key in state if key not in needed and key not in spare]
    other = [
        f"{key} {_times(state[key].shape)} instead of {_times(shape)}"
        for key, shape in needed.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = {"lacks": lacking, "holds unknown": unknown, "holds wrongly shaped": other}
    found = "; ".join(
        f"{what} {len(keys)} tensor{'s'[: len(keys) != 1]} ({_some(keys)})" for what, keys in problems.items() if keys
    )
    if found:
        raise ValueError(f"checkpoint: {path} {found}; give the published file, with the config that belongs to it.")


def _times(shape: Collection[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


# ---------------------------------------------------------------------------------------------------------------- names


class Source(NamedTuple):
    """Where a diffusers parameter comes from: the original tensor's name and shape, and the part of it to take."""

    key: str
    shape: tuple[int, ...]
    take: Callable[[Tensor], Tensor]


INSIDE_FIRST_STAGE = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
INSIDE_UNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}


def _original(name: str, places: Mapping[str, str], inside: Mapping[str, str]) -> str:
    """The original name of a parameter: ``places`` of blocks, and of layers inside of residual and attention blocks."""
    layer, _, parameter = name.rpartition(".")
    block = next((place for place in places if layer == place or layer.startswith(f"{place}.")), None)
    if block is None:
        return name
    within = layer[len(block) + 1 :]
    return ".".join(part for part in (places[block], inside.get(within, within), parameter) if part)


def first_stage_sources(model: nn.Module) -> dict[str, Source]:
    """Sources of all parameters of an autoencoder, or of its encoder alone; attention is 1x1 convolutions there."""
    parameters = model.state_dict()
    levels = len(model.config.block_out_channels)
    places = {}
    for side in ("encoder", "decoder"):
        places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        places[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
        for k in (0, 1):
            places[f"{side}.mid_block.resnets.{k}"] = f"{side}.mid.block_{k + 1}"
    for level in range(levels):
        # the original decoder counts its levels from the finest, which comes last
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        places[f"{down}.downsamplers.0"] = f"encoder.down.{level}.downsample"
        places[f"{up}.upsamplers.0"] = f"decoder.up.{level}.upsample"
        for k in range(model.config.layers_per_block + 1):
            for ours, theirs in (("resnets", "block"), ("attentions", "attn")):
                places[f"{down}.{ours}.{k}"] = f"encoder.down.{level}.{theirs}.{k}"
                places[f"{up}.{ours}.{k}"] = f"decoder.up.{level}.{theirs}.{k}"
    sources = {}
    for name, parameter in parameters.items():
        shape = tuple(parameter.shape)
        linear = ".attentions." in name and len(shape) == 2
        take = partial(torch.reshape, shape=shape)
        sources[name] = Source(_original(name, places, INSIDE_FIRST_STAGE), (*shape, 1, 1) if linear else shape, take)
    return sources


def unet_sources(unet: nn.Module) -> dict[str, Source]:
    """Sources of all parameters of a UNet2DModel; queries, keys and values share one tensor there."""
    parameters, layers = unet.state_dict(), unet.config.layers_per_block
    places = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for b in range(len(unet.down_blocks)):
        # every level has one more place: in the down path for the downsampling, in the up path for one more block
        for k in range(layers + 1):
            down, up = f"input_blocks.{1 + b * (layers + 1) + k}", f"output_blocks.{b * (layers + 1) + k}"
            for ours, place in (("resnets", 0), ("attentions", 1)):
                places[f"down_blocks.{b}.{ours}.{k}"] = f"{down}.{place}"
                places[f"up_blocks.{b}.{ours}.{k}"] = f"{up}.{place}"
        places[f"down_blocks.{b}.downsamplers.0.conv"] = f"{down}.0.op"
        attends = any(name.startswith(f"up_blocks.{b}.attentions.") for name in parameters)
        places[f"up_blocks.{b}.upsamplers.0.conv"] = f"{up}.{2 if attends else 1}.conv"
    sources = {}
    for name, parameter in parameters.items():
        key, shape = _original(name, places, INSIDE_UNET), tuple(parameter.shape)
        original, take = shape, partial(torch.reshape, shape=shape)
        if ".attentions." in name and len(shape) == 2:  # a convolution of width 1 along the flattened positions
            original = (*shape, 1)
        if part := re.search(r"\.to_([qkv])\.", name):
            original = (3 * original[0], *original[1:])
            take = partial(_of_qkv, part="qkv".index(part[1]), head=unet.config.attention_head_dim, shape=shape)
        sources[name] = Source(key, original, take)
    return sources


def _of_qkv(qkv: Tensor, part: int, head: int, shape: tuple[int, ...]) -> Tensor:
    """Queries (0), keys (1) or values (2) of all heads; the original has the rows of one head's three together."""
    return qkv.reshape(-1, 3, head, *shape[1:])[:, part].reshape(shape)


def fill(model: nn.Module, sources: Mapping[str, Source], state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put the original tensors into a model, in float32."""
    own = {name: source.take(state[prefix + source.key]).float().contiguous() for name, source in sources.items()}
    model.load_state_dict(own, strict=True, assign=True)


# ------------------------------------------------------------------------------------------------------------ the prior

FIRST_STAGE, UNET, EMA = "first_stage_model.", "model.diffusion_model.", "model_ema."


def _averaged(key: str) -> str:
    """The name of a UNet tensor's exponential moving average: without the dots."""
    return EMA + f"diffusion_model.{key}".replace(".", "")


def read_compvis(checkpoint: str | Path, config: str | Path, *, ema: bool = True) -> tuple[Prior, dict[str, Any]]:
    """The prior in a CompVis checkpoint, and the arguments of its scheduler (diffusers' DDPMScheduler).

    checkpoint: a .ckpt with an unconditional UNet and a VQ or KL autoencoder; config: its config.yaml; ema: the
    averaged weights of the UNet, which the original code samples with, or those of the last training step.

    Raises FileNotFoundError, or ValueError with one sentence: a file that would run code, a config that lacks an entry
    or describes another kind of model, tensors that are missing, unknown or of a wrong shape, a noise schedule that is
    not the config's.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel

    state, _ = read_checkpoint(checkpoint)
    parameters = _read_config(Path(config))
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
        if not torch.allclose(state[key].double(), values, rtol=1e-5, atol=1e-7):
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
    scheduler = parameters.scheduler()
    return Prior(autoencoder, unet, DDPMScheduler(**scheduler).alphas_cumprod), scheduler


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


def convert_compvis(checkpoint: str | Path, config: str | Path, target: str | Path, *, ema: bool = True) -> Prior:
    """Write a CompVis checkpoint as a diffusers folder (``LDMPipeline`` layout, safetensors) and return the prior.

    target: a folder that does not exist yet; it appears when it is complete. Otherwise as :func:`read_compvis`, whose
    errors leave nothing behind; ValueError, too, if the target exists.
    """
    target = Path(target)
    if target.exists():
        raise ValueError(f"target: '{target}' exists; give a new folder, or remove it.")
    prior, scheduler = read_compvis(checkpoint, config, ema=ema)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        complete = Path(folder) / "prior"
        prior.save_pretrained(complete, scheduler)
        os.rename(complete, target)
    return prior
