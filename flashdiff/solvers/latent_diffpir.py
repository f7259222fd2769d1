"""LatentDiffPIR: denoise, decode, move the image towards the data, encode, noise again; no gradient of any network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.degradations import Operator
from flashdiff.fields import check_fields
from flashdiff.solvers.base import Step
from flashdiff.walks import EVERY_INDEX, Walk

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")


@dataclass(frozen=True)
class LatentDiffPIR:
    """DiffPIR with the image replaced by the decoded latent: the data enter by a proximal step in pixels.

    With u = D(z0_hat(z_i)), and delta = lam (1 - abar_i) / abar_i for the variance of its error,

        x = argmin_x ||y - A(x)||^2 / (2 noise_std^2) + ||x - u||^2 / (2 delta)
        z0 = z0_hat + E(x) - E(u)

    and the unconditional step to i_prev starts from z_i and z0: with stochasticity 0, the default, it is
    sqrt(abar_{i_prev}) z0 + sqrt(1 - abar_{i_prev}) eps with eps = (z_i - sqrt(abar_i) z0) / sqrt(1 - abar_i). E(u) is
    subtracted so that what the autoencoder loses in a round trip cancels. The data term weighs delta / noise_std^2 times
    the other; without noise it is all that counts, and x is the image nearest to u among those that explain y best.

    lam > 0: variance of the error of u, in [-1, 1] units, where signal and noise of the diffusion are equal.
    iterations >= 1: of conjugate gradients where A is linear, one being exact for a mask of zeros and ones; elsewhere of
    gradient descent through A alone, where a step that does not lower the objective is not taken, and halves the steps of
    this sample that follow. stochasticity in [0, 1]: of the unconditional step, 1 is ancestral (DDPM). walk: the indices
    visited. A step costs one evaluation, one decode and two encodes.

    Source: Zhu et al. 2023 (DiffPIR), Alg. 1, whose lambda is 1 / lam, and whose zeta divides the noise otherwise than
    stochasticity does; Spagnoletti et al. 2025 (LATINO), for a proximal step between decoder and encoder.
    """

    lam: Annotated[float, Field(gt=0, description="variance of the decoded estimate's error where abar is 1/2")] = 0.3
    iterations: Annotated[int, Field(ge=1, description="of the proximal step, in pixels")] = 10
    stochasticity: Annotated[float, Field(ge=0, le=1, description="1 ancestral (DDPM) steps, 0 deterministic DDIM")] = (
        0.0
    )
    walk: Walk = EVERY_INDEX
    needs_adjoint: ClassVar[bool] = False

    def __post_init__(self):
        check_fields(self)

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        with torch.no_grad():
            z0 = prior.predict_z0(z, i)
            u = prior.decode(z0).to(z.dtype)
            abar = prior.signal(i)
            mu = operator.noise_std**2 * abar / (self.lam * (1 - abar))  # noise_std^2 / delta
            nearer = conjugate_gradients if operator.degradation.linear else gradient_descent
            # in full precision also under autocast: residuals near the noise are differences of nearly equal numbers
            with torch.autocast(u.device.type, enabled=False):
                x = nearer(operator, y, u, per_sample(mu, u).to(u.dtype), self.iterations)
            z0 = z0 + prior.encode(x).to(z.dtype) - prior.encode(u).to(z.dtype)
            z_prev = prior.reverse(z, z0, i, i_prev, noise(), self.stochasticity)
            return Step(z_prev, evaluations=1, decodes=1, encodes=2)


def conjugate_gradients(operator: Operator, y: Tensor, u: Tensor, mu: Tensor, iterations: int) -> Tensor:
    """argmin_x ||y - A x||^2 + mu ||x - u||^2 for linear A, every sample by itself: x (B, C, H, W).

    y (B, ...), u (B, C, H, W), mu (B, 1, 1, 1) >= 0. Solves (A^T A + mu I)(x - u) = A^T (y - A u) from x = u on, exactly
    after as many iterations as A^T A has distinct eigenvalues on the way there. With mu = 0 that leads to the solution
    nearest to u.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(1), a)

    residual = operator.AT(y - operator.A(u))
    x, direction, square = u, residual, dot(residual, residual)
    # What is below rounding has no direction: where A^T A is singular and mu = 0, to go on would divide zero by zero.
    converged = (16 * torch.finfo(u.dtype).eps) ** 2 * square
    for _ in range(iterations):
        on = square > converged
        image = operator.AT(operator.A(direction)) + mu * direction
        length = torch.where(on, square / torch.where(on, dot(direction, image), 1), 0)
        x, residual = x + length * direction, residual - length * image
        before, square = square, dot(residual, residual)
        direction = residual + torch.where(on, square / torch.where(on, before, 1), 0) * direction
    return x


def gradient_descent(operator: Operator, y: Tensor, u: Tensor, mu: Tensor, iterations: int) -> Tensor:
    """Descent on ||y - A(x)||^2 + mu ||x - u||^2 from x = u on, for differentiable A, every sample by itself.

    Shapes as in :func:`conjugate_gradients`. The first step, 1 / (1 + mu) along half the gradient, is right where A
    keeps lengths; what it does not lower is not taken, so no iteration makes the objective larger.
    """

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        """The objective (B, 1, 1, 1) and half its gradient."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            misfit = per_sample((y - operator.A(x)).abs().square().flatten(1).sum(1), x)
            value = misfit + mu * per_sample((x - u).square().flatten(1).sum(1), x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient / 2

    x, length = u, 1 / (1 + mu)
    value, gradient = look(x)
    for _ in range(iterations):
        trial = x - length * gradient
        new, slope = look(trial)
        # What would gain less than the objective's own rounding is not taken: chance would decide.
        gain = length * per_sample(gradient.square().flatten(1).sum(1), x)
        lower = (new < value) & (gain > 1e3 * torch.finfo(x.dtype).eps * value)
        x, value, gradient = (torch.where(lower, a, b) for a, b in ((trial, x), (new, value), (slope, gradient)))
        length = torch.where(lower, length, length / 2)
    return x
