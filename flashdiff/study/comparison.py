"""The comparison of methods on the same measurements: tuned on validation images, measured on test images."""

import itertools
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flashdiff.batch import Stream, norms, uniform
from flashdiff.datasets.splits import open_split, split_ids, to_float
from flashdiff.degradations import Measurement, measure
from flashdiff.degradations import build as build_degradation
from flashdiff.devices import device, process_state
from flashdiff.flash import COUNTS, Flash, FullLength, Result
from flashdiff.measures import MEASURES
from flashdiff.measures.features import Distances
from flashdiff.measures.published import load_distances
from flashdiff.prior import Prior
from flashdiff.sampling import EngineReport
from flashdiff.severity import Severity, SeverityEncoder, latent_error_variance
from flashdiff.solvers import build as build_solver
from flashdiff.solvers import check
from flashdiff.starts import STARTS, FixedStart, Start, match_snr
from flashdiff.study.experiments import uniform_levels
from flashdiff.study.methods import EQUAL_COST, flash_method
from flashdiff.study.records import significant, write_arrays
from flashdiff.study.store import Store
from flashdiff.study.tuned import Choice, flash_of, solver_of, start_of
from flashdiff.training.loop import keyed

RUNS = ".build/reconstruct/{pair}/run"
"""Where the reconstructions of a pair lie, below the study's folder, until its stage has saved its results."""
ENOUGH = 1000
"""Images below which a Frechet distance says nothing: two sets of 64 true images lie 2.5 apart, methods differ by 0.05."""
FRESH = dict(zip(EQUAL_COST, (0.0, 1.0), strict=True))
"""Their shares of fresh noise."""
Chosen = Mapping[str, Choice]
"""Method -> what tuning found for it."""


@dataclass(frozen=True)
class Bench:
    """What every method of a comparison shares: models, images, and their measurement.

    truth (n, C, H, W) in [-1, 1]; solver: a study's solver entry, what is tuned is a method's own. encoder: None where only
    the full-length baseline walks, which asks none.
    """

    prior: Prior
    encoder: SeverityEncoder | None
    distances: Distances
    truth: Tensor
    measurement: Measurement
    solver: Mapping
    seed: int
    batch_size: int

    @classmethod
    def load(
        cls, split: str, n_images: int, degradation: Mapping, degradation_name: str | None, solver: Mapping, seed: int,
        batch_size: int, distances: str = "features", levels: Sequence[float] | None = None,
    ) -> Self:  # fmt: skip
        """The models and the first images of a split below the study's folder, for entries of the study file.

        Models compute on this process's device; images, measurements and tables stay on the CPU. distances: what measures
        them, features or published. degradation_name: whose severity encoder is asked, None for nobody's.
        """
        trained = degradation_name and SeverityEncoder.from_pretrained(f"data/severity/{degradation_name}").to(device())
        return cls.build(
            Prior.from_pretrained("data/prior").to(device()),
            trained,
            load_distances(distances),
            to_float(open_split("data/splits", split)[np.arange(n_images)]),
            degradation,
            solver,
            seed=seed,
            batch_size=batch_size,
            levels=levels,
            split=split,
        )

    @classmethod
    def build(
        cls, prior: Prior, encoder: SeverityEncoder | None, distances: Distances, x: Tensor, degradation: Mapping, solver: Mapping,
        *, seed: int, batch_size: int, levels: Sequence[float] | None = None, split: str = "test",
    ) -> Self:  # fmt: skip
        """Measure x, the first images of a split, for a study's degradation and solver entries, at levels t ~ U[0, 1], or
        between the two ``levels``.

        Raises ValueError at once when the solver is not defined on the degradation.
        """
        operator, noise_std = build_degradation(degradation)
        check(build_solver(solver), operator)
        ids = split_ids(split, len(x))
        lowest, highest = levels or (0.0, 1.0)
        t = lowest + (highest - lowest) * uniform_levels(ids, seed, x)
        measurement = measure(x, operator, t, noise_std, seed=seed, ids=ids)
        return cls(prior, encoder, distances, x, measurement, solver, seed, batch_size)

    def first(self, n: int) -> Self:
        """The first n of the images alone."""
        return replace(self, truth=self.truth[:n], measurement=self.measurement.select(slice(n)))

    @cached_property
    def severity(self) -> Severity:
        """What the encoder says about every image, on the CPU."""
        return self.encoder.infer(self.measurement.y).to("cpu")

    @cached_property
    def start(self) -> Tensor:
        """The matched index of every image (n,)."""
        return match_snr(self.prior, self.severity.variance).cpu()

    @property
    def mean_start(self) -> int:
        """The start that costs all images what the adaptive ones cost on average."""
        return int(self.start.double().mean().round())

    @property
    def options(self) -> dict[str, int | bool]:
        """What runs on the bench share: seed, batch_size, progress."""
        return {"seed": self.seed, "batch_size": self.batch_size, "progress": process_state().is_local_main_process}

    def flash(self, rule: str | Start, choice: Choice) -> Flash:
        """Flash with a start rule, by its name or as it is, and what was chosen for it."""
        return flash_of(self.prior, self.encoder, self.solver, choice, rule, **self.options)

    def full_length(self, choice: Choice) -> FullLength:
        """The full-length baseline with what was chosen for it."""
        return FullLength(self.prior, solver_of(self.solver, choice), **self.options)

    def quality(self, images: Tensor) -> dict[str, np.ndarray]:
        """Every measure, and residual (root mean square of y - A(x), [-1, 1] units), of every image."""
        misfit = self.measurement.y - self.measurement.operator().A(images)
        quality = {name: measure.compute(images, self.truth, self.distances) for name, measure in MEASURES.items()}
        quality["residual"] = norms(misfit) / misfit[0].numel() ** 0.5
        return {name: np.asarray(value, dtype=float) for name, value in quality.items()}


def combinations(grid: Mapping[str, Sequence]) -> list[dict]:
    """{name: values} -> one dict per combination of values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def tune(bench: Bench, candidates: Mapping[str, Mapping]) -> tuple[dict[str, dict[str, dict]], pd.DataFrame]:
    """Choose every method's solver fields and start options by mean PSNR on ``bench``'s validation images.

    candidates: {"solver": {field: values}, "starts": {rule: {option: values}}}, a study's ``tune.candidates`` of the
    solver; all combinations are tried. The fixed starts, at the mean of the adaptive ones and so at equal mean NFE,
    are without fresh noise and with nothing but it. Returns the choices {method: {"solver": ..., "start": ...}} for
    full_length, the adaptive methods and both fixed starts, and the table of all trials: method, the options, nfe, and means of the measures.
    """
    settings = combinations(candidates["solver"])
    starts: dict[str, list[tuple[dict, str | Start | None]]] = {
        flash_method(rule): [(options, rule) for options in combinations(candidates["starts"][rule])]
        for rule in STARTS
        if rule in candidates["starts"]
    }
    for method, fresh in FRESH.items():
        starts[method] = [({"fresh": fresh}, FixedStart(bench.mean_start, fresh))]
    starts["full_length"] = [({}, None)]
    trials, chosen = [], {}
    for method, options in starts.items():
        found = []
        if len(options) == len(settings) == 1:  # published hyperparameters, say: nothing to choose, and nothing to run
            chosen[method] = {"solver": settings[0], "start": options[0][0]}
            continue
        for (option, start), fields in itertools.product(options, settings):
            choice = {"solver": fields, "start": option}
            run = bench.full_length(choice) if start is None else bench.flash(start, choice)
            result = run(bench.measurement, None if start is None else bench.severity, title=method.replace("_", " "))
            means = {name: float(value.mean()) for name, value in bench.quality(result.images).items()}
            found.append({"choice": choice, **means})
            trials.append({"method": method, **fields, **option, "nfe": float(result.nfe.double().mean()), **means})
        if found:
            chosen[method] = best(found, "psnr")
    return chosen, pd.DataFrame(trials)


def best(trials: Sequence[Mapping], objective: str) -> Choice:
    """The "choice" of the best of some trials in a measure, by its name; of equal ones the first."""
    sign = 1 if MEASURES[objective].higher_is_better else -1

    def worth(trial: Mapping) -> float:
        # a diverged candidate has NaN, which would win or lose by its place in the list
        return -math.inf if math.isnan(trial[objective]) else sign * trial[objective]

    return max(trials, key=worth)["choice"]


def methods(
    bench: Bench, chosen: Chosen, fixed_starts: Sequence[int], controls: Collection[str] | None = None
) -> Iterator[tuple[str, Flash | FullLength, Severity | None]]:
    """Every method of the comparison by name, with the severity it is told (None: its encoder's own).

    no_diffusion (D(z_hat)), the adaptive methods that were tuned, fixed_mean and fixed_fresh (start at the mean of the
    adaptive ones: equal mean NFE), fixed_<start>, full_length, and for each start rule (of ``controls``) two negative controls:
    shuffled_<rule> (sigma_hat permuted over the images) and random_<rule> (index uniform on 0..2 x mean).
    """
    severity = bench.severity
    shuffled = shuffled_severity(bench)
    random = severity._replace(variance=_random_variance(bench).to(severity.variance))
    adaptive = {rule: bench.flash(rule, chosen[m]) for rule in STARTS if (m := flash_method(rule)) in chosen}
    fixed = FixedStart(bench.mean_start, FRESH["fixed_mean"])

    yield "no_diffusion", bench.flash(FixedStart(-1), chosen["fixed_mean"]), severity
    for rule, run in adaptive.items():
        yield flash_method(rule), run, None
    for method, fresh in FRESH.items():
        yield method, bench.flash(replace(fixed, fresh=fresh), chosen[method]), severity
    for rule, run in adaptive.items():
        if controls is None or rule in controls:
            yield f"shuffled_{rule}", run, shuffled
            yield f"random_{rule}", run, random
    for index in fixed_starts:
        yield f"fixed_{index}", bench.flash(replace(fixed, index=index), chosen["fixed_mean"]), severity
    yield "full_length", bench.full_length(chosen["full_length"]), None


def reconstruct(
    bench: Bench,
    chosen: Chosen,
    fixed_starts: Sequence[int],
    folder: str | Path,
    *,
    controls: Collection[str] | None = None,
    walked: Mapping[str, Result] | None = None,
) -> dict[str, Result]:
    """Run every method on the bench's measurements, this process's share of them where there are several.

    walked: what some of them have reached already, by name; these do not run. What is finished lies below ``folder``, in
    a subfolder whose name holds a hash of all that the result depends on: an interrupted run continues there, and a
    notebook finds there what `accelerate launch` has computed.
    """
    walked, runs = dict(walked or {}), list(methods(bench, chosen, fixed_starts, controls))
    left = [run for run in runs if run[0] not in walked]
    found = walked | run_stored(bench, left, folder, {"solver": dict(bench.solver), "chosen": chosen})
    return {name: found[name] for name, *_ in runs}


def run_stored(
    bench: Bench,
    runs: Iterable[tuple[str, Flash | FullLength, Severity | None]],
    folder: str | Path,
    settings: Mapping,
) -> dict[str, Result]:
    """Run each on the bench's measurements, this process's share of them; what is finished lies below ``folder``.

    runs: name, method, and the severity it is told (None: its encoder's own); settings: all that the results depend on beside
    models and images, as JSON can write it.
    """
    state = process_state()
    models = [model for model in (bench.prior.autoencoder, bench.prior.unet, bench.encoder) if model is not None]
    measurement, runs = bench.measurement, list(runs)
    measured = (repr(measurement.degradation), measurement.noise_std, measurement.ids, measurement.t.cpu().numpy())
    folder = keyed(folder, *models, bench.truth.cpu().numpy(), *measured, bench.seed, settings)
    mine = np.arange(len(bench.truth))[state.process_index :: state.num_processes]
    results = {}
    for number, (name, run, severity) in enumerate(runs, start=1):
        store = Store(folder / name, len(bench.truth), bench.measurement.image_shape, rank=state.process_index)
        rows, report = store.missing(mine), EngineReport()
        told = None if severity is None else Severity(*(column[rows] for column in severity))
        if len(rows):
            title = f"[{number}/{len(runs)}] " + name.replace("_", " ").replace("/", " ")
            stream = run.stream([bench.measurement.select(rows)], [told], title=title, report=report)
            store.write(stream, rows, report)
        state.wait_for_everyone()
        results[name] = store.result()
    return results


def tabulate(bench: Bench, results: Mapping[str, Result]) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Rows (image x method) with severity, cost and quality, and what every method cost in all: timings."""
    began = time.perf_counter()
    bench.encoder.infer(bench.measurement.y)
    inference = time.perf_counter() - began
    n = len(bench.truth)
    sbar = latent_error_variance(bench.severity.z_hat, bench.prior.encode_in_slices(bench.truth)).sqrt()
    shared = {"image": np.arange(n), "t": bench.measurement.t}
    shared |= {"sigma_hat": bench.severity.sigma_hat, "sbar": sbar}
    tables, timings = [], {}
    for method, result in results.items():
        cost = {name: getattr(result, name) for name in ("start", *COUNTS)}
        columns = {name: np.asarray(values) for name, values in (shared | cost | bench.quality(result.images)).items()}
        tables.append(pd.DataFrame({"method": method} | columns))
        timings[method] = {
            "seconds": result.seconds,
            "images": n,
            **{name: int(getattr(result, name).sum()) for name in COUNTS},
            "engine_calls": result.engine.calls,
        }
    nothing = {"images": n, **dict.fromkeys(COUNTS, 0), "engine_calls": 0}
    timings["severity_encoder"] = {"seconds": inference} | nothing
    return pd.concat(tables, ignore_index=True), timings


def costs(bench: Bench, chosen: Chosen, rows: pd.DataFrame) -> pd.DataFrame:
    """What long walks of the bench's images cost, by their severity alone: columns method, image, start, nfe; nothing walks.

    So the ratio of evaluations does not hang on the few images that are reconstructed. For the adaptive methods and
    full_length; rows: :func:`tabulate` of reconstructed images, on which the count is checked: a method whose steps take
    another number of evaluations than one is left out.
    """
    tables = []
    for method, choice in chosen.items():
        solver = solver_of(bench.solver, choice)
        rule = next((rule for rule in STARTS if flash_method(rule) == method), None)
        if rule is not None:
            start = start_of(rule, choice)
            index = start.index(bench.prior, bench.severity.variance.to(bench.prior.abar.device)).cpu()
            paid = start.cost(index)
        elif method == "full_length":
            index = torch.full((len(bench.truth),), solver.walk.first(bench.prior))
            paid = torch.zeros_like(index)
        else:
            continue
        steps = {int(i): len(solver.walk(bench.prior, int(i))) for i in index.unique()}
        nfe = [steps[int(i)] + int(cost) for i, cost in zip(index, paid, strict=True)]
        table = pd.DataFrame({"method": method, "image": np.arange(len(index)), "start": index.numpy(), "nfe": nfe})
        walked = rows[rows.method == method].merge(table, on=["image", "start"], suffixes=("", "_counted"))
        if len(walked) and (walked.nfe == walked.nfe_counted).all():
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["method", "image", "start", "nfe"])


def shuffled_severity(bench: Bench) -> Severity:
    """Every image's own estimate with the predicted error of another image: a negative control."""
    other = _cyclic_shuffle(len(bench.severity.variance), bench.seed)
    return bench.severity._replace(variance=bench.severity.variance[other])


def _cyclic_shuffle(n: int, seed: int) -> np.ndarray:
    """For every image the index of another one (n >= 2): a random cycle, so that no image keeps its own severity."""
    cycle = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=int)
    other[cycle] = np.roll(cycle, 1)
    return other


def _random_variance(bench: Bench) -> Tensor:
    """The variance whose matched index is uniform on 0..2 mean_start, one per image."""
    draw = uniform(bench.measurement.ids, seed=bench.seed, step=0, stream=Stream.CONTROL, like=bench.truth)
    last = min(2 * bench.mean_start, bench.prior.n_steps - 1)
    abar = bench.prior.signal((draw * (last + 1)).long())
    return (1 - abar) / abar


def frechet_distances(
    distances: Distances, truth: Tensor, images: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float | int | None]]:
    """{method: {"value", "n"}}: Frechet distance of every method's images to the true ones; None: not measured.

    Fewer than ENOUGH images are not measured.
    """
    if len(truth) < ENOUGH:
        return {method: {"value": None, "n": len(truth)} for method in images}
    found = distances.frechet({method: torch.from_numpy(part) for method, part in images.items()}, truth)
    return {method: {"value": significant(value), "n": len(truth)} for method, value in found.items()}


def save_images(path: str, bench: Bench, images: Mapping[str, np.ndarray]) -> None:
    """Write truth, measurement and every method's images (n, C, H, W) with their ids and levels to one .npz file."""
    measurement = bench.measurement
    shared = {"truth": bench.truth.numpy(), "measurement": measurement.y.numpy()}
    write_arrays(path, shared | {"image": np.arange(len(measurement)), "t": measurement.t.numpy()} | images)
