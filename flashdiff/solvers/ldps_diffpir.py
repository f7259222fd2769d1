"""LDPSDiffPIR: guided steps, and a proximal one at the end of the walk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import lazy_loader as lazy
from pydantic import Field

from flashdiff.degradations import Operator
from flashdiff.solvers.base import COSTS, Noise, Step
from flashdiff.solvers.latent_diffpir import LatentDiffPIR
from flashdiff.solvers.ldps import LDPS

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior

torch = lazy.load("torch")


@dataclass(frozen=True)
class LDPSDiffPIR(LDPS):
    """:class:`LDPS` down to the last index of a walk, and from there to clean one step of :class:`LatentDiffPIR`.

    The gradient spreads what the data say to pixels that they do not show; the proximal step then makes the image agree
    with those that they do, better than any number of gradient steps. A walk of a single step is the proximal one alone.

    lam > 0, iterations >= 1: of the proximal step; the other fields are those of LDPS. Costs: a guided step one evaluation,
    one decode and one gradient; the last one evaluation, one decode and two encodes. Source: this project (docs/results.md).
    """

    lam: Annotated[float, Field(gt=0, description="variance of the decoded estimate's error where abar is 1/2")] = 3.0
    iterations: Annotated[int, Field(ge=1, description="of the proximal step, in pixels")] = 10

    def step(self, prior, operator, y, z, i, i_prev, noise):
        """One step as in :class:`flashdiff.solvers.base.Solver`."""
        last = i_prev < 0
        proximal = LatentDiffPIR(self.lam, self.iterations, self.stochasticity, self.walk)
        batch = (prior, operator, y, z, i, i_prev, noise)
        if bool(last.all()):
            return proximal.step(*batch)
        if not bool(last.any()):
            return super().step(*batch)
        return _join(last, proximal.step(*_rows(last, *batch)), super().step(*_rows(~last, *batch)))


def _rows(
    rows: Tensor, prior: Prior, operator: Operator, y: Tensor, z: Tensor, i: Tensor, i_prev: Tensor, noise: Noise
) -> tuple:
    """A step's arguments for some of the samples."""
    state = {name: value[rows] for name, value in operator.state.items()}
    part = Operator(operator.degradation, state, operator.noise_std)
    return prior, part, y[rows], z[rows], i[rows], i_prev[rows], lambda draw=0: noise(draw)[rows]


def _join(rows: Tensor, chosen: Step, others: Step) -> Step:
    """One step of the whole batch from that of the chosen rows (B,) and that of the others."""
    z = chosen.z.new_empty(len(rows), *chosen.z.shape[1:])
    z[rows], z[~rows] = chosen.z, others.z.to(z)
    return Step(z, **{name: torch.where(rows, getattr(chosen, name), getattr(others, name)) for name in COSTS})
