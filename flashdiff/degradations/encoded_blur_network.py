"""The learned blur operator F(x, k) of Tran et al. 2021, in the layout of its authors' weights.

Tran, Tran, Phung, Hoai, "Explore Image Deblurring via Encoded Blur Kernel Space", CVPR 2021. A code k stands for a blur
kernel; F applies it to a sharp image. The authors publish the weights (GOPRO_wVAE.pth) as one state_dict for F and for
the network that extracts codes from pairs of images; the latter is not needed here and only its names are checked.
"""

from functools import lru_cache
from pathlib import Path
from typing import Self

import pooch
import torch
from torch import Tensor, nn

from flashdiff.messages import without_advice

WIDTH = 64
CODE_CHANNELS = 512


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu())


class AdapterLevel(nn.Module):
    """One resolution of the adapter, a U-Net: halve, go through the levels within, double, join with the input.

    The innermost level joins its features with the code. Places in ``down`` and ``up`` are those of the published names.
    """

    def __init__(self, outer: int, inner: int, within: nn.Module | None, outermost: bool = False):
        super().__init__()
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        up = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=outermost)
        self.outermost = outermost
        self.down = nn.Sequential(down) if outermost else nn.Sequential(nn.LeakyReLU(0.2), down)
        self.submodule = within
        self.up = nn.Sequential(nn.ReLU(), up)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        h = self.down(x)
        h = torch.cat([h, code], dim=1) if self.submodule is None else self.submodule(h, code)
        h = self.up(h)
        return h.tanh() if self.outermost else torch.cat([h, x], dim=1)


class Adapter(nn.Module):
    """Features of the sharp image and a code -> features of the blurred image."""

    def __init__(self):
        super().__init__()
        level = None
        for outer, inner in [(512, 512), (256, 512), (128, 256), (64, 128), (WIDTH, 64)]:
            level = AdapterLevel(outer, inner, level, outermost=inner == 64)
        self.model = level

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        return self.model(features, code)


class EncodedBlurNetwork(nn.Module):
    """F(x, k) = x + trunk(adapter(features(x), k)); x (B, 3, H, W) in [0, 1], k (B, 512, H / 128, W / 128)."""

    def __init__(self):
        super().__init__()
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            *(ResidualBlock() for _ in range(10)),
        )
        self.adapter = Adapter()
        self.recon_trunk = nn.Sequential(
            *(ResidualBlock() for _ in range(20)),
            nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, 3, 3, padding=1),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return x + self.recon_trunk(self.adapter(self.feature_extractor(x), code))

    @classmethod
    def load(cls, weights: str, sha256: str | None) -> Self:
        """F from a published state_dict; nothing in the file is executed.

        weights: a file, or an https URL, which is downloaded once; sha256: of the file, checked before it is opened.
        Raises FileNotFoundError, OSError (download), or ValueError for another checksum, a file that is more than
        tensors, missing or unknown names, wrong shapes.
        """
        path = _local(weights, sha256)
        state = _tensors(path)
        with torch.device("meta"):
            network = cls()
        own = network.state_dict()
        names = own.keys() | EXTRACTOR
        problems = {
            "lacks": sorted(names - state.keys()),
            "has the unknown names": sorted(state.keys() - names),
            "has wrong shapes for": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
        }
        found = "; ".join(f"{what} {_some(keys)}" for what, keys in problems.items() if keys)
        if found:
            raise ValueError(f"weights: {path} {found}; give the state_dict published by the authors.")
        network.load_state_dict({name: state[name].float() for name in own}, assign=True)
        return network.eval().requires_grad_(False)


EXTRACTOR = frozenset(
    [f"kernel_extractor.model.{i}.weight" for i in (1, 4, 7, 10, 13, 16)]
    + [f"kernel_extractor.model.{i}.conv_block.{j}.weight" for i in (19, 20, 21, 22) for j in (1, 5)]
)
"""Names of the part of the published weights that extracts codes; F does without it."""


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _tensors(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file; ValueError when it is anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # refuses all that would run code
    except Exception as error:  # bytes of another kind make the reader raise whatever they happen to
        reason = without_advice(" ".join(str(error).split()))[:200]
        raise ValueError(
            f"weights: {path} is not a file of tensors ({reason}); give the state_dict published by the authors."
        ) from None
    if not (isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())):
        raise ValueError(f"weights: {path} holds something else than named tensors; give the published state_dict.")
    return state


def _local(weights: str, sha256: str | None) -> Path:
    """The weights on this machine, downloaded when they are a URL, with the right checksum."""
    if weights.startswith("https://"):
        return _downloaded(weights, sha256)
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights: there is no file {weights!r}; download the authors' GOPRO_wVAE.pth and give its path."
        )
    if sha256 is not None and (actual := pooch.file_hash(path)) != sha256:
        raise ValueError(f"sha256: {path} has {actual[:12]}..., not {sha256[:12]}...; fetch the file again.")
    return path


def _downloaded(url: str, sha256: str) -> Path:
    pooch.get_logger().setLevel("WARNING")  # it would announce every download a second time, beside the progress bar
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=20)
    try:
        file = pooch.retrieve(
            url, f"sha256:{sha256}", f"{sha256}.pth", pooch.os_cache("flashdiff"), downloader=downloader
        )
    except (OSError, ValueError) as error:  # no network, no such file, or another checksum
        reason = " ".join(str(error).split())
        raise OSError(
            f"weights: {url} could not be fetched ({reason}); download it by hand and give its path."
        ) from None
    return Path(file)


def apply_network(x: Tensor, code: Tensor, weights: str, sha256: str | None) -> Tensor:
    """F(x, k) for images x (B, 3, H, W) in [-1, 1], clipped to that range; clipped pixels have gradient 0."""
    network = _network(weights, sha256, str(code.device), code.dtype)
    return (2 * network((x + 1) / 2, code) - 1).clamp(-1, 1)


@lru_cache(maxsize=2)
def _network(weights: str, sha256: str | None, device: str, dtype: torch.dtype) -> EncodedBlurNetwork:
    return EncodedBlurNetwork.load(weights, sha256).to(device, dtype)
