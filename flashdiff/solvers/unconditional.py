"""Sampling from the prior through the one time loop: a solver that asks for no data, and the degradation that measures none."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from flashdiff.degradations.base import Degradation
from flashdiff.solvers.base import Step
from flashdiff.walks import EVERY_INDEX, Walk


@dataclass(frozen=True)
class Unconditional:
    """The ancestral step alone; it reconstructs nothing, so no study can choose it. Source: Ho et al. 2020, Alg. 2."""

    needs_adjoint: ClassVar[bool] = False
    walk: Walk = EVERY_INDEX

    @torch.no_grad()
    def step(self, prior, operator, y, z, i, i_prev, noise):
        return Step(prior.reverse(z, prior.predict_z0(z, i), i, i_prev, noise()))


@dataclass(frozen=True)
class Unmeasured(Degradation):
    """Images that nobody measured: y (B, 0)."""

    def prepare(self, t, image_shape, ids):
        return {}

    def apply(self, x, state):
        return x.new_empty(len(x), 0)
