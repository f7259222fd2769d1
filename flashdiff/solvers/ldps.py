"""LDPS: diffusion posterior sampling with the image replaced by the decoded latent."""

from dataclasses import dataclass

from flashdiff.batch import norms
from flashdiff.solvers.guided import Guided


@dataclass(frozen=True)
class LDPS(Guided):
    """z_{i-1} = z'_{i-1} - eta grad_z ||y - A(D(z0_hat(z_i)))||_2, with z' the ancestral step; the norm is not squared.

    eta: step size (published at 256 x 256: 1 to 7); the other fields are those of :class:`Guided`. Source: Chung et al.
    2023 (DPS), Alg. 1; Fabian et al. 2024, appendix on baselines.
    """

    def objective(self, prior, operator, y, z0):
        return norms(y - operator.A(prior.decode(z0)))
