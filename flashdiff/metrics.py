"""Image quality per image, distances in a small classifier's features, and the numbers a stage reports.

LPIPS and FID need networks trained on photographs (:mod:`flashdiff.published_distances`); at 32 x 32 the *perceptual
distance* and the *Frechet distance* here are measured in the features of a small classifier of the study's own training
images, and are named so.
"""

import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd
import scipy.linalg
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from flashdiff.datasets import to_float
from flashdiff.devices import device
from flashdiff.intervals import CORRELATIONS, bootstrap, paired_gains, significant
from flashdiff.methods import ADAPTIVE, baselines, distance_names
from flashdiff.tables import calibration
from flashdiff.training import Recipe, keyed, train


def psnr(x: Tensor, reference: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio per image in dB, (B,): images (B, C, H, W) clipped to [-1, 1], so the range is 2."""
    error = (x.clamp(-1, 1).double() - reference.double()).square().flatten(1).mean(1)
    return (10 * (4 / error).log10()).cpu().numpy()


def ssim(x: Tensor, reference: Tensor) -> np.ndarray:
    """Structural similarity per image (B,), Gaussian window of 1.5 pixels, range 2. Source: Wang et al. 2004."""
    options = {
        "data_range": 2.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    pairs = zip(x.clamp(-1, 1).double().cpu().numpy(), reference.double().cpu().numpy(), strict=True)
    return np.array([structural_similarity(a, b, **options) for a, b in pairs])


class Distances(Protocol):
    """How far images (n, C, H, W) in [-1, 1] are from the true ones, each from its own and all of them as a distribution."""

    def perceptual(self, x: Tensor, reference: Tensor) -> np.ndarray:
        """The distance of every image to its reference (n,); NaN throughout where it is not measured."""

    def frechet(self, images: Mapping[str, Tensor], truth: Tensor) -> dict[str, float]:
        """The Frechet distance of every method's images to the true ones, by method; NaN where it is not measured."""


class Features(ModelMixin, ConfigMixin):
    """A small classifier whose feature maps measure distances between images.

    Images (B, in_channels, H, W) in [-1, 1]; four blocks of convolutions, each halving the resolution but the first;
    the penultimate features (B, 64) are the means of the last block's maps.
    """

    @register_to_config
    def __init__(self, in_channels: int, n_classes: int, widths: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        self.blocks = nn.ModuleList()
        before = in_channels
        for number, width in enumerate(widths):
            convolution = nn.Conv2d(before, width, 3, stride=1 if number == 0 else 2, padding=1)
            self.blocks.append(nn.Sequential(convolution, nn.GroupNorm(8, width), nn.SiLU()))
            before = width
        self.head = nn.Linear(before, n_classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps of every block."""
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def penultimate(self, x: Tensor) -> Tensor:
        """(B, 64): the features of the Frechet distance."""
        return self.maps(x)[-1].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.penultimate(x))

    def perceptual(self, x: Tensor, reference: Tensor) -> np.ndarray:
        """:func:`feature_distance` (n,): not LPIPS."""
        return feature_distance(self, x, reference)

    def frechet(self, images: Mapping[str, Tensor], truth: Tensor) -> dict[str, float]:
        """:func:`frechet` in the penultimate features, of every method's images to the true ones: not FID."""
        real = penultimate(self, truth)
        return {method: frechet(penultimate(self, found), real) for method, found in images.items()}


def train_features(
    images: np.ndarray, labels: np.ndarray, parameters: Mapping, checkpoint: str | os.PathLike
) -> tuple[Features, pd.DataFrame]:
    """Train the classifier on uint8 images; without labels (-1) it learns which of four quarter turns an image took.

    ``parameters`` is the study's ``prior.features``. Returns the classifier and its learning curve with ``accuracy`` on
    the training batches.
    """
    turned = bool((labels < 0).all())
    torch.manual_seed(parameters["seed"])
    model = Features(images.shape[1], 4 if turned else int(labels.max()) + 1).to(device())

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_float(images[ids])
        target = torch.from_numpy((ids + step) % 4 if turned else labels[ids])
        if turned:
            x = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x, target, strict=True)])
        x, target = x.to(device()), target.to(device())
        logits = model(x)
        return F.cross_entropy(logits, target), {"accuracy": (logits.argmax(1) == target).float().mean()}

    recipe = Recipe.of(parameters)
    path = keyed(checkpoint, dict(parameters), images, labels)
    return model, train(model, loss, len(images), recipe, path, title="features")


@torch.no_grad()
def feature_distance(features: Features, x: Tensor, reference: Tensor, batch_size: int = 250) -> np.ndarray:
    """Perceptual distance per image (B,): squared difference of feature maps normalised over channels.

    Every position's feature vector has length 1, differences are averaged over positions and blocks: the form of LPIPS
    (Zhang et al. 2018) in another network and without its learned weights, so not LPIPS.
    """
    parts = []
    for a, b in zip(x.split(batch_size), reference.split(batch_size), strict=True):
        distance = torch.zeros(len(a), device=features.device)
        for p, q in zip(features.maps(a.to(features.device)), features.maps(b.to(features.device)), strict=True):
            difference = (F.normalize(p, dim=1) - F.normalize(q, dim=1)).square().sum(1)
            distance += difference.flatten(1).mean(1) / len(features.blocks)
        parts.append(distance.cpu())
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def penultimate(features: Features, x: Tensor, batch_size: int = 250) -> np.ndarray:
    """The classifier's penultimate features of images, (n, 64) float64."""
    return (
        torch.cat([features.penultimate(part.to(features.device)).cpu() for part in x.split(batch_size)])
        .double()
        .numpy()
    )


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the normal distributions fitted to features a (n, d) and b (m, d): |mu|^2 + tr(A + B - 2 (AB)^0.5).

    The fitted covariances of few images are poor: the distance is biased upwards, compare it at equal n only. Source:
    Dowson & Landau 1982.
    """
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr sqrt(AB) = sum of the square roots of the eigenvalues of A^0.5 B A^0.5, which is symmetric
    values, vectors = scipy.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root @ covariance_b @ root).clip(min=0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross)


def frechet_distances(
    distances: Distances, truth: Tensor, images: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | int | None]]:
    """{method: {"value", "n"}}: Frechet distance of every method's images to the true ones; None: not measured."""
    found = distances.frechet({method: torch.from_numpy(part) for method, part in images.items()}, truth)
    return {method: {"value": significant(value), "n": len(truth)} for method, value in found.items()}


def ordering_metrics(rows: pd.DataFrame, seed: int = 0, n_resamples: int = 2000) -> dict:
    """Ordering accuracy over images, from one row per image x level (image, t, sigma_hat)."""
    from flashdiff.severity import ordering_accuracy

    sigma = rows.sort_values(["image", "t"]).groupby("image").sigma_hat.apply(np.array)
    accuracy = ordering_accuracy(torch.from_numpy(np.stack(sigma.to_list()))).numpy()
    return {"ordering_accuracy": bootstrap(accuracy, np.mean, n_resamples, seed), "levels": int(rows.t.nunique())}


def severity_metrics(rows: pd.DataFrame, n_resamples: int, seed: int = 0, distances: str = "features") -> dict:
    """How predicted severity relates to level and true error; calibration; how Gaussian the error is.

    distances: what measured them (``reconstruction.distances``); their names for readers are in "distances".
    """
    sigma, sbar, t = (rows[name].to_numpy() for name in ("sigma_hat", "sbar", "t"))
    summary: dict = {"distances": distance_names(distances, len(rows))}
    for name, correlation in CORRELATIONS.items():
        summary[f"{name}_level"] = bootstrap((sigma, t), correlation, n_resamples, seed)
        summary[f"{name}_error"] = bootstrap((sigma, sbar), correlation, n_resamples, seed)
    summary["calibration_ratio"] = bootstrap((sigma, sbar), lambda a, b: np.mean(a) / np.mean(b), n_resamples, seed)
    bins = calibration(rows, bins=10)
    gap = float(np.average((bins.sigma_hat - bins.sbar).abs(), weights=bins.n))
    summary["expected_calibration_error"] = significant(gap)
    summary["mean_start"] = bootstrap(rows.start.to_numpy(dtype=float), np.mean, n_resamples, seed)
    summary |= {f"start_p{q:02d}": float(np.percentile(rows.start, q)) for q in (5, 95)}
    for name in ("kurtosis", "neighbour_correlation"):
        summary[name] = bootstrap(rows[name].to_numpy(), np.mean, n_resamples, seed)
    return summary


def reconstruction_metrics(rows: pd.DataFrame, n_resamples: int, seed: int = 0, distances: str = "features") -> dict:
    """Quality and cost of every method, and the paired gains of the adaptive ones over every baseline.

    distances: what measured them (``reconstruction.distances``); their names for readers are in "distances".
    """
    methods = {}
    for method, part in rows.groupby("method", sort=False):
        names = ("psnr", "ssim", "perceptual", "start", "nfe", "decodes", "residual")
        methods[method] = {
            name: bootstrap(part[name].to_numpy(dtype=float), np.mean, n_resamples, seed) for name in names
        }
    gains = {
        method: {
            baseline: paired_gains(rows, method, baseline, n_resamples, seed)
            for baseline in baselines(method)
            if baseline in methods
        }
        for method in ADAPTIVE
        if method in methods
    }
    names = distance_names(distances, rows.image.nunique())
    return {"distances": names, "methods": methods, "gains": gains}


def speed_metrics(timings: Mapping[str, Mapping[str, float]]) -> dict:
    """Wall clock of the adaptive methods against the full-length baseline, from one run of each: no interval."""
    full = timings["full_length"]["seconds"]
    adaptive = [method for method in ADAPTIVE if method in timings]
    measured = {method: timings[method] for method in (*adaptive, "full_length")}
    return {
        "wall_clock_ratio": {
            method: {
                "value": significant(full / timings[method]["seconds"]),
                "low": None,
                "high": None,
                "n": timings[method]["images"],
            }
            for method in adaptive
        },
        "seconds_per_image": {method: significant(t["seconds"] / t["images"]) for method, t in measured.items()},
        "milliseconds_per_evaluation": {
            method: significant(1e3 * t["seconds"] / t["nfe"]) for method, t in measured.items()
        },
    }
