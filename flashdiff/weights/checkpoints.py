"""Published Lightning checkpoints as data: read without running anything in them, every tensor accounted for."""

import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiff.messages import without_advice


def _stand_in(name: str) -> type:
    """A class that takes the place of a global in a pickle, and does nothing with whatever it is given."""
    module, _, own = name.rpartition(".")
    body = {
        "__module__": module,
        "__new__": lambda cls, *_, **__: object.__new__(cls),
        "__init__": lambda *_, **__: None,
        "__setstate__": lambda *_: None,
    }
    return type(own, (), body)


STAND_INS = [
    _stand_in(name)
    for name in (
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
    )
]
"""What CompVis' checkpoints refer to beside tensors: the state of Lightning's callbacks, with scalars of numpy. None of
it is needed, so these names, and no others, get classes that do nothing."""


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The ``state_dict`` of a Lightning checkpoint, mapped from disk, and all that stands beside it.

    The suffix does not matter, nor whether the file has the format before torch 1.6 or half precision. Read as data: raises
    FileNotFoundError, or ValueError for a file that refers to code, is no checkpoint or holds no ``state_dict`` of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file '{path}'; give the path of the published .ckpt.")
    try:
        with torch.serialization.safe_globals(STAND_INS):
            # Files of the format before torch 1.6 are no zip archives, and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # bytes of another kind make the reader raise whatever they happen to
        reason = " ".join(str(error).split())
        if named := re.search(r"GLOBAL (\S+)", reason):
            raise ValueError(
                f"checkpoint: {path} refers to {named[1]}, which is neither a tensor nor plain data, and was not"
                " loaded; give the published file, or save its state_dict and its settings as tensors, dicts, lists,"
                " strings and numbers."
            ) from None
        if "legacy .tar format" in reason:
            raise ValueError(
                f"checkpoint: {path} is of the format before torch 0.1.10, which cannot be read as data; load it with the torch"
                " that it is from, and save its tensors with this one."
            ) from None
        reason = without_advice(reason)
        raise ValueError(
            f"checkpoint: {path} is not readable as tensors ({reason[:200]}); give the published .ckpt."
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"checkpoint: {path} holds no state_dict of named tensors; give the published .ckpt.")
    return state, {name: value for name, value in content.items() if name != "state_dict"}


def account(
    path: str | Path, state: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]], spare: Collection[str]
) -> None:
    """Raise ValueError unless the tensors are exactly those needed, in their shapes, and some of the spare ones."""
    lacking = [key for key in needed if key not in state]
    unknown = [key for key in state if key not in needed and key not in spare]
    other = [
        f"{key} {_times(state[key].shape)} instead of {_times(shape)}"
        for key, shape in needed.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = {"lacks": lacking, "holds unknown": unknown, "holds wrongly shaped": other}
    found = "; ".join(
        f"{what} {len(keys)} tensor{'s'[: len(keys) != 1]} ({_some(keys)})" for what, keys in problems.items() if keys
    )
    if found:
        raise ValueError(f"checkpoint: {path} {found}; give the published file, with the config that belongs to it.")


def _times(shape: Collection[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
