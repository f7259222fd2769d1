"""Distances between images in the features of a small classifier of the study's own training images.

LPIPS and FID need networks trained on photographs (:mod:`flashdiff.measures.published`); at 32 x 32 the *perceptual
distance* and the *Frechet distance* are measured here, and are named so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flashdiff.diffusers_folder import load_whole


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

    @classmethod
    def from_pretrained(cls, path: str | Path, **options) -> Self:
        """Load what ``save_pretrained`` wrote; options are those of diffusers' ModelMixin.

        ValueError in one sentence where a folder's weights are damaged, incomplete, or another network's; FileNotFoundError.
        """
        return load_whole("features", super().from_pretrained, path, **options)

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
