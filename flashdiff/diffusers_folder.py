"""A latent diffusion model on disk, in diffusers' layout: found, read strictly, and refused where it is no prior.

Nothing in a file is executed: safetensors hold no code, and older ``.bin`` files are unpickled with tensors allowed alone.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lazy_loader as lazy

from flashdiff.assumptions import check_class, check_fields

if TYPE_CHECKING:
    from torch import Tensor, nn

torch = lazy.load("torch")

AUTOENCODERS = ("vqvae", "vae")
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
HALF = ("fp16", "bf16")
"""Variants in half precision: the same weights, rounded."""
CHECKPOINTS = (".ckpt", ".pt", ".pth")
"""What original checkpoints are called."""


class Parts(NamedTuple):
    """What a folder holds: the networks in float32, the signal's share abar (N,), and the autoencoder's pixel_unshuffle."""

    autoencoder: nn.Module
    unet: nn.Module
    alphas_cumprod: Tensor
    pixel_unshuffle: int


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is that of a single file, by what is there or by its name."""
    return Path(path).is_file() or (Path(path).suffix in CHECKPOINTS and not Path(path).is_dir())


def locate(path: str | Path) -> Path:
    """The folder at ``path``, or of the hub's model of that id in its local cache; FileNotFoundError where there is neither."""
    if Path(path).is_dir():
        return Path(path)
    if looks_local(str(path)):
        raise FileNotFoundError(
            f"prior: there is no folder '{path}'; give a folder written by save_pretrained, or the id of a model on the hub as in "
            "owner/name."
        )
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", *(f"{name}/*" for name in (*AUTOENCODERS, "unet", "scheduler"))]
    try:
        return Path(snapshot_download(str(path), allow_patterns=patterns))
    except Exception as error:  # offline, unknown, gated: each of the hub's libraries has its own classes for it
        raise FileNotFoundError(
            f"prior: there is no folder '{path}', and the hub does not give that model ({str(error).splitlines()[0]}); give a "
            "folder written by save_pretrained, connect to the network, or run `make study` once."
        ) from error


def looks_local(path: str) -> bool:
    """Whether a text is meant as a path on this machine, and not as a hub's id, which is name or owner/name."""
    separators = [sep for sep in (os.sep, os.altsep, "/") if sep]
    begins = path.startswith((".", "~", *separators)) or Path(path).is_absolute()
    nested = sum(path.count(sep) for sep in set(separators)) > 1 or path.endswith(tuple(separators))
    return begins or nested or os.path.lexists(path) or (len(Path(path).parts) > 1 and Path(path).parent.is_dir())


def read_parts(folder: Path) -> Parts:
    """Networks and schedule of a folder; FileNotFoundError or ValueError with one sentence says what is missing or no prior.

    Configurations are read first and held against :mod:`flashdiff.assumptions`, so that nothing large is read in vain.
    """
    index = _read_json(folder / "model_index.json")
    found = [name for name in AUTOENCODERS if name in index]
    if not found or "unet" not in index or "scheduler" not in index:
        raise ValueError(
            f"prior: {folder}/model_index.json lists {sorted(index)}; vqvae or vae, unet and scheduler are needed."
        )
    files = {
        "denoiser": folder / "unet/config.json",
        "autoencoder": folder / found[0] / "config.json",
        "scheduler": folder / "scheduler/scheduler_config.json",
    }
    listed = {"denoiser": index["unet"], "autoencoder": index[found[0]], "scheduler": index["scheduler"]}
    contents, kinds, places = {}, {}, {part: f"prior: {file}" for part, file in files.items()}
    for part, file in files.items():  # the denoiser first: its class says most about a model
        contents[part] = _read_json(file)
        name = contents[part].get("_class_name") or listed[part][1]
        check_class(part, name, places[part])
        kinds[part] = _class_of(name)
    model: dict[str, Any] = {part: defaults(kinds[part]) | contents[part] for part in files}
    check_fields(model | {"index": index}, places)
    try:
        alphas_cumprod = kinds["scheduler"].from_config(contents["scheduler"]).alphas_cumprod
    except Exception as error:  # values that its formula does not take
        raise ValueError(f"{places['scheduler']}: gives no schedule of betas ({_line(error)}).") from error
    autoencoder, unet = (_network(kinds[part], files[part].parent) for part in ("autoencoder", "denoiser"))
    return Parts(autoencoder, unet, alphas_cumprod, index.get("pixel_unshuffle", 1))


def defaults(kind: type) -> dict[str, Any]:
    """The values that diffusers gives to the fields of a class that a configuration does not name."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def name_scaling_factor(autoencoder: nn.Module) -> None:
    """Let a VQ autoencoder whose configuration names no scaling_factor have 1, in place.

    Latents of VQ autoencoders are of about unit variance as they are, and the published ones are older than the field
    (``CompVis/ldm-celebahq-256``); diffusers gives them 0.18215, which is Stable Diffusion's. What was named is kept.
    """
    unnamed = "scaling_factor" in (autoencoder.config.get("_use_default_values") or ())
    default = defaults(type(autoencoder)).get("scaling_factor")
    if unnamed and hasattr(autoencoder, "quantize") and autoencoder.config.scaling_factor == default:
        autoencoder.register_to_config(scaling_factor=1.0)


def _class_of(name: str) -> type:
    import diffusers

    return getattr(diffusers, name)


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"prior: '{path.parent}' is no part of a diffusers folder ({path.name} is missing); give a folder written by "
            "save_pretrained, or run `make study` once."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"prior: {path} is no JSON ({_line(error)}); copy the model again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"prior: {path} is no JSON object; copy the model again.")
    return content


def _variant(folder: Path) -> tuple[str | None, bool]:
    """The variant of the weights in a folder, None where they are there as such, else in half precision; whether safetensors."""
    files = [match for path in folder.iterdir() if (match := WEIGHTS.fullmatch(path.name))]
    found = {match["variant"] for match in files}
    if not found:
        raise FileNotFoundError(
            f"prior: {folder} holds no weights (diffusion_pytorch_model.safetensors or .bin); copy the model again, or save it "
            "with save_pretrained."
        )
    chosen = next((name for name in (None, *HALF) if name in found), "")
    if chosen == "":
        raise ValueError(
            f"prior: {folder} holds the weights only as {', '.join(sorted(found))}; rename the file that you mean to "
            "diffusion_pytorch_model.safetensors."
        )
    return chosen, any(match["variant"] == chosen and match.string.endswith(".safetensors") for match in files)


def _network(kind: type, folder: Path) -> nn.Module:
    """A network with its weights in float32, every tensor accounted for."""
    variant, safetensors = _variant(folder)
    options = {"variant": variant, "use_safetensors": safetensors, "torch_dtype": torch.float32}
    return load_whole("prior", kind.from_pretrained, folder, local_files_only=True, **options)


def load_whole(what: str, load: Callable[..., Any], folder: str | Path, **options: Any) -> nn.Module:
    """``load`` (a ``from_pretrained`` of diffusers) of a folder, every tensor accounted for.

    diffusers alone draws a tensor that is missing at random, and says so in a warning. Raises ValueError in one sentence that
    begins with ``what``, FileNotFoundError where there is no such folder; the id of a model on the hub is left to diffusers.
    """
    if not Path(folder).is_dir():
        if looks_local(str(folder)):
            raise FileNotFoundError(f"{what}: there is no folder '{folder}'; give one written by save_pretrained.")
        return load(folder, **options)
    try:
        network, info = load(folder, output_loading_info=True, **options)
    except Exception as error:  # files of another kind make the readers raise whatever they happen to
        raise ValueError(
            f"{what}: the weights in {folder} are not those of its config.json, or no tensors at all ({_line(error)}); copy the "
            "model again."
        ) from error
    problems = {"lacks": info["missing_keys"], "holds unknown": info["unexpected_keys"]}
    said = "; ".join(
        f"{verb} {len(keys)} tensor{'s'[: len(keys) != 1]} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for verb, keys in problems.items()
        if keys
    )
    if said:
        raise ValueError(f"{what}: {folder} {said}; give the weights that belong to its config.json.")
    return network


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
