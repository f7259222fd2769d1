"""Faults of the pipeline as a user meets them: `make study` of the smoke study is killed again and again, whole or its first
process alone, and two run at once; then it runs undisturbed, and its numbers are held against those of a study nothing happened to.

python tests/faults/pipeline.py [--faults 20] [--seed 0] [--longest 40] [--undisturbed FOLDER]
"""

import argparse
import collections
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from repositories import ENVIRONMENT, copy_repository

from flashdiff.study.reproduce import compare

KINDS = ("kill -9 of all", "kill -9 of the first process", "Ctrl-C", "SIGTERM", "two at once, one killed")
STUDY = [sys.executable, "-m", "flashdiff.study.run"]
LIMIT_S = 3600


def begun(folder: Path, log: Path) -> subprocess.Popen:
    """`make study` in a session of its own, as a terminal starts it."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(folder.parents[1])  # the copy's own modules
    with log.open("a") as file:
        return subprocess.Popen(
            STUDY,
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def happens(folder: Path, log: Path, kind: str, after: float) -> bool | None:
    """Start the study and let a fault happen to it after so many seconds; False where it had finished before, None where it was
    told to wait for what a killed run had begun."""
    runs = [begun(folder, log)]
    if kind.startswith("two"):
        runs.append(begun(folder, log))
    time.sleep(after)
    if all(run.poll() is not None for run in runs):
        return False if all(run.returncode == 0 for run in runs) else None
    first = runs[0]
    with contextlib.suppress(ProcessLookupError):
        if kind == "kill -9 of the first process":
            os.kill(first.pid, signal.SIGKILL)
        else:
            number = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}.get(kind, signal.SIGKILL)
            os.killpg(first.pid, number)
    for run in runs:  # the other one of two goes on to its end
        run.wait(LIMIT_S)
    return True


def wait_for_orphans(folder: Path) -> None:
    """What a killed process had begun works on for a while, and whoever starts the study meanwhile is told so."""
    deadline = time.monotonic() + LIMIT_S

    def works() -> bool:
        for place in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(place)).is_relative_to(folder):
                    return True
        return False

    while works() and time.monotonic() < deadline:
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=40, help="seconds until a fault, at most")
    parser.add_argument("--undisturbed", type=Path, help="a smoke study that has run (default: one is run)")
    options = parser.parse_args()
    rng, counts, studies, told = np.random.default_rng(options.seed), collections.Counter(), [], 0
    with tempfile.TemporaryDirectory() as place:
        for name in ("faults", "undisturbed")[: 1 if options.undisturbed else 2]:
            (copy := Path(place) / name).mkdir()
            studies.append(copy_repository(copy) / "studies/smoke")
        study, whole = studies[0], options.undisturbed or studies[1]
        if not options.undisturbed:
            assert begun(whole, whole / "log.txt").wait(LIMIT_S) == 0, (whole / "log.txt").read_text()[-2000:]
        while sum(counts.values()) < options.faults:
            kind = str(rng.choice(KINDS, p=[0.3, 0.3, 0.15, 0.15, 0.1]))
            happened = happens(study, study / "log.txt", kind, float(rng.uniform(2, options.longest)))
            if happened is None:
                time.sleep(5)  # as somebody who was told to wait
                told += 1
            elif not happened:
                break  # nothing is left to disturb
            else:
                counts[kind] += 1
                print(f"[{sum(counts.values())}/{options.faults}] {kind}", flush=True)
        wait_for_orphans(study)
        last = begun(study, study / "last.txt")
        if last.wait(LIMIT_S):
            print((study / "last.txt").read_text()[-4000:])
            return 1
        found = compare(study, whole)
        print("\n".join(f"{number} x {kind}" for kind, number in counts.items()))
        print(f"{told} times a start was told to wait for what a killed run had begun.")
        print(found.text())
        return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
