"""How a report was made: parameters, versions, hardware, run time per stage and git revision, for the end of the page."""

import os
import platform
import subprocess
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from flashdiff.study.progress import durations

LIBRARIES = ("flashdiff", "torch", "diffusers", "numpy", "pandas", "scikit-image", "matplotlib", "dvc")


def made(folder: str | Path, notebooks: Collection[str]) -> dict:
    """What the page says of its making: "parameters" (the text of params.yaml), "versions", "hardware", "durations" (seconds
    by stage) and "revision"; what is not known there is empty or says so.

    folder: the study's; notebooks: names of the executed ones that the study has now, whose stages count. Hardware and
    versions are of the machine and the environment that write the page.
    """
    folder = Path(folder)
    parameters, known = folder / "params.yaml", durations(folder)
    return {
        "parameters": parameters.read_text(encoding="utf-8") if parameters.is_file() else "",
        "versions": {"Python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "hardware": hardware(),
        "durations": {name: known[name] for name in notebooks if name in known},
        "revision": revision(folder),
    }


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
