"""LDPS: diffusion posterior sampling with the image replaced by the decoded latent."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flashdiff.batch import norms


@dataclass(frozen=True)
class LDPS:
    """z_{i-1} = z'_{i-1} - eta grad_z ||y - A(D(z0_hat(z_i)))||_2, with z' the ancestral step; the norm is not squared.

    eta >= 0: step size (published at 256 x 256: 1 to 7). Source: Chung et al. 2023 (DPS), Alg. 1; Fabian et al. 2024,
    appendix on baselines.
    """

    eta: float = 1.0
    decodes_per_step: ClassVar[int] = 1

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0 = prior.predict_z0(z, i)
            residual = norms(y - operator.A(prior.decode(z0)))
            # Samples do not interact, so the gradient of the sum is every sample's own gradient.
            (gradient,) = torch.autograd.grad(residual.sum(), z)
        z, z0 = z.detach(), z0.detach()
        return prior.reverse(z, z0, i, i_prev, noise) - self.eta * gradient
