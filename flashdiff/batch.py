"""What keeps samples apart inside a batch: per-sample scalars, per-sample norms, per-sample randomness.

Everything in flashdiff is batched *and* per-sample: row k of a batch gives what that sample gives alone. Randomness
is therefore an input, keyed by (seed, image id, step, stream) through a counter-based generator, so that a result
depends neither on the batch size nor on the order, the sharding, a resume, or the other samples of the batch.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy

from flashdiff.fields import shown

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")
np = lazy.load("numpy")


class Stream(enum.IntEnum):
    """Independent sources of randomness of one image at one step; a draw names the one it takes."""

    MEASUREMENT = 0
    START = 1
    REVERSE_STEP = 2
    LEVEL = 3
    FLIP = 4
    TIMESTEP = 5
    TRAINING_NOISE = 6
    CONTROL = 7
    DEGRADATION = 8
    MIXTURE = 9
    NOISE_LEVEL = 10


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape per-sample scalars (B,) to (B, 1, ..., 1) so that they broadcast over ``like`` (B, ...)."""
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def slice_size(x: Tensor, pixels: int = 2**18) -> int:
    """How many images (B, C, H, W) a network without a gradient sees at once: 256 of 32 x 32, 4 of 256 x 256."""
    return max(1, pixels // (x.shape[-2] * x.shape[-1]))


def norms(x: Tensor) -> Tensor:
    """L2 norm of every sample of x (B, ...), not squared: (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _generators(ids: Sequence[int], seed: int, step: int | Sequence[int], stream: Stream, draw: int = 0):
    for name, value in (("seed", seed), ("draw", draw)):  # a float would lose its fraction in silence
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
            raise ValueError(f"{name}: {shown(value)} is no integer from 0 to 2^63 - 1; give one.")
    steps = [step] * len(ids) if isinstance(step, int) else [int(s) for s in step]
    if any(int(image) < 0 for image in ids):
        raise ValueError(f"ids: {min(map(int, ids))} is negative; image ids are integers >= 0.")
    if len(steps) != len(ids):
        raise ValueError(f"step: {len(steps)} values for {len(ids)} image ids; give one integer or one per image.")
    for image, s in zip(ids, steps, strict=True):
        # Philox is counter-based: key and counter *are* the identity of the draw, nothing has to be stored or hashed.
        # The lowest counter word runs within the draw; step + 1 keeps the word unsigned for the clean index -1.
        yield np.random.Generator(np.random.Philox(key=[seed, int(image)], counter=[0, int(stream), s + 1, draw]))


def normal(
    shape: Sequence[int],
    ids: Sequence[int],
    *,
    seed: int,
    step: int | Sequence[int],
    stream: Stream,
    like: Tensor,
    draw: int = 0,
) -> Tensor:
    """Standard normal draws (B, *shape), one independent stream per (seed, image id, step, stream, draw).

    shape is one sample's shape; ids has B image ids >= 0; step is one index >= -1 or one per image; draw >= 0 counts the
    draws of one step. The draws are made in float64 and cast to the dtype of ``like``, so that float32 and float64 runs
    share their noise.
    """
    draws = [g.standard_normal(tuple(shape)) for g in _generators(ids, seed, step, stream, draw)]
    return torch.from_numpy(np.stack(draws)).to(like)


def uniform(ids: Sequence[int], *, seed: int, step: int | Sequence[int], stream: Stream, like: Tensor) -> Tensor:
    """One uniform draw in [0, 1) per image (B,), keyed as :func:`normal`."""
    draws = [g.random() for g in _generators(ids, seed, step, stream)]
    return torch.tensor(draws, dtype=torch.float64).to(like)
