"""What a rerun says of its numbers: every kind of difference is found, what is within tolerance passes, seconds are not looked at."""

import json
import math
import shutil
import subprocess

import pytest

from flashdiff.study import reproduce
from flashdiff.study.reproduce import compare, main
from flashdiff.study.tolerances import TOLERANCES, Kind, kind_of, passes

HEAD = {"study": "toy", "degradation": "blur", "solver": "ldps", "start": None, "budget": None, "measure": None}
HEADLINE = [
    HEAD | {"claim": "psnr_gain_db", "start": "published", "value": 1.2, "low": 1.0, "high": 1.4, "n": 64, "verdict": "reproduced"},
    HEAD | {"claim": "ordering_accuracy", "solver": None, "value": 0.98, "low": 0.97, "high": 0.99, "n": 100, "verdict": "reproduced"},
    HEAD | {"claim": "wall_clock_ratio", "value": 9.0, "low": None, "high": None, "n": 64, "verdict": "described"},
]  # fmt: skip
METRICS = {"methods": {"flash": {"psnr": {"value": 25.0, "low": None, "n": 64}}}, "frechet": None, "tested": True}
TABLE = """method,budget,nfe,psnr,psnr_low,seconds
fixed,3,3,25.5,24.5,1.5
fixed,6,6,26.5,25.5,2.5
adaptive,6,5.9,26.7,,2.5
"""


@pytest.fixture
def sides(tmp_path):
    """Two equal folders of one study: here and committed."""
    for name in ("here", "committed"):
        reports = tmp_path / name / "reports"
        for folder in ("metrics", "tables", "timings"):
            (reports / folder).mkdir(parents=True)
        (reports / "headline.json").write_text(json.dumps(HEADLINE))
        (reports / "metrics/reconstruction-blur-ldps.json").write_text(json.dumps(METRICS))
        (reports / "tables/budgets-blur-ldps.csv").write_text(TABLE)
        (reports / "timings/speedup-blur-ldps.json").write_text('{"seconds": 1.0}')
    return tmp_path / "here", tmp_path / "committed"


def change(folder, file, old, new):
    path = folder / "reports" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_equal_folders(sides, capsys):
    assert main(["compare", *map(str, sides)]) == 0
    # of headline six values and two n, of metrics two, of the table 3 x 4 without the empty cell
    assert capsys.readouterr().out == (
        "Nothing differs beyond tolerance (21 numbers in 3 files, 21 of them equal to the last digit).\n"
    )


FILES = {
    "headline": "headline.json",
    "metrics": "metrics/reconstruction-blur-ldps.json",
    "table": "tables/budgets-blur-ldps.csv",
}
DIFFERENT = {
    "number beyond, table": ("table", "25.5,24.5", "25.9,24.5", "fixed, psnr", 25.9, 25.5),
    "number beyond, second row of a name": ("table", "26.5,25.5", "26.5,25.0", "fixed #2, psnr_low", 25.0, 25.5),
    "number beyond, metrics": ("metrics", "25.0", "24.0", "methods, flash, psnr, value", 24.0, 25.0),
    "number beyond, headline": ("headline", "1.2,", "1.5,", "psnr_gain_db/toy/blur/ldps/published, value", 1.5, 1.2),
    "count": ("headline", "64", "65", "psnr_gain_db/toy/blur/ldps/published, n", 65.0, 64.0),
    "budget": ("table", "fixed,3", "fixed,4", "fixed, budget", 4.0, 3.0),
    "NaN here": ("table", "5.9", "nan", "adaptive, nfe", math.nan, 5.9),
    "NaN in JSON": ("metrics", "25.0", "NaN", "methods, flash, psnr, value", math.nan, 25.0),
    "infinity": ("table", "5.9", "inf", "adaptive, nfe", math.inf, 5.9),
    "a cell is empty": ("table", "5.9", "", "adaptive, nfe", None, 5.9),
    "a cell is filled": ("table", "26.7,,", "26.7,26.0,", "adaptive, psnr_low", 26.0, None),
    "a number became a text": ("table", "5.9", "none", None, None, None),
    "null became a number": ("metrics", '"frechet": null', '"frechet": 2.0', "frechet", 2.0, None),
    "a flag": ("metrics", "true", "false", "tested", "False", "True"),
    "verdict": ("headline", '"reproduced"', '"not reproduced"', "psnr_gain_db/toy/blur/ldps/published, verdict", "not reproduced", "reproduced"),
    "text of a row": ("table", "adaptive", "adapted", None, None, None),
    "a name in JSON": ("metrics", "flash", "flush", None, None, None),
    "a column": ("table", "psnr_low", "psnr_least", None, None, None),
    "no JSON": ("metrics", "{", "[", None, None, None),
    "no table": ("table", "fixed,3,3", "fixed,3", None, None, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFERENT)
@pytest.mark.parametrize("swap", [False, True], ids=["here", "committed"])
def test_what_differs_is_named_with_both_values(sides, capsys, kind, swap):
    """On whichever side the change is."""
    file, old, new, cell, ours, theirs = DIFFERENT[kind]
    change(sides[swap], FILES[file], old, new)
    found = compare(*sides).differences
    assert found and {d.file for d in found} == {FILES[file]}
    if cell is not None:
        (difference,) = found
        values = [difference.here, difference.committed][:: -1 if swap else 1]
        assert difference.cell == cell
        assert repr(values) == repr([ours, theirs])
    assert main(["compare", *map(str, sides)]) == 1
    said = capsys.readouterr().out
    assert FILES[file] in said and said.splitlines()[-1].startswith(f"{len(found)} beyond tolerance (")


def test_both_nan_or_infinite_is_equal(sides):
    for side in sides:
        change(side, FILES["table"], "5.9", "nan")
        change(side, FILES["table"], "26.7", "-inf")
    assert not compare(*sides).differences


@pytest.mark.parametrize("swap", [False, True], ids=["here", "committed"])
@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(sides, capsys, file, swap):
    (sides[swap] / "reports" / FILES[file]).unlink()
    (difference,) = compare(*sides).differences
    assert (difference.file, difference.cell) == (FILES[file], "the file")
    assert [difference.here, difference.committed] == (["there", None] if swap else [None, "there"])
    assert main(["compare", *map(str, sides)]) == 1
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[-2:] == (["there", "-"] if swap else ["-", "there"])


@pytest.mark.parametrize("place", ["first", "last"])
def test_one_row_more_is_one_difference(sides, place):
    """It does not move the others, also where it stands before them."""
    row, head = "other,3,3,24.0,23.0,1.0\n", TABLE.partition("\n")[0] + "\n"
    text = TABLE.replace(head, head + row) if place == "first" else TABLE + row
    (sides[0] / "reports" / FILES["table"]).write_text(text)
    (difference,) = compare(*sides).differences
    assert (difference.cell, difference.here, difference.committed) == ("other", "there", None)


def test_one_record_less_is_one_difference(sides):
    (sides[0] / "reports/headline.json").write_text(json.dumps(HEADLINE[1:]))
    (difference,) = compare(*sides).differences
    assert (difference.here, difference.committed) == (None, "there")
    assert difference.cell == "psnr_gain_db/toy/blur/ldps/published"


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("file", "value", "kind"),
    [("table", 26.7, Kind.PSNR), ("table", 5.9, Kind.EVALUATIONS), ("headline", 1.2, Kind.PSNR), ("headline", 0.98, Kind.ORDERING)],
)  # fmt: skip
def test_the_edge_of_a_tolerance(sides, file, value, kind, sign):
    """Just within passes and is counted as not equal, just beyond is said with the tolerance."""
    bound = TOLERANCES[kind].study * (max(1, value) if TOLERANCES[kind].relative else 1)
    change(sides[0], FILES[file], str(value), repr(value + sign * 0.99 * bound))
    comparison = compare(*sides)
    assert not comparison.differences and comparison.equal == comparison.numbers - 1
    change(sides[0], FILES[file], repr(value + sign * 0.99 * bound), repr(value + sign * 1.01 * bound))
    (difference,) = compare(*sides).differences
    assert difference.tolerance == pytest.approx(bound)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("headline.json", "9.0", "90.0"),
        ("tables/budgets-blur-ldps.csv", "1.5\n", "99\n"),
        ("timings/speedup-blur-ldps.json", "1.0", "50.0"),
    ],
    ids=["wall clock", "column of seconds", "file of timings"],
)
def test_seconds_are_never_compared(sides, file, old, new):
    change(sides[0], file, old, new)
    assert not compare(*sides).differences


def test_a_long_table_is_cut_and_counted(sides, capsys):
    rows = "".join(f"m{k},3,3,{{}},24.5,1\n" for k in range(reproduce.SHOWN + 5))
    for side, value in zip(sides, (25, 26), strict=True):
        (side / "reports" / FILES["table"]).write_text(TABLE + rows.replace("{}", str(value)))
    assert main(["compare", *map(str, sides)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + reproduce.SHOWN + 2 and lines[-2] == "... and 5 more"
    assert lines[-1].startswith(f"{reproduce.SHOWN + 5} beyond")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_folder_without_reports_is_a_mistake(sides, capsys, missing):
    shutil.rmtree(sides[missing])
    assert main(["compare", *map(str, sides)]) == 2
    assert f"{sides[missing]}: there is no report in this folder; give" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["compare", "one"], ["compare", "a", "b", "--fast"], ["reproduce"]])
def test_misuse_is_one_sentence(capsys, arguments):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("psnr_low", Kind.PSNR), ("psnr_gain_db", Kind.PSNR), ("ssim_gain_high", Kind.SSIM), ("perceptual_gain", Kind.PERCEPTUAL),
        ("nfe_ratio", Kind.EVALUATIONS), ("decodes", Kind.EVALUATIONS), ("sigma_hat", Kind.SEVERITY), ("mean_start", Kind.START),
        ("error_at_0.25_low", Kind.SEVERITY), ("ordering_accuracy_strict", Kind.ORDERING), ("spearman_error", Kind.HEADLINE),
        ("calibration_ratio", Kind.HEADLINE), ("n", Kind.COUNT), ("test in train", Kind.COUNT), ("something_new", Kind.HEADLINE),
    ],
)  # fmt: skip
def test_kinds_by_name(path, kind):
    assert kind_of(path) is kind
    assert kind_of("some", path, "value") is kind


def test_a_tolerance_is_one_rule_for_both_signs_and_sizes():
    for kind, tolerance in TOLERANCES.items():
        for committed in (-1000.0, -0.5, 0.0, 0.5, 1000.0):
            bound = tolerance.allowed(committed)
            assert bound == tolerance.study * (max(1, abs(committed)) if tolerance.relative else 1)
            assert passes(committed, committed, kind) and not passes(committed + 1.5 * bound + 1e-9, committed, kind)
        assert not passes(math.nan, 1.0, kind) and not passes(math.inf, 1.0, kind) and passes(math.nan, math.nan, kind)


def test_stages_of_a_rerun():
    root = reproduce.Path(__file__).parents[2]
    drawing, whole = (reproduce.stages(root, drawing) for drawing in (True, False))
    ships = {"download", "prior", "tune", "tune_budgets", "baseline", "other_seeds", "ablate", "robustness"}
    assert not ships & set(whole) and set(drawing) < set(whole) and whole[0] == "sources" and whole[-1] == "report"
    assert {"train_severity", "measure_severity", "reconstruct", "walk_budgets", "examples"} == set(whole) - set(
        drawing
    )


@pytest.fixture
def repository(tmp_path):
    """A repository with a study that has been run, as far as a rerun looks before it starts."""
    folder = tmp_path / "repository/studies/toy"
    (folder / "reports").mkdir(parents=True)
    for name, text in {
        "dvc.yaml": "stages: {}\n",
        "dvc.lock": "",
        "reports/headline.json": json.dumps(HEADLINE),
    }.items():
        (folder / name).write_text(text)
    commands = (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "toy"],
    )
    for command in commands:
        subprocess.run(["git", *command], cwd=tmp_path / "repository", check=True)
    for name in ("results", "splits"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "rows").write_text("what is not in git")
    return folder


@pytest.mark.parametrize("drawing", [True, False])
def test_the_scratch_copy_is_the_last_commit_with_the_images(repository, drawing):
    (repository / "reports/headline.json").write_text("changed since")
    with reproduce.scratch_copy(repository, drawing) as copy:
        assert json.loads((copy / "reports/headline.json").read_text()) == HEADLINE
        assert (copy / "data/splits/rows").is_file() and (copy / "data/results/rows").is_file() == drawing
        (copy / "data/splits/rows").write_text("a rerun writes")
        (copy / "dvc.lock").write_text("a rerun writes")
    assert not copy.exists()
    assert (repository / "reports/headline.json").read_text() == "changed since"
    assert (repository / "data/splits/rows").read_text() == "what is not in git" and (
        repository / "dvc.lock"
    ).read_text() == ""


@pytest.mark.parametrize(
    ("broken", "options", "said"),
    [
        ("dvc.yaml", [], "dvc.yaml: not there; give the folder of a study"),
        ("data/results", ["--drawing"], "data/results: not there; run `make study` first, or leave out --drawing."),
        ("../../.git", [], "no git repository; clone the project with git"),
    ],
)
def test_what_cannot_be_rerun_is_said_before_anything_runs(repository, capsys, broken, options, said):
    path = repository / broken
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["run", str(repository), *options]) == 2
    assert said in capsys.readouterr().err


def test_run_compares_the_copy_with_what_was_committed(repository, capsys, monkeypatch):
    """A rerun that comes out another, without its stages."""

    def rerun(copy, drawing):
        committed = copy / ".build/committed"
        shutil.copytree(copy / "reports", committed / "reports")
        change(copy, "headline.json", "1.2,", "3.2,")
        return committed

    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    monkeypatch.setattr(reproduce, "rerun", rerun)
    assert main(["run", str(repository)]) == 1
    assert "psnr_gain_db/toy/blur/ldps/published, value  3.2   1.2        0.01" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
