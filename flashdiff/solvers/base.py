"""What every solver is: one pure reverse step on a batch whose samples may stand at different indices."""

from typing import ClassVar, Protocol

from torch import Tensor

from flashdiff.degradations import Operator
from flashdiff.prior import Prior


class Solver(Protocol):
    """A solver holds its hyperparameters and takes one step; the loop over steps is in :mod:`flashdiff.sampling`."""

    decodes_per_step: ClassVar[int]
    """Decoder evaluations of one step, counted beside the denoiser's."""

    def step(
        self, prior: Prior, operator: Operator, y: Tensor, z: Tensor, i: Tensor, i_prev: Tensor, noise: Tensor
    ) -> Tensor:
        """z_i -> z_{i_prev}.

        z, noise (B, c, h, w) scaled latents and standard normal draws; y (B, ...) measurements of ``operator``;
        i, i_prev (B,) int64 with N > i > i_prev >= -1 (-1 is clean). Returns z_prev, detached. Samples must not
        interact: row k gives what sample k gives alone.
        """
        ...
