"""What diffusers' parameters are called in CompVis' latent-diffusion checkpoints, and how the tensors are stored there."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn


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
