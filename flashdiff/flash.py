"""Flash: severity -> start step and start latent; and the methods it is compared with, which differ in the start only.

The denoiser at index i expects a latent with signal-to-noise ratio SNR(i) = abar_i / (1 - abar_i). The severity encoder
says that z_hat has noise of variance sigma_hat^2 on a signal of variance 1, so the walk starts where the two agree.
"""

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal, rows
from flashdiff.degradations import Measurement
from flashdiff.prior import Prior
from flashdiff.sampling import EngineReport, walk
from flashdiff.severity import Severity, SeverityEncoder
from flashdiff.solvers import Solver


def match_snr(prior: Prior, variance: Tensor) -> Tensor:
    """argmin_i |SNR(i) - 1 / variance| per sample: (B,) -> int64 indices 0..N-1 (Fabian et al. 2024, the adaptive start).

    With the paper's numbering 1..N this is i_start - 1, so the walk costs exactly i_start = index + 1 evaluations. (The
    released code starts one index lower and so skips the step at the matched index.)
    """
    abar = prior.abar[:-1]
    snr = abar / (1 - abar)
    return (snr - 1 / variance.double().to(abar.device)[:, None]).abs().argmin(1)


class Start(Protocol):
    """Where a walk begins: start index (B,) and latent (B, c, h, w), from what the severity encoder says."""

    def __call__(self, prior: Prior, severity: Severity, noise: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class PublishedStart:
    """The paper's rule: SNR(i) = 1 / sigma^2 and z = sqrt(1 - c sigma^2) z_hat + sqrt(c sigma^2) eps.

    c >= 1 is the noise correction (published: 1.0 to 1.2); c sigma^2 is capped at 1, where nothing of z_hat is left.
    """

    correction: float = 1.0

    def __call__(self, prior, severity, noise):
        share = rows((self.correction * severity.variance).clamp(max=1), noise)
        return match_snr(prior, severity.variance), (1 - share).sqrt() * severity.z_hat + share.sqrt() * noise


@dataclass(frozen=True)
class ConsistentStart:
    """A start whose noise is what the denoiser expects: z_hat's own error counts as noise of the diffusion.

    SNR(i) = 1 / (k sigma^2) and z = sqrt(abar_i) (z_hat + sqrt((k - 1) sigma^2) eps): total noise variance k sigma^2
    relative to the signal for every k >= 1; k = 1 adds none, k = 2 makes half of it fresh. The published rule adds
    sigma^2 on top of z_hat's error and so starts with about twice the noise that the denoiser expects.
    """

    k: float = 1.0

    def __call__(self, prior, severity, noise):
        i = match_snr(prior, self.k * severity.variance)
        fresh = rows(((self.k - 1) * severity.variance).sqrt(), noise)
        signal = rows(prior.signal(i), noise).to(noise.dtype)
        return i, signal.sqrt() * (severity.z_hat + fresh * noise)


@dataclass(frozen=True)
class FixedStart:
    """The same index for every image, severity ignored: z = sqrt(abar_i) z_hat + sqrt(fresh (1 - abar_i)) eps.

    index in -1..N-1; -1 is z_hat itself, no diffusion at all. fresh in [0, 1] is the share of the expected noise that is
    drawn anew: 1 hides z_hat's error in it, 0 lets the error itself pass for the noise.
    """

    index: int
    fresh: float = 1.0

    def __call__(self, prior, severity, noise):
        i = torch.full((len(noise),), self.index, dtype=torch.int64, device=noise.device)
        signal = rows(prior.signal(i), noise).to(noise.dtype)
        return i, signal.sqrt() * severity.z_hat + (self.fresh * (1 - signal)).sqrt() * noise


@dataclass
class Result:
    """Reconstructions and what they cost.

    images (B, C, H, W), clipped to [-1, 1]; sigma_hat (B,), NaN where no encoder was asked; start (B,) index, -1 for
    none; nfe (B,) denoiser evaluations; decodes (B,) decoder evaluations, the final one included; seconds of wall
    clock, encoder included; engine: batched calls.
    """

    images: Tensor
    sigma_hat: Tensor
    start: Tensor
    nfe: Tensor
    decodes: Tensor
    seconds: float
    engine: EngineReport = field(default_factory=EngineReport)


def _run(prior, solver, measurement, start, z_start, sigma_hat, seed, batch_size, progress, title, began) -> Result:
    engine = EngineReport()
    images = torch.empty(len(measurement), *measurement.image_shape, dtype=z_start.dtype)
    finished = walk(
        prior,
        measurement,
        solver,
        start,
        z_start,
        seed=seed,
        batch_size=batch_size,
        title=title,
        progress=progress,
        report=engine,
    )
    for row, done in finished:
        images[row] = done.clamp(-1, 1).cpu()
    nfe = start.cpu() + 1
    seconds = time.perf_counter() - began
    return Result(images, sigma_hat.cpu(), start.cpu(), nfe, nfe * solver.decodes_per_step + 1, seconds, engine)


@dataclass(frozen=True)
class Flash:
    """Flash-Diffusion around any solver: the severity encoder chooses every image's start, the solver walks down.

    ``start`` is the rule from severity to start; FixedStart turns the adaptivity off at equal everything else.
    Call with a :class:`Measurement`; randomness is keyed by ``seed`` and the measurement's image ids.
    """

    prior: Prior
    encoder: SeverityEncoder
    solver: Solver
    start: Start = PublishedStart()
    seed: int = 0
    batch_size: int = 64
    progress: bool = True

    def __call__(self, measurement: Measurement, severity: Severity | None = None, title: str = "Flash") -> Result:
        """Reconstruct; ``severity`` replaces the encoder's answer (for controls). Returns a :class:`Result`."""
        began = time.perf_counter()
        severity = self.encoder.infer(measurement.y, self.batch_size) if severity is None else severity
        noise = start_noise(severity.z_hat, measurement.ids, self.seed)
        i, z = self.start(self.prior, severity, noise)
        run = (self.seed, self.batch_size, self.progress, title, began)
        return _run(self.prior, self.solver, measurement, i, z, severity.sigma_hat, *run)


@dataclass(frozen=True)
class FullLength:
    """The baseline: every image starts from pure noise at index N - 1 and takes all N steps."""

    prior: Prior
    solver: Solver
    seed: int = 0
    batch_size: int = 64
    progress: bool = True

    def __call__(self, measurement: Measurement, title: str = "full length") -> Result:
        """Reconstruct; returns a :class:`Result` whose sigma_hat is NaN."""
        began = time.perf_counter()
        like = measurement.y.new_empty(len(measurement), *self.prior.latent_shape(measurement.image_shape))
        z = start_noise(like.to(self.prior.abar.device), measurement.ids, self.seed)
        i = torch.full((len(z),), self.prior.n_steps - 1, dtype=torch.int64)
        unknown = torch.full((len(z),), float("nan"))
        run = (self.seed, self.batch_size, self.progress, title, began)
        return _run(self.prior, self.solver, measurement, i, z, unknown, *run)


def start_noise(like: Tensor, ids: np.ndarray, seed: int) -> Tensor:
    """The standard normal draw (B, c, h, w) from which every start of an image takes its noise."""
    return normal(like.shape[1:], ids, seed=seed, step=0, stream=Stream.START, like=like)
