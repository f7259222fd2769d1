"""Prediction intervals of what an image becomes, from its severity alone: what calibrates them, and the tables that ship.

Validation images alone come in here: test images are what the study has restored anyway, and they only count.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from flashdiff.batch import slice_size
from flashdiff.measures import MEASURES
from flashdiff.study.budgets import Choice, few_step
from flashdiff.study.comparison import Bench, run_stored
from flashdiff.study.rows import typed
from flashdiff.trust import conformal
from flashdiff.trust.promises import LOWEST, NO_DIFFUSION, TUNED

RUNS = ".build/confidence/{pair}/run"
"""Where the walks of a pair lie, below the study's folder, until their stage has saved its record."""
COLUMNS = {
    "method": "str", "image": "int32", "t": "float32", "sigma_hat": "float32", "nfe": "int32", "psnr": "float32",
    "perceptual": "float32",
}  # fmt: skip
"""The record's columns and their types: a row per validation image and method."""


def record(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed(parts, COLUMNS)


def walks(tuned: Mapping[str, Mapping[str, Mapping[str, Choice]]], evaluations: float) -> dict[str, Choice]:
    """{method: few-step setting} of one budget of a record of ``data/tuned``, {budget: {method: {objective: setting}}}."""
    return {method: tuned[f"{evaluations:g}"]["adaptive"][objective] for objective, method in TUNED.items()}


def measured(confidence: Mapping, tuned: Mapping, folder: str | Path, *entries: Any) -> pd.DataFrame:
    """The record: quality of D(z_hat) on the first n_images validation images, of the walk tuned for PSNR on the first ``walked`` and of
    the one that `flashdiff restore` takes on the first ``restored``.

    confidence: the study's section; tuned: as in :func:`walks`; entries: what :meth:`Bench.load` takes behind the number of
    images. What has walked lies below ``folder``, and an interrupted run continues there. n_images 0: no rows.
    """
    if not confidence["n_images"]:
        return record([])
    bench = Bench.load("validation", confidence["n_images"], *entries)
    counts = {TUNED["psnr"]: confidence["walked"], TUNED["perceptual"]: confidence["restored"]}
    return record(rows_of(bench, walks(tuned, confidence["evaluations"]), counts, folder))


def rows_of(
    bench: Bench, chosen: Mapping[str, Choice], counts: Mapping[str, int], folder: str | Path
) -> Iterator[pd.DataFrame]:
    """The parts of :func:`measured`, counts: method -> images; sigma_hat is what the encoder says before any walk, psnr in dB."""
    decoded = bench.prior.decode_in_slices(bench.severity.z_hat, slice_size(bench.truth)).cpu().clamp(-1, 1)
    yield _part(bench, NO_DIFFUSION, decoded, np.zeros(len(decoded), dtype=int))
    for method, choice in chosen.items():
        first = bench.first(counts[method])
        run = (method, few_step(first, choice), first.severity)
        result = run_stored(first, [run], folder, {"chosen": dict(chosen)})[method]
        yield _part(first, method, result.images, result.nfe.numpy())


def _part(bench: Bench, method: str, images: Tensor, nfe: np.ndarray) -> pd.DataFrame:
    head = {"method": method, "image": np.arange(len(images)), "t": np.asarray(bench.measurement.t)}
    found = {name: np.asarray(MEASURES[name].compute(images, bench.truth, bench.distances)) for name in LOWEST}
    return pd.DataFrame(head | {"sigma_hat": bench.severity.sigma_hat.numpy(), "nfe": nfe} | found)


def calibrated(rows: pd.DataFrame, confidence: Mapping, tuned: Mapping) -> dict[str, Any]:
    """What ships, as JSON can write it: the promised coverage, evaluations, the walks' settings, and under "intervals"
    {method: {measure: {"width": plain or by_severity, and an :class:`flashdiff.trust.conformal.Interval`}}}.

    rows: the record; of none, no intervals.
    """
    intervals: dict[str, dict[str, dict]] = {}
    for method, part in rows.groupby("method", sort=False):
        for measure, lowest in LOWEST.items():
            columns = part.sigma_hat.to_numpy(float), part[measure].to_numpy(float)
            interval, width = conformal.chosen(
                *columns, confidence["coverage"], rises=not MEASURES[measure].higher_is_better, lowest=lowest
            )
            intervals.setdefault(method, {})[measure] = {"width": width} | interval.to_dict()
    chosen = walks(tuned, confidence["evaluations"]) if intervals else {}
    head = {"coverage": confidence["coverage"], "evaluations": confidence["evaluations"]}
    return head | {"walks": chosen, "intervals": intervals}
