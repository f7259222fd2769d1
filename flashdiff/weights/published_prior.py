"""Priors from elsewhere, put in place as a diffusers folder: another folder, a model of the hub, a CompVis checkpoint."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flashdiff.devices import device
from flashdiff.diffusers_folder import AUTOENCODERS, is_checkpoint, locate
from flashdiff.prior import Prior
from flashdiff.weights.compvis import read_compvis
from flashdiff.weights.denoiser_check import check_denoiser
from flashdiff.weights.published_severity import load_published

CHECKED = "denoiser_check.csv"
"""What :func:`flashdiff.weights.denoiser_check.check_denoiser` found, in the folder of a prior that was taken."""


def take_prior(
    source: str | Path,
    target: str | Path,
    severity: Mapping[str, str | Path] | None = None,
    images: np.ndarray | None = None,
) -> Prior:
    """Put a prior into the folder ``target``, which it replaces, and return it.

    source: a folder, copied with what lies beside the model (card, features); the id of a model on the hub, downloaded;
    or a CompVis .ckpt with its config.yaml beside it, converted. severity: by degradation, the .ckpt of a published
    severity encoder of this prior, converted to ``target/severity/DEGRADATION``; those of another study stay there.
    images: uint8 (n, C, H, W) of the study, on which the denoiser is checked; what it answered is kept in CHECKED.
    What is copied can be written to, whatever the source's permissions are.
    All is read and checked before ``target`` is touched; raises as :meth:`Prior.from_pretrained`, :func:`load_published` and
    :func:`flashdiff.weights.denoiser_check.check_denoiser` do, FileNotFoundError for a model that cannot be downloaded.
    """
    source, target = Path(source), Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}-*"):  # of a run that was killed
        _remove(left)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        complete = Path(folder) / target.name
        if is_checkpoint(source):
            prior = convert_compvis(source, source.with_name("config.yaml"), complete)
        else:
            local = locate(source)
            prior = Prior.from_pretrained(local)
            # follows the links of the hub's cache
            ignored = shutil.ignore_patterns("severity", CHECKED)
            shutil.copytree(local, complete, ignore=ignored, copy_function=shutil.copyfile)
            _let_write(complete)
            _write_scaling_factor(prior, complete)
        if images is not None:
            check_denoiser(prior.to(device()), images).to_csv(complete / CHECKED, index=False, float_format="%.6g")
        for degradation, checkpoint in (severity or {}).items():
            load_published(checkpoint, prior).save_pretrained(complete / "severity" / degradation)
        if target.exists():
            _remove(target)
        os.rename(complete, target)
    return prior


def _let_write(folder: Path) -> None:
    """Let the owner of a folder write in it and in all folders below; a copy of a read-only one is read-only."""
    for inner, _, _ in os.walk(folder):
        os.chmod(inner, os.stat(inner).st_mode | 0o700)


def _remove(folder: Path) -> None:
    _let_write(folder)
    shutil.rmtree(folder)


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


def _write_scaling_factor(prior: Prior, folder: Path) -> None:
    """Name the scaling_factor in a folder whose configuration does not, so that no other reader takes its own default."""
    for path in (folder / name / "config.json" for name in AUTOENCODERS):
        if path.is_file() and "scaling_factor" not in (content := json.loads(path.read_text(encoding="utf-8"))):
            path.write_text(
                json.dumps(content | {"scaling_factor": prior.scaling_factor}, indent=2) + "\n", encoding="utf-8"
            )
