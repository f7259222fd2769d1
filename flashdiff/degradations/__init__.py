"""Degradation operators A(x; t), their adjoints where they are linear, and measurements y = A(x; t) + n.

A degradation is a frozen dataclass and pure: what depends on the severity t (and on the image's identity) alone is
*prepared* once per measurement as a dict of per-sample tensors, and ``apply`` / ``adjoint`` use it at every solver
step. Images x, y are (B, C, H, W), clean range [-1, 1]; t (B,) is the severity level in [0, 1], one per sample.
"""

from collections.abc import Mapping

from flashdiff.degradations.base import Degradation, State, check_level
from flashdiff.degradations.encoded_blur import EncodedBlur
from flashdiff.degradations.gaussian_blur import GaussianBlur
from flashdiff.degradations.inpainting import BoxInpainting, RandomInpainting
from flashdiff.degradations.measurement import Measurement, Operator, check_noise_std, measure
from flashdiff.degradations.mixture import Mixture
from flashdiff.degradations.motion_blur import MotionBlur
from flashdiff.degradations.nonlinear_blur import NonlinearBlur
from flashdiff.degradations.super_resolution import SuperResolution
from flashdiff.fields import shown

__all__ = [
    "DEGRADATIONS",
    "BoxInpainting",
    "Degradation",
    "EncodedBlur",
    "GaussianBlur",
    "Measurement",
    "Mixture",
    "MotionBlur",
    "NonlinearBlur",
    "Operator",
    "RandomInpainting",
    "State",
    "SuperResolution",
    "build",
    "check_level",
    "measure",
]

DEGRADATIONS: dict[str, type[Degradation]] = {
    "gaussian_blur": GaussianBlur,
    "random_inpainting": RandomInpainting,
    "box_inpainting": BoxInpainting,
    "motion_blur": MotionBlur,
    "super_resolution": SuperResolution,
    "nonlinear_blur": NonlinearBlur,
    "encoded_blur": EncodedBlur,
    "mixture": Mixture,
}


def build(entry: Mapping) -> tuple[Degradation, float]:
    """A study's degradation entry -> (degradation, noise_std): ``kind`` selects the class, the rest are its fields.

    The members of a mixture are entries themselves. Raises ValueError naming a missing or unknown kind, a field out of its range, or
    members that do not have the mixture's noise_std; TypeError from the dataclass for an unknown field.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"degradations: an entry is {shown(entry)}; give kind, noise_std and the fields of that kind.")
    fields = dict(entry)
    if missing := [name for name in ("kind", "noise_std") if name not in fields]:
        raise ValueError(f"degradations: {missing[0]} is missing in {fields}; add it.")
    kind, noise_std = fields.pop("kind"), check_noise_std(fields.pop("noise_std"))
    if not isinstance(kind, str) or kind not in DEGRADATIONS:
        raise ValueError(f"degradations: kind {shown(kind)} is unknown; choose one of {', '.join(DEGRADATIONS)}.")
    if "members" in fields:
        fields["members"] = _members(fields["members"], noise_std)
    return DEGRADATIONS[kind](**fields), noise_std


def _members(entries: Mapping[str, Mapping], noise_std: float) -> dict[str, Degradation]:
    if not isinstance(entries, Mapping):
        raise ValueError(f"Mixture: members is {shown(entries)}; give a degradation entry by each member's name.")
    members = {}
    for name, entry in entries.items():
        members[name], own = build(entry)
        if own != noise_std:
            raise ValueError(
                f"Mixture: member {name!r} has noise_std {own:g}, the mixture {noise_std:g}; give both the same."
            )
    return members
