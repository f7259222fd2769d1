"""What the published size costs: the CelebA-HQ model at 256 x 256 with random weights, on this machine.

`python -m benchmarks.true_size`: some minutes on a CPU; prints the tables, writes benchmarks/results/NAME-true-size.md.
What an operation costs does not depend on the weights, so none are needed. Every row comes from a process of its own:
its peak memory is its own, and a row that does not fit into memory ends there.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import machine, peak_mib
from flashdiff.batch import Stream, normal
from flashdiff.datasets.splits import to_float
from flashdiff.degradations import GaussianBlur, Measurement, Operator, measure
from flashdiff.flash import Flash
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder, training_loss
from flashdiff.solvers import LDPS
from flashdiff.starts import FixedStart
from flashdiff.training.loop import Recipe, train
from flashdiff.weights.compvis_config import DiffusionParameters, checked

IMAGE = (3, 256, 256)
BLUR, NOISE_STD = GaussianBlur(0.3, 3.0, 30), 0.1  # the kernel is 61 x 61
CELEBA_HQ = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 1000,
    "cond_stage_config": "__is_unconditional__",
    "unet_config": {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 224,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 4],
            "num_head_channels": 32,
        },
    },
    "first_stage_config": {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {
            "embed_dim": 3,
            "n_embed": 8192,
            "ddconfig": {
                "double_z": False,
                "z_channels": 3,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
            },
        },
    },
}
"""The published model in the terms of its config.yaml (Rombach et al. 2022); FFHQ and LSUN bedrooms have the same."""

NFE = 100
"""Denoiser evaluations of an image by Flash in the published runs, about; a full-length run takes 1000."""
STEPS, ROUNDS = 2, 2
"""LDPS steps of a reconstruction, and how often it runs; of all its steps the first warms up, the fastest counts."""
PRECISIONS = {"float32": "no", "bf16": "bf16"}


def build(device: str | torch.device) -> Prior:
    """The published architecture with random weights; on the device "meta" it takes no memory."""
    from diffusers import DDPMScheduler, UNet2DModel, VQModel

    parameters = checked(DiffusionParameters, CELEBA_HQ, "benchmarks.true_size")
    first = parameters.first_stage_config.params
    alphas_cumprod = DDPMScheduler(**parameters.scheduler()).alphas_cumprod
    with torch.device(device):
        autoencoder = VQModel(
            **first.ddconfig.diffusers(),
            num_vq_embeddings=first.n_embed,
            vq_embed_dim=first.embed_dim,
            scaling_factor=parameters.scale_factor,
        )
        unet = UNet2DModel(**parameters.unet_config.params.diffusers())
    return Prior(autoencoder, unet, alphas_cumprod).to(device)


# ------------------------------------------------------------------------------------------------------ what it costs


class Passes(NamedTuple):
    """One image through a network: its forward pass, and the backward pass that the study takes; FLOPs or seconds."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True)
class Cost:
    """What one image costs, from what it costs in each network.

    denoiser and decoder are frozen: their backward pass leads to the input, without gradients of weights. encoder is the
    prior's, forward only; severity the encoder that is trained, its backward pass leads to the weights. The degradation
    is left out: the largest, a blur, needs less than a thousandth of a step.
    """

    denoiser: Passes
    decoder: Passes
    encoder: Passes
    severity: Passes

    @classmethod
    def flops(cls, prior: Prior, image_shape: tuple[int, int, int]) -> Self:
        """Count multiplications and additions of convolutions and matrix products (not of normalisations, activations).

        Give a prior on the device "meta": nothing is computed then, and attention is counted as the products it stands
        for, some of which PyTorch's counter does not know where the CPU computes them in one.
        """
        counts = {}
        for name, (forward, wanted) in _networks(prior, image_shape).items():
            with FlopCounterMode(display=False) as ahead:
                out = forward()
            with FlopCounterMode(display=False) as back:
                if wanted:
                    torch.autograd.grad(out, wanted)
            counts[name] = Passes(ahead.get_total_flops(), back.get_total_flops())
        return cls(**counts)

    @classmethod
    def seconds(cls, prior: Prior, image_shape: tuple[int, int, int]) -> Self:
        """Measure each network by itself, in float32; the faster of two rounds."""
        device, taken = prior.abar.device, {}
        for name, (forward, wanted) in _networks(prior, image_shape).items():
            rounds = []
            for _ in range(2):
                began = now(device)
                out = forward()
                between = now(device)
                if wanted:
                    torch.autograd.grad(out, wanted)
                rounds.append(Passes(between - began, now(device) - between if wanted else 0.0))
            taken[name] = Passes(*np.min(rounds, axis=0).tolist())
        return cls(**taken)

    @property
    def reverse_step(self) -> float:
        """One guided step: LDPS's gradient leads through decoder and denoiser."""
        return self.denoiser.both + self.decoder.both

    @property
    def training_step(self) -> float:
        """One image of a training step of the severity encoder: z0 = E0(x0), and the loss through D0(z_hat)."""
        return self.encoder.forward + self.severity.both + self.decoder.both

    def image(self, nfe: float) -> float:
        """One reconstruction of ``nfe`` guided steps, with the encoder before and the decoder after them."""
        return self.severity.forward + nfe * self.reverse_step + self.decoder.forward


def _networks(prior: Prior, image_shape: tuple[int, int, int]) -> dict[str, tuple[Callable[[], Tensor], list[Tensor]]]:
    """By name: a forward pass of one image that ends in a number, and the tensors its backward pass leads to."""
    device = prior.abar.device
    with torch.device(device):
        encoder = SeverityEncoder.from_prior(prior)
        i = torch.full((1,), prior.n_steps // 2)
        z = torch.randn(1, *prior.latent_shape(image_shape), requires_grad=True)
        y = torch.rand(1, *image_shape)
    return {
        "denoiser": (lambda: prior.predict_eps(z, i).mean(), [z]),
        "decoder": (lambda: prior.decode(z).mean(), [z]),
        "encoder": (lambda: prior.encode(y).mean(), []),
        "severity": (lambda: sum(part.mean() for part in encoder(y)), list(encoder.parameters())),
    }


# -------------------------------------------------------------------------------- the work, one list of seconds of steps


clock: Callable[[], float] = time.perf_counter
"""What times this process; time.process_time where a CPU has other work, too."""


def now(device: torch.device) -> float:
    """Seconds of the clock, when all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


@dataclass(frozen=True)
class TimedLDPS(LDPS):
    """LDPS that keeps the seconds of its steps."""

    seconds: list[float] = field(default_factory=list, compare=False, repr=False)

    def step(self, prior, operator, y, z, i, i_prev, noise):
        began = now(z.device)
        step = super().step(prior, operator, y, z, i, i_prev, noise)
        self.seconds.append(now(z.device) - began)
        return step


def noise_images(n: int, image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *image_shape), dtype=np.uint8)


def blurred(n: int, image_shape: tuple[int, int, int]) -> Measurement:
    return measure(to_float(noise_images(n, image_shape)), BLUR, torch.linspace(0, 1, n), NOISE_STD)


def flash(prior: Prior, image_shape: tuple[int, int, int], batch: int, precision: str) -> list[float]:
    """LDPS steps of Flash on one batch; every image takes the last STEPS steps, whatever its severity."""
    solver = TimedLDPS()
    encoder = SeverityEncoder.from_prior(prior).eval().requires_grad_(False)
    start = FixedStart(STEPS - 1)
    method = Flash(prior, encoder, solver, start, batch_size=batch, mixed_precision=precision, progress=False)
    for _ in range(ROUNDS):
        _finite(method(blurred(batch, image_shape)).images)
    return solver.seconds


def one_by_one(prior: Prior, image_shape: tuple[int, int, int], batch: int, precision: str) -> list[float]:
    """The same steps as the public implementation takes them: image after image, the kernel rebuilt at every step."""
    if (batch, precision) != (1, "no"):
        raise ValueError(f"batch and precision: {batch} and {precision!r}; the loop takes one image, in float32.")
    device, solver, seconds = prior.abar.device, LDPS(), []
    one = blurred(1, image_shape)
    one = replace(one, y=one.y.to(device), t=one.t.to(device))
    for _ in range(ROUNDS):
        z = torch.randn(1, *prior.latent_shape(image_shape), device=device)
        for i in range(STEPS - 1, -1, -1):
            began = now(device)
            operator = Operator(BLUR, BLUR.prepare(one.t, image_shape, one.ids), NOISE_STD)
            at = torch.tensor([i], device=device)
            noise = normal(z.shape[1:], one.ids, seed=0, step=i, stream=Stream.REVERSE_STEP, like=z)
            z = solver.step(prior, operator, one.y, z, at, at - 1, lambda draw=0, n=noise: n).z
            seconds.append(now(device) - began)
        with torch.no_grad():
            _finite(prior.decode(z))
    return seconds


def training(prior: Prior, image_shape: tuple[int, int, int], batch: int, precision: str) -> list[float]:
    """Training steps of the severity encoder: noise and blur, forward, backward, AdamW, average of the weights."""
    prior = prior.to(memory_format=torch.channels_last)  # as flashdiff.training.severity has it
    encoder = SeverityEncoder.from_prior(prior).to(memory_format=torch.channels_last)
    loss, began = training_loss(prior, BLUR, NOISE_STD, noise_images(batch, image_shape)), []

    def timed(*arguments):
        began.append(now(prior.abar.device))
        return loss(*arguments)

    recipe = Recipe(2 + ROUNDS, batch, learning_rate=1e-4, mixed_precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        train(encoder, timed, batch, recipe, Path(folder) / "severity.ckpt")  # raises when the loss is not finite
    for parameter in encoder.parameters():
        _finite(parameter)
    return np.diff(began).tolist()


def _finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError("benchmarks.true_size: NaN or infinite values; nothing was measured.")


WORK = {"one image at a time": one_by_one, "Flash": flash, "training": training}


# ------------------------------------------------------------------------------------------------ a process for each row


class Measured(NamedTuple):
    """Seconds of a step of the whole batch; peak memory in bytes: of the process, or of PyTorch's tensors on a GPU."""

    seconds: float
    peak: float


def measured(work: str, device: str, batch: int, precision: str) -> Measured | None:
    """One row, or None when the device's memory does not suffice."""
    torch.manual_seed(0)
    try:
        seconds = WORK[work](build(device), IMAGE, batch, precision)
    except (RuntimeError, MemoryError) as error:
        # a GPU's error has classes of its own, that of the CPU's allocator has none
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            return None
        raise
    return Measured(min(seconds[1:]), peak_memory(device))


def network_seconds(device: str) -> Cost:
    torch.manual_seed(0)
    return Cost.seconds(build(device), IMAGE)


def peak_memory(device: str) -> float:
    """The most that this process has held so far, in bytes: resident memory, or on a GPU PyTorch's tensors."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return peak_mib() * 2**20


def alone(device: str, cpu_time: bool, function: Callable, *arguments):
    """function(*arguments) in a new process that computes on ``device``; None when the system kills it for its memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_settle, initargs=(device, cpu_time)) as process:
        try:
            return process.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def _settle(device: str, cpu_time: bool) -> None:
    global clock
    os.environ["ACCELERATE_TORCH_DEVICE"] = (
        device  # where flashdiff.training.loop trains, instead of the first GPU it finds
    )
    clock = time.process_time if cpu_time else time.perf_counter


# -------------------------------------------------------------------------------------------------------------- tables


def networks(prior: Prior, flops: Cost, seconds: Cost) -> pd.DataFrame:
    """Every network by itself, one image in float32."""
    encoder = prior.autoencoder.encoder
    modules = {"denoiser": prior.unet, "decoder": prior.autoencoder.decoder, "encoder": encoder, "severity": encoder}
    rows = []
    for name, module in modules.items():
        counted, taken = getattr(flops, name), getattr(seconds, name)
        rows.append(
            {
                "network": "severity encoder" if name == "severity" else name,
                "parameters, M": sum(parameter.numel() for parameter in module.parameters()) / 1e6,
                "GFLOP forward": counted.forward / 1e9,
                "GFLOP backward": counted.backward / 1e9,
                "s forward": taken.forward,
                "s backward": taken.backward,
                "GFLOP/s": counted.both / taken.both / 1e9,
            }
        )
    return pd.DataFrame(rows)


def throughput(
    batches: Sequence[int], precisions: Sequence[str], flops: Cost, run: Callable[[str, int, str], Measured | None]
) -> pd.DataFrame:
    """Steps of Flash and of training at growing batches until memory is full, and Flash against the loop.

    run(work, batch, precision) measures one row, None for out of memory. images/s: of training; of Flash and the loop
    computed for NFE steps from the measured step, encoder and last decode counted in proportion to their FLOPs.
    """
    rows, loop = [], run("one image at a time", 1, PRECISIONS["float32"])
    settings = [("Flash", precision) for precision in precisions] + [
        ("training", precision) for precision in precisions
    ]
    measurements = [("one image at a time", "float32", 1, loop)]
    for work, precision in settings:
        for batch in sorted(batches):
            measurements.append((work, precision, batch, run(work, batch, PRECISIONS[precision])))
            if measurements[-1][-1] is None:
                break
    for work, precision, batch, found in measurements:
        row = {"work": work, "precision": precision, "batch": batch}
        if found is None:
            rows.append(row | {"s per step": "out of memory"})
            continue
        step = flops.training_step if work == "training" else flops.reverse_step
        per_image = 1.0 if work == "training" else flops.image(NFE) / flops.reverse_step
        row |= {
            "s per step": found.seconds,
            "steps/s": 1 / found.seconds,
            "images/s": batch / found.seconds / per_image,
            "TFLOP/s": batch * step / found.seconds / 1e12,
            "peak GiB": found.peak / 2**30,
        }
        if work != "training" and loop is not None:
            row["against the loop"] = batch * loop.seconds / found.seconds
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """A table for people: numbers in four digits, on the right; nothing where there is none."""
    shown = frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) and value == value else value)
    sides = ["left" if isinstance(column.iloc[0], str) else "right" for _, column in frame.items()]
    return shown.fillna("").to_markdown(index=False, disable_numparse=True, colalign=sides)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default=platform.node() or "machine", help="of the results file")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1, ..."
    )
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 on a CPU, 1 4 16 64 on a GPU")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="seconds of computing instead of a clock's: for one thread on a busy CPU",
    )
    given = parser.parse_args(arguments)
    kind = given.device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        parser.error(
            f"--device {given.device}: not on this machine, or not supported; give cpu or one of its GPUs, cuda."
        )
    if given.cpu_time and (kind == "cuda" or torch.get_num_threads() > 1):
        parser.error(
            "--cpu-time: means something for a CPU and one thread only; set OMP_NUM_THREADS=1, or leave it out."
        )
    batches = given.batches or ([1] if kind == "cpu" else [1, 4, 16, 64])
    if min(batches) < 1:
        parser.error(f"--batches {min(batches)}: give batches of at least 1 image.")

    prior = build("meta")
    flops = Cost.flops(prior, IMAGE)

    def run(work: str, batch: int, precision: str) -> Measured | None:
        print(f"{work}, batch {batch}, precision {precision} ...", file=sys.stderr, flush=True)
        return alone(given.device, given.cpu_time, measured, work, given.device, batch, precision)

    parts = {
        "Networks, one image": networks(
            prior, flops, alone(given.device, given.cpu_time, network_seconds, given.device)
        ),
        "Steps": throughput(batches, ["float32"] if kind == "cpu" else list(PRECISIONS), flops, run),
        "Counted": pd.DataFrame(
            {
                "one image": [
                    "a guided reverse step",
                    "a training step",
                    f"Flash, {NFE} steps",
                    "full length, 1000 steps",
                ],
                "TFLOP": [
                    flops.reverse_step / 1e12,
                    flops.training_step / 1e12,
                    *(flops.image(n) / 1e12 for n in (NFE, 1000)),
                ],
            }
        ),
    }
    text = [f"# The published size: {given.name}", "", machine(), "", _explanation(kind, given.cpu_time), ""]
    for title, frame in parts.items():
        text += [f"## {title}", "", markdown(frame), ""]
    path = Path(__file__).parent / "results" / f"{given.name}-true-size.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(text))
    print("\n".join(text), f"\nwritten to {path}")


def _explanation(kind: str, cpu_time: bool) -> str:
    memory = "PyTorch's tensors on the GPU" if kind == "cuda" else "resident memory of the process, libraries included"
    sentences = [
        "CompVis' CelebA-HQ 256 x 256 model (VQ autoencoder f = 4, UNet) with random weights, Gaussian blur 61 x 61, LDPS.",
        "Backward: to the input of denoiser and decoder, which are frozen, and to the weights of the severity encoder.",
        f"Steps: the fastest after the first one. images/s of Flash and of the loop are computed for {NFE} steps per image,"
        " those of training are measured.",
        f"Peak memory: {memory}.",
    ]
    if kind == "cuda":
        sentences.append(f"float32 with TF32 in convolutions: {'yes' if torch.backends.cudnn.allow_tf32 else 'no'}.")
    if cpu_time:
        sentences.append("Seconds of computing (CPU time of one thread), because the machine had other work.")
    return " ".join(sentences)


if __name__ == "__main__":
    main()
