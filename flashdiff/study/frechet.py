"""The Frechet distance of few-step walks to the true images, over enough test images to say something.

Every distance is biased upwards, because two sets of n images of one distribution are not at distance 0: their fitted
means and covariances differ by chance. The bias falls with n. So a distance by itself means little, and only
differences between distances of as many images do: those have intervals here, and distances have none.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.batch import slice_size
from flashdiff.measures.features import Distances, Features, frechet, penultimate
from flashdiff.measures.published import PublishedDistances
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import ENOUGH, Bench
from flashdiff.study.records import significant
from flashdiff.study.rows import typed

OBJECTIVE = "perceptual"
"""What the walks are tuned for: of the two objectives the one that asks how images look, as this distance does."""
RESAMPLES = 500
"""Resamples behind every interval; they are a matter of the record, whose images are not kept."""
AGAINST = {"no_diffusion": "minus_no_diffusion", "fixed": "minus_fixed"}
"""What a walk is held against -> the column of the difference to it."""
ENDS = ("", "_low", "_high")
COLUMNS = {
    "budget": "float64", "method": "str", "tuned_for": "str", "images": "int64", "nfe": "float64", "frechet_distance": "float64",
    **{f"{column}{end}": "float64" for column in AGAINST.values() for end in ENDS},
}  # fmt: skip
"""The record's columns and their types: a row per walk, and one for D(z_hat), which has no budget and is tuned for nothing.
minus_...: the distance less that of what it is held against, negative where the walk is nearer to the true images, with the
95% interval; NaN where nothing is held against that."""


class Run(NamedTuple):
    """A walk of the record; budget None: D(z_hat)."""

    method: str
    budget: float | None = None


def features_of(distances: Distances, images: Tensor) -> np.ndarray | None:
    """What ``distances.frechet`` fits its normal distributions to, of images (n, C, H, W) in [-1, 1]: (n, d) float64.

    64 numbers of the study's own classifier, or the 2048 of Inception; None where the network could not be had.
    """
    if isinstance(distances, Features):
        return penultimate(distances, images)
    if not isinstance(distances, PublishedDistances) or distances.fid is None:
        return None
    place, parts = next((p.device for p in distances.fid.parameters()), torch.device("cpu")), []
    for part in images.split(distances.batch_size):
        # as image files hold them, which is what FID is of
        pixels = part.clamp(-1, 1).add(1).mul(127.5).round().to(place, torch.uint8)
        with torch.no_grad():
            parts.append(distances.fid.inception(pixels.expand(-1, 3, -1, -1)).cpu())
    return torch.cat(parts).double().numpy()


def differences(
    features: Mapping[Run, np.ndarray], truth: np.ndarray, compared: Iterable[tuple[Run, Run]],
    n_resamples: int = RESAMPLES, seed: int = 0,
) -> dict[tuple[Run, Run], dict[str, float | None]]:  # fmt: skip
    """{(ours, theirs): {"value", "low", "high"}}: Frechet distance of ours to the truth less that of theirs, with its 95%
    percentile bootstrap interval.

    features: run -> features of its images (n, d); truth: those of the true images, row by row of the same images.
    Images are resampled, and a resample is the same for all runs and the truth. A resample takes one matrix root per
    run: 2 ms for 64 features, some seconds for 2048.
    """

    def distances(rows) -> dict[Run, float]:
        return {run: frechet(own[rows], truth[rows]) for run, own in features.items()}

    value, n, draw = distances(slice(None)), len(truth), np.random.default_rng(seed)
    resampled = [distances(draw.integers(0, n, n)) for _ in range(n_resamples)]
    found = {}
    for ours, theirs in compared:
        low, high = np.percentile([each[ours] - each[theirs] for each in resampled], [2.5, 97.5])
        ends = {"value": value[ours] - value[theirs], "low": low, "high": high}
        found[ours, theirs] = {name: significant(float(end)) for name, end in ends.items()}
    return found


def rows_of(
    section: Mapping, tuned: Mapping[str, Mapping], load: Callable[[str, int], Bench], n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:  # fmt: skip
    """The record of the study's section ``frechet``: rows of COLUMNS.

    tuned: {budget: {method: {objective: setting}}} of :func:`flashdiff.study.budgets.tune`; load: (split, number of images)
    -> bench. D(z_hat), and for every budget the adaptive walk and the fixed one, both tuned for OBJECTIVE, on the first
    n_images test images. Fewer images than ENOUGH, or a network that cannot be had: no rows. Raises KeyError where a
    budget was not tuned.
    """
    if section["n_images"] < ENOUGH:
        return typed([], COLUMNS)
    bench = load("test", section["n_images"])
    truth = features_of(bench.distances, bench.truth)
    if truth is None:
        return typed([], COLUMNS)
    nothing = Run("no_diffusion")
    decoded = bench.prior.decode_in_slices(bench.severity.z_hat, slice_size(bench.truth)).cpu().clamp(-1, 1)
    features, nfe, compared = {nothing: features_of(bench.distances, decoded)}, {nothing: 0.0}, []
    for budget in section["evaluations"]:
        ours, fixed = Run("adaptive", budget), Run("fixed", budget)
        for run in (ours, fixed):
            choice = tuned[f"{budget:g}"][run.method][OBJECTIVE]
            result = few_step(bench, choice)(bench.measurement, bench.severity, title=f"{budget:g} {run.method}")
            # the images themselves are not kept: a thousand of 256 x 256 pixels are a gigabyte per walk
            features[run], nfe[run] = features_of(bench.distances, result.images), float(result.nfe.double().mean())
        compared += [(ours, nothing), (ours, fixed), (fixed, nothing)]
    found = differences(features, truth, compared, n_resamples, seed)
    rows = []
    for run, own in features.items():
        row = {"budget": run.budget, "method": run.method, "tuned_for": "" if run == nothing else OBJECTIVE}
        row |= {"images": len(own), "nfe": nfe[run], "frechet_distance": significant(frechet(own, truth))}
        for theirs, column in ((nothing, AGAINST[nothing.method]), (Run("fixed", run.budget), AGAINST["fixed"])):
            held = found.get((run, theirs), {})
            row |= {f"{column}{end}": held.get(name) for end, name in zip(ENDS, ("value", "low", "high"), strict=True)}
        rows.append(row)
    return typed([pd.DataFrame(rows)], COLUMNS)
