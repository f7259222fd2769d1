"""What the quality of reconstructions is measured by: one table, :data:`MEASURES`. A new measure is one entry and one function.

Tables, intervals, figures, claims and the page loop over the table. Importing it imports no network library.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One number per image that says how near it is to the true one.

    name: the column of per-image rows; label and unit ("" for none): what readers see; gain: the name of the column, and of
    the claim, of what a method gains in it, positive where it is better. relative: a gain is the relative change of the mean,
    else the mean difference. in_figures: drawn, and held against the negative controls, too. optional: a study may go
    without, its column is then NaN throughout. compute: (images, truth, distances) -> (n,), for images and truth
    (n, C, H, W) in [-1, 1] and the study's :class:`flashdiff.measures.features.Distances`.
    """

    name: str
    label: str
    unit: str
    gain: str
    compute: Callable[..., np.ndarray]
    higher_is_better: bool = True
    relative: bool = False
    in_figures: bool = True
    optional: bool = False

    @property
    def gain_unit(self) -> str:
        """What a gain is counted in: "relative", the unit, or, for want of one, the measure itself."""
        return "relative" if self.relative else self.unit or self.label

    def improvement(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """What one method gains over another in this measure, from the values (n,) of both on the same images."""
        if self.relative:
            ratio = np.mean(ours) / np.mean(theirs)
            return ratio - 1 if self.higher_is_better else 1 - ratio
        return np.mean(ours - theirs if self.higher_is_better else theirs - ours)


def _psnr(images, truth, distances):
    from flashdiff.measures.quality import psnr

    return psnr(images, truth)


def _frame_psnr(images, truth, distances):
    from flashdiff.measures.quality import frame_psnr

    return frame_psnr(images, truth)


def _ssim(images, truth, distances):
    from flashdiff.measures.quality import ssim

    return ssim(images, truth)


def _perceptual(images, truth, distances):
    return distances.perceptual(images, truth)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("psnr", "PSNR", "dB", "psnr_gain_db", _psnr),
        Measure("frame_psnr", "PSNR without the padding", "dB", "frame_psnr_gain_db", _frame_psnr, in_figures=False),
        Measure("ssim", "SSIM", "", "ssim_gain", _ssim, in_figures=False),
        Measure("perceptual", "perceptual distance", "", "perceptual_gain", _perceptual, higher_is_better=False, relative=True,
                optional=True),
    )
}  # fmt: skip
"""By name, in the order in which readers see them; the first is the one that is named where there is room for one."""


def in_figures() -> list[Measure]:
    """Those that are drawn and held against the controls."""
    return [measure for measure in MEASURES.values() if measure.in_figures]


def optional() -> list[str]:
    """Names of those that a study may go without: columns that may be NaN throughout."""
    return [measure.name for measure in MEASURES.values() if measure.optional]
