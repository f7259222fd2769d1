"""Quality of an image against the true one."""

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor


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
