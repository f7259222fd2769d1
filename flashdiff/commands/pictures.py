"""The pictures that a command is given: found and looked at before torch loads, read when they are needed."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from flashdiff.datasets.folder import image_names
from flashdiff.datasets.images import open_image, read_image, several_taken
from flashdiff.messages import say
from flashdiff.study.schema import StudyError


@dataclass(frozen=True)
class Picture:
    """An image file: ``name`` is what results are called, relative to the folder that was given."""

    name: str
    path: Path

    @property
    def result(self) -> str:
        """The file name of what is made of it."""
        return str(PurePosixPath(self.name).with_suffix(".png"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hexadecimal digits."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def id(self) -> int:
        """What keys the randomness of this image, whatever other images come with it: its name and content; below 2^48."""
        return int(hashlib.sha256(f"{self.digest}/{self.name}".encode(errors="surrogateescape")).hexdigest()[:12], 16)


def find(paths: Iterable[Path]) -> list[Picture]:
    """All images that are named, and all in the folders that are named, each once; StudyError lists every path that leads nowhere."""
    found: list[Picture] = []
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            names = image_names(path)
            found += [Picture(name, path / name) for name in names]
            problems += [] if names else [f"{path}: no image files in this folder; name one that has some."]
        elif path.is_file():
            found.append(Picture(path.name, path))
        else:
            problems.append(f"{path}: there is no such file or folder.")
    if problems:
        raise StudyError("\n".join(problems))
    once: dict[Path, Picture] = {}
    for picture in found:
        once.setdefault(picture.path.resolve(), picture)
    if len(once) < len(found):
        again = len(found) - len(once)
        say(f"{again} of {len(found)} names lead to a file that another one names, too: each file is taken once.")
    return list(once.values())


def check(pictures: Sequence[Picture], size: int, channels: int) -> str | None:
    """Decode them all: can the model take them? Returns what is to be said of what it does not see, None for nothing.

    size: height and width; channels: 1 or 3. Raises StudyError, a sentence for each of another size or unreadable (ten at
    most): a measurement that is resized is another degradation, and tiles of a picture are not what the prior knows.
    """
    problems, other, several = [], 0, []
    for picture in pictures:
        try:
            opened = open_image(picture.path, f"{picture.path}:")
        except ValueError as error:
            problems.append(str(error))
            continue
        width, height = opened.size
        other += (opened.image.mode == "RGB") != (channels == 3)
        several += [picture.name] if opened.several else []
        if (width, height) != (size, size):
            problems.append(
                f"{picture.path}: {width} x {height} pixels, but the model knows {size} x {size}; give images of that size, or "
                "make a study of yours with `flashdiff new`."
            )
    if len(problems) > 10:
        problems[10:] = [f"... and {len(problems) - 10} more."]
    if problems:
        raise StudyError("\n".join(problems))
    notes = [several_taken(several)] if several else []
    if other:
        grey = "made grey (luma), because the model knows one channel"
        what = grey if channels == 1 else "grey, and given to all 3 channels"
        notes.append(f"{other} of {len(pictures)} images: {what}.")
    return "\n".join(notes) or None


def find_masks(pictures: Sequence[Picture], given: Path, size: int) -> dict[str, Path]:
    """Picture's name -> its mask file; StudyError where one is missing or has another size.

    given: one file for all pictures, or a folder in which a mask is called as its picture, whatever the ending.
    """
    if not given.exists():
        raise StudyError(f"mask: {given}: there is no such file or folder.")
    if given.is_file():
        found = {picture.name: given for picture in pictures}
    else:
        by_stem = {_stem(name): given / name for name in image_names(given)}
        found = {p.name: by_stem[_stem(p.name)] for p in pictures if _stem(p.name) in by_stem}
    missing = [picture.name for picture in pictures if picture.name not in found]
    if missing:
        raise StudyError(
            f"mask: {given} has no mask for {len(missing)} of {len(pictures)} images, {missing[0]} the first; call each "
            "as its image."
        )
    check([Picture(path.name, path) for path in dict.fromkeys(found.values())], size, 1)
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def read(pictures: Sequence[Picture], size: int, channels: int) -> np.ndarray:
    """uint8 (B, channels, size, size); ValueError names a file that cannot be read."""
    return np.stack([read_image(picture.path, size, channels, str(picture.path)) for picture in pictures])


def write(image: np.ndarray, path: Path) -> None:
    """Write uint8 (C, H, W) as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(part, format="PNG")
    part.replace(path)
