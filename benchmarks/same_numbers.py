"""How far the same numbers come out apart elsewhere: the shipped prior with other threads, batches, orders, instructions.

    python -m benchmarks.same_numbers one DEGRADATION SETTING [IMAGES]
    python -m benchmarks.same_numbers retrained DEGRADATION THREADS
    python -m benchmarks.same_numbers table

``one`` computes with given weights - encoder, walks, measures of IMAGES test images (12) - in one of SETTINGS and keeps what comes
out below .build/same_numbers. ``retrained`` trains a severity encoder of the default study anew, measures it as the study does,
and keeps its deviations from the rows and headline values that `make study` has left in data/results. ``table`` prints the lines
of docs/trust.md: kind of number, largest deviation, tolerance and the factor between them. The setting avx2 is a processor
without AVX-512: start it with ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2, which only a fresh
process reads.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashdiff.datasets.splits import open_split, split_ids, to_float
from flashdiff.degradations import build
from flashdiff.flash import Flash
from flashdiff.measures.published import load_distances
from flashdiff.prior import Prior
from flashdiff.report.summaries import ordering_metrics, severity_metrics
from flashdiff.severity import SeverityEncoder, ordering_accuracy, severity_at_levels
from flashdiff.solvers import build as build_solver
from flashdiff.starts import ConsistentStart, InversionStart, PublishedStart, ScaledStart
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.experiments import ordering_rows, severity_rows
from flashdiff.study.records import read_json
from flashdiff.study.schema import Study, load, select
from flashdiff.study.tolerances import TOLERANCES, Kind
from flashdiff.training.severity import train_severity_encoder

LONG = 1
"""Images that walk all 1000 steps."""
SOLVERS = ("gml_dps", "psld", "resample", "latent_daps", "latent_diffpir", "ldps_diffpir")
"""Beside the study's own, with the fields' defaults and four steps."""


@dataclass(frozen=True)
class Setting:
    """Where and how the same numbers are computed."""

    threads: int = 1
    batch_size: int = 64
    reverse: bool = False


SETTINGS = {
    "reference": Setting(),
    "3 threads": Setting(threads=3),
    "batches of 1": Setting(batch_size=1),
    "batches of 3": Setting(batch_size=3),
    "reverse order": Setting(reverse=True),
    "avx2": Setting(),
    "avx2, 2 threads": Setting(threads=2),
}
FOLDER = Path(".build/same_numbers")
COLUMNS = {
    "sigma_hat": Kind.SEVERITY,
    "start": Kind.START,
    "nfe": Kind.EVALUATIONS,
    "psnr": Kind.PSNR,
    "ssim": Kind.SSIM,
    "perceptual": Kind.PERCEPTUAL,
}
Numbers = dict[tuple[str, Kind], np.ndarray]
"""(What was computed, kind of number) -> one value per image."""


def of_walk(bench: Bench, name: str, method, n: int, setting: Setting) -> Numbers:
    """Costs, starts and quality of a method's walks of the first n images."""
    order = np.arange(n)[::-1].copy() if setting.reverse else np.arange(n)
    part = replace(bench.first(n), batch_size=setting.batch_size)
    result = replace(method, batch_size=setting.batch_size)(part.measurement.select(order))
    back = np.argsort(order)
    quality = part.quality(result.images[back])
    columns = {"start": result.start, "nfe": result.nfe, "decodes": result.decodes, **quality}
    columns = {column: np.asarray(values) for column, values in columns.items()}
    for column in ("start", "nfe", "decodes"):
        columns[column] = columns[column][back]
    return {
        (name, COLUMNS[column]): values
        for column, values in columns.items()
        if column in ("start", "nfe", "psnr", "ssim", "perceptual")
    }


def same_weights(study: Study, degradation: str, n: int, setting: Setting) -> Numbers:
    """Everything that is computed with given weights, at one setting."""
    torch.set_num_threads(setting.threads)
    entry, pair = select(study, f"degradations.{degradation}"), f"{degradation}-ldps"
    bench = Bench.load("test", n, entry, degradation, select(study, "solvers.ldps"), study.seed, setting.batch_size)
    numbers: Numbers = {}
    order = np.arange(n)[::-1].copy() if setting.reverse else np.arange(n)
    severity = bench.encoder.infer(bench.measurement.y[order], setting.batch_size)
    numbers["encoder", Kind.SEVERITY] = severity.sigma_hat.numpy()[np.argsort(order)]
    operator, noise_std = build(entry)
    levels = torch.linspace(0, 1, study.ordering.levels)
    columns = bench.truth[order], operator, noise_std, levels
    sigma = severity_at_levels(_sliced(bench.encoder, setting.batch_size), *columns, ids=split_ids("test", n)[order])
    numbers["encoder", Kind.ORDERING] = ordering_accuracy(sigma).numpy()[np.argsort(order)]

    tuned = read_json(f"data/tuned/{pair}.json")["chosen"]
    few = read_json(f"data/tuned/budgets-{pair}.json")["chosen"]["6"]
    for method, objectives in few.items():
        numbers |= of_walk(bench, f"few steps, {method}", few_step(bench, objectives["psnr"]), n, setting)
    starts = {"published": PublishedStart(), "consistent": ConsistentStart(), "scaled": ScaledStart(0.3, 5)}
    starts["inversion"] = InversionStart(stride=10)
    for rule, start in starts.items():
        flash = replace(bench.flash("published", tuned["flash_published"]), start=start)
        numbers |= of_walk(bench, f"Flash, {rule}", flash, max(1, n // 4), setting)
    for name in SOLVERS:
        solver = build_solver({"kind": name, "walk": {"kind": "evenly_spaced", "steps": 4}})
        flash = Flash(bench.prior, bench.encoder, solver, ScaledStart(), **bench.options)
        numbers |= of_walk(bench, name, flash, max(1, n // 8), setting)
    if setting.batch_size > 3:  # a single image walks alone in any
        numbers |= of_walk(bench, "full length", bench.full_length(tuned["full_length"]), LONG, setting)
    return numbers


def _sliced(encoder: SeverityEncoder, batch_size: int):
    """An encoder that is asked in batches of another size."""

    class Sliced:
        def infer(self, y):
            return encoder.infer(y, batch_size)

    return Sliced()


def deviations(ours: Mapping, theirs: Mapping) -> pd.DataFrame:
    """Rows of what, kind, the largest deviation, and the share of images that differ at all."""
    rows = []
    for what, values in ours.items():
        apart = np.abs(np.asarray(values, float) - np.asarray(theirs[what], float))
        name, kind = what
        row = {"what": name, "kind": kind.name, "largest": apart.max(), "share": (apart > 0).mean(), "n": apart.size}
        rows.append(row)
    return pd.DataFrame(rows)


def retrained(study: Study, degradation: str, threads: int) -> pd.DataFrame:
    """The deviations of rows and headline values of a severity encoder that is trained anew from those of data/results."""
    torch.set_num_threads(threads)
    entry = select(study, f"degradations.{degradation}")
    operator, noise_std = build(entry)
    prior = Prior.from_pretrained("data/prior")
    train, validation, test = (open_split("data/splits", name) for name in ("train", "validation", "test"))
    checkpoint = Path(
        f".build/same_numbers/{degradation}-{threads}-{torch.backends.cpu.get_cpu_capability()}/encoder.ckpt"
    )
    arguments = prior, operator, noise_std, train.images, validation.images, select(study, "severity"), study.seed
    encoder, _ = train_severity_encoder(*arguments, checkpoint)
    encoder = encoder.eval().requires_grad_(False)

    x = to_float(test[np.arange(study.ordering.n_images)])
    ordering = ordering_rows(encoder, x, operator, noise_std, study.ordering.levels, study.seed)
    ids = np.arange(study.correlation.n_images)
    measures, x = load_distances("features"), to_float(test[ids])
    severity, _ = severity_rows(prior, encoder, measures, x, test.labels[ids], operator, noise_std, study.seed)
    ordering_there = pd.read_parquet(f"data/results/ordering-{degradation}.parquet")
    severity_there = pd.read_parquet(f"data/results/severity-{degradation}.parquet")
    ours: Numbers = {("levels", Kind.SEVERITY): ordering.sigma_hat.to_numpy()}
    theirs: Numbers = {("levels", Kind.SEVERITY): ordering_there.sigma_hat.to_numpy()}
    for column in ("sigma_hat", "start", "psnr", "ssim", "perceptual"):
        ours["encoder", COLUMNS[column]] = severity[column].to_numpy()
        theirs["encoder", COLUMNS[column]] = severity_there[column].to_numpy()
    accuracy = [
        ordering_accuracy(
            torch.from_numpy(np.stack(rows.sort_values(["image", "t"]).groupby("image").sigma_hat.apply(np.array)))
        )
        for rows in (ordering, ordering_there)
    ]
    ours["levels", Kind.ORDERING], theirs["levels", Kind.ORDERING] = (values.numpy() for values in accuracy)

    pair = f"{degradation}-ldps"
    few = read_json(f"data/tuned/budgets-{pair}.json")["chosen"]["6"]
    there = pd.read_parquet(f"data/results/budgets-{pair}.parquet").query("budget == 6")
    n = study.budgets.n_images
    bench = Bench.build(
        prior, encoder, measures, to_float(test[np.arange(n)]), entry, select(study, "solvers.ldps"),
        seed=study.seed, batch_size=study.budgets.batch_size,
    )  # fmt: skip
    means = {}
    for method in ("adaptive", "fixed"):
        found = of_walk(bench, f"few steps, {method}", few_step(bench, few[method]["psnr"]), n, Setting(threads))
        rows = there.query("method == @method and tuned_for == 'psnr'").sort_values("image")
        ours |= found
        theirs |= {(what, kind): rows[next(c for c, k in COLUMNS.items() if k is kind)] for what, kind in found}
        means[method] = [np.mean(found[f"few steps, {method}", Kind.PSNR]), rows.psnr.mean()]

    headline = []
    for severity_here, ordering_here in ((severity, ordering), (severity_there, ordering_there)):
        summary = severity_metrics(severity_here, 200, study.seed) | ordering_metrics(ordering_here, study.seed, 200)
        headline.append(
            {f"{name}.{end}": found[end] for name, found in summary.items() if isinstance(found, dict) and found.get("n", 0) > 1
             for end in ("value", "low", "high") if found.get(end) is not None}
        )  # fmt: skip
    gains = [adaptive - fixed for adaptive, fixed in zip(means["adaptive"], means["fixed"], strict=True)]
    for values, gain in zip(headline, gains, strict=True):
        values["adaptive over fixed, psnr"] = gain
    print(json.dumps({name: [headline[0][name], headline[1][name]] for name in headline[0]}, indent=1), flush=True)
    table = deviations(ours, theirs)
    for name, value in headline[0].items():
        apart = abs(value - headline[1][name]) / max(1.0, abs(headline[1][name]))
        table.loc[len(table)] = {"what": name, "kind": Kind.HEADLINE.name, "largest": apart, "share": 1.0, "n": 1}
    return table


def _path(degradation: str, setting: str) -> Path:
    return FOLDER / f"{degradation}, {setting}.npz"


def _read(path: Path) -> Numbers:
    with np.load(path) as arrays:
        return {(name.rpartition("/")[0], Kind[name.rpartition("/")[2]]): arrays[name] for name in arrays.files}


def table() -> None:
    """Print what was kept: every setting against the reference, and the trainings; then a line per kind."""
    for weights, rerun in (("the same weights", False), ("trained anew", True)):
        parts = []
        for path in sorted(FOLDER.glob("*.csv" if rerun else "*.npz")):
            reference = _path(path.stem.partition(",")[0], "reference")
            if rerun:
                parts.append(pd.read_csv(path).assign(setting=path.stem))
            elif path != reference:
                parts.append(deviations(_read(path), _read(reference)).assign(setting=path.stem))
        if not parts:
            continue
        found = pd.concat(parts, ignore_index=True)
        print(found.to_string())
        print(f"| {weights} | largest deviation | where | tolerance | factor |\n| --- | --- | --- | --- | --- |")
        for kind, part in found.groupby("kind", sort=False):
            worst, tolerance = part.loc[part.largest.idxmax()], TOLERANCES[Kind[kind]]
            bound = tolerance.study if rerun else tolerance.image
            factor = "-" if worst.largest == 0 else f"{bound / worst.largest:.3g}"
            where = f"{worst.what}; {worst.setting}"
            print(f"| {Kind[kind].value} | {worst.largest:.2g} | {where} | {bound:g} | {factor} |")


def main(arguments: list[str]) -> None:
    study, (command, *rest) = load("params.yaml"), arguments
    FOLDER.mkdir(parents=True, exist_ok=True)
    if command == "one":
        degradation, setting, *images = rest
        numbers = same_weights(study, degradation, int(images[0]) if images else 12, SETTINGS[setting])
        named = {f"{what}/{kind.name}": values for (what, kind), values in numbers.items()}
        np.savez(_path(degradation, setting), **named)
    elif command == "retrained":
        capability = torch.backends.cpu.get_cpu_capability()
        name = f"{rest[0]}, {rest[1]} threads, {capability}"
        retrained(study, rest[0], int(rest[1])).to_csv(FOLDER / f"{name}.csv", index=False)
    else:
        table()


if __name__ == "__main__":
    main(sys.argv[1:])
