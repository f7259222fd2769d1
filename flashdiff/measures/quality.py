"""Quality of an image against the true one."""

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor


def psnr(x: Tensor, reference: Tensor) -> np.ndarray:
    """Peak signal-to-noise ratio per image in dB, (B,): images (B, C, H, W) clipped to [-1, 1], so the range is 2."""
    error = (x.clamp(-1, 1).double() - reference.double()).square().flatten(1).mean(1)
    return (10 * (4 / error).log10()).cpu().numpy()


def frame_psnr(x: Tensor, reference: Tensor) -> np.ndarray:
    """:func:`psnr` within the smallest centred frame outside of which all reference images are -1 (B,).

    A data set that was padded (28 x 28 to 32 x 32, say) has a border that every method gets right. Without one it is the PSNR.
    """
    margin, smallest = 0, min(reference.shape[-2:])
    while 2 * (margin + 1) < smallest and bool((_ring(reference, margin) == -1).all()):
        margin += 1
    height, width = reference.shape[-2:]
    inner = (..., slice(margin, height - margin), slice(margin, width - margin))
    return psnr(x[inner], reference[inner])


def _ring(x: Tensor, k: int) -> Tensor:
    """The pixels (B, C, n) at distance k from the border."""
    height, width = x.shape[-2:]
    rows, columns = x[..., [k, height - 1 - k], k : width - k], x[..., k : height - k, [k, width - 1 - k]]
    return torch.cat([rows.flatten(2), columns.flatten(2)], dim=2)


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
