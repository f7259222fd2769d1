"""Nobody says the degradation: its level is estimated from the measurement, and images are restored with it; and which kind it is."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.batch import slice_size
from flashdiff.datasets.splits import split_ids
from flashdiff.degradations import Measurement, RandomInpainting, build, measure
from flashdiff.flash import Result
from flashdiff.measures import MEASURES
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.experiments import uniform_levels
from flashdiff.study.rows import typed
from flashdiff.trust.blind import closest_kind, estimate_level, fit

COLUMNS = {
    "experiment": "str", "variant": "str", "found": "str", "image": "int32", "t": "float32", "told": "float32",
    "after": "float32", "psnr": "float32", "perceptual": "float32", "nfe": "int32",
}  # fmt: skip
"""The record's columns and their types. told: the level that a walk is told; after: that which fits its image best."""


def record(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed(parts, COLUMNS)


def level_rows(bench: Bench, chosen: Mapping, evaluations: float, fixed_level: float) -> pd.DataFrame:
    """What walks of equal mean evaluations reach, by what they are told of the level: rows of COLUMNS, one per image and variant.

    chosen: {budget: {method: {objective: setting}}} of :func:`flashdiff.study.budgets.tune`, of which the adaptive walk tuned
    for PSNR is taken. Variants: known (the true level), fitted (the level t whose A(D(z_hat); t) fits y best), refined (that,
    half of the evaluations, the level that fits this walk's image best, and a walk anew with the other half), fixed (one level
    for all), and for random inpainting mask (which pixels are missing is read off y, and no level is needed). All start from
    the same z_hat, severities and draws.
    """
    whole, half = (chosen[f"{budget:g}"]["adaptive"]["psnr"] for budget in (evaluations, evaluations / 2))
    measurement, severity = bench.measurement, bench.severity
    decoded = bench.prior.decode_in_slices(severity.z_hat, slice_size(bench.truth)).cpu()
    fitted = _level(measurement, decoded)

    def walk(title: str, choice: Mapping, told: Tensor | Measurement) -> Result:
        told = told if isinstance(told, Measurement) else replace(measurement, t=told)
        return few_step(bench, choice)(told, severity, title=title)

    first = walk("blind refined", half, fitted)
    refined = _level(measurement, first.images)
    fixed = torch.full_like(fitted, fixed_level)
    found = {
        "known": (measurement.t, walk("blind known", whole, measurement), 0),
        "fitted": (fitted, walk("blind fitted", whole, fitted), 0),
        "refined": (refined, walk("blind refined", half, refined), first.nfe),
        "fixed": (fixed, walk("blind fixed", whole, fixed), 0),
    }
    if isinstance(measurement.degradation, RandomInpainting):
        own = fit(measurement.y, decoded, measurement.degradation, measurement.noise_std, measurement.ids)
        masked = replace(
            measurement,
            y=own.degradation.A(measurement.y, own.t, measurement.ids),
            degradation=own.degradation,
            t=own.t,
        )
        found["mask"] = own.t, walk("blind mask", whole, masked), 0
    head = {"experiment": "level", "found": "", "image": np.arange(len(bench.truth)), "t": np.asarray(measurement.t)}
    return record(
        pd.DataFrame(
            head | {"variant": variant, "told": np.asarray(told), "nfe": np.asarray(result.nfe + before)}
        ).assign(after=np.asarray(_level(measurement, result.images)), **_quality(bench, result.images))
        for variant, (told, result, before) in found.items()
    )


def _level(measurement: Measurement, x: Tensor) -> Tensor:
    """The level that fits measurements best where their images are x."""
    return estimate_level(measurement.y, x.to(measurement.y), measurement.degradation, measurement.ids)[0]


def _quality(bench: Bench, images: Tensor) -> dict[str, np.ndarray]:
    names = ("psnr", "perceptual")
    found = {name: MEASURES[name].compute(images, bench.truth, bench.distances) for name in names}
    return {name: np.asarray(value, dtype=float) for name, value in found.items()}


def kind_rows(bench: Bench, encoder: SeverityEncoder, kinds: Mapping[str, Mapping]) -> pd.DataFrame:
    """Which kind a measurement is taken for, by an encoder that knows them all and is told none: rows of COLUMNS.

    kinds: name -> study entry; the bench's images are measured by every one, each at its own level, and every one is
    a candidate: the kind and level whose A(D(z_hat); t) fit y best. variant: the true kind; found: that one; psnr and
    perceptual: of D(z_hat), before any walk. No kinds: no rows.
    """
    if not kinds:
        return record([])
    operators = {name: build(entry) for name, entry in kinds.items()}
    ids, x = split_ids("test", len(bench.truth)), bench.truth
    t, parts = uniform_levels(ids, bench.seed, x), []
    for name, (operator, noise_std) in operators.items():
        y = measure(x, operator, t, noise_std, seed=bench.seed, ids=ids).y
        decoded = _decoded(bench.prior, encoder, y)
        found, told, _ = closest_kind(y, decoded, {other: made for other, (made, _) in operators.items()}, ids)
        head = {
            "experiment": "kind",
            "variant": name,
            "found": found,
            "image": np.arange(len(x)),
            "t": np.asarray(t),
            "nfe": 0,
        }
        parts.append(
            pd.DataFrame(head | {"told": np.asarray(told), "after": np.asarray(told)} | _quality(bench, decoded))
        )
    return record(parts)


def _decoded(prior: Prior, encoder: SeverityEncoder, y: Tensor) -> Tensor:
    return prior.decode_in_slices(encoder.infer(y).z_hat, slice_size(y)).to(y)
