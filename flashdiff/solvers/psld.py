"""PSLD: GML-DPS whose manifold term sees the image with its measured part replaced by the measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from flashdiff.batch import norms
from flashdiff.solvers.guided import Guided


@dataclass(frozen=True)
class PSLD(Guided):
    """z_{i-1} = z'_{i-1} - eta grad_z (||y - A x|| + gamma ||z0_hat - E(A^T y + x - A^T A x)||), with x = D(z0_hat).

    For a mask A, A^T y + x - A^T A x is x with its measured pixels taken from y. Linear degradations only. gamma >= 0:
    weight of the second norm (published at 256 x 256: 0.1 and 0.2 for Gaussian blur, 0.5 for random inpainting); the
    other fields are those of :class:`Guided` (eta published: 2 and 10). Source: Rout et al. 2023, Alg. 2; Fabian et al.
    2024, appendix on baselines.
    """

    gamma: Annotated[float, Field(ge=0, description="weight of ||z0 - E(A^T y + D(z0) - A^T A D(z0))||")] = 0.2
    needs_adjoint: ClassVar[bool] = True
    encodes: ClassVar[int] = 1

    def objective(self, prior, operator, y, z0):
        x0 = prior.decode(z0)
        residual = y - operator.A(x0)
        # A^T y + x - A^T A x, with A^T taken once
        corrected = x0 + operator.AT(residual)
        return norms(residual) + self.gamma * norms(z0 - prior.encode(corrected))
