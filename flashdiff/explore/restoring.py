"""Walks that report every step and can be stopped: Flash and the baseline on one measurement, and how good they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from flashdiff.explore.explorer import Explorer, Look, Plan
from flashdiff.flash import COUNTS, Flash, FullLength
from flashdiff.measures import MEASURES
from flashdiff.severity import Severity
from flashdiff.solvers import Solver


class Stopped(Exception):
    """Raised by whoever watches the steps, to end a walk."""


@dataclass(frozen=True)
class Watched:
    """A solver that calls ``each_step`` before each of its steps; what that raises ends the walk."""

    solver: Solver
    each_step: Callable[[], None]

    @property
    def needs_adjoint(self):
        return self.solver.needs_adjoint

    @property
    def walk(self):
        return self.solver.walk

    def step(self, *arguments):
        self.each_step()
        return self.solver.step(*arguments)


@dataclass(frozen=True)
class Walk:
    """One method on one measurement: its name for readers, what to run, and how many steps it takes.

    severity: what replaces the encoder's answer, None for that itself.
    """

    name: str
    method: Flash | FullLength
    steps: int
    severity: Severity | None = None


def walks(
    explorer: Explorer, look: Look, plan: Plan, baseline: bool = True, baseline_steps: int | None = None
) -> list[Walk]:
    """Flash as planned and, if asked for, the baseline from pure noise, in its whole length or in ``baseline_steps``."""
    flash, severity = explorer.flash(look.degradation, plan), None
    index = explorer.start(flash, look.severity)
    if plan.index is not None:
        flash, severity = explorer.moved(flash, look.severity, plan.index)
        index = plan.index
    chosen = [Walk("Flash", flash, len(flash.solver.walk(explorer.prior, index)), severity)]
    if baseline:
        full = explorer.baseline(look.degradation, plan, baseline_steps)
        whole = explorer.baseline(look.degradation, plan)
        steps, all_steps = (len(m.solver.walk(m.prior, m.solver.walk.first(m.prior))) for m in (full, whole))
        name = "full-length baseline" if steps == all_steps else f"baseline, {steps} of {all_steps} steps"
        chosen.append(Walk(name, full, steps))
    return chosen


def restore(
    explorer: Explorer, look: Look, chosen: list[Walk], each_step: Callable[[], None]
) -> Iterator[tuple[Tensor, dict]]:
    """Run the walks one after the other; yields the image (1, C, H, W) in [-1, 1] and its row as each is done.

    each_step is called before every solver step; what it raises ends the walk. A row has method, solver, start, costs as in
    :class:`flashdiff.flash.Result`, seconds, and all measures; the perceptual distance where the prior has a classifier.
    """
    for walk in chosen:
        method = replace(walk.method, solver=Watched(walk.method.solver, each_step))
        result = method(look.measurement, walk.severity)
        row = {"method": walk.name, "solver": type(walk.method.solver).__name__, "start": int(result.start[0])}
        row |= {name: int(getattr(result, name)[0]) for name in COUNTS} | {"seconds": result.seconds}
        yield result.images, row | quality(explorer, look, result.images)


def without_walk(explorer: Explorer, look: Look) -> dict:
    """The row of D(z_hat), which takes no denoiser evaluation; seconds are NaN, since nobody waited for it."""
    costs = dict.fromkeys(COUNTS, 0) | {"decodes": 1, "seconds": np.nan}
    return {"method": "no diffusion, D(ẑ)", "solver": "", "start": -1} | costs | quality(explorer, look, look.decoded)


def quality(explorer: Explorer, look: Look, images: Tensor) -> dict[str, float]:
    """Measure -> how near the image is to the clean one."""
    found = [measure for measure in MEASURES.values() if explorer.distances is not None or not measure.optional]
    return {m.name: float(m.compute(images, look.picture.x, explorer.distances)[0]) for m in found}
