"""Any folder of images: its files under their relative names."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

from flashdiff.datasets.collection import Collection, folder_of

# What counts as an image in a user's folder; anything else there (labels, notes, archives) is passed over.
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
))  # fmt: skip


def image_names(folder: str | Path) -> list[str]:
    """Names of the image files below ``folder``, relative to it, sorted; hidden files and folders do not count."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = PurePath(parent).relative_to(folder).as_posix()
        for name in files:
            is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
            if is_image and os.path.isfile(os.path.join(parent, name)):  # not a link that leads nowhere
                names.append(name if below == "." else f"{below}/{name}")
    return sorted(names)


def named(entry: Mapping, field: str) -> Collection:
    """Every image file below ``entry["images"]``; its key, and a list's line, is the name relative to the folder."""
    folder = folder_of(entry, field)
    names = {name: name for name in image_names(folder)}
    return Collection(field, str(folder), names, lambda line: PurePosixPath(line).as_posix(), folder.joinpath)
