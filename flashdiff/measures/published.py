"""LPIPS and FID: distances between images in the networks that papers measure them in.

As the authors of Flash-Diffusion measure them (Fabian et al. 2024; their released code): LPIPS 0.1 in VGG16 (Zhang et
al. 2018), and the Frechet distance in the 2048 features of torch-fidelity's Inception (Heusel et al. 2017; Obukhov et
al. 2020), both as torchmetrics has them. The networks need torchvision, torch-fidelity and two downloads; what cannot
be had is not measured, and said so once.

The networks see photographs of 299 pixels (FID enlarges) and hundreds of images: for small pictures and few of them use
the study's own :class:`flashdiff.measures.features.Features`.

Tested with small networks in their place, and once with VGG16 and Inception themselves at random weights (torchvision
0.28.0, torch-fidelity 0.4.0, torchmetrics 1.9.0). Not verified: numbers with the trained weights, which could not be
downloaded where this was written, and the downloads.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from flashdiff.devices import device
from flashdiff.measures.features import Distances, Features
from flashdiff.messages import say

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

WEIGHTS = {
    "LPIPS (VGG)": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "FID (Inception)": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
}
"""What is measured, and where its library downloads the network's weights from; LPIPS' own weights are in torchmetrics."""


@dataclass(frozen=True)
class PublishedDistances:
    """LPIPS per image and FID per method, of grey or RGB images (n, 1 or 3, H, W) in [-1, 1]; grey is repeated.

    lpips: two batches (B, 3, H, W) in [-1, 1] -> (B, 1, 1, 1), or None: not measured; fid: the metric on uint8 images,
    or None. They compute where their networks are, batch_size images at a time; images may lie elsewhere.
    """

    lpips: nn.Module | None
    fid: "FrechetInceptionDistance | None"
    batch_size: int = 16

    @classmethod
    def load(cls) -> Self:
        """Both networks on this process's device. One that cannot be had is None; stderr tells the reasons and the remedy."""
        loaders: dict[str, Callable[[], nn.Module]] = {"LPIPS (VGG)": _lpips, "FID (Inception)": _fid}
        networks, missing = dict.fromkeys(loaders), {}
        # Metal has no float64, in which FID adds up
        place = torch.device("cpu") if device().type == "mps" else device()
        for name, load in loaders.items():
            try:
                networks[name] = load().to(place)
            except Exception as error:  # no library, one that does not fit torch, no network, a damaged file
                missing[name] = " ".join(str(error).split()) or type(error).__name__
        if missing:
            reasons = "; ".join(f"{name} is not measured ({reason})" for name, reason in missing.items())
            files = " and ".join(WEIGHTS[name] for name in missing)
            say(
                f"{reasons}; everything else is. Remedy: pip install 'flashdiff[published-distances]', with the torchvision "
                f"that fits the installed torch; where nothing can be downloaded, put {files} into "
                f"{os.path.join(torch.hub.get_dir(), 'checkpoints')}."
            )
        return cls(networks["LPIPS (VGG)"], networks["FID (Inception)"])

    @torch.no_grad()
    def perceptual(self, x: Tensor, reference: Tensor) -> np.ndarray:
        """LPIPS of every image to its reference (n,), at least 16 x 16 pixels; NaN where it is not measured."""
        if self.lpips is None:
            return np.full(len(x), np.nan)
        parts = [
            self.lpips(_rgb(a, self.lpips), _rgb(b, self.lpips)).flatten().cpu()
            for a, b in zip(x.split(self.batch_size), reference.split(self.batch_size), strict=True)
        ]
        return torch.cat(parts).double().numpy()

    @torch.no_grad()
    def frechet(self, images: Mapping[str, Tensor], truth: Tensor) -> dict[str, float]:
        """FID of every method's images to the true ones, by method; NaN where it is not measured.

        At least two images each. With fewer than the 2048 features the fitted covariances are singular and FID is far
        too large: compare it at equal n only. Per method it takes half a minute of one CPU core, however few the images:
        the square root of a 2048 x 2048 matrix.
        """
        if self.fid is None:
            return dict.fromkeys(images, float("nan"))
        self.fid.reset_real_features = True
        self.fid.reset()
        self._count(truth, real=True)
        self.fid.reset_real_features = False  # all methods are held against the same true images
        distances = {}
        for method, found in images.items():
            self.fid.reset()
            self._count(found, real=False)
            distances[method] = float(self.fid.compute())
        return distances

    def _count(self, images: Tensor, real: bool) -> None:
        """Add images to FID's statistics, rounded to the 256 levels of image files: true images become what they were."""
        for part in images.split(self.batch_size):
            self.fid.update(_rgb(part, self.fid).add(1).mul(127.5).round().to(torch.uint8), real=real)


def load_distances(kind: str, features: str | Path = "data/prior/features") -> Distances:
    """What measures a study's distances, on this process's device: ``reconstruction.distances``, features or published.

    features: folder of the prior's own classifier. A prior from elsewhere has none: stderr says so, and nothing is measured.
    """
    if kind == "published":
        return PublishedDistances.load()
    if not Path(features).is_dir():
        say(
            f"{features}: not there, a published prior has none, so perceptual and Frechet distances in its features are not "
            "measured, everything else is; reconstruction.distances: published measures LPIPS and FID."
        )
        return PublishedDistances(None, None)
    return Features.from_pretrained(features).to(device())


def _rgb(images: Tensor, network: nn.Module) -> Tensor:
    """Images (B, 1 or 3, H, W), clipped, in three channels and where the network is."""
    place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return images.to(place, torch.float32).clamp(-1, 1).expand(-1, 3, -1, -1)


def _lpips() -> nn.Module:
    import torchvision  # noqa: F401  where there is none that works, this says so best
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    # the metric sums over images, its network does not
    return LearnedPerceptualImagePatchSimilarity(net_type="vgg").net


def _fid() -> "FrechetInceptionDistance":
    import torch_fidelity  # noqa: F401
    from torchmetrics.image.fid import FrechetInceptionDistance

    # resized as FID was defined; torchmetrics' default is a filter that nobody's published numbers have
    return FrechetInceptionDistance(feature=2048, antialias=False)
