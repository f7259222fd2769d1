"""What the models say of one image at one level, and walks down from there. No widgets here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from flashdiff.datasets.images import fit, open_image, read_image
from flashdiff.datasets.splits import IDS_PER_SPLIT, SPLITS, open_split, split_ids, to_float
from flashdiff.degradations import Degradation, Measurement, measure
from flashdiff.explore.encoders import find, words
from flashdiff.flash import Flash, FullLength
from flashdiff.prior import Prior
from flashdiff.severity import Severity, latent_error_variance
from flashdiff.solvers import SOLVERS, build
from flashdiff.starts import STARTS, ScaledStart, match_snr
from flashdiff.study.methods import flash_method
from flashdiff.study.records import read_json
from flashdiff.study.schema import load
from flashdiff.study.tuned import few_step_of, flash_of
from flashdiff.walks import EvenlySpaced

if TYPE_CHECKING:
    from flashdiff.measures.features import Distances

EXAMPLES = "data/examples"
"""Test images that ship with the project: NN-CLASS.png, image NN of the default study's test split."""
LEVELS = np.linspace(0, 1, 7)
"""Where an image's severity is followed along the levels."""
SIMILAR = 24
"""How many measurements of about the same predicted severity say how far off it is."""
OWN = len(SPLITS) * IDS_PER_SPLIT
"""The id of a picture that somebody brings along: of no split."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A clean image: x (1, C, H, W) in [-1, 1]; id, which keys its noise; name and note, for readers."""

    x: Tensor
    id: int
    name: str
    note: str = ""


@dataclass(frozen=True)
class Look:
    """What the severity encoder says of one measurement, and what is true.

    decoded (1, C, H, W) is D(z_hat), clipped to [-1, 1]; sbar the true latent error.
    """

    picture: Picture
    degradation: str
    t: float
    measurement: Measurement
    severity: Severity
    decoded: Tensor
    sbar: float

    @property
    def sigma_hat(self) -> float:
        return float(self.severity.sigma_hat[0])

    @property
    def images(self) -> dict[str, Tensor]:
        """Images (1, C, H, W) by what they are, in the order in which they are shown."""
        return {"clean": self.picture.x, "measured": self.measurement.y, "D(ẑ)": self.decoded}


@dataclass(frozen=True)
class Plan:
    """How to walk. budget: mean evaluations per image, one of :meth:`Explorer.budgets`, or None for the paper's long walk.

    solver: one of :meth:`Explorer.solvers`; rule: one of :meth:`Explorer.rules`; index: where to start, None to let the
    rule say it.
    """

    budget: str | None
    solver: str
    rule: str
    index: int | None = None


class Explorer:
    """The models of the study in ``folder`` and images to look at, loaded once.

    ``known``: what can be shown, by name (:class:`flashdiff.explore.encoders.Known`); ``hidden``: name -> a sentence on
    how to get what cannot. Images: the study's test split where it was made, else the examples that ship with the project.
    Raises FileNotFoundError or ValueError in one sentence where there is nothing to show.
    """

    def __init__(self, folder: str | Path = "."):
        self.folder = Path(folder)
        self.study = load(self.folder / "params.yaml")
        self.prior = Prior.from_pretrained(self.folder / "data/prior")
        self.known, self.hidden = find(self.folder, self.study, self.prior)
        if not self.known:
            raise FileNotFoundError(" ".join(self.hidden.values()))
        self._images, self._names = self._open_images()
        self._path = lru_cache(maxsize=8)(self._path_of)
        self._similar = lru_cache(maxsize=None)(self._held_against_truth)

    def _open_images(self) -> tuple[np.ndarray, list[str]]:
        splits, data = self.folder / "data/splits", self.study.data
        if (splits / "splits.json").is_file():
            images = open_split(splits, "test").images
            return images, [f"test image {k}" for k in range(len(images))]
        files = sorted((self.folder / self.study.root / EXAMPLES).glob("*.png"))
        if data.images is not None or data.name != "fashion-mnist":
            files = []  # the prior knows other images
        shape = data.channels, data.image_size, data.image_size
        images = [read_image(path, data.image_size, data.channels) for path in files]
        names = [f"test image {int(number)}, {words(kind.replace('-', '_'))}" for number, _, kind in
                 (path.stem.partition("-") for path in files)]  # fmt: skip
        return np.array(images, dtype=np.uint8).reshape(-1, *shape), names

    @cached_property
    def distances(self) -> "Distances | None":
        """What the perceptual distance is measured by: the prior's own classifier, None where it has none."""
        from flashdiff.measures.features import Features  # with scipy: nobody waits for it before something is restored

        folder = self.folder / "data/prior/features"
        return Features.from_pretrained(folder).requires_grad_(False) if folder.is_dir() else None

    def __len__(self) -> int:
        """How many images there are to look at."""
        return len(self._images)

    def picture(self, number: int) -> Picture:
        """The image of that number, 0..len - 1."""
        x = to_float(self._images[number : number + 1])
        return Picture(x, int(split_ids("test", number + 1)[-1]), self._names[number])

    def own_picture(self, content: bytes, name: str) -> Picture:
        """A picture file of any size, made what the models take; ``note`` says how. ValueError in one sentence if unusable."""
        size, channels = self.study.data.image_size, self.study.data.channels
        try:
            opened = open_image(content, name)
        except ValueError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                kinds = "a PNG, JPEG, WebP, GIF or TIFF file"
                raise ValueError(f"{name} is no picture that can be read; choose {kinds}.") from None
            raise
        width, height = opened.size
        changes = [f"{width} x {height} pixels"]
        if width != height:
            changes.append("the largest square in the middle taken")
        if (width, height) != (size, size):
            changes.append(f"resized to {size} x {size}")
        if channels == 1 and opened.image.mode != "L":
            changes.append("made grey")
        if opened.several:
            changes.append("the first of several pictures")
        return Picture(to_float(fit(opened.image, size, channels)[None]), OWN, name, ", ".join(changes))

    @torch.no_grad()
    def look(self, degradation: str, picture: Picture, t: float, noise_std: float | None = None) -> Look:
        """What the encoder says of a picture at level t in [0, 1]; noise_std in [-1, 1] units, by default the study's."""
        known = self.known[degradation]
        noise_std = known.noise_std if noise_std is None else noise_std
        measured = self._measure(known.degradation, picture, np.array([t]), noise_std)
        severity = known.encoder.infer(measured.y)
        error = latent_error_variance(severity.z_hat, self.prior.encode(picture.x))
        return Look(
            picture,
            degradation,
            t,
            measured,
            severity,
            self.prior.decode(severity.z_hat).clamp(-1, 1),
            float(error.sqrt()[0]),
        )

    def path(self, look: Look) -> np.ndarray:
        """sigma_hat (len(LEVELS),) of the look's image along LEVELS, its noise the same at all of them."""
        return self._path(look.degradation, look.picture, look.measurement.noise_std)

    def _measure(self, degradation: Degradation, picture: Picture, t: np.ndarray, noise_std: float) -> Measurement:
        """One picture at all of the levels t (n,), with the same noise."""
        x = picture.x.expand(len(t), -1, -1, -1)
        ids = np.full(len(t), picture.id)
        return measure(x, degradation, torch.from_numpy(t), noise_std, seed=self.study.seed, ids=ids)

    @torch.no_grad()
    def _path_of(self, degradation: str, picture: Picture, noise_std: float) -> np.ndarray:
        known = self.known[degradation]
        measured = self._measure(known.degradation, picture, LEVELS, noise_std)
        return known.encoder.infer(measured.y).sigma_hat.double().numpy()

    def expected(self, degradation: str, sigma_hat: float) -> tuple[float, float] | None:
        """Between what the true error lies in 8 of 10 measurements whose predicted severity is about sigma_hat.

        Measured on up to 32 test images at levels and noise spread over what the encoder was trained on; None where the
        study has no images.
        """
        if not len(self):
            return None
        predicted, ratio = self._similar(degradation)
        nearest = np.argsort(np.abs(np.log(predicted / sigma_hat)))[:SIMILAR]
        low, high = np.quantile(ratio[nearest], [0.1, 0.9])
        return float(low * sigma_hat), float(high * sigma_hat)

    @torch.no_grad()
    def _held_against_truth(self, degradation: str) -> tuple[np.ndarray, np.ndarray]:
        """(sigma_hat, true error / sigma_hat) of measurements spread over levels and noise, two of every image."""
        known, n = self.known[degradation], min(32, len(self))
        x, ids = to_float(self._images[:n]), split_ids("test", n)
        truth, columns = self.prior.encode(x), []
        lowest, highest = known.trained_noise
        for draw, share in enumerate((0.25, 0.75), start=1):
            t = torch.from_numpy(np.random.default_rng(draw).permutation(n) + share) / n
            noise_std = lowest + share * (highest - lowest)
            y = measure(x, known.degradation, t, noise_std, seed=self.study.seed, ids=ids, draw=draw).y
            severity = known.encoder.infer(y)
            columns.append((severity.sigma_hat, latent_error_variance(severity.z_hat, truth).sqrt()))
        predicted, true = (torch.cat(column).double().numpy() for column in zip(*columns, strict=True))
        return predicted, true / predicted

    def table(self, images: Sequence[int], t: float) -> pd.DataFrame:
        """Degradations x images at level t, a row each: sigma_hat, the true error, and the start of the published rule."""
        rows = []
        for name in self.known:
            for number in images:
                look = self.look(name, self.picture(number), t)
                start = int(match_snr(self.prior, look.severity.variance)[0])
                rows.append((words(name), look.picture.name, look.sigma_hat, look.sbar, start))
        return pd.DataFrame(rows, columns=["degradation", "image", "σ̂", "true error", "start index"])

    def budgets(self, degradation: str) -> list[str]:
        """Mean evaluations per image for which walks of few steps were tuned."""
        return list(self._few_steps(degradation)[0])

    def solvers(self, degradation: str, budget: str | None) -> list[str]:
        """The solvers that can walk: of few steps those that were tuned, else all that are defined on the degradation."""
        if budget is not None:
            return list(self._few_steps(degradation)[0][budget])
        linear = self.known[degradation].degradation.linear
        kinds = [kind for kind, solver in SOLVERS.items() if linear or not solver.needs_adjoint]
        named = [name for name, entry in self.study.solvers.items() if entry.kind in kinds]
        return [*named, *(kind for kind in kinds if kind not in named)]

    def solver_label(self, name: str) -> str:
        """What readers call a solver."""
        kind = self._entry(name)["kind"]
        label = getattr(SOLVERS[kind], "label", SOLVERS[kind].__name__)
        return label if name == kind else f"{label} ({words(name)})"

    def rules(self, degradation: str, budget: str | None, solver: str) -> list[str]:
        """The start rules, first the one that was tuned for a walk of few steps."""
        if budget is None:
            return list(STARTS)
        tuned = self._few_steps(degradation)[0][budget][solver]["start"]["rule"]
        return [tuned, *(rule for rule in STARTS if rule != tuned)]

    def tuned_on(self, degradation: str, plan: Plan) -> str:
        """What the walk's step sizes were chosen on, in words."""
        name = degradation if plan.budget is None else self._few_steps(degradation)[1]
        if plan.budget is None and not self._chosen(degradation, plan.solver):
            return "not tuned: the solver's own defaults"
        return f"tuned on {words(name)} with noise {self.study.degradations[name].noise_std:g}"

    def flash(self, degradation: str, plan: Plan) -> Flash:
        """Flash as the study runs it, with what was tuned; ``plan.index`` does not enter."""
        parts = self.prior, self.known[degradation].encoder
        options = {"seed": self.study.seed, "progress": False}
        if plan.budget is not None:
            choice = self._few_steps(degradation)[0][plan.budget][plan.solver]
            if plan.rule == choice["start"]["rule"]:
                return few_step_of(*parts, choice, **options)
            return flash_of(*parts, choice["solver"], {"solver": {}, "start": {}}, plan.rule, **options)
        chosen = self._chosen(degradation, plan.solver)
        choice = chosen.get(flash_method(plan.rule)) or {
            **chosen.get(flash_method("published"), {"solver": {}}),
            "start": {},
        }
        return flash_of(*parts, self._entry(plan.solver), choice, plan.rule, **options)

    def baseline(self, degradation: str, plan: Plan, steps: int | None = None) -> FullLength:
        """The solver from pure noise: as the study runs it, or in ``steps`` evenly spaced ones where its walk has more.

        Beside a walk of few steps: the study's first solver of the degradation.
        """
        name = plan.solver if plan.budget is None else self._pairs(degradation)[0][1]
        chosen = self._chosen(degradation, name).get("full_length", {"solver": {}})
        solver = build(self._entry(name), **chosen["solver"])
        if steps is not None and steps < len(solver.walk(self.prior, solver.walk.first(self.prior))):
            solver = replace(solver, walk=EvenlySpaced(steps))
        return FullLength(self.prior, solver, seed=self.study.seed, progress=False)

    def start(self, flash: Flash, severity: Severity) -> int:
        """The index at which the walk of a measurement with this severity begins."""
        return int(flash.start.index(self.prior, severity.variance)[0])

    def moved(self, flash: Flash, severity: Severity, index: int) -> tuple[Flash, Severity]:
        """The same walk from another index: the rule does what it would do if the encoder had said so.

        Returns Flash and the severity that makes it begin there.
        """
        start = flash.start
        share = getattr(start, "k", getattr(start, "share", 1.0))  # what a rule multiplies the variance with
        abar = float(self.prior.abar[index])
        variance = torch.full_like(severity.variance, (1 - abar) / abar / share)
        start = replace(start, lowest=0) if isinstance(start, ScaledStart) else start
        return replace(flash, start=start), Severity(severity.z_hat, variance)

    def steps(self, flash: Flash, index: int) -> int:
        """Steps of the walk from that index, those of an inversion up to it included."""
        return len(flash.solver.walk(self.prior, index)) + int(flash.start.cost(torch.tensor([index]))[0])

    def _entry(self, solver: str) -> dict:
        """The study's entry of a solver, or, of one that it does not have, its defaults."""
        return self.study.solvers[solver].model_dump() if solver in self.study.solvers else {"kind": solver}

    def _pairs(self, degradation: str) -> list[tuple[str, str]]:
        """(name, solver) of the study's pairs, first those of this degradation."""
        pairs = sorted(self.study.pairs.items(), key=lambda item: item[1].degradation != degradation)
        return [(name, pair.solver) for name, pair in pairs]

    def _chosen(self, degradation: str, solver: str) -> dict:
        """Method -> what was tuned for it; empty where nothing was."""
        record = self.folder / f"data/tuned/{degradation}-{solver}.json"
        return read_json(record)["chosen"] if record.is_file() else {}

    def _few_steps(self, degradation: str) -> tuple[dict[str, dict[str, dict]], str]:
        """(budget -> solver -> setting, the degradation it was tuned on): this one where it was, else the study's first.

        Of the settings that were tuned for one budget, those in perceptual distance, as :class:`flashdiff.pipeline.FlashPipeline`
        has them; of one start for all images none.
        """
        for name, _ in self._pairs(degradation):
            record = self.folder / f"data/tuned/budgets-{name}.json"
            if record.is_file():
                few: dict[str, dict[str, dict]] = {}
                for budget, methods in read_json(record)["chosen"].items():
                    settings = [best["perceptual"] for best in methods.values()]
                    adaptive = [choice for choice in settings if choice["start"]["rule"] != "fixed"]
                    few[budget] = {choice["solver"]["kind"]: choice for choice in reversed(adaptive)}
                    few[budget] = dict(reversed(few[budget].items()))  # of one kind the first counts
                return few, self.study.pairs[name].degradation
        return {}, ""


def in_words(degradation: Degradation, t: float, image_size: int) -> str:
    """What a level does to an image, with its unit; empty for a degradation without a number that says it."""
    d = degradation
    match type(d).__name__:
        case "GaussianBlur":
            return f"blur of {d.std_min + t * (d.std_max - d.std_min):.1f} pixels (standard deviation)"
        case "RandomInpainting":
            return f"{d.drop_max * t**d.exponent:.0%} of the pixels missing"
        case "BoxInpainting":
            side = d.side_max * t * image_size
            return f"a box of {side:.0f} x {side:.0f} pixels missing"
        case "MotionBlur" | "NonlinearBlur":
            return f"the camera moves by {d.length_min + t * (d.length_max - d.length_min):.1f} pixels"
        case "SuperResolution":
            return f"seen in cells {1 + t * (d.factor_max - 1):.1f} pixels wide"
    return ""
