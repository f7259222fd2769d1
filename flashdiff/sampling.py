"""The one time loop: walks every sample from its own start down to clean, and keeps the batch full.

Samples start at different indices, so their walks have different lengths. The denoiser takes one timestep per sample;
hence samples at different steps share a batch, and when one finishes the next one takes its slot (continuous batching).

Solvers take gradients, so what works on samples here leaves the caller's ``torch.inference_mode()``; the loop itself cannot,
because it yields to the caller in between.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flashdiff.batch import Stream, normal
from flashdiff.degradations import Measurement, Operator
from flashdiff.devices import as_normal_tensors, outside_inference_mode, resolve_precision
from flashdiff.prior import Prior
from flashdiff.solvers import COSTS, Solver, check

Watch = Callable[[np.ndarray, np.ndarray, Tensor], None]
"""What is told before every step where the samples stand: image ids (B,), indices (B,), and z (B, c, h, w) there."""


@dataclass
class EngineReport:
    """What the engine did: batched solver steps, and solver steps summed over samples."""

    calls: int = 0
    sample_steps: int = 0


@dataclass(frozen=True)
class Chunk:
    """Samples that are about to walk.

    measurement of B images; start (B,) int64: index of z_start, 0..N-1, or -1 for a latent that is clean already;
    z_start (B, c, h, w) scaled latents; evaluations (B,): denoiser evaluations that the start has cost; sigma_hat (B,):
    predicted severity, carried along for the record, NaN where nobody asked.
    """

    measurement: Measurement
    start: Tensor
    z_start: Tensor
    evaluations: Tensor
    sigma_hat: Tensor


class Finished(NamedTuple):
    """Samples that are done, k of them, on the CPU.

    rows (k,): their positions, counted over all chunks; images (k, C, H, W) = D(z), not clipped; start (k,) index;
    evaluations, decodes, encodes, gradients (k,): costs as in :class:`flashdiff.solvers.Step`, start and final decode
    included; sigma_hat (k,).
    """

    rows: np.ndarray
    images: Tensor
    start: np.ndarray
    evaluations: np.ndarray
    decodes: np.ndarray
    encodes: np.ndarray
    gradients: np.ndarray
    sigma_hat: np.ndarray


@dataclass
class _Slots:
    """The samples now in the batch. What the device computes with are tensors; what the loop decides by are arrays."""

    z: Tensor
    y: Tensor
    state: dict[str, Tensor]
    schedule: list[np.ndarray]  # indices still to visit; the first is where the sample stands
    record: dict[str, np.ndarray]  # row, image id, start, sigma_hat, costs

    def __len__(self) -> int:
        return len(self.schedule)

    @outside_inference_mode()
    def keep(self, positions: np.ndarray) -> "_Slots":
        at = torch.from_numpy(positions).to(self.z.device)
        return _Slots(
            self.z[at],
            self.y[at],
            {name: value[at] for name, value in self.state.items()},
            [self.schedule[p] for p in positions],
            {name: value[positions] for name, value in self.record.items()},
        )

    @staticmethod
    @outside_inference_mode()
    def join(parts: list["_Slots"]) -> "_Slots":
        if len(parts) == 1:
            return parts[0]
        return _Slots(
            torch.cat([p.z for p in parts]),
            torch.cat([p.y for p in parts]),
            {name: torch.cat([p.state[name] for p in parts]) for name in parts[0].state},
            [indices for p in parts for indices in p.schedule],
            {name: np.concatenate([p.record[name] for p in parts]) for name in parts[0].record},
        )


class _Queue:
    """Samples that wait for a slot: chunks are taken up when the one before is used up, so memory holds few at a time."""

    def __init__(self, prior: Prior, solver: Solver, chunks: Iterable[Chunk]):
        self.prior, self.solver = prior, solver
        self.chunks = iter(chunks)
        self.chunk: Chunk | None = None
        self.waiting: deque[int] = deque()
        self.seen = 0  # samples in all chunks so far
        self.steps = 0  # solver steps that these take

    def _next_chunk(self) -> bool:
        chunk = next(self.chunks, None)
        if chunk is None:
            return False
        self._check(chunk)
        self.chunk, self.first = chunk, self.seen
        start = chunk.start.cpu().numpy()
        self.start = start
        self.schedule = [self.solver.walk(self.prior, int(i)) if i >= 0 else np.empty(0, dtype=np.int64) for i in start]
        # Longest walks first: the short ones fill the slots at the end, and the tail in which the batch runs dry is short.
        lengths = np.array([len(indices) for indices in self.schedule], dtype=int)
        self.waiting = deque(np.argsort(-lengths, kind="stable"))
        self.seen += len(start)
        self.steps += int(lengths.sum())
        return True

    def _check(self, chunk: Chunk) -> None:
        check(self.solver, chunk.measurement.degradation)
        if self.chunk is not None:
            before, now = ((c.measurement.degradation, c.measurement.noise_std) for c in (self.chunk, chunk))
            if before != now:
                raise ValueError(f"measurements: {now} follows {before}; stream the same degradation and noise only.")
        n, start = len(chunk.measurement), chunk.start
        if start.shape != (n,) or len(chunk.z_start) != n:
            raise ValueError(
                f"start: {tuple(start.shape)} and z_start: {len(chunk.z_start)} rows for {n} measurements; give one of each."
            )
        if n and not (int(start.min()) >= -1 and int(start.max()) < self.prior.n_steps):
            raise ValueError(
                f"start: {int(start.min())}..{int(start.max())}; indices lie in -1..{self.prior.n_steps - 1}."
            )

    @outside_inference_mode()
    def take(self, count: int) -> list[_Slots]:
        """Up to ``count`` samples, ready to walk; fewer only when all chunks are used up."""
        parts = []
        while count > 0:
            if not self.waiting and not self._next_chunk():
                break
            taken = np.array([self.waiting.popleft() for _ in range(min(count, len(self.waiting)))], dtype=int)
            count -= len(taken)
            if len(taken):
                parts.append(self._slots(taken))
        return parts

    def _slots(self, taken: np.ndarray) -> _Slots:
        chunk, device = self.chunk, self.prior.abar.device
        record = {
            "row": self.first + taken,
            "id": chunk.measurement.ids[taken],
            "start": self.start[taken],
            "sigma_hat": chunk.sigma_hat.double().cpu().numpy()[taken],
        }
        record |= {name: np.zeros(len(taken), dtype=np.int64) for name in COSTS}
        record["evaluations"] += chunk.evaluations.cpu().numpy()[taken]
        state = {name: v.to(device) for name, v in chunk.measurement.operator(taken).state.items()}
        z, y = chunk.z_start[taken].to(device), chunk.measurement.y[taken].to(device)
        return _Slots(z, y, state, [self.schedule[k] for k in taken], record)


def sample(
    prior: Prior,
    solver: Solver,
    chunks: Iterable[Chunk],
    *,
    seed: int = 0,
    batch_size: int = 64,
    mixed_precision: str = "auto",
    title: str = "reconstruct",
    progress: bool = True,
    total: int | None = None,
    report: EngineReport | None = None,
    watch: Watch | None = None,
) -> Iterator[Finished]:
    """Reverse diffusion of every sample from its own start; yields samples as they finish.

    ``chunks`` may be lazy: the next one is asked for when slots fall free, so memory is bounded by a chunk and a batch,
    whatever the number of images. All chunks hold the same kind of measurement. The noise of a step is keyed by (seed,
    image id, index), so a full-length run and a Flash run of one image share it at equal indices, and neither batch_size
    nor the order of samples changes a result. mixed_precision: "no", "bf16" (autocast), or "auto": bf16 on GPUs that
    have it. ``total`` images, for the progress bar, where more come than the first chunk holds. ``watch`` sees every latent
    on its way.

    Raises ValueError when start is outside -1..N-1, when sizes do not fit, or when the solver needs an adjoint that the
    degradation does not have.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}; give at least 1.")
    report = EngineReport() if report is None else report
    device = prior.abar.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(mixed_precision) == "bf16")
    queue = _Queue(prior, solver, chunks)
    as_normal_tensors(prior)
    finished, began = 0, time.perf_counter()
    parts = queue.take(batch_size)
    with tqdm(total=queue.steps, desc=title, unit="step", mininterval=1.0, disable=not progress) as bar:
        while parts:
            slots = _Slots.join(parts)
            done = np.array([len(indices) == 0 for indices in slots.schedule])
            if done.any():
                over = slots.keep(np.flatnonzero(done))
                yield _finish(prior, over)
                finished += len(over)
                rate = finished / (time.perf_counter() - began)
                bar.set_postfix_str(f"{finished}/{max(total or 0, queue.seen)} images, {rate:.3g} images/s")
                slots = slots.keep(np.flatnonzero(~done))
                parts = ([slots] if len(slots) else []) + queue.take(batch_size - len(slots))
                bar.total = queue.steps
                continue
            with autocast:
                slots = _advance(prior, solver, queue.chunk.measurement, slots, seed, watch)
            report.calls += 1
            report.sample_steps += len(slots)
            bar.update(len(slots))
            parts = [slots]


@outside_inference_mode()
def _advance(
    prior: Prior, solver: Solver, measurement: Measurement, slots: _Slots, seed: int, watch: Watch | None
) -> _Slots:
    """One solver step of every sample in the batch."""
    at = np.array([indices[0] for indices in slots.schedule])
    to = np.array([indices[1] if len(indices) > 1 else -1 for indices in slots.schedule])
    device = slots.z.device
    if watch is not None:
        watch(slots.record["id"], at, slots.z)

    def noise(draw: int = 0) -> Tensor:
        key = {"seed": seed, "step": at.tolist(), "stream": Stream.REVERSE_STEP, "draw": draw}
        return normal(slots.z.shape[1:], slots.record["id"], like=slots.z, **key)

    operator = Operator(measurement.degradation, slots.state, measurement.noise_std)
    i, i_prev = torch.from_numpy(at).to(device), torch.from_numpy(to).to(device)
    step = solver.step(prior, operator, slots.y, slots.z, i, i_prev, noise)
    record = dict(slots.record)
    for name in COSTS:
        cost = getattr(step, name)
        record[name] = record[name] + (cost.cpu().numpy() if isinstance(cost, Tensor) else cost)
    schedule = [indices[1:] for indices in slots.schedule]
    return replace(slots, z=step.z.to(slots.z.dtype), schedule=schedule, record=record)


@outside_inference_mode()
@torch.no_grad()
def _finish(prior: Prior, slots: _Slots) -> Finished:
    r = slots.record
    images = prior.decode(slots.z).cpu()
    costs = {name: r[name] for name in COSTS} | {"decodes": r["decodes"] + 1}
    return Finished(r["row"], images, r["start"], **costs, sigma_hat=r["sigma_hat"])
