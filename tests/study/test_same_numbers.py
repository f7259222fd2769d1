"""The shipped prior gives the same numbers with other threads, batch sizes, orders and parts, within flashdiff/study/tolerances.py.

In float32, as people run it. That samples do not interact is tested in float64 to 1e-10 elsewhere (engine, solvers, starts), and
so are two real processes (tests/training/test_processes.py, tests/study/test_comparison.py).
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from solver_cases import brief

from flashdiff.datasets.splits import to_float
from flashdiff.degradations import RandomInpainting
from flashdiff.flash import Flash, FullLength
from flashdiff.measures import MEASURES
from flashdiff.measures.published import load_distances
from flashdiff.prior import Prior
from flashdiff.report.summaries import ordering_metrics
from flashdiff.severity import SeverityEncoder, ordering_accuracy, severity_at_levels
from flashdiff.solvers import SOLVERS
from flashdiff.starts import ConsistentStart, FixedStart, InversionStart, PublishedStart, ScaledStart
from flashdiff.study.comparison import Bench
from flashdiff.study.experiments import ordering_rows
from flashdiff.study.tolerances import TOLERANCES, Kind, kind_of, passes
from flashdiff.study.tuned import few_step_of
from flashdiff.training.severity import train_severity_encoder
from flashdiff.walks import EvenlySpaced, Strided

ROOT = Path(__file__).parents[2]
N = 5
INPAINTING = {"kind": "random_inpainting", "drop_max": 0.95, "exponent": 2.0, "noise_std": 0.02}
ELSEWHERE = {
    "3 threads": (3, 64, (range(N),)),
    "batches of 1": (1, 1, (range(N),)),
    # as two processes share the images; what the first takes is a batch of 3 and one more
    "batches of 3, another order, two processes": (1, 3, ((4, 2, 0, 3), (1,))),
}
"""Name -> threads, batch size, and the parts of the images that are computed together, in this order."""
REFERENCE = (1, 64, (range(N),))


@pytest.fixture(scope="module")
def bench():
    """What ships: prior, severity encoder, classifier; five test images, measured."""
    paths = sorted((ROOT / "data/examples").glob("*.png"))[:N]
    x = to_float(np.stack([np.asarray(Image.open(path)) for path in paths])[:, None])
    parts = Prior.from_pretrained(ROOT / "data/prior"), SeverityEncoder.from_pretrained(ROOT / "data/encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        distances = load_distances("features")
    return Bench.build(*parts, distances, x, INPAINTING, {"kind": "ldps"}, seed=0, batch_size=64)


@pytest.fixture(autouse=True)
def threads():
    """Whatever a test sets, the next one has the number that this process had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def walk(method):
    """The numbers of a walk: images do not count by themselves, what is measured of them does."""

    def numbers(bench, batch_size, rows):
        result = replace(method(bench), batch_size=batch_size)(bench.measurement.select(rows))
        truth = bench.truth[rows]
        quality = {name: measure.compute(result.images, truth, bench.distances) for name, measure in MEASURES.items()}
        costs = {name: getattr(result, name) for name in ("start", "nfe", "decodes")}
        told = {} if bool(result.sigma_hat.isnan().all()) else {"sigma_hat": result.sigma_hat}
        return {name: np.asarray(values, float) for name, values in (quality | costs | told).items()}

    return numbers


def flash(start, solver="ldps_diffpir", steps=2):
    return walk(
        lambda bench: Flash(bench.prior, bench.encoder, brief(solver, walk=EvenlySpaced(steps)), start, progress=False)
    )


def tuned(method):
    """A few-step walk as the default study has tuned it."""
    record = json.loads((ROOT / "data/tuned/budgets-random_inpainting-ldps.json").read_text(encoding="utf-8"))
    choice = record["chosen"]["6"][method]["psnr"]
    return walk(lambda bench: few_step_of(bench.prior, bench.encoder, choice, progress=False))


def encoder(bench, batch_size, rows):
    severity = bench.encoder.infer(bench.measurement.y[rows], batch_size)
    return {"sigma_hat": severity.sigma_hat.numpy(), "latent": severity.z_hat.flatten(1).norm(dim=1).numpy()}


def ordering(bench, batch_size, rows):
    degradation, levels = RandomInpainting(0.95, 2.0), torch.linspace(0, 1, 10)
    parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    options = (degradation, 0.02, levels)
    sigma = [severity_at_levels(bench.encoder, bench.truth[part], *options, ids=part) for part in parts]
    return {"ordering_accuracy": ordering_accuracy(torch.cat(sigma)).numpy()}


KINDS = {
    "encoder": encoder,
    "ordering": ordering,
    "tuned adaptive": tuned("adaptive"),
    "start published": flash(PublishedStart(1.2)),
    "start consistent": flash(ConsistentStart(1.5)),
    "start scaled": flash(ScaledStart(0.3, 5)),
    "start fixed": flash(FixedStart(50, 0.5)),
    "start inversion": flash(InversionStart(60)),
    **{f"solver {name}": flash(ScaledStart(), name, 2) for name in SOLVERS},
    "full length": walk(lambda bench: FullLength(bench.prior, SOLVERS["ldps"](walk=Strided(250)), progress=False)),
}
SLOW = ("solver resample", "solver latent_daps")
"""They optimise and sample in each step, so they go elsewhere once, where batches, order and parts are others."""
THREADED = (
    "encoder",
    "ordering",
    "tuned adaptive",
    "start inversion",
    "solver ldps",
    "solver latent_diffpir",
    "full length",
)
"""Every network, forward and backward, and walks short and long: what threads share is in the networks, not in the rules.
Threads that wait for one another burn time where other work runs, too, so the rest does without."""
CASES = [
    (kind, where)
    for where, (threads, batch_size, _) in ELSEWHERE.items()
    for kind in (THREADED if threads > 1 else KINDS)
    if kind not in SLOW or batch_size == 3
]
computed = {}


def compute(bench, kind, setting):
    """The numbers of a kind, one per image in the order of the images; the reference's are computed once."""
    if (kind, setting) not in computed:
        threads, batch_size, parts = setting
        torch.set_num_threads(threads)
        rows = [np.array(part) for part in parts]
        found = [KINDS[kind](bench, batch_size, part) for part in rows]
        back = np.argsort(np.concatenate(rows))
        computed[kind, setting] = {name: np.concatenate([part[name] for part in found])[back] for name in found[0]}
    return computed[kind, setting]


def largest(ours, theirs):
    """{kind: largest deviation in units of its tolerance for a single image}, and whether all of them pass."""
    shares, fine = {}, True
    for name in theirs:
        kind = kind_of(name)
        for here, there in zip(ours[name], theirs[name], strict=True):
            fine &= passes(float(here), float(there), kind, rerun=False)
            share = abs(here - there) / TOLERANCES[kind].allowed(there, rerun=False)
            shares[kind] = max(shares.get(kind, 0), share)
    return shares, fine


@pytest.mark.parametrize(("kind", "elsewhere"), CASES)
def test_an_image_has_the_same_numbers_elsewhere(bench, kind, elsewhere):
    shares, fine = largest(compute(bench, kind, ELSEWHERE[elsewhere]), compute(bench, kind, REFERENCE))
    assert fine, shares


@pytest.mark.parametrize("kind", ["encoder", "tuned adaptive", "solver ldps"])
def test_the_same_machine_gives_the_same_bytes(bench, kind):
    again = compute(bench, kind, REFERENCE)
    del computed[kind, REFERENCE]
    for name, values in compute(bench, kind, REFERENCE).items():
        assert values.tobytes() == again[name].tobytes(), name


@pytest.mark.parametrize("kind", ["encoder", "tuned adaptive", "solver ldps", "start fixed"])
def test_an_image_that_is_another_has_other_numbers(bench, kind):
    """The tolerances tell the numbers of one image from those of the next."""
    ours = compute(bench, kind, REFERENCE)
    shares, fine = largest({name: np.roll(values, 1) for name, values in ours.items()}, ours)
    assert not fine and max(shares.values()) > 100


@pytest.fixture(scope="module")
def trainings(bench, tmp_path_factory):
    """What two steps of training make of the shipped encoder: by number of threads, and by what works off a step."""
    images = ((bench.truth.numpy() + 1) * 127.5).round().astype(np.uint8)
    recipe = {
        "init": str(ROOT / "data/encoder"), "architecture": None, "loss": "likelihood", "noise": None, "steps": 2,
        "batch_size": 4, "learning_rate": 1e-3, "ema": 0.5, "lambda_sigma": 1.0, "lambda_image": 0.0, "mixed_precision": "no",
    }  # fmt: skip
    found = {}
    for name, number, accumulation in (("1", 1, 1), ("3", 3, 1), ("parts", 1, 2)):
        torch.set_num_threads(number)
        checkpoint = tmp_path_factory.mktemp("training") / "encoder.ckpt"
        arguments = (
            bench.prior,
            RandomInpainting(0.95, 2.0),
            0.02,
            images,
            images,
            recipe | {"accumulation": accumulation},
        )
        trained, _ = train_severity_encoder(*arguments, 0, checkpoint)
        trained = trained.eval().requires_grad_(False)
        torch.set_num_threads(1)
        rows = ordering_rows(trained, bench.truth, RandomInpainting(0.95, 2.0), 0.02, 5, seed=0)
        accuracy = ordering_metrics(rows, n_resamples=50)["ordering_accuracy"]["value"]
        found[name] = {"sigma_hat": rows.sigma_hat.to_numpy(), "ordering_accuracy": np.array([accuracy])}
    return found


@pytest.mark.parametrize("elsewhere", ["3", "parts"])
def test_a_training_gives_the_same_severity_elsewhere(trainings, elsewhere):
    """Three threads, and the images of a step in two parts, as two processes take them."""
    shares, fine = largest(trainings[elsewhere], trainings["1"])
    assert fine, shares


def test_the_training_did_something_that_the_tolerances_see(trainings, bench):
    untrained = ordering_rows(bench.encoder, bench.truth, RandomInpainting(0.95, 2.0), 0.02, 5, seed=0)
    assert not largest({"sigma_hat": untrained.sigma_hat}, {"sigma_hat": trainings["1"]["sigma_hat"]})[1]


def test_every_kind_of_number_has_a_tolerance():
    assert set(TOLERANCES) == set(Kind)
    assert all(t.image >= 0 and t.study >= 0 for t in TOLERANCES.values())
