"""Baseline solvers, one reverse step each, and their registry. A new solver is one file and one line here."""

from collections.abc import Mapping

from flashdiff import walks
from flashdiff.solvers.base import COSTS, Solver, Step, check
from flashdiff.solvers.gml_dps import GMLDPS
from flashdiff.solvers.latent_daps import LatentDAPS
from flashdiff.solvers.latent_diffpir import LatentDiffPIR
from flashdiff.solvers.ldps import LDPS
from flashdiff.solvers.ldps_diffpir import LDPSDiffPIR
from flashdiff.solvers.psld import PSLD
from flashdiff.solvers.resample import ReSample

SOLVERS: dict[str, type[Solver]] = {
    "ldps": LDPS,
    "gml_dps": GMLDPS,
    "psld": PSLD,
    "resample": ReSample,
    "latent_daps": LatentDAPS,
    "latent_diffpir": LatentDiffPIR,
    "ldps_diffpir": LDPSDiffPIR,
}

__all__ = [
    "COSTS",
    "GMLDPS",
    "LDPS",
    "PSLD",
    "SOLVERS",
    "LDPSDiffPIR",
    "LatentDAPS",
    "LatentDiffPIR",
    "ReSample",
    "Solver",
    "Step",
    "build",
    "check",
]


def build(entry: Mapping, **fields) -> Solver:
    """A study's solver entry -> solver: ``kind`` selects the class, the rest are its fields, ``fields`` override them.

    ``walk`` is an entry of its own (:func:`flashdiff.walks.build`), null for the solver's. Raises ValueError naming an
    unknown kind or a field out of its range, TypeError from the dataclass for an unknown field.
    """
    given = {**entry, **fields}
    kind, walk = given.pop("kind"), given.pop("walk", None)
    if kind not in SOLVERS:
        raise ValueError(f"solvers: kind {kind!r} is unknown; choose one of {', '.join(SOLVERS)}.")
    if walk is not None:
        given["walk"] = walks.build(walk) if isinstance(walk, Mapping) else walk
    return SOLVERS[kind](**given)
