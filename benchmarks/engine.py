"""How fast the engine is, against a faithful one-image-at-a-time loop on the same weights in the same run.

`make bench`, or `python -m benchmarks.engine`: a few minutes; prints the tables and writes benchmarks/results/NAME.md.
Both sides of every ratio are measured here, alternately, because machines are noisy; the best of the rounds counts.
"""

import argparse
import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from flashdiff.batch import Stream, normal
from flashdiff.datasets.splits import open_split, to_float
from flashdiff.degradations import GaussianBlur, Measurement, Operator, measure
from flashdiff.devices import device
from flashdiff.prior import Prior
from flashdiff.sampling import Chunk, EngineReport, sample
from flashdiff.solvers import LDPS
from flashdiff.walks import EVERY_INDEX

BLUR, NOISE_STD = GaussianBlur(0.3, 2.0, 16), 0.1


def measurements(n: int) -> Measurement:
    """The first n test images, blurred at levels spread over [0, 1]."""
    x = to_float(open_split("data/splits", "test")[np.arange(n)])
    return measure(x, BLUR, torch.linspace(0, 1, n), NOISE_STD)


def starts(n: int) -> torch.Tensor:
    """Start indices as the default study has them (5th to 95th percentile 60 to 180), fixed by a seed."""
    return torch.from_numpy(np.random.default_rng(0).gamma(10.0, 11.5, n).clip(20, 400).astype(np.int64))


def chunk(prior: Prior, measurement: Measurement, start: torch.Tensor) -> Chunk:
    z = torch.randn(
        len(start), *prior.latent_shape(measurement.image_shape), generator=torch.Generator().manual_seed(0)
    )
    return Chunk(measurement, start, z, torch.zeros_like(start), torch.full((len(start),), math.nan))


def run_engine(prior: Prior, measurement: Measurement, start: torch.Tensor, batch_size: int, **options) -> EngineReport:
    report = EngineReport()
    for _ in sample(
        prior,
        LDPS(),
        [chunk(prior, measurement, start)],
        batch_size=batch_size,
        progress=False,
        report=report,
        **options,
    ):
        pass
    return report


def run_one_by_one(prior: Prior, measurement: Measurement, start: torch.Tensor) -> None:
    """What the public implementation does: image after image, in float32, the blur's kernel rebuilt at every step."""
    solver, z_start = LDPS(), chunk(prior, measurement, start).z_start
    for k in range(len(start)):
        one, z = measurement.select(np.array([k])), z_start[k : k + 1]
        for i in range(int(start[k]), -1, -1):
            state = one.degradation.prepare(one.t, one.image_shape, one.ids)
            key = {"seed": 0, "step": i, "stream": Stream.REVERSE_STEP, "like": z}
            at = torch.tensor([i])
            noise = normal(z.shape[1:], one.ids, **key)
            z = solver.step(
                prior, Operator(one.degradation, state, NOISE_STD), one.y, z, at, at - 1, lambda draw=0, n=noise: n
            ).z
        with torch.no_grad():
            prior.decode(z)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def throughput(prior: Prior, rounds: int) -> pd.DataFrame:
    """Reverse steps per second, summed over images: the loop, and the engine at several batch sizes."""
    steps = {1: 60, 7: 24, 16: 12, 64: 6}
    runs: dict[str, tuple[int, Callable[[], object]]] = {}
    four, start = measurements(4), torch.full((4,), 14)
    runs["one image at a time"] = (4 * 15, lambda: run_one_by_one(prior, four, start))
    for batch, count in steps.items():
        m, s = measurements(batch), torch.full((batch,), count - 1)
        runs[f"engine, batch {batch}"] = (batch * count, lambda m=m, s=s, b=batch: run_engine(prior, m, s, b))
    best = dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, (count, run) in runs.items():
            best[name] = min(best[name], seconds(run) / count)
    loop = best["one image at a time"]
    return pd.DataFrame(
        [
            {"run": name, "image steps per second": 1 / value, "ms per image step": 1e3 * value, "ratio": loop / value}
            for name, value in best.items()
        ]
    )


def occupancy(prior: Prior) -> pd.DataFrame:
    """Batched engine calls against the lower bound ceil(sum of NFE / batch) and the longest chain."""
    n, table = 256, []
    start = starts(n)
    solver_steps = [len(EVERY_INDEX(prior, int(i))) for i in start]
    blind = _Blind(prior, measurements(1).image_shape)
    for batch in (1, 7, 16, 64):
        report = run_engine(blind, measurements(n), start, batch)
        bound = math.ceil(sum(solver_steps) / batch)
        table.append(
            {
                "batch": batch, "images": n, "sum of NFE": sum(solver_steps), "lower bound": bound,
                "engine calls": report.calls, "ratio": report.calls / bound, "longest chain": max(solver_steps),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def wall_clock(prior: Prior, rounds: int) -> pd.DataFrame:
    """How much of the saved evaluations is saved time: a step of a mixed batch against a step of a full-length run.

    The full-length run has 64 images at the same index, the others half the starts of the default study, 64 or 256 images
    in batches of 64: NFE ratio x share = wall-clock ratio. One image's solver steps, the final decode included.
    """
    runs = {
        "full length, 64 images": (measurements(64), torch.full((64,), 39)),
        "Flash, 64 images": (measurements(64), starts(64) // 2),
        "Flash, 256 images": (measurements(256), starts(256) // 2),
    }
    best = dict.fromkeys(runs, math.inf)
    for _ in range(rounds):
        for name, (m, start) in runs.items():
            each = seconds(lambda m=m, s=start: run_engine(prior, m, s, 64)) / int((start + 1).sum())
            best[name] = min(best[name], each)
    frame = pd.DataFrame([{"run": name, "ms per image step": 1e3 * each} for name, each in best.items()])
    return frame.assign(**{"share of the NFE ratio": frame["ms per image step"][0] / frame["ms per image step"]})


class _Blind:
    """A prior whose networks cost nothing: the engine's schedule does not depend on what they answer."""

    def __init__(self, prior: Prior, image_shape: tuple[int, int, int]):
        self.abar, self.n_steps, self.image_shape = prior.abar, prior.n_steps, image_shape
        self.signal, self.latent_shape, self.reverse = prior.signal, prior.latent_shape, prior.reverse

    def predict_z0(self, z, i):
        return z

    def decode(self, z):
        return z.new_zeros(self.image_shape) + z.flatten(1).mean(1)[:, None, None, None]


def shares(prior: Prior) -> pd.DataFrame:
    """Where the time of the engine at batch 64 goes: inside network and operator calls, forward and backward, or outside."""
    m, start = measurements(64), torch.full((64,), 9)
    spent: dict[str, float] = {}

    @contextmanager
    def timed(target: object, name: str, label: str) -> Iterator[None]:
        real = getattr(target, name)

        def wrapper(*arguments, **options):
            began = time.perf_counter()
            result = real(*arguments, **options)
            spent[label] = spent.get(label, 0.0) + time.perf_counter() - began
            return result

        setattr(target, name, wrapper)
        yield
        setattr(target, name, real)

    with (
        timed(Prior, "predict_eps", "denoiser, forward"),
        timed(Prior, "decode", "decoder, forward"),
        timed(GaussianBlur, "apply", "operator, forward"),
        timed(torch.autograd, "grad", "all, backward"),
        timed(sys.modules["flashdiff.sampling"], "normal", "noise (outside)"),
    ):
        run_engine(prior, m, start, 64)
        spent.clear()
        whole = seconds(lambda: run_engine(prior, m, start, 64))
    inside = sum(value for label, value in spent.items() if "outside" not in label)
    spent["rest (outside)"] = whole - sum(spent.values())
    table = [{"part": label, "seconds": value, "share": value / whole} for label, value in spent.items()]
    return pd.DataFrame([*table, {"part": "network and operator", "seconds": inside, "share": inside / whole}])


def arithmetic(prior: Prior, rounds: int) -> pd.DataFrame:
    """Floating-point operations of a guided step, and how near the engine comes to this machine's matrix products.

    The forward pass is counted; the weights are frozen, so the backward pass (gradients of inputs alone) costs the same.
    """
    m, start = measurements(64), torch.full((64,), 4)
    z = chunk(prior, m, start).z_start
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        prior.decode(prior.predict_z0(z, start))
    step = 2 * counter.get_total_flops() / 64
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        prior.decode(z)
    decode = counter.get_total_flops() / 64
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    peak = max(2 * 2048**3 / seconds(lambda: a @ b) for _ in range(2 + rounds))
    best = min(seconds(lambda: run_engine(prior, m, start, 64)) for _ in range(rounds))
    achieved = 64 * (5 * step + decode) / best
    rows = {
        "GFLOP of a guided step, per image": step / 1e9,
        "GFLOP/s achieved": achieved / 1e9,
        "GFLOP/s of a 2048 x 2048 matrix product": peak / 1e9,
        "share of the peak": achieved / peak,
    }
    return pd.DataFrame(rows.items(), columns=["quantity", "value"])


def growth(prior: Prior) -> pd.DataFrame:
    """Seconds against the number of images (at 10 steps) and against the number of steps (at 16 images)."""
    table = []
    for images in (1, 4, 16, 64, 256):
        m, start = measurements(images), torch.full((images,), 9)
        table.append(
            {"images": images, "steps": 10, "seconds": seconds(lambda m=m, s=start: run_engine(prior, m, s, 64))}
        )
    for steps in (5, 20, 40):
        m, start = measurements(16), torch.full((16,), steps - 1)
        table.append(
            {"images": 16, "steps": steps, "seconds": seconds(lambda m=m, s=start: run_engine(prior, m, s, 64))}
        )
    frame = pd.DataFrame(table)
    return frame.assign(**{"ms per image step": 1e3 * frame.seconds / (frame.images * frame.steps)})


def peak_memory() -> pd.DataFrame:
    """Peak resident memory of a process that only runs the engine, for growing numbers of images."""
    table = []
    for images, batch in ((64, 1), (64, 64), (256, 64), (1024, 64)):
        command = [sys.executable, "-m", "benchmarks.engine", "--memory", str(images), str(batch)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        table.append({"images": images, "batch": batch, "peak MiB": float(out.split()[-1])})
    return pd.DataFrame(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default=platform.node() or "machine", help="of the results file")
    parser.add_argument("--rounds", type=int, default=3, help="how often each timing is repeated")
    parser.add_argument("--memory", type=int, nargs=2, metavar=("IMAGES", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    prior = Prior.from_pretrained("data/prior").to(device())
    if given.memory:
        images, batch = given.memory
        run_engine(prior, measurements(images), torch.ones(images, dtype=torch.int64), batch)
        print(peak_mib())
        return
    text = [f"# Engine benchmarks: {given.name}", "", machine(), ""]
    print("\n".join(text))
    for title, measure_table in {
        "Throughput of LDPS steps": lambda: throughput(prior, given.rounds),
        "Where the time goes, batch 64": lambda: shares(prior),
        "Arithmetic": lambda: arithmetic(prior, given.rounds),
        "Evaluations saved, time saved": lambda: wall_clock(prior, given.rounds),
        "Growth, batch 64": lambda: growth(prior),
        "Engine calls": lambda: occupancy(prior),
        "Peak memory": peak_memory,
    }.items():
        text += [f"## {title}", "", measure_table().to_markdown(index=False, floatfmt=".4g"), ""]
        print("\n".join(text[-4:]), flush=True)
    path = Path(__file__).parent / "results" / f"{given.name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(text))
    print(f"written to {path}")


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux a child's ru_maxrss begins at what its parent held when it started the child
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """One line about where the numbers come from."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor}, {torch.get_num_threads()} threads{gpu}; torch {torch.__version__}; {time.strftime('%Y-%m-%d')}."
    )


if __name__ == "__main__":
    main()
