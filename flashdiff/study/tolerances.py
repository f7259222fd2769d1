"""How far a number may come out apart where the same study is computed elsewhere: the only place where it is written.

Same seed, code and machine give the same bytes. Another number of threads, batch size or number of processes changes the order
in which floats are added; the tests hold single images to ``image``. A rerun on another machine trains the severity encoders
anew besides; ``make reproduce`` holds its numbers, which are means over images, to ``study``. docs/trust.md has what was
measured, by `python -m benchmarks.same_numbers`. Loads nothing heavy.
"""

import math
import re
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What a number says, in words."""

    PSNR = "PSNR and its gains, dB"
    SSIM = "SSIM and its gains"
    PERCEPTUAL = "perceptual distance, and its relative gains"
    SEVERITY = "severity and true errors of latents"
    ORDERING = "ordering accuracy"
    START = "start index"
    EVALUATIONS = "evaluations (NFE), decodes, and their ratios"
    HEADLINE = "other headline values: correlations, ratios"
    COUNT = "numbers of images, levels, seeds, budgets"


class Tolerance(NamedTuple):
    """The largest deviation that passes: of one image with the same weights, and of a number of a study that was rerun.

    relative: that of a study is in units of the number itself where that is above 1.
    """

    image: float
    study: float
    relative: bool = False

    def allowed(self, committed: float, rerun: bool = True) -> float:
        """The deviation that is allowed from a committed number."""
        if not rerun:
            return self.image
        return self.study * max(1.0, abs(committed)) if self.relative else self.study


TOLERANCES = {
    Kind.PSNR: Tolerance(0.02, 0.01),
    Kind.SSIM: Tolerance(5e-4, 0.001),
    Kind.PERCEPTUAL: Tolerance(0.001, 0.005),
    Kind.SEVERITY: Tolerance(1e-4, 0.002),
    # one pair of ten levels
    Kind.ORDERING: Tolerance(0.03, 0.001),
    # a severity half way between two indices
    Kind.START: Tolerance(1, 0.005, relative=True),
    Kind.EVALUATIONS: Tolerance(1, 0.005, relative=True),
    Kind.HEADLINE: Tolerance(0.001, 0.005, relative=True),
    Kind.COUNT: Tolerance(0, 0),
}
"""A study's are below what its intervals leave open: the smallest gain that it reports is 0.09 dB."""
COUNTS = ("n", "images", "seeds", "levels", "budget", "bin", "step", "steps", "evaluations", "true_over_assumed_noise")
PATTERNS = (
    (Kind.COUNT, rf"({'|'.join(COUNTS)})|.* in .*"),
    (Kind.EVALUATIONS, r".*nfe.*|decodes"),
    (Kind.PSNR, r".*psnr.*|.*_db"),
    (Kind.SSIM, r".*ssim.*"),
    (Kind.PERCEPTUAL, r"perceptual.*|frechet"),
    (Kind.ORDERING, r"ordering_accuracy.*"),
    (Kind.START, r"start|start_p\d+|mean_start"),
    (Kind.HEADLINE, r"(spearman|pearson|kendall|calibration).*|.*_(ratio|spread|cost)|kurtosis|neighbour_correlation"),
    (Kind.SEVERITY, r"sigma_hat|sbar|latent|residual|loss|nll|.*error.*"),
)
"""Kind -> what its numbers are called in metrics and tables; the first that fits."""


def kind_of(*path: str) -> Kind:
    """The kind of a number by where it stands: the names that lead to it, the last one first to be asked.

    A column's ends of an interval (``_low``, ``_high``) are of the column's kind. What no name tells is a headline value.
    """
    for name in reversed(path):
        bare = re.sub(r"_(low|high)$", "", name)
        for kind, pattern in PATTERNS:
            if re.fullmatch(pattern, bare):
                return kind
    return Kind.HEADLINE


def passes(here: float, committed: float, kind: Kind, rerun: bool = True) -> bool:
    """Whether a number is within tolerance of the committed one; NaN is equal to NaN, infinities to themselves alone."""
    if math.isnan(here) or math.isnan(committed):
        return math.isnan(here) and math.isnan(committed)
    if math.isinf(here) or math.isinf(committed):
        return here == committed
    return abs(here - committed) <= TOLERANCES[kind].allowed(committed, rerun)
