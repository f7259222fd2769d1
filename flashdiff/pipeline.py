"""Prior and severity encoder as one diffusers pipeline: a trained study that is shared as a folder or on the hub."""

import json
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

from flashdiff.assumptions import check_class, check_fields, check_signal
from flashdiff.degradations import Degradation, Measurement, Operator, State, build, check_level
from flashdiff.devices import outside_inference_mode
from flashdiff.diffusers_folder import name_scaling_factor
from flashdiff.flash import COUNTS, Flash
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import Solver
from flashdiff.starts import SHORT_STARTS, STARTS, Start
from flashdiff.study.few_steps import few_step_walks
from flashdiff.study.records import read_json
from flashdiff.study.schema import load
from flashdiff.study.tuned import few_step_of, flash_of, recipes

Images = Tensor | Image.Image | list[Image.Image]
EVALUATIONS = 6
"""Mean denoiser evaluations of the few-step walk that restores where nothing else is asked; else the nearest that was tuned."""


@dataclass
class FlashPipelineOutput(BaseOutput):
    """Reconstructions and what they cost, on the CPU.

    images: "pt" a tensor (B, C, H, W) in [-1, 1], "np" an array (B, H, W, C) in [0, 1], "pil" a list of B pictures;
    severity (B,): sigma_hat of :class:`flashdiff.flash.Result`; start and the costs nfe, decodes, encodes, gradients (B,)
    as there.
    """

    images: Tensor | np.ndarray | list[Image.Image]
    severity: Tensor
    start: Tensor
    nfe: Tensor
    decodes: Tensor
    encodes: Tensor
    gradients: Tensor


class FlashPipeline(DiffusionPipeline):
    """Flash-Diffusion with the prior, the severity encoder and what a study found out about them.

    vae: diffusers ``AutoencoderKL`` or ``VQModel``; unet: eps-predicting, unconditional; scheduler: any that has the
    diffusion's ``alphas_cumprod``; severity_encoder: trained for this prior; pixel_unshuffle: as in
    :class:`flashdiff.prior.Prior`. degradation: the study's entry (``kind``, its fields, ``noise_std``) that the encoder
    was trained for, after which ``pipe.degradation`` and ``pipe.noise_std`` are made, None for none; tuned: solver ->
    :func:`flashdiff.study.tuned.recipes`; few_steps: mean evaluations per image, as text -> the best setting with so many,
    as :func:`flashdiff.study.tuned.few_step_of` takes it. Calling the pipeline freezes the networks. Raises ValueError
    where the parts do not fit each other, and what building an unusable entry raises.
    """

    def __init__(
        self, vae: ModelMixin, unet: UNet2DModel, scheduler: SchedulerMixin, severity_encoder: SeverityEncoder,
        pixel_unshuffle: int = 1, degradation: dict | None = None, tuned: dict | None = None,
        few_steps: dict | None = None,
    ):  # fmt: skip
        super().__init__()
        name_scaling_factor(vae)
        kind, encoder = scheduler.config.get("prediction_type", "epsilon"), severity_encoder.config
        if kind != "epsilon" or not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(f"scheduler: {type(scheduler).__name__} of {kind!r}; give a DDPMScheduler of 'epsilon'.")
        for field, own, other in (
            ("unet.in_channels", unet.config.in_channels, vae.config.latent_channels),
            ("severity_encoder.latent_channels", encoder.latent_channels, vae.config.latent_channels),
            ("severity_encoder.pixel_unshuffle", encoder.pixel_unshuffle, pixel_unshuffle),
            ("severity_encoder.scaling_factor", encoder.scaling_factor, float(vae.config.scaling_factor)),
            ("severity_encoder.in_channels", encoder.in_channels * pixel_unshuffle**2, vae.config.in_channels),
        ):
            if own != other:
                raise ValueError(f"{field}: {own}, the prior's is {other}; give parts that were trained together.")
        _check_prior(vae, unet, scheduler, pixel_unshuffle)
        known = dict(degradation or {})
        if "members" in known:  # of a mixture; kept as pairs, because by its place a member gets its images
            known["members"] = dict(known["members"])
            degradation = known | {"members": [list(pair) for pair in known["members"].items()]}
        for rule, recipe in (item for rules in (tuned or {}).values() for item in rules.items()):
            flash_of(None, None, {}, recipe, rule)  # refuses here what could not run
        for evaluations, choice in (few_steps or {}).items():
            if (rule := choice["start"].get("rule")) not in SHORT_STARTS:
                known = ", ".join(SHORT_STARTS)
                raise ValueError(f"few_steps.{evaluations}: start rule {rule!r} is unknown; choose one of {known}.")
            few_step_of(None, None, choice)  # and here
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, severity_encoder=severity_encoder)
        self.register_to_config(
            pixel_unshuffle=pixel_unshuffle, degradation=degradation, tuned=tuned, few_steps=few_steps
        )
        self.degradation, self.noise_std = (None, None) if degradation is None else build(known)

    @classmethod
    def from_study(
        cls, degradation: str, folder: str | Path = ".", *, encoder: str | Path | None = None,
        entry: dict | None = None,
    ) -> Self:  # fmt: skip
        """The pipeline of one degradation of a study that has run; ValueError or FileNotFoundError says what is missing.

        encoder: folder of another severity encoder than the one that the study trained, such as the shipped data/encoder,
        which needs no run. entry: of a degradation that is not the study's own; its few-step walks are those of the
        study's first pair.
        """
        folder = Path(folder)
        study = load(folder / "params.yaml")
        trained = folder / "data/severity" / degradation if encoder is None else Path(encoder)
        if degradation not in study.degradations and entry is None:
            raise ValueError(f"degradation: the study has no {degradation!r}; choose {', '.join(study.degradations)}.")
        if not trained.is_dir():
            raise FileNotFoundError(f"{trained}: not there; run `make study` first.")
        if not (
            folder / "data/prior/model_index.json"
        ).is_file():  # else diffusers asks the hub for a model of that name
            raise FileNotFoundError(f"{folder / 'data/prior'}: no prior there; run `make study` first.")
        tuned, (_, few_steps) = {}, few_step_walks(folder, study, degradation)
        for name, pair in study.pairs.items():
            if pair.degradation == degradation:
                solver = study.solvers[pair.solver].model_dump(mode="json")
                tuned[pair.solver] = recipes(solver, read_json(folder / f"data/tuned/{name}.json")["chosen"])
        prior = Prior.from_pretrained(folder / "data/prior")
        scheduler = DDPMScheduler.from_pretrained(folder / "data/prior", subfolder="scheduler")
        entry = entry or study.degradations[degradation].model_dump(mode="json", exclude_none=True)
        parts = prior.autoencoder, prior.unet, scheduler, SeverityEncoder.from_pretrained(trained)
        return cls(*parts, prior.pixel_unshuffle, entry, tuned, few_steps)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs) -> Self:
        """Load a folder or a hub id, ``kwargs`` as diffusers has them; FileNotFoundError or ValueError for another thing.

        data/prior may be a hub's OWNER/NAME, too: where a folder of the owner's name is here, it is a path, and the hub is
        not asked.
        """
        path = str(pretrained_model_name_or_path)
        owner, slash, _ = path.partition("/")
        if owner and slash and Path(owner).is_dir() and not Path(path).exists():
            what = f"pipeline: '{path}' is not there, although the folder {owner} is"
            raise FileNotFoundError(f"{what}; give a folder that save_pretrained wrote, or a hub id.")
        with outside_inference_mode():  # weights made in that mode would admit no gradients
            return super().from_pretrained(path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs) -> str:
        """Fetch safetensors from the hub into a folder; diffusers' own refuses foreign components (diffusers#6563)."""
        from huggingface_hub import snapshot_download

        own = {n: kwargs.get(n) for n in ("cache_dir", "force_download", "local_files_only", "revision", "token")}
        patterns = ["model_index.json", "*/*.json", "*/*.safetensors"]
        try:
            return snapshot_download(pretrained_model_name, allow_patterns=patterns, **own)
        except (OSError, ValueError) as error:
            what = f"pipeline: '{pretrained_model_name}' is no folder, and the hub does not hand it out"
            reason = str(error).strip().partition("\n")[0]
            raise FileNotFoundError(f"{what} ({reason}); give a folder or a hub id that is there.") from error

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """Write the folder, as diffusers does, and a model card (README.md) where there is none yet."""
        super().save_pretrained(str(save_directory), *args, **kwargs)
        card, name = Path(save_directory, "README.md"), kwargs.get("repo_id") or Path(save_directory).resolve().name
        if not card.exists():
            kept = {name: self.config[name] for name in ("degradation", "tuned", "few_steps")}
            memory = json.dumps(kept, indent=2)
            card.write_text(CARD.format(name=name, memory=memory), encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **options) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the hub, made if need be; returns the commit's URL.

        options: commit_message, create_pr. A card that is there is kept; diffusers' own upload would replace ours.
        """
        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
        kept = ["README.md"] if hub.file_exists(repo_id, "README.md") else None
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id)
            return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=kept, **options))

    @property
    def prior(self) -> Prior:
        """The prior made of this pipeline's components, on their device; it shares their weights."""
        return Prior(self.vae, self.unet, self.scheduler.alphas_cumprod, self.config.pixel_unshuffle).to(self.device)

    def flash(
        self, solver: Solver | str | None = None, start: Start | str | None = None, *,
        evaluations: float | None = None, **options,
    ) -> Flash:  # fmt: skip
        """The :class:`flashdiff.flash.Flash` that a call runs, to stream any number of measurements through it.

        Without solver and start: the best walk of few steps that was tuned; ``evaluations`` is its mean number of denoiser
        evaluations per image, one of ``pipe.config.few_steps``. With one of them, or where no such walk was tuned: the
        long walk of the paper, by default solver "ldps" and start "published".

        A name stands for what was tuned: a solver of the study, with the fields that go best with the start; a start of
        :data:`flashdiff.starts.STARTS`, with the options that go best with that solver. Objects are taken as they are; a
        start's name beside a solver object, and all names where nothing was tuned, have their classes' defaults.
        options: Flash's seed, batch_size, mixed_precision.
        """
        hidden = getattr(self, "_progress_bar_config", {}).get("disable", False)  # what set_progress_bar_config sets
        parts, options = (self.prior, self.severity_encoder), {"progress": not hidden} | options
        few, long = self.config.few_steps or {}, solver is not None or start is not None
        if evaluations is not None and (long or not any(float(tuned) == evaluations for tuned in few)):
            known = "leave out solver and start" if long else f"choose one of {', '.join(few) or '(none was tuned)'}"
            raise ValueError(f"evaluations: {evaluations:g} is not a tuned walk of few steps here; {known}.")
        if few and not long:
            wanted = EVALUATIONS if evaluations is None else evaluations
            return few_step_of(*parts, few[min(few, key=lambda tuned: abs(float(tuned) - wanted))], **options)
        solver, start = "ldps" if solver is None else solver, "published" if start is None else start
        entry, recipe = solver, {"solver": {}, "start": {}}
        if isinstance(solver, str):
            rule = start if isinstance(start, str) else {c: n for n, c in STARTS.items()}.get(type(start), "published")
            entry, tuned = {"kind": solver}, self.config.tuned or {solver: dict.fromkeys(STARTS, recipe)}
            if rule not in tuned.get(solver, {}):
                known = "; ".join(f"{name} with {', '.join(rules)}" for name, rules in tuned.items())
                raise ValueError(f"solver: {solver!r} with start {rule!r} is not tuned; choose {known}, or objects.")
            recipe = tuned[solver][rule]
        return flash_of(*parts, entry, recipe, start, **options)

    @torch.no_grad()
    def __call__(
        self, measurement: Images | Measurement, operator: Operator | Degradation | None = None, *,
        t: Tensor | float | None = None, noise_std: float | None = None, ids: np.ndarray | None = None,
        solver: Solver | str | None = None, start: Start | str | None = None, evaluations: float | None = None,
        seed: int = 0, generator: torch.Generator | None = None, batch_size: int = 64, mixed_precision: str = "auto",
        output_type: str = "pt",
    ) -> FlashPipelineOutput:  # fmt: skip
        """Reconstruct images from their measurements.

        measurement: y (B, C, H, W) around [-1, 1], or pictures of one size, made grey or RGB as the prior is; a
        :class:`Measurement` brings its operator along. operator: a degradation with its level t, one for all or (B,),
        and noise_std, by default what the encoder was trained for; or an operator prepared for these B samples in this
        order. ids (B,): image identities >= 0, by default 0..B-1; they key what is random per image.

        solver, start, evaluations, batch_size, mixed_precision: as in :meth:`flash`. seed keys the randomness together with
        ids, so a result depends neither on batch_size nor on the other images; a ``generator`` gives every call its own seed.
        output_type: see :class:`FlashPipelineOutput`. Unusable input is refused in one sentence before any network runs.
        """
        if output_type not in ("pt", "np", "pil"):
            raise ValueError(f"output_type: {output_type!r} is unknown; choose one of pt, np, pil.")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give an integer >= 0.")
        if generator is not None:
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        engine = {"seed": seed, "batch_size": batch_size, "mixed_precision": mixed_precision}
        flash = self.flash(solver, start, evaluations=evaluations, **engine)
        result = flash(self._measurement(measurement, operator, t, noise_std, ids))
        images = VaeImageProcessor().postprocess(result.images, output_type) if output_type != "pt" else result.images
        costs = {name: getattr(result, name) for name in COUNTS}
        return FlashPipelineOutput(images, result.sigma_hat, result.start, **costs)

    def _measurement(self, measurement: Images | Measurement, operator, t, noise_std, ids) -> Measurement:
        """What __call__ was given as a measurement that Flash can run on."""
        whole, prepared = isinstance(measurement, Measurement), isinstance(operator, Operator)
        own = {"t": t, "noise_std": noise_std} | ({"operator": operator, "ids": ids} if whole else {})
        twice = [name for name, value in own.items() if value is not None] if whole or prepared else None
        if twice:
            raise ValueError(f"{' and '.join(twice)}: given beside what brings its own; leave it out.")
        y = measurement.y if whole else self._images(measurement)
        channels, networks = self.severity_encoder.config.in_channels, (self.vae, self.unet)
        factor = self.config.pixel_unshuffle * 2 ** sum(len(part.config.block_out_channels) - 1 for part in networks)
        if y.ndim != 4 or not len(y) or y.shape[1] != channels or y.shape[2] % factor or y.shape[3] % factor:
            wanted = f"(B, {channels}, H, W) with B >= 1, H and W multiples of {factor}"
            raise ValueError(f"measurement: shape {tuple(y.shape)}; this pipeline takes {wanted}.")
        if not bool(torch.isfinite(y).all()):
            raise ValueError("measurement: contains NaN or infinite values; remove them.")
        n, image = len(y), tuple(y.shape[1:])
        ids = np.arange(n) if ids is None else np.asarray(ids)
        if ids.shape != (n,) or ids.dtype.kind not in "iu" or ids.min() < 0:
            raise ValueError(f"ids: {ids.tolist()} for {n} images; give one integer >= 0 per image.")
        if prepared:
            state = {name: value.to(y.device) for name, value in operator.state.items()}
            if any(len(value) != n for value in state.values()):
                raise ValueError(f"operator: prepared for another number of images than {n}; prepare it for these.")
            measurement = _Prepared(y, operator.degradation, torch.arange(n), operator.noise_std, ids, image, state)
        elif isinstance(operator, Degradation) and t is not None:
            t = torch.as_tensor(t, dtype=y.dtype, device=y.device)
            t = t.expand(n) if t.ndim == 0 else t
            check_level(t, n)
            noise_std = self.noise_std if noise_std is None else noise_std
            if noise_std is None or not noise_std >= 0:
                raise ValueError(f"noise_std: {noise_std}; give the standard deviation of the noise in y, >= 0.")
            measurement = Measurement(y, operator, t, noise_std, ids, image)
        elif not whole:
            given = f"{type(operator).__name__}, t: {type(t).__name__}"
            raise ValueError(f"operator: {given}; give a degradation with its level t in [0, 1], or an Operator.")
        made = tuple(measurement.operator(slice(0, 1)).A(y.new_zeros(1, *measurement.image_shape)).shape[1:])
        if not made == image == measurement.image_shape:
            name = f"{type(measurement.degradation).__name__} makes {made} of images {measurement.image_shape}"
            raise ValueError(f"operator: {name}; the severity encoder needs measurements of the image's shape.")
        return measurement

    def _images(self, images: Images) -> Tensor:
        """Tensor or pictures -> (B, C, H, W) on the pipeline's device, in its precision."""
        images = [images] if isinstance(images, Image.Image) else images
        if isinstance(images, list):
            modes = {image.mode if isinstance(image, Image.Image) else type(image).__name__ for image in images}
            if not modes or not modes <= {"L", "RGB"}:
                raise ValueError(f"measurement: list of {', '.join(sorted(modes))}; give pictures of mode L or RGB.")
            colour = "do_convert_grayscale" if self.severity_encoder.config.in_channels == 1 else "do_convert_rgb"
            images = VaeImageProcessor(do_resize=False, **{colour: True}).preprocess(images)
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = f"{type(images).__name__} of dtype {getattr(images, 'dtype', None)}"
            raise ValueError(f"measurement: {kind}; give floats around [-1, 1] (B, C, H, W), or pictures.")
        return images.to(self.device, self.severity_encoder.dtype)


def _check_prior(vae: ModelMixin, unet: UNet2DModel, scheduler: SchedulerMixin, pixel_unshuffle: int) -> None:
    """ValueError unless the parts are what the method assumes of a prior (:mod:`flashdiff.assumptions`)."""
    parts = {"denoiser": unet, "autoencoder": vae, "scheduler": scheduler}
    for part, component in parts.items():
        check_class(part, type(component).__name__, f"pipeline: the {part}")
    index = {"index": {"pixel_unshuffle": pixel_unshuffle}}
    model = {part: component.config for part, component in parts.items()}
    check_fields(model | index, {part: f"pipeline: the {part}" for part in parts})
    check_signal(scheduler.alphas_cumprod, "pipeline: the scheduler")


@dataclass(frozen=True)
class _Prepared(Measurement):
    """A measurement whose operator is prepared already: row k of ``state`` belongs to row k of y; t plays no part."""

    state: State

    def operator(self, index=slice(None)):
        return Operator(self.degradation, {name: v[index] for name, v in self.state.items()}, self.noise_std)

    def select(self, index):
        return replace(self, y=self.y[index], t=self.t[index], ids=self.ids[index], state=self.operator(index).state)


CARD = """---
library_name: flashdiff
pipeline_tag: image-to-image
---
# {name}
A latent diffusion prior and a severity encoder for Flash-Diffusion (Fabian et al., "Adapt and Diffuse", ICML 2024).
```python
from flashdiff.pipeline import FlashPipeline
pipe = FlashPipeline.from_pretrained("{name}")  # this folder, or its name on the hub
images = pipe(y, operator=pipe.degradation, t=t).images  # y (B, C, H, W) and images in [-1, 1]; t in [0, 1], the level
```
The only degradation that the encoder knows (noise in [-1, 1] units), and what was tuned for each solver and start rule, and for
walks of few steps, by their mean number of denoiser evaluations:
```json
{memory}
```
"""
