"""Which indices a walk visits on its way from its start down to clean: one schedule per image.

A walk is what others call the timestep schedule: a function (prior, start) -> strictly decreasing indices. The first is
the start; the last step of the walk leads from the last of them to -1, which is clean. Full-length runs and Flash runs
use the same walk and differ in the start only, so that methods can be compared at an equal number of evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import lazy_loader as lazy
from pydantic import Field

from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from flashdiff.prior import Prior

np = lazy.load("numpy")


class Walk(Protocol):
    """The schedule of one image."""

    def first(self, prior: Prior) -> int:
        """The index from which a full-length run starts, from pure noise."""
        ...

    def __call__(self, prior: Prior, start: int) -> np.ndarray:
        """Indices visited from ``start`` in 0..N-1 downwards: (K,) int64, strictly decreasing, none below 0."""
        ...


@dataclass(frozen=True)
class Strided:
    """Every stride-th index from the start down; stride 1 is the paper's walk, stride 2 has 500 steps of 1000."""

    stride: Annotated[int, Field(ge=1, description="every stride-th index")] = 1

    def __post_init__(self):
        check_fields(self)

    def first(self, prior):
        return prior.n_steps - 1

    def __call__(self, prior, start):
        return np.arange(start, -1, -self.stride)


EVERY_INDEX = Strided(1)
"""The paper's walk."""


@dataclass(frozen=True)
class EvenlySpaced:
    """K indices evenly spaced between the start and 0, both included: equal cost for every image.

    A walk that starts below index K - 1 visits every index once. K = 1 is a single step from the start to clean.
    """

    steps: Annotated[int, Field(ge=1, description="indices visited between the start and 0")]

    def __post_init__(self):
        check_fields(self)

    def first(self, prior):
        return prior.n_steps - 1

    def __call__(self, prior, start):
        if self.steps == 1:
            return np.array([start])
        return np.linspace(start, 0, min(self.steps, start + 1)).round().astype(np.int64)


@dataclass(frozen=True)
class Growing:
    """round(rate (start + 1)^power) indices evenly spaced between the start and 0: walks from higher starts take more steps.

    At least one step and at most start + 1. power 0: as many for every image; 1: steps of equal length, whatever the start.
    """

    rate: Annotated[float, Field(gt=0, description="steps of a walk from index 0, before rounding")]
    power: Annotated[
        float, Field(ge=0, le=1, description="0: as many steps from every start; 1: steps of equal length")
    ]

    def __post_init__(self):
        check_fields(self)

    def first(self, prior):
        return prior.n_steps - 1

    def steps(self, start: np.ndarray) -> np.ndarray:
        """How many steps walks from ``start`` (n,) >= 0 take: (n,) int64."""
        levels = np.asarray(start) + 1
        return np.clip(np.rint(self.rate * levels**self.power), 1, levels).astype(np.int64)

    def __call__(self, prior, start):
        return EvenlySpaced(int(self.steps(start)))(prior, start)


@dataclass(frozen=True)
class NoiseLevels:
    """Noise levels s_1 > ... > s_M by the power rule, each at the index whose sqrt((1 - abar) / abar) is nearest.

    s_m = (s_max^(1/rho) + r (s_min^(1/rho) - s_max^(1/rho)))^rho, r evenly from 0 to 1. A walk from another index visits
    that index, then all levels below it. Levels that share an index are visited once. Source: Karras et al. 2022,
    Eq. 5; Zhang et al. 2025 (LatentDAPS), with the numbers of its authors' latent runs.
    """

    levels: Annotated[int, Field(ge=2, description="noise levels")] = 50
    s_max: Annotated[float, Field(gt=0, description="largest noise level, sqrt((1 - abar) / abar)")] = 10.0
    s_min: Annotated[float, Field(gt=0, description="smallest noise level")] = 0.1
    rho: Annotated[float, Field(gt=0, description="exponent of the rule by which they are spaced")] = 7.0

    def __post_init__(self):
        check_fields(self)
        if not self.s_min < self.s_max:
            raise ValueError(f"NoiseLevels: s_max is {self.s_max!r}; give a value above s_min, {self.s_min!r}.")

    def noise(self) -> np.ndarray:
        """The levels s_1..s_M (M,)."""
        ramp = np.linspace(0, 1, self.levels)
        high, low = self.s_max ** (1 / self.rho), self.s_min ** (1 / self.rho)
        return (high + ramp * (low - high)) ** self.rho

    def _indices(self, prior: Prior) -> np.ndarray:
        abar = prior.abar[:-1].cpu().numpy()
        noise = np.sqrt((1 - abar) / abar)  # rises with the index
        nearest = np.abs(np.log(noise)[None, :] - np.log(self.noise())[:, None]).argmin(1)
        return np.unique(nearest)[::-1].astype(np.int64)

    def first(self, prior):
        return int(self._indices(prior)[0])

    def __call__(self, prior, start):
        levels = self._indices(prior)
        return np.concatenate([[start], levels[levels < start]])


WALKS: dict[str, type] = {
    "strided": Strided,
    "evenly_spaced": EvenlySpaced,
    "growing": Growing,
    "noise_levels": NoiseLevels,
}


def build(parameters: Mapping) -> Walk:
    """A study's walk entry -> walk: ``kind`` selects the class, the rest are its fields.

    Raises ValueError naming an unknown kind, TypeError from the dataclass for an unknown field.
    """
    fields = dict(parameters)
    kind = fields.pop("kind")
    if kind not in WALKS:
        raise ValueError(f"walk: kind {kind!r} is unknown; choose one of {', '.join(WALKS)}.")
    return WALKS[kind](**fields)
