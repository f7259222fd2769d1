"""Guided solvers: an unconditional reverse step, corrected by the gradient of an objective through denoiser and decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.degradations import Operator
from flashdiff.fields import check_fields
from flashdiff.solvers.base import Step
from flashdiff.walks import EVERY_INDEX, Walk

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior

torch = lazy.load("torch")


@dataclass(frozen=True)
class Guided(ABC):
    """z_{i_prev} = z'_{i_prev} - length grad_z f(z0_hat(z_i)); a subclass says what the objective f is.

    length "stride": eta sqrt(i - i_prev), with eta >= 0 the step size of one index. A step over s indices stands for s
    steps whose gradients nearly agree but whose effect on the sample the prior partly undoes in between; sqrt(s) is the
    scale at which strided walks were found to be as good as full ones (docs/decisions.md), and 1 at the published stride 1.
    length "polyak": eta f / ||grad_z f||^2 for every sample, which with eta = 1 would bring f to 0 were it linear (Polyak
    1987, his step for a known smallest value): for walks of few steps, each of which must correct as much as it can.
    stochasticity in [0, 1]: the underlying step, 1 ancestral (DDPM), 0 deterministic DDIM. walk: the indices visited.
    """

    eta: Annotated[float, Field(ge=0, description="step size: of one index, or relative to Polyak's step")] = 1.0
    stochasticity: Annotated[float, Field(ge=0, le=1, description="1 ancestral (DDPM) steps, 0 deterministic DDIM")] = (
        1.0
    )
    walk: Walk = EVERY_INDEX
    length: Annotated[Literal["stride", "polyak"], Field(description="how long a step along the gradient is")] = (
        "stride"
    )
    needs_adjoint: ClassVar[bool] = False
    encodes: ClassVar[int] = 0
    """How often the objective encodes."""

    def __post_init__(self):
        check_fields(self)

    @abstractmethod
    def objective(self, prior: Prior, operator: Operator, y: Tensor, z0: Tensor) -> Tensor:
        """What the gradient lowers, one number per sample (B,), at the clean estimate z0 (B, c, h, w); one decode, ``encodes`` encodes."""

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0 = prior.predict_z0(z, i)
            value = self.objective(prior, operator, y, z0)
            # Samples do not interact, so the gradient of the sum is every sample's own gradient.
            (gradient,) = torch.autograd.grad(value.sum(), z)
        z, z0 = z.detach(), z0.detach()
        if self.length == "polyak":
            square = gradient.flatten(1).square().sum(1)
            length = torch.where(square > 0, value.detach().to(z) / square, 0)
        else:
            length = (i - i_prev).to(z).sqrt()
        unconditional = prior.reverse(z, z0, i, i_prev, noise(), self.stochasticity)
        z_prev = unconditional - self.eta * per_sample(length, z) * gradient
        return Step(z_prev, evaluations=1, decodes=1, encodes=self.encodes, gradients=1)
