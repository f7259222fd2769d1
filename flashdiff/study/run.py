"""The whole study: `make study`. Its degradations run side by side where that is faster, each with a share of the cores.

    python -m flashdiff.study.run

The models of a study on CPUs are small, so a second core helps a single stage by less than two stages of one core each. What every
degradation needs runs first, then each degradation's own stages in their order, then what reads of several. `dvc repro` alone
runs the same stages one after another; it also follows at the end, so that nothing hangs on what is sorted here.
"""

import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from flashdiff.study import lockfile, progress
from flashdiff.study.progress import Step, overlap
from flashdiff.study.schema import Study, StudyError, load
from flashdiff.study.stage import BUILD, INTERRUPTED, StageError, again, check

FIRST, LAST = "first", "last"
"""Where steps stand that belong to no degradation: before all of them, or after."""
THREADS = "OMP_NUM_THREADS"
"""What tells PyTorch, in the environment, how many threads it computes with."""


def sort(steps: Iterable[Step], study: Study) -> dict[str, list[str]]:
    """{place: names of steps in their order}: FIRST, one place per degradation, LAST.

    steps: all of a study, in an order in which they can run. A step stands with its degradation when all that it reads is
    made before or there, and FIRST when it has none and reads nothing of them; everything else is LAST.
    """
    places: dict[str, list[str]] = {FIRST: [], **{name: [] for name in study.degradations}, LAST: []}
    found: list[tuple[Step, str]] = []
    for step in steps:
        own = _degradation(step.name, study)
        needs = {place for other, place in found if any(overlap(r, w) for r in step.reads for w in other.writes)}
        if needs <= {FIRST, own}:
            place = own or FIRST
        else:
            place = LAST
        found.append((step, place))
        places[place].append(step.name)
    return places


def _degradation(name: str, study: Study) -> str | None:
    """The degradation of a stage, by DVC's name of it: stage, stage@degradation or stage@pair."""
    item = name.partition("@")[2]
    if item in study.pairs:
        return study.pairs[item].degradation
    return item if item in study.degradations else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(places: dict[str, list[str]]) -> int:
    """How many degradations run at once: one where a GPU computes or OMP_NUM_THREADS is set, else at most one per core."""
    busy = sum(bool(names) for place, names in places.items() if place not in (FIRST, LAST))
    wanted = min(busy, cores())
    if wanted < 2 or THREADS in os.environ:
        return 1
    from flashdiff.devices import device

    return wanted if device().type == "cpu" else 1


def reproduce(names: Sequence[str] = ()) -> None:
    """Have DVC run these stages of the current study, in this order, or, without names, whatever has to run."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # the stages say themselves what runs
    # another lane hashes its outputs for longer than DVC would wait
    with Repo(_wait_for_lock=True) as repo:
        repo.reproduce(list(names) or None, single_item=bool(names))


def _why(error: Exception) -> str:
    """What to tell the user of DVC's refusal, in one sentence; nothing when a stage failed, which has said why."""
    from dvc.stage.exceptions import StageCmdFailedError

    cause = error.__cause__
    if isinstance(cause, StageCmdFailedError):
        return ""
    return " ".join(f"{error}: {cause}".split()) if cause else " ".join(str(error).split())


class Screen:
    """What the user sees of several processes: their lines as they come, and below, on a terminal, where each stands."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, soft_wrap=True)
        self._stands: dict[str, str] = {}
        self._lock = threading.Lock()
        shown = self._console.is_terminal
        self.live = Live(console=self._console, refresh_per_second=4, transient=True) if shown else nullcontext()

    def follow(self, name: str, process: subprocess.Popen) -> str:
        """Show a process's output until it ends; returns its last line. Progress bars come with carriage returns."""
        rest, last = "", ""
        for chunk in iter(lambda: os.read(process.stdout.fileno(), 1 << 14), b""):
            *parts, rest = re.split(r"(?<=[\r\n])", rest + chunk.decode(errors="replace"))
            for part in parts:
                text = part.strip()
                if text and part.endswith("\n") and "\r" not in part and not self._is_bar(text):
                    last = text
                    self._print(text)
                elif text:
                    self._stand(name, text)
        self._stand(name, "")
        return last

    @staticmethod
    def _is_bar(text: str) -> bool:
        """Whether a line is what a progress bar leaves when it is full."""
        return re.search(r"\[\d+:\d\d(:\d\d)?[,<]", text) is not None

    def _print(self, text: str) -> None:
        with self._lock:
            self._console.print(text, markup=False)

    def _stand(self, name: str, text: str) -> None:
        with self._lock:
            self._stands[name] = text
            if not isinstance(self.live, nullcontext):
                from rich.text import Text

                lines = [Text(text, overflow="ellipsis", no_wrap=True) for text in self._stands.values() if text]
                self.live.update(Text("\n").join(lines))


def _run_lanes(lanes: dict[str, list[str]], at_once: int, lock: int) -> list[str]:
    """Run each lane's stages, ``at_once`` lanes at a time; returns the last lines of those that failed.

    lock: a descriptor that lanes inherit, so that it is held while one of them works, whatever became of this process.
    """
    environment = os.environ | {THREADS: str(max(1, cores() // at_once))}
    screen = Screen()

    def run(name: str) -> str | None:
        command = [sys.executable, "-m", "flashdiff.study.run", *lanes[name]]
        told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "pass_fds": (lock,)}
        with subprocess.Popen(command, env=environment, **told) as process:
            last = screen.follow(name, process)
        return last if process.returncode else None

    with screen.live, ThreadPoolExecutor(at_once) as pool:
        return [last for last in pool.map(run, lanes) if last is not None]


@contextmanager
def _alone() -> Iterator[int]:
    """One run of the study of the current folder at a time; yields the descriptor of its lock, which lanes inherit.

    Raises StageError where another one is at work, or what one that was killed had begun.
    """
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "study.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another run of this study is at work"
            raise StageError(f"{what}; wait until it has ended, then `{again()}` continues.") from None
        yield file.fileno()


def study() -> int:
    """Run what has to run of the current study, and say before how much that is; returns the exit status."""
    print(check(), flush=True)
    described = load()
    with _alone() as lock, lockfile.safe() as mended:
        lockfile.forget_torn_users(Path(described.root))
        if mended:
            print("A run was killed while DVC wrote dvc.lock; it is as it was when the last stage began.", flush=True)
        return _study(described, lock)


def _study(described: Study, lock: int) -> int:
    with progress.repository() as repo:
        steps = progress.steps_of(repo)
    needed = progress.to_run(steps)
    names = {step.name for step in needed}
    places = {place: [name for name in found if name in names] for place, found in sort(steps, described).items()}
    at_once = side_by_side(places)
    print(progress.plan(needed, at_once).summary(), flush=True)
    if at_once > 1:
        if places[FIRST]:
            reproduce(places[FIRST])
        lanes = {place: found for place, found in places.items() if found and place not in (FIRST, LAST)}
        if failed := _run_lanes(lanes, at_once, lock):
            print(*failed, sep="\n", file=sys.stderr)
            return 1
    reproduce()
    return 0


def main(names: Sequence[str]) -> int:
    from dvc.exceptions import DvcException

    try:
        if not names:
            return study()
        reproduce(names)
    except (StudyError, StageError) as error:
        print(error, file=sys.stderr)
        return 1
    except DvcException as error:
        if why := _why(error):
            print(why, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
