"""Baseline solvers, one reverse step each, and their registry. A new solver is one file and one line here."""

from collections.abc import Mapping

from flashdiff import walks
from flashdiff.solvers.base import Solver, Step, check
from flashdiff.solvers.gml_dps import GMLDPS
from flashdiff.solvers.latent_daps import LatentDAPS
from flashdiff.solvers.ldps import LDPS
from flashdiff.solvers.psld import PSLD
from flashdiff.solvers.resample import ReSample

SOLVERS: dict[str, type[Solver]] = {
    "ldps": LDPS,
    "gml_dps": GMLDPS,
    "psld": PSLD,
    "resample": ReSample,
    "latent_daps": LatentDAPS,
}

__all__ = ["GMLDPS", "LDPS", "PSLD", "SOLVERS", "LatentDAPS", "ReSample", "Solver", "Step", "build", "check"]


def build(parameters: Mapping, **fields) -> Solver:
    """A study's solver entry -> solver: ``kind`` selects the class, the rest are its fields, ``fields`` override them.

    ``walk`` is a section of its own (:func:`flashdiff.walks.build`); ``tune`` is not the solver's and is skipped, null is the solver's default. Raises
    ValueError naming an unknown kind, TypeError from the dataclass for an unknown field.
    """
    given = {name: value for name, value in parameters.items() if name != "tune" and value is not None} | fields
    kind = given.pop("kind")
    if kind not in SOLVERS:
        raise ValueError(f"solvers: kind {kind!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    if isinstance(given.get("walk"), Mapping):
        given["walk"] = walks.build(given["walk"])
    return SOLVERS[kind](**given)
