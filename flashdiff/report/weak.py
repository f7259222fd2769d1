"""Weak baselines: full-length walks that cost hardly more than Flash, such as 40 evenly spaced steps from pure noise.

To beat one saves nothing, and where it fails it fails on every image in its own way: differences to it say little of Flash.
So figures draw it hollow, it does not set the limits of their axes, and intervals are of the difference to D(z_hat).
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from flashdiff.study.methods import adaptive

WEAK = 1.5
"""A baseline that takes less than so many times the evaluations of Flash is weak. Of several start rules the dearest counts."""


def is_weak(nfe: Mapping[str, float]) -> bool:
    """Whether the full-length baseline is weak; False where there is none, or no adaptive walk beside it.

    nfe: method -> its mean evaluations per image.
    """
    flash = [nfe[method] for method in adaptive(nfe.keys())]
    return "full_length" in nfe and bool(flash) and bool(nfe["full_length"] < WEAK * max(flash))


def reference(nfe: Mapping[str, float]) -> str:
    """The method that intervals are of the difference to: the full-length baseline or, where it is weak, D(z_hat)."""
    return "no_diffusion" if is_weak(nfe) and "no_diffusion" in nfe else "full_length"


def weak_pairs(records: Iterable[Mapping]) -> set[tuple[str, str]]:
    """The pairs (degradation, solver) whose baseline is weak, by the records of the claim nfe_ratio."""
    ratios = (r for r in records if r["claim"] == "nfe_ratio" and pd.notna(r["value"]))
    return {(r["degradation"], r["solver"]) for r in ratios if r["value"] < WEAK}
