"""Prior and severity encoder as one diffusers pipeline: a trained study that is shared as a folder or on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from flashdiff.datasets.splits import to_float
from flashdiff.degradations import Degradation, Measurement, Operator, State, check_level
from flashdiff.degradations import build as build_degradation
from flashdiff.flash import Flash
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import Solver
from flashdiff.solvers import build as build_solver
from flashdiff.starts import ConsistentStart, InversionStart, PublishedStart, Start
from flashdiff.study.records import read_json
from flashdiff.study.schema import load

STARTS: dict[str, type] = {"published": PublishedStart, "consistent": ConsistentStart, "inversion": InversionStart}
"""The start rules that have a name; the study's method of the rule is flash_NAME."""
OUTPUT_TYPES = ("pt", "np", "pil")
DOWNLOADED = ["model_index.json", "*/*.json", "*/*.safetensors"]

Tuned = Mapping[str, Mapping[str, Mapping[str, Mapping]]]
"""Solver of the study -> start rule -> {"solver": a study's solver entry with its tuned fields, "start": options}."""


@dataclass
class FlashPipelineOutput(BaseOutput):
    """Reconstructions and what they cost, on the CPU.

    images: "pt" a tensor (B, C, H, W) in [-1, 1], "np" an array (B, H, W, C) in [0, 1], "pil" a list of B pictures;
    severity (B,): sigma_hat, the predicted error of the latent estimate; start (B,): the index where the walk began, -1
    for none; nfe, decodes (B,): denoiser and decoder evaluations.
    """

    images: Tensor | np.ndarray | list[Image.Image]
    severity: Tensor
    start: Tensor
    nfe: Tensor
    decodes: Tensor


class FlashPipeline(DiffusionPipeline):
    """Flash-Diffusion with the prior, the severity encoder and what a study found out about them.

    vae: diffusers ``AutoencoderKL`` or ``VQModel``; unet: eps-predicting, unconditional; scheduler: any that has the
    diffusion's ``alphas_cumprod``; severity_encoder: trained for this prior; pixel_unshuffle: as in
    :class:`flashdiff.prior.Prior`. degradation: the study's entry (``kind``, its fields, ``noise_std``) that the
    encoder was trained for; tuned: see :data:`Tuned`. The networks are for inference: calling the pipeline freezes them.

    Raises ValueError where the parts do not fit each other, or an entry is none that a study could have.
    """

    def __init__(
        self,
        vae: ModelMixin,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        severity_encoder: SeverityEncoder,
        pixel_unshuffle: int = 1,
        degradation: dict | None = None,
        tuned: dict | None = None,
    ):
        super().__init__()
        _check_parts(vae, unet, scheduler, severity_encoder, pixel_unshuffle)
        if degradation is not None:
            _degradation(degradation)
            degradation = _with_ordered_members(degradation)
        _check_tuned(tuned or {})
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, severity_encoder=severity_encoder)
        self.register_to_config(pixel_unshuffle=pixel_unshuffle, degradation=degradation, tuned=tuned)

    @classmethod
    def from_study(cls, degradation: str, folder: str | Path = ".") -> Self:
        """The pipeline of one degradation of a study that has run: its prior, its encoder, its tuned solvers.

        Raises ValueError for a degradation that the study does not have, FileNotFoundError for what it has yet to make.
        """
        folder = Path(folder)
        study = load(folder / "params.yaml")
        if degradation not in study.degradations:
            raise ValueError(
                f"degradation: {degradation!r} is not in the study; choose one of {', '.join(study.degradations)}."
            )
        trained = folder / "data/severity" / degradation
        if not trained.is_dir():
            raise FileNotFoundError(f"{trained}: not there; run `make study` first.")
        tuned = {}
        for name, pair in study.pairs.items():
            if pair.degradation != degradation:
                continue
            chosen = read_json(folder / f"data/tuned/{name}.json")["chosen"]
            entry = study.solvers[pair.solver].model_dump(mode="json", exclude={"tune", "corrections"})
            tuned[pair.solver] = {
                rule: {"solver": entry | chosen[method]["solver"], "start": chosen[method]["start"]}
                for rule, method in ((rule, f"flash_{rule}") for rule in STARTS)
                if method in chosen
            }
        prior = Prior.from_pretrained(folder / "data/prior")
        return cls(
            prior.autoencoder,
            prior.unet,
            DDPMScheduler.from_pretrained(folder / "data/prior", subfolder="scheduler"),
            SeverityEncoder.from_pretrained(trained),
            pixel_unshuffle=prior.pixel_unshuffle,
            degradation=study.degradations[degradation].model_dump(mode="json", exclude_none=True),
            tuned=tuned,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> Self:
        """Load a folder written by :meth:`save_pretrained`, or a hub id; ``kwargs`` are those of diffusers.

        Raises FileNotFoundError when there is neither, ValueError when it is another kind of pipeline.
        """
        return super().from_pretrained(str(pretrained_model_name_or_path), **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs) -> str:
        """Fetch a pipeline from the hub into the cache; returns its folder. Of ``kwargs``, the hub's own are used.

        diffusers' own download refuses components of other packages, the severity encoder among them, although it reads
        them from a folder (huggingface/diffusers#6563). Weights come as safetensors only.
        """
        from huggingface_hub import snapshot_download

        known = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        given = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
        try:
            return snapshot_download(pretrained_model_name, allow_patterns=DOWNLOADED, **given)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise FileNotFoundError(
                f"pipeline: '{pretrained_model_name}' is no folder, and the hub does not hand it out ({reason}); give a "
                "folder written by save_pretrained, or a hub id."
            ) from error

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """Write the folder, as diffusers does, and a model card (README.md) where there is none yet."""
        folder = Path(save_directory)
        self._write_card(folder, folder.resolve().name)
        super().save_pretrained(str(folder), *args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload FlashPipeline",
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the hub, made if need be; returns the commit's URL.

        The card goes along, unless the repository has one. diffusers' own upload would replace it by one that says
        nothing of the degradation.
        """
        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        kept = ["README.md"] if hub.file_exists(repo_id, "README.md") else None
        with TemporaryDirectory() as folder:
            self._write_card(Path(folder), repo_id)
            self.save_pretrained(folder)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                create_pr=create_pr,
                ignore_patterns=kept,
            )
        return str(commit)

    @property
    def prior(self) -> Prior:
        """The prior made of this pipeline's components, on their device; it shares their weights."""
        prior = Prior(self.vae, self.unet, self.scheduler.alphas_cumprod, self.config.pixel_unshuffle)
        return prior.to(self.device)

    @property
    def degradation(self) -> Degradation | None:
        """What the severity encoder was trained for; None where it is not recorded."""
        return None if self.config.degradation is None else _degradation(self.config.degradation)[0]

    @property
    def noise_std(self) -> float | None:
        """The measurement noise that the encoder was trained for, in [-1, 1] units; None where it is not recorded."""
        return None if self.config.degradation is None else _degradation(self.config.degradation)[1]

    def flash(
        self,
        solver: Solver | str = "ldps",
        start: Start | str = "published",
        *,
        seed: int = 0,
        batch_size: int = 64,
        mixed_precision: str = "auto",
    ) -> Flash:
        """The :class:`flashdiff.flash.Flash` that a call runs, to stream any number of measurements through it.

        A name stands for what was tuned: ``solver`` is a solver of the study, its fields those that go best with the
        start, ``start`` (published, consistent, inversion) has the options that were tuned with that solver. Objects
        are taken as they are, and a name beside a solver object has its class's defaults. Without tuned solvers all
        names have. Raises ValueError naming what there is.
        """
        if isinstance(start, str) and start not in STARTS:
            raise ValueError(f"start: {start!r} is unknown; choose one of {', '.join(STARTS)}, or give a Start.")
        if not isinstance(solver, str) and (isinstance(solver, type) or not hasattr(solver, "step")):
            raise ValueError(f"solver: {solver!r} is no solver; give a name or an object such as LDPS(eta=1.0).")
        options = {}
        if isinstance(solver, str):
            names = {kind: name for name, kind in STARTS.items()}
            rule = start if isinstance(start, str) else names.get(type(start), "published")
            recipe = self._recipe(solver, rule)
            solver, options = build_solver(recipe["solver"]), recipe["start"]
        if isinstance(start, str):
            start = STARTS[start](**options)
        hidden = getattr(self, "_progress_bar_config", {}).get("disable", False)  # what set_progress_bar_config sets
        return Flash(
            self.prior,
            self.severity_encoder,
            solver,
            start,
            seed=seed,
            batch_size=batch_size,
            mixed_precision=mixed_precision,
            progress=not hidden,
        )

    @torch.no_grad()
    def __call__(
        self,
        measurement: Tensor | Measurement | Image.Image | list[Image.Image],
        operator: Operator | Degradation | None = None,
        *,
        t: Tensor | float | None = None,
        noise_std: float | None = None,
        ids: np.ndarray | None = None,
        solver: Solver | str = "ldps",
        start: Start | str = "published",
        seed: int = 0,
        generator: torch.Generator | None = None,
        batch_size: int = 64,
        mixed_precision: str = "auto",
        output_type: str = "pt",
    ) -> FlashPipelineOutput:
        """Reconstruct images from their measurements.

        measurement: y (B, C, H, W) around [-1, 1], or pictures of one size, made grey or RGB as the prior is; a
        :class:`Measurement` brings its operator along. operator: a degradation with its level t, one for all or (B,);
        or one that is prepared already, for these B samples in this order. noise_std of a degradation's measurement: by
        default what the encoder was trained for. ids (B,): image identities >= 0, by default 0..B-1; they key the
        randomness, and a degradation that is random per image.

        solver, start, batch_size, mixed_precision: as in :meth:`flash`. seed keys the randomness together with ids, so
        a result depends neither on batch_size nor on the other images; a ``generator`` replaces it by one draw, so that
        two calls differ. output_type: "pt", "np" or "pil", see :class:`FlashPipelineOutput`.

        Raises ValueError with one sentence, before any network runs, for input that cannot be used.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: {output_type!r} is unknown; choose one of {', '.join(OUTPUT_TYPES)}.")
        if generator is not None:
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give an integer >= 0.")
        flash = self.flash(solver, start, seed=seed, batch_size=batch_size, mixed_precision=mixed_precision)
        measurement = self._measurement(measurement, operator, t, noise_std, ids)
        result = flash(measurement)
        images = result.images
        if output_type != "pt":
            images = VaeImageProcessor().postprocess(images, output_type=output_type)
        return FlashPipelineOutput(images, result.sigma_hat, result.start, result.nfe, result.decodes)

    def _recipe(self, solver: str, rule: str) -> Mapping[str, Mapping]:
        """{"solver": entry, "start": options} of a named solver with a start rule."""
        tuned: Tuned = self.config.tuned or {}
        if not tuned:
            return {"solver": {"kind": solver}, "start": {}}
        if solver not in tuned:
            raise ValueError(f"solver: {solver!r} was not tuned; choose one of {', '.join(tuned)}, or give a Solver.")
        if rule not in tuned[solver]:
            raise ValueError(
                f"start: {rule!r} was not tuned with {solver}; choose one of {', '.join(tuned[solver])}, or give a Solver."
            )
        return tuned[solver][rule]

    def _measurement(
        self,
        measurement: Tensor | Measurement | Image.Image | list[Image.Image],
        operator: Operator | Degradation | None,
        t: Tensor | float | None,
        noise_std: float | None,
        ids: np.ndarray | None,
    ) -> Measurement:
        """What __call__ was given as a measurement that Flash can run on."""
        given = {"operator": operator, "t": t, "noise_std": noise_std, "ids": ids}
        if isinstance(measurement, Measurement):
            _leave_out(given, "a Measurement")
            self._check_images(measurement.y)
            _check_operator(measurement)
            return measurement
        y = self._images(measurement)
        self._check_images(y)
        ids = np.arange(len(y)) if ids is None else np.asarray(ids)
        if ids.shape != (len(y),) or ids.dtype.kind not in "iu" or ids.min() < 0:
            raise ValueError(f"ids: {ids.tolist()} for {len(y)} images; give one integer >= 0 per image.")
        if isinstance(operator, Operator):
            _leave_out({"t": t, "noise_std": noise_std}, "a prepared operator")
            measured = _Prepared.by(operator, y, ids)
        elif isinstance(operator, Degradation):
            if t is None:
                raise ValueError("t: None; give the level of the degradation in [0, 1], one for all or one per image.")
            t = torch.as_tensor(t, dtype=y.dtype, device=y.device)
            t = t.expand(len(y)) if t.ndim == 0 else t
            check_level(t, len(y))
            noise_std = self.noise_std if noise_std is None else noise_std
            if noise_std is None or not noise_std >= 0:
                raise ValueError(f"noise_std: {noise_std}; give the standard deviation of the noise in y, >= 0.")
            measured = Measurement(y, operator, t, noise_std, ids, tuple(y.shape[1:]))
        else:
            raise ValueError(
                f"operator: {'None' if operator is None else type(operator).__name__}; give the degradation that made the "
                "measurement, with its level t, or a prepared Operator (for deepinv: measurement_from_deepinv)."
            )
        _check_operator(measured)
        return measured

    def _images(self, images: Tensor | Image.Image | list[Image.Image]) -> Tensor:
        """Tensor or pictures -> (B, C, H, W) on the pipeline's device, in its precision."""
        if isinstance(images, Image.Image):
            images = [images]
        if isinstance(images, list) and images and all(isinstance(image, Image.Image) for image in images):
            modes, sizes = {image.mode for image in images}, {image.size for image in images}
            if not modes <= {"L", "RGB"}:
                raise ValueError(f"measurement: pictures of mode {', '.join(sorted(modes))}; convert them to L or RGB.")
            if len(sizes) > 1:
                raise ValueError(f"measurement: pictures of sizes {sorted(sizes)}; give pictures of one size.")
            mode = "L" if self.severity_encoder.config.in_channels == 1 else "RGB"
            pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
            pixels = pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2)
            images = to_float(pixels)
        if not isinstance(images, Tensor):
            raise ValueError(
                f"measurement: {type(images).__name__}; give a tensor (B, C, H, W) in [-1, 1], a picture or a list of them."
            )
        if not images.is_floating_point():
            raise ValueError(f"measurement: dtype {images.dtype}; give floating-point values around [-1, 1].")
        return images.to(self.device, self.severity_encoder.dtype)

    def _check_images(self, y: Tensor) -> None:
        """Raise ValueError unless the networks can take y."""
        channels = self.severity_encoder.config.in_channels
        if y.ndim != 4 or not len(y) or y.shape[1] != channels:
            raise ValueError(
                f"measurement: shape {tuple(y.shape)}; this pipeline takes (B, {channels}, H, W) with B >= 1."
            )
        halvings = len(self.vae.config.block_out_channels) + len(self.unet.config.block_out_channels) - 2
        factor = self.config.pixel_unshuffle * 2**halvings
        if y.shape[2] % factor or y.shape[3] % factor:
            raise ValueError(
                f"measurement: shape {tuple(y.shape)}; give a height and a width that are multiples of {factor}, by which "
                "the networks divide them."
            )
        if not bool(torch.isfinite(y).all()):
            raise ValueError("measurement: contains NaN or infinite values; remove them.")

    def _write_card(self, folder: Path, name: str) -> None:
        """Write README.md for a pipeline of this name, unless there is one."""
        card = folder / "README.md"
        if card.exists():
            return
        entry, operator = self.config.degradation or {}, "pipe.degradation" if self.degradation else "degradation"
        trained = "".join(f"- {field}: {value}\n" for field, value in entry.items()) or "Not recorded.\n"
        rows = "".join(
            f"| {solver} | {rule} | {_fields(recipe['solver'])} | {_fields(recipe['start'])} |\n"
            for solver, recipes in (self.config.tuned or {}).items()
            for rule, recipe in recipes.items()
        )
        tuned = TABLE + rows if rows else "Nothing was tuned.\n"
        folder.mkdir(parents=True, exist_ok=True)
        card.write_text(CARD.format(name=name, trained=trained, operator=operator, tuned=tuned), encoding="utf-8")


CARD = """---
library_name: flashdiff
pipeline_tag: image-to-image
tags:
- image-restoration
- diffusers
---
# {name}

A latent diffusion prior and a severity encoder for sample-adaptive reconstruction (Flash-Diffusion): the encoder says how
hard a measurement is, and the solver starts exactly that far up the diffusion.

```python
from flashdiff.pipeline import FlashPipeline
pipe = FlashPipeline.from_pretrained("{name}")  # this folder, or its name on the hub
images = pipe(y, operator={operator}, t=t).images  # y (B, C, H, W) and images in [-1, 1]; t in [0, 1], the level
```

## The degradation that the encoder was trained for
{trained}
Levels t run from 0 to 1, noise is in units of the [-1, 1] range. The encoder knows no other degradation.

## Tuned on validation images
{tuned}
## Source
Fabian, Tinaz, Soltanolkotabi, "Adapt and Diffuse: Sample-adaptive Reconstruction via Latent Diffusion Models", ICML 2024.
"""


TABLE = """| solver | start | fields of the solver | options of the start |
| --- | --- | --- | --- |
"""


def _fields(entry: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.items() if value is not None)


@dataclass(frozen=True)
class _Prepared(Measurement):
    """A measurement whose operator is prepared already: row k of ``state`` belongs to row k of y; t plays no part."""

    state: State

    @classmethod
    def by(cls, operator: Operator, y: Tensor, ids: np.ndarray) -> Self:
        """y as this operator's measurement; raises ValueError unless its rows are as many as y's."""
        state = {name: value.to(y.device) for name, value in operator.state.items()}
        for name, value in state.items():
            if len(value) != len(y):
                raise ValueError(
                    f"operator: its {name} has {len(value)} rows for {len(y)} images; prepare it for these images."
                )
        level = y.new_full((len(y),), float("nan"))
        return cls(y, operator.degradation, level, operator.noise_std, ids, tuple(y.shape[1:]), state)

    def operator(self, index=slice(None)):
        state = {name: value[index] for name, value in self.state.items()}
        return Operator(self.degradation, state, self.noise_std)

    def select(self, index):
        return replace(self, y=self.y[index], t=self.t[index], ids=self.ids[index], state=self.operator(index).state)


def _leave_out(arguments: Mapping[str, object], beside: str) -> None:
    """Raise ValueError for an argument that would be ignored."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name}: given beside {beside}, which has its own; leave it out.")


def _check_operator(measurement: Measurement) -> None:
    """Raise ValueError unless the operator maps an image of the measurement's shape to that shape, tried on the first."""
    y, name = measurement.y[:1], type(measurement.degradation).__name__
    if tuple(y.shape[1:]) != measurement.image_shape:
        raise ValueError(
            f"measurement: {tuple(y.shape[1:])} of images {measurement.image_shape}; the severity encoder reads "
            "measurements of the image's shape, use FullLength."
        )
    try:
        shape = measurement.operator(slice(0, 1)).A(y).shape
    except (RuntimeError, IndexError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"operator: {name} does not apply to images {tuple(y.shape[1:])} ({reason}); prepare it for this shape."
        ) from error
    if shape != y.shape:
        raise ValueError(
            f"operator: {name} makes {tuple(shape[1:])} of images {tuple(y.shape[1:])}; the severity encoder reads "
            "measurements of the image's shape."
        )


def _check_parts(
    vae: ModelMixin,
    unet: UNet2DModel,
    scheduler: SchedulerMixin,
    severity_encoder: SeverityEncoder,
    pixel_unshuffle: int,
) -> None:
    """Raise ValueError unless the components are a prior and a severity encoder that was made for it."""
    if not (isinstance(pixel_unshuffle, int) and pixel_unshuffle >= 1):
        raise ValueError(f"pixel_unshuffle: {pixel_unshuffle!r}; give an integer >= 1.")
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction != "epsilon" or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler: {type(scheduler).__name__} with prediction_type {prediction!r}; give one of eps-prediction that "
            "has alphas_cumprod, such as DDPMScheduler."
        )
    latent = vae.config.latent_channels
    if unet.config.in_channels != latent:
        raise ValueError(
            f"unet: in_channels {unet.config.in_channels}, but latents have {latent} channels; give the vae's own unet."
        )
    expected = {
        "in_channels": vae.config.in_channels // pixel_unshuffle**2,
        "latent_channels": latent,
        "pixel_unshuffle": pixel_unshuffle,
        "scaling_factor": float(vae.config.scaling_factor),
    }
    for field, value in expected.items():
        own = severity_encoder.config[field]
        if own != value:
            raise ValueError(
                f"severity_encoder: {field} is {own}, the prior's is {value}; give the prior's own encoder."
            )


def _degradation(entry: Mapping) -> tuple[Degradation, float]:
    """The degradation of a study's entry and its noise_std; ValueError when it is no such entry."""
    try:
        entry = {**entry, "members": dict(entry["members"])} if "members" in entry else entry
        degradation, noise_std = build_degradation(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"degradation: {entry!r} is no entry of a study ({type(error).__name__}: {error}); give kind, noise_std and "
            "the fields of its class."
        ) from error
    if not noise_std >= 0:
        raise ValueError(f"degradation.noise_std: {noise_std:g}; give a standard deviation >= 0.")
    return degradation, noise_std


def _with_ordered_members(entry: Mapping) -> dict:
    """A degradation's entry with the members of a mixture as pairs: diffusers sorts the names in what it writes.

    Their order says which image gets which member.
    """
    if "members" not in entry:
        return dict(entry)
    return {**entry, "members": [[name, member] for name, member in dict(entry["members"]).items()]}


def _check_tuned(tuned: Tuned) -> None:
    """Raise ValueError unless every recipe makes a solver and a start."""
    try:
        for recipes in tuned.values():
            for rule, recipe in recipes.items():
                build_solver(recipe["solver"])
                STARTS[rule](**recipe["start"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"tuned: {tuned!r} is not usable ({type(error).__name__}: {error}); give {{solver: {{start rule: "
            "{'solver': a solver entry, 'start': options}}}."
        ) from error
