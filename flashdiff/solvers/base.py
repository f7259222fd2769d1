"""What every solver is: one pure reverse step on a batch whose samples may stand at different indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from flashdiff.degradations import Degradation, Operator
from flashdiff.walks import Walk

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior


class Step(NamedTuple):
    """What one step returns: the next latent, and what it cost.

    z (B, c, h, w): z_{i_prev}, detached. The rest are costs per sample, one number for all or int64 (B,). evaluations,
    decodes, encodes: how often denoiser, decoder and encoder were asked, with or without a gradient. gradients: backward
    passes through networks, each counted once however many it goes through: through decoder and denoiser in guided steps,
    where every evaluation has one; through the decoder alone where a latent is optimised or sampled.
    """

    z: Tensor
    evaluations: Tensor | int = 1
    decodes: Tensor | int = 0
    encodes: Tensor | int = 0
    gradients: Tensor | int = 0


COSTS = Step._fields[1:]
"""What is counted."""


class Noise(Protocol):
    """The randomness of one step: standard normal draws keyed by (seed, image id, index, draw)."""

    def __call__(self, draw: int = 0) -> Tensor:
        """The draw-th standard normal tensor (B, c, h, w) of this step; the same number gives the same draw again."""
        ...


class Solver(Protocol):
    """A solver holds its hyperparameters and takes one step; the loop over steps is in :mod:`flashdiff.sampling`."""

    needs_adjoint: ClassVar[bool]
    """Whether the step uses A^T, so that a degradation without adjoint is refused before anything runs."""

    walk: Walk
    """Which indices the solver visits."""

    def step(
        self, prior: Prior, operator: Operator, y: Tensor, z: Tensor, i: Tensor, i_prev: Tensor, noise: Noise
    ) -> Step:
        """z_i -> z_{i_prev}.

        z (B, c, h, w) scaled latents; y (B, ...) measurements of ``operator``, whose noise has standard deviation
        ``operator.noise_std``; i, i_prev (B,) int64 with N > i > i_prev >= -1 (-1 is clean). Samples must not interact:
        row k gives what sample k gives alone.
        """
        ...


def check(solver: Solver, degradation: Degradation) -> None:
    """Raise ValueError, before any work, when the solver is not defined on the degradation, or its walk is none."""
    walk = getattr(solver, "walk", None)
    if isinstance(walk, type) or not (callable(walk) and hasattr(walk, "first")):
        raise ValueError(f"solver: the walk of {type(solver).__name__} is {walk!r}; give an object such as Strided(2).")
    if solver.needs_adjoint and not degradation.linear:
        raise ValueError(
            f"solver: {type(solver).__name__} needs the adjoint A^T, and {type(degradation).__name__} is not linear and has "
            "none; choose a solver without A^T for it."
        )
