"""Copies of this repository for tests that run whole studies, so that they neither read nor write the working tree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # as the Makefile does
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",  # tiny models gain nothing from threads
}


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def copy_repository(copy: Path) -> Path:
    """A git repository with what git would track of this one, committed; without the shipped prior and reports."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository to copy")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, tracked)):
        left_out = name.startswith(("data/prior/", "reports/")) or re.match(r"studies/[^/]+/(reports|data)/", name)
        if (ROOT / name).is_file() and not left_out:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    git(copy, "init", "--quiet")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "copy")
    return copy


def dvc(folder: Path, *arguments: str, succeeds: bool = True) -> str:
    """Run dvc in a study's folder and return what it printed, complaints included where it is to fail."""
    program = Path(sys.executable).with_name("dvc")
    run = subprocess.run([program, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    said = run.stdout + run.stderr
    assert (run.returncode == 0) == succeeds, said[-4000:]
    return run.stdout if succeeds else said


def stages_that_ran(said: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", said))
