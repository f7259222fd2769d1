"""Flash: severity -> start step and start latent; and the methods it is compared with, which differ in the start only.

The denoiser at index i expects a latent with signal-to-noise ratio SNR(i) = abar_i / (1 - abar_i). The severity encoder
says that z_hat has noise of variance sigma_hat^2 on a signal of variance 1, so the walk starts where the two agree.
"""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal, rows
from flashdiff.degradations import Measurement
from flashdiff.prior import Prior
from flashdiff.sampling import Chunk, EngineReport, Finished, sample
from flashdiff.severity import Severity, SeverityEncoder
from flashdiff.solvers import Solver, check


def match_snr(prior: Prior, variance: Tensor) -> Tensor:
    """argmin_i |SNR(i) - 1 / variance| per sample: (B,) -> int64 indices 0..N-1 (Fabian et al. 2024, the adaptive start).

    With the paper's numbering 1..N this is i_start - 1, so the walk costs exactly i_start = index + 1 evaluations. (The
    released code starts one index lower and so skips the step at the matched index.)
    """
    abar = prior.abar[:-1]
    snr = abar / (1 - abar)
    return (snr - 1 / variance.double().to(abar.device)[:, None]).abs().argmin(1)


class StartPoint(NamedTuple):
    """Where walks begin: index (B,) int64, latent z (B, c, h, w), and the denoiser evaluations that finding it took."""

    index: Tensor
    z: Tensor
    evaluations: Tensor | int = 0


class Start(Protocol):
    """The rule from what the severity encoder says to the start; noise (B, c, h, w) is its standard normal draw."""

    def __call__(self, prior: Prior, severity: Severity, noise: Tensor) -> StartPoint: ...


@dataclass(frozen=True)
class PublishedStart:
    """The paper's rule: SNR(i) = 1 / sigma^2 and z = sqrt(1 - c sigma^2) z_hat + sqrt(c sigma^2) eps.

    c >= 1 is the noise correction (published: 1.0 to 1.2); c sigma^2 is capped at 1, where nothing of z_hat is left.
    """

    correction: float = 1.0

    def __call__(self, prior, severity, noise):
        share = rows((self.correction * severity.variance).clamp(max=1), noise)
        z = (1 - share).sqrt() * severity.z_hat + share.sqrt() * noise
        return StartPoint(match_snr(prior, severity.variance), z)


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
        return StartPoint(i, signal.sqrt() * (severity.z_hat + fresh * noise))


@dataclass(frozen=True)
class InversionStart:
    """Adaptive DDIM encoding: z_hat is carried up to the matched index by deterministic DDIM inversion, without noise.

    SNR(i) = 1 / sigma^2, and from index -1 (clean) upwards z' = sqrt(abar') z0_hat + sqrt(1 - abar') eps(z) in steps of
    ``stride`` indices, the last one shorter where the index is no multiple. eps of the clean latent is asked at index 0.
    Every step is a denoiser evaluation and counted. Source: Fabian et al. 2024, appendix on adaptive DDIM encoding;
    Song et al. 2021, Eq. 14. (The released code drops one more step in this path.)
    """

    stride: int = 1

    def __post_init__(self):
        if self.stride < 1:
            raise ValueError(f"start.stride: {self.stride}; give an integer >= 1.")

    @torch.no_grad()
    def __call__(self, prior, severity, noise):
        target = match_snr(prior, severity.variance)
        z, at = severity.z_hat.clone(), torch.full_like(target, -1)
        evaluations = torch.zeros_like(target)
        while bool((going := at < target).any()):
            i, to = at[going], torch.minimum(at + self.stride, target)[going]
            # DDIM's formula does not care which way it is walked: with stochasticity 0 it changes the noise level only.
            eps = prior.predict_eps(z[going], i.clamp(min=0))
            abar, abar_to = (rows(prior.signal(index), eps).to(eps.dtype) for index in (i, to))
            z0 = (z[going] - (1 - abar).sqrt() * eps) / abar.sqrt()
            z[going] = abar_to.sqrt() * z0 + (1 - abar_to).sqrt() * eps
            at[going] = to
            evaluations[going] += 1
        return StartPoint(target, z, evaluations)


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
        return StartPoint(i, signal.sqrt() * severity.z_hat + (self.fresh * (1 - signal)).sqrt() * noise)


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

    @classmethod
    def collect(cls, finished: Iterable[Finished], n: int, image_shape: tuple[int, ...], engine: EngineReport) -> Self:
        """All of a stream's n images in memory, in the order of the measurements."""
        began, images = time.perf_counter(), None
        start, nfe, decodes = (torch.empty(n, dtype=torch.int64) for _ in range(3))
        sigma_hat = torch.empty(n, dtype=torch.float64)
        for part in finished:
            images = torch.empty(n, *image_shape, dtype=part.images.dtype) if images is None else images
            images[part.rows] = part.images.clamp(-1, 1)
            sigma_hat[part.rows] = torch.from_numpy(part.sigma_hat)
            for column, values in ((start, part.start), (nfe, part.evaluations), (decodes, part.decodes)):
                column[part.rows] = torch.from_numpy(values)
        images = torch.empty(0, *image_shape) if images is None else images
        return cls(images, sigma_hat.to(images.dtype), start, nfe, decodes, time.perf_counter() - began, engine)


@dataclass(frozen=True)
class _Method:
    """What Flash and the full-length baseline share: they stream measurements through the engine, or collect a result."""

    def __call__(self, measurement: Measurement, severity: Severity | None = None, title: str | None = None) -> Result:
        """Reconstruct measurements that fit in memory; ``severity`` replaces the encoder's answer (for controls)."""
        engine = EngineReport()
        finished = self.stream([measurement], [severity], title=title, report=engine)
        return Result.collect(finished, len(measurement), measurement.image_shape, engine)

    def stream(
        self,
        measurements: Iterable[Measurement],
        severities: Iterable[Severity | None] | None = None,
        *,
        title: str | None = None,
        total: int | None = None,
        report: EngineReport | None = None,
    ) -> Iterator[Finished]:
        """Reconstruct any number of measurements, some at a time: yields samples as they finish (not clipped).

        The measurements may come from a generator: the next ones are asked for when slots of the batch fall free, so
        memory holds a few of them, whatever their number. ``total`` images, for the progress bar.
        """
        chunks = map(self._chunk, measurements, itertools.repeat(None) if severities is None else severities)
        return sample(
            self.prior,
            self.solver,
            chunks,
            seed=self.seed,
            batch_size=self.batch_size,
            mixed_precision=self.mixed_precision,
            title=title or type(self).__name__,
            progress=self.progress,
            total=total,
            report=report,
        )


@dataclass(frozen=True)
class Flash(_Method):
    """Flash-Diffusion around any solver: the severity encoder chooses every image's start, the solver walks down.

    ``start`` is the rule from severity to start; FixedStart turns the adaptivity off at equal everything else.
    Call with a :class:`Measurement`, or stream many; randomness is keyed by ``seed`` and the measurement's image ids.
    batch_size: samples side by side; mixed_precision: "auto", "no" or "bf16", see :func:`flashdiff.sampling.sample`.
    """

    prior: Prior
    encoder: SeverityEncoder
    solver: Solver
    start: Start = PublishedStart()
    seed: int = 0
    batch_size: int = 64
    mixed_precision: str = "auto"
    progress: bool = True

    def _chunk(self, measurement: Measurement, severity: Severity | None) -> Chunk:
        check(self.solver, measurement.degradation)  # before the encoder works for nothing
        severity = self.encoder.infer(measurement.y, self.batch_size) if severity is None else severity
        severity = severity.to(self.prior.abar.device)
        noise = start_noise(severity.z_hat, measurement.ids, self.seed)
        points = [
            self.start(self.prior, Severity(z_hat, variance), part)
            for z_hat, variance, part in zip(
                *(column.split(self.batch_size) for column in (severity.z_hat, severity.variance, noise)), strict=True
            )
        ]
        evaluations = [torch.as_tensor(p.evaluations).expand(len(p.index)).to(p.index.device) for p in points]
        return Chunk(
            measurement,
            torch.cat([p.index for p in points]),
            torch.cat([p.z for p in points]),
            torch.cat(evaluations),
            severity.sigma_hat,
        )


@dataclass(frozen=True)
class FullLength(_Method):
    """The baseline: every image starts from pure noise at the walk's first index (N - 1) and takes all its steps."""

    prior: Prior
    solver: Solver
    seed: int = 0
    batch_size: int = 64
    mixed_precision: str = "auto"
    progress: bool = True

    def _chunk(self, measurement: Measurement, severity: None) -> Chunk:
        like = measurement.y.new_empty(len(measurement), *self.prior.latent_shape(measurement.image_shape))
        z = start_noise(like.to(self.prior.abar.device), measurement.ids, self.seed)
        start = torch.full((len(z),), self.solver.walk.first(self.prior), dtype=torch.int64)
        return Chunk(measurement, start, z, torch.zeros_like(start), torch.full((len(z),), float("nan")))


def start_noise(like: Tensor, ids: np.ndarray, seed: int) -> Tensor:
    """The standard normal draw (B, c, h, w) from which every start of an image takes its noise."""
    return normal(like.shape[1:], ids, seed=seed, step=0, stream=Stream.START, like=like)
