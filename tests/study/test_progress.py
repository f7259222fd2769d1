"""What is still to run, and the lines that say so: against small pipelines whose answer is plain, and against DVC itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from flashdiff.study import progress
from flashdiff.study.progress import Progress, Step, to_run
from tests.repositories import ENVIRONMENT, dvc, git, stages_that_ran

TRAIN = Step("train", reads=("data/splits",), writes=("data/severity/blur", "data/severity/blur.recipe.json"))
CHAIN = [
    Step("download", writes=("data/raw/x", "data/splits")),
    TRAIN,
    Step("tune", reads=("data/splits", "data/severity/blur.recipe.json"), writes=("data/tuned/blur.json",)),
    Step("walk", reads=("data/severity/blur", "data/tuned/blur.json"), writes=("data/results/blur.parquet",)),
    Step("report", reads=("data/results",), writes=("reports/index.html",)),
]


def changed(**steps):
    """The names of what is to run of CHAIN with some steps replaced: name -> fields."""
    return [s.name for s in to_run(Step(**(vars(step) | steps.get(step.name, {}))) for step in CHAIN)]


def test_nothing_changed_runs_nothing():
    assert changed() == []


def test_an_altered_step_takes_all_that_follows_along_and_nothing_else():
    assert changed(download={"altered": True}) == ["download", "train", "tune", "walk", "report"]
    assert changed(tune={"altered": True}) == ["tune", "walk", "report"]
    assert changed(report={"altered": True}) == ["report"]


def test_a_fresh_clone_does_not_repeat_what_ships_with_it():
    missing = {step.name: {"missing": step.writes} for step in CHAIN if step.name in ("download", "train", "walk")}
    assert changed(**missing) == ["download", "train", "walk", "report"]
    assert changed(download=missing["download"]) == ["download"]  # the same images again


def test_a_folder_and_a_file_in_it_are_the_same_input():
    folder = Step("save", writes=("reports/figures/blur",), altered=True)
    assert to_run([folder, Step("page", reads=("reports/figures",)), Step("other", reads=("reports/figure",))]) == [
        folder,
        Step("page", reads=("reports/figures",)),
    ]


def test_what_is_expected_is_what_dvc_runs(tmp_path, monkeypatch):
    """Over every single change of a small pipeline: a parameter, an input, a lost output, a lost exact output."""
    stages = """
stages:
  sources: {cmd: mkdir -p .build && cp code .build/code, deps: [code], outs: [.build/code: {cache: false}]}
  first: {cmd: mkdir -p data && sed s/^/1/ .build/code > data/splits, deps: [.build/code], params: [a], outs: [data/splits]}
  second: {cmd: "cat data/splits params.yaml > second", desc: make the second, deps: [data/splits], params: [b], outs: [second]}
  third: {cmd: sed s/^/3/ second > third, deps: [second], outs: [third]}
"""
    (tmp_path / "dvc.yaml").write_text(stages)
    (tmp_path / "params.yaml").write_text("a: 1\nb: 1\nc: 1\n")
    (tmp_path / "code").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    script = (
        "import json; from dvc.repo import Repo; from flashdiff.study import progress\n"
        "with Repo() as repo:\n    repo.reproduce(['sources'])\n"
        "    print(json.dumps([[s.name, s.purpose] for s in progress.to_run(progress.steps_of(repo))]))"
    )

    def expected():
        said = subprocess.run(
            [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return dict(json.loads(said.stdout.splitlines()[-1]))

    assert expected() == {"first": "first", "second": "make the second", "third": "third"}
    changes = [
        lambda: None,
        lambda: Path("params.yaml").write_text("a: 1\nb: 2\nc: 1\n"),
        lambda: Path("params.yaml").write_text("a: 1\nb: 2\nc: 2\n"),
        lambda: Path("code").write_text("x = 2\n"),
        lambda: Path("third").unlink(),  # DVC has it in its cache
        lambda: [Path("second").unlink(), shutil.rmtree(".dvc/cache")],
        lambda: [Path("data/splits").unlink(), shutil.rmtree(".dvc/cache")],  # comes back equal
    ]
    for change in changes:
        dvc(tmp_path, "repro")
        change()
        told = expected()
        ran = stages_that_ran(dvc(tmp_path, "repro")) - {"sources"}
        assert set(told) == ran


def test_lines_count_the_stages_and_what_is_left():
    run = Progress({"04_train-blur": "train the encoder", "16_report": "write the report"}, {"04_train-blur": 100})
    assert run.summary() == "2 stages to run, how long that takes is not known yet."
    assert run.heading("04_train-blur") == "[1/2] train the encoder, blur; about 2 min"
    run.seconds["16_report"] = 20
    assert run.summary() == "2 stages to run, about 2 min."
    assert run.heading("04_train-blur") == "[1/2] train the encoder, blur; about 2 min, 2 min to go"
    run.finish("04_train-blur")
    assert run.heading("16_report") == "[2/2] write the report; about 20 s"
    assert run.heading("99_surprise-blur") == "[2/3] surprise, blur"
    assert Progress({}).summary() == "Nothing has changed since the last run."


def test_durations_are_kept_and_the_plan_goes_with_its_last_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 112.0)
    Path("reports").mkdir()
    progress.SHIPPED_DURATIONS.write_text('{"16_report": 9, "10_compare": 7}')
    progress.PLAN.parent.mkdir()
    progress.PLAN.write_text('{"purposes": {"16_report": "write the report"}, "seconds": {}, "done": []}')
    assert progress.current().heading("16_report") == "[1/1] write the report"
    assert progress.finished("16_report", began=100.0) == "16_report: done in 12 s"
    assert progress.durations() == {"16_report": 12.0, "10_compare": 7}
    assert not progress.PLAN.exists()
    assert progress.current().heading("16_report") == "report; about 12 s"  # dvc repro without a plan: no count
    progress.DURATIONS.write_text('{"16_rep')  # as a kill leaves it
    assert progress.durations() == {"16_report": 9, "10_compare": 7}
