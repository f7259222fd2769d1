"""The pipeline is Flash: bit by bit from memory, from a folder and from the hub's cache; bad input is one sentence."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, VQModel
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file

from flashdiff.degradations import Degradation, GaussianBlur, Operator, RandomInpainting, SuperResolution, measure
from flashdiff.degradations import build as build_degradation
from flashdiff.explore.explorer import Explorer, Plan
from flashdiff.flash import Flash
from flashdiff.pipeline import FlashPipeline
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import LDPS, PSLD, LatentDAPS, LatentDiffPIR
from flashdiff.starts import ConsistentStart, FixedStart, InversionStart, PublishedStart, ScaledStart
from flashdiff.training.prior import build_autoencoder
from flashdiff.walks import EvenlySpaced, Growing

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"
BLUR = GaussianBlur(0.3, 3.0, 8)  # what the smoke study's encoder of gaussian_blur is for
IDS = np.array([4, 9, 0])
SHORT = EvenlySpaced(3)
FEW_STEPS = {
    3: {
        "solver": {"kind": "latent_diffpir", "lam": 2.0, "walk": {"kind": "evenly_spaced", "steps": 2}},
        "start": {"rule": "fixed", "index": 9, "fresh": 0.0},
    },
    6: {
        "solver": {"kind": "ldps", "eta": 0.04, "walk": {"kind": "growing", "rate": 0.5, "power": 0.5}},
        "start": {"rule": "scaled", "share": 0.5},
    },
}
NEAREST = LDPS(0.04, walk=Growing(0.5, 0.5)), ScaledStart(0.5)
"""The setting of FEW_STEPS that restores where nothing is asked, six evaluations, as objects."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No bars: neither diffusers' while it loads nor ours."""
    monkeypatch.setattr(FlashPipeline, "_progress_bar_config", {"disable": True}, raising=False)


@pytest.fixture
def study(tiny_study):
    """Every start rule has values of its own, so that a mix-up shows; walks of three steps."""
    parameters = (tiny_study / "params.yaml").read_text()
    short = "    kind: ldps\n    walk: {kind: evenly_spaced, steps: 3}\n"
    (tiny_study / "params.yaml").write_text(parameters.replace("    kind: ldps\n", short))
    chosen = {
        "flash_published": {"solver": {"eta": 0.05}, "start": {"correction": 1.2}},
        "flash_consistent": {"solver": {"eta": 0.03}, "start": {"k": 1.5}},
        "fixed": {"solver": {"eta": 0.07}, "start": {"fresh": 0.0}},
        "full_length": {"solver": {"eta": 0.09}, "start": {}},
    }
    (tiny_study / "data/tuned/gaussian_blur-ldps.json").write_text(json.dumps({"chosen": chosen, "trials": []}))
    few = {str(k): {"adaptive": {"psnr": choice, "perceptual": choice}} for k, choice in FEW_STEPS.items()}
    (tiny_study / "data/tuned/budgets-gaussian_blur-ldps.json").write_text(json.dumps({"chosen": few, "trials": []}))
    return tiny_study


@pytest.fixture
def pipe(study):
    return FlashPipeline.from_study("gaussian_blur", study)


@pytest.fixture
def measurement():
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 1, 16, 16))).float()
    return measure(x, BLUR, torch.tensor([0.2, 0.9, 0.5]), 0.1, ids=IDS)


def memory(pipe):
    """What a pipeline is made of besides its components."""
    return {name: pipe.config[name] for name in ("pixel_unshuffle", "degradation", "tuned", "few_steps")}


def flash(study, solver, start, seed=0):
    """Flash on the study's models, read from disk without the pipeline."""
    encoder = SeverityEncoder.from_pretrained(study / "data/severity/gaussian_blur")
    return Flash(Prior.from_pretrained(study / "data/prior"), encoder, solver, start, seed=seed, progress=False)


def assert_same(output, result):
    """Bit by bit, a pipeline's output and Flash's result."""
    assert torch.equal(output.images, result.images)
    assert torch.equal(output.severity, result.sigma_hat)
    for field in ("start", "nfe", "decodes", "encodes", "gradients"):
        assert torch.equal(getattr(output, field), getattr(result, field)), field


@pytest.mark.parametrize(
    ("options", "solver", "start"),
    [
        ({}, *NEAREST),
        ({"evaluations": 3}, LatentDiffPIR(2.0, walk=EvenlySpaced(2)), FixedStart(9, 0.0)),
        ({"solver": "ldps"}, LDPS(0.05, walk=SHORT), PublishedStart(1.2)),
        ({"start": "published"}, LDPS(0.05, walk=SHORT), PublishedStart(1.2)),
        ({"start": "consistent"}, LDPS(0.03, walk=SHORT), ConsistentStart(1.5)),
        ({"start": ConsistentStart(2.0)}, LDPS(0.03, walk=SHORT), ConsistentStart(2.0)),
        ({"start": FixedStart(7)}, LDPS(0.05, walk=SHORT), FixedStart(7)),
        ({"solver": PSLD(0.02, walk=SHORT)}, PSLD(0.02, walk=SHORT), PublishedStart()),
        ({"solver": LDPS(0.1, walk=EvenlySpaced(2)), "start": "inversion"}, LDPS(0.1, walk=EvenlySpaced(2)), InversionStart()),
        ({"start": "published", "seed": 5}, LDPS(0.05, walk=SHORT), PublishedStart(1.2)),
    ],
    ids=lambda value: "-".join(value) or "default" if isinstance(value, dict) else "",
)  # fmt: skip
def test_gives_what_flash_gives(pipe, study, measurement, options, solver, start):
    """The three ways to say what the operator is, each with every way to say what to do with it."""
    result = flash(study, solver, start, seed=options.get("seed", 0))(measurement)
    assert int(result.nfe.max()) > 0 and float(result.images.std()) > 0.01
    y, t = measurement.y, measurement.t
    assert_same(pipe(y, operator=BLUR, t=t, ids=IDS, **options), result)
    assert_same(pipe(y, operator=measurement.operator(), ids=IDS, **options), result)
    assert_same(pipe(measurement, **options), result)


def test_is_the_studys_own_flash(pipe, study, measurement):
    assert_same(
        pipe(measurement, start="published"),
        Explorer(study).flash("gaussian_blur", Plan(None, "ldps", "published"))(measurement),
    )


def test_one_level_for_all_and_counted_ids(pipe, study):
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 1, 16, 16))).float()
    same = measure(x, BLUR, 0.4, 0.1)
    expected = flash(study, LDPS(0.05, walk=SHORT), PublishedStart(1.2))(same)
    assert_same(pipe(same.y, operator=BLUR, t=0.4, start="published"), expected)


def test_a_study_without_few_steps_restores_as_published(study, measurement):
    (study / "data/tuned/budgets-gaussian_blur-ldps.json").unlink()
    pipe = FlashPipeline.from_study("gaussian_blur", study)
    assert_same(pipe(measurement), flash(study, LDPS(0.05, walk=SHORT), PublishedStart(1.2))(measurement))
    with pytest.raises(ValueError, match=r"evaluations: 3 is not a tuned .* here; choose one of \(none was tuned\)\."):
        pipe(measurement, evaluations=3)


def test_evaluations_are_those_of_a_tuned_walk(pipe, measurement):
    with pytest.raises(ValueError, match=r"evaluations: 4 is not a tuned walk of few steps here; choose one of 3, 6\."):
        pipe(measurement, evaluations=4)
    with pytest.raises(ValueError, match=r"evaluations: 6 is not .* here; leave out solver and start\."):
        pipe(measurement, evaluations=6, start="consistent")


def test_noise_level_reaches_the_solver(pipe, study, measurement):
    """LatentDAPS with tau None weighs its likelihood by the noise: the study's by default, the caller's else."""
    solver = LatentDAPS(step_size=1e-4, tau=None, mcmc_steps=2, walk=EvenlySpaced(2))
    wanted = {
        noise: flash(study, solver, FixedStart(9))(dataclasses.replace(measurement, noise_std=noise)).images
        for noise in (0.1, 0.3)
    }
    assert not torch.equal(wanted[0.1], wanted[0.3])
    given = {"operator": BLUR, "t": measurement.t, "ids": IDS, "solver": solver, "start": FixedStart(9)}
    assert torch.equal(pipe(measurement.y, **given).images, wanted[0.1])
    assert torch.equal(pipe(measurement.y, **given, noise_std=0.3).images, wanted[0.3])
    prepared = Operator(BLUR, measurement.operator().state, 0.3)
    assert torch.equal(pipe(measurement.y, **given | {"operator": prepared, "t": None}).images, wanted[0.3])


MIXTURE = {  # not in the order of the alphabet
    "kind": "mixture",
    "noise_std": 0.1,
    "members": {
        "random_inpainting": {"kind": "random_inpainting", "drop_max": 0.9, "noise_std": 0.1},
        "gaussian_blur": {"kind": "gaussian_blur", "std_max": 2.0, "radius": 5, "noise_std": 0.1},
    },
}


def with_mixture(pipe):
    return FlashPipeline(**pipe.components, pixel_unshuffle=2, degradation=MIXTURE)


def test_ids_reach_a_degradation_that_is_random_per_image(pipe, study, measurement):
    mixture, noise_std = build_degradation(MIXTURE)
    ids = np.arange(3, 11)
    mixed = measure(measurement.y.clamp(-1, 1)[:1].expand(8, -1, -1, -1), mixture, 0.7, noise_std, ids=ids)
    assert len(mixed.operator().state["member"].unique()) == 2
    result = flash(study, LDPS(0.05, walk=SHORT), PublishedStart())(mixed)
    pipe = with_mixture(pipe)
    assert_same(pipe(mixed.y, operator=pipe.degradation, t=0.7, ids=ids, solver=LDPS(0.05, walk=SHORT)), result)


def test_members_of_a_mixture_keep_their_order(pipe, tmp_path):
    """By their order an image gets its member; JSON written with sorted names would exchange them."""
    with_mixture(pipe).save_pretrained(tmp_path / "mixed")
    again = FlashPipeline.from_pretrained(tmp_path / "mixed")
    again.save_pretrained(tmp_path / "twice")
    x, t, ids = torch.rand(8, 1, 16, 16), torch.full((8,), 0.8), np.arange(8)
    expected = build_degradation(MIXTURE)[0].A(x, t, ids)
    for folder in ("mixed", "twice"):
        degradation = FlashPipeline.from_pretrained(tmp_path / folder).degradation
        assert list(degradation.members) == ["random_inpainting", "gaussian_blur"]
        assert torch.equal(degradation.A(x, t, ids), expected)


def test_result_depends_neither_on_batch_size_nor_on_batch_mates(pipe):
    """In double precision, where what rounding does stays far below what another noise or operator would."""
    pipe.to(torch.float64)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 1, 16, 16)))
    measurement = measure(x, BLUR, torch.tensor([0.2, 0.9, 0.5]), 0.1, ids=IDS)
    y, t = measurement.y, measurement.t
    whole = pipe(y, operator=BLUR, t=t, ids=IDS)
    assert whole.images.dtype == torch.float64
    for batch_size in (1, 2):
        batches = []
        hook = pipe.unet.register_forward_pre_hook(lambda _, inputs, seen=batches: seen.append(len(inputs[0])))
        part = pipe(y, operator=BLUR, t=t, ids=IDS, batch_size=batch_size)
        hook.remove()
        assert max(batches) == batch_size
        torch.testing.assert_close(part.images, whole.images, rtol=0, atol=1e-9)
    order = np.array([2, 0, 1])
    for operator in ({"operator": BLUR, "t": t[order]}, {"operator": measurement.operator(order)}):
        turned = pipe(y[order], **operator, ids=IDS[order], batch_size=2)
        torch.testing.assert_close(turned.images, whole.images[order], rtol=0, atol=1e-9)


def test_prior_and_measurement_follow_the_pipeline(pipe):
    prior = pipe.prior
    assert prior.abar.dtype == torch.float64 and prior.unet is pipe.unet and prior.autoencoder is pipe.vae
    assert pipe.to(torch.float64).prior.abar.dtype == torch.float64
    pipe.to("meta")
    assert (
        pipe.device.type == pipe.prior.abar.device.type == pipe._images(torch.zeros(1, 1, 16, 16)).device.type == "meta"
    )


def test_measurement_takes_the_pipelines_precision(pipe, measurement):
    images = pipe(measurement.y.double(), operator=BLUR, t=measurement.t.double(), ids=IDS).images
    assert torch.equal(images, pipe(measurement).images)


def test_seed_and_generator(pipe, measurement):
    runs = [pipe(measurement, seed=seed).images for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    generator = torch.Generator().manual_seed(3)
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(3)))
    first, second = (pipe(measurement, generator=generator).images for _ in range(2))
    assert torch.equal(first, pipe(measurement, seed=seed).images) and not torch.equal(first, second)


def test_output_types(pipe, measurement):
    tensor, array, pictures = (pipe(measurement, output_type=kind).images for kind in ("pt", "np", "pil"))
    unit = (tensor.double().numpy().transpose(0, 2, 3, 1) + 1) / 2
    assert array.shape == (3, 16, 16, 1)
    np.testing.assert_allclose(array, unit, rtol=0, atol=1e-6)
    assert [picture.mode for picture in pictures] == ["L"] * 3
    for picture, values in zip(pictures, unit, strict=True):
        assert np.abs(np.asarray(picture) - 255 * values[..., 0]).max() <= 0.501


def test_output_reads_like_those_of_diffusers(pipe, measurement):
    output = pipe(measurement)
    assert list(output) == ["images", "severity", "start", "nfe", "decodes", "encodes", "gradients"]
    assert output[0] is output.images is output["images"] and len(output.to_tuple()) == 7


def test_pictures_are_measurements(pipe):
    """Grey values v stand for v / 127.5 - 1, and colours become grey by ITU-R 601's weights."""
    values = np.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=np.uint8)
    pictures = [Image.fromarray(grey) for grey in values]
    y = torch.from_numpy(values[:, None] / 127.5 - 1).float()
    expected = pipe(y, operator=BLUR, t=0.5).images
    torch.testing.assert_close(pipe(pictures, operator=BLUR, t=0.5).images, expected, rtol=0, atol=1e-4)
    alone = pipe(pictures[1], operator=BLUR, t=0.5, ids=[1]).images
    torch.testing.assert_close(alone, expected[1:], rtol=0, atol=1e-4)
    colour = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    luma = (colour @ [0.299, 0.587, 0.114]) / 127.5 - 1
    assert np.abs(pipe._images(Image.fromarray(colour))[0, 0].numpy() - luma).max() <= 1 / 127.5


def test_pictures_of_a_colour_prior(pipe):
    """Height and width differ, so that axes in the wrong order show; grey pictures become three equal channels."""
    prior = Prior(build_autoencoder(3, 2, [8, 16], 4, 1), pipe.unet, pipe.scheduler.alphas_cumprod, pixel_unshuffle=2)
    prior.autoencoder.register_to_config(scaling_factor=1.7)
    encoder = SeverityEncoder.from_prior(Prior(prior.autoencoder, pipe.unet, pipe.scheduler.alphas_cumprod, 2))
    parts = pipe.components | {"vae": prior.autoencoder, "severity_encoder": encoder}
    pipe = FlashPipeline(**parts, **memory(pipe))
    values = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    y = torch.from_numpy(values.transpose(2, 0, 1)[None] / 127.5 - 1).float()
    expected = pipe(y, operator=BLUR, t=0.5, output_type="np").images
    got = pipe(Image.fromarray(values), operator=BLUR, t=0.5, output_type="np").images
    assert got.shape == (1, 16, 24, 3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    grey = Image.fromarray(values[..., 0])
    same = pipe(grey.convert("RGB"), operator=BLUR, t=0.5).images
    assert torch.equal(pipe(grey, operator=BLUR, t=0.5).images, same)


class Nonlinear(GaussianBlur):
    linear = False


class Smaller(Degradation):
    """Its measurement is not shaped like the image."""

    def prepare(self, t, image_shape, ids):
        return {"t": t}

    def apply(self, x, state):
        return x[..., ::2]


Y = torch.zeros(2, 1, 16, 16)
PICTURE = Image.new("L", (16, 16))
OF_ANOTHER_SIZE = RandomInpainting().prepare(torch.zeros(2), (1, 24, 24), np.arange(2))
MEASURED = measure(Y, BLUR, 0.5, 0.1)
REFUSED = {
    "NaN": (Y / 0, {}, "measurement: contains NaN or infinite values; remove them"),
    "shape": (Y[0], {}, "measurement: shape (1, 16, 16); this pipeline takes (B, 1, H, W)"),
    "channels": (Y.expand(2, 3, 16, 16), {}, "measurement: shape (2, 3, 16, 16); this pipeline takes (B, 1, H, W)"),
    "no images": (Y[:0], {}, "measurement: shape (0, 1, 16, 16); this pipeline takes (B, 1, H, W) with B >= 1"),
    "size": (Y[..., :12], {}, "measurement: shape (2, 1, 16, 12); this pipeline takes (B, 1, H, W) with B >= 1, H and W multiples of 8"),
    "integers": (Y.byte(), {}, "measurement: Tensor of dtype torch.uint8; give floats around [-1, 1]"),
    "array": (Y.numpy(), {}, "measurement: ndarray of dtype float32; give floats around [-1, 1] (B, C, H, W), or pictures"),
    "mode": ([PICTURE.convert("RGBA")], {}, "measurement: list of RGBA; give pictures of mode L or RGB"),
    "list": ([Y], {}, "measurement: list of Tensor; give pictures of mode L or RGB"),
    "sizes": ([PICTURE, PICTURE.resize((8, 8))], {}, "arrays must have the same shape"),
    "no operator": (Y, {"operator": None}, "operator: NoneType, t: float; give a degradation with its level t in [0, 1], or an Operator"),
    "class": (Y, {"operator": GaussianBlur}, "operator: ABCMeta, t: float; give a degradation with its level t"),
    "no level": (Y, {"t": None}, "operator: GaussianBlur, t: NoneType; give a degradation with its level t"),
    "levels alone": (Y, {"operator": None, "t": torch.zeros(2)}, "operator: NoneType, t: Tensor; give a degradation"),
    "Measurement and level": (MEASURED, {"operator": None}, "t: given beside what brings its own; leave it out"),
    "level": (Y, {"t": 1.5}, "t: values from 1.5 to 1.5; severity levels lie in [0, 1]"),
    "levels": (Y, {"t": torch.zeros(3)}, "t: shape (3,) for 2 images; give one severity level per image"),
    "noise": (Y, {"noise_std": -0.1}, "noise_std: -0.1; give the standard deviation of the noise in y, >= 0"),
    "ids": (Y, {"ids": [0]}, "ids: [0] for 2 images; give one integer >= 0 per image"),
    "negative ids": (Y, {"ids": [0, -1]}, "ids: [0, -1] for 2 images; give one integer >= 0 per image"),
    "batch size": (Y, {"batch_size": 0}, "batch_size: 0; give at least 1"),
    "precision": (Y, {"mixed_precision": "fp8"}, "mixed_precision: 'fp8' is unknown; choose one of auto, no, bf16"),
    "output": (Y, {"output_type": "jpg"}, "output_type: 'jpg' is unknown; choose one of pt, np, pil"),
    "solver": (Y, {"solver": "psld"}, "solver: 'psld' with start 'published' is not tuned; choose ldps with published, consistent, or objects"),
    "solver class": (Y, {"solver": LDPS}, "is no solver; give a name or an object such as LDPS(eta=1.0)"),
    "start": (Y, {"start": "early"}, "solver: 'ldps' with start 'early' is not tuned; choose ldps with published, consistent"),
    "untuned": (Y, {"start": "inversion"}, "solver: 'ldps' with start 'inversion' is not tuned; choose ldps with published"),
    "adjoint": (Y, {"operator": Nonlinear(), "solver": PSLD()}, "PSLD needs the adjoint A^T, and Nonlinear is not linear"),
    "prepared adjoint": (
        Y,
        {"operator": Operator(Nonlinear(), MEASURED.operator().state), "t": None, "solver": PSLD()},
        "PSLD needs the adjoint A^T, and Nonlinear is not linear",
    ),
    "other shape": (Y, {"operator": Smaller()}, "operator: Smaller makes (1, 16, 8) of images (1, 16, 16)"),
    "prepared rows": (Y[:1], {"operator": MEASURED.operator(), "t": None}, "operator: prepared for another number of images than 1"),
    "prepared size": (
        Y,
        {"operator": Operator(RandomInpainting(), OF_ANOTHER_SIZE), "t": None},
        "The size of tensor a (16) must match the size of tensor b (24)",
    ),
    "prepared and level": (Y, {"operator": MEASURED.operator()}, "t: given beside what brings its own; leave it out"),
    "Measurement and operator": (MEASURED, {}, "t and operator: given beside what brings its own; leave it out"),
    "Measurement of another shape": (
        measure(torch.zeros(1, 1, 16, 32), Smaller(), 0.0, 0.0),
        {"operator": None, "t": None},
        "operator: Smaller makes (1, 16, 16) of images (1, 16, 32)",
    ),
    "Measurement with NaN": (
        dataclasses.replace(MEASURED, y=Y / 0),
        {"operator": None, "t": None},
        "measurement: contains NaN",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "options", "message"), REFUSED.values(), ids=list(REFUSED))
def test_bad_input_is_refused_before_a_network_runs(pipe, given, options, message):
    def never(*_):
        raise AssertionError("a network ran")

    for network in (pipe.unet, pipe.vae, pipe.severity_encoder):
        network.forward = never
    with pytest.raises((ValueError, RuntimeError), match=re.escape(message)) as refused:
        pipe(given, **{"operator": BLUR, "t": 0.5} | options)
    assert str(refused.value).count("\n") == 0


def quantised():
    """A VQ autoencoder of the tiny prior's sizes, random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VQModel(
            in_channels=4,
            out_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            latent_channels=4,
            num_vq_embeddings=32,
            norm_num_groups=8,
            mid_block_add_attention=False,
            scaling_factor=0.8,
        )


def with_quantised(pipe):
    prior = Prior(quantised(), pipe.unet, pipe.scheduler.alphas_cumprod, pixel_unshuffle=2)
    components = pipe.components | {"vae": prior.autoencoder, "severity_encoder": SeverityEncoder.from_prior(prior)}
    return FlashPipeline(**components, **memory(pipe))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_folder_round_trip(pipe, measurement, tmp_path, kind):
    """diffusers' layout, safetensors, the same reconstructions, and flashdiff's own readers find their parts."""
    pipe = with_quantised(pipe) if kind == "VQModel" else pipe
    folder = tmp_path / "shared"
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "FlashPipeline"
    assert index["vae"] == ["diffusers", kind]
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert index["severity_encoder"] == ["flashdiff.severity", "SeverityEncoder"]
    for name in ("vae", "unet", "severity_encoder"):
        state = getattr(pipe, name).state_dict()
        stored = load_file(folder / name / "diffusion_pytorch_model.safetensors")
        assert state.keys() == stored.keys() and all(torch.equal(state[key], stored[key]) for key in state)

    again = FlashPipeline.from_pretrained(folder)
    assert again.degradation == pipe.degradation == BLUR and again.noise_std == pipe.noise_std == 0.1
    assert again.config.tuned == pipe.config.tuned and again.config.few_steps == pipe.config.few_steps
    assert again.config.pixel_unshuffle == 2
    encoder = SeverityEncoder.from_pretrained(folder, subfolder="severity_encoder")
    parts = Flash(Prior.from_pretrained(folder), encoder, *NEAREST, progress=False)(measurement)
    assert_same(pipe(measurement), parts)
    assert_same(again(measurement), parts)


def test_components_and_memory_make_the_pipeline_again(pipe, measurement):
    again = FlashPipeline(**pipe.components, **memory(pipe))
    assert torch.equal(again(measurement).images, pipe(measurement).images)


def test_hub_id(pipe, measurement, tmp_path, monkeypatch):
    """The hub's client is replaced; what it is asked for is what it would hand out, no less than the pipeline needs."""
    written, handed_out = tmp_path / "written", tmp_path / "handed out"
    pipe.save_pretrained(written)
    client = create_autospec(huggingface_hub.snapshot_download)

    def fetch(repo_id, **options):
        files = [str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, allow_patterns=options["allow_patterns"]):
            (handed_out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(written / name, handed_out / name)
        return str(handed_out)

    client.side_effect = fetch
    monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
    again = FlashPipeline.from_pretrained("me/flash", revision="v1", cache_dir=tmp_path)
    assert torch.equal(again(measurement).images, pipe(measurement).images)
    (call,) = client.call_args_list
    assert call.args == ("me/flash",) and call.kwargs["revision"] == "v1" and call.kwargs["cache_dir"] == tmp_path


def test_hub_id_from_the_hubs_cache(pipe, tmp_path):
    """The layout of huggingface_hub's cache, read by its own client, which is told to stay offline."""
    snapshot = tmp_path / "models--me--flash/snapshots" / ("0" * 40)
    pipe.save_pretrained(snapshot)
    (tmp_path / "models--me--flash/refs").mkdir()
    (tmp_path / "models--me--flash/refs/main").write_text("0" * 40)
    again = FlashPipeline.from_pretrained("me/flash", cache_dir=tmp_path, local_files_only=True)
    assert again.degradation == BLUR


def test_what_is_no_pipeline_is_refused(study, tmp_path):
    with pytest.raises(FileNotFoundError, match="pipeline: 'me/flash' is no folder, and the hub does not hand it out"):
        FlashPipeline.from_pretrained("me/flash", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(ValueError, match="neither a valid local path nor a valid repo id"):
        FlashPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"expected .*severity_encoder"):
        FlashPipeline.from_pretrained(study / "data/prior")


def test_diffusers_alone_says_whose_it_is(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "shared")
    with pytest.raises(AttributeError, match="diffusers has no attribute FlashPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path / "shared")


ENTRY = {"kind": "gaussian_blur", "noise_std": 0.1}
RECIPE = {"solver": {"kind": "ldps", "eta": 0.5}, "start": {"correction": 1.1}}
BAD_MEMORY = {
    "kind": ({"degradation": ENTRY | {"kind": "fog"}}, "kind 'fog' is unknown"),
    "missing": ({"degradation": {"kind": "gaussian_blur"}}, "noise_std"),
    "field": ({"degradation": ENTRY | {"fog": 1}}, "GaussianBlur.* unexpected keyword argument 'fog'"),
    "range": ({"degradation": ENTRY | {"std_min": 9.0}}, "GaussianBlur: std_max"),
    "solver": ({"tuned": {"ldps": {"published": {**RECIPE, "solver": {"kind": "magic"}}}}}, "kind 'magic' is unknown"),
    "step size": ({"tuned": {"ldps": {"published": {**RECIPE, "solver": {"kind": "ldps", "eta": -1}}}}}, "LDPS: eta is -1; it should be"),
    "rule": ({"tuned": {"ldps": {"early": RECIPE}}}, "start: 'early' is unknown; choose one of published, consistent"),
    "option": ({"tuned": {"ldps": {"published": {**RECIPE, "start": {"k": 1.0}}}}}, "PublishedStart.* argument 'k'"),
    "few steps, rule": ({"few_steps": {"3": {**RECIPE, "start": {"rule": "early"}}}}, "few_steps.3: start rule 'early' is unknown; choose one of"),
    "few steps, option": ({"few_steps": {"3": {**RECIPE, "start": {"rule": "scaled", "share": 2}}}}, "ScaledStart: share is 2; it should be"),
}  # fmt: skip


@pytest.mark.parametrize(("memory", "message"), BAD_MEMORY.values(), ids=list(BAD_MEMORY))
def test_what_it_remembers_is_checked(pipe, tmp_path, memory, message):
    """When it is made, and when it is read from a folder that someone has edited: what could not be built is refused."""
    with pytest.raises((ValueError, TypeError), match=message):
        FlashPipeline(**pipe.components, pixel_unshuffle=2, **memory)
    pipe.save_pretrained(tmp_path / "shared")
    path = tmp_path / "shared/model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | memory))
    with pytest.raises((ValueError, TypeError), match=message):
        FlashPipeline.from_pretrained(tmp_path / "shared")


def test_parts_that_do_not_fit_are_refused(pipe):
    def made(**parts):
        return FlashPipeline(**pipe.components | parts, pixel_unshuffle=parts.pop("pixel_unshuffle", 2))

    other = SeverityEncoder.from_config(dict(pipe.severity_encoder.config) | {"scaling_factor": 3.0})
    with pytest.raises(ValueError, match=r"severity_encoder.scaling_factor: 3.0, the prior's is 1.7; give parts that"):
        made(severity_encoder=other)
    for wrong in (1, 0):
        with pytest.raises(
            ValueError, match=f"severity_encoder.pixel_unshuffle: 2, the prior's is {wrong}; give parts"
        ):
            FlashPipeline(**pipe.components, pixel_unshuffle=wrong)
    colour = SeverityEncoder.from_config(dict(pipe.severity_encoder.config) | {"in_channels": 3})
    with pytest.raises(ValueError, match=r"severity_encoder\.in_channels: 12, the prior's is 4"):
        made(severity_encoder=colour)
    with pytest.raises(ValueError, match="scheduler: DDIMScheduler of 'v_prediction'; give a DDPMScheduler"):
        made(scheduler=DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match=r"unet\.in_channels: 3, the prior's is 4; give parts"):
        made(unet=type(pipe.unet).from_config(dict(pipe.unet.config) | {"in_channels": 3}))


def test_inference_mode_gives_the_bits_of_no_grad(pipe, tmp_path):
    """Calls, measurements made there, and a pipeline that was loaded there."""
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 1, 16, 16))).float()
    pipe.save_pretrained(tmp_path)
    for options in ({}, {"evaluations": 3}, {"solver": "ldps"}):
        expected = pipe(measure(x, BLUR, 0.5, 0.1, ids=IDS), **options)
        with torch.inference_mode():
            loaded = FlashPipeline.from_pretrained(tmp_path)
            for one in (pipe, loaded):
                found = one(measure(x, BLUR, 0.5, 0.1, ids=IDS), **options)
                assert torch.equal(found.images, expected.images) and torch.equal(found.severity, expected.severity)


def test_any_scheduler_of_the_diffusion_does(pipe, measurement, tmp_path, tiny_diffusion):
    """Only its alphas_cumprod count."""
    other = FlashPipeline(**pipe.components | {"scheduler": DDIMScheduler(**tiny_diffusion)}, **memory(pipe))
    other.save_pretrained(tmp_path / "ddim")
    again = FlashPipeline.from_pretrained(tmp_path / "ddim")
    assert isinstance(again.scheduler, DDIMScheduler)
    assert torch.equal(again(measurement).images, pipe(measurement).images)


def test_without_tuned_solvers_names_have_their_classes_defaults(pipe):
    plain = FlashPipeline(**pipe.components, pixel_unshuffle=2)
    assert plain.degradation is None and plain.noise_std is None
    assert plain.flash("psld", "inversion").solver == PSLD() and plain.flash().start == PublishedStart()
    assert plain.flash("psld", "inversion").start == InversionStart()
    with pytest.raises(ValueError, match="noise_std: None; give the standard deviation of the noise in y"):
        plain(Y, operator=BLUR, t=0.5)
    with pytest.raises(ValueError, match="kind 'magic' is unknown; choose one of ldps"):
        plain.flash("magic")
    with pytest.raises(ValueError, match=r"noise_std: -1\.0; give the standard deviation of the noise in y"):
        plain(Y, operator=BLUR, t=0.5, noise_std=-1.0)
    with pytest.raises(ValueError, match="noise_std: -1 is no standard deviation"):  # at once, not when it is used
        FlashPipeline(**pipe.components, pixel_unshuffle=2, degradation=ENTRY | {"noise_std": -1})


def test_a_study_that_cannot_give_it_is_one_sentence(study):
    with pytest.raises(ValueError, match="degradation: the study has no 'fog'; choose gaussian_blur, random"):
        FlashPipeline.from_study("fog", study)
    with pytest.raises(FileNotFoundError, match=r"mixture-latent_daps\.json: not there; run `make study`"):
        FlashPipeline.from_study("mixture", study)
    shutil.rmtree(study / "data/severity/random_inpainting")
    with pytest.raises(FileNotFoundError, match="random_inpainting: not there; run `make study` first"):
        FlashPipeline.from_study("random_inpainting", study)


def test_a_degradation_beside_the_studys_takes_another_encoder_and_the_first_pairs_walks(study, measurement):
    """The encoder is a folder of its own; what was trained for the name in the study plays no part."""
    entry = {"kind": "super_resolution", "noise_std": 0.1}
    other = study / "data/severity/random_inpainting"
    pipe = FlashPipeline.from_study("super_resolution", study, encoder=other, entry=entry)
    assert pipe.degradation == SuperResolution() and pipe.noise_std == 0.1
    assert pipe.config.tuned == {} and list(pipe.config.few_steps) == list(map(str, FEW_STEPS))
    assert (pipe.flash().solver, pipe.flash().start) == NEAREST
    expected = SeverityEncoder.from_pretrained(other).infer(measurement.y).sigma_hat
    assert torch.equal(pipe.severity_encoder.infer(measurement.y).sigma_hat, expected)


def test_every_pair_of_a_study_is_remembered(study):
    """A solver's fields that are null are not its class's defaults, and survive."""
    chosen = {"flash_published": {"solver": {"step_size": 1e-4}, "start": {"correction": 1.0}}}
    (study / "data/tuned/mixture-latent_daps.json").write_text(json.dumps({"chosen": chosen}))
    FlashPipeline.from_study("mixture", study).save_pretrained(study / "shared")
    pipe = FlashPipeline.from_pretrained(study / "shared")
    assert list(pipe.config.tuned) == ["latent_daps"]
    solver = pipe.flash("latent_daps").solver
    assert solver.tau is None and solver.mcmc_steps == 2 and solver.step_size == 1e-4 and solver.walk.levels == 5
    with pytest.raises(ValueError, match="solver: 'ldps' with start 'published' is not tuned; choose latent_daps with"):
        pipe.flash()


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_card_says_what_it_is_and_its_code_runs(pipe, measurement, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("flash-blur")
    card = tmp_path / "flash-blur/README.md"
    assert "# flash-blur" in card.read_text().splitlines()
    (stored,) = re.findall(r"^```json\n(.*?)^```$", card.read_text(), re.DOTALL | re.MULTILINE)
    known = json.loads(stored)
    assert known["degradation"].items() >= {"kind": "gaussian_blur", "std_max": 3.0, "noise_std": 0.1}.items()
    assert known["tuned"]["ldps"]["consistent"]["solver"]["eta"] == 0.03
    assert known["tuned"]["ldps"]["consistent"]["start"] == {"k": 1.5}
    names = {"y": measurement.y, "t": measurement.t}
    (block,) = python_blocks(card)
    exec(compile(block, str(card), "exec"), names)
    assert torch.equal(names["images"], pipe(measurement.y, operator=BLUR, t=measurement.t).images)
    card.write_text("my own words")
    pipe.save_pretrained("flash-blur")
    assert card.read_text() == "my own words"
    FlashPipeline(**pipe.components, pixel_unshuffle=2).save_pretrained("plain")
    assert '"degradation": null' in (tmp_path / "plain/README.md").read_text()


@pytest.mark.parametrize("has_card", [False, True])
def test_upload(pipe, tmp_path, monkeypatch, has_card):
    """The hub is replaced: a whole pipeline goes up with its card, unless somebody has written one there."""
    hub = create_autospec(huggingface_hub.HfApi, instance=True)
    hub.create_repo.return_value.repo_id = "me/flash-blur"
    hub.file_exists.return_value = has_card

    def upload(*, folder_path, ignore_patterns, **_):
        shutil.copytree(folder_path, tmp_path / "up", ignore=shutil.ignore_patterns(*(ignore_patterns or ())))
        return "https://huggingface.co/me/flash-blur/commit/1"

    hub.upload_folder.side_effect = upload
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: hub)
    assert pipe.push_to_hub("flash-blur", private=True) == "https://huggingface.co/me/flash-blur/commit/1"
    hub.create_repo.assert_called_once_with("flash-blur", private=True, exist_ok=True)
    assert hub.upload_folder.call_args.kwargs["repo_id"] == "me/flash-blur"
    assert FlashPipeline.from_pretrained(tmp_path / "up").degradation == BLUR
    card = tmp_path / "up/README.md"
    assert card.exists() != has_card
    assert has_card or 'FlashPipeline.from_pretrained("me/flash-blur")' in card.read_text()


def test_bar_is_shown_unless_told_otherwise(pipe, measurement, monkeypatch, capsys):
    monkeypatch.undo()
    pipe(measurement)
    assert "Flash" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(measurement)
    assert capsys.readouterr().err == ""


def test_the_page_runs(study, measurement, monkeypatch):
    monkeypatch.chdir(study)
    names = {"y": measurement.y}
    blocks = python_blocks(PAGE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    same = dataclasses.replace(measurement, t=torch.full((3,), 0.5), ids=np.arange(3))
    assert torch.equal(names["restored"], flash(study, *NEAREST)(same).images)
    assert len(names["pictures"]) == 3 and names["again"].images.shape == (3, 1, 16, 16)
    assert_same(names["result"], flash(study, *NEAREST)(names["measurement"]))
    said = re.search(r"says that `(.*?)`", PAGE.read_text(encoding="utf-8"))[1]
    with pytest.raises(AttributeError, match=said):
        DiffusionPipeline.from_pretrained(study / "flash-gaussian-blur")
