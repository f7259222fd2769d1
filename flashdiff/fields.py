"""The fields of solvers, degradations, walks and start rules: their ranges stand in the dataclass, and only there.

A field is annotated as ``eta: Annotated[float, Field(ge=0, description="...")] = 1.0`` (pydantic's Field). The class
checks its objects by :func:`check_fields` in ``__post_init__``; the study's schema has its entries from the same
annotations (:mod:`flashdiff.study.schema`).
"""

from __future__ import annotations

import math
from dataclasses import fields
from functools import lru_cache
from numbers import Integral, Real
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError


def field_types(cls: type) -> dict[str, Any]:
    """The annotation of every field of a dataclass, in its order, with what ``Annotated`` adds."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


@lru_cache
def _ranges(cls: type) -> dict[str, TypeAdapter]:
    finite = ConfigDict(allow_inf_nan=False)
    types = field_types(cls).items()
    return {name: TypeAdapter(kind, config=finite) for name, kind in types if get_origin(kind) is Annotated}


LARGEST = 2.0**63
"""No number of a study reaches it: seeds are 64 bits wide, and float32 still holds its products with images."""


def check_fields(instance: object) -> None:
    """Raise ValueError (class, field, value, what it should be) unless every field is in its annotated range.

    A number is an int or a float, also numpy's, below :data:`LARGEST`: what only looks like one, as the text "1" or a bool, is
    refused, and so is 3.0 where an integer is wanted.
    """
    for name, adapter in _ranges(type(instance)).items():
        value = getattr(instance, name)
        try:
            read = adapter.validate_python(value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].replace("Input should", "it should")
        except Exception as error:  # of the value itself: a tensor of several entries, say
            wanted = f"it is of no use here ({' '.join(str(error).split())[:100]})"
        else:
            wanted = _wanted(value, read)
        if wanted:
            raise ValueError(f"{type(instance).__name__}: {name} is {shown(value)}; {wanted}.")


def shown(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= LARGEST:
        return f"{'-' if value < 0 else ''}10^{math.log10(abs(value)):.1f}"
    if isinstance(value, Real | str | None):
        return repr(value)[:100]
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"{name} of {value.dtype}" if hasattr(value, "dtype") else name


def _wanted(value: Any, read: Any) -> str:
    """What a value should be that pydantic takes for a number or a text, where it is none; empty where it is one."""
    if isinstance(read, str):
        return "" if isinstance(value, str) else "it should be a text"
    if isinstance(read, bool) or not isinstance(read, int | float):
        return ""
    if isinstance(value, bool) or not isinstance(value, Real):
        return "it should be a number"
    if isinstance(read, int) and not isinstance(value, Integral):
        return f"it should be an integer, as {read} is"
    return "" if abs(read) < LARGEST else "it should be below 2^63"
