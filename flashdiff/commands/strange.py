"""Which images are stranger than those that an encoder was calibrated on: the warning of `flashdiff severity` and `restore`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdiff.commands.studies import Place

TABLES = "data/shift"
"""Where a study keeps its thresholds, one file per pair; see :func:`flashdiff.study.shift.thresholds`."""


@dataclass(frozen=True)
class Watch:
    """What images of one degradation are held against: its study entry, the noise, and the thresholds of the encoder that is asked."""

    degradation: str
    entry: dict[str, Any]
    noise_std: float
    limits: dict[str, Any]

    @classmethod
    def of(cls, place: Place, degradation: str | None, encoder: Path, noise_std: float | None = None) -> "Watch | None":
        """The thresholds of a degradation for an encoder and a noise (None: the study's); None where none were calibrated."""
        files = [
            place.folder / TABLES / f"{n}.json" for n, p in place.study.pairs.items() if p.degradation == degradation
        ]
        found = next((json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()), None)
        if found is None or noise_std not in (None, found["noise_std"]):
            return None
        name = "shipped" if encoder == place.shipped else "own"
        if name not in found["encoders"]:
            return None
        return cls(degradation, place.entries[degradation], found["noise_std"], found["encoders"][name])

    def flags(self, y, severity, prior, ids) -> list[bool]:
        """Whether each measurement of y (B, C, H, W) is flagged, by what the encoder said of it and the prior's D(z_hat)."""
        from flashdiff.batch import slice_size
        from flashdiff.degradations import build
        from flashdiff.trust.blind import fit
        from flashdiff.trust.shift import Thresholds

        degradation, _ = build(self.entry)
        decoded = prior.decode_in_slices(severity.z_hat, slice_size(y)).to(y)
        misfit = fit(y, decoded, degradation, self.noise_std, ids).misfit / (self.noise_std or 1.0)
        sigma_hat = severity.sigma_hat.cpu().numpy()
        return Thresholds.from_dict(self.limits).flagged(sigma_hat, misfit.cpu().numpy()).tolist()

    def warning(self, flags: Sequence[bool]) -> str | None:
        """One sentence on the flagged images, None where there are none."""
        count = sum(flags)
        if not count:
            return None
        return (
            f"{count} of {len(flags)} images (column flagged) fit {self.degradation} with noise {self.noise_std:g} worse than "
            f"{1 - self.limits['alarm']:.0%} of images that have it; do not trust what is said or made of them before you know why."
        )
