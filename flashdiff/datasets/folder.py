"""Any folder of images: its files under their relative names."""

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

from flashdiff.datasets.collection import Collection, by_key, first_of, folder_of
from flashdiff.messages import say

# What counts as an image in a user's folder; what else lies there (labels, notes, archives) is counted.
IMAGE_SUFFIXES = frozenset((
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg",
    ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
))  # fmt: skip
HIDDEN = "hidden"
SUFFIX = "whose name does not end as an image's"
NO_FILE = "that are no files, or links to none"
CLOSED = "folders that may not be opened"
AGAIN = "links back to folders that are listed already"
"""Why something is left out; what a Mac writes beside a file, ._x.png, is hidden."""


def list_images(folder: str | Path) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the image files below ``folder``, relative to it and sorted; and reason -> names of what was left out.

    The suffix of a name tells an image, in small or capital letters. Links are followed, those to folders after all
    that lies here itself, and no folder is listed twice.
    """
    names: list[str] = []
    left: dict[str, list[str]] = {reason: [] for reason in (HIDDEN, SUFFIX, NO_FILE, CLOSED, AGAIN)}
    visited: set[str] = set()
    root = os.path.realpath(folder)

    def relative(path: str) -> str:
        return PurePath(path).relative_to(folder).as_posix()

    def closed(error: OSError) -> None:
        left[CLOSED].append(relative(error.filename))

    waiting = [str(folder)]
    while waiting:
        for parent, folders, files in os.walk(waiting.pop(0), onerror=closed):
            real = os.path.realpath(parent)
            if real in visited or (parent != str(folder) and (root + os.sep).startswith(real.rstrip(os.sep) + os.sep)):
                left[AGAIN].append(relative(parent))
                folders.clear()
                continue
            visited.add(real)
            hidden = [name for name in [*folders, *files] if name.startswith(".")]
            folders[:] = sorted(set(folders) - set(hidden))
            waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            left[HIDDEN] += [relative(os.path.join(parent, name)) for name in hidden]
            for name in set(files) - set(hidden):
                path = os.path.join(parent, name)
                if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
                    left[SUFFIX].append(relative(path))
                elif not os.path.isfile(path):
                    left[NO_FILE].append(relative(path))
                else:
                    names.append(relative(path))
    return sorted(names), {reason: sorted(of_it) for reason, of_it in left.items() if of_it}


def image_names(folder: str | Path) -> list[str]:
    """The names of :func:`list_images`; what was left out is counted and said."""
    names, left = list_images(folder)
    if left:
        parts = [f"{len(of_it)} {reason} ({first_of(of_it)})" for reason, of_it in left.items()]
        say(f"{folder}: {len(names)} images; left out: {'; '.join(parts)}.")
    return names


def named(entry: Mapping, field: str) -> Collection:
    """Every image file below ``entry["images"]``; its key, and a list's line, is the name relative to the folder."""
    folder = folder_of(entry, field)
    return Collection(field, str(folder), by_key(folder, image_names(folder), _key, field), _key, folder.joinpath)


def _key(name: str) -> str:
    # A Mac writes é as e and an accent, others as one letter: a list, and the split by names, must not depend on it.
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())
