"""Which degradations can be shown: those of the study that has run, and those that the shipped severity encoder knows."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flashdiff.degradations import Degradation, build
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study.schema import Study, load

SHIPPED = "data/encoder"
PRETRAINING = "studies/fashion-mnist-pretraining/params.yaml"
"""What the shipped encoder was trained on: the members of this study's mixture."""


@dataclass(frozen=True)
class Known:
    """A degradation and a severity encoder that knows it.

    noise_std: what measurements have unless one asks for another; trained_noise: lowest and highest that the encoder was
    trained with, both in [-1, 1] units; source: which encoder it is, for readers; note: what else they should know.
    """

    degradation: Degradation
    noise_std: float
    trained_noise: tuple[float, float]
    encoder: SeverityEncoder
    source: str
    note: str = ""


def words(name: str) -> str:
    """A name of a study file as readers see it."""
    return name.replace("_", " ")


def fits(encoder: SeverityEncoder, prior: Prior) -> bool:
    """Whether the encoder speaks of this prior's latents; one that corrects E0 has to hold this prior's E0."""
    own, config = encoder.config, prior.autoencoder.config
    if (own.latent_channels, own.pixel_unshuffle, own.scaling_factor, own.in_channels * own.pixel_unshuffle**2) != (
        config.latent_channels, prior.pixel_unshuffle, prior.scaling_factor, config.in_channels
    ):  # fmt: skip
        return False
    copy = encoder.encoder.conv_in.weight, prior.autoencoder.encoder.conv_in.weight
    return not encoder.corrects or torch.equal(*copy)


def find(folder: Path, study: Study, prior: Prior) -> tuple[dict[str, Known], dict[str, str]]:
    """(name -> what can be shown, name -> one sentence on how to get what cannot) for the study in ``folder``.

    What the study trained (data/severity/NAME) comes first; for a kind that it has no encoder for, the shipped one
    (data/encoder) takes its place where it belongs to this prior, with the levels that it was trained on.
    """
    known: dict[str, Known] = {}
    hidden: dict[str, str] = {}
    shipped, missing = _shipped(folder / study.root, prior)
    for name, entry in study.degradations.items():
        path, kind = folder / "data/severity" / name, entry.kind
        degradation, noise_std = build(entry.model_dump())
        encoder = SeverityEncoder.from_pretrained(path).eval().requires_grad_(False) if path.is_dir() else None
        if encoder is not None and fits(encoder, prior):
            trained = study.severity.noise or (noise_std, noise_std)
            known[name] = Known(degradation, noise_std, tuple(trained), encoder, f"the study's (`{path.as_posix()}`)")
        elif kind in shipped:
            if degradation != shipped[kind].degradation:
                note = f"The study's own {words(name)} has other levels: `make study` trains an encoder for them."
                shipped[kind] = replace(shipped[kind], note=note)
        elif encoder is not None:
            hidden[name] = f"{words(name)}: `{path}` belongs to another prior; `make study` trains one for this."
        elif kind not in missing:
            hidden[name] = f"{words(name)}: no severity encoder knows it yet; `make study` trains one (`{path}`)."
    covered = {study.degradations[name].kind for name in known}
    known |= {kind: entry for kind, entry in shipped.items() if kind not in covered}
    return known, hidden | {kind: text for kind, text in missing.items() if kind not in covered}


def _shipped(root: Path, prior: Prior) -> tuple[dict[str, Known], dict[str, str]]:
    """By kind: what the shipped encoder knows, and what it would know if it were there."""
    if not (root / PRETRAINING).is_file():
        return {}, {}
    study = load(root / PRETRAINING)
    (mixture,) = study.degradations.values()
    members = mixture.model_dump()["members"]
    if not (root / SHIPPED).is_dir():
        get = f"{SHIPPED} is missing; `git checkout {SHIPPED}` brings it back, `make pretrain` trains it anew."
        return {}, {name: f"{words(name)}: {get}" for name in members}
    encoder = SeverityEncoder.from_pretrained(root / SHIPPED).eval().requires_grad_(False)
    if not fits(encoder, prior):
        return {}, {}
    noise, source = tuple(study.severity.noise), f"the shipped one (`{SHIPPED}`)"
    return {name: Known(*build(entry), noise, encoder, source) for name, entry in members.items()}, {}
