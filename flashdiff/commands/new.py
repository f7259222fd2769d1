"""`flashdiff new`: a study for a folder of images, as a copy of the default study with what those images ask for."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageChops

from flashdiff.commands.studies import repository
from flashdiff.datasets.folder import image_names
from flashdiff.datasets.images import open_image
from flashdiff.messages import say
from flashdiff.study.schema import StudyError, load

SIZES = (16, 32, 64, 128, 256)
LARGEST = 64
"""Of the sizes that are chosen unasked: at 128 pixels the prior alone trains for a day on two cores."""
LOOKED_AT = 200
"""Images that are opened to choose size and colour, evenly spread over their names."""
FEWEST = 50
"""Images below which no prior is worth its training; the schema needs 10 test images for its correlations."""
PASSES, FEWEST_STEPS = 24, 2000
"""Of the default study's denoiser over its images; a training of fewer steps is not over its warm-up."""
ENCODER_STEPS, FEWEST_ENCODER_STEPS = 2500, 40
"""Of the severity encoder, which takes as many passes, at most and at least. On 420 images 24 passes leave its severity at 0.95
of the true error of images that it has not seen; 49 at 0.75 and 0.81, 380 at 0.19: it has learnt its images by heart."""


@dataclass(frozen=True)
class Choice:
    """One value of the new study file, by its dotted name, and why it is that."""

    field: str
    value: Any
    why: str


def new(
    name: str, images: Path, *, image_size: int | None = None, channels: int | None = None,
    validation: int | None = None, test: int | None = None, root: Path | None = None,
) -> str:  # fmt: skip
    """Make studies/NAME (params.yaml, dvc.yaml) in the repository ``root``; returns one line on how to run it.

    What is given is taken, the rest chosen from the images; every choice is said. Raises StudyError: all problems at once.
    """
    root = repository() if root is None else root
    folder = root / "studies" / name
    problems = []
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        problems.append(
            f"study: {name!r} is not valid: use small letters and digits, and after the first _ and -, too."
        )
    elif folder.exists() or name == load(root / "params.yaml").study:
        problems.append(f"study: {name} is there already, and stays as it is; give another name, or remove its folder.")
    names = image_names(images) if images.is_dir() else []
    if not images.is_dir():
        problems.append(f"images: {images}: there is no such folder.")
    elif len(names) < FEWEST:
        problems.append(
            f"images: {images} holds {len(names)} images, too few to train a prior; give at least {FEWEST}."
        )
    for field, value, known in (("channels", channels, (1, 3)),):
        if value is not None and value not in known:
            problems.append(f"data.{field}: {value} is not valid: give 1 (grey) or 3 (colour).")
    if image_size is not None and (image_size < 16 or image_size % 8):
        problems.append(f"data.image_size: {image_size} is not valid: give a multiple of 8 from 16 on.")
    for field, value, fewest in (("validation", validation, 4), ("test", test, 10)):
        if value is not None and value < fewest:
            problems.append(f"data.{field}: {value} is not valid: give at least {fewest}.")
    if names and (validation or 0) + (test or 0) >= len(names):
        problems.append(
            f"data.test: {len(names)} images are too few for so many test and validation images; lower them."
        )
    if problems:
        raise StudyError("\n".join(problems))
    sides, coloured = look_at(images, names)
    given = {"image_size": image_size, "channels": channels, "validation": validation, "test": test}
    chosen = choices(name, images.resolve(), folder, len(names), sides, coloured, given)
    _write(root, folder, chosen)
    shown = os.path.relpath(folder / "params.yaml", Path.cwd())
    say(f"{shown if not shown.startswith('..') else folder / 'params.yaml'}: as the default study, but")
    for choice in chosen:
        if choice.why:
            say(f"  {choice.field}: {choice.value}  - {choice.why}")
    return f"Ready: `make study STUDY={name}`; every value can be changed in its params.yaml before."


def look_at(folder: Path, names: Sequence[str]) -> tuple[list[int], int]:
    """(shorter sides in pixels, how many have colours) of up to LOOKED_AT images; StudyError names those that are broken."""
    sides, coloured, broken = [], 0, []
    step = max(1, len(names) // LOOKED_AT)
    for name in names[::step]:
        try:
            opened = open_image(folder / name, f"images: {folder / name}", smallest=64)
            sides.append(min(opened.size))
            red, green, blue = opened.image.convert("RGB").resize((64, 64)).split()
            spread = max(ImageChops.difference(a, b).getextrema()[1] for a, b in ((red, green), (green, blue)))
            coloured += spread > 16  # of 255: JPEG leaves a trace of colour in grey pictures
        except ValueError as error:
            broken.append(str(error))
    if broken:
        raise StudyError("\n".join(broken))
    return sides, coloured


def choices(
    name: str, images: Path, folder: Path, n: int, sides: Sequence[int], coloured: int, given: dict[str, int | None]
) -> list[Choice]:
    """What the new study says otherwise than the default study, for n images; ``given`` wins, where it is not None."""
    small = sorted(sides)[len(sides) // 10]  # nine of ten are at least as large
    size = given["image_size"] or max([s for s in SIZES if s <= min(small, LARGEST)], default=SIZES[0])
    channels = given["channels"] or (3 if coloured > len(sides) / 20 else 1)
    test = given["test"] or min(1000, max(10, n // 5))
    validation = given["validation"] or min(1000, max(4, n // 10))
    train = n - test - validation

    def steps(default: int, batch: int, fewest: int = FEWEST_STEPS) -> int:
        return min(default, max(fewest, PASSES * train // batch))

    def why(field: str, reason: str) -> str:
        return "as you said" if given[field] else reason

    hours = 2 * (size / 32) ** 2 * steps(14000, 96) / 14000
    time = f"about {hours:.0f} hours on two cores" if hours >= 1.5 else f"about {60 * hours:.0f} minutes on two cores"
    few = "FID needs 1000 test images and will be left out" if test < 1000 else "enough for a Frechet distance"
    n_test, n_validation = min(64, test), min(64, validation)
    values = [
        ("study", name, ""),
        ("root", "../..", ""),
        ("data.name", name, ""),
        (
            "data.images",
            Path(os.path.relpath(images, folder)).as_posix(),
            f"{n} image files, relative to the study's folder",
        ),
        (
            "data.image_size",
            size,
            why("image_size", f"nine of ten images have at least {small} pixels on their shorter side"),
        ),
        ("data.channels", channels, why("channels", f"{coloured} of {len(sides)} images looked at have colours")),
        ("data.test", test, why("test", f"a fifth, at most 1000; {few}")),
        ("data.validation", validation, why("validation", f"a tenth, at most 1000; {train} are left to train on")),
        ("prior.autoencoder.steps", steps(8000, 64), ""),
        ("prior.denoiser.steps", steps(14000, 96), f"{PASSES} passes over {train} images, 2000 to 14000; {time}"),
        ("prior.card_samples", min(1000, train), ""),
        ("severity.init", "data/prior/vae", "your prior's own encoder: the shipped one knows garments"),
        (
            "severity.architecture",
            {"channels": [96, 160], "layers": 2},
            "corrects that encoder, as the shipped one does",
        ),
        (
            "severity.steps",
            steps(ENCODER_STEPS, 64, FEWEST_ENCODER_STEPS),
            f"{PASSES} passes over {train} images, {FEWEST_ENCODER_STEPS} to {ENCODER_STEPS}; after more it knows them by heart",
        ),
        ("severity.learning_rate", 0.001, ""),
        ("severity.ema", 0.998, ""),
        ("degradations.gaussian_blur.std_max", round(3.5 * size / 32, 3), "pixels; 3.5 at 32 x 32"),
        ("degradations.gaussian_blur.radius", size // 2, ""),
        ("ordering.n_images", min(1000, test), ""),
        ("correlation.n_images", min(2000, test), ""),
        ("tune.n_images", min(16, validation), ""),
        ("reconstruction.n_images", n_test, "test images per comparison"),
        ("budgets.n_images", min(256, test), ""),
        ("budgets.tune.n_images", n_validation, ""),
        ("other_seeds", [], "intervals are over images alone"),
        ("ablation.steps", [], "the default study's trainings of other encoders are not repeated"),
        ("ablation.n_images", min(500, validation), ""),
        ("robustness.n_images", min(128, test), ""),
        ("robustness.encoder_images", min(300, test), ""),
        *((f"robustness.{name}", [], "") for name in ("noise", "unseen", "lambda_sigma", "corrections")),
        ("robustness.starts", {}, ""),
        ("robustness.one_for_all", False, "the default study's experiments on robustness are not repeated"),
        ("confidence.n_images", 0, "no prediction intervals; validation images to calibrate them on, as in 2000"),
        ("confidence.walked", 0, "of them, by few steps, as in 1000"),
        ("confidence.restored", 0, "of them, as `flashdiff restore` does, as in 1000"),
        ("shift.n_images", 0, "shifts are not measured"),
        ("shift.walked", 0, ""),
        ("shift.operators", {}, ""),
        ("shift.unseen", False, ""),
        ("blind.n_images", 0, "restoring without the level is not measured"),
        ("blind.kinds", {}, ""),
        ("spread.n_images", 0, "no image is sampled several times"),
        ("spread.validation", min(16, validation), ""),
        ("calibrated.evaluations", [], "no start is calibrated"),
        ("calibrated.n_images", min(96, test), ""),
        ("calibrated.validation", min(64, validation), ""),
        ("calibrated.bins", 3 if validation >= 12 else 1, ""),
        ("allocation.n_images", 0, "what evaluations are worth by severity is not measured"),
        ("frechet.n_images", 0, "no Frechet distance of few steps; 1000 or more test images that walk"),
    ]
    return [Choice(*value) for value in values]


def _write(root: Path, folder: Path, chosen: Sequence[Choice]) -> None:
    """The folder appears whole, with a study file that the schema takes, or not at all."""
    from ruamel.yaml import YAML

    yaml = YAML()  # keeps the comments of the default study
    yaml.width = 155
    study = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    study.yaml_set_start_comment(
        f"{folder.name}: made by `flashdiff new`. Every field is described in flashdiff/study/schema.py."
    )
    for choice in chosen:
        *path, last = choice.field.split(".")
        section = study
        for part in path:
            section = section[part]
        section[last] = choice.value
        if choice.why:
            section.yaml_add_eol_comment(choice.why, last)
    for section, field, comment in (
        (study, "prior", "trained on your images"),
        (study, "tune", "on validation images"),
        (study, "ablation", "of the severity encoder's training; no steps: none"),
        (
            study,
            "robustness",
            "to a wrong noise level and unseen classes, and what single choices do; empty lists: none",
        ),
        (study, "confidence", "intervals of an image's quality from its severity alone"),
        (study["budgets"], "tune", "on validation images"),
    ):
        section.yaml_add_eol_comment(comment, field)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as place:
        made = Path(place) / "study"
        made.mkdir()
        with open(made / "params.yaml", "w", encoding="utf-8") as file:
            yaml.dump(study, file)
        load(made / "params.yaml")
        shutil.copy(root / "dvc.yaml", made / "dvc.yaml")
        made.rename(folder)
