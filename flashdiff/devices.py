"""Where this process computes, and in which precision."""

import torch


def device() -> torch.device:
    """The device this process trains and infers on: its GPU when there is one, else the CPU."""
    from accelerate import PartialState

    return PartialState().device


def resolve_precision(name: str) -> str:
    """ "auto" becomes bf16 on a GPU that computes in it, else "no"; other names pass through."""
    if name not in ("auto", "no", "bf16"):
        raise ValueError(f"mixed_precision: {name!r} is unknown; choose one of auto, no, bf16.")
    if name != "auto":
        return name
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
