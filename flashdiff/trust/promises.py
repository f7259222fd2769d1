"""The calibrated intervals that ship with a study, data/confidence/PAIR.json: read, and asked for one degradation. Loads no torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "data/confidence"
LOWEST = {"psnr": -math.inf, "perceptual": 0.0}
"""Measures that have an interval, and what they never go below."""
NO_DIFFUSION, TUNED = "no_diffusion", {"psnr": "few_step", "perceptual": "few_step_perceptual"}
"""Methods: D(z_hat), and the adaptive few-step walks by what they were tuned for; `flashdiff restore` takes the latter."""


def shipped(folder: Path, pairs: Mapping[str, Any], degradation: str) -> dict[str, Any] | None:
    """What :func:`flashdiff.study.confidence.calibrated` wrote for the degradation's first pair that has intervals; None where
    there is none: the degradation is in no pair, or the study has calibrated nothing.

    folder, pairs: of the study.
    """
    for name, pair in pairs.items():
        path = folder / FOLDER / f"{name}.json"
        if pair.degradation == degradation and path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["intervals"]:
                return found
    return None


def of_walk(found: Mapping[str, Any] | None, walk: Mapping[str, Any] | None) -> str | None:
    """The method of :func:`shipped` whose setting is ``walk``; None where no interval is of that very walk."""
    return next((method for method, choice in found["walks"].items() if choice == walk), None) if found else None


def psnr_interval(found: Mapping[str, Any] | None, method: str | None, sigma_hat: float) -> tuple[float, float] | None:
    """The interval of the PSNR in dB of a method's image at a severity; None where none is known, or it is not finite."""
    from flashdiff.trust.conformal import Interval

    if found is None or method not in found["intervals"]:
        return None
    low, high = (float(end) for end in Interval.from_dict(found["intervals"][method]["psnr"])(sigma_hat))
    return (low, high) if math.isfinite(high) else None
