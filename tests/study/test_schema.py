"""The study file: a wrong one is refused in one sentence per problem, before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flashdiff.study import schema
from flashdiff.study.schema import StudyError, load, select

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "studies" / "smoke" / "params.yaml"
MISSING = object()
BLUR, INPAINTING = "degradations.gaussian_blur", "degradations.random_inpainting"


def with_value(folder, dotted, value, study=SMOKE):
    """A copy of the smoke study, or another one, with one value changed or left out; returns its path."""
    study = YAML(typ="safe").load(study.read_text(encoding="utf-8"))
    section = study
    *outer, last = dotted.split(".")
    for part in outer:
        section = section[part]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    with open(folder / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe").dump(study, file)
    return folder / "params.yaml"


def refusal(path):
    """What load says about a study file, without the file's name in front."""
    with pytest.raises(StudyError) as refused:
        load(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and message.endswith((".", "?"))
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))], ids=str)
def test_shipped_studies_are_valid(path):
    study = load(path)
    folder = path.parent
    assert study.study == ("fashion-mnist" if folder == ROOT else folder.name)
    assert (folder / study.root).resolve() == ROOT
    assert study.data.images is None or study.data.layout or (folder / study.data.images).is_dir()


@pytest.mark.parametrize(
    ("dotted", "value", "sentence"),
    [
        ("severity.step", 3, "severity.step: unknown name; did you mean 'steps'?"),
        (f"{BLUR}.std_maxx", 1, f"{BLUR}.std_maxx: unknown name; did you mean 'std_max'?"),
        ("prior.denoiser.head_dim", 1, "prior.denoiser.head_dim: unknown name; did you mean 'head'?"),
        ("colour", 1, "colour: unknown name; remove it."),
        (
            "prior.diffusion.beta_end",
            0.001,
            "prior.diffusion.beta_end: 0.001 must not be below beta_start (0.0015).",
        ),
        (
            "solvers.ldps.eta",
            1,
            "tune.candidates.ldps.solver.eta: solvers.ldps has it, too; remove it from one of them.",
        ),
        ("solvers.ldps.tune", {"eta": [1.0]}, "solvers.ldps.tune: unknown name; remove it."),
        ("solvers.ldps.stochastic", 0.0, "solvers.ldps.stochastic: unknown name; did you mean 'stochasticity'?"),
        (
            "tune.candidates.ldps.solver.etta",
            [1.0],
            "tune.candidates.ldps.solver.etta: unknown name; did you mean 'eta'?",
        ),
        (
            "tune.candidates.ldps.solver.eta",
            [0.1, -1.0],
            "tune.candidates.ldps.solver.eta: LDPS: eta is -1.0; it should be greater than or equal to 0.",
        ),
        ("tune.candidates.ldps.solver.eta", ["0.1"], "tune.candidates.ldps.solver.eta: '0.1' is no number."),
        ("tune.candidates.ldps.solver.eta", [], "tune.candidates.ldps.solver.eta: empty; give at least one entry."),
        ("tune.candidates.ldps.starts", {}, "tune.candidates.ldps.starts: empty; give at least one entry."),
        (
            "tune.candidates.ldps.starts",
            {"early": {}},
            "tune.candidates.ldps.starts.early: unknown name; choose one of published, consistent, inversion.",
        ),
        (
            "tune.candidates.ldps.starts",
            {"consistent": {"k": [0.9]}},
            "tune.candidates.ldps.starts.consistent.k: ConsistentStart: k is 0.9; it should be greater than or equal to 1.",
        ),
        (
            "tune.candidates.psld",
            {"solver": {}, "starts": {"published": {}}},
            "tune.candidates.psld: 'psld' is not among the solvers of the study; choose one of latent_daps, ldps.",
        ),
        (
            "tune.candidates.ldps",
            MISSING,
            "tune.candidates.ldps: missing; say what is tried for that solver, or remove it.",
        ),
        ("solvers.ldps.walk", {"kind": "evenly_spaced"}, "solvers.ldps.walk.steps: missing; add it."),
        (
            "solvers.ldps.walk",
            {"kind": "noise_levels", "levels": 5, "s_max": 1.0, "s_min": 2.0},
            "solvers.ldps: NoiseLevels: s_max is 1.0; give a value above s_min, 2.0.",
        ),
        (
            "pairs.gaussian_blur-ldps.solver",
            "psld",
            "pairs.gaussian_blur-ldps.solver: 'psld' is not among the solvers of the study; choose one of latent_daps, ldps.",
        ),
        (
            "pairs.blur-ldps",
            {"degradation": "gaussian_blur", "solver": "ldps"},
            "pairs.blur-ldps: its name must be gaussian_blur-ldps.",
        ),
        (f"{BLUR}.drop_max", 0.5, f"{BLUR}.drop_max: unknown name; did you mean 'std_max'?"),
        (
            "reconstruction.levels",
            {"gaussian_blur": [0.9, 0.1]},
            "reconstruction.levels.gaussian_blur: [0.9, 0.1] must be the lowest level and the highest.",
        ),
        (
            "reconstruction.levels",
            {"gaussian_blur": [0.5]},
            "reconstruction.levels.gaussian_blur: [0.5] must be the lowest level and the highest.",
        ),
        (
            "reconstruction.levels",
            {"gaussian_blur": [0.5, 1.5]},
            "reconstruction.levels.gaussian_blur.1: 1.5 is not valid: input should be less than or equal to 1.",
        ),
        (
            "reconstruction.levels",
            {"blur": [0.5, 1.0]},
            "reconstruction.levels.blur: 'blur' is not among the degradations of the study; "
            "choose one of gaussian_blur, mixture, random_inpainting.",
        ),
        ("ablation.steps", [2, 0], "ablation.steps.1: 0 is not valid: input should be greater than or equal to 1."),
        ("ablation.steps", [2, 2], "ablation: steps ([2, 2]) must differ from one another."),
        ("ablation.losses", [], "ablation.losses: empty; give at least one entry."),
        ("ablation.losses", ["l1"], "ablation.losses.0: 'l1' is not valid: input should be 'squared' or 'likelihood'."),
        ("ablation.learning_rat", 0.1, "ablation.learning_rat: unknown name; did you mean 'learning_rate'?"),
        (
            "ablation.architectures.correction.channels",
            [8],
            "ablation.architectures.correction.channels: [8] must be 2 numbers, one for each resolution of prior.autoencoder.",
        ),
        (
            "ablation.architectures.correction.layers",
            0,
            "ablation.architectures.correction.layers: 0 is not valid: input should be greater than or equal to 1.",
        ),
        ("ablation.n_images", 13, "ablation.n_images: 13 is more than the 12 validation images; lower it."),
        *(
            (
                f"robustness.{field}",
                [value, value],
                f"robustness: {field} ([{value}, {value}]) must differ from one another.",
            )
            for field, value in (("noise", 2.0), ("unseen", 1), ("lambda_sigma", 1.0), ("corrections", 1.0))
        ),
        (
            "robustness.starts",
            {},
            "robustness: corrections ([1.0, 1.2]) are of the published start; name it in starts.",
        ),
        (
            "robustness.starts",
            {"published": {"correction": [1.0]}, "publishd": {}},
            "robustness.starts.publishd: unknown name; choose one of published, consistent, inversion.",
        ),
        ("confidence.walked", 3, "confidence: walked (3) must lie between 4 and n_images (12)."),
        ("confidence.restored", 13, "confidence: restored (13) must lie between 4 and n_images (12)."),
        ("confidence.n_images", 13, "confidence.n_images: 13 is more than the 12 validation images; lower it."),
        (
            "confidence.evaluations",
            3,
            "confidence.evaluations: 3 is not among budgets.evaluations ([2.0, 4.0]); choose one of them.",
        ),
        ("shift.bins", 13, "shift: validation (12) must be at least bins (13)."),
        ("shift.walked", 7, "shift: walked (7) must not be above n_images (6)."),
        ("shift.fallback_index", 20, "shift.fallback_index: [20] must be below prior.diffusion.n_steps (20)."),
        (
            "blind.evaluations",
            2,
            "blind.evaluations: 2 and its half, 1, are not both among budgets.evaluations ([2.0, 4.0]); choose another number, or "
            "no images (0).",
        ),
        ("spread.full_images", 5, "spread: full_images (5) are some of n_images (4); lower it."),
        (
            "spread.evaluations",
            3,
            "spread.evaluations: 3 is not among budgets.evaluations ([2.0, 4.0]); choose one of them.",
        ),
        ("calibrated.starts", [5, 5], "calibrated: starts ([5, 5]) must rise."),
        ("calibrated.shares", [0.5, 0.9], "calibrated: shares ([0.5, 0.9]) must enclose 1."),
        ("calibrated.bins", 3, "calibrated: validation (6) is too few images for 3 bins; lower bins."),
        (
            "calibrated.evaluations",
            [3],
            "calibrated.evaluations: 3 is not among budgets.evaluations ([2.0, 4.0]); choose of them.",
        ),
        ("allocation.numbers", [1, 4, 2], "allocation: numbers ([1, 4, 2]) must rise."),
        ("allocation.bins", 7, "allocation: validation (6) must be at least bins (7)."),
        ("allocation.n_images", 17, "allocation.n_images: 17 is more than the 16 test images; lower it."),
        ("allocation.validation", 13, "allocation.validation: 13 is more than the 12 validation images; lower it."),
        ("frechet.n_images", 12, "frechet: n_images (12) must be at least 1000, or 0: fewer say nothing."),
        ("frechet.n_images", 1000, "frechet.n_images: 1000 is more than the 16 test images; lower it."),
        ("frechet.evaluations", [2.0, 2.0], "frechet.evaluations: [2.0, 2.0] must differ from one another."),
        (
            "frechet.evaluations",
            [0.5],
            "frechet.evaluations.0: 0.5 is not valid: input should be greater than or equal to 1.",
        ),
        ("robustness.noise", [0.0], "robustness.noise.0: 0.0 is not valid: input should be greater than 0."),
        (
            "robustness.corrections",
            [0.8],
            "robustness.corrections.0: 0.8 is not valid: input should be greater than or equal to 1.",
        ),
        (
            "robustness.evaluations",
            3,
            "robustness.evaluations: 3 is not among budgets.evaluations ([2.0, 4.0]); choose one of them.",
        ),
        ("robustness.n_images", 17, "robustness.n_images: 17 is more than the 16 test images; lower it."),
        ("robustness.encoder_images", 17, "robustness.encoder_images: 17 is more than the 16 test images; lower it."),
        (
            "robustness.architecture.channels",
            [8],
            "robustness.architecture.channels: [8] must be 2 numbers, one for each resolution of prior.autoencoder.",
        ),
        ("severity.accumulation", 9, "severity: accumulation (9) must not be above batch_size (8)."),
        (
            "prior",
            {"kind": "use_prior", "path": "elsewhere", "severity": {"blur": "blur.ckpt"}},
            "prior.severity.blur: 'blur' is not among the degradations of the study; "
            "choose one of gaussian_blur, mixture, random_inpainting.",
        ),
        (
            "data.layout",
            "imagenet",
            "data.layout: 'imagenet' is not valid: input should be 'folder', 'celebahq', 'ffhq', 'lsun' or 'hugging_face'.",
        ),
        ("data.column", "image", "data: column (image) is for layout: hugging_face; remove it."),
        ("data.train", 5, "data: train (5) plays no part without a test_set; remove it."),
        ("data.test_set", {"list": "test.txt"}, "data.test_set.images: missing; add it."),
        ("data.test_set", {"images": "a", "lists": "b"}, "data.test_set.lists: unknown name; did you mean 'list'?"),
        ("severity", MISSING, "severity: missing; add it."),
        ("severity.steps", MISSING, "severity.steps: missing; add it."),
        (f"{BLUR}.kind", MISSING, f"{BLUR}.kind: missing; add it."),
        ("solvers.ldps.kind", MISSING, "solvers.ldps.kind: missing; add it."),
        ("severity.steps", "20", "severity.steps: '20' is not valid: input should be a valid integer."),
        ("severity.steps", 2.5, "severity.steps: 2.5 is not valid: input should be a valid integer."),
        ("severity.steps", True, "severity.steps: True is not valid: input should be a valid integer."),
        ("severity.steps", None, "severity.steps: None is not valid: input should be a valid integer."),
        ("severity.ema", "0.9", "severity.ema: '0.9' is not valid: input should be a valid number."),
        ("data.images", 3, "data.images: 3 is not valid: input should be a valid string."),
        (
            "tune.candidates.ldps.solver.eta",
            0.1,
            "tune.candidates.ldps.solver.eta: 0.1 is not valid: input should be a valid list.",
        ),
        (
            "severity",
            None,
            "severity: None is not valid: it should be a section, with one 'name: value' per line.",
        ),
        (
            "degradations.gaussian_blur",
            1,
            f"{BLUR}: 1 is not valid: it should be a section, with one 'name: value' per line.",
        ),
        (
            "solvers",
            "ldps",
            "solvers: 'ldps' is not valid: it should be a section, with one 'name: value' per line.",
        ),
        ("severity.steps", 0, "severity.steps: 0 is not valid: input should be greater than or equal to 1."),
        ("severity.ema", 1.0, "severity.ema: 1.0 is not valid: input should be less than 1."),
        (
            "severity.learning_rate",
            float("inf"),
            "severity.learning_rate: inf is not valid: input should be a finite number.",
        ),
        ("data.channels", 2, "data.channels: 2 is not valid: input should be 1 or 3."),
        (
            "prior.denoiser.mixed_precision",
            "fp16",
            "prior.denoiser.mixed_precision: 'fp16' is not valid: input should be 'auto', 'no' or 'bf16'.",
        ),
        (
            "reconstruction.fixed_starts",
            [3, -1],
            "reconstruction.fixed_starts.1: -1 is not valid: input should be greater than or equal to 0.",
        ),
        ("degradations", {}, "degradations: empty; give at least one entry."),
        (
            "data.name",
            "My Images",
            "data.name: 'My Images' is not valid: use small letters and digits, and after the first _ and -, too.",
        ),
        (
            "degradations.Blur",
            {"kind": "random_inpainting", "drop_max": 0.9, "noise_std": 0.1},
            "degradations.Blur: 'Blur' is not valid: use small letters and digits, and after the first _, too.",
        ),
        (
            f"{BLUR}.kind",
            "sharpen",
            f"{BLUR}.kind: 'sharpen' is unknown; choose one of 'gaussian_blur', 'random_inpainting', 'box_inpainting', "
            "'motion_blur', 'super_resolution', 'nonlinear_blur', 'encoded_blur', 'mixture'.",
        ),
        (
            "solvers.ldps.kind",
            "dps",
            "solvers.ldps.kind: 'dps' is unknown; choose one of 'ldps', 'gml_dps', 'psld', 'resample', 'latent_daps', 'latent_diffpir', 'ldps_diffpir'.",
        ),
        (f"{BLUR}.std_max", 0.2, f"{BLUR}: GaussianBlur: std_max is 0.2; give a value above std_min, 0.3."),
        (
            "prior.autoencoder.channels",
            [8, 12],
            "prior.autoencoder.channels: [8, 12] must be multiples of 8 (the size of a normalisation group).",
        ),
        (
            "prior.denoiser.channels",
            [32, 40],
            "prior.denoiser.channels: [32, 40] must be multiples of 32 (the number of normalisation groups).",
        ),
        (
            "data.image_size",
            18,
            "data.image_size: 18 must be a multiple of 4, which the autoencoder divides it by.",
        ),
        (
            "reconstruction.fixed_starts",
            [3, 20, 25],
            "reconstruction.fixed_starts: [20, 25] must be below prior.diffusion.n_steps (20).",
        ),
        ("ordering.n_images", 17, "ordering.n_images: 17 is more than the 16 test images; lower it."),
        ("correlation.n_images", 17, "correlation.n_images: 17 is more than the 16 test images; lower it."),
        ("reconstruction.n_images", 17, "reconstruction.n_images: 17 is more than the 16 test images; lower it."),
        ("tune.n_images", 13, "tune.n_images: 13 is more than the 12 validation images; lower it."),
    ],
)
def test_a_wrong_parameter_is_one_sentence(tmp_path, dotted, value, sentence):
    assert refusal(with_value(tmp_path, dotted, value)) == sentence


CAMERA = {"kind": "nonlinear_blur", "length_min": 0.0, "length_max": 6.0, "gain_max": 1.5, "noise_std": 0.1}
NETWORK = {"kind": "encoded_blur", "weights": "GOPRO_wVAE.pth", "noise_std": 0.1}
BOX = {"kind": "box_inpainting", "side_max": 0.5, "noise_std": 0.1}
MIXED = {"kind": "mixture", "members": {"box": BOX, "shake": CAMERA}, "noise_std": 0.1}


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "box_inpainting", "side_max": 0.5, "noise_std": 0.1},
        {"kind": "motion_blur", "length_min": 0.0, "length_max": 6.0, "noise_std": 0.1},
        {"kind": "super_resolution", "factor_max": 2.5, "noise_std": 0.1},
        CAMERA,
        NETWORK,
        NETWORK | {"weights": "https://example.org/GOPRO_wVAE.pth", "sha256": "0" * 64},
        MIXED,
    ],
    ids=lambda entry: entry["kind"],
)
def test_every_kind_of_degradation_is_built_from_its_entry(tmp_path, entry):
    from flashdiff.degradations import DEGRADATIONS, build

    study = SMOKE
    if entry["kind"] == "encoded_blur":  # of its images
        study = with_value(tmp_path, "data.channels", 3, with_value(tmp_path, "data.image_size", 128))
    degradations = load(with_value(tmp_path, "degradations.new", entry, study)).degradations
    parameters = degradations["new"].model_dump()
    degradation, noise_std = build(parameters)
    assert type(degradation) is DEGRADATIONS[entry["kind"]] and noise_std == 0.1
    fields = {name: value for name, value in entry.items() if name not in ("kind", "members", "noise_std")}
    assert {name: getattr(degradation, name) for name in fields} == fields
    if entry["kind"] == "mixture":
        assert list(degradation.members) == list(entry["members"])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"kind": "box_inpainting", "side_max": 1.5, "noise_std": 0.1}, ".side_max: 1.5 is not valid: input should be"),
        (
            {"kind": "motion_blur", "length_min": 2.0, "length_max": 2.0, "noise_std": 0.1},
            ": MotionBlur: length_max is 2.0; give a value above length_min, 2.0.",
        ),
        ({"kind": "super_resolution", "factor_max": 1.0, "noise_std": 0.1}, ".factor_max: 1.0 is not valid: input"),
        (CAMERA | {"length_max": None}, ".length_max: None is not valid: input should be a valid number."),
        (CAMERA | {"length_min": 6.0}, ": NonlinearBlur: length_max is 6.0; give a value above length_min, 6.0."),
        (CAMERA | {"weights": "F.pth"}, ".weights: unknown name; remove it."),
        (
            NETWORK | {"sha256": "A" * 64},
            f".sha256: '{'A' * 64}' is not valid: a SHA-256 is 64 hexadecimal digits in small letters.",
        ),
        (
            NETWORK | {"weights": "https://example.org/F"},
            ": EncodedBlur: sha256 is missing for 'https://example.org/F'",
        ),
        (NETWORK | {"weights": "http://example.org/F"}, ": EncodedBlur: weights is 'http://example.org/F', neither"),
        (MIXED | {"members": {"box": BOX}}, ": Mixture: members are ['box']; give at least two."),
        (MIXED | {"members": {"a": BOX, "b": MIXED}}, ".members.b.kind: 'mixture' is unknown; choose one of"),
        (
            MIXED | {"members": {"box": BOX, "shake": CAMERA | {"length_min": 6.0}}},
            ": NonlinearBlur: length_max is 6.0; give a value above length_min, 6.0.",
        ),
        (
            MIXED | {"members": {"box": BOX, "shake": CAMERA | {"lenght_min": 6.0}}},
            ".members.shake.lenght_min: unknown name; did you mean 'length_min'?",
        ),
        (
            CAMERA | {"length_max": 31.0},
            ": length_max: reaches 16 pixels beyond a border, but an image of 16 x 16 pixels",
        ),
        (
            {"kind": "motion_blur", "length_max": 31.0, "noise_std": 0.1},
            ": length_max: reaches 16 pixels beyond a border, but an image of 16 x 16 pixels",
        ),
        (
            MIXED | {"members": {"box": BOX, "shake": CAMERA | {"length_max": 31.0}}},
            ": length_max: reaches 16 pixels beyond a border, but an image of 16 x 16 pixels",
        ),
        (
            NETWORK,
            ": EncodedBlur: the published network takes RGB images with sides in multiples of 128 pixels, not 1 x 16",
        ),
        (MIXED | {"noise_std": 0.2}, ": Mixture: member 'box' has noise_std 0.1, the mixture 0.2; give both the same."),
    ],
)
def test_a_wrong_degradation_is_one_sentence(tmp_path, entry, sentence):
    message = refusal(with_value(tmp_path, "degradations.new", entry))
    assert message.startswith(f"degradations.new{sentence}") and "\n" not in message


@pytest.mark.parametrize(("field", "value"), [("channels", 3), ("image_size", 24), ("validation", 60_000)])
def test_fashion_mnist_is_grey_and_28_pixels_wide(tmp_path, field, value):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    before = {"channels": "channels: 1\n", "image_size": "image_size: 32\n", "validation": "validation: 5000\n"}[field]
    assert text.count(before) == 1
    (tmp_path / "params.yaml").write_text(text.replace(before, f"{field}: {value}\n"), encoding="utf-8")
    sentence = (
        "data: fashion-mnist needs channels: 1, an image_size of at least 28, "
        "and validation below its 60000 training images."
    )
    assert refusal(tmp_path / "params.yaml") == sentence


def test_two_problems_are_two_sentences(tmp_path):
    text = SMOKE.read_text(encoding="utf-8").replace("seed: 0\n", "seed: -1\ncolour: 1\n", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as refused:
        load(tmp_path / "params.yaml")
    first, second = str(refused.value).splitlines()
    assert "seed: -1 is not valid" in first and "colour: unknown name" in second


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"seed: [0\n", "not readable as YAML (expected ',' or ']', but got '<stream end>'); mend that line."),
        # taken where libyaml reads
        (
            b"seed:\t0\n",
            "line 1: not readable as YAML (found character '\\t' that cannot start any token); mend that line.",
        ),
        (
            b"seed: 0\nseed: 1\n",
            'line 2: not readable as YAML (found duplicate key "seed" with value "1" (original value: "0"));'
            " mend that line.",
        ),
        (b"- seed\n", "not a mapping; a study file is a mapping of sections, as the repository's params.yaml is."),
        (b"seed\n", "not a mapping; a study file is a mapping of sections, as the repository's params.yaml is."),
        (b"", "empty; a study file is a mapping of sections, as the repository's params.yaml is."),
        (b"study: caf\xe9\n", "not readable as UTF-8 (invalid continuation byte); save it in that encoding."),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    message = refusal(path)
    assert message.endswith(sentence) and "\n" not in message


def test_a_missing_file_is_one_sentence(tmp_path):
    assert refusal(tmp_path / "params.yaml") == "there is no study file; run from the folder of a study."


@pytest.mark.parametrize(("written", "number"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("1", 1.0)])
def test_numbers_read_as_dvc_reads_them(tmp_path, written, number):
    text = SMOKE.read_text(encoding="utf-8")
    assert "  learning_rate: 0.001\n" in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  learning_rate: 0.001\n", f"  learning_rate: {written}\n"), encoding="utf-8")
    assert load(path).severity.learning_rate == number


def test_select_follows_a_dotted_path():
    study = load(SMOKE)
    assert select(study, "seed") == 0
    entry = {"kind": "random_inpainting", "drop_max": 0.95, "noise_std": 0.1}
    assert select(study, INPAINTING) == entry
    assert select(study, "prior.denoiser.channels") == [32, 32]


@pytest.mark.parametrize("dotted", ["severty", "severity.step", "severity.steps.x", "degradations.motion_blur"])
def test_select_refuses_an_unknown_path(dotted):
    with pytest.raises(StudyError) as refused:
        select(load(SMOKE), dotted)
    assert str(refused.value) == f"{dotted}: there is no such parameter; mend the command in dvc.yaml that names it."


def check(folder):
    command = [sys.executable, "-m", "flashdiff.study.stage", "check"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_check_refuses_a_bad_study_in_one_line(tmp_path):
    with_value(tmp_path, "severity.step", 3)
    done = check(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "params.yaml: severity.step: unknown name; did you mean 'steps'?\n"


def test_check_refuses_a_missing_folder_of_images_in_one_line(tmp_path):
    with_value(tmp_path, "data.images", "photos")
    done = check(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "data.images: there is no 'photos'; put it there, or give its path relative to params.yaml.\n"
    )


def test_check_names_everything_that_is_missing_on_disk():
    """A study at paper scale starts from a dozen files: one answer says which are not there, before any work."""
    done = check(ROOT / "studies/lsun-bedrooms-256")
    assert done.returncode == 1 and done.stdout == ""
    fields = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert fields == ["data.images", "data.test_set.images", "data.test_set.list", "prior.path", "prior.path",
                      "degradations.nonlinear_blur.weights"]  # fmt: skip
    assert "prior.path: there is no '../../datasets/weights/lsun_beds256/config.yaml'; put it there, or" in done.stderr


# the paper's table of its runs on FFHQ: (solver's fields, noise correction); PSLD is not defined on nonlinear blur
PUBLISHED = {
    ("gaussian_blur", "ldps"): ({"eta": 1}, 1.2),
    ("gaussian_blur", "gml_dps"): ({"eta": 3, "gamma": 0.05}, 1.2),
    ("gaussian_blur", "psld"): ({"eta": 2, "gamma": 0.2}, 1.0),
    ("gaussian_blur", "resample"): ({"g": 400}, 1.2),
    ("nonlinear_blur", "ldps"): ({"eta": 1}, 1.0),
    ("nonlinear_blur", "gml_dps"): ({"eta": 3, "gamma": 0.05}, 1.2),
    ("nonlinear_blur", "resample"): ({"g": 200}, 1.2),
    ("random_inpainting", "ldps"): ({"eta": 7}, 1.2),
    ("random_inpainting", "gml_dps"): ({"eta": 10, "gamma": 0.05}, 1.0),
    ("random_inpainting", "psld"): ({"eta": 10, "gamma": 0.5}, 1.0),
    ("random_inpainting", "resample"): ({"g": 200}, 1.2),
}


@pytest.mark.parametrize("name", ["ffhq-256", "celebahq-256"])
def test_the_paper_s_studies_have_its_hyperparameters(name):
    study = load(ROOT / "studies" / name / "params.yaml")
    found = {}
    for pair in study.pairs.values():
        solver, candidates = study.solvers[pair.solver].model_dump(), study.tune.candidates[pair.solver]
        assert candidates.solver == {}  # nothing is tuned
        (correction,) = candidates.starts["published"]["correction"]
        found[pair.degradation, solver.pop("kind")] = (solver, correction)
    assert found == PUBLISHED
    assert study.data.image_size == 256 and study.reconstruction.n_images == 200
    assert all(entry.noise_std == 0.1 for entry in study.degradations.values())  # 0.05 for images in [0, 1]
    blur, inpainting = study.degradations["gaussian_blur"], study.degradations["random_inpainting"]
    assert (blur.std_min, blur.std_max, 2 * blur.radius + 1) == (0.3, 3.0, 61)
    assert inpainting.drop_max == 0.8 and study.reconstruction.levels == {"random_inpainting": [0.875, 1.0]}
    severity = study.severity
    assert (severity.lambda_sigma, severity.lambda_image, severity.learning_rate) == (1, 1, 1e-4)
    assert severity.steps * severity.batch_size == 100 * 25_000  # epochs x training images of the authors' list


def test_check_loads_nothing_heavy():
    """So the answer to a wrong parameter comes at once."""
    script = """
import sys
from flashdiff.study import stage
assert stage.main(["check"]) == 0
heavy = {"torch", "diffusers", "numpy", "pandas", "matplotlib", "papermill", "nbformat", "jupyter_client", "dvc"}
print(sorted(name for name in heavy & set(sys.modules) if type(sys.modules[name]).__name__ != "_LazyModule"))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=SMOKE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, loaded = done.stdout.splitlines()
    assert first == "Study smoke: 3 degradations, 2 solvers, 2 comparisons; the parameters are valid."
    assert loaded == "[]"


# ----------------------------------------------------------------------------------- the smallest images, by what needs them


def test_the_smallest_image_is_the_smallest_that_ssim_measures(tmp_path):
    import torch

    from flashdiff.measures.quality import ssim

    def measures(size):
        x = torch.zeros(1, 1, size, size)
        try:
            return bool((ssim(x, x) == 1).all())
        except ValueError:
            return False

    sizes = [size for size in range(1, 20) if measures(size)]
    assert sizes == list(range(sizes[0], 20))
    message = refusal(with_value(tmp_path, "data.image_size", sizes[0] - 1))
    assert (
        message == f"data.image_size: {sizes[0] - 1} is not valid: input should be greater than or equal to {sizes[0]}."
    )
    accepted = [size for size in range(1, 20) if _accepted(tmp_path, size)]
    assert accepted[0] >= sizes[0] and accepted == [16]  # beside SSIM's window, the prior's halvings


def _accepted(folder, size, study=SMOKE):
    try:
        load(with_value(folder, "data.image_size", size, study))
    except StudyError:
        return False
    return True


def test_a_frechet_distance_is_of_the_study_s_budgets_and_of_enough_images(tmp_path):
    """The schema loads nothing heavy, so it has a number of its own for what is enough."""
    from flashdiff.study.comparison import ENOUGH

    assert schema.ENOUGH == ENOUGH
    changed = with_value(tmp_path, "frechet.evaluations", [1, 4], ROOT / "params.yaml")
    assert refusal(changed) == (
        "frechet.evaluations: 4 is not among budgets.evaluations ([1.0, 3.0, 6.0, 12.0]); choose of them."
    )
    assert load(with_value(tmp_path, "frechet.n_images", 0, changed)).frechet.n_images == 0
    assert load(with_value(tmp_path, "frechet.n_images", ENOUGH, ROOT / "params.yaml")).frechet.n_images == ENOUGH


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
def test_images_that_the_prior_cannot_halve_are_refused(tmp_path, halvings):
    """Of every size it is asked whether autoencoder and denoiser take it: exactly those are accepted."""
    import torch

    from flashdiff.training.prior import build_autoencoder, build_denoiser

    channels = [32] * (halvings + 1)
    changed = with_value(tmp_path, "prior.denoiser.channels", channels)
    autoencoder = build_autoencoder(1, 2, [8, 8], 2, 1)
    taken = []
    for size in range(12, 41, 2):
        try:
            with torch.no_grad():
                z = autoencoder.encode(torch.zeros(2, 4, size // 2, size // 2)).latent_dist.mean
                same = autoencoder.decode(z).sample.shape[-1] == size // 2
                same &= build_denoiser(2, z.shape[-1], channels, 1, 8)(z, 3).sample.shape == z.shape
        except RuntimeError:
            same = False
        taken += [size] if same else []
    accepted = [size for size in range(12, 41, 2) if _accepted(tmp_path, size, changed)]
    assert taken == accepted and accepted
    message = refusal(with_value(tmp_path, "data.image_size", 18, changed))
    assert message.startswith("data.image_size: 18 must be a multiple of ")
