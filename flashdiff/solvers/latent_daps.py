"""LatentDAPS: at falling noise levels, a sample of p(z0 | z_i, y) by MCMC, noised again to the next level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.degradations import Operator
from flashdiff.fields import check_fields
from flashdiff.solvers.base import Step
from flashdiff.walks import NoiseLevels, Walk

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior

torch = lazy.load("torch")


RHO = 7.0
"""Exponent of the rule by which the flow's levels are spaced: Karras et al. 2022, Eq. 5."""

PUBLISHED_LEVELS = NoiseLevels()
"""The published walk of latent runs: 50 levels from s = 10 to 0.1."""


@dataclass(frozen=True)
class LatentDAPS:
    """One noise level of LatentDAPS: flow down to a clean estimate, sample around it by MCMC, noise again to i_prev.

    In the variance-exploding picture the latent is z_i / sqrt(abar_i) = z0 + s_i eps, s_i^2 = (1 - abar_i) / abar_i.

    1. z0_hat: ``ode_steps`` Euler steps of the probability-flow ODE from s_i to 0, which are DDIM steps (stochasticity
       0) between indices. The k-th, k < ode_steps, ends at the index nearest to the power-7 rule between s_i and the
       smallest level, at ramp k / ode_steps; the last ends at clean. Where no index lies between (i = 0), a step stays
       where it is, so that every sample costs ``ode_steps`` evaluations.
    2. ``mcmc_steps`` Langevin steps from z = z0_hat on, with xi fresh in each:
       score = -grad_z ||y - A(D(z))||^2 / (2 tau^2) - (z - z0_hat) / s_i^2
       momentum None:  z <- z + h score + sqrt(2 h) xi
       momentum b:     v <- b v + sqrt(h) score + sqrt(2 (1 - b)) xi,  z <- z + sqrt(h) v,  v standard normal at first
    3. z_{i_prev} = sqrt(abar_{i_prev}) z + sqrt(1 - abar_{i_prev}) xi, which is z itself at i_prev = -1.

    tau > 0: standard deviation of the likelihood, in units of the [-1, 1] range; None takes the measurement's
    noise_std. momentum in [0, 1), 0 being plain Langevin as well. step_size: h at the largest level; it falls to
    ``decay`` h at the smallest, linearly in the ramp r of :class:`flashdiff.walks.NoiseLevels`, or for other walks in
    log s between a full-length run's first index and index 0. clip: bound on every entry of grad ||y - A(D(z))||^2,
    None for no bound. The defaults are the authors' for Gaussian blur; random inpainting: 38 steps, h 8.4e-6, momentum
    0.92, decay 0.013; nonlinear blur: 80, 3.7e-6, 0.91, 0.024.

    Source: Zhang et al. 2025 (DAPS), Alg. 1 and the part on latent diffusion. The authors' code leaves out the half in
    front of the data term (its tau acts as tau / sqrt(2) does here), clips as ``clip=1``, ends the ODE at its smallest
    level instead of at clean, and lets h fall with the count of levels, so that the last one has not quite reached
    ``decay`` h.
    """

    tau: Annotated[
        float | None, Field(gt=0, description="standard deviation of the likelihood; null: that of the noise")
    ] = 0.01
    mcmc_steps: Annotated[int, Field(ge=1, description="MCMC steps per level, each decodes once")] = 35
    step_size: Annotated[float, Field(gt=0, description="step h of the MCMC at the largest level")] = 2.7e-6
    momentum: Annotated[float | None, Field(ge=0, lt=1, description="null: plain Langevin")] = 0.95
    decay: Annotated[
        float, Field(gt=0, le=1, description="the step at the smallest level, as a share of the largest's")
    ] = 0.95
    clip: Annotated[float | None, Field(gt=0, description="bound on the entries of the data gradient")] = None
    ode_steps: Annotated[int, Field(ge=1, description="Euler steps of the flow per level, each an evaluation")] = 2
    walk: Walk = PUBLISHED_LEVELS
    needs_adjoint: ClassVar[bool] = False

    def __post_init__(self):
        check_fields(self)

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        with torch.no_grad():
            tau = operator.noise_std if self.tau is None else self.tau
            if tau == 0:
                raise ValueError("solver.tau: None takes the measurement's noise_std, which is 0; give a number > 0.")
            levels = ((1 - prior.abar[:-1]) / prior.abar[:-1]).sqrt()  # float64, rising with the index
            level = levels[i.to(levels.device)]
            z0_hat = self._flow(prior, levels, z, i)
            h = per_sample(self._step_size(prior, levels, level), z)
            pull = per_sample(1 / level**2, z).to(z.dtype)
            kick, root = h.to(z.dtype), h.sqrt().to(z.dtype)

            z0, velocity = z0_hat, None if self.momentum is None else noise(1)
            for k in range(self.mcmc_steps):
                score = -self._gradient(prior, operator, y, z0) / (2 * tau**2) - pull * (z0 - z0_hat)
                xi = noise(2 + k)
                if velocity is None:
                    z0 = z0 + kick * score + 2**0.5 * root * xi
                else:
                    velocity = self.momentum * velocity + root * score + (2 * (1 - self.momentum)) ** 0.5 * xi
                    z0 = z0 + root * velocity
            abar_prev = per_sample(prior.signal(i_prev), z)
            z_prev = abar_prev.sqrt().to(z.dtype) * z0 + (1 - abar_prev).sqrt().to(z.dtype) * noise(0)
            return Step(z_prev, self.ode_steps, decodes=self.mcmc_steps, gradients=self.mcmc_steps)

    def _flow(self, prior: Prior, levels: Tensor, z: Tensor, i: Tensor) -> Tensor:
        """z0_hat (B, c, h, w) from z at the indices i (B,); levels (N,)."""
        i = i.to(levels.device)
        top, bottom, at = levels[i] ** (1 / RHO), levels[0] ** (1 / RHO), i
        for k in range(1, self.ode_steps + 1):
            if k == self.ode_steps:
                to = torch.full_like(i, -1)
            else:
                target = (top + k / self.ode_steps * (bottom - top)) ** RHO
                to = (levels.log() - target.log()[:, None]).abs().argmin(1)
            z = prior.reverse(z, prior.predict_z0(z, at), at, to, torch.zeros_like(z), 0.0)
            at = to
        return z

    def _step_size(self, prior: Prior, levels: Tensor, level: Tensor) -> Tensor:
        """h (B,) at the noise levels ``level`` (B,)."""
        if isinstance(self.walk, NoiseLevels):
            first, last, here = (s ** (1 / self.walk.rho) for s in (self.walk.s_max, self.walk.s_min, level))
        else:
            first, last, here = levels[self.walk.first(prior)].log(), levels[0].log(), level.log()
        ramp = ((here - first) / (last - first)).clamp(0, 1)
        return self.step_size * (1 + ramp * (self.decay - 1))

    def _gradient(self, prior: Prior, operator: Operator, y: Tensor, z0: Tensor) -> Tensor:
        """grad ||y - A(D(z0))||^2 (B, c, h, w), clipped; samples do not interact, so the sum keeps them apart."""
        with torch.enable_grad():
            z0 = z0.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((y - operator.A(prior.decode(z0))).square().sum(), z0)
        return gradient if self.clip is None else gradient.clamp(-self.clip, self.clip)
