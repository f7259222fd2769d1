"""Where this process computes, and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def on_cpus() -> bool:
    """Whether several processes were launched on a machine without a GPU; accelerate has to be told."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available()


def process_state():
    """accelerate's PartialState: this process's rank, how many processes there are, and its device."""
    from accelerate import PartialState

    return PartialState(cpu=on_cpus())


def device() -> torch.device:
    """The device this process trains and infers on: its GPU when there is one, else the CPU."""
    return process_state().device


def device_name() -> str:
    """That device in words: a GPU's name, or how many threads compute on the CPU."""
    here = device()
    if here.type == "cuda":
        return torch.cuda.get_device_name(here)
    if here.type == "cpu":
        threads = torch.get_num_threads()
        return f"{threads} CPU thread{'s' if threads > 1 else ''}"
    return f"the {here.type} device"


def resolve_precision(name: str) -> str:
    """ "auto" becomes bf16 on a GPU that computes in it, else "no"; other names pass through."""
    if name not in ("auto", "no", "bf16"):
        raise ValueError(f"mixed_precision: {name!r} is unknown; choose one of auto, no, bf16.")
    if name != "auto":
        return name
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Where gradients are taken: leaves the caller's ``torch.inference_mode()``, which forbids them, for ``no_grad``.

    What is computed here, copies included, is made of normal tensors. Without that mode nothing happens.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # in this order: leaving the mode turns gradients on
        yield


def as_normal_tensors(module: nn.Module) -> None:
    """Replace, in place, what of a module was made under ``torch.inference_mode()``: no gradient can go through that."""
    with outside_inference_mode(), torch.no_grad():
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None and value.is_inference():
                    part._parameters[name] = nn.Parameter(value.clone(), value.requires_grad)
            for name, value in part._buffers.items():
                if value is not None and value.is_inference():
                    part._buffers[name] = value.clone()
