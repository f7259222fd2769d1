"""Faults, and stages that meet them: a stage's own cells in a process of their own, which is killed, starved of room, or shut out.

The process is forked from one that has loaded the libraries, so a fault costs what the stage computes and not the eight seconds
of its start.
"""

import contextlib
import ctypes
import errno
import faulthandler
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from flashdiff.study import digests
from flashdiff.study.place import STAGE
from flashdiff.study.schema import load
from flashdiff.study.stage import parse_parameters

WRITES = {"os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.rmdir", "shutil.copyfile"}
"""What Python tells before it changes files, beside opening one to write."""
LIMIT_S = 300
"""Seconds after which a stage counts as hanging."""


@dataclass(frozen=True)
class StageOfStudy:
    """A stage as dvc.yaml has it: its command's notebook, executed notebook and parameters, and what it writes."""

    name: str
    notebook: str
    executed: str
    items: tuple[str, ...]
    outs: tuple[str, ...]


def stages_of(pipeline: Path, degradation: str, solver: str, prior: str, data: str) -> dict[str, StageOfStudy]:
    """The stages of a dvc.yaml by name, for one degradation and one solver; those without a notebook are left out."""
    text = pipeline.read_text()
    filled = {
        "root": "../..",
        "item.degradation": degradation,
        "item.solver": solver,
        "prior.kind": prior,
        "data.name": data,
    }
    for name, value in filled.items():
        text = text.replace(f"${{{name}}}", value)
    found = {}
    for name, entry in YAML(typ="safe").load(text)["stages"].items():
        entry = entry.get("do", entry)
        words = shlex.split(entry["cmd"])
        if "run" in words:
            notebook, executed, *items = words[words.index("run") + 1 :]
            written = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
            outs = tuple(out if isinstance(out, str) else next(iter(out)) for out in written)
            found[name] = StageOfStudy(name, notebook, executed, tuple(items), outs)
    return found


class Fault:
    """Something that happens to a process: ``arm`` in it before it works, ``watch`` from outside with its number.

    ``before`` and ``after`` change what lies around it, and change it back.
    """

    kind = "none"

    def before(self, folder: Path) -> None: ...

    def arm(self) -> None: ...

    def watch(self, pid: int) -> None: ...

    def after(self, folder: Path) -> None: ...


@dataclass
class Signal(Fault):
    """A signal once the process has used so many seconds of CPU time."""

    number: signal.Signals
    moment: float

    def __post_init__(self):
        self.kind = {"SIGKILL": "kill -9", "SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM"}[self.number.name] + " at a moment"

    def watch(self, pid: int) -> None:
        while (used := cpu_seconds(pid)) is not None and used < self.moment:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, self.number)


def cpu_seconds(pid: int) -> float | None:
    """CPU seconds of a process; None when it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if state == "Z" else (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")


@dataclass
class AtWrite(Fault):
    """Something just before the n-th change of a file in the working directory."""

    number: int
    kind = "counted"

    def arm(self) -> None:
        self.seen, self.folder = 0, os.getcwd()
        sys.addaudithook(self._told)

    def _told(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR) or (mode and set("wax+") & set(mode))
        else:
            path, writes = arguments[0] if arguments else "", event in WRITES
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
        if os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            self.seen += 1
            if self.seen == self.number:
                self.happens(event, os.fsdecode(path))

    def happens(self, event: str, path: str) -> None: ...


class KillAtWrite(AtWrite):
    kind = "kill -9 at a write"

    def happens(self, event: str, path: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class FullAtWrite(AtWrite):
    kind = "disk full at a write"

    def happens(self, event: str, path: str) -> None:
        if event in ("os.remove", "os.rmdir"):  # a full disk stops nobody from removing
            self.number += 1
            return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@dataclass
class FileLimit(Fault):
    """No file grows beyond a size: what disk quotas and full disks do in the middle of a file."""

    n_bytes: int
    kind = "no file beyond a size"

    def arm(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.n_bytes, self.n_bytes))


@dataclass
class ReadOnly(Fault):
    """A folder of the study in which nobody may write, and a user whom that stops (root is stopped by nothing)."""

    folder: str
    kind = "read-only folder"

    def before(self, folder: Path) -> None:
        for inner, _, names in os.walk(folder / self.folder):
            for path in (inner, *(os.path.join(inner, name) for name in names)):
                os.chmod(path, os.stat(path).st_mode & 0o555)

    def arm(self) -> None:
        forget_privileges()

    def after(self, folder: Path) -> None:
        for inner, _, names in os.walk(folder / self.folder):
            for path in (inner, *(os.path.join(inner, name) for name in names)):
                os.chmod(path, os.stat(path).st_mode | 0o200)


def forget_privileges() -> None:
    """Make this process obey permissions, root's too (Linux: the capabilities to write, to search and to read anywhere go)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc.capget(header, sets)
        for at in (0, 1, 2):
            sets[at] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.capset(header, sets):
            raise OSError(ctypes.get_errno(), "capset")


@dataclass
class FullDisk(Fault):
    """The file system of the study has room for so many more bytes; see :func:`mounted`."""

    n_bytes: int
    kind = "disk full"

    def before(self, folder: Path) -> None:
        about = os.statvfs(folder)
        _resize(folder, (about.f_blocks - about.f_bfree) * about.f_frsize + self.n_bytes)

    def after(self, folder: Path) -> None:
        _resize(folder, ROOM)


ROOM = 256 * 2**20
"""Bytes of a file system in memory that is not full."""


def _resize(folder: Path, n_bytes: int) -> None:
    place = next(path for path in (folder, *folder.parents) if path.is_mount())
    subprocess.run(["mount", "-o", f"remount,size={n_bytes}", place], check=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[bool]:
    """A file system in memory over a folder, whose size :class:`FullDisk` changes; False where this user may not mount."""
    made = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True).returncode
        == 0
    )
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "-l", folder], check=True)


@dataclass(frozen=True)
class Outcome:
    """How a process ended (negative: the number of the signal), the line that it said last, and its CPU seconds."""

    status: int
    said: str = ""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        return self.status == 0


def run_cells(folder: Path, stage: StageOfStudy, fault: Fault | None = None) -> Outcome:
    """The cells of a stage's notebook in a process of their own, in the study's folder, with the study's parameters."""
    notebook = (folder / stage.notebook).resolve()
    code = digests.code_of_notebook(notebook)[1]
    return forked(
        lambda: exec(compile(code, notebook.name, "exec"), _parameters(stage) | {"__name__": "__main__"}),
        folder,
        fault,
        stage.name,
    )


def _parameters(stage: StageOfStudy) -> dict:
    return parse_parameters(load(), stage.items)


def forked(work: Callable[[], object], folder: Path, fault: Fault | None = None, name: str = "work") -> Outcome:
    """Do work in a forked process whose working directory is ``folder``, and let a fault happen to it."""
    fault = fault or Fault()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as file:
        fault.before(folder)
        try:
            pid = os.fork()
            if pid == 0:
                _child(work, folder, fault, name, file.fileno())
            fault.watch(pid)
            status, used = _wait(pid)
        finally:
            fault.after(folder)
        file.seek(0)
        lines = file.read().splitlines()
    said = " < ".join(map(str.strip, lines[:12])) if status == -signal.SIGABRT else lines[-1] if lines else ""
    return Outcome(status, said, used)


def _child(work: Callable[[], object], folder: Path, fault: Fault, name: str, told: int) -> None:
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.chdir(folder)
        os.environ[STAGE] = name
        faulthandler.enable(told)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fault.arm()
        work()
        status = 0
        os.write(told, str(getattr(fault, "seen", "")).encode())
    except BaseException as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if os.environ.get("FAULTS_TRACEBACK"):
            said = traceback.format_exc() + said
        with contextlib.suppress(OSError):
            os.write(told, said.encode())
    finally:
        os._exit(status)


def _wait(pid: int) -> tuple[int, float]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        time.sleep(0.005)
    os.kill(pid, signal.SIGABRT)  # which makes it say where it is
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def content(folder: Path, paths: tuple[str, ...]) -> dict[str, bytes]:
    """Every file below some paths of a folder with its bytes; a folder without files counts as nothing."""
    found = {}
    for path in (folder / name for name in paths):
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file():
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    """Write these files again, as :func:`content` has them."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def remove(folder: Path, paths: tuple[str, ...]) -> None:
    for path in (folder / name for name in paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def damaged(data: bytes, how: str, at: float) -> bytes:
    """What is left of a file: "empty", "cut off" or with "another bit"; at: where, as a share of its length."""
    place = min(int(at * len(data)), max(len(data) - 1, 0))
    if how == "empty" or not data:
        return b""
    if how == "cut off":
        return data[:place]
    return data[:place] + bytes([data[place] ^ (1 << (place % 8))]) + data[place + 1 :]


def left_behind(folder: Path) -> Iterator[Path]:
    """What a run keeps below .build until it is done, and temporary names anywhere in the study."""
    keeps = ("lock", "durations.json", "plan.json")
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if not path.is_file() or relative.parts[:2] in ((".build", "source"), (".build", "live")):
            continue
        kept = relative.parts[0] == ".build" and relative.name not in keeps
        if kept or path.suffix == ".part" or any(part.startswith(".prior-") for part in relative.parts):
            yield relative
