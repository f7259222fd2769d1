"""How a report was made: parameters, seeds, hashes of inputs, versions, hardware, run time per stage and git revision, for the
end of the page."""

import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from flashdiff.study.progress import durations
from flashdiff.study.records import read_json

LIBRARIES = ("flashdiff", "torch", "diffusers", "numpy", "pandas", "scikit-image", "matplotlib", "dvc")


def made(folder: str | Path, notebooks: Collection[str]) -> dict:
    """What the page says of its making: "parameters" (the text of params.yaml without its comments), "seeds" (see :func:`seeds`), "inputs" (see
    :func:`inputs`), "splits" (name -> SHA-256 of its pixels and labels), "versions", "hardware", "durations" (seconds by
    stage) and "revision"; what is not known there is empty or says so.

    folder: the study's; notebooks: names of the executed ones that the study has now, whose stages count. Hardware and
    versions are of the machine and the environment that write the page.
    """
    folder = Path(folder)
    parameters, known = folder / "params.yaml", durations(folder)
    data = folder / "reports/metrics/data.json"
    described = read_json(data) if data.is_file() else {}
    return {
        "parameters": without_comments(parameters.read_text(encoding="utf-8")) if parameters.is_file() else "",
        "seeds": seeds(folder),
        "inputs": inputs(folder),
        "splits": {name: split["sha256"] for name, split in described.items() if "sha256" in split},
        "versions": {"Python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "hardware": hardware(),
        "durations": {name: known[name] for name in notebooks if name in known},
        "revision": revision(folder),
    }


CARD_SEEDS = re.compile(r'^- (?P<part>\w+):.*\bseed (?P<seed>\d+)|^ *"seed": (?P<only>\d+),?$', re.MULTILINE)
"""How the card of a prior, a line per part, and that of a severity encoder, its recipe in JSON, name seeds."""


def without_comments(text: str) -> str:
    """A study file's text as short as it can be: a sign # in quotes begins no comment, and a line with quotes stays whole."""
    lines = [
        line if {"'", '"'} & {*line.partition("#")[0]} else re.sub(r"(^|\s)\s*#.*", "", line)
        for line in text.splitlines()
    ]
    return re.sub(r"\n{2,}", "\n", "\n".join(line.rstrip() for line in lines)).strip() + "\n"


def seeds(folder: Path) -> dict[str, Any]:
    """The seeds behind a study: "study" (None where its file names none), "other" (of more trainings), and "cards", what the
    cards of the prior and of the encoder that trainings start from say: {path: {part, "" for a whole: seed}}."""
    parameters = _yaml(folder / "params.yaml")
    init = (parameters.get("severity") or {}).get("init")
    cards = {}
    for path in filter(None, ("data/prior", init)):
        card = folder / path / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        found = {match["part"] or "": int(match["seed"] or match["only"]) for match in CARD_SEEDS.finditer(text)}
        cards |= {path: found} if found else {}
    return {"study": parameters.get("seed"), "other": parameters.get("other_seeds") or [], "cards": cards}


def inputs(folder: Path) -> list[dict[str, Any]]:
    """What a study's results were made of, as dvc.lock has it: path, md5, size in bytes and files (None for a single one).

    Images, splits, models and the records that ship; a folder's md5 is that of the list of its files with theirs, by DVC.
    """
    present, parameters = set(_yaml(folder / "dvc.yaml").get("stages") or {}), _yaml(folder / "params.yaml")
    items = {"", *(parameters.get("degradations") or {}), *(parameters.get("pairs") or {})}
    found: dict[str, dict[str, Any]] = {}
    for name, stage in (_yaml(folder / "dvc.lock").get("stages") or {}).items():
        of, _, item = name.partition("@")
        if of in present and item in items:  # DVC keeps what it knew of stages that are no more
            for entry in (*stage.get("deps", []), *stage.get("outs", [])):
                path, of_stage = entry["path"], "data/results"
                if "data/" in path and not path.startswith(of_stage) and not path.endswith(".recipe.json"):
                    known = {"path": path, "md5": entry["md5"].removesuffix(".dir")}
                    found[path] = known | {"size": entry.get("size"), "files": entry.get("nfiles")}
    order = ("data/raw", "data/splits", "data/prior", "data/encoder", "data/severity", "data/tuned")
    rank = {path: next((k for k, start in enumerate(order) if path.startswith(start)), len(order)) for path in found}
    return sorted(found.values(), key=lambda entry: (rank[entry["path"]], entry["path"]))


def _yaml(path: Path) -> Mapping[str, Any]:
    from ruamel.yaml import YAML

    return (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def hardware() -> str:
    """The machine in words: "2 cores of Intel(R) Xeon(R) CPU @ 2.20GHz, 8 GB of memory, Linux x86_64"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{cores} core{'' if cores == 1 else 's'} of {_processor()}"]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB of memory")
    if Path("/dev/nvidia0").exists():  # without a GPU the page is written in a second, and torch alone takes longer
        import torch

        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "an unnamed processor")


def revision(folder: str | Path) -> str:
    """The git revision of a folder, short, and whether its files differ from it; "unknown" outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # a stage of this very run has written into reports/: only sources count
        changed = git("status", "--porcelain", "--", ":/flashdiff", ":/notebooks", "params.yaml")
        return git("rev-parse", "--short=10", "HEAD") + (" with changes that are not committed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git repository)"
