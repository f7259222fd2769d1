"""The one training loop: resumable, on any device, in one or many processes.

It trains whatever gives a loss: the severity encoder, and the parts of the embedded prior. What a step sees is a
function of (seed, step) alone - which images, and through :mod:`flashdiff.batch` which noise - so a run that is killed
and resumed, or resumed on another number of processes, sees exactly what the uninterrupted run sees.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from flashdiff.devices import device_name, on_cpus, resolve_precision
from flashdiff.messages import duration, say
from flashdiff.training.live_curve import live_curve

Loss = Callable[[nn.Module, np.ndarray, int], tuple[Tensor, dict[str, Tensor]]]
Evaluate = Callable[[nn.Module], dict[str, float]]
TIMED_STEPS = 20
"""Steps from which a run tells how long the rest will take; their median leaves out the first, which also allocates."""
WORTH_SECONDS = 60
"""A run that has less left is over before that is read."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    steps: optimiser steps; batch_size: images per step over all processes; learning_rate: peak, after ``warmup`` steps,
    then along a cosine to 0; ema: decay of the exponential moving average that is kept as the result (0 keeps the raw
    weights); mixed_precision: "no", "bf16" or "auto" (bf16 on GPUs that have it, else "no");
    checkpoint_every: steps between checkpoints; seed: of the order of images and of all noise; accumulation: parts in
    which a process works off its images of a step, one after the other, to save memory: their gradients add up to those
    of the whole.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 100
    ema: float = 0.999
    max_grad_norm: float = 1.0
    mixed_precision: str = "auto"
    checkpoint_every: int = 250
    seed: int = 0
    accumulation: int = 1

    @classmethod
    def of(cls, parameters: Mapping, **fields) -> Self:
        """The recipe in a section of a study: its parameters that are fields of a recipe, and ``fields``."""
        names = cls.__dataclass_fields__
        return cls(**{name: value for name, value in parameters.items() if name in names}, **fields)


def decisive(parameters: Mapping) -> dict:
    """The parameters without those that a machine may choose for itself: the result depends on them by rounding alone."""
    return {name: value for name, value in parameters.items() if name not in ("accumulation", "checkpoint_every")}


def batch_ids(n: int, recipe: Recipe, step: int) -> np.ndarray:
    """The images of one step (batch_size,): consecutive slices of per-epoch permutations of range(n)."""
    positions = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    ids = np.empty_like(positions)
    for epoch in np.unique(positions // n):
        of_epoch = positions // n == epoch
        order = np.random.default_rng([recipe.seed, int(epoch)]).permutation(n)
        ids[of_epoch] = order[positions[of_epoch] % n]
    return ids


def keyed(checkpoint: str | os.PathLike, *what) -> Path:
    """``checkpoint`` with a key of all that the training depends on in its name: name-0123456789ab.ckpt.

    So training never continues from weights that belong to another parameter, other images or another prior. ``what``
    holds modules (their weights count), image arrays (shape and first 1000 images), and anything that JSON can write.
    """
    digest = hashlib.sha256()
    for part in what:
        if isinstance(part, nn.Module):
            for name, value in part.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().double().contiguous().numpy().tobytes())
        elif isinstance(part, np.ndarray):
            digest.update(repr(part.shape).encode() + np.ascontiguousarray(part[:1000]).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    path = Path(checkpoint)
    return path.with_stem(f"{path.stem}-{digest.hexdigest()[:12]}")


def discard_checkpoints(folder: str | os.PathLike) -> None:
    """Delete a folder of checkpoints once what they led to is saved: a training that is asked for anew starts anew."""
    shutil.rmtree(folder, ignore_errors=True)


class Run:
    """A training under way, as one of its processes sees it: the state that a checkpoint holds, and what a step does.

    Raises ValueError when the processes cannot share the batch, or the accumulation leaves a part without images.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, n_images: int, recipe: Recipe, parameters: Sequence[nn.Parameter] | None
    ):
        from accelerate import Accelerator
        from diffusers.optimization import get_cosine_schedule_with_warmup
        from diffusers.training_utils import EMAModel

        # The recipe alone says in which precision to train: the launcher's configuration must not add another one.
        self.accelerator = Accelerator(cpu=on_cpus(), mixed_precision="no")
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if recipe.batch_size % world:
            raise ValueError(
                f"batch_size: {recipe.batch_size} is not divisible by {world} processes; choose a multiple."
            )
        share = recipe.batch_size // world
        if not 1 <= recipe.accumulation <= share:
            raise ValueError(
                f"accumulation: {recipe.accumulation} parts of the {share} images that a process has per step; "
                f"choose 1 to {share}."
            )
        self.model, self.loss, self.n_images, self.recipe = model, loss, n_images, recipe
        self.share, self.mine = share, slice(rank * share, (rank + 1) * share)
        self.bf16 = resolve_precision(recipe.mixed_precision) == "bf16"
        self.trained = list(parameters if parameters is not None else model.parameters())
        optimizer = torch.optim.AdamW(
            self.trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup, recipe.steps)
        self.ema = EMAModel(self.trained, decay=recipe.ema, use_ema_warmup=True, power=0.75)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema.to(self.accelerator.device)
        self.step = 0
        self.history: list[dict[str, float]] = []

    def save(self, file: str | os.PathLike) -> None:
        """Write all that the rest of the run depends on; OSError where the file cannot be written, and nothing is left."""
        state = {
            "recipe": vars(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
            "history": self.history,
        }
        try:
            torch.save(state, file)
        except (OSError, RuntimeError) as error:
            Path(file).unlink(missing_ok=True)  # so that a full disk has room again
            # torch's writer speaks of positions in the file
            raise OSError(f"checkpoint: {file} could not be written ({_line(error)}); is the disk full?") from error

    def restore(self, file: str | os.PathLike) -> None:
        """Go on from what :meth:`save` wrote; raises ValueError when it belongs to another recipe or is damaged."""
        state = _read_checkpoint(file)
        if decisive(state["recipe"]) != decisive(vars(self.recipe)):
            raise ValueError(f"checkpoint: {file} was written by another recipe; delete it or restore its parameters.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)
        self.history, self.step = state["history"], state["step"]

    def advance(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and its terms, means over this process's images."""
        ids = batch_ids(self.n_images, self.recipe, self.step)[self.mine]
        *earlier, last = np.array_split(ids, self.recipe.accumulation)
        means: dict[str, Tensor] = {}
        for part in earlier:
            with self.accelerator.no_sync(self.wrapped):  # processes exchange their sums once, after the last part
                self._backward(part, len(part) / len(ids), means)
        self._backward(last, len(last) / len(ids), means)
        self.accelerator.clip_grad_norm_(self.trained, self.recipe.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.trained)
        self.step += 1
        return means

    def _backward(self, ids: np.ndarray, weight: float, means: dict[str, Tensor]) -> None:
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16):
            value, terms = self.loss(self.wrapped, ids, self.step)
        self.accelerator.backward(weight * value)
        for name, term in {"loss": value, **terms}.items():
            means[name] = means.get(name, 0) + weight * term.detach()

    def over_processes(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over this process's images -> means over the images of all processes, on each of them."""
        values = self.accelerator.reduce(torch.stack(list(means.values())), "mean")
        return dict(zip(means, values.tolist(), strict=True))

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights, and is in evaluation mode."""
        self.ema.store(self.trained)
        self.ema.copy_to(self.trained)
        self.model.eval()
        yield
        self.ema.restore(self.trained)
        self.model.train()

    def check_agreement(self) -> None:
        """Raise ValueError when the processes stand at different steps: they have read different checkpoints."""
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"checkpoint: the processes found those of steps {sorted(set(steps))}; run where all of them see the same files."
            )

    @contextlib.contextmanager
    def memory_advice(self, title: str) -> Iterator[None]:
        """A GPU's out-of-memory error as a MemoryError that names the remedy."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            parts, batch = self.recipe.accumulation, self.recipe.batch_size
            raise MemoryError(
                f"{title}: {-(-self.share // parts)} images at once are too many for the memory of {device_name()}; raise accumulation "
                f"(now {parts}; the result stays the same up to rounding) or lower batch_size (now {batch})."
            ) from error


def _read_checkpoint(file: str | os.PathLike) -> dict:
    """What :meth:`Run.save` wrote; ValueError with the remedy when it is cut off or a bit of it is another."""
    try:
        with zipfile.ZipFile(file) as archive:  # torch writes checksums, and does not compare them when it reads
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        # by way of the CPU: several processes without a GPU call their devices cpu:0, cpu:1, which torch.load does not know
        return torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # damaged files make the readers raise whatever they happen to
        raise ValueError(
            f"checkpoint: {file} is damaged ({_line(error)}); delete it, and the training starts anew."
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def train(
    model: nn.Module,
    loss: Loss,
    n_images: int,
    recipe: Recipe,
    checkpoint: str | os.PathLike,
    *,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
    title: str = "training",
    parameters: Sequence[nn.Parameter] | None = None,
    live: str | os.PathLike | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place and return its learning curve, one row per 50 steps and per evaluation.

    loss(model, ids, step) -> (mean loss, terms to log) sees this process's slice of the step's image ids, or the part of
    it that accumulation leaves. ``checkpoint`` is a file: when it exists, training continues from it, on any number of
    processes; it is replaced atomically, so a kill at any moment loses at most ``checkpoint_every`` steps. ``live`` is a
    folder where DVCLive keeps the curve as it grows. A long run says after its first steps how long the rest will take.
    On return the model holds the averaged weights (EMA), in every process.

    Raises ValueError when the checkpoint belongs to another recipe or is damaged, FloatingPointError when the loss is not
    finite, MemoryError when the GPU's memory is too small, OSError when a checkpoint cannot be written.
    """

    def has_row(done: int) -> bool:
        return done % 50 == 0 or done == recipe.steps

    def has_evaluation(done: int) -> bool:
        return bool(evaluate and evaluate_every) and (done % evaluate_every == 0 or done == recipe.steps)

    def evaluated() -> dict[str, float]:
        with run.averaged_weights(), torch.no_grad():
            return evaluate(model)

    run = Run(model, loss, n_images, recipe, parameters)
    main = run.accelerator.is_main_process
    path = Path(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        run.restore(path)
    run.check_agreement()

    model.train()
    with run.memory_advice(title), live_curve(live if main else None, run.history) as add_to_live_curve:
        left = range(run.step + 1, recipe.steps + 1)
        bar = tqdm(
            left, initial=run.step, total=recipe.steps, desc=title, unit="step", mininterval=1.0, disable=not main
        )
        shown: dict[str, str] = {}
        timed: list[float] = []
        for done in bar:
            began = time.perf_counter()
            means = run.advance()
            if main and len(timed) < TIMED_STEPS:
                float(means["loss"])  # waits until a GPU is done
                timed.append(time.perf_counter() - began)
                seconds = float(np.median(timed)) * (recipe.steps - done)
                if len(timed) == TIMED_STEPS and seconds >= WORTH_SECONDS:
                    steps = f"{recipe.steps:,}".replace(",", " ")
                    say(f"{title}: {steps} steps on {device_name()}, about {duration(seconds)} left")
            if has_row(done):
                row = {"step": done} | run.over_processes(means)
                if not np.isfinite(row["loss"]):
                    raise FloatingPointError(
                        f"{title}: the loss is {row['loss']} at step {done}; lower the learning rate."
                    )
                if has_evaluation(done):
                    row |= evaluated()
                run.history.append(row)
                add_to_live_curve(row)
                shown |= {k: f"{v:.4g}" for k, v in row.items() if k != "step"}
                bar.set_postfix(shown)
            if main and (done % recipe.checkpoint_every == 0 or done == recipe.steps):
                part = path.with_suffix(".part")
                run.save(part)
                os.replace(part, path)
    run.accelerator.wait_for_everyone()  # what the main process wrote is there when any of them goes on

    run.ema.copy_to(run.trained)
    model.eval()
    return pd.DataFrame(run.history)
