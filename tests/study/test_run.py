"""Degradations side by side: what may run beside what, against all orders of small pipelines, and a run of real processes."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from repositories import ENVIRONMENT, dvc, git

from flashdiff.study import run
from flashdiff.study.progress import Progress, Step

PARAMETERS = Path(__file__).parents[2] / "params.yaml"
STUDY = SimpleNamespace(
    degradations={"blur": None, "mask": None},
    pairs={"blur-ldps": SimpleNamespace(degradation="blur"), "mask-ldps": SimpleNamespace(degradation="mask")},
)
PIPELINE = [
    Step("data", writes=("data/splits",)),
    Step("train@blur", reads=("data/splits",), writes=("data/severity/blur",)),
    Step("train@mask", reads=("data/splits",), writes=("data/severity/mask",)),
    Step("picture", reads=("data/splits",), writes=("reports/picture",)),
    Step("walk@blur-ldps", reads=("data/severity/blur",), writes=("data/results/blur.parquet",)),
    Step("walk@mask-ldps", reads=("data/severity/mask",), writes=("data/results/mask.parquet",)),
    Step("both@mask", reads=("data/severity",), writes=("data/both",)),
    Step("report", reads=("data/results", "reports"), writes=("index.html",)),
    Step("after@blur", reads=("index.html",), writes=("data/after",)),
]


def test_stages_stand_with_their_degradation_and_what_reads_of_several_comes_last():
    assert run.sort(PIPELINE, STUDY) == {
        "first": ["data", "picture"],
        "blur": ["train@blur", "walk@blur-ldps"],
        "mask": ["train@mask", "walk@mask-ldps"],
        "last": ["both@mask", "report", "after@blur"],
    }


def test_however_lanes_interleave_nothing_is_read_before_it_is_made():
    places, steps = run.sort(PIPELINE, STUDY), {step.name: step for step in PIPELINE}
    blur, mask = places["blur"], places["mask"]
    for chosen in itertools.combinations(range(len(blur) + len(mask)), len(blur)):
        lanes = {True: iter(blur), False: iter(mask)}
        between = [next(lanes[k in chosen]) for k in range(len(blur) + len(mask))]
        order = [*places["first"], *between, *places["last"]]
        assert sorted(order) == sorted(steps)
        for k, name in enumerate(order):
            later = [w for other in order[k:] for w in steps[other].writes if other != name]
            assert not any(run.overlap(r, w) for r in steps[name].reads for w in later), (order, name)


def test_time_that_is_left_is_shared_but_no_shorter_than_the_longest_stage():
    names = dict.fromkeys(["a", "b", "c"], "work")
    assert Progress(names, {"a": 60, "b": 60, "c": 60}, at_once=2).left() == 90
    assert Progress(names, {"a": 300, "b": 60, "c": 60}, at_once=2).left() == 300
    assert Progress(names, {"a": 60, "b": 60, "c": 60}, done=["a"], at_once=1).left() == 120


# Two stages that wait for each other: each ends only when the other has begun. One after the other they would give up.
MEET = (
    "touch .build/$0.begun; for i in $(seq 200); do test -e .build/$1.begun && break; sleep 0.05; done;"
    " test -e .build/$1.begun && echo $0 with ${OMP_NUM_THREADS-all} threads && cat splits params.yaml > $0.out"
)
STAGES = """
stages:
  sources: {cmd: mkdir -p .build, deps: [code], outs: [unused: {cache: false}]}
  download: {cmd: cp code splits, deps: [code], outs: [splits]}
  meet:
    matrix: {degradation: [gaussian_blur, random_inpainting]}
    cmd: ./meet ${item.degradation}
    deps: [splits]
    params: [seed]
    outs: ["${item.degradation}.out"]
  report: {cmd: cat gaussian_blur.out random_inpainting.out > all.out, deps: [gaussian_blur.out, random_inpainting.out], outs: [all.out]}
"""


@pytest.fixture
def folder(tmp_path):
    shutil.copy(PARAMETERS, tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text(STAGES.replace("mkdir -p .build,", '"mkdir -p .build && cp code unused",'))
    other = "case $1 in gaussian_blur) o=random_inpainting;; *) o=gaussian_blur;; esac\n"
    (tmp_path / "meet").write_text(f"#!/bin/sh\n{other}exec sh -c '{MEET}' $1 $o\n")
    (tmp_path / "meet").chmod(0o755)
    (tmp_path / "code").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    return tmp_path


def make_study(folder, succeeds=True, **environment):
    """Its output, from `make study`'s own command."""
    free = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"} | environment
    command = [sys.executable, "-m", "flashdiff.study.run"]
    done = subprocess.run(command, cwd=folder, env=free, capture_output=True, text=True)
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(run.cores() < 2, reason="one core")
def test_two_degradations_run_at_the_same_time_and_share_the_cores(folder):
    said = make_study(folder)
    share = max(1, run.cores() // 2)
    for name in ("gaussian_blur", "random_inpainting"):
        assert f"{name} with {share} threads" in said
    assert (folder / "all.out").read_bytes() == 2 * ((folder / "code").read_bytes() + PARAMETERS.read_bytes())
    assert dvc(folder, "status") == "Data and pipelines are up to date.\n"
    assert "Nothing has changed since the last run." in make_study(folder)


def test_a_number_of_threads_that_was_asked_for_is_left_alone(folder):
    """Stages then run one after another, as with `dvc repro`, so that these two never meet."""
    (folder / "meet").write_text("#!/bin/sh\necho $1 with $OMP_NUM_THREADS threads; touch $1.out\n")
    said = make_study(folder, OMP_NUM_THREADS="3")
    assert said.count("with 3 threads") == 2


@pytest.mark.skipif(run.cores() < 2, reason="one core")
def test_what_failed_is_said_at_the_end_and_the_other_lane_is_finished(folder):
    script = (folder / "meet").read_text()
    fails = 'if [ $1 = gaussian_blur ]; then echo "gaussian_blur: cell 3 failed; mend it." >&2; exit 1; fi\nsleep 1\n'
    (folder / "meet").write_text(f"#!/bin/sh\n{fails}touch $1.out\n")
    said = make_study(folder, succeeds=False)
    assert said.splitlines()[-1] == "gaussian_blur: cell 3 failed; mend it."
    assert "Traceback" not in said
    assert (folder / "random_inpainting.out").exists() and not (folder / "all.out").exists()
    (folder / "meet").write_text(
        script.replace("exec", "touch .build/gaussian_blur.begun .build/random_inpainting.begun; exec")
    )
    make_study(folder)
    assert dvc(folder, "status") == "Data and pipelines are up to date.\n"


def test_what_dvc_refuses_is_one_sentence(folder):
    make_study(folder, OMP_NUM_THREADS="1") if run.cores() < 2 else make_study(folder)
    (folder / "code").unlink()
    said = make_study(folder, succeeds=False)
    assert "Traceback" not in said and "code" in said.splitlines()[-1]


def test_one_lane_where_a_gpu_computes(monkeypatch):
    import flashdiff.devices

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(run, "cores", lambda: 8)
    places = {"first": ["a"], "blur": ["b"], "mask": ["c"], "noise": [], "last": ["d"]}
    for kind, expected in {"cpu": 2, "cuda": 1, "mps": 1}.items():
        monkeypatch.setattr(flashdiff.devices, "device", lambda kind=kind: SimpleNamespace(type=kind))
        assert run.side_by_side(places) == expected
    monkeypatch.setattr(flashdiff.devices, "device", lambda: SimpleNamespace(type="cpu"))
    monkeypatch.setattr(run, "cores", lambda: 1)
    assert run.side_by_side(places) == 1
    assert os.environ.get("OMP_NUM_THREADS") is None


@pytest.mark.parametrize("unknown", [{}, {"total": 4}, {"total": 400}])
def test_what_a_progress_bar_leaves_is_no_line(unknown):
    """As tqdm itself writes it, whatever it knows of the whole; sentences with numbers, times and brackets are lines."""
    import io

    from tqdm import tqdm

    told = io.StringIO()
    bar = tqdm(file=told, desc="[2/7] walk", **unknown)
    bar.update(4)
    bar.set_postfix_str("256/256 images")
    bar.close()
    left = told.getvalue().split("\r")[-1].strip()
    assert left and run.Screen._is_bar(left)
    for line in ("95% interval [98.2%, 98.7%]", "[2/7] walk; about 2 min, 14 min to go", "spearman [0.9, 1.0], 12:30"):
        assert not run.Screen._is_bar(line)


def test_a_second_run_at_the_same_time_is_told_to_wait(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMETERS, "params.yaml")
    monkeypatch.setattr(run, "check", lambda: "fine")
    with run._alone():
        assert run.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "another run of this study is at work; wait until it has ended, then `make study` continues."
