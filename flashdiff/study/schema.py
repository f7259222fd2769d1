"""The schema of a study: every parameter with its unit and its range, checked before any work starts.

What a solver, a degradation or a walk can be told stands in its dataclass, and its entry here is made from that. Nothing
heavy is loaded (those modules load torch when they compute): a wrong parameter is one sentence in a second.
"""

import difflib
import itertools
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from flashdiff import degradations, solvers
from flashdiff.degradations import DEGRADATIONS, Mixture
from flashdiff.fields import LARGEST, field_types, shown
from flashdiff.messages import printable
from flashdiff.solvers import SOLVERS
from flashdiff.starts import SHORT_STARTS, STARTS, FixedStart
from flashdiff.walks import WALKS, Walk


def _no_bool(value: Any) -> Any:
    """true equals 1 in Python, and so passes for it where values are listed."""
    if isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no number")
    return value


def _differ(values: list) -> list:
    """What is tried twice is paid for twice, and two methods would have one name."""
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"{values} must differ from one another")
    return values


Differ = AfterValidator(_differ)
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Precision = Literal["auto", "no", "bf16"]
Loss = Literal["squared", "likelihood"]


class StudyError(ValueError):
    """A study file that cannot be used; the message is one sentence per problem: field, value, remedy."""


class Section(BaseModel):
    """A part of the study file: unknown names are refused, values are never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SSIM_WINDOW = 11
"""Pixels across the window of :func:`flashdiff.measures.quality.ssim`, which has to lie within an image."""
ENOUGH = 1000
"""Images below which a Frechet distance says nothing: flashdiff.study.comparison.ENOUGH, which loads torch."""
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
    image_size: int = Field(
        ge=SSIM_WINDOW, description="height and width in pixels; the window of SSIM has to lie within an image"
    )
    channels: Annotated[Literal[1, 3], BeforeValidator(_no_bool)]
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


def multiples_of(factor: int, what: str) -> AfterValidator:
    """Every entry of a list must be a multiple of ``factor``, which is ``what``."""

    def check(values: list[int]) -> list[int]:
        if any(value % factor for value in values):
            raise ValueError(f"{values} must be multiples of {factor} ({what})")
        return values

    return AfterValidator(check)


class Autoencoder(Section):
    channels: Annotated[list[Count], multiples_of(8, "the size of a normalisation group")] = Field(
        min_length=1, description="feature maps per resolution; each after the first halves it"
    )
    latent_channels: Count
    layers: Count
    steps: Count
    batch_size: Count
    learning_rate: Positive
    l1: float = Field(ge=0, description="weight of the absolute error")
    noise: float = Field(ge=0, description="standard deviation of the noise in the normalised latents while training")
    seed: Seed


class Denoiser(Section):
    channels: Annotated[list[Count], multiples_of(32, "the number of normalisation groups")] = Field(min_length=1)
    layers: Count
    head: Count = Field(description="channels per attention head")
    steps: Count
    batch_size: Count
    learning_rate: Positive
    ema: float = Field(ge=0, lt=1, description="decay of the averaged weights")
    mixed_precision: Precision
    seed: Seed


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
    pixel_unshuffle: Annotated[Literal[1, 2, 4], BeforeValidator(_no_bool)] = Field(
        description="pixels are folded by this factor before the autoencoder"
    )
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
    severity: dict[Name, str] = Field(
        {}, description="degradation -> the authors' severity encoder (.ckpt), which is used instead of training one"
    )


PriorSection = Annotated[TrainPrior | UsePrior, Field(discriminator="kind")]


class Entry(Section):
    """A solver, degradation or walk: ``kind``, and what its dataclass can be told; what the file leaves out stays out."""

    @model_serializer(mode="wrap")
    def _as_written(self, serialise):
        return {name: value for name, value in serialise(self).items() if name in self.model_fields_set}


def _entry(kind: str, cls: type, kinds: Mapping[Any, Any], **more: Any) -> type[Entry]:
    """The entry of one dataclass, from its annotations; ``kinds``: what stands for a field that is an object itself."""
    defaults = {f.name: ... if f.default is f.default_factory is MISSING else f.default for f in fields(cls)}
    given: dict[str, Any] = {}
    for name, annotation in field_types(cls).items():
        own = kinds.get(annotation, annotation)
        given[name] = (own, defaults[name] if own is annotation else kinds["default", annotation])
    model = create_model(cls.__name__, __base__=Entry, kind=(Literal[kind], ...), **more, **given)
    model.__doc__ = cls.__doc__
    return model


def _entries(registry: Mapping[str, type], kinds: Mapping[Any, Any] | None = None, **more: Any) -> Any:
    """One of the registry's members, told apart by ``kind``."""
    made = {kind: _entry(kind, cls, kinds or {}, **more) for kind, cls in registry.items()}
    _KINDS.update(made)
    return Annotated[reduce(or_, made.values()), Field(discriminator="kind")]


_KINDS: dict[str, type[Section]] = {"train_prior": TrainPrior, "use_prior": UsePrior}
"""Every ``kind`` of a study file and its section."""

NOISE = Annotated[float, Field(ge=0, le=2, description="standard deviation of the noise, [-1, 1] units")]
WalkEntry = _entries(WALKS)
SolverEntry = _entries(SOLVERS, {Walk: WalkEntry | None, ("default", Walk): None})
PlainEntry = _entries({k: c for k, c in DEGRADATIONS.items() if c is not Mixture}, noise_std=(NOISE, ...))
_MEMBERS = field_types(Mixture)["members"]
MixtureEntry = _entry(
    "mixture", Mixture, {_MEMBERS: dict[Name, PlainEntry], ("default", _MEMBERS): ...}, noise_std=(NOISE, ...)
)
"""Members are entries of their own, not names: so DVC sees when one changes. YAML's anchors save the copying."""
_KINDS["mixture"] = MixtureEntry
DegradationEntry = Annotated[get_args(PlainEntry)[0] | MixtureEntry, Field(discriminator="kind")]


class Pair(Section):
    """One comparison: a degradation, and the solver that reconstructs from it."""

    degradation: str
    solver: str


class Architecture(Section):
    """A severity encoder that corrects the prior's, in place of the published one, which is a copy of it."""

    channels: Annotated[list[Count], multiples_of(8, "the number of normalisation groups")] = Field(
        min_length=1,
        description="feature maps per resolution of the network that corrects, one for each of the prior's",
    )
    layers: Count


class Severity(Section):
    init: str = Field(
        description="what training starts from: the folder of the prior's autoencoder, data/prior/vae or data/prior/vqvae (as "
        "published), or of a severity encoder; relative to the study's folder"
    )
    architecture: Architecture | None = Field(
        None, description="null: as published, or that of the encoder that training starts from"
    )
    loss: Loss = Field(
        "squared", description="squared: as published; likelihood: of the paper's error model, see flashdiff.severity"
    )
    noise: list[Annotated[float, Field(ge=0, le=2)]] | None = Field(
        None, description="lowest and highest noise_std while training; null: each degradation's own"
    )
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

    @model_validator(mode="after")
    def _parts(self):
        if self.accumulation > self.batch_size:
            raise ValueError(f"accumulation ({self.accumulation}) must not be above batch_size ({self.batch_size})")
        if self.noise is not None and (len(self.noise) != 2 or self.noise[0] > self.noise[1]):
            raise ValueError(f"noise ({self.noise}) must be the lowest noise_std and the highest")
        return self


class Ordering(Section):
    n_images: Count
    levels: int = Field(ge=2)


class Correlation(Section):
    n_images: int = Field(ge=10)


Values = Annotated[list[Any], Field(min_length=1), Differ]


class Candidates(Section):
    """What the tuning stage tries for one solver; one value each: nothing is chosen, and nothing is run."""

    solver: dict[Name, Values] = Field(description="field of the solver -> values; all combinations are tried")
    starts: dict[Name, dict[Name, Values]] = Field(
        min_length=1, description="start rules to compare -> option -> values"
    )


class Tune(Section):
    n_images: Count = Field(description="validation images")
    batch_size: Count
    candidates: dict[Name, Candidates] = Field(description="one entry per solver of the study")


class Reconstruction(Section):
    n_images: int = Field(ge=4)
    batch_size: Count
    fixed_starts: Annotated[list[Annotated[int, Field(ge=0)]], Differ]
    levels: dict[Name, list[Annotated[float, Field(ge=0, le=1)]]] = Field(
        {}, description="degradation -> lowest and highest level t of its images; all levels where it is not named"
    )
    distances: Literal["features", "published"] = Field(
        description="perceptual and Frechet distance: by the prior's own classifier, or LPIPS and FID"
    )
    controls: Annotated[list[Literal[tuple(STARTS)]], Differ] = Field(
        list(STARTS), description="start rules whose negative controls walk, too: others' severities, and random starts"
    )


class FewStepWalk(Section):
    """One way of taking few steps: the solver, and what is tried of its fields at every budget."""

    solver: SolverEntry
    candidates: dict[Name, Values] = Field(description="field of the solver -> values; all combinations are tried")


class TuneBudgets(Section):
    n_images: Count = Field(description="validation images")
    starts: Annotated[list[Annotated[int, Field(ge=0)]], Differ] = Field(
        min_length=1, description="indices of the fixed starts that are tried"
    )
    fresh: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Differ] = Field(
        min_length=1, description="their shares of fresh noise"
    )
    adaptive: dict[Name, dict[Name, Values]] = Field(
        min_length=1, description="start rules of adaptive walks -> option -> values"
    )
    powers: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Differ] = Field(
        min_length=1,
        description="how their steps grow with the start, 0: equally many for every image; see walks.Growing",
    )


class Budgets(Section):
    """Few-step walks: mean denoiser evaluations per image, and what is tried to spend them well."""

    evaluations: Annotated[list[Annotated[float, Field(ge=1)]], Differ] = Field(min_length=1)
    n_images: int = Field(ge=4, description="test images")
    batch_size: Count
    controls: bool = Field(
        description="whether adaptive walks with others' severities, and with the true errors, run, too"
    )
    tune: TuneBudgets
    walks: dict[Name, Annotated[list[FewStepWalk], Field(min_length=1)]] = Field(
        description="one entry per solver of a pair; the first of its walks is also tried with fixed starts"
    )


class Ablation(Section):
    """What the severity encoder's training is varied in: every loss with every architecture and every length.

    All start from the prior's own encoder and see the degradation's own noise; batch size, averaging, the weights of the
    loss and precision are those of ``severity``.
    """

    steps: list[Count] = Field(description="optimiser steps of each training; empty: no ablation")
    losses: list[Loss] = Field(min_length=1)
    architectures: dict[Name, Architecture | None] = Field(
        min_length=1, description="name -> null: as published, or the network that corrects the prior's encoder"
    )
    learning_rate: Positive
    n_images: Count = Field(description="validation images that errors are measured on")

    @model_validator(mode="after")
    def _differ(self):
        for field in ("steps", "losses"):
            if len(set(values := getattr(self, field))) < len(values):
                raise ValueError(f"{field} ({values}) must differ from one another")
        return self


class Robustness(Section):
    """What the encoder and the few-step walks bear, and what single choices do; an empty list leaves its experiment out.

    Trainings are from the prior's own encoder and on the degradation's own noise; what is not said here is that of ``severity``.
    """

    n_images: int = Field(ge=4, description="test images that walk")
    encoder_images: int = Field(ge=4, description="test images that encoders are measured on, at five levels each")
    evaluations: Annotated[float, Field(ge=1)] = Field(description="mean evaluations of the walks, a budget of budgets")
    noise: list[Positive] = Field(description="true noise over the noise_std that encoder and solver are made for")
    unseen: list[Annotated[int, Field(ge=0)]] = Field(
        description="labels of the classes that a training does without; the prior has seen them"
    )
    lambda_sigma: list[Annotated[float, Field(ge=0)]] = Field(
        description="weights of the severity term in trainings with the published loss and architecture"
    )
    corrections: list[Annotated[float, Field(ge=1)]] = Field(
        description="c of the published start, which starts must name"
    )
    starts: dict[Name, dict[Name, Values]] = Field(
        description="start rules -> option -> values, tuned like the study's own walks, which they are compared with"
    )
    one_for_all: bool = Field(
        description="whether severity.init as it is is compared with the degradation's own encoder"
    )
    steps: Count = Field(description="optimiser steps of each training")
    learning_rate: Positive
    architecture: Architecture | None = Field(
        description="of the trainings with and without the unseen classes; null: as published"
    )

    @model_validator(mode="after")
    def _fit(self):
        for field in ("noise", "unseen", "lambda_sigma", "corrections"):
            if len(set(values := getattr(self, field))) < len(values):
                raise ValueError(f"{field} ({values}) must differ from one another")
        if self.corrections and "published" not in self.starts:
            raise ValueError(f"corrections ({self.corrections}) are of the published start; name it in starts")
        return self


class Confidence(Section):
    """Prediction intervals of an image's quality from its severity alone; n_images 0 leaves them out."""

    n_images: int = Field(ge=0, description="validation images: the first half fits the centre, the second the width")
    walked: int = Field(ge=0, description="of them, by the few-step walk that the study has tuned for PSNR")
    restored: int = Field(
        ge=0, description="of them, by the walk of `flashdiff restore`, tuned for perceptual distance"
    )
    evaluations: Annotated[float, Field(ge=1)] = Field(description="mean evaluations of the walks, a budget of budgets")
    coverage: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of images that the intervals promise to hold"
    )

    @model_validator(mode="after")
    def _fit(self):
        for field in ("walked", "restored"):
            if self.n_images and not 4 <= (count := getattr(self, field)) <= self.n_images:
                raise ValueError(f"{field} ({count}) must lie between 4 and n_images ({self.n_images})")
        return self


class Shift(Section):
    """Measurements of another kind than the encoder knows, and what tells them apart; no images: it is left out."""

    n_images: int = Field(ge=0, description="test images of every shift")
    validation: Count = Field(description="validation images of the right kind, which p-values are held against")
    walked: int = Field(ge=0, description="test images of every shift that walk")
    evaluations: Annotated[float, Field(ge=1)] = Field(description="mean evaluations of the walks, a budget of budgets")
    fallback_steps: Count = Field(description="of the walk that one would fall back to")
    fallback_index: Annotated[int, Field(ge=0)] = Field(description="where it starts, with fresh noise")
    bins: Count = Field(description="groups of validation images by predicted severity")
    alarm: float = Field(gt=0, lt=1, description="share of images of the right kind that may be flagged")
    noise: list[Positive] = Field(description="true noise over the noise_std that encoder and solver are told")
    operators: dict[Name, dict[Name, PlainEntry]] = Field(
        description="degradation -> shift -> what truly happens; of those that are not named: noise alone"
    )
    unseen: bool = Field(description="whether encoders are trained with and without the classes robustness.unseen, too")

    @model_validator(mode="after")
    def _fit(self):
        if self.n_images and self.validation < self.bins:
            raise ValueError(f"validation ({self.validation}) must be at least bins ({self.bins})")
        if self.walked > self.n_images:
            raise ValueError(f"walked ({self.walked}) must not be above n_images ({self.n_images})")
        return self


class Blind(Section):
    """Restoring without being told the level of the degradation, and telling its kind; no images: it is left out."""

    n_images: int = Field(ge=0, description="test images")
    evaluations: Annotated[float, Field(ge=2)] = Field(
        description="mean evaluations of the walks: it and its half are budgets of budgets"
    )
    fixed_level: float = Field(ge=0, le=1, description="the level that is told of all images, where a wrong one is")
    kinds: dict[Name, PlainEntry] = Field(
        description="degradations that are told apart, as severity.init was trained on them; none: kinds are not asked"
    )


class Calibrated(Section):
    """A start and number of steps that are fitted by predicted severity; no evaluations: the experiment is left out."""

    n_images: int = Field(ge=4, description="test images that walk")
    validation: int = Field(ge=4, description="validation images that starts and steps are fitted on")
    evaluations: list[Annotated[float, Field(ge=1)]] = Field(description="mean evaluations, each a budget of budgets")
    starts: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)] = Field(
        description="start indices that are tried on every validation image, rising"
    )
    shares: Annotated[list[Positive], Field(min_length=2)] = Field(
        description="numbers of steps that are tried, over the evaluations; rising, from 1 or below to 1 or above"
    )
    bins: Count = Field(description="groups of validation images by predicted severity")
    folds: int = Field(ge=2, description="parts of the validation images, each left out once to weigh the fit")

    @model_validator(mode="after")
    def _fit(self):
        for field in ("starts", "shares"):
            values = getattr(self, field)
            if any(b <= a for a, b in itertools.pairwise(values)):
                raise ValueError(f"{field} ({values}) must rise")
        if not self.shares[0] <= 1 <= self.shares[-1]:
            raise ValueError(f"shares ({self.shares}) must enclose 1")
        if len(set(self.evaluations)) < len(self.evaluations):
            raise ValueError(f"evaluations ({self.evaluations}) must differ from one another")
        if self.validation < 2 * self.bins * self.folds / (self.folds - 1):
            raise ValueError(f"validation ({self.validation}) is too few images for {self.bins} bins; lower bins")
        return self


class Spread(Section):
    """Several samples of every image's posterior and their spread; no images: the experiment is left out."""

    n_images: int = Field(ge=0, description="test images that few-step walks sample")
    validation: int = Field(ge=1, description="validation images that the spread's one factor is fitted on")
    samples: int = Field(ge=2, description="samples of every image")
    evaluations: Annotated[float, Field(ge=1)] = Field(description="of one few-step sample, a budget of budgets")
    full_images: int = Field(ge=0, description="test images that the published walk samples; 0: it is left out")
    full_validation: int = Field(ge=1, description="validation images of the published walk")

    @model_validator(mode="after")
    def _fit(self):
        for more, less in (("n_images", "full_images"), ("validation", "full_validation")):
            if self.n_images and getattr(self, less) > getattr(self, more):
                raise ValueError(f"{less} ({getattr(self, less)}) are some of {more} ({getattr(self, more)}); lower it")
        return self


class Allocation(Section):
    """A budget for a set of images, shared by predicted severity; no images: the experiment is left out."""

    n_images: int = Field(ge=0, description="test images that walk with every number of evaluations")
    validation: int = Field(ge=1, description="validation images that say what evaluations are worth")
    numbers: Annotated[list[Count], Field(min_length=2)] = Field(
        description="evaluations that every image walks with, rising; budgets are all but the last"
    )
    bins: Count = Field(description="groups of validation images by predicted severity")

    @model_validator(mode="after")
    def _fit(self):
        if any(b <= a for a, b in itertools.pairwise(self.numbers)):
            raise ValueError(f"numbers ({self.numbers}) must rise")
        if self.validation < self.bins:
            raise ValueError(f"validation ({self.validation}) must be at least bins ({self.bins})")
        return self


class Frechet(Section):
    """The Frechet distance of few-step walks over enough images; no images: it is not measured."""

    n_images: int = Field(ge=0, description=f"test images that walk: none, or at least {ENOUGH}")
    evaluations: Annotated[list[Annotated[float, Field(ge=1)]], Differ] = Field(
        min_length=1, description="mean evaluations, each a budget of budgets"
    )

    @model_validator(mode="after")
    def _fit(self):
        if 0 < self.n_images < ENOUGH:
            raise ValueError(f"n_images ({self.n_images}) must be at least {ENOUGH}, or 0: fewer say nothing")
        return self


class Report(Section):
    """What only readers see: no stage that computes reads it."""

    bootstrap: int = Field(ge=100, description="resamples behind every interval")
    timed: bool = Field(
        True, description="false: other work runs beside the study, and its report makes nothing of the seconds"
    )


class Study(Section):
    """One study file. Sections are named after the stages that read them."""

    study: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    root: str = Field(
        description="path from the study's folder to the repository; it becomes part of dvc.yaml's commands, so only letters, "
        "digits, _, -, . and / are in it"
    )
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
    budgets: Budgets
    other_seeds: list[Seed] = Field(
        description="more training seeds of the severity encoders: intervals of what walks reach cover them, too"
    )
    ablation: Ablation
    robustness: Robustness
    confidence: Confidence
    shift: Shift
    blind: Blind
    spread: Spread
    calibrated: Calibrated
    allocation: Allocation
    frechet: Frechet
    report: Report

    @field_validator("root")
    @classmethod
    def _plain(cls, root):
        if not re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*", root):
            raise ValueError(f"{_shown(root)} is not valid: use letters, digits, _, -, . and / alone, as in ../..")
        return root

    def _fits_the_prior(self, prior: TrainPrior) -> None:
        factor = prior.pixel_unshuffle * 2 ** (len(prior.autoencoder.channels) - 1)
        if self.data.image_size % factor:
            raise ValueError(
                f"data.image_size: {self.data.image_size} must be a multiple of {factor}, which the autoencoder divides it by"
            )
        halvings = len(prior.denoiser.channels) - 1
        if self.data.image_size // factor % 2**halvings:
            raise ValueError(
                f"data.image_size: {self.data.image_size} must be a multiple of {factor * 2**halvings}: the autoencoder "
                f"divides it by {factor}, and the denoiser halves the latents {halvings} times"
            )
        for field, starts in (
            ("reconstruction.fixed_starts", self.reconstruction.fixed_starts),
            ("budgets.tune.starts", self.budgets.tune.starts),
            ("shift.fallback_index", [self.shift.fallback_index] if self.shift.n_images else []),
            ("calibrated.starts", self.calibrated.starts if self.calibrated.evaluations else []),
        ):
            if too_late := [i for i in starts if i >= prior.diffusion.n_steps]:
                raise ValueError(
                    f"{field}: {too_late} must be below prior.diffusion.n_steps ({prior.diffusion.n_steps})"
                )
        architectures = {f"ablation.architectures.{name}": a for name, a in self.ablation.architectures.items()}
        for place, architecture in (architectures | {"robustness.architecture": self.robustness.architecture}).items():
            resolutions = len(prior.autoencoder.channels)
            if architecture and len(architecture.channels) != resolutions:
                raise ValueError(
                    f"{place}.channels: {architecture.channels} must be {resolutions} numbers, one for "
                    "each resolution of prior.autoencoder"
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
            ("budgets.n_images", self.budgets.n_images, "test"),
            ("budgets.tune.n_images", self.budgets.tune.n_images, "validation"),
            ("ablation.n_images", self.ablation.n_images, "validation"),
            ("robustness.n_images", self.robustness.n_images, "test"),
            ("robustness.encoder_images", self.robustness.encoder_images, "test"),
            ("confidence.n_images", self.confidence.n_images, "validation"),
            ("shift.n_images", self.shift.n_images, "test"),
            ("shift.validation", self.shift.validation if self.shift.n_images else 0, "validation"),
            ("blind.n_images", self.blind.n_images, "test"),
            ("spread.n_images", self.spread.n_images, "test"),
            ("spread.validation", self.spread.validation, "validation"),
            ("calibrated.n_images", self.calibrated.n_images, "test"),
            ("calibrated.validation", self.calibrated.validation, "validation"),
            ("allocation.n_images", self.allocation.n_images, "test"),
            ("allocation.validation", self.allocation.validation if self.allocation.n_images else 0, "validation"),
            ("frechet.n_images", self.frechet.n_images, "test"),
        ):
            if wanted > available[split]:
                raise ValueError(f"{field}: {wanted} is more than the {available[split]} {split} images; lower it")
        # the second part looks up what the first has checked
        for parts in ((self._of_objects, self._of_names), (self._of_pairs, self._of_candidates)):
            if problems := [problem for part in parts for problem in part()]:
                raise ValueError("\n".join(problems))
        return self

    def _of_objects(self) -> Iterator[str]:
        """What the classes themselves refuse: fields that do not fit one another."""
        for section, room in (("degradations", degradations), ("solvers", solvers)):
            for name, entry in getattr(self, section).items():
                try:
                    made = room.build(entry.model_dump())
                    if section == "degradations":
                        made[0].check_image((self.data.channels, self.data.image_size, self.data.image_size))
                except (ValueError, TypeError) as error:
                    yield f"{section}.{name}: {str(error).removesuffix('.')}"

    def _of_names(self) -> Iterator[str]:
        """Degradations and solvers that the study does not have."""
        named = [(f"reconstruction.levels.{name}", name, self.degradations) for name in self.reconstruction.levels]
        named += [(f"prior.severity.{name}", name, self.degradations) for name in getattr(self.prior, "severity", {})]
        named += [(f"tune.candidates.{name}", name, self.solvers) for name in self.tune.candidates]
        named += [(f"budgets.walks.{name}", name, self.solvers) for name in self.budgets.walks]
        for name, pair in self.pairs.items():
            named += [(f"pairs.{name}.degradation", pair.degradation, self.degradations)]
            named += [(f"pairs.{name}.solver", pair.solver, self.solvers)]
        for field, name, known in named:
            if name not in known:
                kind = "degradation" if known is self.degradations else "solver"
                yield f"{field}: {name!r} is not among the {kind}s of the study; choose one of {', '.join(known)}"
        for name, levels in self.reconstruction.levels.items():
            if len(levels) != 2 or levels[0] > levels[1]:
                yield f"reconstruction.levels.{name}: {levels} must be the lowest level and the highest"
        for name in self.solvers:
            if name not in self.tune.candidates:
                yield f"tune.candidates.{name}: missing; say what is tried for that solver, or remove it"
        for name in {pair.solver: None for pair in self.pairs.values()}:
            if name in self.solvers and name not in self.budgets.walks:
                yield f"budgets.walks.{name}: missing; say how that solver takes few steps"
        for name, section, walks in (
            ("robustness", self.robustness, self.robustness.noise or self.robustness.starts),
            ("confidence", self.confidence, self.confidence.n_images),
            ("shift", self.shift, self.shift.n_images),
        ):
            if walks and section.evaluations not in self.budgets.evaluations:
                yield (
                    f"{name}.evaluations: {section.evaluations:g} is not among budgets.evaluations "
                    f"({self.budgets.evaluations}); choose one of them"
                )
        halves = (self.blind.evaluations, self.blind.evaluations / 2) if self.blind.n_images else ()
        if not {*halves} <= {*self.budgets.evaluations}:
            yield (
                f"blind.evaluations: {self.blind.evaluations:g} and its half, {self.blind.evaluations / 2:g}, are not both among "
                f"budgets.evaluations ({self.budgets.evaluations}); choose another number, or no images (0)"
            )
        if self.spread.n_images and self.spread.evaluations not in self.budgets.evaluations:
            yield (
                f"spread.evaluations: {self.spread.evaluations:g} is not among budgets.evaluations "
                f"({self.budgets.evaluations}); choose one of them"
            )
        for name, chosen in (
            ("calibrated", self.calibrated.evaluations),
            ("frechet", self.frechet.evaluations if self.frechet.n_images else []),
        ):
            for evaluations in chosen:
                if evaluations not in self.budgets.evaluations:
                    yield (
                        f"{name}.evaluations: {evaluations:g} is not among budgets.evaluations "
                        f"({self.budgets.evaluations}); choose of them"
                    )
        if self.seed in self.other_seeds or len(set(self.other_seeds)) < len(self.other_seeds):
            yield f"other_seeds: {self.other_seeds} must differ from one another and from seed ({self.seed})"

    def _of_pairs(self) -> Iterator[str]:
        for name, pair in self.pairs.items():
            if name != f"{pair.degradation}-{pair.solver}":
                yield f"pairs.{name}: its name must be {pair.degradation}-{pair.solver}"
                continue
            degradation, _ = degradations.build(self.degradations[pair.degradation].model_dump())
            try:
                solvers.check(solvers.build(self.solvers[pair.solver].model_dump()), degradation)
            except ValueError as error:
                yield f"pairs.{name}: {str(error).removesuffix('.')}"

    def _of_candidates(self) -> Iterator[str]:
        """Fields and options that the classes do not have, and values that they refuse."""
        for name, walks in self.budgets.walks.items():
            for i, walk in enumerate(walks):
                yield from _fields_tried(
                    f"budgets.walks.{name}.{i}", "candidates", "solver", walk.solver, walk.candidates
                )
        adaptive = {name: rule for name, rule in SHORT_STARTS.items() if rule is not FixedStart}
        yield from _starts_tried("budgets.tune.adaptive", self.budgets.tune.adaptive, adaptive)
        yield from _starts_tried("robustness.starts", self.robustness.starts, STARTS)
        for name, candidates in self.tune.candidates.items():
            place, entry = f"tune.candidates.{name}", self.solvers[name]
            yield from _fields_tried(place, "solver", f"solvers.{name}", entry, candidates.solver)
            yield from _starts_tried(f"{place}.starts", candidates.starts, STARTS)


def _fields_tried(
    place: str, section: str, entry_name: str, entry: Entry, candidates: Mapping[str, list]
) -> Iterator[str]:
    """What is wrong with the values that are tried of a solver entry's fields."""
    known = type(entry).model_fields.keys() - {"kind"}
    for field, values in candidates.items():
        if field in entry.model_fields_set:
            yield f"{place}.{section}.{field}: {entry_name} has it, too; remove it from one of them"
        else:
            yield from _refused(f"{place}.{section}.{field}", field, known, values, solvers.build, entry.model_dump())


def _starts_tried(place: str, starts: Mapping[str, Mapping[str, list]], rules: Mapping[str, type]) -> Iterator[str]:
    """What is wrong with the start rules that are tried, of those that can be, and with the values of their options."""

    def build(entry: Mapping, **options: Any) -> object:
        return rules[entry["rule"]](**options)

    for rule, options in starts.items():
        if rule not in rules:
            yield f"{place}.{rule}: unknown name; choose one of {', '.join(rules)}"
            continue
        known = field_types(rules[rule]).keys()
        for option, values in options.items():
            yield from _refused(f"{place}.{rule}.{option}", option, known, values, build, {"rule": rule})


def _refused(
    place: str, field: str, known: Iterable[str], values: list, build: Callable[..., object], entry: Mapping
) -> Iterator[str]:
    """What is wrong with candidates of a field of the object that ``build`` makes of an entry."""
    if field not in known:
        yield f"{place}: unknown name{_near(field, known)}"
        return
    for value in values:
        if isinstance(value, str | bool):
            yield f"{place}: {_shown(value)} is no number"
            continue
        try:
            build(entry, **{field: value})
        except (ValueError, TypeError) as error:
            yield f"{place}: {str(error).removesuffix('.')}"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; remove it"


def load(path: str | Path = "params.yaml") -> Study:
    """Read and check a study file; raises StudyError, one sentence per problem."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no study file; run from the folder of a study.") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: not readable as UTF-8 ({error.reason}); save it in that encoding.") from None
    except OSError as error:
        raise StudyError(f"{path}: not readable ({error.strerror}); mend that first.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an anchor that is set anew, which YAML allows
            # ruamel reads YAML 1.2 as DVC does: 1e-3 is a number there and a string to PyYAML. Without libyaml, whose sentences
            # are others: a study is read the same wherever it is read
            content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise StudyError(
            f"{path}{where}: not readable as YAML ({_escaped(problem or ' '.join(str(error).split()))}); mend that line."
        ) from None
    except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        # !!int abc, a date that there is not, a number of thousands of digits, thousands of brackets
        raise StudyError(
            f"{path}: not readable as YAML ({_escaped(' '.join(str(error).split()))[:200]}); mend that value."
        ) from None
    if not isinstance(content, dict):
        found = "empty" if content is None else "not a mapping"
        raise StudyError(f"{path}: {found}; a study file is a mapping of sections, as the repository's params.yaml is.")
    if problem := _unusable(content):
        raise StudyError(f"{path}: {_escaped(problem)}")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        problems = [line for problem in error.errors() for line in _sentences(problem)]
        raise StudyError("\n".join(f"{path}: {_escaped(line)}" for line in problems)) from None


MOST_VALUES = 100_000
"""A study has some hundreds; a few anchors of anchors make billions out of ten lines."""


def _unusable(content: dict) -> str | None:
    """The first value, in a sentence, that no study can use whatever its field; None where there is none."""
    count = 0
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", content, ())]
    while waiting:
        place, value, within = waiting.pop()
        count += 1
        if id(value) in within:
            return f"{place}: holds itself by its anchor; write out what is meant."
        if count > MOST_VALUES:
            return f"more than {MOST_VALUES} values, counted with what its anchors repeat; remove the anchors."
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            below = [(f"{place}.{_shown(name, str)}".removeprefix("."), part) for name, part in items]
            waiting += [(name, part, (*within, id(value))) for name, part in below]
            waiting += [(f"{place} (a name)", name, within) for name in value if isinstance(value, dict)]
        elif isinstance(value, int | float) and abs(value) >= LARGEST and abs(value) != float("inf"):
            return f"{place}: {_shown(value)} is beyond 2^63; give a smaller number."
        elif isinstance(value, str) and any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
            return f"{place}: {_shown(value)} holds a sign that cannot be printed; remove it."
    return None


def _shown(value: Any, to_text: Callable[[Any], str] = repr) -> str:
    """A value in a sentence: on one line, and not longer than a reader wants."""
    text = shown(value) if isinstance(value, int) else printable(" ".join(to_text(value).split()))
    return text if len(text) <= 200 else f"{text[:200]}..."


def escaped(text: str) -> str:
    """Sentences, one per line, for a terminal: names in them may hold signs that would move its cursor or colour it."""
    return "\n".join(map(_escaped, text.split("\n")))


def _escaped(sentence: str) -> str:
    """With an escape in place of each sign that a terminal would not print, or would do something else with."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in sentence)


def _sentences(problem: dict[str, Any]) -> list[str]:
    """The sentences of one of pydantic's problems: a check of the whole study may find several."""
    return [_sentence(problem | {"msg": message}) for message in problem["msg"].split("\n")]


def _sentence(problem: dict[str, Any]) -> str:
    """One sentence: the field, its value, what to do."""
    location, value, kind = [str(part) for part in problem["loc"]], problem.get("input"), problem["type"]
    beside = _names_beside(location)
    field = ".".join(part for part in _without_kinds(location) if part != "[key]")
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return _ended(f"{field}: unknown name{_near(location[-1], beside)}")
    if kind == "missing":
        return f"{field}: missing; add it."
    if kind == "union_tag_not_found":
        return f"{field}.kind: missing; add it."
    if kind == "union_tag_invalid":
        return f"{field}.kind: {_shown(value.get('kind'))} is unknown; choose one of {problem['ctx']['expected_tags']}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{field}: {_shown(value)} is not valid: it should be a section, with one 'name: value' per line."
    if kind == "too_short":
        return f"{field}: empty; give at least one entry."
    if kind == "string_pattern_mismatch" and "64" in problem["ctx"]["pattern"]:
        return f"{field}: {_shown(value)} is not valid: a SHA-256 is 64 hexadecimal digits in small letters."
    if kind == "string_pattern_mismatch":
        signs = "_ and -" if "-]" in problem["ctx"]["pattern"] else "_"
        return f"{field}: {_shown(value)} is not valid: use small letters and digits, and after the first {signs}, too."
    if kind == "value_error":
        return _ended(f"{field}: {message}" if field else message)
    return f"{field}: {_shown(value)} is not valid: {message[0].lower()}{message[1:]}."


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
