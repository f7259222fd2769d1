"""Other training seeds of the severity encoder: what the walks of a comparison reach with each, for intervals that cover them."""

import os
from collections.abc import Mapping

import pandas as pd

from flashdiff.datasets.splits import open_split
from flashdiff.degradations import build
from flashdiff.devices import device
from flashdiff.measures import MEASURES
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study import budgets
from flashdiff.study.comparison import Bench, run_stored, tabulate
from flashdiff.study.methods import flash_method, rules
from flashdiff.training.severity import train_severity_encoder

CHECKPOINT = ".build/seeds/{pair}/encoder.ckpt"
RUNS = ".build/seeds/{pair}/run"
"""Where the trainings and the walks of a pair lie, below the study's folder, until their stage has saved its results."""
METHODS = ("adaptive", "fixed")
"""The few-step methods that are repeated; the long walks are those with an adaptive start."""
COLUMNS = (
    "budget",
    "method",
    "tuned_for",
    "image",
    "t",
    "sigma_hat",
    "sbar",
    "start",
    "nfe",
    "decodes",
    *MEASURES,
    "seed",
)


def no_rows() -> pd.DataFrame:
    """The record of no seed, with its columns, so that a study without other seeds has the file, too."""
    text = ("method", "tuned_for")
    whole = ("image", "start", "nfe", "decodes", "seed")
    kinds = {name: "object" if name in text else "int64" if name in whole else "float64" for name in COLUMNS}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def train(seed: int, severity: Mapping, degradation: Mapping, checkpoint: str | os.PathLike) -> SeverityEncoder:
    """The severity encoder of a degradation as its own stage trains it, with another seed; continues from its checkpoint.

    severity, degradation: the study's section and entry; prior and images are those below the study's folder.
    """
    operator, noise_std = build(degradation)
    train_images, validation = (open_split("data/splits", name).images for name in ("train", "validation"))
    prior = Prior.from_pretrained("data/prior").to(device())
    arguments = (prior, operator, noise_std, train_images, validation, severity, seed)
    return train_severity_encoder(*arguments, checkpoint)[0]


def walk(bench: Bench, few_steps: Mapping, chosen: Mapping, n_long: int, folder: str | os.PathLike) -> pd.DataFrame:
    """What the adaptive walks and the best fixed starts reach with the bench's encoder: rows (image x run) of COLUMNS but seed.

    few_steps: what :func:`flashdiff.study.budgets.tune` chose; chosen: what :func:`flashdiff.study.comparison.tune` did, for
    long walks of the first ``n_long`` images. A long walk's budget is the length of the diffusion.
    """
    repeated = {budget: {m: methods[m] for m in METHODS if m in methods} for budget, methods in few_steps.items()}
    rows, _ = budgets.walk(bench, repeated, folder, controls=False)
    long = bench.first(n_long)
    runs = [(flash_method(rule), long.flash(rule, chosen[flash_method(rule)]), None) for rule in rules(chosen)]
    table, _ = tabulate(long, run_stored(long, runs, folder, {"solver": dict(long.solver), "chosen": chosen}))
    table = table.assign(budget=float(bench.prior.n_steps), tuned_for="psnr")
    found = [part[[name for name in COLUMNS if name != "seed"]] for part in (rows, table)]
    return pd.concat(found, ignore_index=True)
