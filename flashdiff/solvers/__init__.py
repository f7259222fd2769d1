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

    ``walk`` is a section of its own (:func:`flashdiff.walks.build`), null for the solver's; ``tune`` and ``corrections``
    are not the solver's and are skipped. Raises ValueError naming an unknown kind, TypeError from the dataclass for an unknown field.
    """
    given = {name: value for name, value in parameters.items() if name not in ("tune", "corrections")} | fields
    kind = given.pop("kind")
    if kind not in SOLVERS:
        raise ValueError(f"solvers: kind {kind!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    walk = given.pop("walk", None)
    if walk is not None:
        given["walk"] = walks.build(walk) if isinstance(walk, Mapping) else walk
    return SOLVERS[kind](**given)
