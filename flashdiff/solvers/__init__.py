"""Baseline solvers, one reverse step each, and their registry. A new solver is one file and one line here."""

from collections.abc import Mapping

from flashdiff.solvers.base import Solver
from flashdiff.solvers.ldps import LDPS

SOLVERS: dict[str, type[Solver]] = {"ldps": LDPS}

__all__ = ["LDPS", "SOLVERS", "Solver", "build"]


def build(parameters: Mapping) -> Solver:
    """A study's solver entry -> solver: ``kind`` selects the class, the rest are its fields.

    Raises ValueError naming an unknown kind, TypeError from the dataclass for an unknown field.
    """
    fields = dict(parameters)
    kind = fields.pop("kind")
    if kind not in SOLVERS:
        raise ValueError(f"solvers: kind {kind!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    return SOLVERS[kind](**fields)
