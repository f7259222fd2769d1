"""The same numbers elsewhere: rerun a study in a scratch copy, and compare what comes out with what is committed.

    python -m flashdiff.study.reproduce run FOLDER [--drawing]
    python -m flashdiff.study.reproduce compare HERE COMMITTED

``run`` (`make reproduce`) clones the repository's last commit, so the folder itself is never written to, and runs there the
stages that compute and draw; what ships with the project (prior, tuning, baselines) is taken as it is. ``compare`` holds two
folders of one study against each other, cell by cell. Both end with status 1 where a number is beyond tolerance, a text is
another, or a file, row or column is on one side only. Seconds are never compared.
"""

import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from flashdiff.study.tolerances import TOLERANCES, kind_of, passes

COMPARED = ("headline.json", "metrics/*.json", "summary/*.json", "severity/*.csv", "tables/*.csv", "comparisons/*.csv")
"""Below a study's reports: all its numbers but those of reports/timings, which are seconds."""
TIMED = ("wall_clock_ratio", "seconds")
"""Claims and columns of seconds."""
NAMES = ("claim", "study", "degradation", "solver", "start", "budget", "measure")
"""What tells a record of headline.json from the others."""
SHOWN = 60
"""Differences that are printed; all are counted."""
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False, help=__doc__)


class ReproduceError(Exception):
    """What cannot be compared or rerun, with the remedy."""


@dataclass(frozen=True)
class Difference:
    """One cell that is another than the committed one; None: not on this side. tolerance: None for texts."""

    file: str
    cell: str
    here: Any
    committed: Any
    tolerance: float | None = None


@dataclass
class Comparison:
    """Two folders held against each other: how many files and numbers, how many numbers are equal to the last digit."""

    files: int = 0
    numbers: int = 0
    equal: int = 0
    differences: list[Difference] = field(default_factory=list)

    def text(self) -> str:
        """The table of what is beyond tolerance, or one line that says that nothing is."""
        seen = f"{self.numbers:,} numbers in {self.files} files, {self.equal:,} of them equal to the last digit"
        if not self.differences:
            return f"Nothing differs beyond tolerance ({seen})."
        rows = [("file", "cell", "here", "committed", "tolerance")]
        rows += [
            (d.file, d.cell, _shown(d.here), _shown(d.committed), "" if d.tolerance is None else f"{d.tolerance:.3g}")
            for d in self.differences[:SHOWN]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if (more := len(self.differences) - SHOWN) > 0:
            lines.append(f"... and {more:,} more")
        return "\n".join([*lines, f"{len(self.differences):,} beyond tolerance ({seen})."])


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def compare(here: str | Path, committed: str | Path) -> Comparison:
    """Hold the reports of two folders of one study against each other, cell by cell.

    Raises ReproduceError where a folder has no reports.
    """
    sides = []
    for folder in map(Path, (here, committed)):
        reports = folder / "reports"
        found = {path.relative_to(reports).as_posix(): path for glob in COMPARED for path in reports.glob(glob)}
        if not found:
            raise ReproduceError(f"{folder}: there is no report in this folder; give that of a study that has run.")
        sides.append(found)
    comparison = Comparison()
    for name in sorted(sides[0].keys() | sides[1].keys()):
        comparison.files += 1
        ours, theirs = (side.get(name) for side in sides)
        if ours is None or theirs is None:
            comparison.differences.append(
                Difference(name, "the file", *("there" if s else None for s in (ours, theirs)))
            )
            continue
        try:
            cells = [read(path) for path in (ours, theirs)]
        except ValueError as error:
            comparison.differences.append(Difference(name, f"cannot be read: {error}", None, None))
            continue
        _compare_cells(comparison, name, *cells)
    return comparison


Cells = dict[tuple[str, ...], float | str | None]
"""Where a cell stands, the names that lead to it -> a number, a text, or nothing (null, an empty cell)."""


def read(path: Path) -> Cells:
    """The cells of a JSON or CSV file, but those of seconds; ValueError where it is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return dict(_of_table(text))
    content = json.loads(text)
    if isinstance(content, list):
        content = _named(("/".join(_word(r[name]) for name in NAMES if r.get(name) is not None), r) for r in content)
    cells = _of_json(content)
    return {place: value for place, value in cells if not any(timed in name for timed in TIMED for name in place)}


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(rows: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """(name, row) pairs as a dict; where several have one name, those after the first are numbered."""
    seen: Counter[str] = Counter()
    named = {}
    for name, row in rows:
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = row
    return named


def _of_json(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(content, Mapping | list):
        entries = content.items() if isinstance(content, Mapping) else enumerate(content)
        for name, value in entries:
            yield from _of_json(value, (*place, str(name)))
    elif isinstance(content, bool) or content is None or isinstance(content, str):
        yield place, content if content is None else str(content)
    else:
        yield place, float(content)


def _of_table(text: str) -> Iterator[tuple[tuple[str, str], Any]]:
    """Cells of a CSV by row and column. A row is named by its texts, and numbered where several have the same ones, so that
    one row more does not move the others."""
    head, *rows = list(csv.reader(text.splitlines())) or [[]]
    if ragged := [number for number, row in enumerate(rows, start=2) if len(row) != len(head)]:
        raise ValueError(f"line {ragged[0]} has another number of cells than the head")
    cells = [[_number(cell) for cell in row] for row in rows]
    named = _named(("/".join(cell for cell in row if isinstance(cell, str)) or "row", row) for row in cells)
    for name, row in named.items():
        for column, cell in zip(head, row, strict=True):
            if not any(timed in column for timed in TIMED):
                yield (name, column), cell


def _number(cell: str) -> float | str | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _compare_cells(comparison: Comparison, file: str, ours: Cells, theirs: Cells) -> None:
    around = [{place[:depth] for place in cells for depth in range(1, len(place) + 1)} for cells in (ours, theirs)]
    said = set()
    for place in dict.fromkeys((*theirs, *ours)):
        cell = ", ".join(place)
        if place not in ours or place not in theirs:
            # a row, a record or a part that only one side has is one difference
            side = around[place in ours]
            depth = next(depth for depth in range(1, len(place) + 1) if place[:depth] not in side)
            if place[:depth] not in said:
                said.add(place[:depth])
                sides = ("there" if place in cells else None for cells in (ours, theirs))
                comparison.differences.append(Difference(file, ", ".join(place[:depth]), *sides))
            continue
        here, committed = ours[place], theirs[place]
        if isinstance(here, float) and isinstance(committed, float):
            comparison.numbers += 1
            comparison.equal += here == committed or (math.isnan(here) and math.isnan(committed))
            kind = kind_of(*itertools.chain.from_iterable(name.split("/") for name in place))
            if not passes(here, committed, kind):
                allowed = TOLERANCES[kind].allowed(committed)
                comparison.differences.append(Difference(file, cell, here, committed, allowed))
        elif here != committed:
            comparison.differences.append(Difference(file, cell, here, committed))


def stages(folder: Path, drawing: bool) -> list[str]:
    """The stages of a study that a rerun takes, in the order of its dvc.yaml: those that draw; without ``drawing`` also those
    that compute, but not what ships with the project, and not the images, which are compared by their hashes."""
    from ruamel.yaml import YAML

    found = []
    for name, entry in YAML(typ="safe").load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        outputs = entry.get("do", entry).get("outs", [])
        paths = {path if isinstance(path, str) else next(iter(path)): path for path in outputs}
        data = [path for path in paths if path.startswith("data/")]
        ships = any(isinstance(paths[path], Mapping) and not paths[path][path].get("cache", True) for path in data)
        if name == "sources" or (not ships and (not data or (not drawing and name != "download"))):
            found.append(name)
    return found


NEEDED = {True: ("data/splits", "data/results"), False: ("data/splits",)}
"""What a rerun takes from the study's folder where it is there: --drawing -> paths."""


@contextmanager
def scratch_copy(folder: Path, drawing: bool, keep: bool = False) -> Iterator[Path]:
    """A clone of the repository's last commit, and in it the study's folder, with the images and results of ``folder``.

    It is removed at the end, unless ``keep`` says otherwise. Raises ReproduceError outside of a git repository.
    """
    if not (folder / "dvc.yaml").is_file():
        raise ReproduceError(f"{folder / 'dvc.yaml'}: not there; give the folder of a study, as in studies/NAME.")
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel"))
    except (OSError, subprocess.CalledProcessError):
        raise ReproduceError(
            f"{folder}: no git repository; clone the project with git, a rerun needs its last commit."
        ) from None
    if drawing and not (folder / "data/results").is_dir():
        raise ReproduceError(f"{folder / 'data/results'}: not there; run `make study` first, or leave out --drawing.")
    scratch = Path(tempfile.mkdtemp(prefix="flashdiff-reproduce-"))
    try:
        _git(root, "clone", "--quiet", "--no-hardlinks", str(root), str(scratch / "copy"))
        copy = scratch / "copy" / folder.resolve().relative_to(root.resolve())
        if not (copy / "dvc.lock").is_file():
            raise ReproduceError(
                f"{folder}: no dvc.lock in the last commit; run `make study` and commit what it wrote."
            )
        for name in NEEDED[drawing]:
            if (folder / name).is_dir():
                shutil.copytree(folder / name, copy / name)
        yield copy
    finally:
        if keep:
            print(f"The scratch copy is {scratch}.")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def rerun(copy: Path, drawing: bool) -> Path:
    """Run the stages of the study in a scratch copy; returns a folder with the reports as they were committed.

    Raises ReproduceError where a stage fails.
    """
    committed = copy / ".build/committed"
    shutil.copytree(copy / "reports", committed / "reports")
    root = Path(_git(copy, "rev-parse", "--show-toplevel"))
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",  # dvc.yaml says `python`
        "PYTHONPATH": str(root),  # else studies/NAME would run the installed code, not that of the copy
        "DVC_NO_ANALYTICS": "1",
    }
    images = [] if (copy / "data/splits").is_dir() else ["download"]
    taken = ["prior"] if not drawing and not (copy / "data/prior").is_dir() else []  # another study's is not in git
    chosen = [name for name in stages(copy, drawing) if name != "sources"]
    for group in (["sources", *images], [*taken, *chosen]):
        command = [programs / "dvc", "repro", "--force", "--single-item", *group]
        if subprocess.run(command, cwd=copy, env=environment).returncode:
            raise ReproduceError("a stage failed in the scratch copy, as said above; nothing was compared.")
        if "sources" in group:
            _check_images(copy, programs, environment)
    return committed


def _check_images(copy: Path, programs: Path, environment: Mapping[str, str]) -> None:
    """Raise ReproduceError unless the images are those that dvc.lock names, by DVC's hashes."""
    command = [programs / "dvc", "status", "--json", "download"]
    told = subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, text=True).stdout
    for change in json.loads(told).get("download", []):
        if isinstance(change, Mapping) and change.get("changed outs", {}).get("data/splits") == "modified":
            raise ReproduceError(
                "data/splits: other images than dvc.lock names; run `make study` and commit, then again."
            )


def _end(comparison: Comparison) -> None:
    print(comparison.text())
    raise typer.Exit(1 if comparison.differences else 0)


Folder = Annotated[Path, typer.Argument(help="a study's folder")]


@app.command("run")
def run_(
    folder: Folder = Path(),
    drawing: Annotated[
        bool, typer.Option("--drawing", help="only the stages that draw, from data/results at hand: minutes")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep the scratch copy, and say where it is")] = False,
) -> None:
    """Rerun a study from its last commit in a scratch copy, and compare what comes out with what is committed."""
    with scratch_copy(folder, drawing, keep) as copy:
        if changed := _git(folder, "status", "--porcelain", "--untracked-files=no"):
            print(f"The last commit is rerun; {len(changed.splitlines())} files have changes that are not in it.")
        committed = rerun(copy, drawing)
        comparison = compare(copy, committed)
    _end(comparison)


@app.command("compare")
def compare_(here: Folder, committed: Folder) -> None:
    """Compare the numbers of two folders of one study, each with its reports/, cell by cell."""
    _end(compare(here, committed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 where nothing differs beyond tolerance, 1 where something does, 2 for a mistake."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        return app(given or ["--help"], prog_name="python -m flashdiff.study.reproduce", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except ReproduceError as error:
        print(error, file=sys.stderr)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own: an unknown option, a folder that is not there
            raise
        print(error.format_message(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
