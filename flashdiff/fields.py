"""The fields of solvers, degradations, walks and start rules: their ranges stand in the dataclass, and only there.

A field is annotated as ``eta: Annotated[float, Field(ge=0, description="...")] = 1.0`` (pydantic's Field). The class
checks its objects by :func:`check_fields` in ``__post_init__``; the study's schema has its entries from the same
annotations (:mod:`flashdiff.study.schema`).
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
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


def check_fields(instance: object) -> None:
    """Raise ValueError (class, field, value, what it should be) unless every field is in its annotated range."""
    for name, adapter in _ranges(type(instance)).items():
        value = getattr(instance, name)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].replace("Input should", "it should")
            raise ValueError(f"{type(instance).__name__}: {name} is {value!r}; {wanted}.") from None
