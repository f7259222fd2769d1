"""A model that loads but is not what the method assumes is refused when it is loaded, field by field, in one sentence.

Configurations are refused before weights are looked for, so most folders here hold none; one whose configurations pass
is told by the sentence about its weights.
"""

import inspect
import json

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel

from flashdiff.assumptions import AUTOENCODER, CLASSES, DENOISER, SCHEDULER, check_signal
from flashdiff.diffusers_folder import defaults
from flashdiff.pipeline import FlashPipeline
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder

LEGACY = {"timesteps", "timestep_values", "tensor_format"}
"""Fields of files older than diffusers 0.1."""

CELEBAHQ = {  # CompVis/ldm-celebahq-256 as it lies on the hub, written by diffusers 0.0.4 and 0.1.2
    "vqvae": {
        "_class_name": "VQModel",
        "_diffusers_version": "0.1.2",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "in_channels": 3,
        "latent_channels": 3,
        "layers_per_block": 2,
        "num_vq_embeddings": 8192,
        "out_channels": 3,
        "sample_size": 256,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    },
    "unet": {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "act_fn": "silu",
        "attention_head_dim": 32,
        "block_out_channels": [224, 448, 672, 896],
        "center_input_sample": False,
        "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 64,
        "time_embedding_type": "positional",
        "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    },
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.0.4",
        "beta_end": 0.0195,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "trained_betas": None,
    },
}
KL = {
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 3,
    },
    "unet": CELEBAHQ["unet"],
    "scheduler": CELEBAHQ["scheduler"],
}


def write(folder, model):
    """A folder of configurations, without weights."""
    index = {"_class_name": "LDMPipeline"}
    for part, content in model.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / name).write_text(json.dumps(content))
        index[part] = ["diffusers", content.get("_class_name")]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def said(folder, model, error=ValueError):
    """The one sentence that a model is refused with."""
    with pytest.raises(error, match=r"^prior: ") as caught:
        Prior.from_pretrained(write(folder, model))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def accepted(folder, model):
    """Whether the configurations pass."""
    return "holds no weights" in said(folder, model, (ValueError, FileNotFoundError))


def changed(model, part, fields):
    return model | {part: model[part] | fields}


def fields(name):
    return set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"}


@pytest.mark.parametrize(
    ("part", "table"), [("autoencoder", AUTOENCODER), ("denoiser", DENOISER), ("scheduler", SCHEDULER)]
)
def test_every_field_of_every_accepted_class_has_its_line(part, table):
    """Nobody reads a field that a newer diffusers has added before it was thought about here; nor is a line left behind."""
    known = set().union(*(fields(name) for name in CLASSES[part]))
    assert known - table.keys() == set() and table.keys() - known <= LEGACY


@pytest.mark.parametrize("model", [CELEBAHQ, KL], ids=["published", "kl"])
def test_a_model_of_the_right_kind_passes(model, tmp_path):
    assert accepted(tmp_path, model)


@pytest.mark.filterwarnings("ignore")  # some of their constructors use what torch and numpy have deprecated
@pytest.mark.parametrize("name", CLASSES["scheduler"])
def test_all_samplers_of_one_table_of_betas_pass_and_give_that_table(name, tmp_path):
    scheduler = CELEBAHQ["scheduler"] | {"_class_name": name}
    assert accepted(tmp_path, CELEBAHQ | {"scheduler": scheduler})
    kind = getattr(diffusers, name)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    table = kind.from_config(scheduler).alphas_cumprod.double()
    torch.testing.assert_close(table, torch.cumprod(1 - betas, 0), rtol=1e-4, atol=0)


REFUSED = [
    (KL, "vae", {"shift_factor": 0.1159}, "latents are scaled by scaling_factor alone"),
    (KL, "vae", {"latents_mean": [0.1, 0.2, 0.3]}, "latents are scaled by scaling_factor alone"),
    (KL, "vae", {"latents_std": [1.0, 2.0, 3.0]}, "latents are scaled by scaling_factor alone"),
    (KL, "vae", {"use_quant_conv": False}, "copy of the autoencoder's quant_conv"),
    (KL, "vae", {"act_fn": "relu"}, "knows SiLU only"),
    (KL, "vae", {"out_channels": 6}, "has to give the channels that the encoder takes"),
    (KL, "vae", {"scaling_factor": 0.0}, "a number above 0"),
    (KL, "vae", {"scaling_factor": "0.18215"}, "a number above 0"),
    (KL, "vae", {"scaling_factor": None}, "a number above 0"),
    (KL, "vae", {"down_block_types": ["DownEncoderBlock2D", "DownBlock2D"]}, "is what halves it"),
    (KL, "vae", {"down_block_types": ["DownEncoderBlock2D"]}, "is what halves it"),
    (KL, "vae", {"up_block_types": ["UpDecoderBlock2D", "UpBlock2D"]}, "is what doubles it"),
    (KL, "vae", {"latent_channels": 4}, "take the autoencoder's latents and nothing beside them"),
    (CELEBAHQ, "vqvae", {"vq_embed_dim": 8}, "as many channels"),
    (CELEBAHQ, "vqvae", {"latent_channels": 4}, "take the autoencoder's latents and nothing beside them"),
    (CELEBAHQ, "vqvae", {"mystery": 3}, "what it means is not known here"),
    (CELEBAHQ, "unet", {"in_channels": 6}, "nothing beside them"),
    (CELEBAHQ, "unet", {"out_channels": 6}, "learned variances are not used"),
    (CELEBAHQ, "unet", {"time_embedding_type": "fourier"}, "fourier takes a noise level"),
    (CELEBAHQ, "unet", {"time_embedding_type": "learned", "num_train_timesteps": 500}, "as many indices"),
    (CELEBAHQ, "unet", {"num_class_embeds": 10}, "unconditional"),
    (CELEBAHQ, "unet", {"class_embed_type": "timestep"}, "unconditional"),
    (CELEBAHQ, "unet", {"class_embed_type": "identity"}, "unconditional"),
    (CELEBAHQ, "unet", {"down_block_types": ["CrossAttnDownBlock2D"] * 4}, "unconditional"),
    (CELEBAHQ, "unet", {"up_block_types": ["CrossAttnUpBlock2D"] * 4}, "unconditional"),
    (CELEBAHQ, "unet", {"mid_block_type": "UNetMidBlock2DCrossAttn"}, "unconditional"),
    (CELEBAHQ, "unet", {"encoder_hid_dim": 768}, "what it means is not known here"),
    (CELEBAHQ, "scheduler", {"prediction_type": "v_prediction"}, "has to predict the noise"),
    (CELEBAHQ, "scheduler", {"prediction_type": "sample"}, "has to predict the noise"),
    (CELEBAHQ, "scheduler", {"prediction_type": "flow_prediction"}, "has to predict the noise"),
    (CELEBAHQ, "scheduler", {"rescale_betas_zero_snr": True}, "nothing is left of the signal"),
    (CELEBAHQ, "scheduler", {"variance_type": "learned_range"}, "learned variances are not used"),
    (CELEBAHQ, "scheduler", {"timestep_type": "continuous"}, "not a noise level"),
    (CELEBAHQ, "scheduler", {"use_flow_sigmas": True}, "flow matching has none"),
    (CELEBAHQ, "scheduler", {"num_train_timesteps": 1}, "at least 2 indices"),
    (CELEBAHQ, "scheduler", {"trained_betas": [0.1, 0.2]}, "one beta for each"),
    (CELEBAHQ, "scheduler", {"timesteps": 500}, "old name of num_train_timesteps"),
    (CELEBAHQ, "scheduler", {"beta_schedule": "exotic"}, "gives no schedule of betas"),
    (CELEBAHQ, "scheduler", {"snr_shift_scale": 3.0}, "what it means is not known here"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "part", "fields", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_field_that_is_not_what_the_method_assumes_is_refused(model, part, fields, reason, tmp_path):
    sentence = said(tmp_path, changed(model, part, fields))
    assert reason in sentence and "config.json" in sentence
    if "schedule of betas" not in reason and "nothing beside them" not in reason:
        assert any(f"{name} is" in sentence for name in fields)


@pytest.mark.parametrize(
    ("model", "part", "fields"),
    [
        (KL, "vae", {"shift_factor": None, "latents_mean": None, "latents_std": None}),
        (KL, "vae", {"shift_factor": 0.0, "scaling_factor": 1}),
        (KL, "vae", {"use_post_quant_conv": False, "mid_block_add_attention": False, "force_upcast": False}),
        (CELEBAHQ, "vqvae", {"scaling_factor": 0.18215, "vq_embed_dim": 3, "norm_type": "spatial"}),
        (CELEBAHQ, "vqvae", {"newer_field": None, "newer_switch": False}),
        (CELEBAHQ, "unet", {"time_embedding_type": "learned", "num_train_timesteps": 1000, "sample_size": None}),
        (CELEBAHQ, "unet", {"resnet_time_scale_shift": "scale_shift", "center_input_sample": True}),
        (CELEBAHQ, "scheduler", {"beta_schedule": "linear", "clip_sample": True, "thresholding": True}),
        (CELEBAHQ, "scheduler", {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}),
        (CELEBAHQ, "scheduler", {"steps_offset": 1, "skip_prk_steps": True, "timesteps": 1000, "tensor_format": "pt"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_changes_nothing_that_is_used_passes(model, part, fields, tmp_path):
    assert accepted(tmp_path, changed(model, part, fields))


@pytest.mark.parametrize(
    ("part", "name", "reason"),
    [
        ("unet", "UNet2DConditionModel", "nobody here tells it a text"),
        ("unet", "UNet1DModel", "unconditional"),
        ("unet", "UNet3DConditionModel", "unconditional"),
        ("scheduler", "FlowMatchEulerDiscreteScheduler", "flow matching has none"),
        ("scheduler", "EDMEulerScheduler", "schedule of betas"),
        ("scheduler", "ScoreSdeVeScheduler", "schedule of betas"),
        ("scheduler", "LCMScheduler", "schedule of betas"),
        ("vqvae", "AutoencoderTiny", "other autoencoders have other latents"),
        ("vqvae", "AsymmetricAutoencoderKL", "other autoencoders have other latents"),
        ("vqvae", "AutoencoderDC", "other autoencoders have other latents"),
    ],
)
def test_another_class_is_refused_with_the_reason(part, name, reason, tmp_path):
    sentence = said(tmp_path, changed(CELEBAHQ, part, {"_class_name": name}))
    assert f"is of class {name}, not" in sentence and reason in sentence


def test_stable_diffusion_is_refused_for_its_text(tmp_path):
    """Not for what it differs in besides: four channels of latents, a PNDM sampler, unknown fields of the denoiser."""
    unet = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "in_channels": 4, "out_channels": 4}
    model = KL | {"unet": unet, "scheduler": KL["scheduler"] | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}}
    assert "unet/config.json is of class UNet2DConditionModel" in said(tmp_path, model)


def test_files_that_are_no_configurations_are_refused(tmp_path):
    write(tmp_path, CELEBAHQ)
    for text, error, reason in (
        ("{", ValueError, "is no JSON"),
        ("[1]", ValueError, "is no JSON object"),
        (None, FileNotFoundError, "config.json is missing"),
    ):
        path = tmp_path / "unet/config.json"
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(error, match=rf"^prior: .*{reason}.*\.$"):
            Prior.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------ the other ways to a prior


def parts(**changes):
    """Small networks that fit each other, and a schedule."""
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    small = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    autoencoder = AutoencoderKL(**blocks | small | {"latent_channels": 4} | changes.get("autoencoder", {}))
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    channels = {"in_channels": 4, "out_channels": 4}
    unet = UNet2DModel(**blocks | small | channels | {"attention_head_dim": 8} | changes.get("unet", {}))
    scheduler = DDPMScheduler(num_train_timesteps=40, **changes.get("scheduler", {}))
    return autoencoder, unet, scheduler


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"autoencoder": {"shift_factor": 0.1}}, "shift_factor is 0.1: latents are scaled by scaling_factor alone"),
        ({"unet": {"num_class_embeds": 10}}, "num_class_embeds is 10: the denoiser has to be unconditional"),
        ({"unet": {"in_channels": 3, "out_channels": 3}}, r"in_channels(: 3| is 3)"),
        ({"scheduler": {"rescale_betas_zero_snr": True}}, "(rescale_betas_zero_snr is True|signal's share goes from)"),
    ],
)
def test_parts_in_memory_are_held_against_the_same_tables(changes, reason):
    autoencoder, unet, scheduler = parts(**changes)
    with pytest.raises(ValueError, match=rf"^prior: .*{reason}"):
        Prior(autoencoder, unet, scheduler.alphas_cumprod)
    encoder = SeverityEncoder.from_prior(Prior(*parts()[:2], scheduler.alphas_cumprod.clamp(min=1e-3)))
    with pytest.raises(ValueError, match=reason):
        FlashPipeline(autoencoder, unet, scheduler, encoder)


def test_the_signal_has_to_fall():
    check_signal(torch.tensor([0.9, 0.5, 0.1]), "here")
    for abar in ([0.9, 0.9, 0.1], [1.0, 0.5, 0.1], [0.9, 0.5, 0.0], [0.1, 0.5, 0.9], [0.9, float("nan"), 0.1], [0.9]):
        with pytest.raises(ValueError, match=r"^here: the signal's share goes from .* it has to fall at every index"):
            check_signal(torch.tensor(abar), "here")


def vq(**scaling):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return VQModel(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **scaling)


@pytest.mark.parametrize(
    ("autoencoder", "scale"),
    [(vq, 1.0), (lambda: vq(scaling_factor=0.18215), 0.18215), (lambda: vq(scaling_factor=0.5), 0.5)],
    ids=["unnamed", "diffusers' default, named", "another, named"],
)
def test_a_vq_autoencoder_that_names_no_scale_has_one(autoencoder, scale):
    """diffusers gives it 0.18215, with which its latents are 5.5 times too small."""
    assert defaults(VQModel)["scaling_factor"] == 0.18215
    model, (_, unet, scheduler) = autoencoder(), parts()
    prior = Prior(model, unet, scheduler.alphas_cumprod)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(prior.encode(x), model.encode(x).latents * scale)
    assert prior.scaling_factor == model.config.scaling_factor == scale
    encoder = SeverityEncoder.from_prior(prior)
    assert FlashPipeline(model, unet, scheduler, encoder).prior.scaling_factor == scale


def test_a_kl_autoencoder_that_names_no_scale_has_diffusers_own():
    """Those are of the kind that the default was made for; what is another's, the check of the denoiser finds."""
    autoencoder, unet, scheduler = parts()
    assert Prior(autoencoder, unet, scheduler.alphas_cumprod).scaling_factor == 0.18215
