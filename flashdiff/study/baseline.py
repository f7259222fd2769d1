"""The full-length baseline of a pair: walked once and kept, because no severity encoder has a say in it.

It takes four fifths of a comparison's evaluations, so it has a stage of its own, whose record ships with the default study.
"""

from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from flashdiff.flash import COUNTS, Result
from flashdiff.messages import say
from flashdiff.prior import Prior
from flashdiff.sampling import EngineReport
from flashdiff.study.comparison import Bench, run_stored
from flashdiff.study.tuned import Choice
from flashdiff.walks import Walk

RECORD = "data/baseline/{pair}.npz"
"""Where the baseline of a pair is kept, below the study's folder."""
RUNS = ".build/baseline/{pair}/run"
"""Where its reconstructions lie until its stage has saved them."""
TIMED_STEPS = 20
"""Steps of its walk that are timed where a comparison runs; see :func:`timed_here`."""


def walk(bench: Bench, choice: Choice, folder: str | Path) -> Result:
    """The full-length baseline on the bench's measurements, below a folder of its own."""
    settings = {"solver": dict(bench.solver), "chosen": choice}
    return run_stored(bench, [("full_length", bench.full_length(choice), None)], folder, settings)["full_length"]


def save(path: str | Path, bench: Bench, baseline: Result) -> None:
    """Write a baseline to one .npz file: images (n, C, H, W) float32, costs, and whose measurements they are of."""
    measurement, costs = bench.measurement, {name: getattr(baseline, name).numpy() for name in ("start", *COUNTS)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        images=baseline.images.numpy(),
        ids=measurement.ids,
        t=measurement.t.numpy(),
        seconds=baseline.seconds,
        engine=astuple(baseline.engine),
        **costs,
    )


def load(path: str | Path, bench: Bench) -> Result:
    """What :func:`save` wrote.

    FileNotFoundError where it is missing, ValueError where it is damaged or of other measurements than the bench's; both name
    the remedy.
    """
    try:
        with np.load(path) as file:
            stored = dict(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not there; run `make study`, whose earlier stage writes it.") from None
    except PermissionError:
        raise
    except Exception as error:  # a damaged file makes the readers of zip and of NumPy raise whatever they happen to
        raise ValueError(
            f"{path}: damaged ({' '.join(str(error).split()) or type(error).__name__}); run `make baseline`."
        ) from error
    measurement = bench.measurement
    if not (np.array_equal(stored["ids"], measurement.ids) and np.array_equal(stored["t"], measurement.t.numpy())):
        raise ValueError(
            f"{path}: its {len(stored['ids'])} images or their levels are not those of this comparison, which has "
            f"{len(measurement)}; run `make baseline`."
        )
    images = torch.from_numpy(stored["images"])
    costs = {name: torch.from_numpy(stored[name]) for name in ("start", *COUNTS)}
    nobody_asked = torch.full((len(images),), float("nan"))
    engine = EngineReport(*stored["engine"].tolist())
    return Result(images, nobody_asked, **costs, seconds=float(stored["seconds"]), engine=engine)


def obtain(out: Path, pair: str, bench: Bench, choice: Choice) -> Result:
    """The baseline for a notebook whose outputs go to ``out``, as :func:`flashdiff.study.place.enter_study` says.

    A stage has the record, which DVC keeps in step with all parameters. By hand the parameters may be any, so it is walked.
    """
    if out == Path():
        return load(RECORD.format(pair=pair), bench)
    say(f"Run by hand: the full-length baseline of {pair} is walked anew, most of what this notebook does.")
    return walk(replace(bench, encoder=None), choice, out / RUNS.format(pair=pair))


def timed_here(bench: Bench, choice: Choice, baseline: Result) -> Result:
    """A baseline with the seconds that it would take here, so that methods are timed on one machine whatever made the record.

    :data:`TIMED_STEPS` steps of its walk are taken and timed, one at random out of each of as many equal parts, so that a
    solver whose steps cost more at some indices is met at all of them; the seconds are multiplied by how many times more
    steps the walk has. What these steps lead to is thrown away.
    """
    method = bench.full_length(choice)
    whole = method.solver.walk(bench.prior, method.solver.walk.first(bench.prior))
    part = Part(method.solver.walk, min(TIMED_STEPS, len(whole)), bench.seed)
    timed = replace(method, solver=replace(method.solver, walk=part))(bench.measurement, title="time the baseline")
    return replace(baseline, seconds=timed.seconds * len(whole) / part.steps)


@dataclass(frozen=True)
class Part:
    """Some steps of a walk, one at random out of each of ``steps`` equal parts; the first is not always the walk's."""

    walk: Walk
    steps: int
    seed: int

    def first(self, prior: Prior) -> int:
        return self.walk.first(prior)

    def __call__(self, prior: Prior, start: int) -> np.ndarray:
        whole = self.walk(prior, start)
        edges = np.linspace(0, len(whole), self.steps + 1).round().astype(int)
        return whole[np.random.default_rng(self.seed).integers(edges[:-1], edges[1:])]
