"""Solvers of the registry for tests of what surrounds them: their inner loops are short."""

from flashdiff.solvers import SOLVERS

INNER = ("mcmc_steps", "max_iterations", "iterations")
"""Fields that count what a solver does within a step."""


def brief(kind: str, **fields):
    """A solver whose inner loop has three steps; its other fields by default, or as given."""
    inner = {name: 3 for name in INNER if name in SOLVERS[kind].__dataclass_fields__}
    return SOLVERS[kind](**inner, **fields)
