"""Images in bins of like predicted severity."""

import numpy as np


def by_severity(sigma_hat: np.ndarray, bins: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Indices of the images of each bin, of equal count but for rounding and by rising sigma_hat (n,), and the bins' medians
    (bins,).

    Raises ValueError for fewer images than bins.
    """
    if not 1 <= bins <= len(sigma_hat):
        raise ValueError(f"bins: {bins} for {len(sigma_hat)} images; give at least one image per bin.")
    parts = np.array_split(np.argsort(sigma_hat, kind="stable"), bins)
    return parts, np.array([np.median(sigma_hat[images]) for images in parts])
