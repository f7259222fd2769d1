"""The schema of a study: every parameter with its unit and its range, checked before any work starts.

Nothing heavy is imported here: a wrong parameter is one sentence in a second.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Precision = Literal["auto", "no", "bf16"]


class StudyError(ValueError):
    """A study file that cannot be used; the message is one sentence per problem: field, value, remedy."""


class Section(BaseModel):
    """A part of the study file: unknown names are refused, values are never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Layout = Literal["folder", "celebahq", "ffhq", "lsun", "hugging_face"]


class ImageSource(Section):
    """Where images lie, and which of them to take."""

    layout: Layout | None = Field(
        None, description="null: folder, every image below it; celebahq and ffhq: images by number; lsun: LMDB or .webp"
    )
    list: str | None = Field(
        None, description="text file that names the images to take, one per line, in its order; null: all"
    )
    split: str | None = Field(None, description="of a Hugging Face data set; null: train")
    column: str | None = Field(None, description="of a Hugging Face data set; null: its only column of images")

    @model_validator(mode="after")
    def _of_one_layout(self):
        for field in ("split", "column"):
            if getattr(self, field) is not None and self.layout != "hugging_face":
                raise ValueError(f"{field} ({getattr(self, field)}) is for layout: hugging_face; remove it")
        return self


class TestSet(ImageSource):
    images: str = Field(description="folder of images, or the id of a Hugging Face data set")


class Data(ImageSource):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="data set, and the folder below data/raw")
    images: str | None = Field(
        description="folder of the user's own images, or the id of a Hugging Face data set; null for the data set of that name"
    )
    test_set: TestSet | None = Field(None, description="where test images come from; null: from the same images")
    image_size: int = Field(ge=8, description="height and width in pixels")
    channels: Literal[1, 3]
    validation: Count = Field(description="images held out from training for every choice that is made")
    test: Count = Field(description="test images; only for a folder of images, data sets bring their own")
    train: Count | None = Field(None, description="at most so many training images, beside a test_set; null: all")

    @model_validator(mode="after")
    def _of_own_images(self):
        for field in ("layout", "list", "test_set"):
            if self.images is None and getattr(self, field) is not None:
                raise ValueError(f"{field} plays no part without images; remove it, or say where the images are")
        if self.train is not None and self.test_set is None:
            raise ValueError(f"train ({self.train}) plays no part without a test_set; remove it")
        return self


class Autoencoder(Section):
    channels: list[Count] = Field(
        min_length=1, description="feature maps per resolution; each after the first halves it"
    )
    latent_channels: Count
    layers: Count
    steps: Count
    batch_size: Count
    learning_rate: Positive
    l1: float = Field(ge=0, description="weight of the absolute error")
    kl: float = Field(ge=0, description="weight of the KL divergence per latent entry")
    seed: Seed

    @field_validator("channels")
    @classmethod
    def _groups(cls, channels):
        if any(c % 8 for c in channels):
            raise ValueError(f"{channels} must be multiples of 8 (the size of a normalisation group)")
        return channels


class Denoiser(Section):
    channels: list[Count] = Field(min_length=1)
    layers: Count
    head: Count = Field(description="channels per attention head")
    steps: Count
    batch_size: Count
    learning_rate: Positive
    ema: float = Field(ge=0, lt=1, description="decay of the averaged weights")
    mixed_precision: Precision
    seed: Seed

    @field_validator("channels")
    @classmethod
    def _groups(cls, channels):
        if any(c % 32 for c in channels):
            raise ValueError(f"{channels} must be multiples of 32 (the number of normalisation groups)")
        return channels


class FeatureClassifier(Section):
    steps: Count
    batch_size: Count
    learning_rate: Positive
    seed: Seed


class Diffusion(Section):
    n_steps: int = Field(ge=2, description="length N of the diffusion")
    beta_start: float = Field(gt=0, lt=1)
    beta_end: float = Field(gt=0, lt=1)

    @field_validator("beta_end")
    @classmethod
    def _rises(cls, beta_end, info):
        if beta_end < info.data.get("beta_start", 0):
            raise ValueError(f"{beta_end} must not be below beta_start ({info.data['beta_start']})")
        return beta_end


class TrainPrior(Section):
    kind: Literal["train_prior"]
    pixel_unshuffle: Literal[1, 2, 4] = Field(description="pixels are folded by this factor before the autoencoder")
    autoencoder: Autoencoder
    denoiser: Denoiser
    features: FeatureClassifier
    diffusion: Diffusion
    card_samples: Count = Field(description="samples behind the Frechet distance of the model card")
    card_steps: Count = Field(description="ancestral steps per sample of the model card")


class UsePrior(Section):
    kind: Literal["use_prior"]
    path: str = Field(
        description="folder of a prior, or a CompVis .ckpt with its config.yaml beside it, relative to the study's folder; "
        "or the id of a model on the hub"
    )


PriorSection = Annotated[TrainPrior | UsePrior, Field(discriminator="kind")]


class DegradationSection(Section):
    """What all degradations have."""

    noise_std: float = Field(ge=0, le=2, description="standard deviation of the noise, [-1, 1] units")
    levels: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="lowest and highest level t of the images that are reconstructed; null: 0 and 1"
    )

    @field_validator("levels")
    @classmethod
    def _two(cls, levels):
        if levels is not None and (len(levels) != 2 or levels[0] > levels[1]):
            raise ValueError(f"{levels} must be the lowest level and the highest")
        return levels


class GaussianBlurEntry(DegradationSection):
    kind: Literal["gaussian_blur"]
    std_min: float = Field(ge=0, description="pixels at t = 0")
    std_max: Positive = Field(description="pixels at t = 1")
    radius: Count = Field(description="half width of the kernel in pixels")

    @model_validator(mode="after")
    def _range(self):
        if self.std_max <= self.std_min:
            raise ValueError(f"std_max ({self.std_max}) must be larger than std_min ({self.std_min})")
        return self


class RandomInpaintingEntry(DegradationSection):
    kind: Literal["random_inpainting"]
    drop_max: float = Field(gt=0, le=1, description="share of pixels dropped at t = 1")


class BoxInpaintingEntry(DegradationSection):
    kind: Literal["box_inpainting"]
    side_max: float = Field(gt=0, le=1, description="height and width of the box at t = 1, as a share of the image's")


class MotionBlurEntry(DegradationSection):
    kind: Literal["motion_blur"]
    length_min: float = Field(ge=0, description="pixels at t = 0")
    length_max: Positive = Field(description="pixels at t = 1")

    @model_validator(mode="after")
    def _range(self):
        if self.length_max <= self.length_min:
            raise ValueError(f"length_max ({self.length_max}) must be larger than length_min ({self.length_min})")
        return self


class SuperResolutionEntry(DegradationSection):
    kind: Literal["super_resolution"]
    factor_max: float = Field(gt=1, description="width of a cell in pixels at t = 1; any number, 1 at t = 0")


class NonlinearBlurEntry(DegradationSection):
    """Camera shake with saturation (lengths and gain), or the published network (weights); never both."""

    kind: Literal["nonlinear_blur"]
    length_min: float | None = Field(None, ge=0, description="length of the camera's path in pixels at t = 0")
    length_max: Positive | None = Field(None, description="pixels at t = 1")
    gain_max: float | None = Field(None, ge=1, description="exposure at t = 1 relative to t = 0; above 1 it saturates")
    weights: str | None = Field(None, description="file or https URL of the published network")
    sha256: str | None = Field(None, description="of the weights, hexadecimal; needed with a URL")

    @model_validator(mode="after")
    def _one_of_two(self):
        for field in ("length_min", "length_max", "gain_max"):
            if self.weights is None and getattr(self, field) is None:
                raise ValueError(f"{field} is missing; add it, or weights for the published network")
            if self.weights is not None and getattr(self, field) is not None:
                raise ValueError(f"{field} plays no part with weights; remove one of them")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 ({self.sha256}) must be 64 hexadecimal digits in small letters")
        if self.weights is None:
            if self.length_max <= self.length_min:
                raise ValueError(f"length_max ({self.length_max}) must be larger than length_min ({self.length_min})")
            if self.sha256 is not None:
                raise ValueError("sha256 stands without weights; remove it, or add the weights that it belongs to")
        elif "://" in self.weights:
            if not self.weights.startswith("https://"):
                raise ValueError(f"weights ({self.weights}) must be a file or an https URL")
            if self.sha256 is None:
                raise ValueError("sha256 is missing; a download is only used with its checksum")
        return self


PlainEntry = Annotated[
    GaussianBlurEntry
    | RandomInpaintingEntry
    | BoxInpaintingEntry
    | MotionBlurEntry
    | SuperResolutionEntry
    | NonlinearBlurEntry,
    Field(discriminator="kind"),
]


class MixtureEntry(DegradationSection):
    """Members are entries of their own, not names: so DVC sees when one changes. YAML's anchors save the copying."""

    kind: Literal["mixture"]
    members: dict[Name, PlainEntry] = Field(description="each image gets one of them")

    @model_validator(mode="after")
    def _fit(self):
        if len(self.members) < 2:
            raise ValueError(f"members: {list(self.members)} must be at least two degradations")
        for name, member in self.members.items():
            if member.levels is not None:
                raise ValueError(f"members.{name}.levels: {member.levels} plays no part in a mixture; remove it")
            if member.noise_std != self.noise_std:
                raise ValueError(
                    f"members.{name} has noise_std {member.noise_std}, the mixture {self.noise_std}; give both the same"
                )
        return self


DegradationEntry = Annotated[PlainEntry | MixtureEntry, Field(discriminator="kind")]


class StridedEntry(Section):
    kind: Literal["strided"]
    stride: Count = Field(description="every stride-th index")


class EvenlySpacedEntry(Section):
    kind: Literal["evenly_spaced"]
    steps: Count = Field(description="indices visited between the start and 0")


class NoiseLevelsEntry(Section):
    kind: Literal["noise_levels"]
    levels: int = Field(ge=2)
    s_max: Positive = Field(description="largest noise level, sqrt((1 - abar) / abar)")
    s_min: Positive = Field(description="smallest noise level")

    @model_validator(mode="after")
    def _range(self):
        if self.s_max <= self.s_min:
            raise ValueError(f"s_max ({self.s_max}) must be larger than s_min ({self.s_min})")
        return self


WalkEntry = Annotated[StridedEntry | EvenlySpacedEntry | NoiseLevelsEntry, Field(discriminator="kind")]
NotNegative = Annotated[float, Field(ge=0)]
Corrections = Annotated[
    list[Annotated[float, Field(ge=1)]], Field(min_length=1, description="c of the published start")
]
StepSizes = Annotated[list[NotNegative], Field(min_length=1, description="candidates")]


class SolverSection(Section):
    """What all solvers have."""

    corrections: Corrections | None = Field(None, description="instead of tune.corrections, for this solver")


class GuidedTune(Section):
    eta: StepSizes = Field(description="candidates for the step size")


class GuidedEntry(SolverSection):
    """What solvers that follow a gradient share; the walk is the solver's own where it is null or left out."""

    stochasticity: float = Field(1.0, ge=0, le=1, description="1 ancestral (DDPM) steps, 0 deterministic DDIM")
    walk: WalkEntry | None = None
    tune: GuidedTune = Field(description="what the tuning stage tries")


class LDPSEntry(GuidedEntry):
    kind: Literal["ldps"]


class GMLDPSEntry(GuidedEntry):
    kind: Literal["gml_dps"]
    gamma: NotNegative = Field(description="weight of ||z0 - E(D(z0))||")


class PSLDEntry(GuidedEntry):
    kind: Literal["psld"]
    gamma: NotNegative = Field(description="weight of ||z0 - E(A^T y + D(z0) - A^T A D(z0))||")


class ReSampleTune(Section):
    g: StepSizes = Field(description="candidates for the strength of the resampling")


class ReSampleEntry(SolverSection):
    kind: Literal["resample"]
    every: Count = Field(10, description="hard data consistency at every so-many-th step of two indices")
    learning_rate: Positive = Field(0.1, description="Adam's")
    max_iterations: Count = Field(100, description="Adam's, at most")
    walk: WalkEntry | None = None
    tune: ReSampleTune


class LatentDAPSTune(Section):
    step_size: Annotated[list[Positive], Field(min_length=1, description="candidates for the step h of the MCMC")]


class LatentDAPSEntry(SolverSection):
    kind: Literal["latent_daps"]
    tau: Positive | None = Field(0.01, description="standard deviation of the likelihood; null: that of the noise")
    mcmc_steps: Count = Field(35, description="MCMC steps per level, each decodes once")
    momentum: float | None = Field(0.95, ge=0, lt=1, description="null: plain Langevin")
    decay: float = Field(0.95, gt=0, le=1, description="the step at the smallest level, as a share of the largest's")
    clip: Positive | None = Field(None, description="bound on the entries of the data gradient")
    walk: WalkEntry | None = None
    tune: LatentDAPSTune


SolverEntry = Annotated[
    LDPSEntry | GMLDPSEntry | PSLDEntry | ReSampleEntry | LatentDAPSEntry, Field(discriminator="kind")
]


class Pair(Section):
    """One comparison: a degradation, and the solver that reconstructs from it."""

    degradation: str
    solver: str


class Severity(Section):
    steps: Count
    batch_size: Count
    learning_rate: Positive
    ema: float = Field(ge=0, lt=1)
    lambda_sigma: float = Field(ge=0, description="weight of the severity term")
    lambda_image: float = Field(ge=0, description="weight of the image term")
    mixed_precision: Precision
    accumulation: Count = Field(
        1,
        description="parts in which a process works off its images of a step, to save memory; results differ by rounding alone",
    )
    published: dict[Name, str] | None = Field(
        None, description="degradation -> the authors' severity encoder (.ckpt), which is used instead of training one"
    )

    @model_validator(mode="after")
    def _parts(self):
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation ({self.accumulation}) must not be above batch_size ({self.batch_size})")
        return self


class Ordering(Section):
    n_images: Count
    levels: int = Field(ge=2)


class Correlation(Section):
    n_images: int = Field(ge=10)
    bootstrap: int = Field(ge=100)


class Tune(Section):
    n_images: Count
    batch_size: Count
    corrections: Corrections
    consistent: list[Annotated[float, Field(ge=1)]] = Field(min_length=1, description="k of the consistent start")
    inversion: list[Count] = Field(description="strides of DDIM inversion; none: that start is left out")


class Reconstruction(Section):
    n_images: int = Field(ge=4)
    batch_size: Count
    fixed_starts: list[Annotated[int, Field(ge=0)]]
    distances: Literal["features", "published"] = Field(
        description="perceptual and Frechet distance: by the prior's own classifier, or LPIPS and FID"
    )
    controls: bool = Field(True, description="negative controls, too: others' severities, and random starts")
    timed: bool = Field(
        True, description="false: other work runs beside the study, and its report makes nothing of the seconds"
    )
    bootstrap: int = Field(ge=100)


class Study(Section):
    """One study file. Sections are named after the stages that read them."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    root: str = Field(description="path from the study's folder to the repository")
    seed: Seed
    data: Data
    prior: PriorSection
    degradations: dict[Name, DegradationEntry] = Field(min_length=1)
    severity: Severity
    ordering: Ordering
    correlation: Correlation
    solvers: dict[Name, SolverEntry] = Field(min_length=1)
    pairs: dict[str, Pair] = Field(min_length=1, description="the comparisons, each named degradation-solver")
    tune: Tune
    reconstruction: Reconstruction

    def _fits_the_prior(self, prior: TrainPrior) -> None:
        factor = prior.pixel_unshuffle * 2 ** (len(prior.autoencoder.channels) - 1)
        if self.data.image_size % factor:
            raise ValueError(
                f"data.image_size: {self.data.image_size} must be a multiple of {factor}, which the autoencoder divides it by"
            )
        too_late = [i for i in self.reconstruction.fixed_starts if i >= prior.diffusion.n_steps]
        if too_late:
            raise ValueError(
                f"reconstruction.fixed_starts: {too_late} must be below prior.diffusion.n_steps ({prior.diffusion.n_steps})"
            )

    @model_validator(mode="after")
    def _fits(self):
        if self.reconstruction.distances == "published" and self.data.image_size < 16:
            raise ValueError(
                f"reconstruction.distances: published needs images of 16 x 16 pixels, which VGG halves four times, and "
                f"data.image_size is {self.data.image_size}; choose features"
            )
        if isinstance(self.prior, TrainPrior):
            self._fits_the_prior(self.prior)
        if (
            self.data.images is None
            and self.data.name == "fashion-mnist"
            and (self.data.channels != 1 or self.data.image_size < 28 or self.data.validation >= 60_000)
        ):
            raise ValueError(
                "data: fashion-mnist needs channels: 1, an image_size of at least 28, and validation below its 60000 training images"
            )
        available = {"test": 10_000 if self.data.images is None else self.data.test, "validation": self.data.validation}
        for field, wanted, split in (
            ("ordering.n_images", self.ordering.n_images, "test"),
            ("correlation.n_images", self.correlation.n_images, "test"),
            ("reconstruction.n_images", self.reconstruction.n_images, "test"),
            ("tune.n_images", self.tune.n_images, "validation"),
        ):
            if wanted > available[split]:
                raise ValueError(f"{field}: {wanted} is more than the {available[split]} {split} images; lower it")
        for name in self.severity.published or {}:
            if name not in self.degradations:
                raise ValueError(
                    f"severity.published.{name}: not among the degradations of the study; "
                    f"choose one of {', '.join(self.degradations)}"
                )
        for name, pair in self.pairs.items():
            for field, known in (("degradation", self.degradations), ("solver", self.solvers)):
                if getattr(pair, field) not in known:
                    raise ValueError(
                        f"pairs.{name}.{field}: {getattr(pair, field)!r} is not among the {field}s of the study; "
                        f"choose one of {', '.join(known)}"
                    )
            if name != f"{pair.degradation}-{pair.solver}":
                raise ValueError(f"pairs.{name}: its name must be {pair.degradation}-{pair.solver}")
            if self.solvers[pair.solver].kind in _NEED_ADJOINT and not _linear(self.degradations[pair.degradation]):
                raise ValueError(
                    f"pairs.{name}: {pair.solver} needs the adjoint A^T, and {pair.degradation} is not linear; remove the pair"
                )
        return self


def load(path: str | Path = "params.yaml") -> Study:
    """Read and check a study file; raises StudyError, one sentence per problem."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        # ruamel reads YAML 1.2 as DVC does: 1e-3 is a number there and a string to PyYAML
        content = YAML(typ="safe").load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no study file; run from the folder of a study.") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not readable as UTF-8 ({error.reason}); save it in that encoding.") from None
    except YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise StudyError(
            f"{path}{where}: not readable as YAML ({problem or ' '.join(str(error).split())}); mend that line."
        ) from None
    if not isinstance(content, dict):
        found = "empty" if content is None else "not a mapping"
        raise StudyError(f"{path}: {found}; a study file is a mapping of sections, as the repository's params.yaml is.")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(f"{path}: {_sentence(problem)}" for problem in error.errors())) from None


def _sentence(problem: dict[str, Any]) -> str:
    """One sentence for one of pydantic's problems: the field, its value, what to do."""
    location, value, kind = [str(part) for part in problem["loc"]], problem.get("input"), problem["type"]
    beside = _names_beside(location)
    field = ".".join(part for part in _without_kinds(location) if part != "[key]")
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], beside, n=1)
        return f"{field}: unknown name{f'; did you mean {near[0]!r}?' if near else '; remove it.'}"
    if kind == "missing":
        return f"{field}: missing; add it."
    if kind == "union_tag_not_found":
        return f"{field}.kind: missing; add it."
    if kind == "union_tag_invalid":
        return f"{field}.kind: {value.get('kind')!r} is unknown; choose one of {problem['ctx']['expected_tags']}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{field}: {value!r} is not valid: it should be a section, with one 'name: value' per line."
    if kind == "too_short":
        return f"{field}: empty; give at least one entry."
    if kind == "string_pattern_mismatch":
        signs = "_ and -" if "-]" in problem["ctx"]["pattern"] else "_"
        return f"{field}: {value!r} is not valid: use small letters and digits, and after the first {signs}, too."
    if kind == "value_error":
        return f"{field}: {message}." if field else f"{message}."
    return f"{field}: {value!r} is not valid: {message[0].lower()}{message[1:]}."


_NEED_ADJOINT = {"psld"}


def _linear(entry: Section) -> bool:
    """Whether a degradation entry's operator has an adjoint (the schema loads no operators, so it is said twice)."""
    return entry.kind != "nonlinear_blur" and all(_linear(member) for member in getattr(entry, "members", {}).values())


_KINDS = {
    "train_prior": TrainPrior,
    "use_prior": UsePrior,
    "gaussian_blur": GaussianBlurEntry,
    "random_inpainting": RandomInpaintingEntry,
    "box_inpainting": BoxInpaintingEntry,
    "motion_blur": MotionBlurEntry,
    "super_resolution": SuperResolutionEntry,
    "nonlinear_blur": NonlinearBlurEntry,
    "mixture": MixtureEntry,
    "ldps": LDPSEntry,
    "gml_dps": GMLDPSEntry,
    "psld": PSLDEntry,
    "resample": ReSampleEntry,
    "latent_daps": LatentDAPSEntry,
    "strided": StridedEntry,
    "evenly_spaced": EvenlySpacedEntry,
    "noise_levels": NoiseLevelsEntry,
}


def _without_kinds(location: list[str]) -> list[str]:
    """pydantic names the chosen member of a union in the location, as in degradations.blur.gaussian_blur.std_min."""
    kept: list[str] = []
    for part in location:
        chosen = (
            kept[-1:] == ["walk"]
            or kept == ["prior"]
            or (len(kept) > 1 and kept[-2] in ("degradations", "solvers", "members"))
        )
        if not (chosen and part in _KINDS):
            kept.append(part)
    return kept


def _names_beside(location: list[str]) -> set[str]:
    """The names that the section around a problem knows, for "did you mean"."""
    section: type[Section] = Study
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        for kind in (_KINDS.get(part), annotation, *get_args(annotation)[-1:]):
            if isinstance(kind, type) and issubclass(kind, Section):
                section = kind
    return set(section.model_fields)


def select(study: Study, dotted: str) -> Any:
    """The value at a dotted path of a checked study, as plain YAML types; raises StudyError for an unknown path."""
    value: Any = study.model_dump(mode="json")
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise StudyError(f"{dotted}: there is no such parameter; mend the command in dvc.yaml that names it.")
        value = value[part]
    return value
