"""Which study a command works with, and what of it is on disk. Nothing here loads torch."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flashdiff
from flashdiff.study.few_steps import few_step_walks
from flashdiff.study.schema import Study, StudyError, load
from flashdiff.trust import promises

PRETRAINING = "studies/fashion-mnist-pretraining"
"""The study that trained the shipped encoder (`make pretrain`): its degradations are known to that encoder, too."""
NO_PICTURES_OWN = {"motion_blur": "direction", "nonlinear_blur": "camera path"}
"""Degradations whose operator is drawn per image of a data set, so that nobody knows it of a picture from elsewhere."""


def repository() -> Path:
    """The folder that holds the package and what ships with it; StudyError where the package was installed without it."""
    root = Path(flashdiff.__file__).resolve().parents[1]
    if not (root / "params.yaml").is_file():
        raise StudyError(
            "study: this installation has no models beside it; install the repository with `pip install -e .`, or name a "
            "study's folder with --study."
        )
    return root


def choose(field: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is known; else StudyError: what there is, and what may have been meant."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? There are" if near else "choose one of"
    raise StudyError(f"{field}: {name!r} is unknown; {meant} {', '.join(known)}.")


def check_prior(folder: str | Path = ".") -> Path:
    """The prior's folder of a study, where it is complete; else StudyError says what makes it. No hub is asked.

    ``folder``: the study's. Raises StudyError, too, where its study file is missing or wrong.
    """
    folder = Path(folder)
    prior = folder / "data/prior"
    if (prior / "model_index.json").is_file():
        return prior
    study = load(folder / "params.yaml")
    target = "prior" if study.prior.kind == "train_prior" else "study"
    raise StudyError(f"{prior}: no prior there yet; {make(target, study.study)} puts it there.")


def make(target: str, study: str) -> str:
    """The command that runs a target for a study, as a reader types it."""
    return f"`make {target}`" if study == "fashion-mnist" else f"`make {target} STUDY={study}`"


@dataclass(frozen=True)
class Place:
    """A study's folder, looked at by a command: its parameters, and which models of it are there."""

    folder: Path

    @classmethod
    def find(cls, named: str | None = None) -> "Place":
        """The study that is named by its folder or by its name in studies/; None: the one that ships."""
        if named is None:
            return cls(repository())
        if (Path(named) / "params.yaml").is_file():
            return cls(Path(named).resolve())
        studies = {path.parent.name: path.parent for path in repository().glob("studies/*/params.yaml")}
        studies["fashion-mnist"] = repository()
        if Path(named).is_dir():
            raise StudyError(
                f"study: {named} has no params.yaml; name a study's folder, or one of {', '.join(studies)}."
            )
        return cls(studies[choose("study", named, studies)])

    @cached_property
    def study(self) -> Study:
        return load(self.folder / "params.yaml")

    @cached_property
    def prior(self) -> Path:
        return check_prior(self.folder)

    @cached_property
    def shipped(self) -> Path | None:
        """The severity encoder that the study's trainings start from, where it is one: it knows many degradations."""
        folder = self.folder / self.study.severity.init
        config = folder / "config.json"
        is_encoder = config.is_file() and json.loads(config.read_text())["_class_name"] == "SeverityEncoder"
        return folder if is_encoder else None

    @cached_property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Degradation -> its entry in the study file; those of the shipped encoder's own study come after this one's."""
        found = dict(self.study.degradations)
        if self.shipped is not None and (self.folder / PRETRAINING / "params.yaml").is_file():
            for entry in load(self.folder / PRETRAINING / "params.yaml").degradations.values():
                found = dict(getattr(entry, "members", {})) | found
        own = [*self.study.degradations, *(name for name in found if name not in self.study.degradations)]
        return {name: found[name].model_dump(mode="json", exclude_none=True) for name in own}

    def encoder(self, degradation: str | None) -> tuple[Path, str]:
        """The folder of the severity encoder for a degradation (None: blind), and what it is in words."""
        if degradation is not None:
            trained = self.folder / "data/severity" / choose("degradation", degradation, self.entries)
            if (trained / "config.json").is_file():
                return trained, f"the encoder trained for {degradation}"
        if self.shipped is not None:
            return self.shipped, f"the encoder in {self.study.severity.init}, which was told no degradation"
        mixtures = [name for name, entry in self.study.degradations.items() if entry.kind == "mixture"]
        for name in mixtures if degradation is None else []:
            if (self.folder / "data/severity" / name / "config.json").is_file():
                return self.folder / "data/severity" / name, f"the encoder trained for {name}"
        if degradation is None and not mixtures:
            raise StudyError(
                f"degradation: this study has no encoder for several; name one of {', '.join(self.study.degradations)}."
            )
        missing = self.folder / "data/severity" / (degradation or mixtures[0])
        raise StudyError(f"{missing}: no severity encoder there yet; {make('study', self.study.study)} trains it.")

    def promised(self, degradation: str | None, encoder: Path) -> dict[str, Any] | None:
        """The calibrated intervals of :func:`flashdiff.trust.promises.shipped`; None where the degradation is unknown (blind), or
        where ``encoder``, the folder that is asked, is not the one that was trained for it and calibrated."""
        if degradation is None or encoder != self.folder / "data/severity" / degradation:
            return None
        return promises.shipped(self.folder, self.study.pairs, degradation)

    def walks(self, degradation: str) -> tuple[str | None, Mapping[str, Any]]:
        """:func:`few_step_walks` of this study."""
        return few_step_walks(self.folder, self.study, degradation)
