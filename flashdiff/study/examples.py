"""Two images whose walks figures show step by step: an easy one and a hard one by predicted severity, so nobody picks them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.flash import Flash, FullLength, Result
from flashdiff.measures import MEASURES
from flashdiff.prior import Prior
from flashdiff.sampling import EngineReport
from flashdiff.severity import latent_error_variance
from flashdiff.starts import FixedStart
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import FRESH, Bench
from flashdiff.study.methods import adaptive, flash_method, rules

CHOSEN = {"easy": 0.2, "hard": 0.8}
"""Where the two stand among all images of a comparison by predicted severity."""
STARTS = 5
"""Starts that both images walk from, whatever their severity."""
DRAWS = 2
"""Walks from each of these starts, which differ in the noise of their steps."""
POINTS = 7
"""Indices of a long walk at which its image is kept."""


def choose(sigma_hat: np.ndarray) -> np.ndarray:
    """Rows of the easy and of the hard image among predicted severities (n,)."""
    ranked = np.argsort(sigma_hat, kind="stable")
    return ranked[[round(quantile * (len(ranked) - 1)) for quantile in CHOSEN.values()]]


def ladder(start: np.ndarray) -> list[int]:
    """At most STARTS different indices, evenly spaced on a log scale from the 5th to the 95th percentile of starts (n,)."""
    low, high = np.percentile(start, [5, 95])
    return sorted({round(index) - 1 for index in np.geomspace(max(low, 0) + 1, max(high, 0) + 1, STARTS)})


def watched(bench: Bench, method: Flash | FullLength, title: str) -> tuple[Result, list[list[tuple[int, Tensor]]]]:
    """What a method reaches on a bench's measurements, and for each of them the indices and latents of its walk."""
    seen: dict[int, list] = {int(identity): [] for identity in bench.measurement.ids}

    def watch(ids: np.ndarray, indices: np.ndarray, z: Tensor) -> None:
        for identity, index, latent in zip(ids, indices, z, strict=True):
            seen[int(identity)].append((int(index), latent.detach().clone()))

    told = [None if isinstance(method, FullLength) else bench.severity]
    engine = EngineReport()
    finished = method.stream([bench.measurement], told, title=title, report=engine, watch=watch)
    return Result.collect(finished, len(bench.truth), bench.measurement.image_shape, engine), list(seen.values())


def path(prior: Prior, walked: list[list[tuple[int, Tensor]]], reached: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the denoiser takes images for on their way down: D(z0_hat(z_i)) at POINTS indices i evenly spread over each walk.

    walked: what :func:`watched` saw; reached (n, C, H, W): where the walks end. Returns indices (n, POINTS) int64 and images
    (n, POINTS, C, H, W) in [-1, 1]; a walk of fewer steps has some of them twice, one of none has where it ends, at -1.
    """
    indices, images = [], []
    for steps, end in zip(walked, reached, strict=True):
        if not steps:
            indices.append(np.full(POINTS, -1))
            images.append(np.stack([end.numpy()] * POINTS))
            continue
        chosen = [steps[k] for k in np.linspace(0, len(steps) - 1, POINTS).round().astype(int)]
        at = torch.tensor([index for index, _ in chosen], device=prior.abar.device)
        with torch.no_grad():
            clean = prior.predict_z0(torch.stack([latent for _, latent in chosen]), at)
        indices.append(at.cpu().numpy())
        images.append(prior.decode_in_slices(clean, POINTS).numpy())
    return np.stack(indices), np.stack(images)


def walk(bench: Bench, chosen: Mapping, few_steps: Mapping) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Everything that figures show of the bench's easy and hard image, 2 in all.

    chosen: what :func:`flashdiff.study.comparison.tune` chose for long walks; few_steps: what
    :func:`flashdiff.study.budgets.tune` did for short ones.

    Returns rows, one per image, walk and draw: kind (easy, hard), image (its place in the test set), t, sigma_hat, sbar,
    walk (no_diffusion, full_length, flash_RULE, fixed_INDEX or BUDGET/adaptive/OBJECTIVE), draw, start, nfe, and the
    measures. And arrays: truth, measurement, z_hat, abar (N,); per walk, by its name, the images (2, C, H, W) of the first
    draw; per long walk with an adaptive start, and for the baseline, path/NAME and index/NAME, see :func:`path`.
    """
    shown = choose(bench.severity.sigma_hat.numpy())
    starts = ladder(bench.start.numpy())
    pair = replace(bench, truth=bench.truth[shown], measurement=bench.measurement.select(shown))
    sbar = latent_error_variance(pair.severity.z_hat, pair.prior.encode_in_slices(pair.truth)).sqrt()
    shared = {
        "kind": list(CHOSEN),
        "image": shown,
        "t": pair.measurement.t.numpy(),
        "sigma_hat": pair.severity.sigma_hat.numpy(),
        "sbar": sbar.numpy(),
    }
    arrays = {
        "truth": pair.truth.numpy(),
        "measurement": pair.measurement.y.numpy(),
        "z_hat": pair.severity.z_hat.numpy(),
        "abar": pair.prior.abar[:-1].cpu().numpy(),
    }
    tables = []
    for name, draw, method in _methods(pair, chosen, few_steps, starts):
        result, walked = watched(pair, method, name.replace("_", " "))
        costs = {"walk": name, "draw": draw, "start": result.start.numpy(), "nfe": result.nfe.numpy()}
        quality = {measure: values for measure, values in pair.quality(result.images).items() if measure in MEASURES}
        tables.append(pd.DataFrame(shared | costs | quality))
        if draw == 0:
            arrays[name] = result.images.numpy()
        if name in ("full_length", *adaptive(chosen)):
            arrays[f"index/{name}"], arrays[f"path/{name}"] = path(pair.prior, walked, result.images)
    return pd.concat(tables, ignore_index=True), arrays


def _methods(
    bench: Bench, chosen: Mapping, few_steps: Mapping, starts: Iterable[int]
) -> Iterator[tuple[str, int, Flash | FullLength]]:
    """Name, draw and method of every walk."""
    yield "no_diffusion", 0, bench.flash(FixedStart(-1), chosen["fixed_mean"])
    yield "full_length", 0, bench.full_length(chosen["full_length"])
    for rule in rules(chosen):
        yield flash_method(rule), 0, bench.flash(rule, chosen[flash_method(rule)])
    for index in starts:
        method = bench.flash(FixedStart(index, FRESH["fixed_mean"]), chosen["fixed_mean"])
        for draw in range(DRAWS):
            yield f"fixed_{index}", draw, replace(method, seed=bench.seed + draw)
    for budget, methods in few_steps.items():
        for objective, choice in methods["adaptive"].items():
            yield f"{budget}/adaptive/{objective}", 0, few_step(bench, choice)
