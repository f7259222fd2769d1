"""GML-DPS: LDPS that also keeps the clean estimate on the autoencoder's manifold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from flashdiff.batch import norms
from flashdiff.solvers.guided import Guided


@dataclass(frozen=True)
class GMLDPS(Guided):
    """z_{i-1} = z'_{i-1} - eta grad_z (||y - A(D(z0_hat))|| + gamma ||z0_hat - E(D(z0_hat))||), neither norm squared.

    The second term vanishes where decoding and encoding again lead back: many latents decode to nearly the same image,
    and the data alone do not choose among them. gamma >= 0: its weight (published 0.05); 0 is LDPS. The other fields
    are those of :class:`Guided` (eta published at 256 x 256: 3 to 10). Source: Rout et al. 2023 (PSLD, where it is the
    step before the final method); Fabian et al. 2024, appendix on baselines.
    """

    label = "GML-DPS"
    gamma: Annotated[float, Field(ge=0, description="weight of ||z0 - E(D(z0))||")] = 0.05
    encodes: ClassVar[int] = 1

    def objective(self, prior, operator, y, z0):
        x0 = prior.decode(z0)
        return norms(y - operator.A(x0)) + self.gamma * norms(z0 - prior.encode(x0))
