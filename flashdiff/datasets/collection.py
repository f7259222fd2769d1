"""Encoded images on disk, each under a key, and the lists that choose from them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashdiff.datasets.images import Content, ImageFile


@dataclass(frozen=True)
class Collection:
    """The images of a data set as it lies on disk.

    field: the section of the study file that asks for it, ``data`` or ``data.test_set``; messages begin with it.
    where: its place, a folder or an id. names: key of each image -> its name there, in the data set's own order; the
    same image has the same key in every layout. key_of: a line of a list -> the key of the image that it means, or None
    when it means none. content: name -> the encoded image.
    """

    field: str
    where: str
    names: Mapping[str, str]
    key_of: Callable[[str], str | None]
    content: Callable[[str], Content]

    def file(self, key: str) -> ImageFile:
        """The encoded image of a key."""
        name = self.names[key]
        return ImageFile(f"{self.field}.images", f"{self.where}/{name}", name, self.content(name))

    def places(self, keys: Iterable[str]) -> Iterator[str]:
        """Absolute paths of these images, links to their folder resolved: equal for the same image only."""
        root = os.path.realpath(self.where)
        return (f"{root}/{self.names[key]}" for key in keys)

    def choose(self, list_file: str | Path | None) -> list[str]:
        """The keys that a text file names, one image per line, in its order; all keys when there is no file.

        ValueError when the file is missing, empty, names an image twice, names one that is not there, or has a line
        that means no image; nothing is decoded yet.
        """
        if list_file is None:
            return list(self.names)
        path = Path(list_file)
        if not path.is_file():
            raise ValueError(f"{self.field}.list: there is no file {path}; give a text file with one image per line.")
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if not lines:
            raise ValueError(f"{self.field}.list: {path} is empty; name one image per line, or remove the field.")
        keys = {line: self.key_of(line) for line in lines}
        if unclear := [line for line in keys if keys[line] is None]:
            raise ValueError(
                f"{self.field}.list: {len(unclear)} lines of {path} have no number that tells the image "
                f"({first_of(unclear)}); write it before the suffix, as in 00001.jpg."
            )
        known, again = set(), []
        for line in lines:
            again += [line] if keys[line] in known else []
            known.add(keys[line])
        if again:
            raise ValueError(
                f"{self.field}.list: {len(again)} lines of {path} name an image that is named above them "
                f"({first_of(again)}); name each image once."
            )
        if missing := [line for line in lines if keys[line] not in self.names]:
            raise ValueError(
                f"{self.field}.list: {len(missing)} of the {len(lines)} images that {path} names are not in {self.where} "
                f"({first_of(missing)}); add them, or take them out of the list."
            )
        return [keys[line] for line in lines]


def first_of(items: Sequence[str]) -> str:
    """The first three of many, for a message."""
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def folder_of(entry: Mapping, field: str) -> Path:
    """``entry["images"]`` as a path; ValueError when it is no folder."""
    folder = Path(entry["images"])
    if not folder.is_dir():
        raise ValueError(f"{field}.images: {folder} is not a folder; give the path of a folder of images.")
    return folder


def by_key(folder: Path, names: Iterable[str], key_of: Callable[[str], str | None], field: str) -> dict[str, str]:
    """Key -> name of a folder's files; ValueError when a name has no key, or two have the same."""
    found: dict[str, str] = {}
    for name in names:
        key = key_of(name)
        if key is None:
            raise ValueError(
                f"{field}.images: {folder} holds {name}, whose name is no number as in 00001.jpg; move it elsewhere, or "
                "take layout folder."
            )
        if key in found:
            raise ValueError(
                f"{field}.images: {folder} holds image {key} twice, as {found[key]} and {name}; give the folder of one "
                "version, or remove one of the two."
            )
        found[key] = name
    return found
