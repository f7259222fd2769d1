"""What a stage runs: parameters are checked first, results appear on success only, and equal runs are equal bytes."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from flashdiff.study import digests, stage
from flashdiff.study.schema import StudyError, load
from flashdiff.study.stage import StageError

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "studies" / "smoke" / "params.yaml"
ITEMS = ["seed", "severity", "rate=severity.learning_rate", "degradation_name:=gaussian_blur"]
PARAMETERS = "seed = 1\nseverity = {}\nrate = 0.5\ndegradation_name = ''"
WORK = """\
import json, sys
from pathlib import Path

values = {"seed": seed, "severity": severity, "rate": rate, "degradation_name": degradation_name}
Path("seen.json").write_text(json.dumps({"python": sys.executable, "values": values}))
Path("reports/figures").mkdir(parents=True, exist_ok=True)
Path("reports/figures/curve.txt").write_text("new")
print("a line")
print("progress", file=sys.stderr)
object()"""


def write_notebook(path, *cells, parameters=PARAMETERS):
    """A notebook of code cells, the first of them tagged as parameters cell unless it is None."""
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters is not None:
        code.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=code), path)
    return path


def content(folder):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def hostile_study(folder):
    """A study's folder as working directory, for a user whose Jupyter knows a broken kernel called python3."""
    shutil.copy(SMOKE, folder)
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["false"], "display_name": "Python 3", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JUPYTER_DATA_DIR", str(folder / "jupyter"))
        yield folder


@pytest.fixture
def study(tmp_path):
    with hostile_study(tmp_path):
        yield tmp_path


def no_kernel(*arguments):
    raise AssertionError("a kernel was about to start")


def refusal(monkeypatch, notebook, items):
    """What run says before it starts anything; checks that it left the folder as it was."""
    monkeypatch.setattr(stage, "_execute", no_kernel)
    before = content(Path())
    with pytest.raises((StageError, StudyError)) as refused:
        stage.run(notebook, Path("reports/notebooks/work.ipynb"), items)
    assert content(Path()) == before
    return str(refused.value)


def test_parameters_come_from_the_study_or_are_text():
    values = stage.parse_parameters(load(SMOKE), [*ITEMS, "note:=a=b:=c", "empty:="])
    assert values["seed"] == 0
    assert values["severity"]["steps"] == 20 and isinstance(values["severity"], dict)
    assert values["rate"] == 0.001
    assert values["degradation_name"] == "gaussian_blur"
    assert values["note"] == "a=b:=c" and values["empty"] == ""


def test_a_parameter_that_the_study_lacks_is_refused(study, monkeypatch):
    notebook = write_notebook(study / "work.ipynb")
    assert refusal(monkeypatch, notebook, ["seed", "rate=severity.rate"]) == (
        "severity.rate: there is no such parameter; mend the command in dvc.yaml that names it."
    )


def test_a_bad_study_is_refused_before_anything_else(study, monkeypatch):
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("seed: 0", "seed: -1", 1), encoding="utf-8")
    message = refusal(monkeypatch, Path("nowhere.ipynb"), ITEMS)
    assert message == "params.yaml: seed: -1 is not valid: input should be greater than or equal to 0."


def test_a_parameter_that_the_notebook_lacks_is_refused(study, monkeypatch):
    notebook = write_notebook(study / "work.ipynb")
    assert refusal(monkeypatch, notebook, [*ITEMS, "tune"]) == (
        "work.ipynb: parameter tune is not in its parameters cell; add it there or drop it in dvc.yaml."
    )


def test_a_parameter_that_the_stage_does_not_give_is_refused(study, monkeypatch):
    notebook = write_notebook(study / "work.ipynb")
    assert refusal(monkeypatch, notebook, ITEMS[2:]) == (
        "work.ipynb: parameter seed, severity is not given by the stage; add it to the command in dvc.yaml."
    )


def test_a_notebook_without_a_parameters_cell_is_refused(study, monkeypatch):
    notebook = write_notebook(study / "work.ipynb", "seed = 1", parameters=None)
    assert refusal(monkeypatch, notebook, ["seed"]) == (
        "work.ipynb: 0 cells are tagged 'parameters'; a stage needs exactly one."
    )


def test_a_cell_that_is_no_python_is_refused(study, monkeypatch):
    notebook = write_notebook(study / "work.ipynb", "seed + 1", "seed +")
    assert refusal(monkeypatch, notebook, ITEMS) == (
        "work.ipynb: cell 3 (seed +) is no Python: invalid syntax; mend that cell."
    )


def test_a_missing_notebook_is_refused(study, monkeypatch):
    assert refusal(monkeypatch, Path("nowhere.ipynb"), ITEMS) == (
        "nowhere.ipynb: there is no such notebook; name one of notebooks/."
    )


def test_a_second_run_of_the_same_stage_is_refused(study, monkeypatch):
    monkeypatch.setattr(stage, "PATIENCE_S", 0.3)
    notebook = write_notebook(study / "work.ipynb")
    Path(".build").mkdir()
    with open(".build/work.lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refusal(monkeypatch, notebook, ITEMS)
    assert message == "work: this stage is still running (process 4711); wait for it or end it."


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """A study in which one small notebook has run two times, and the bytes of each run's output."""
    with hostile_study(tmp_path_factory.mktemp("study")) as folder:
        notebook, output = write_notebook(folder / "work.ipynb", WORK), Path("reports/notebooks/work.ipynb")
        runs = []
        for _ in range(2):
            stage.run(notebook, output, ITEMS)
            runs.append(output.read_bytes())
    return folder, runs


def test_a_notebook_runs_in_the_interpreter_of_its_stage(twice):
    """Although the user's Jupyter knows another kernel of that name."""
    folder, _ = twice
    assert json.loads((folder / "seen.json").read_text())["python"] == sys.executable


def test_a_notebook_gets_its_parameters_with_their_types(twice):
    folder, _ = twice
    values = json.loads((folder / "seen.json").read_text())["values"]
    severity = stage.select(load(SMOKE), "severity")
    assert values == {"seed": 0, "severity": severity, "rate": 0.001, "degradation_name": "gaussian_blur"}
    assert isinstance(values["seed"], int) and isinstance(severity["steps"], int)


def test_two_equal_runs_write_equal_bytes(twice):
    _, (first, second) = twice
    assert first == second
    executed = nbformat.reads(first.decode(), as_version=4)
    printed, shown = executed.cells[-1].outputs
    assert printed.text == "a line\n"
    assert shown.data["text/plain"] == "<object>"


def test_a_successful_run_leaves_nothing_half_done(twice):
    folder, _ = twice
    assert sorted(path.name for path in (folder / ".build").iterdir()) == ["durations.json", "plan.lock", "work.lock"]
    assert (folder / "reports" / "figures" / "curve.txt").read_text() == "new"


def test_a_failing_cell_is_named_and_leaves_the_reports_as_they_were(study):
    notebook = write_notebook(study / "work.ipynb", WORK, "\n1 / seed\n", "print('never')")
    for name in ("figures/curve.txt", "notebooks/work.ipynb", "headline.json"):
        path = Path("reports", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    before = content(Path("reports"))
    with pytest.raises(StageError) as failed:
        stage.run(notebook, Path("reports/notebooks/work.ipynb"), ITEMS)
    assert str(failed.value) == (
        "work.ipynb: cell 4 (1 / seed) failed with ZeroDivisionError: division by zero (the traceback is in "
        ".build/work.failed.ipynb; the previous report is untouched)."
    )
    assert json.loads(Path("seen.json").read_text())["values"]["seed"] == 0, "the failing cell was the second one"
    assert content(Path("reports")) == before
    assert sorted(path.name for path in Path(".build").iterdir()) == ["work.failed.ipynb", "work.lock"]
    kept = nbformat.read(".build/work.failed.ipynb", as_version=4)
    assert any("a line" in out.get("text", "") for cell in kept.cells for out in cell.get("outputs", []))


def test_a_failing_stage_gives_back_its_own_reports_and_leaves_those_of_its_neighbour(study):
    """Which may have finished meanwhile."""
    neighbour = (
        "from pathlib import Path\nfor name in ('work', 'other'): Path('reports', name).write_text('new')\n1 / 0"
    )
    notebook = write_notebook(study / "work.ipynb", neighbour)
    Path("reports").mkdir()
    for name in ("work", "other"):
        Path("reports", name).write_text("old")
    outs = "outs: [data/x, reports/work, reports/notebooks/work.ipynb]"
    Path("dvc.yaml").write_text(f"stages: {{first: {{outs: [reports/other]}}, work: {{{outs}}}}}")
    with pytest.raises(StageError):
        stage.run(notebook, Path("reports/notebooks/work.ipynb"), ITEMS)
    assert Path("reports/work").read_text() == "old" and Path("reports/other").read_text() == "new"


def test_what_every_stage_writes_below_reports_is_what_dvc_says(monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(ROOT)
    compared = 0
    with Repo() as repo:
        stages = [found for found in repo.index.stages if "reports/notebooks/" in (found.cmd or "")]
        for found in [found for found in stages if Path(found.path).parent == ROOT]:
            executed, *items = found.cmd.split(" run ")[1].split()[1:]
            values = stage.parse_parameters(load(ROOT / "params.yaml"), items)
            expected = {out.def_path for out in found.outs if out.def_path.startswith("reports")}
            assert {str(path) for path in stage.outputs(Path(executed), values, load())} == expected, found.addressing
            compared += 1
    assert compared > 30


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("os._exit(9)", "with exit status 9: is memory short?"),
        (
            "os.kill(os.getpid(), 9)",
            "by SIGKILL: memory was short, or somebody ended it",
        ),  # as it does when memory runs out
        ("os.kill(os.getpid(), 7)", "by SIGBUS: had the disk no room left?"),  # as for a mapped file
    ],
)
def test_a_kernel_that_dies_is_a_sentence(study, ending, told):
    notebook = write_notebook(study / "work.ipynb", f"import os\n{ending}", "print('never')", parameters="seed = 1")
    with pytest.raises(StageError) as failed:
        stage.run(notebook, Path("reports/notebooks/work.ipynb"), ["seed"])
    assert str(failed.value).startswith(
        f"work.ipynb: cell 3 (import os) ended its Python process {told} (the traceback"
    )


def test_normalise_keeps_what_was_printed_in_one_piece():
    """Progress bars cut the printed text at another place in each run."""
    new = nbformat.v4.new_output
    pieces = [new("stream", name="stdout", text="a"), new("stream", name="stderr", text="50%")]
    pieces += [new("stream", name="stdout", text="b"), new("display_data", {"text/plain": "<A at 0x7f00>"})]
    cell = nbformat.v4.new_code_cell("work()", outputs=pieces)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    stage.normalise(notebook)
    printed, shown = notebook.cells[0].outputs
    assert printed.text == "ab"
    assert shown.data["text/plain"] == "<A>"


def test_main_prints_a_sentence_and_no_traceback(study, capsys):
    assert stage.main(["run", "nowhere.ipynb", "out.ipynb", "seed"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "nowhere.ipynb: there is no such notebook; name one of notebooks/.\n" and printed.out == ""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_an_unforeseen_error_is_a_sentence_and_its_traceback_a_file(study, monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(stage, "load", fail)
    assert stage.main(["run", "work.ipynb", "reports/notebooks/work.ipynb"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    remedy = "; the disk is full: make room, and `make study` continues" if error.errno == 28 else ""
    assert line == f"work: {error}{remedy} (the traceback is in .build/traceback.txt)."
    assert type(error).__name__ in Path(".build/traceback.txt").read_text()


KEEPS = """
import time
try:
    print("works", flush=True)
    time.sleep(60)
finally:
    Path("kept.txt").write_text("so far")
"""


@pytest.mark.parametrize(("folder", "command"), [("study", "make study"), ("studies/mine", "make study STUDY=mine")])
def test_ctrl_c_says_in_one_line_what_continues(tmp_path, monkeypatch, folder, command):
    """And the cell that it finds at work can still write down what it has."""
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / folder)
    shutil.copy(SMOKE, ".")
    write_notebook(Path("work.ipynb"), "from pathlib import Path", KEEPS, parameters="seed = 1")
    run = [sys.executable, "-m", "flashdiff.study.stage", "run", "work.ipynb", "reports/notebooks/work.ipynb", "seed"]
    with open("told.txt", "w") as told:
        process = subprocess.Popen(run, stdout=told, stderr=told, start_new_session=True)
    deadline = time.monotonic() + 120
    while "works" not in Path("told.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    lines = Path("told.txt").read_text().splitlines()
    assert lines[-1] == f"work: stopped. What it had finished is kept; `{command}` continues there."
    assert lines[-2] == "works"
    assert Path("kept.txt").read_text() == "so far"


def test_a_kernel_whose_cells_are_done_is_ended_at_once(study):
    """Taking torch apart costs a second or two; what runs at a polite exit runs for this long, and does not."""
    late = "import atexit, time; from pathlib import Path; atexit.register(lambda: Path('late.txt').write_text('late'))"
    stage.run(write_notebook(study / "work.ipynb", late), Path("reports/notebooks/work.ipynb"), ITEMS)
    assert not Path("late.txt").exists()


def test_annotated_parameters_and_magics_are_read(study):
    parameters = "%load_ext autoreload\nseed: int = 0\nrate = 0.5\n!ls"
    assert stage.notebook_parameters(write_notebook(study / "work.ipynb", parameters=parameters)) == {"seed", "rate"}


def test_an_executed_notebook_says_which_sources_it_ran_with(study):
    """So a reader can tell a result of these sources from one that was only committed (docs/decisions.md)."""
    notebook, output = write_notebook(study / "01_work.ipynb", WORK), Path("reports/notebooks/01_work.ipynb")
    digests.write(study, Path(".build/source"))
    stage.run(notebook, output, ITEMS)
    md5 = hashlib.md5(Path(".build/source/01_work.txt").read_bytes()).hexdigest()
    assert nbformat.read(output, as_version=4).metadata.flashdiff.source == md5


def failing(folder, code):
    """A program in the place of DVC: it says what a stage says, then has the last word itself."""
    (folder / "dvc").mkdir()
    (folder / "dvc/__init__.py").touch()  # only a whole package comes before the installed one
    (folder / "dvc/__main__.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "Path('.build/error.txt').write_text('work.ipynb: cell 3 failed.\\n')\n"
        f"print('ERROR: failed to reproduce', sys.argv[1:], file=sys.stderr)\nsys.exit({code})\n"
    )


@pytest.mark.parametrize("code", [0, 1, 255])
def test_the_sentence_of_a_failed_stage_is_the_last_line_after_those_of_dvc(study, monkeypatch, capfd, code):
    """Its options go to DVC; what an earlier run has said is not said again."""
    Path(".build").mkdir()
    Path(".build/error.txt").write_text("of an earlier run\n")
    failing(study, code)
    monkeypatch.setenv("PYTHONPATH", str(study))
    monkeypatch.setattr(stage, "check", lambda: "valid")
    assert stage.main(["repro", "--force", "--single-item", "tune"]) == code
    lines = ["ERROR: failed to reproduce ['repro', '--force', '--single-item', 'tune']", "work.ipynb: cell 3 failed."]
    assert capfd.readouterr().err.splitlines() == lines[: 2 if code else 1]


def test_a_message_of_many_lines_is_one_line(study):
    said = stage._one_line("Error(s) in loading:\n\tsize mismatch\n" + "x" * 5000)
    assert "\n" not in said and len(said) < 700 and said.startswith("Error(s) in loading: size mismatch xxx")


def test_a_full_disk_names_the_remedy(study):
    assert "make room" in stage._room("[Errno 28] No space left on device") and stage._room("division by zero") == ""


def test_the_lock_is_held_by_the_kernel_of_a_killed_stage_and_waited_for(study, monkeypatch):
    """Its holder is dead, so whoever still has the lock is about to end."""
    Path(".build").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    code = (
        "import fcntl, time; f = open('.build/work.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX); f.write(pid); f.flush();"
    )
    code = f"pid = '{dead.pid}'; {code} print('has it', flush=True); time.sleep(2)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as kernel:
        assert kernel.stdout.readline() == "has it\n"
        with stage._only_writer("work"):
            assert kernel.wait(5) == 0
            assert Path(".build/work.lock").read_text() == str(os.getpid())
