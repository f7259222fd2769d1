"""Priors from elsewhere, put in place as a diffusers folder: another folder, a model of the hub, a CompVis checkpoint."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flashdiff.prior import AUTOENCODERS, Prior
from flashdiff.weights.compvis import read_compvis
from flashdiff.weights.published_severity import load_published


def take_prior(source: str | Path, target: str | Path, severity: Mapping[str, str | Path] | None = None) -> Prior:
    """Put a prior into the folder ``target``, which it replaces, and return it.

    source: a folder, copied with what lies beside the model (card, features); the id of a model on the hub, downloaded;
    or a CompVis .ckpt with its config.yaml beside it, converted. severity: by degradation, the .ckpt of a published
    severity encoder of this prior, converted to ``target/severity/DEGRADATION``; those of another study stay there.
    All is read before ``target`` is touched; raises as :meth:`Prior.from_pretrained` and :func:`load_published` do,
    FileNotFoundError for a model that cannot be downloaded.
    """
    source, target = Path(source), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        complete = Path(folder) / target.name
        if source.suffix == ".ckpt":
            prior = convert_compvis(source, source.with_name("config.yaml"), complete)
        else:
            local = source if source.is_dir() else _download(str(source))
            prior = Prior.from_pretrained(local)
            # follows the links of the hub's cache
            shutil.copytree(local, complete, ignore=shutil.ignore_patterns("severity"))
        for degradation, checkpoint in (severity or {}).items():
            load_published(checkpoint, prior).save_pretrained(complete / "severity" / degradation)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(complete, target)
    return prior


def convert_compvis(checkpoint: str | Path, config: str | Path, target: str | Path, *, ema: bool = True) -> Prior:
    """Write a CompVis checkpoint as a diffusers folder (``LDMPipeline`` layout, safetensors) and return the prior.

    target: a folder that does not exist yet; it appears when it is complete. Otherwise as
    :func:`flashdiff.weights.compvis.load_compvis_prior`, whose errors leave nothing behind; ValueError, too, if the target exists.
    """
    target = Path(target)
    if target.exists():
        raise ValueError(f"target: '{target}' exists; give a new folder, or remove it.")
    model = read_compvis(checkpoint, config, ema=ema)
    prior = Prior(model.autoencoder, model.unet, model.alphas_cumprod)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        complete = Path(folder) / "prior"
        prior.save_pretrained(complete, model.scheduler)
        os.rename(complete, target)
    return prior


def _download(hub_id: str) -> Path:
    """The folder of a model of the hub in its local cache, with what a prior needs of it."""
    from huggingface_hub import snapshot_download

    parts = [f"{name}/*" for name in (*AUTOENCODERS, "unet", "scheduler")]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["model_index.json", *parts]))
    except Exception as error:  # offline, unknown, gated: each of the hub's libraries has its own classes for it
        raise FileNotFoundError(
            f"prior.path: there is no folder '{hub_id}', and the hub does not give that model "
            f"({str(error).splitlines()[0]}); give a folder, or connect to the network and run again."
        ) from error
