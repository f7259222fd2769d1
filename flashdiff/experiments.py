"""The study's experiments: models and images in, data frames with one row per image (and level, or method) out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.batch import Stream, norms, uniform
from flashdiff.degradations import Degradation, Measurement, measure
from flashdiff.flash import ConsistentStart, FixedStart, Flash, FullLength, PublishedStart, Result, match_snr
from flashdiff.metrics import Features, feature_distance, psnr, ssim
from flashdiff.prior import Prior
from flashdiff.severity import Severity, SeverityEncoder, latent_error_variance, severity_at_levels
from flashdiff.solvers import SOLVERS, Solver


@torch.no_grad()
def encode(prior: Prior, x: Tensor, batch_size: int = 250) -> Tensor:
    """Clean latents z0 (n, c, h, w) of images x, in slices."""
    return torch.cat([prior.encode(part) for part in x.split(batch_size)])


@torch.no_grad()
def decode(prior: Prior, z: Tensor, batch_size: int = 250) -> Tensor:
    """Images (n, C, H, W) of latents z, clipped to [-1, 1], in slices."""
    return torch.cat([prior.decode(part).clamp(-1, 1) for part in z.split(batch_size)])


def uniform_levels(ids: np.ndarray, seed: int, like: Tensor) -> Tensor:
    """The severity level t ~ U[0, 1] of every image (n,): the test set's levels, keyed by (seed, image id)."""
    return uniform(ids, seed=seed, step=0, stream=Stream.LEVEL, like=like)


def ordering_rows(
    encoder: SeverityEncoder, x: Tensor, degradation: Degradation, noise_std: float, n_levels: int, seed: int
) -> pd.DataFrame:
    """sigma_hat of every clean image at n_levels evenly spaced levels: columns image, t, sigma_hat."""
    levels = torch.linspace(0, 1, n_levels)
    sigma = severity_at_levels(encoder, x, degradation, noise_std, levels, seed=seed)
    return pd.DataFrame(
        {
            "image": np.repeat(np.arange(len(x)), n_levels),
            "t": np.tile(levels.double().numpy(), len(x)),
            "sigma_hat": sigma.double().flatten().numpy(),
        }
    )


def severity_rows(
    prior: Prior,
    encoder: SeverityEncoder,
    features: Features,
    x: Tensor,
    labels: np.ndarray,
    degradation: Degradation,
    noise_std: float,
    seed: int,
) -> pd.DataFrame:
    """Predicted against true severity, one row per image at its own level t ~ U[0, 1].

    Columns: image, label, t, sigma_hat, sbar (true standard deviation of the latent error), psnr, ssim, perceptual (of
    D(z_hat)), start (index matched to sigma_hat), kurtosis (excess) and neighbour_correlation of the latent error.
    """
    ids = np.arange(len(x))
    t = uniform_levels(ids, seed, x)
    measurement = measure(x, degradation, t, noise_std, seed=seed, ids=ids)
    severity = encoder.infer(measurement.y)
    error = severity.z_hat - encode(prior, x)
    images = decode(prior, severity.z_hat)
    centred = error - error.flatten(1).mean(1)[:, None, None, None]
    variance = centred.square().flatten(1).mean(1)
    vertical = (centred[:, :, 1:] * centred[:, :, :-1]).flatten(1).mean(1)
    horizontal = (centred[..., 1:] * centred[..., :-1]).flatten(1).mean(1)
    columns = {
        "image": ids,
        "label": labels,
        "t": t,
        "sigma_hat": severity.sigma_hat,
        "sbar": error.flatten(1).std(1),
        "psnr": psnr(images, x),
        "ssim": ssim(images, x),
        "perceptual": feature_distance(features, images, x),
        "start": match_snr(prior, severity.variance),
        "kurtosis": centred.pow(4).flatten(1).mean(1) / variance**2 - 3,
        "neighbour_correlation": (vertical + horizontal) / (2 * variance),
    }
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})


@dataclass(frozen=True)
class Bench:
    """What every method of a comparison shares: models, the test images, and their measurement.

    truth (n, C, H, W) in [-1, 1]; solver: the class of the solver, its step size is a method's own.
    """

    prior: Prior
    encoder: SeverityEncoder
    features: Features
    truth: Tensor
    measurement: Measurement
    solver: type[Solver]
    fields: Mapping
    seed: int
    batch_size: int

    @classmethod
    def build(
        cls,
        prior,
        encoder,
        features,
        x,
        degradation,
        noise_std,
        solver: Mapping,
        *,
        seed: int,
        batch_size: int,
        first_id: int = 0,
    ) -> "Bench":
        """Measure x at levels t ~ U[0, 1] (keyed by image id, counted from first_id) for a study's solver entry."""
        ids = np.arange(first_id, first_id + len(x))
        measurement = measure(x, degradation, uniform_levels(ids, seed, x), noise_std, seed=seed, ids=ids)
        fields = {name: value for name, value in solver.items() if name != "kind"}
        return cls(prior, encoder, features, x, measurement, SOLVERS[solver["kind"]], fields, seed, batch_size)

    def flash(self, start, eta: float, title: str, severity: Severity | None = None) -> Result:
        """Flash with a start rule and a step size."""
        method = Flash(
            self.prior, self.encoder, self.solver(**self.fields | {"eta": eta}), start, self.seed, self.batch_size
        )
        return method(self.measurement, severity, title=title)

    def full_length(self, eta: float, title: str) -> Result:
        """The full-length baseline with a step size."""
        method = FullLength(self.prior, self.solver(**self.fields | {"eta": eta}), self.seed, self.batch_size)
        return method(self.measurement, title=title)

    def quality(self, images: Tensor) -> dict[str, np.ndarray]:
        """psnr, ssim, perceptual and residual (root mean square of y - A(x), [-1, 1] units) of every image."""
        misfit = self.measurement.y - self.measurement.operator().A(images)
        quality = {
            "psnr": psnr(images, self.truth),
            "ssim": ssim(images, self.truth),
            "perceptual": feature_distance(self.features, images, self.truth),
            "residual": norms(misfit) / misfit[0].numel() ** 0.5,
        }
        return {name: np.asarray(value, dtype=float) for name, value in quality.items()}


def tune(
    bench: Bench, step_sizes: Sequence[float], corrections: Sequence[float], consistent: Sequence[float]
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """Choose every method's step size eta (and c, k, fresh noise) by mean PSNR on ``bench``'s validation images.

    Returns the choices {method: {"eta": ..., ...}} for full_length, flash_published, flash_consistent and fixed (start
    at the mean of the adaptive ones, so at equal mean NFE), and the table of all trials: method, eta, option, nfe,
    psnr, ssim, perceptual (means).
    """
    severity = bench.encoder.infer(bench.measurement.y)
    mean_start = int(match_snr(bench.prior, severity.variance).double().mean().round())
    candidates: dict[str, list[tuple[dict, Callable[[float], Result]]]] = {
        "flash_published": [
            ({"correction": c}, lambda eta, c=c: bench.flash(PublishedStart(c), eta, "published start"))
            for c in corrections
        ],
        "flash_consistent": [
            ({"k": k}, lambda eta, k=k: bench.flash(ConsistentStart(k), eta, "consistent start")) for k in consistent
        ],
        "fixed": [
            ({"fresh": f}, lambda eta, f=f: bench.flash(FixedStart(mean_start, f), eta, "fixed start"))
            for f in (0.0, 1.0)
        ],
        "full_length": [({}, lambda eta: bench.full_length(eta, "full length"))],
    }
    trials, chosen = [], {}
    for method, options in candidates.items():
        for option, run in options:
            for eta in step_sizes:
                result = run(eta)
                means = {name: float(value.mean()) for name, value in bench.quality(result.images).items()}
                trials.append(
                    {"method": method, "eta": eta, **option, "nfe": float(result.nfe.double().mean()), **means}
                )
        best = max((trial for trial in trials if trial["method"] == method), key=lambda trial: trial["psnr"])
        chosen[method] = {"eta": best["eta"], **{name: best[name] for name in options[0][0]}}
    return chosen, pd.DataFrame(trials)


def reconstruct(
    bench: Bench, chosen: Mapping[str, Mapping[str, float]], fixed_starts: Sequence[int]
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Every method of the comparison on the same measurements: rows (image x method), images per method, timings.

    Methods: no_diffusion (D(z_hat)), full_length, flash_published, flash_consistent, fixed_mean (start at the mean of
    the adaptive ones: equal mean NFE), fixed_<start>, and two negative controls of the published rule, shuffled_severity
    (sigma_hat permuted over the images) and random_start (index uniform on 0..2 x mean).
    """
    began = time.perf_counter()
    severity = bench.encoder.infer(bench.measurement.y)
    inference = time.perf_counter() - began
    start = match_snr(bench.prior, severity.variance)
    mean_start = int(start.double().mean().round())
    n = len(start)
    shuffled = severity._replace(variance=severity.variance[_cyclic_shuffle(n, bench.seed)])
    random = severity._replace(variance=_random_variance(bench, mean_start).to(severity.variance))

    published = PublishedStart(chosen["flash_published"]["correction"])
    consistent = ConsistentStart(chosen["flash_consistent"]["k"])
    eta = {method: options["eta"] for method, options in chosen.items()}
    fixed = FixedStart(mean_start, chosen["fixed"]["fresh"])
    runs: dict[str, Callable[[str], Result]] = {
        "no_diffusion": lambda title: bench.flash(FixedStart(-1), 0.0, title, severity),
        "flash_published": lambda title: bench.flash(published, eta["flash_published"], title),
        "flash_consistent": lambda title: bench.flash(consistent, eta["flash_consistent"], title),
        "fixed_mean": lambda title: bench.flash(fixed, eta["fixed"], title, severity),
        "shuffled_severity": lambda title: bench.flash(published, eta["flash_published"], title, shuffled),
        "random_start": lambda title: bench.flash(published, eta["flash_published"], title, random),
    }
    for index in fixed_starts:
        rule = replace(fixed, index=index)
        runs[f"fixed_{index}"] = lambda title, rule=rule: bench.flash(rule, eta["fixed"], title, severity)
    runs["full_length"] = lambda title: bench.full_length(eta["full_length"], title)

    sbar = latent_error_variance(severity.z_hat, encode(bench.prior, bench.truth)).sqrt()
    tables, images, timings = [], {}, {}
    for method, run in runs.items():
        result = run(method)
        shared = {"image": bench.measurement.ids, "method": method, "t": bench.measurement.t}
        severity_columns = {"sigma_hat": severity.sigma_hat, "sbar": sbar}
        cost = {"start": result.start, "nfe": result.nfe, "decodes": result.decodes}
        columns = shared | severity_columns | cost | bench.quality(result.images)
        tables.append(pd.DataFrame({k: v if isinstance(v, str) else np.asarray(v) for k, v in columns.items()}))
        images[method] = result.images.numpy()
        timings[method] = {
            "seconds": result.seconds,
            "images": n,
            "nfe": int(result.nfe.sum()),
            "engine_calls": result.engine.calls,
        }
    timings["severity_encoder"] = {"seconds": inference, "images": n, "nfe": 0, "engine_calls": 0}
    return pd.concat(tables, ignore_index=True), images, timings


def _cyclic_shuffle(n: int, seed: int) -> np.ndarray:
    """For every image the index of another one (n >= 2): a random cycle, so that no image keeps its own severity."""
    cycle = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=int)
    other[cycle] = np.roll(cycle, 1)
    return other


def _random_variance(bench: Bench, mean_start: int) -> Tensor:
    """The variance whose matched index is uniform on 0..2 mean_start, one per image."""
    draw = uniform(bench.measurement.ids, seed=bench.seed, step=0, stream=Stream.CONTROL, like=bench.truth)
    last = min(2 * mean_start, bench.prior.n_steps - 1)
    abar = bench.prior.signal((draw * (last + 1)).long())
    return (1 - abar) / abar


def save_images(path: str, bench: Bench, images: Mapping[str, np.ndarray]) -> None:
    """Write truth, measurement and every method's images (n, C, H, W) with their ids and levels to one .npz file."""
    measurement = bench.measurement
    np.savez_compressed(
        path,
        truth=bench.truth.numpy(),
        measurement=measurement.y.numpy(),
        image=measurement.ids,
        t=measurement.t.numpy(),
        **images,
    )
