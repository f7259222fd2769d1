"""ReSample: DDIM without guidance, and now and then a clean estimate that is optimised until it explains the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.degradations import Operator
from flashdiff.fields import check_fields
from flashdiff.solvers.base import Step
from flashdiff.walks import Strided, Walk

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior

torch = lazy.load("torch")


PUBLISHED_WALK = Strided(2)
"""500 steps of 1000."""

BETAS, EPS = (0.9, 0.999), 1e-8
"""Adam's decay rates and denominator guard: its paper's, and PyTorch's defaults."""


@dataclass(frozen=True)
class ReSample:
    """A DDIM step (eta = 1) z_i -> z'_{i-1}; every k-th step and the last add hard data consistency and resampling.

    Hard consistency: z0* minimises ||y - A(.)||^2 from z0_hat(z_i) on, by Adam, until the mean squared residual is
    below noise_std^2. By the index, in shares of N: above ``chaotic_above`` nothing is done (the last step included),
    above ``semantic_above`` the image D(z0_hat) is optimised and encoded again, below it the latent, through D. Then,
    with i - 1 standing for i_prev,

        s^2 = g (1 - abar_{i-1}) / abar_i (1 - abar_i / abar_{i-1})
        z_{i-1} ~ N((s^2 sqrt(abar_i) z0* + (1 - abar_i) z'_{i-1}) / (s^2 + 1 - abar_i),
                    s^2 (1 - abar_i) / (s^2 + 1 - abar_i) I)

    which has no noise to add at i_prev = -1, and no weight left for z0*: the last step returns z0* itself.

    g >= 0: strength of the resampling (gamma in its paper; published 200 to 2000). every >= 1: k, in steps of the
    published walk, which are two indices each. A step is due when it leaves or passes a multiple of 2 ``every``
    indices, 0 included: in a walk of stride 2 each k-th step, counted from the clean end, so that walks from other
    starts, or with other strides, solve at the same places; a walk with longer strides than that does so at every step.
    learning_rate > 0 and max_iterations >= 1 are Adam's. walk: the indices visited.

    Source: Song et al. 2024 (ReSample), Alg. 1 and Prop. 1; Fabian et al. 2024, appendix on baselines, whose formula
    and numbers these are. Song et al. have abar of z' itself, abar_{i_prev}, where abar_i stands in the weights; where
    steps are short, that is nearly the same. The released code of Fabian et al. adds ||. - start||^2 to what Adam
    minimises (weight 1 in its published configurations), takes abar_{i-1} one index of the full schedule below although
    it walks by two, and resamples in the last step, too, which mixes z0* with z'.
    """

    g: Annotated[float, Field(ge=0, description="strength of the resampling")] = 400.0
    every: Annotated[int, Field(ge=1, description="hard data consistency at every so-many-th step of two indices")] = 10
    learning_rate: Annotated[float, Field(gt=0, description="Adam's")] = 0.1
    max_iterations: Annotated[int, Field(ge=1, description="Adam's, at most")] = 100
    chaotic_above: Annotated[
        float, Field(ge=0, le=1, description="share of the diffusion above which nothing is solved")
    ] = 0.75
    semantic_above: Annotated[
        float, Field(ge=0, le=1, description="share above which it is solved in pixels, below it in the latent")
    ] = 0.3
    walk: Walk = PUBLISHED_WALK
    needs_adjoint: ClassVar[bool] = False

    def __post_init__(self):
        check_fields(self)
        if self.semantic_above > self.chaotic_above:
            raise ValueError(
                f"ReSample: semantic_above is {self.semantic_above!r}; give at most chaotic_above, {self.chaotic_above!r}."
            )

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        with torch.no_grad():
            z0 = prior.predict_z0(z, i)
            z_next = prior.reverse(z, z0, i, i_prev, noise(0), 1.0)
            decodes = torch.zeros_like(i)
            consistent = self.is_consistent(i, i_prev, prior.n_steps)
            semantic = i > self.semantic_above * prior.n_steps
            in_pixels, in_latent = consistent & semantic, consistent & ~semantic
            for some, optimise in ((in_pixels, self._in_pixels), (in_latent, self._in_latent)):
                if bool(some.any()):
                    z0_star, decodes[some] = optimise(prior, _select(operator, some), y[some], z0[some])
                    resampled = self._resample(prior, z0_star, z_next[some], i[some], i_prev[some], noise(1)[some])
                    z_next[some] = resampled.to(z_next.dtype)
            return Step(z_next, 1, decodes=decodes, encodes=in_pixels.long(), gradients=decodes * in_latent)

    def is_consistent(self, i: Tensor, i_prev: Tensor, n_steps: int) -> Tensor:
        """Whether hard consistency is enforced on the way from i to i_prev (B,): bool (B,)."""
        period = PUBLISHED_WALK.stride * self.every
        due = i // period > i_prev // period  # rounded down: -1 lies below all multiples
        return due & (i <= self.chaotic_above * n_steps)

    def _in_pixels(self, prior: Prior, operator: Operator, y: Tensor, z0: Tensor) -> tuple[Tensor, Tensor]:
        x0 = prior.decode(z0).to(z0.dtype)  # under autocast it comes in half precision, too coarse for Adam's steps
        x0, _ = self._minimise(lambda x: x, operator, y, x0)
        return prior.encode(x0), torch.ones(len(z0), dtype=torch.int64, device=z0.device)

    def _in_latent(self, prior: Prior, operator: Operator, y: Tensor, z0: Tensor) -> tuple[Tensor, Tensor]:
        return self._minimise(prior.decode, operator, y, z0)

    def _minimise(
        self, decode: Callable[[Tensor], Tensor], operator: Operator, y: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Adam on ||y - A(decode(x))||^2 from ``start`` (B, ...), every sample until its own stop.

        Returns the minimisers, and the number of times that each sample was decoded: int64 (B,).
        """
        start = start.to(y.dtype)
        result, decodes = start.clone(), torch.zeros(len(start), dtype=torch.int64, device=start.device)
        at = torch.arange(len(start), device=start.device)  # the samples that go on: only these are decoded
        x, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
        for k in range(1, self.max_iterations + 1):
            # in full precision also under autocast: residuals near the noise are differences of nearly equal numbers
            with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
                x = x.detach().requires_grad_()
                squares = (y - operator.A(decode(x))).flatten(1).square()
                (gradient,) = torch.autograd.grad(squares.sum(), x)
            x = x.detach()
            decodes[at] += 1
            on = squares.detach().mean(1) >= operator.noise_std**2
            if not bool(on.all()):
                result[at[~on]] = x[~on]
                operator, y, at = _select(operator, on), y[on], at[on]
                x, mean, square, gradient = x[on], mean[on], square[on], gradient[on]
                if len(at) == 0:
                    break
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
            step = mean / (1 - BETAS[0] ** k) / ((square / (1 - BETAS[1] ** k)).sqrt() + EPS)
            x = x - self.learning_rate * step
        result[at] = x
        return result, decodes

    def _resample(
        self, prior: Prior, z0_star: Tensor, z_next: Tensor, i: Tensor, i_prev: Tensor, noise: Tensor
    ) -> Tensor:
        abar, abar_prev = per_sample(prior.signal(i), z_next), per_sample(prior.signal(i_prev), z_next)
        variance = self.g * (1 - abar_prev) / abar * (1 - abar / abar_prev)
        share = variance / (variance + 1 - abar)
        to = z_next.dtype
        mean = (share * abar.sqrt()).to(to) * z0_star + (1 - share).to(to) * z_next
        resampled = mean + (share * (1 - abar)).sqrt().to(to) * noise
        return torch.where(per_sample(i_prev, z_next) < 0, z0_star, resampled)


def _select(operator: Operator, some: Tensor) -> Operator:
    """The operator of the samples in the mask ``some`` (B,)."""
    return Operator(operator.degradation, {k: v[some] for k, v in operator.state.items()}, operator.noise_std)
