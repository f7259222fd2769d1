"""Data sets of the Hugging Face Hub, or folders in their formats, by the library datasets.

They are read as memory-mapped tables (in the library's cache, below HF_HOME), not as streams: a study needs their
length and single rows. The library hands out the encoded files, so that every source is decoded by the same code.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

from flashdiff.datasets.collection import Collection, first_of
from flashdiff.datasets.folder import IMAGE_SUFFIXES, SUFFIX
from flashdiff.datasets.images import Content
from flashdiff.datasets.numbered import number
from flashdiff.messages import say


def hugging_face(entry: Mapping, field: str) -> Collection:
    """The rows of one split, in their order; their numbers, from 0, are their keys.

    entry: images (an id as owner/name, or a folder), split ("train" where it is None) and column
    (where it is None, the only one that holds images). ValueError when any of them is not there.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{field}.layout: hugging_face needs the package datasets, which is not installed; run `pip install datasets`."
        ) from None
    where, split, column = str(entry["images"]), entry.get("split"), entry.get("column")
    try:
        if any((Path(where) / name).is_file() for name in ("state.json", "dataset_dict.json")):  # save_to_disk's own
            table = datasets.load_from_disk(where)
            if isinstance(table, datasets.DatasetDict):
                table = table[split or "train"]
            elif split is not None:
                raise LookupError("it was saved as one split; remove the field split")
        else:
            table = _loaded(where, split or "train")
    except Exception as error:  # network, unknown id, unknown split, damaged files: many classes, one remedy
        told = error.__cause__ or error  # the library's own words for a cause are "An error occurred"
        reason = " ".join(str(told).split())
        raise ValueError(
            f"{field}.images: {where}, split {split or 'train'}, cannot be loaded by the library datasets "
            f"({type(told).__name__}: {reason}); check id, split and network, or download it and give the folder."
        ) from error
    pictures = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if column is None and len(pictures) != 1:
        raise ValueError(
            f"{field}.column: {where} has {len(pictures)} columns of images ({first_of(pictures)}) among "
            f"{', '.join(table.column_names)}; name the one to use."
        )
    if column is not None and column not in pictures:
        raise ValueError(
            f"{field}.column: {column!r} is no column of images of {where}; take one of {', '.join(pictures)}."
        )
    column = column or pictures[0]
    rows = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def content(row: str) -> Content:
        picture = rows[int(row)][column] or {"bytes": b""}  # an empty cell is an image that cannot be read
        return _content(picture["path"]) if picture["bytes"] is None else picture["bytes"]

    place = f"{where}[{split or 'train'}]"
    others = _others(rows, column)
    if others:
        shown = first_of(list(others.values()))
        say(f"{place}: {len(rows) - len(others)} images; left out: {len(others)} {SUFFIX} ({shown}).")
    names = {str(row): str(row) for row in range(len(rows)) if row not in others}
    return Collection(field, place, names, number, content)


def _loaded(where: str, split: str) -> Any:
    """The table of a split; without labels where the library cannot make them of the folders in an archive."""
    import datasets

    try:
        return datasets.load_dataset(where, split=split)
    except Exception:
        if not Path(where).is_dir():
            raise
        try:
            return datasets.load_dataset(where, split=split, drop_labels=True)
        except Exception:
            pass  # the first error says more
        raise


def _others(rows: Any, column: str) -> dict[int, str]:
    """Row -> name of what is no image: of an archive the library lists every file."""
    import pyarrow.compute

    paths = pyarrow.compute.struct_field(rows.data.column(column), "path").to_pylist()
    inside = {
        row: path[len(_ZIP) :].partition("::")[0] for row, path in enumerate(paths) if (path or "").startswith(_ZIP)
    }
    return {row: name for row, name in inside.items() if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES}


_ZIP = "zip://"
"""How fsspec begins the name of a file in an archive: zip://NAME::ARCHIVE."""


def _content(path: str) -> Content:
    if not path.startswith(_ZIP):
        return Path(path)
    name, _, archive = path.removeprefix(_ZIP).partition("::")
    return partial(_from_archive, archive, name)


def _from_archive(archive: str, name: str) -> bytes:
    return _archive(archive).read(name)


@lru_cache(maxsize=16)
def _archive(path: str) -> ZipFile:
    return ZipFile(path)  # its table of contents is read once, not for every image
