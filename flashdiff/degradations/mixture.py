"""A mixture of degradations, on which one severity encoder is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import Stream, uniform
from flashdiff.degradations.base import Degradation, State
from flashdiff.degradations.gaussian_blur import GaussianBlur
from flashdiff.degradations.inpainting import RandomInpainting
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

torch = lazy.load("torch")


def _published() -> dict[str, Degradation]:
    return {"gaussian_blur": GaussianBlur(), "random_inpainting": RandomInpainting()}


@dataclass(frozen=True)
class Mixture(Degradation):
    """Every sample is degraded by one of several members, each of them equally likely, at the member's own level t.

    The member is a uniform draw keyed by (member_seed, image id): an image keeps its member at every level, as it keeps
    its camera path in a motion blur, so that its severities at several levels can be compared. Linear when all members are.
    """

    members: Mapping[str, Degradation] = field(default_factory=_published)
    member_seed: Annotated[int, Field(ge=0, description="of which image gets which member")] = 0

    def __post_init__(self):
        check_fields(self)
        if len(self.members) < 2:
            raise ValueError(f"Mixture: members are {list(self.members)}; give at least two.")
        nested = [name for name, member in self.members.items() if isinstance(member, Mixture)]
        if nested:
            raise ValueError(f"Mixture: member {nested[0]!r} is a mixture; give its members instead.")

    @property
    def linear(self) -> bool:
        return all(member.linear for member in self.members.values())

    def check_image(self, image_shape):
        for member in self.members.values():
            member.check_image(image_shape)

    def prepare(self, t, image_shape, ids):
        draw = uniform(ids, seed=self.member_seed, step=0, stream=Stream.MIXTURE, like=t.double())
        state = {"member": (draw * len(self.members)).long()}
        # Every member is prepared for every row: the engine cuts and joins rows, so all states need the same tensors.
        for name, member in self.members.items():
            state |= {f"{name}/{key}": value for key, value in member.prepare(t, image_shape, ids).items()}
        return state

    def apply(self, x, state):
        return self._dispatch(x, state, lambda member: member.apply)

    def adjoint(self, y, state):
        if not self.linear:
            return super().adjoint(y, state)
        return self._dispatch(y, state, lambda member: member.adjoint)

    def _dispatch(self, x: Tensor, state: State, operation: Callable[[Degradation], Callable]) -> Tensor:
        """Each member's operation on its own rows of x, put back in order."""
        places, parts = [], []
        for k, (name, member) in enumerate(self.members.items()):
            at = (state["member"] == k).nonzero()[:, 0]
            if len(at):
                own = {key.removeprefix(f"{name}/"): v[at] for key, v in state.items() if key.startswith(f"{name}/")}
                places.append(at)
                parts.append(operation(member)(x[at], own))
        return torch.cat(parts)[torch.cat(places).argsort()]
