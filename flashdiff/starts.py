"""From severity to the start of a walk: which index, and which latent there. A new rule is one class and one entry below.

The denoiser at index i expects a latent with signal-to-noise ratio SNR(i) = abar_i / (1 - abar_i). The severity encoder
says that z_hat has noise of variance sigma_hat^2 on a signal of variance 1, so the walk starts where the two agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import lazy_loader as lazy
from pydantic import Field

from flashdiff.batch import per_sample
from flashdiff.fields import check_fields

if TYPE_CHECKING:
    from torch import Tensor

    from flashdiff.prior import Prior
    from flashdiff.severity import Severity

torch = lazy.load("torch")


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


class AdaptiveStart(Start, Protocol):
    """A rule whose index follows from the predicted variance (B,) alone, so that its cost is known before any walk."""

    def index(self, prior: Prior, variance: Tensor) -> Tensor:
        """Where the walks begin, (B,) int64."""
        ...

    def cost(self, index: Tensor) -> Tensor:
        """The denoiser evaluations that finding a start at these indices takes, (B,)."""
        ...


@dataclass(frozen=True)
class PublishedStart:
    """The paper's rule: SNR(i) = 1 / sigma^2 and z = sqrt(1 - c sigma^2) z_hat + sqrt(c sigma^2) eps.

    c >= 1 is the noise correction (published: 1.0 to 1.2); c sigma^2 is capped at 1, where nothing of z_hat is left.
    """

    correction: Annotated[float, Field(ge=1, description="c, the noise correction")] = 1.0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, prior, severity, noise):
        share = per_sample((self.correction * severity.variance).clamp(max=1), noise)
        z = (1 - share).sqrt() * severity.z_hat + share.sqrt() * noise
        return StartPoint(self.index(prior, severity.variance), z)

    def index(self, prior, variance):
        return match_snr(prior, variance)

    def cost(self, index):
        return torch.zeros_like(index)


@dataclass(frozen=True)
class ConsistentStart:
    """A start whose noise is what the denoiser expects: z_hat's own error counts as noise of the diffusion.

    SNR(i) = 1 / (k sigma^2) and z = sqrt(abar_i) (z_hat + sqrt((k - 1) sigma^2) eps): total noise variance k sigma^2
    relative to the signal for every k >= 1; k = 1 adds none, k = 2 makes half of it fresh. The published rule adds
    sigma^2 on top of z_hat's error and so starts with about twice the noise that the denoiser expects.
    """

    k: Annotated[float, Field(ge=1, description="total noise, in units of the predicted one")] = 1.0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, prior, severity, noise):
        i = self.index(prior, severity.variance)
        fresh = per_sample(((self.k - 1) * severity.variance).sqrt(), noise)
        signal = per_sample(prior.signal(i), noise).to(noise.dtype)
        return StartPoint(i, signal.sqrt() * (severity.z_hat + fresh * noise))

    def index(self, prior, variance):
        return match_snr(prior, self.k * variance)

    def cost(self, index):
        return torch.zeros_like(index)


@dataclass(frozen=True)
class ScaledStart:
    """A start below the one that the severity asks for, where that is high: SNR(i) = 1 / (share sigma^2), i >= lowest.

    z = sqrt(abar_i) z_hat, without fresh noise. share in (0, 1]: of the predicted error's variance that the diffusion is
    to treat as noise; 1 is the consistent start with k = 1. z_hat is a regression and its error not white, so to take all
    of it for noise is not always best: walks of few steps that start lower move z_hat less. lowest >= 0: no walk starts
    below this index, from which every image has room for some steps.
    """

    share: Annotated[float, Field(gt=0, le=1, description="of the predicted variance that counts as noise")] = 1.0
    lowest: Annotated[int, Field(ge=0, description="index that no walk starts below")] = 0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, prior, severity, noise):
        i = self.index(prior, severity.variance)
        return StartPoint(i, per_sample(prior.signal(i), noise).to(noise.dtype).sqrt() * severity.z_hat)

    def index(self, prior, variance):
        return match_snr(prior, self.share * variance).clamp(min=self.lowest)

    def cost(self, index):
        return torch.zeros_like(index)


@dataclass(frozen=True)
class InversionStart:
    """Adaptive DDIM encoding: z_hat is carried up to the matched index by deterministic DDIM inversion, without noise.

    SNR(i) = 1 / sigma^2, and from index -1 (clean) upwards z' = sqrt(abar') z0_hat + sqrt(1 - abar') eps(z) in steps of
    ``stride`` indices, the last one shorter where the index is no multiple. eps of the clean latent is asked at index 0.
    Every step is a denoiser evaluation and counted. Source: Fabian et al. 2024, appendix on adaptive DDIM encoding;
    Song et al. 2021, Eq. 14. (The released code drops one more step in this path.)
    """

    stride: Annotated[int, Field(ge=1, description="indices per step of the inversion")] = 1

    def __post_init__(self):
        check_fields(self)

    def __call__(self, prior, severity, noise):
        with torch.no_grad():
            target = self.index(prior, severity.variance)
            z, at = severity.z_hat.clone(), torch.full_like(target, -1)
            evaluations = torch.zeros_like(target)
            while bool((going := at < target).any()):
                i, to = at[going], torch.minimum(at + self.stride, target)[going]
                # DDIM's formula does not care which way it is walked: with stochasticity 0 it changes the noise level only.
                eps = prior.predict_eps(z[going], i.clamp(min=0))
                abar, abar_to = (per_sample(prior.signal(index), eps).to(eps.dtype) for index in (i, to))
                z0 = (z[going] - (1 - abar).sqrt() * eps) / abar.sqrt()
                z[going] = abar_to.sqrt() * z0 + (1 - abar_to).sqrt() * eps
                at[going] = to
                evaluations[going] += 1
            return StartPoint(target, z, evaluations)

    def index(self, prior, variance):
        return match_snr(prior, variance)

    def cost(self, index):
        return (index + self.stride) // self.stride  # index + 1 indices above clean, rounded up to whole strides


@dataclass(frozen=True)
class FixedStart:
    """The same index for every image, severity ignored: z = sqrt(abar_i) z_hat + sqrt(fresh (1 - abar_i)) eps.

    index in -1..N-1; -1 is z_hat itself, no diffusion at all. fresh in [0, 1] is the share of the expected noise that is
    drawn anew: 1 hides z_hat's error in it, 0 lets the error itself pass for the noise.
    """

    index: Annotated[int, Field(ge=-1, description="of the diffusion; -1: no diffusion at all")]
    fresh: Annotated[float, Field(ge=0, le=1, description="share of the expected noise that is drawn anew")] = 1.0

    def __post_init__(self):
        check_fields(self)

    def __call__(self, prior, severity, noise):
        i = torch.full((len(noise),), self.index, dtype=torch.int64, device=noise.device)
        signal = per_sample(prior.signal(i), noise).to(noise.dtype)
        return StartPoint(i, signal.sqrt() * severity.z_hat + (self.fresh * (1 - signal)).sqrt() * noise)


STARTS: dict[str, type[AdaptiveStart]] = {
    "published": PublishedStart,
    "consistent": ConsistentStart,
    "inversion": InversionStart,
}
"""The adaptive rules by their names in a study file; the method that walks with one is called flash_NAME."""
SHORT_STARTS: dict[str, type[Start]] = {**STARTS, "scaled": ScaledStart, "fixed": FixedStart}
"""All rules by their names in a few-step setting; those beyond STARTS have no method of their own in a comparison."""
