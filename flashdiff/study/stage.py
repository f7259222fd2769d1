"""What a stage runs: checks the study and the notebook's parameters, then papermill; keeps its output only on success.

    python -m flashdiff.study.stage run NOTEBOOK OUTPUT name name=dotted.path name:=text ...
    python -m flashdiff.study.stage digest [NOTEBOOKS] --into FOLDER
    python -m flashdiff.study.stage check
    python -m flashdiff.study.stage repro [options and stages of `dvc repro`]

papermill alone fails open (a notebook without a parameters cell, or an unknown parameter, is a warning), writes a failed
notebook over the good one, and runs whatever kernel the user's machine calls python3. All three end here.
"""

import argparse
import ast
import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flashdiff.diffusers_folder import is_checkpoint, looks_local
from flashdiff.late_imports import leave_out_grammar, without
from flashdiff.study import digests, lockfile, progress
from flashdiff.study.place import STAGE
from flashdiff.study.schema import Study, StudyError, escaped, load, select

BUILD = Path(".build")
INTERRUPTED = 130
"""The exit status that shells give a program which Ctrl-C has ended."""
PLACEHOLDER = re.compile(r"\$\{([^}]+)\}")
"""Where dvc.yaml has a value of params.yaml, or of the degradation or pair that a stage is for."""
SAID = BUILD / "error.txt"
"""The sentence of the stage that failed last; `repro` says it again after DVC's own lines."""
KERNEL = "flashdiff.study.kernel"
"""The module that runs as a stage's kernel."""
PATIENCE_S = 10
"""Seconds in which the kernel of a killed stage notices that, and ends."""
LONGEST = 600
"""Characters of an error's message that a sentence repeats."""
LITTLE = 2**20
"""Bytes below which a disk is full for a study."""
SIGNALS = {"SIGKILL": "memory was short, or somebody ended it", "SIGBUS": "had the disk no room left?"}
"""What usually sends a kernel a signal."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class StageError(RuntimeError):
    """A stage that cannot run or did not finish; the message says which notebook, which cell, and what to do."""


def parse_parameters(study: Study, items: Sequence[str]) -> dict[str, Any]:
    """``name`` and ``name=dotted.path`` take values from the study, ``name:=text`` is that text itself."""
    values: dict[str, Any] = {}
    for item in items:
        if ":=" in item:
            name, values_text = item.split(":=", 1)
            values[name] = values_text
        else:
            name, _, path = item.partition("=")
            values[name] = select(study, path or name)
    return values


def notebook_parameters(notebook: Path) -> set[str]:
    """Names assigned in the cell tagged ``parameters``, annotated or not; raises StageError when there is no such cell."""
    import nbformat

    if not notebook.is_file():
        raise StageError(f"{notebook}: there is no such notebook; name one of notebooks/.")
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [cell for cell in cells if digests.PARAMETERS in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise StageError(f"{notebook.name}: {len(tagged)} cells are tagged 'parameters'; a stage needs exactly one.")
    targets = []
    for node in ast.parse(digests.plain_python(tagged[0].source)).body:
        targets += node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def run(notebook: Path, output: Path, items: Sequence[str]) -> None:
    """Execute a notebook with parameters from params.yaml; ``output`` is replaced only when every cell succeeded.

    On failure what ``reports/`` held before is put back, the failed notebook is kept below .build, and StageError names
    the cell. Raises StudyError for a bad study file before anything else happens.
    """
    study = load()
    values = parse_parameters(study, items)
    expected = notebook_parameters(notebook)
    try:
        digests.code_of_notebook(notebook)
    except SyntaxError as error:
        raise StageError(f"{error}; mend that cell.") from None
    if unknown := set(values) - expected:
        raise StageError(
            f"{notebook.name}: parameter {', '.join(sorted(unknown))} is not in its parameters cell; add it there or drop it in dvc.yaml."
        )
    if missing := expected - set(values):
        raise StageError(
            f"{notebook.name}: parameter {', '.join(sorted(missing))} is not given by the stage; add it to the command in dvc.yaml."
        )

    BUILD.mkdir(exist_ok=True)
    lockfile.keep()
    with _only_writer(output.stem) as lock, _reports_survive(output.stem, outputs(output, values, study)):
        _execute(notebook, output, values, lock)


def outputs(executed: Path, values: Mapping[str, Any], study: Study) -> list[Path]:
    """What the stage that writes an executed notebook writes below reports/, as dvc.yaml has it; without such a stage, all.

    values: the notebook's parameters, which name its degradation and solver.
    """
    from ruamel.yaml import YAML

    def filled(path: str) -> Path:
        def fill(match: re.Match) -> str:
            item = match[1].removeprefix("item.")
            return str(values.get(f"{item}_name", "") if item != match[1] else select(study, item))

        return Path(PLACEHOLDER.sub(fill, path))

    described = YAML(typ="safe").load(Path("dvc.yaml")) if Path("dvc.yaml").is_file() else {}
    for stage in described.get("stages", {}).values():
        stage = stage.get("do", stage)
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        written = [filled(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]
        if executed in written:
            return [path for path in written if path.parts[0] == "reports"]
    return [Path("reports")]


@contextlib.contextmanager
def _only_writer(name: str) -> Iterator[int]:
    """One run of a stage at a time; yields the lock's descriptor, which its kernel inherits.

    So the lock is held while anything of a stage runs, after a kill -9 of dvc or of the stage alone, too. The kernel of a
    killed stage is waited for: it is about to end.
    """
    with open(BUILD / f"{name}.lock", "a+") as lock:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if _runs(holder) or time.monotonic() > deadline:
                    raise StageError(
                        f"{name}: this stage is still running (process {holder or '?'}); wait for it or end it."
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _runs(process: str) -> bool:
    """Whether a process, by its id, is there; one that cannot be asked for counts as there."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        pass
    return True


@contextlib.contextmanager
def _reports_survive(name: str, written: Sequence[Path]) -> Iterator[None]:
    """A stage writes its figures one by one; when it fails, what was there before comes back, and nothing else."""
    previous, half_done = BUILD / f"{name}.previous", BUILD / f"{name}.half_done"
    for left in (previous, half_done):
        shutil.rmtree(left, ignore_errors=True)
    for path in written:
        if path.exists():
            (previous / path).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, previous / path)
    try:
        yield
    except BaseException:
        for path in written:  # renamed, not copied: the disk may be full
            for here, there in ((path, half_done / path), (previous / path, path)):
                if here.exists():
                    there.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(here, there)
        raise
    finally:
        for left in (previous, half_done):
            shutil.rmtree(left, ignore_errors=True)


def _execute(notebook: Path, output: Path, values: dict[str, Any], lock: int) -> None:
    import nbformat

    with without("pyarrow"):  # papermill's reader of a cluster's files, a fifth of a second of every stage
        import papermill
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    ended: list[int] = []  # the exit status of a kernel that died

    class OwnKernel(AsyncKernelManager):
        """With no kernel folders to search, Jupyter falls back on the interpreter of this very process."""

        def _kernel_spec_manager_default(self):
            return KernelSpecManager(kernel_dirs=[], parent=self)

        def format_kernel_cmd(self, extra_arguments=None):
            command = super().format_kernel_cmd(extra_arguments)
            return [KERNEL if part == "ipykernel_launcher" else part for part in command]

        async def start_kernel(self, **options):
            await super().start_kernel(**options, pass_fds=(lock,))

        async def shutdown_kernel(self, now=False, restart=False):
            # a kernel whose cells are done has closed its files, and would take torch apart for a second or two; one that
            # Ctrl-C finds amid a cell is asked, and writes down what it has
            await super().shutdown_kernel(now or sys.exc_info()[0] is None, restart)

        async def is_alive(self):
            alive = await super().is_alive()
            if not alive and self.has_kernel and (status := await self.provisioner.poll()) is not None:
                ended.append(status)
            return alive

    running, failed = BUILD / f"{output.stem}.running.ipynb", BUILD / f"{output.stem}.failed.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(progress.current().heading(output.stem), flush=True)
    os.environ[STAGE] = output.stem  # the kernel inherits it
    os.environ.pop("FLASHDIFF_STUDY", None)  # a stage works where it runs, whatever a person plays with
    try:
        executed = papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            kernel_manager_class=OwnKernel,
            extra_arguments=["--log-level=CRITICAL"],  # on Ctrl-C the kernel would print how it was taken aback
        )
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        os.replace(running, failed)
        if isinstance(error, DeadKernelError):
            code = [cell for cell in nbformat.read(failed, as_version=4).cells if cell.cell_type == "code"]
            # papermill's own record: a dead kernel may not have sent the number of its last cell
            started = [cell for cell in code if cell.metadata.papermill.start_time]
            number, source, what = len(started), started[-1].source, _how_it_ended(ended)
        else:
            number, source = error.exec_count, error.source
            what = f"failed with {error.ename}: {_one_line(error.evalue)}"
        first_line = next((line for line in source.splitlines() if line.strip()), "")
        raise StageError(
            f"{notebook.name}: cell {number} ({first_line}) {what}{_room(what)} (the traceback is in {failed}; the previous "
            "report is untouched)."
        ) from None
    finally:
        del os.environ[STAGE]
    normalise(executed)
    if source := digests.md5_of_stage(notebook):
        executed.metadata["flashdiff"] = {"source": source}
    _write_notebook(executed, running)
    os.replace(running, output)
    failed.unlink(missing_ok=True)
    print(progress.finished(output.stem, began), flush=True)


def _how_it_ended(statuses: Sequence[int]) -> str:
    """What became of a kernel that died, for its exit statuses as far as they are known."""
    status = statuses[0] if statuses else None
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"ended its Python process by {name}" + (f": {SIGNALS[name]}" if name in SIGNALS else "")
    told = "" if status is None else f" with exit status {status}"
    return f"ended its Python process{told}: is memory short?"


def _one_line(text: str) -> str:
    """A message of any length as a line; what is cut from its middle is in the traceback."""
    line = " ".join(text.split()).removesuffix(".")
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def _room(said: str) -> str:
    """What to do where a message, or the disk itself, says that it is full."""
    full = any(sign in said for sign in ("No space left", "disk full", "Disk quota"))
    if full or shutil.disk_usage(".").free < LITTLE:
        return f"; the disk is full: make room, and `{again()}` continues"
    return ""


def _write_notebook(notebook, path: Path) -> None:
    import nbformat

    nbformat.write(notebook, path)


def normalise(notebook) -> None:
    """Take from an executed notebook what differs between two equal runs: times, random ids, progress, addresses."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        printed = [out for out in cell.outputs if out.get("name") != "stderr"]
        cell.outputs = []
        for out in printed:
            if out.output_type == "stream" and cell.outputs and cell.outputs[-1].output_type == "stream":
                cell.outputs[-1].text += out.text  # what went to stderr in between had cut it
            else:
                cell.outputs.append(out)
        for out in cell.outputs:
            for kind, text in out.get("data", {}).items():
                if isinstance(text, str) and kind.startswith("text/"):
                    out["data"][kind] = ADDRESS.sub("", text)


def _paths(study: Study) -> list[tuple[str, str]]:
    """(field, path) of everything on disk that a study starts from; a hub's ids and URLs are not."""
    data, prior = study.data, study.prior
    found: list[tuple[str, str | None]] = []
    for section, source in (("data", data), ("data.test_set", data.test_set)):
        if source is not None:
            found += [(f"{section}.images", None if source.layout == "hugging_face" else source.images)]
            found += [(f"{section}.list", source.list)]
    if prior.kind == "use_prior" and looks_local(prior.path):
        found += [("prior.path", prior.path)]
        found += [("prior.path", str(Path(prior.path).with_name("config.yaml")))] if is_checkpoint(prior.path) else []
    for name, entry in study.degradations.items():
        weights = getattr(entry, "weights", None)
        found += [(f"degradations.{name}.weights", None if weights and "://" in weights else weights)]
    found += [(f"prior.severity.{name}", path) for name, path in getattr(prior, "severity", {}).items()]
    return [(name, path) for name, path in found if path is not None]


def check() -> str:
    """Check the study of the current folder before any stage works; returns one line, raises StudyError."""
    study = load()
    if missing := [field for field in _paths(study) if not Path(field[1]).exists()]:
        raise StudyError(
            "\n".join(
                f"{name}: there is no '{path}'; put it there, or give its path relative to params.yaml."
                for name, path in missing
            )
        )
    size = {"degradations": study.degradations, "solvers": study.solvers, "comparisons": study.pairs}
    counts = ", ".join(f"{len(entries)} {name[:-1] if len(entries) == 1 else name}" for name, entries in size.items())
    return f"Study {study.study}: {counts}; the parameters are valid."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flashdiff.study.stage", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="execute a notebook with parameters of params.yaml")
    runner.add_argument("notebook", type=Path)
    runner.add_argument("output", type=Path)
    runner.add_argument("parameters", nargs="*", metavar="name[=path|:=text]")
    digester = commands.add_parser("digest", help="write what each stage depends on of its notebook and the modules")
    digester.add_argument("notebooks", type=Path, nargs="?", help="default: those of the study's repository")
    digester.add_argument("--into", type=Path, required=True)
    commands.add_parser("check", help="check params.yaml")
    commands.add_parser(
        "repro", help="check params.yaml, run `dvc repro` with its own options, and say last what has failed"
    )
    options, of_dvc = parser.parse_known_args(arguments)
    if options.command == "repro":
        return _repro(of_dvc)
    if of_dvc:
        parser.error(f"unrecognized arguments: {' '.join(of_dvc)}")
    status, said = _do(options)
    if said:
        print(said, file=sys.stderr)
        with contextlib.suppress(OSError):  # the disk may be full
            BUILD.mkdir(exist_ok=True)
            SAID.write_text(said + "\n", encoding="utf-8")
    return status


def _do(options: argparse.Namespace) -> tuple[int, str]:
    """Do what a command line asks for; returns the exit status, and the sentence where it failed."""
    leave_out_grammar()
    try:
        if options.command == "run":
            run(options.notebook, options.output, options.parameters)
        elif options.command == "digest":
            study = load()
            digests.write(options.notebooks or Path(study.root) / "notebooks", options.into)
        else:
            print(check())
    except (StudyError, StageError) as error:
        return 1, escaped(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED, f"{_what(options)}: stopped. What it had finished is kept; `{again()}` continues there."
    except Exception as error:
        said = _one_line(str(error)) or type(error).__name__
        return 1, f"{_what(options)}: {said}{_room(said)}{_kept()}"
    return 0, ""


def _repro(options: Sequence[str]) -> int:
    """Check the study, then `dvc repro`; when a stage fails, its sentence is the last line, after those of DVC."""
    SAID.unlink(missing_ok=True)
    if status := main(["check"]):
        return status
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", *options])
    interrupted = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:  # DVC and its stage have been told, too, and end
            interrupted = True
    if status and SAID.is_file():
        print(SAID.read_text(encoding="utf-8").rstrip("\n"), file=sys.stderr, flush=True)
    elif interrupted:  # no stage was at work
        print(f"stopped. What was finished is kept; `{again()}` continues there.", file=sys.stderr, flush=True)
    return INTERRUPTED if interrupted else status


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """On Ctrl-C, or when it is told to end, the libraries would tell how they were taken aback, each in a traceback of its own."""
    logging.disable(logging.CRITICAL)
    raise KeyboardInterrupt


def _what(options: argparse.Namespace) -> str:
    return options.output.stem if options.command == "run" else options.command


def again() -> str:
    """The command that runs the study of the current folder."""
    folder = Path.cwd()
    return f"make study STUDY={folder.name}" if folder.parent.name == "studies" else "make study"


def _kept() -> str:
    """Write the traceback of the present exception to a file; returns what to say of it. A full disk holds none."""
    path = BUILD / "traceback.txt"
    try:
        BUILD.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return "."
    return f" (the traceback is in {path})."


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    sys.exit(main())
