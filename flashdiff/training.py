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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from flashdiff.devices import on_cpus, resolve_precision

Loss = Callable[[nn.Module, np.ndarray, int], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    steps: optimiser steps; batch_size: images per step over all processes; learning_rate: peak, after ``warmup`` steps,
    then along a cosine to 0; ema: decay of the exponential moving average that is kept as the result (0 keeps the raw
    weights); mixed_precision: "no", "bf16" or "auto" (bf16 on GPUs that have it, else "no");
    checkpoint_every: steps between checkpoints; seed: of the order of images and of all noise.
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

    @classmethod
    def of(cls, parameters: Mapping, **fields) -> Self:
        """The recipe in a section of a study: its parameters that are fields of a recipe, and ``fields``."""
        names = cls.__dataclass_fields__
        return cls(**{name: value for name, value in parameters.items() if name in names}, **fields)


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


def train(
    model: nn.Module,
    loss: Loss,
    n_images: int,
    recipe: Recipe,
    checkpoint: str | os.PathLike,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    title: str = "training",
    parameters: Sequence[nn.Parameter] | None = None,
) -> pd.DataFrame:
    """Train ``model`` in place and return its learning curve, one row per 50 steps and per evaluation.

    loss(model, ids, step) -> (mean loss, terms to log) sees this process's slice of the step's image ids. ``checkpoint``
    is a file: when it exists, training continues from it; it is replaced atomically, so a kill at any moment loses at
    most ``checkpoint_every`` steps. On return the model holds the averaged weights (EMA).

    Raises ValueError when the checkpoint belongs to another recipe, FloatingPointError when the loss is not finite.
    """
    from accelerate import Accelerator
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(cpu=on_cpus())
    bf16 = resolve_precision(recipe.mixed_precision) == "bf16"
    world, rank = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size % world:
        raise ValueError(f"batch_size: {recipe.batch_size} is not divisible by {world} processes; choose a multiple.")

    trained = list(parameters if parameters is not None else model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup, recipe.steps)
    ema = EMAModel(trained, decay=recipe.ema, use_ema_warmup=True, power=0.75)
    history: list[dict[str, float]] = []
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device)

    path = Path(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = 0
    if path.exists():
        state = torch.load(path, map_location=accelerator.device, weights_only=True)
        if state["recipe"] != vars(recipe):
            raise ValueError(f"checkpoint: {path} was written by another recipe; delete it or restore its parameters.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        ema.load_state_dict(state["ema"])
        history, first = state["history"], state["step"]

    def save(step: int) -> None:
        if not accelerator.is_main_process:
            return
        state = {
            "recipe": vars(recipe),
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "ema": ema.state_dict(),
            "history": history,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    @contextlib.contextmanager
    def averaged_weights():
        ema.store(trained)
        ema.copy_to(trained)
        model.eval()
        yield
        ema.restore(trained)
        model.train()

    share = recipe.batch_size // world
    model.train()
    bar = tqdm(
        range(first, recipe.steps),
        initial=first,
        total=recipe.steps,
        desc=title,
        unit="step",
        mininterval=1.0,
        disable=not accelerator.is_main_process,
    )
    shown: dict[str, str] = {}
    for step in bar:
        ids = batch_ids(n_images, recipe, step)[rank * share : (rank + 1) * share]
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
            value, terms = loss(wrapped, ids, step)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(trained, recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(trained)

        done = step + 1
        if done % 50 == 0 or done == recipe.steps:
            row = {"step": done, "loss": float(value.detach())} | {k: float(v.detach()) for k, v in terms.items()}
            if not np.isfinite(row["loss"]):
                raise FloatingPointError(f"{title}: the loss is {row['loss']} at step {done}; lower the learning rate.")
            if evaluate and evaluate_every and (done % evaluate_every == 0 or done == recipe.steps):
                with averaged_weights(), torch.no_grad():
                    row |= evaluate(model)
            history.append(row)
            shown |= {k: f"{v:.4g}" for k, v in row.items() if k != "step"}
            bar.set_postfix(shown)
        if done % recipe.checkpoint_every == 0 or done == recipe.steps:
            save(done)

    ema.copy_to(trained)
    model.eval()
    return pd.DataFrame(history)
