"""Data sets of the Hugging Face Hub, or folders in their formats, by the library datasets.

They are read as memory-mapped tables (in the library's cache, below HF_HOME), not as streams: a study needs their
length and single rows. The library hands out the encoded files, so that every source is decoded by the same code.
"""

from collections.abc import Mapping
from pathlib import Path

from flashdiff.datasets.collection import Collection, first_of
from flashdiff.datasets.numbered import number


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
            table = datasets.load_dataset(where, split=split or "train")
    except Exception as error:  # network, unknown id, unknown split, damaged files: many classes, one remedy
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{field}.images: {where}, split {split or 'train'}, cannot be loaded by the library datasets "
            f"({type(error).__name__}: {reason}); check id, split and network, or download it and give the folder."
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

    def content(row: str) -> Path | bytes:
        picture = rows[int(row)][column] or {"bytes": b""}  # an empty cell is an image that cannot be read
        return Path(picture["path"]) if picture["bytes"] is None else picture["bytes"]

    names = {str(row): str(row) for row in range(len(rows))}
    return Collection(field, f"{where}[{split or 'train'}]", names, number, content)
