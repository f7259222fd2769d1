"""The one time loop: walks every sample from its own start down to clean, and keeps the batch full.

Samples start at different indices, so their walks have different lengths. The denoiser takes one timestep per sample;
hence samples at different steps share a batch, and when one finishes the next one takes its slot (continuous batching).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flashdiff.batch import Stream, normal
from flashdiff.degradations import Measurement, Operator
from flashdiff.prior import Prior
from flashdiff.solvers import Solver


@dataclass
class EngineReport:
    """What the engine did: batched denoiser calls, and denoiser evaluations summed over samples."""

    calls: int = 0
    evaluations: int = 0


@dataclass
class _Slots:
    """The samples now in the batch: their rows of the measurement, index, latent, measurement and operator state."""

    row: np.ndarray
    i: Tensor
    z: Tensor
    y: Tensor
    state: dict[str, Tensor]

    def keep(self, mask: Tensor) -> "_Slots":
        state = {name: value[mask] for name, value in self.state.items()}
        return _Slots(self.row[mask.cpu().numpy()], self.i[mask], self.z[mask], self.y[mask], state)

    def join(self, other: "_Slots") -> "_Slots":
        state = {name: torch.cat([value, other.state[name]]) for name, value in self.state.items()}
        return _Slots(
            np.concatenate([self.row, other.row]),
            torch.cat([self.i, other.i]),
            torch.cat([self.z, other.z]),
            torch.cat([self.y, other.y]),
            state,
        )


def walk(
    prior: Prior,
    measurement: Measurement,
    solver: Solver,
    start: Tensor,
    z_start: Tensor,
    *,
    seed: int = 0,
    batch_size: int = 64,
    title: str = "reconstruct",
    progress: bool = True,
    report: EngineReport | None = None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Reverse diffusion of every sample from its own start; yields (rows, images) as samples finish.

    start (B,) int64: index of z_start, 0..N-1, or -1 for a latent that is clean already; z_start (B, c, h, w) scaled
    latents. A sample at index i needs i + 1 denoiser evaluations. Images (k, C, H, W) are D(z), not clipped. The noise
    of a step is keyed by (seed, image id, index), so a full-length run and a Flash run of one image share it at equal
    indices, and neither batch_size nor the order of samples changes a result.

    Raises ValueError when start is outside -1..N-1, or when sizes do not fit.
    """
    n = len(measurement)
    if start.shape != (n,) or len(z_start) != n:
        raise ValueError(f"start: {tuple(start.shape)} and z_start: {len(z_start)} rows for {n} measurements.")
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}; give at least 1.")
    if n and not (int(start.min()) >= -1 and int(start.max()) < prior.n_steps):
        raise ValueError(f"start: {int(start.min())}..{int(start.max())}; indices lie in -1..{prior.n_steps - 1}.")
    report = EngineReport() if report is None else report
    device = prior.abar.device
    start = start.cpu()

    clean = np.flatnonzero((start < 0).numpy())
    for rows_ in np.array_split(clean, -(-len(clean) // batch_size) or 1):
        if len(rows_):
            yield rows_, _decode(prior, z_start[rows_].to(device))

    # Longest walks first: the short ones fill the slots at the end, and the tail in which the batch runs dry is short.
    order = np.argsort(-start.numpy(), kind="stable")
    queue = [row for row in order if start[row] >= 0]

    def admit(count: int) -> _Slots:
        taken = np.array([queue.pop(0) for _ in range(min(count, len(queue)))], dtype=int)
        y, z = measurement.y[taken].to(device), z_start[taken].to(device)
        state = {name: v.to(device) for name, v in measurement.operator(taken).state.items()}
        return _Slots(taken, start[taken].to(device), z, y, state)

    slots = admit(batch_size)
    total = int((start + 1).sum())
    with tqdm(total=total, desc=title, unit="step", mininterval=1.0, disable=not (progress and total)) as bar:
        finished = len(clean)
        while len(slots.row):
            i_prev = slots.i - 1
            noise = normal(
                slots.z.shape[1:],
                measurement.ids[slots.row],
                seed=seed,
                step=slots.i.tolist(),
                stream=Stream.REVERSE_STEP,
                like=slots.z,
            )
            operator = Operator(measurement.degradation, slots.state)
            slots.z = solver.step(prior, operator, slots.y, slots.z, slots.i, i_prev, noise)
            slots.i = i_prev
            report.calls += 1
            report.evaluations += len(slots.row)
            bar.update(len(slots.row))
            done = slots.i < 0
            if bool(done.any()):
                over = slots.keep(done)
                finished += len(over.row)
                bar.set_postfix_str(f"{finished}/{n} images")
                yield over.row, _decode(prior, over.z)
                slots = slots.keep(~done)
                if queue:
                    slots = slots.join(admit(batch_size - len(slots.row)))


@torch.no_grad()
def _decode(prior: Prior, z: Tensor) -> Tensor:
    return prior.decode(z)
