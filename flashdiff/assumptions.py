"""What the method assumes of a latent diffusion model of diffusers, configuration field by field.

diffusers loads many models that are no prior of this method: with classes or text, with other predictions than the noise,
with latents that are shifted. Most of them would run, and some only fail after days. So every field of autoencoder,
denoiser and scheduler has a line in one of three tables: what it has to be and why, or why it may be anything.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Field(NamedTuple):
    """What one field has to be: ``holds(value, model)`` for the configurations of all parts, and ``said`` where it is not."""

    holds: Callable[[Any, Mapping[str, Mapping]], bool]
    said: str


def anything(_why: str) -> Field:
    """A field that may be anything; why, is said for readers of the tables."""
    return Field(lambda value, model: True, "")


def one_of(*values: Any, said: str) -> Field:
    """A field with few values that fit."""
    return Field(lambda value, model: value in values, said)


def _resolutions(part: str, names: tuple[str, ...], said: str) -> Field:
    def holds(value, model):
        return len(value) == len(model[part]["block_out_channels"]) and all(name in names for name in value)

    return Field(holds, said)


NETWORK = "part of what the network computes, which its weights were trained with"
SAMPLER = "of that scheduler's own sampler, which nothing here walks with"
PRECISION = "how it is computed, not what"
UNCONDITIONAL = "the denoiser has to be unconditional: nobody here tells it a class or a text"
MEANS = "latents are scaled by scaling_factor alone here, and by nothing else"
LEARNED = "the denoiser has to answer with the noise and nothing else; learned variances are not used here"

AUTOENCODER: dict[str, Field] = {
    "in_channels": Field(
        lambda value, model: value % model["index"].get("pixel_unshuffle", 1) ** 2 == 0,
        "images are folded by pixel_unshuffle, whose square has to divide it",
    ),
    "out_channels": Field(
        lambda value, model: value == model["autoencoder"]["in_channels"],
        "the decoder has to give the channels that the encoder takes",
    ),
    "block_out_channels": anything(NETWORK),
    "down_block_types": _resolutions(
        "autoencoder",
        ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "one block of DownEncoderBlock2D or AttnDownEncoderBlock2D per resolution is what halves it",
    ),
    "up_block_types": _resolutions(
        "autoencoder",
        ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "one block of UpDecoderBlock2D or AttnUpDecoderBlock2D per resolution is what doubles it",
    ),
    "layers_per_block": anything(NETWORK),
    "act_fn": one_of("silu", "swish", said="the severity encoder is a copy of the encoder, and knows SiLU only"),
    "latent_channels": anything("the denoiser's in_channels are compared with it"),
    "norm_num_groups": anything(NETWORK),
    "mid_block_add_attention": anything(NETWORK),
    "sample_size": anything("of tiled encoding, which nothing here uses"),
    "scaling_factor": Field(
        lambda value, model: isinstance(value, int | float) and 0 < value < float("inf"),
        "latents are multiplied by it, so it has to be a number above 0",
    ),
    "force_upcast": anything(PRECISION),
    # AutoencoderKL alone
    "shift_factor": one_of(None, 0, said=MEANS),
    "latents_mean": one_of(None, said=MEANS),
    "latents_std": one_of(None, said=MEANS),
    "use_quant_conv": one_of(True, said="the severity encoder starts from a copy of the autoencoder's quant_conv"),
    "use_post_quant_conv": anything(NETWORK),
    # VQModel alone
    "num_vq_embeddings": anything(NETWORK),
    "vq_embed_dim": Field(
        lambda value, model: value is None or value == model["autoencoder"]["latent_channels"],
        "codes and latents have to have as many channels",
    ),
    "norm_type": anything(NETWORK),
    "lookup_from_codebook": anything("of decoding without quantisation, which is not done here"),
}

DENOISER: dict[str, Field] = {
    "sample_size": anything("the stage that takes a prior compares it with the study's latents"),
    "in_channels": Field(
        lambda value, model: value == model["autoencoder"]["latent_channels"],
        "the denoiser has to take the autoencoder's latents and nothing beside them",
    ),
    "out_channels": Field(lambda value, model: value == model["denoiser"]["in_channels"], LEARNED),
    "center_input_sample": anything(NETWORK),
    "time_embedding_type": one_of(
        "positional", "learned", said="the denoiser has to be told an index 0..N-1; fourier takes a noise level"
    ),
    "num_train_timesteps": Field(
        lambda value, model: value is None or value == model.get("scheduler", {}).get("num_train_timesteps", value),
        "the denoiser has to know as many indices as the scheduler",
    ),
    "class_embed_type": one_of(None, said=UNCONDITIONAL),
    "num_class_embeds": one_of(None, said=UNCONDITIONAL),
    "down_block_types": _resolutions(
        "denoiser",
        ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"),
        UNCONDITIONAL,
    ),
    "up_block_types": _resolutions(
        "denoiser",
        ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"),
        UNCONDITIONAL,
    ),
    "mid_block_type": one_of("UNetMidBlock2D", None, said=UNCONDITIONAL),
} | dict.fromkeys(
    (
        "time_embedding_dim",
        "freq_shift",
        "flip_sin_to_cos",
        "block_out_channels",
        "layers_per_block",
        "mid_block_scale_factor",
        "downsample_padding",
        "downsample_type",
        "upsample_type",
        "dropout",
        "act_fn",
        "attention_head_dim",
        "norm_num_groups",
        "attn_norm_num_groups",
        "norm_eps",
        "resnet_time_scale_shift",
        "add_attention",
    ),
    anything(NETWORK),
)

EPSILON = "the denoiser has to predict the noise, prediction_type 'epsilon'"
FLOW = "the noise has to follow a schedule of betas; flow matching has none"

SCHEDULER: dict[str, Field] = {
    "num_train_timesteps": Field(
        lambda value, model: isinstance(value, int) and value >= 2, "a diffusion has at least 2 indices"
    ),
    # what these three give is checked as a whole: see check_signal
    "beta_start": anything("of the signal's table"),
    "beta_end": anything("of the signal's table"),
    "beta_schedule": anything("of the signal's table"),
    "trained_betas": Field(
        lambda value, model: value is None or len(value) == model["scheduler"]["num_train_timesteps"],
        "there has to be one beta for each of num_train_timesteps",
    ),
    "rescale_betas_zero_snr": one_of(
        False, None, said="at the last index nothing is left of the signal then, and no prediction of noise finds it"
    ),
    "prediction_type": one_of("epsilon", said=EPSILON),
    "variance_type": Field(lambda value, model: not str(value).startswith("learned"), LEARNED),
    "timestep_type": one_of("discrete", said="the denoiser has to be told an index 0..N-1, not a noise level"),
    "use_flow_sigmas": one_of(False, None, said=FLOW),
    "timesteps": Field(  # num_train_timesteps in files of diffusers before 0.1
        lambda value, model: value in (None, model["scheduler"]["num_train_timesteps"]),
        "it is the old name of num_train_timesteps, and contradicts it",
    ),
} | dict.fromkeys(
    (
        "clip_sample",  # clips what a sampler in pixels believes of the image; the solvers here clip no latent
        "clip_sample_range",
        "thresholding",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "timestep_spacing",
        "steps_offset",
        "set_alpha_to_one",
        "skip_prk_steps",
        "algorithm_type",
        "solver_order",
        "solver_type",
        "solver_p",
        "predict_x0",
        "disable_corrector",
        "lower_order_final",
        "euler_at_final",
        "final_sigmas_type",
        "lambda_min_clipped",
        "interpolation_type",
        "sigma_min",
        "sigma_max",
        "shift_terminal",
        "flow_shift",
        "time_shift_type",
        "use_dynamic_shifting",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "tensor_format",  # of files of diffusers before 0.1
        "timestep_values",
    ),
    anything(SAMPLER),
)

TABLES = {"autoencoder": AUTOENCODER, "denoiser": DENOISER, "scheduler": SCHEDULER}
CLASSES = {
    "autoencoder": ("AutoencoderKL", "VQModel"),
    "denoiser": ("UNet2DModel",),
    # those whose samplers diffusers exchanges for each other: all of them discretise one table of betas
    "scheduler": (
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "DDIMScheduler",
        "DDIMParallelScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
    ),
}
WHY = {
    "autoencoder": "other autoencoders have other latents",
    "denoiser": "the denoiser has to be unconditional: nobody here tells it a text, a class or another image",
    "scheduler": FLOW,
}
REMEDY = "give an unconditional latent diffusion model that predicts noise"


def check_class(part: str, name: str, where: str) -> None:
    """ValueError unless a part is of one of :data:`CLASSES`."""
    if name not in CLASSES[part]:
        raise ValueError(f"{where} is of class {name}, not {' or '.join(CLASSES[part])}: {WHY[part]}; {REMEDY}.")


def check_fields(model: Mapping[str, Mapping], places: Mapping[str, str]) -> None:
    """ValueError with one sentence for the first field that is not what the method assumes.

    model: the configurations by part ("autoencoder", "denoiser", "scheduler", any of them), defaults filled in, and
    "index", what stands in ``model_index.json``; places: what a part is called in the sentence.
    """
    for part, table in TABLES.items():
        for name, value in model.get(part, {}).items():
            if name.startswith("_"):
                continue
            if name not in table:
                if value in (None, False):  # a field of a newer diffusers, switched off
                    continue
                raise ValueError(
                    f"{places[part]}: {name} is {_short(value)}, and what it means is not known here; {REMEDY}, or "
                    "remove the field where it means nothing."
                )
            try:
                holds = table[name].holds(value, model)
            except (TypeError, ValueError, AttributeError, KeyError):  # of another type than the field
                holds = False
            if not holds:
                raise ValueError(f"{places[part]}: {name} is {_short(value)}: {table[name].said}; {REMEDY}.")


def check_signal(abar, where: str) -> None:
    """ValueError unless abar (N,), the share of the signal, falls strictly within (0, 1), as a diffusion's does."""
    falls = len(abar) >= 2 and bool((abar[1:] < abar[:-1]).all())
    if not falls or not (float(abar[0]) < 1 and float(abar[-1]) > 0):
        raise ValueError(
            f"{where}: the signal's share goes from {float(abar[0]):g} to {float(abar[-1]):g}; it has to fall at every index, "
            f"from below 1 to above 0; {REMEDY}."
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."
