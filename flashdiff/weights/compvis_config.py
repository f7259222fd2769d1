"""The config.yaml that CompVis publish beside a latent-diffusion checkpoint: its schema, and what it means in diffusers.

Arguments that are not known here are refused: some of them change what a network computes and leave no trace in its
weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


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


def read_config(path: Path) -> DiffusionParameters:
    """The parameters in a config.yaml; raises FileNotFoundError, or ValueError with one sentence."""
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
