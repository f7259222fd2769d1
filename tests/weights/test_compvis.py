"""CompVis checkpoints and published severity encoders, against saved outputs of the original code and a rebuilt one.

The saved outputs (tests/data/compvis-vq) cover one small VQ model. For KL autoencoders, attention at several levels and
the published sizes, the original architecture is rebuilt here from its description, with its names; that the rebuilt
one is the original is checked on the saved outputs, too.
"""

import copy
import json
import math
import os
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import nn

from flashdiff import cli
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.weights import checkpoints, compvis_config, compvis_names
from flashdiff.weights.compvis import load_compvis_prior, read_compvis
from flashdiff.weights.published_prior import convert_compvis, take_prior
from flashdiff.weights.published_severity import load_published

SAVED = Path(__file__).parents[1] / "data/compvis-vq"
CHECKPOINT, CONFIG, ENCODER = SAVED / "model.ckpt", SAVED / "config.yaml", SAVED / "severity_encoder.ckpt"


@pytest.fixture(scope="module")
def saved():
    return load_file(SAVED / "outputs.safetensors")


@pytest.fixture(scope="module")
def prior():
    return load_compvis_prior(CHECKPOINT)


@pytest.fixture
def content():
    """The small checkpoint, to be spoilt."""
    return torch.load(CHECKPOINT, weights_only=True)


@pytest.fixture
def config():
    """Its config, to be spoilt."""
    return YAML(typ="safe", pure=True).load(CONFIG.read_text())


@pytest.fixture
def spoilt(tmp_path):
    """Writes a checkpoint and a config, returns what refuses to convert them: nothing may appear on disk."""

    def refuse(content=None, config=None, **options):
        checkpoint, settings = CHECKPOINT, CONFIG
        if content is not None:
            checkpoint = tmp_path / "model.ckpt"
            torch.save(content, checkpoint)
        if config is not None:
            settings = tmp_path / "config.yaml"
            with settings.open("w") as file:
                YAML(typ="safe", pure=True).dump(config, file)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=r"^(checkpoint|config): ") as caught:
            convert_compvis(checkpoint, settings, tmp_path / "new/prior", **options)
        assert sorted(tmp_path.rglob("*")) == before
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
        return str(caught.value)

    return refuse


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


# ---------------------------------------------------------------------------------------------------- the saved outputs


def test_outputs_are_those_of_the_original_code(prior, saved):
    with torch.no_grad():
        close(prior.encode(saved["image"]), saved["encode_prequant"])
        close(prior.decode(saved["latent"]), saved["decode_quantised"])
        close(prior.autoencoder.decode(saved["latent"], force_not_quantize=True).sample, saved["decode_noquant"])
        close(prior.predict_eps(saved["latent"], saved["t"]), saved["eps_ema"])
    close(prior.abar[:-1], saved["alphas_cumprod"])
    assert prior.scaling_factor == float(saved["scale_factor"])
    assert prior.quantised and prior.n_steps == 1000 and prior.latent_shape((3, 32, 32)) == (3, 8, 8)


def test_raw_weights_on_request(saved):
    raw = load_compvis_prior(CHECKPOINT, CONFIG, ema=False)
    close(raw.predict_eps(saved["latent"], saved["t"]), saved["eps_raw"])
    assert not torch.allclose(saved["eps_raw"], saved["eps_ema"], atol=1e-2)


def test_what_is_written_is_what_was_read(prior, saved, tmp_path):
    target = tmp_path / "priors/small"
    converted = convert_compvis(CHECKPOINT, CONFIG, target)
    again = Prior.from_pretrained(target)
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.safetensors",
    ]
    assert list(target.parent.iterdir()) == [target]
    # diffusers' own default would clip latents to [-1, 1]
    assert json.loads((target / "scheduler/scheduler_config.json").read_text())["clip_sample"] is False
    for other in (converted, again):
        assert other.state_dict().keys() == prior.state_dict().keys()
        for name, value in prior.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
        assert torch.equal(other.abar, prior.abar)
        assert torch.equal(other.encode(saved["image"]), prior.encode(saved["image"]))
    with pytest.raises(ValueError, match=r"target: '.*small' exists; give a new folder"):
        convert_compvis(CHECKPOINT, CONFIG, target)


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    def full(self, path, _):
        path.mkdir()
        (path / "model_index.json").write_text("{")
        raise OSError("No space left on device")

    monkeypatch.setattr(Prior, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert_compvis(CHECKPOINT, CONFIG, tmp_path / "prior")
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys, saved):
    target = tmp_path / "prior"
    assert cli.main(["convert", str(CHECKPOINT), str(CONFIG), str(target), "--raw"]) == 0
    assert "prior: VQModel and UNet, 1.0 million parameters, raw weights, 1000 steps." in capsys.readouterr().out
    close(Prior.from_pretrained(target).predict_eps(saved["latent"], saved["t"]), saved["eps_raw"])
    assert cli.main(["convert", str(tmp_path / "none.ckpt"), str(CONFIG), str(tmp_path / "other")]) == 2
    assert "checkpoint: there is no file" in capsys.readouterr().err


# ---------------------------------------------- the original architecture, rebuilt from its description, with its names


class Node(nn.Module):
    """Named children and no computation of its own."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def norm(channels, eps):
    return nn.GroupNorm(32, channels, eps)


class FirstStageBlock(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = norm(into, 1e-6), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out, 1e-6), nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class FirstStageAttention(nn.Module):
    """One head over all channels; projections are 1x1 convolutions."""

    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # (B, C, positions)
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(q.shape[1]), dim=2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).unflatten(2, x.shape[2:]))


def middle(channels):
    return Node(
        block_1=FirstStageBlock(channels, channels),
        attn_1=FirstStageAttention(channels),
        block_2=FirstStageBlock(channels, channels),
    )


def through(level, h):
    for k, block in enumerate(level.block):
        h = block(h)
        if len(level.attn):
            h = level.attn[k](h)
    return h


class OriginalAutoencoder(nn.Module):
    """CompVis' VQModelInterface (n_embed given) and AutoencoderKL."""

    def __init__(self, network, embed_dim, n_embed=None, **_):
        super().__init__()
        ch, mult, blocks = network["ch"], network["ch_mult"], network["num_res_blocks"]
        moments = 2 if network["double_z"] else 1
        z, last = network["z_channels"], len(mult) - 1

        def level(k, into, n):
            out = ch * mult[k]
            attends = network["resolution"] // 2**k in network["attn_resolutions"]
            return Node(
                block=nn.ModuleList([FirstStageBlock(into if j == 0 else out, out) for j in range(n)]),
                attn=nn.ModuleList([FirstStageAttention(out) for _ in range(n if attends else 0)]),
            )

        down = [level(k, ch * ([1, *mult])[k], blocks) for k in range(len(mult))]
        up = [level(k, ch * mult[min(k + 1, last)], blocks + 1) for k in range(len(mult))]
        for k in range(last):
            down[k].downsample = Node(conv=nn.Conv2d(ch * mult[k], ch * mult[k], 3, stride=2))
            up[k + 1].upsample = Node(conv=nn.Conv2d(ch * mult[k + 1], ch * mult[k + 1], 3, padding=1))
        self.encoder = Node(
            conv_in=nn.Conv2d(network["in_channels"], ch, 3, padding=1),
            down=nn.ModuleList(down),
            mid=middle(ch * mult[-1]),
            norm_out=norm(ch * mult[-1], 1e-6),
            conv_out=nn.Conv2d(ch * mult[-1], moments * z, 3, padding=1),
        )
        self.decoder = Node(
            conv_in=nn.Conv2d(z, ch * mult[-1], 3, padding=1),
            mid=middle(ch * mult[-1]),
            up=nn.ModuleList(up),
            norm_out=norm(ch * mult[0], 1e-6),
            conv_out=nn.Conv2d(ch * mult[0], network["out_ch"], 3, padding=1),
        )
        if n_embed:
            self.quantize = Node(embedding=nn.Embedding(n_embed, embed_dim))
        self.quant_conv = nn.Conv2d(moments * z, moments * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z, 1)

    def features(self, x):
        h = self.encoder.conv_in(x)
        for level in self.encoder.down:
            h = through(level, h)
            if hasattr(level, "downsample"):
                h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        h = self.encoder.mid.block_2(self.encoder.mid.attn_1(self.encoder.mid.block_1(h)))
        return self.encoder.conv_out(F.silu(self.encoder.norm_out(h)))

    def encode(self, x):
        """The latent before quantisation; the mean for a KL autoencoder."""
        moments = self.quant_conv(self.features(x))
        return moments if hasattr(self, "quantize") else moments.chunk(2, dim=1)[0]

    def decode(self, z):
        """Without quantisation."""
        h = self.decoder.conv_in(self.post_quant_conv(z))
        h = self.decoder.mid.block_2(self.decoder.mid.attn_1(self.decoder.mid.block_1(h)))
        for level in reversed(self.decoder.up):
            h = through(level, h)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.decoder.conv_out(F.silu(self.decoder.norm_out(h)))


class UNetBlock(nn.Module):
    def __init__(self, into, out, embedding):
        super().__init__()
        self.in_layers = nn.Sequential(norm(into, 1e-5), nn.SiLU(), nn.Conv2d(into, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        self.out_layers = nn.Sequential(norm(out, 1e-5), nn.SiLU(), nn.Dropout(0), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x, embedding):
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class UNetAttention(nn.Module):
    """Heads of a given width; every head's rows of qkv stand together."""

    def __init__(self, channels, head):
        super().__init__()
        self.head, self.norm = head, norm(channels, 1e-5)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, _):
        heads = []
        for rows in self.qkv(self.norm(x.flatten(2))).split(3 * self.head, dim=1):
            q, k, v = rows.split(self.head, dim=1)
            weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(self.head), dim=2)
            heads.append(torch.einsum("bij,bcj->bci", weights, v))
        return x + self.proj_out(torch.cat(heads, dim=1)).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, _):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, _):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Plain(nn.Conv2d):
    def forward(self, x, _):
        return super().forward(x)


class OriginalUNet(nn.Module):
    """CompVis' openaimodel.UNetModel, as configured for unconditional models: steps down, a middle, steps up."""

    def __init__(self, p):
        super().__init__()
        ch, mult, n, head = p["model_channels"], p["channel_mult"], p["num_res_blocks"], p["num_head_channels"]
        self.width = ch

        def step(into, out, level):
            attention = [UNetAttention(out, head)] if 2**level in p["attention_resolutions"] else []
            return [UNetBlock(into, out, 4 * ch), *attention]

        self.time_embed = nn.Sequential(nn.Linear(ch, 4 * ch), nn.SiLU(), nn.Linear(4 * ch, 4 * ch))
        down, widths, now = [[Plain(p["in_channels"], ch, 3, padding=1)]], [ch], ch
        for level, factor in enumerate(mult):
            for _ in range(n):
                down.append(step(now, ch * factor, level))
                now = ch * factor
                widths.append(now)
            if level < len(mult) - 1:
                down.append([Downsample(now)])
                widths.append(now)
        middle = [UNetBlock(now, now, 4 * ch), UNetAttention(now, head), UNetBlock(now, now, 4 * ch)]
        up = []
        for level, factor in reversed(list(enumerate(mult))):
            for k in range(n + 1):
                up.append(step(now + widths.pop(), ch * factor, level))
                now = ch * factor
                if level and k == n:
                    up[-1].append(Upsample(now))
        self.input_blocks = nn.ModuleList([nn.ModuleList(layers) for layers in down])
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList([nn.ModuleList(layers) for layers in up])
        self.out = nn.Sequential(norm(now, 1e-5), nn.SiLU(), nn.Conv2d(now, p["out_channels"], 3, padding=1))

    def forward(self, z, t):
        half = self.width // 2
        angles = t[:, None].to(z) * torch.exp(-math.log(10000) / half * torch.arange(half).to(z))
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        h, kept = z, []
        for layers in self.input_blocks:
            for layer in layers:
                h = layer(h, embedding)
            kept.append(h)
        for layer in self.middle_block:
            h = layer(h, embedding)
        for layers in self.output_blocks:
            h = torch.cat([h, kept.pop()], dim=1)
            for layer in layers:
                h = layer(h, embedding)
        return self.out(h)


def published(config, make=lambda module: module):
    """Original networks for a config."""
    p = config["model"]["params"]
    first = p["first_stage_config"]["params"]
    sizes = {k: v for k, v in first.items() if k != "ddconfig"}
    return (
        make(OriginalAutoencoder(first["ddconfig"], **sizes)),
        make(OriginalUNet(p["unet_config"]["params"])),
    )


def randomised(module):
    """Every parameter moved, biases and norms, too: none may be exchanged for another unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


def buffers(start, end, n):
    """The schedule's buffers, step by step."""
    names, rows, abar = [], [], 1.0
    for k in range(n):
        beta = (start**0.5 + k / (n - 1) * (end**0.5 - start**0.5)) ** 2
        before, abar = abar, abar * (1 - beta)
        variance = beta * (1 - before) / (1 - abar)
        row = {
            "betas": beta,
            "alphas_cumprod": abar,
            "alphas_cumprod_prev": before,
            "sqrt_alphas_cumprod": abar**0.5,
            "sqrt_one_minus_alphas_cumprod": (1 - abar) ** 0.5,
            "log_one_minus_alphas_cumprod": math.log(1 - abar),
            "sqrt_recip_alphas_cumprod": abar**-0.5,
            "sqrt_recipm1_alphas_cumprod": (1 / abar - 1) ** 0.5,
            "posterior_variance": variance,
            "posterior_log_variance_clipped": math.log(max(variance, 1e-20)),
            "posterior_mean_coef1": beta * before**0.5 / (1 - abar),
            "posterior_mean_coef2": (1 - before) * (1 - beta) ** 0.5 / (1 - abar),
        }
        names, rows = list(row), [*rows, list(row.values())]
    return dict(zip(names, torch.tensor(rows).T.contiguous(), strict=True))


KL = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.001
    linear_end: 0.0155
    timesteps: 50
    scale_by_std: true
    loss_type: l1
    cond_stage_config: __is_unconditional__
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {image_size: 8, in_channels: 4, out_channels: 4, model_channels: 32, attention_resolutions: [4, 1],
               num_res_blocks: 2, channel_mult: [1, 2, 3], num_head_channels: 16}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig: {double_z: true, z_channels: 4, resolution: 32, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 2, 3],
                   num_res_blocks: 2, attn_resolutions: [16, 8], dropout: 0.0}
        lossconfig: {target: torch.nn.Identity}
"""
"""A KL model with attention at several levels, downsampling in between, and a scale measured by the training."""


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    """Folder of a KL model's checkpoint and config, and the networks in it."""
    folder = tmp_path_factory.mktemp("kl")
    (folder / "config.yaml").write_text(KL)
    config = YAML(typ="safe", pure=True).load(KL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, unet = published(config, randomised)
        state = buffers(0.001, 0.0155, 50) | {"scale_factor": torch.tensor(0.22765929)}
        state |= {f"first_stage_model.{name}": value for name, value in first.state_dict().items()}
        state |= {"first_stage_model.loss.logvar": torch.zeros(()), "logvar": torch.zeros(50)}
        for name, value in unet.state_dict().items():
            state[f"model.diffusion_model.{name}"] = torch.randn_like(value)
            state["model_ema.diffusion_model" + name.replace(".", "")] = value
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    torch.save({"epoch": 3, "state_dict": state}, folder / "model.ckpt")
    return folder, first, unet


def test_rebuilt_reference_is_the_original(content, config, saved):
    first, unet = published(config)
    state = content["state_dict"]

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    first.load_state_dict(part("first_stage_model."))
    unet.load_state_dict(part("model.diffusion_model."))
    with torch.no_grad():
        close(first.encode(saved["image"]), saved["encode_prequant"])
        close(first.decode(saved["latent"]), saved["decode_noquant"])
        close(unet(saved["latent"], saved["t"]), saved["eps_raw"])
    for name, values in buffers(0.0015, 0.0195, 1000).items():
        close(values, state[name])


def test_kl_autoencoder_and_attention_at_several_levels(kl, tmp_path):
    folder, first, unet = kl
    prior = convert_compvis(folder / "model.ckpt", folder / "config.yaml", tmp_path / "kl")
    assert sorted(p.name for p in (tmp_path / "kl").iterdir()) == ["model_index.json", "scheduler", "unet", "vae"]
    prior = Prior.from_pretrained(tmp_path / "kl").double()
    first, unet = copy.deepcopy(first).double(), copy.deepcopy(unet).double()
    x, z = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1, torch.randn(2, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([3, 41])
    scale = prior.scaling_factor
    assert not prior.quantised and scale == pytest.approx(0.22765929)
    with torch.no_grad():
        close(prior.encode(x), first.encode(x) * scale, 1e-9)
        close(prior.decode(z), first.decode(z / scale), 1e-9)
        close(prior.predict_eps(z, t), unet(z, t))  # diffusers' time embedding is float32


def test_published_sizes(config):
    """CelebA-HQ, FFHQ and LSUN bedrooms at 256 x 256: their config, without data, on the original's own names."""
    from diffusers import UNet2DModel, VQModel

    p = config["model"]["params"]
    p["first_stage_config"]["params"] |= {"n_embed": 8192}
    p["first_stage_config"]["params"]["ddconfig"] |= {
        "ch": 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "resolution": 256,
    }
    p["unet_config"]["params"] |= {
        "image_size": 64,
        "model_channels": 224,
        "attention_resolutions": [8, 4, 2],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 3, 4],
        "num_head_channels": 32,
    }
    checked = compvis_config.checked(compvis_config.Config, config, "config").model.params
    with torch.device("meta"):
        first, unet = published(config)
        ours = VQModel(**checked.first_stage_config.params.ddconfig.diffusers(), num_vq_embeddings=8192)
        our_unet = UNet2DModel(**checked.unet_config.params.diffusers())
    for original, sources in (
        (first, compvis_names.first_stage_sources(ours)),
        (unet, compvis_names.unet_sources(our_unet)),
    ):
        expected = {name: tuple(value.shape) for name, value in original.state_dict().items()}
        assert {source.key: source.shape for source in sources.values()} == expected
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(274.06e6, abs=0.005e6)
    assert sum(p.numel() for p in first.parameters()) == pytest.approx(55.32e6, abs=0.005e6)


# ----------------------------------------------------------------------------------------------- nothing is passed over

SOME_OF_EACH = [
    "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight",
    "first_stage_model.quantize.embedding.weight",
    "first_stage_model.decoder.mid.attn_1.q.weight",
    "model_ema.diffusion_modelinput_blocks31qkvweight",
    "model.diffusion_model.output_blocks.1.2.conv.bias",
    "posterior_mean_coef2",
]


@pytest.mark.parametrize("key", SOME_OF_EACH)
def test_a_renamed_tensor_is_refused(key, content, spoilt):
    content["state_dict"][f"{key}_"] = content["state_dict"].pop(key)
    message = spoilt(content)
    assert f"lacks 1 tensor ({key}); holds unknown 1 tensor ({key}_)" in message


@pytest.mark.parametrize("key", SOME_OF_EACH)
def test_a_missing_tensor_is_refused(key, content, spoilt):
    del content["state_dict"][key]
    assert f"model.ckpt lacks 1 tensor ({key}); give the published file" in spoilt(content)


@pytest.mark.parametrize("key", SOME_OF_EACH)
def test_a_wrong_shape_is_refused(key, content, spoilt):
    value = content["state_dict"][key]
    content["state_dict"][key] = torch.cat([value, value])
    assert re.search(rf"holds wrongly shaped 1 tensor \({re.escape(key)} [0-9x]+ instead of ", spoilt(content))


@pytest.mark.parametrize(
    "key",
    [
        "cond_stage_model.embedding.weight",
        "first_stage_model.colorize",
        "first_stage_model.encoder.down.0.attn.0.q.weight",
        "model.diffusion_model.label_emb.weight",
        "model_ema.other",
        "scale_factor",
    ],
)
def test_an_unknown_tensor_is_refused(key, content, spoilt):
    content["state_dict"][key] = torch.zeros(3)
    assert f"holds unknown 1 tensor ({key})" in spoilt(content)


def test_many_problems_are_counted_and_the_first_ones_named(content, spoilt):
    state = content["state_dict"]
    content["state_dict"] = {name.replace("encoder.mid", "encoder.middle"): value for name, value in state.items()}
    assert re.search(
        r"lacks 26 tensors \(first_stage_model.encoder.mid\.[^,]+, [^,]+, [^,]+ and 23 more\); holds unknown 26 ",
        spoilt(content),
    )


def test_what_is_not_needed_may_be_there_or_not(content, tmp_path, saved):
    """The discriminator, the average's counters, and the last step's weights if they are all left out."""
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith("model.")}
    del state["model_ema.decay"], state["model_ema.num_updates"]
    state |= {"first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2), "logvar": torch.zeros(1000)}
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    prior = load_compvis_prior(tmp_path / "model.ckpt", CONFIG)
    close(prior.predict_eps(saved["latent"], saved["t"]), saved["eps_ema"])


def test_without_averaged_weights_the_raw_ones_must_be_asked_for(content, spoilt, tmp_path, saved):
    state = content["state_dict"]
    content["state_dict"] = {name: value for name, value in state.items() if not name.startswith("model_ema")}
    assert "holds no averaged weights (model_ema....); ask for the raw ones (ema=False, --raw)" in spoilt(content)
    raw = load_compvis_prior(tmp_path / "model.ckpt", CONFIG, ema=False)
    close(raw.predict_eps(saved["latent"], saved["t"]), saved["eps_raw"])


@pytest.mark.parametrize("key", list(buffers(0.1, 0.2, 2)))
def test_a_schedule_that_is_not_the_configs_is_refused(key, content, spoilt):
    content["state_dict"][key][500] *= 1.001
    assert f"{key} is not what linear_start 0.0015, linear_end 0.0195 and timesteps 1000 of" in spoilt(content)


def test_a_config_of_another_schedule_is_refused(config, spoilt):
    config["model"]["params"]["linear_end"] = 0.0155
    assert "betas is not what linear_start 0.0015, linear_end 0.0155" in spoilt(config=config)
    config["model"]["params"] |= {"linear_end": 0.0195, "timesteps": 999}
    assert "(betas 1000 instead of 999, alphas_cumprod 1000 instead of 999" in spoilt(config=config)


# ----------------------------------------------------------------------------------------------------------- the config


def entries(tree, path=()):
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from entries(value, (*path, name))


NOT_NEEDED = {
    "base_learning_rate",
    "channels",
    "first_stage_key",
    "log_every_t",
    "monitor",
    "num_timesteps_cond",
    "lossconfig",
    "dropout",
}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in entries(YAML(typ="safe", pure=True).load(CONFIG.read_text()))
        if not NOT_NEEDED & {*path} and path != ("model", "params", "image_size")
    ],
    ids=".".join,
)
def test_a_config_without_a_needed_entry_is_refused(path, config, spoilt):
    *above, last = path
    section = config
    for name in above:
        section = section[name]
    del section[last]
    message = spoilt(config=config)
    assert re.search(rf"{re.escape('.'.join(path))} is missing|{last} is missing", message)


@pytest.mark.parametrize(
    ("section", "entry", "sentence"),
    [
        ("unet_config", {"use_scale_shift_norm": True}, "use_scale_shift_norm is True, but input should be False"),
        (
            "unet_config",
            {"use_new_attention_order": True},
            "use_new_attention_order is True, but input should be False",
        ),
        ("unet_config", {"num_heads": 8}, "unet_config.params.num_heads is not supported"),
        ("unet_config", {"channel_mult": "1, 2"}, "channel_mult is '1, 2', but input should be a valid list"),
        ("unet_config", {"in_channels": 6}, "in_channels, out_channels and embed_dim are 6, 3 and 3, not the same"),
        ("first_stage_config", {"embed_dim": 4}, "embed_dim is 4 and z_channels 3, not the same"),
        ("first_stage_config", {"remap": "used.npy"}, "remap is 'used.npy', but input should be None"),
    ],
)
def test_another_kind_of_network_is_refused(section, entry, sentence, config, spoilt):
    config["model"]["params"][section]["params"] |= entry
    assert sentence in spoilt(config=config)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"cond_stage_config": {"target": "ldm.modules.encoders.modules.ClassEmbedder"}}, "should be '__is_uncond"),
        ({"parameterization": "x0"}, "parameterization is 'x0', but input should be 'eps'"),
        ({"beta_schedule": "cosine"}, "beta_schedule is 'cosine', but input should be 'linear'"),
        ({"timesteps": "1000"}, "timesteps is '1000', but input should be a valid integer"),
    ],
)
def test_another_kind_of_diffusion_is_refused(entry, sentence, config, spoilt):
    config["model"]["params"] |= entry
    assert sentence in spoilt(config=config)


def test_a_first_stage_that_hands_out_quantised_latents_is_refused(config, spoilt):
    config["model"]["params"]["first_stage_config"]["target"] = "ldm.models.autoencoder.VQModel"
    assert "the first stage is VQModel, whose latents are quantised" in spoilt(config=config)
    config["model"]["params"]["first_stage_config"]["target"] = "ldm.models.autoencoder.AutoencoderKL"
    assert "double_z is False, which contradicts the target" in spoilt(config=config)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "", "model: !!python/object/apply:os.mkdir [{there}]", "a: 1\na: 2"])
def test_a_file_that_is_no_config_is_refused(text, tmp_path):
    path, there = tmp_path / "config.yaml", tmp_path / "executed"
    path.write_text(text.format(there=there))
    with pytest.raises(
        ValueError, match=r"^config: .*config.yaml.*; give the .* published with the weights( \(.*\))?\.$"
    ):
        read_compvis(CHECKPOINT, path)
    assert not there.exists()
    with pytest.raises(FileNotFoundError, match=r"config: there is no file '.*none.yaml'; give the checkpoint's"):
        read_compvis(CHECKPOINT, tmp_path / "none.yaml")


# -------------------------------------------------------------------------------------------------- files that run code


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payload(there, kind):
    if kind == "mkdir":
        return Payload(os.mkdir, str(there))
    if kind == "exec":
        return Payload(exec, f"import os; os.mkdir({str(there)!r})")
    return Payload(eval, f"__import__('os').mkdir({str(there)!r})")


@pytest.mark.parametrize("kind", ["mkdir", "exec", "eval"])
@pytest.mark.parametrize("place", ["state_dict", "tensor", "beside"])
def test_a_checkpoint_that_would_run_code_is_refused_unexecuted(kind, place, content, spoilt, tmp_path):
    there = tmp_path / "executed"
    bad = payload(there, kind)
    if place == "state_dict":
        content["state_dict"] = bad
    elif place == "tensor":
        content["state_dict"]["betas"] = bad
    else:
        content["callbacks"] = {"x": [bad]}
    message = spoilt(content)
    assert re.search(rf"refers to \S*{kind}, which is neither a tensor nor plain data, and was not loaded", message)
    assert not there.exists()
    there.mkdir()
    with pytest.raises(FileExistsError):  # the payload is live: reading the file as a pickle does run it
        torch.load(tmp_path / "model.ckpt", weights_only=False)


@pytest.fixture
def lightning(monkeypatch):
    """A stand-in for the class of Lightning that the published checkpoints refer to; only writing needs it."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    parts = name.split(".")
    for k in range(1, 3):
        monkeypatch.setitem(sys.modules, ".".join(parts[:k]), types.ModuleType(".".join(parts[:k])))
    monkeypatch.setitem(sys.modules, name, module)
    return module.ModelCheckpoint


@pytest.fixture
def scalar(monkeypatch):
    """A number as numpy 1 pickles it; numpy 2 has moved the function."""
    name = "numpy.core.multiarray"
    module = types.ModuleType(name)

    def scalar(*_):
        raise AssertionError("the numbers in a callback's state are not needed")

    scalar.__module__, scalar.__qualname__, module.scalar = name, "scalar", scalar
    monkeypatch.setitem(sys.modules, name, module)
    return Payload(scalar, np.dtype("float64"), bytes(8))


def test_lightnings_traces_in_published_checkpoints_do_no_harm(content, lightning, scalar, tmp_path, saved):
    """They are keyed by a class and hold numpy's scalars, as scans of CompVis' files have found."""
    allowed = set(torch.serialization.get_safe_globals())
    content["callbacks"] = {lightning: {"best_model_score": torch.tensor(0.1), "current_score": scalar}}
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="ModelCheckpoint"):  # weights_only alone refuses it
        torch.load(tmp_path / "model.ckpt", weights_only=True)
    prior = load_compvis_prior(tmp_path / "model.ckpt", CONFIG)
    close(prior.predict_eps(saved["latent"], saved["t"]), saved["eps_ema"])
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_stand_ins_do_nothing():
    for kind in checkpoints.STAND_INS:
        thing = kind("touch", mode=1)
        thing.__setstate__({"a": 1})
        assert vars(thing) == {}


def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.ckpt"
    for data in (b"", b"text", CHECKPOINT.read_bytes()[:100_000]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"checkpoint: .*model.ckpt is not readable as tensors \(.*\); give the"):
            read_compvis(path, CONFIG)
    for other in ({"model": content["state_dict"]}, [1, 2], {"state_dict": {"a": 1}}, torch.zeros(2)):
        torch.save(other, path)
        with pytest.raises(ValueError, match=r"model.ckpt holds no state_dict of named tensors; give the published"):
            read_compvis(path, CONFIG)
    with pytest.raises(FileNotFoundError, match=r"checkpoint: there is no file '.*none.ckpt'; give the path"):
        load_compvis_prior(tmp_path / "none.ckpt")


# ------------------------------------------------------------------------------------------ published severity encoders


@pytest.fixture(scope="module")
def measured():
    return load_file(SAVED / "severity_outputs.safetensors")


@pytest.fixture
def encoder_content():
    return torch.load(ENCODER, weights_only=True)


def test_severity_encoder_gives_what_the_authors_code_gives(prior, measured, tmp_path):
    encoder = load_published(ENCODER, prior)
    assert not encoder.training
    result = encoder.infer(measured["image"])
    close(result.z_hat, measured["mean"])
    close(result.variance, measured["variance"])
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path).infer(measured["image"])
    assert torch.equal(again.z_hat, result.z_hat) and torch.equal(again.variance, result.variance)


def test_severity_is_in_units_of_the_scaled_latent(measured):
    scaled = load_compvis_prior(CHECKPOINT, CONFIG)
    scaled.autoencoder.register_to_config(scaling_factor=2.5)
    encoder = load_published(ENCODER, Prior(scaled.autoencoder, scaled.unet, scaled.abar[:-1]))
    result = encoder.infer(measured["image"])
    close(result.z_hat, measured["mean"] * 2.5, 2.5e-5)
    close(result.variance, measured["variance"] * 2.5**2, 7e-5)


def test_severity_encoder_of_a_kl_autoencoder(kl, tmp_path):
    """The authors' code squares the second half of the moments; no std_conv in the file."""
    folder, first, _ = kl
    prior = load_compvis_prior(folder / "model.ckpt")
    state = {k: v for k, v in first.state_dict().items() if k.startswith(("encoder.", "quant_conv."))}
    settings = YAML(typ="safe", pure=True).load(KL)["model"]["params"]["first_stage_config"]
    torch.save({"state_dict": state, "hyper_parameters": {"model_config": settings}}, tmp_path / "kl.ckpt")
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    result = load_published(tmp_path / "kl.ckpt", prior).infer(x)
    with torch.no_grad():
        mean, std = first.quant_conv(first.features(x)).chunk(2, dim=1)
    close(result.z_hat, mean * prior.scaling_factor)
    close(result.variance, std.square().flatten(1).mean(1) * prior.scaling_factor**2)


def test_severity_encoders_are_taken_with_their_prior(prior, measured, tmp_path):
    """Converted into its folder; a study that takes that folder takes the encoders that it names itself, and no other."""
    take_prior(CHECKPOINT, tmp_path / "one", {"gaussian_blur": ENCODER})
    taken = SeverityEncoder.from_pretrained(tmp_path / "one/severity/gaussian_blur").infer(measured["image"])
    for ours, theirs in zip(taken, load_published(ENCODER, prior).infer(measured["image"]), strict=True):
        assert torch.equal(ours, theirs)
    take_prior(tmp_path / "one", tmp_path / "two", severity={"mixture": ENCODER})
    assert [path.name for path in (tmp_path / "two/severity").iterdir()] == ["mixture"]


def test_a_severity_encoder_of_another_prior_leaves_the_prior_before(tiny_prior, tiny_diffusion, tmp_path):
    tiny_prior.save_pretrained(tmp_path / "source", tiny_diffusion)
    (tmp_path / "target/severity").mkdir(parents=True)
    with pytest.raises(ValueError, match="trained for another autoencoder than the prior's"):
        take_prior(tmp_path / "source", tmp_path / "target", {"gaussian_blur": ENCODER})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["severity"]


def refused(content, prior, folder):
    torch.save(content, folder / "encoder.ckpt")
    with pytest.raises(ValueError, match=r"^checkpoint: ") as caught:
        load_published(folder / "encoder.ckpt", prior)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize("key", ["encoder.mid.attn_1.k.bias", "quant_conv.weight", "std_conv.bias"])
def test_severity_tensors_are_accounted_for(key, encoder_content, prior, tmp_path):
    state = encoder_content["state_dict"]
    value = state.pop(key)
    assert f"lacks 1 tensor ({key})" in refused(encoder_content, prior, tmp_path)
    state[f"pretrained.{key}"] = value
    assert f"lacks 1 tensor ({key}); holds unknown 1 tensor (pretrained.{key})" in refused(
        encoder_content, prior, tmp_path
    )
    del state[f"pretrained.{key}"]
    state[key] = value[:1]
    assert f"holds wrongly shaped 1 tensor ({key} 1" in refused(encoder_content, prior, tmp_path)


def test_severity_encoder_of_another_autoencoder_is_refused(encoder_content, prior, kl, tiny_prior, tmp_path):
    other = load_compvis_prior(kl[0] / "model.ckpt")
    assert "trained for another autoencoder than the prior's (quantised: True, not False)" in refused(
        encoder_content, other, tmp_path
    )
    network = encoder_content["hyper_parameters"]["model_config"]["params"]["ddconfig"]
    network["ch_mult"] = [1, 2, 4]
    assert "(block_out_channels: [32, 64, 128], not [32, 32, 64]); load the prior" in refused(
        encoder_content, prior, tmp_path
    )
    del network["ch_mult"]
    assert "model_config: params.ddconfig.ch_mult is missing" in refused(encoder_content, prior, tmp_path)
    del encoder_content["hyper_parameters"]["model_config"]
    assert "has no hyper_parameters with a model_config" in refused(encoder_content, prior, tmp_path)


@pytest.mark.parametrize("kind", ["mkdir", "exec", "eval"])
def test_severity_encoder_that_would_run_code_is_refused_unexecuted(kind, encoder_content, prior, tmp_path):
    encoder_content["hyper_parameters"]["operator_config"] = payload(tmp_path / "executed", kind)
    assert re.search(rf"refers to \S*{kind}, which", refused(encoder_content, prior, tmp_path))
    assert not (tmp_path / "executed").exists()


def test_settings_of_a_foreign_class_are_refused_by_its_name(encoder_content, prior, tmp_path):
    create = pytest.importorskip("omegaconf").OmegaConf.create

    encoder_content["hyper_parameters"]["model_config"] = create(encoder_content["hyper_parameters"]["model_config"])
    message = refused(encoder_content, prior, tmp_path)
    assert "refers to omegaconf.dictconfig.DictConfig, which is neither a tensor nor plain data" in message
    assert "save its state_dict and its settings as tensors, dicts, lists, strings and numbers" in message
