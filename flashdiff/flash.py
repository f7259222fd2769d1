"""Flash: the severity encoder chooses where each image's walk starts; and the full-length baseline, which starts at noise."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from flashdiff.batch import Stream, normal
from flashdiff.degradations import Measurement
from flashdiff.prior import Prior
from flashdiff.sampling import Chunk, EngineReport, Finished, Watch, sample
from flashdiff.severity import Severity, SeverityEncoder
from flashdiff.solvers import Solver, check
from flashdiff.starts import PublishedStart, Start

COUNTS = {"nfe": "evaluations", "decodes": "decodes", "encodes": "encodes", "gradients": "gradients"}
"""What a result calls its costs -> what the engine calls them."""


@dataclass
class Result:
    """Reconstructions and what they cost.

    images (B, C, H, W), clipped to [-1, 1]; sigma_hat (B,), NaN where no encoder was asked; start (B,) index, -1 for
    none; nfe (B,) denoiser evaluations; decodes (B,) decoder evaluations, the final one included; encodes (B,)
    evaluations of the prior's encoder, of which the severity encoder's is none; gradients (B,) backward passes, as
    :class:`flashdiff.solvers.Step` counts them; seconds of wall clock, encoder included; engine: batched calls.
    """

    images: Tensor
    sigma_hat: Tensor
    start: Tensor
    nfe: Tensor
    decodes: Tensor
    encodes: Tensor
    gradients: Tensor
    seconds: float
    engine: EngineReport = field(default_factory=EngineReport)

    @classmethod
    def collect(cls, finished: Iterable[Finished], n: int, image_shape: tuple[int, ...], engine: EngineReport) -> Self:
        """All of a stream's n images in memory, in the order of the measurements."""
        began, images = time.perf_counter(), None
        counts = {name: torch.empty(n, dtype=torch.int64) for name in ("start", *COUNTS)}
        sigma_hat = torch.empty(n, dtype=torch.float64)
        for part in finished:
            images = torch.empty(n, *image_shape, dtype=part.images.dtype) if images is None else images
            images[part.rows] = part.images.clamp(-1, 1)
            sigma_hat[part.rows] = torch.from_numpy(part.sigma_hat)
            for name, column in counts.items():
                column[part.rows] = torch.from_numpy(getattr(part, COUNTS.get(name, name)))
        images = torch.empty(0, *image_shape) if images is None else images
        seconds = time.perf_counter() - began
        return cls(images, sigma_hat.to(images.dtype), **counts, seconds=seconds, engine=engine)


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
        watch: Watch | None = None,
    ) -> Iterator[Finished]:
        """Reconstruct any number of measurements, some at a time: yields samples as they finish (not clipped).

        The measurements may come from a generator: the next ones are asked for when slots of the batch fall free, so
        memory holds a few of them, whatever their number. ``total`` images, for the progress bar; ``watch`` sees every latent
        on its way.
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
            watch=watch,
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
    start: Start = field(default_factory=PublishedStart)
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
