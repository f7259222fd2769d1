"""What a training will cost, told before it starts: time from a step and an evaluation, memory from their peak."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flashdiff.devices import device, device_name

WORTH_STEPS = 100
"""A run of fewer steps is not measured: the two steps that it takes would be a noticeable part of it."""
WORTH_SECONDS = 60
"""A run that takes less is over before its estimate is read."""


@dataclass(frozen=True)
class Cost:
    """Steps and evaluations that are left, seconds of each, and this process's peak memory in bytes."""

    steps: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    memory: int

    @property
    def seconds(self) -> float:
        """Of all that is left."""
        return self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds

    def sentence(self, title: str, of_steps: int, n_processes: int = 1) -> str:
        """One line for a person; ``of_steps`` is the length of the whole run, of which a resumed one is a part."""
        steps = f"{grouped(self.steps)} steps" + (f" left of {grouped(of_steps)}" if self.steps < of_steps else "")
        evaluations = f", and {grouped(self.evaluations)} evaluations, {brief(self.evaluation_seconds)} each,"
        processes = f"{n_processes} processes with " if n_processes > 1 else ""
        return (
            f"{title}: {steps}, {brief(self.step_seconds)} each{evaluations if self.evaluations else ''} "
            f"on {processes}{device_name()}: about {duration(self.seconds)}; peak memory {self.memory / 1e9:.1f} GB."
        )


def measure_cost(advance: Callable[[], object], steps: int, evaluate: Callable[[], object], evaluations: int) -> Cost:
    """Take two steps, of which the second counts, and evaluate once where the run is worth an estimate.

    The caller sees to it that nothing of this lasts. Processes of one run may differ in whether they evaluate, because
    their clocks do; so ``evaluate`` must not wait for other processes.
    """
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _seconds_of(advance)  # the first step of a process also chooses kernels and allocates
    step = _seconds_of(advance)
    evaluation = _seconds_of(evaluate) if evaluations and steps * step >= WORTH_SECONDS else 0.0
    return Cost(steps, step, evaluations, evaluation, peak_memory())


def peak_memory() -> int:
    """Bytes: of tensors on this process's GPU since the last reset; without a GPU, of the whole process so far."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on every platform

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def duration(seconds: float) -> str:
    """A span as exact as an estimate deserves: "45 s", "12 min", "1 h 5 min", "11 h"."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    if hours >= 10 or not minutes:
        return f"{seconds / 3600:.0f} h"
    return f"{hours} h {minutes} min"


def grouped(count: int) -> str:
    """Digits in threes: "12 500"."""
    return f"{count:,}".replace(",", " ")


def brief(seconds: float) -> str:
    """Seconds with two digits: "0.0082 s", "0.31 s", "12 s", "480 s"."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _seconds_of(work: Callable[[], object]) -> float:
    _wait_for_gpu()
    began = time.perf_counter()
    work()
    _wait_for_gpu()
    return time.perf_counter() - began


def _wait_for_gpu() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()
