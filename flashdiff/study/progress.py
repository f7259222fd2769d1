"""Where a run of the whole study stands: which stages are still to run, how long they took the last time, what that leaves.

    python -m flashdiff.study.run

asks DVC before anything runs; each stage then says its number, its purpose and the time that is left.
"""

import contextlib
import fcntl
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from flashdiff.messages import duration

PLAN = Path(".build/plan.json")
"""The stages of the run that is on, in order, and which of them are done."""
DURATIONS = Path(".build/durations.json")
"""How long each stage took the last time on this machine: {name of its executed notebook: seconds}."""
SHIPPED_DURATIONS = Path("reports/durations.json")
"""The same of the run behind the committed report, for a clone that has run nothing yet."""
EXECUTED = re.compile(r"reports/notebooks/([^/\s]+)\.ipynb")


@dataclass(frozen=True)
class Step:
    """A stage as DVC describes it: its name, what it is for, and the paths that it reads and writes.

    missing: outputs that are not there; altered: whether its command, parameters, an input or an output is another than at
    its last run. notebook: the name of its executed notebook, none for a stage without one.
    """

    name: str
    purpose: str = ""
    notebook: str | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    altered: bool = False


def comes_back_equal(path: str) -> bool:
    """Whether a missing output is made again to the last byte on every machine, so that what reads it need not run."""
    return path.startswith(("data/raw", "data/splits")) or path.endswith(".recipe.json")


def to_run(steps: Iterable[Step]) -> list[Step]:
    """Those of the steps, given in an order in which they can run, that are expected to run: what is altered or lacks an
    output, and what reads from an altered one, or from one whose output may come back another."""
    chosen: list[Step] = []
    stale: list[str] = []  # paths that will be other than now
    for step in steps:
        altered = step.altered or any(overlap(path, other) for path in step.reads for other in stale)
        if altered or step.missing:
            chosen.append(step)
            stale += step.writes if altered else [path for path in step.missing if not comes_back_equal(path)]
    return chosen


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same, or one a folder around the other."""
    a, b = Path(one).parts, Path(other).parts
    return a[: len(b)] == b[: len(a)]


def steps_of(repo) -> list[Step]:
    """The stages of a study's dvc.yaml in an order in which they can run; repo: a dvc.repo.Repo in the study's folder."""
    found = {}
    status = repo.status(targets=["dvc.yaml"])
    status = {name.rpartition(":")[2]: changes for name, changes in status.items()}
    inputs = {stage: set(repo.index.graph[stage]) for stage in repo.index.graph}  # its edges lead to what a stage needs
    here = Path.cwd()
    for stage in TopologicalSorter(inputs).static_order():
        if Path(stage.path).parent != here or not stage.cmd:
            continue
        name, executed = stage.addressing.rpartition(":")[2], EXECUTED.search(stage.cmd)
        cached = {out.def_path for out in stage.outs if out.use_cache}
        missing, altered = [], False
        for change in status.get(name, []):
            if not isinstance(change, Mapping):  # "changed command"
                altered = True
                continue
            for path, what in change.get("changed outs", {}).items():
                if what == "not in cache" or (what == "deleted" and path not in cached):
                    missing.append(path)
                altered |= what not in ("not in cache", "deleted")  # what is cached and deleted, DVC puts back
            altered |= any(what != "deleted" for what in change.get("changed deps", {}).values())
        found[name] = Step(
            name,
            stage.desc or name.partition("@")[0].replace("_", " "),
            executed and executed[1],
            tuple(dep.def_path for dep in stage.deps if dep.def_path),
            tuple(out.def_path for out in stage.outs),
            tuple(missing),
            altered,
        )
    return list(found.values())


@dataclass
class Progress:
    """A run of several stages: names and purposes in order, what each took the last time, and which are done."""

    purposes: dict[str, str]
    """Name of the executed notebook -> what the stage is for."""
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    at_once: int = 1
    """How many of them run side by side."""

    def summary(self) -> str:
        """The line before the first stage."""
        if not self.purposes:
            return "Nothing has changed since the last run."
        left = self.left()
        how_long = "how long that takes is not known yet" if left is None else f"about {duration(left)}"
        return f"{len(self.purposes)} stages to run, {how_long}."

    def left(self) -> float | None:
        """Seconds until the stages which are not done will be, as long as they took the last time, with as many side by
        side; None where one of them never ran."""
        waiting = [self.seconds.get(name) for name in self.purposes if name not in self.done]
        return None if None in waiting else max(sum(waiting) / self.at_once, *waiting, 0)

    def heading(self, name: str) -> str:
        """The line at a stage's start; a stage that was not expected is counted from now on."""
        counted = bool(self.purposes)
        self.purposes.setdefault(name, name.partition("-")[0].partition("_")[2].replace("_", " "))
        title = ", ".join(filter(None, (self.purposes[name], name.partition("-")[2].replace("_", " "))))
        number, last, left = len([done for done in self.done if done != name]) + 1, self.seconds.get(name), self.left()
        times = [] if last is None else [f"about {duration(last)}"]
        times += [f"{duration(left)} to go"] if left and number < len(self.purposes) else []
        count = f"[{number}/{len(self.purposes)}] " if counted else ""
        return f"{count}{title}" + (f"; {', '.join(times)}" if times else "")

    def finish(self, name: str) -> None:
        """Count a stage as done."""
        if name not in self.done:
            self.done.append(name)


@contextlib.contextmanager
def repository() -> Iterator:
    """DVC's repository of the current folder, with the digests of its sources up to date."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with Repo() as repo:
        repo.reproduce(["sources"])
        yield repo


def plan(steps: Iterable[Step], at_once: int = 1) -> Progress:
    """A run of these steps, ``at_once`` of them side by side, kept in PLAN for the stages."""
    progress = Progress({step.notebook: step.purpose for step in steps if step.notebook}, durations(), at_once=at_once)
    _write(PLAN, asdict(progress))
    return progress


def current() -> Progress:
    """The run that is on, as PLAN has it; without one, a run of which nothing is known but durations."""
    return Progress(**_read(PLAN)) if PLAN.is_file() else Progress({}, durations())


def durations(folder: str | Path = ".") -> dict[str, float]:
    """Seconds by executed notebook: this machine's last ones, else the shipped ones; folder: the study's."""
    return _read(Path(folder) / SHIPPED_DURATIONS) | _read(Path(folder) / DURATIONS)


def finished(name: str, began: float) -> str:
    """Keep that a stage is done and how long it took since ``began`` (time.monotonic); returns the line that says so."""
    seconds = time.monotonic() - began
    with _alone():
        _write(DURATIONS, _read(DURATIONS) | {name: round(seconds, 1)})
        progress = current()
        progress.finish(name)
        if set(progress.purposes) <= set(progress.done):
            PLAN.unlink(missing_ok=True)
        else:
            _write(PLAN, asdict(progress))
    return f"{name}: done in {duration(seconds)}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Stages that end side by side write one after the other."""
    PLAN.parent.mkdir(exist_ok=True)
    with open(PLAN.with_suffix(".lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # a torn file of a killed run costs an estimate, no more
        return {}


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
