"""Parameters never reach a shell: a study file that would is refused before a command of it runs, also by plain `dvc repro`."""

import os
import subprocess
import sys

import pytest
from repositories import ENVIRONMENT, copy_repository, dvc
from ruamel.yaml import YAML

from flashdiff import cli

TEXTS = [
    "$(touch X)",
    "`touch X`",
    "a; touch X",
    "a && touch X",
    "'; touch X; '",
    '"; touch X; "',
    "a\ntouch X",
    "a | touch X",
    "-rf",
]


def renamed(tree, value):
    entries = tree["degradations"]
    entries[value] = entries.pop("gaussian_blur")
    pair = tree["pairs"].pop("gaussian_blur-ldps") | {"degradation": value}
    tree["pairs"][f"{value}-ldps"] = pair


def solver(tree, value):
    for section in (tree["solvers"], tree["tune"]["candidates"], tree["budgets"]["walks"]):
        if "ldps" in section:
            section[value] = section.pop("ldps")
    for name, pair in list(tree["pairs"].items()):
        if pair["solver"] == "ldps":
            del tree["pairs"][name]
            tree["pairs"][f"{pair['degradation']}-{value}"] = pair | {"solver": value}


def field(*path):
    def change(tree, value):
        *outer, last = path
        for key in outer:
            tree = tree[key]
        tree[last] = value

    return change


PLACES = {"root": field("root"), "degradation": renamed, "solver": solver, "kind": field("prior", "kind"), "study": field("study"),
          "data set": field("data", "name")}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The smoke study in a copy of the repository, its sources looked at already: DVC takes that stage for done."""
    folder = copy_repository(tmp_path_factory.mktemp("copy")) / "studies/smoke"
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet", "--force"], cwd=folder.parents[1], env=ENVIRONMENT, check=False
    )
    dvc(folder, "repro", "sources")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_plain_dvc_refuses_it_before_any_command_of_it_runs(place, study):
    path, before = study / "params.yaml", (study / "params.yaml").read_text(encoding="utf-8")
    tree = YAML(typ="safe").load(before)
    PLACES[place](tree, "a; touch X #")
    try:
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe").dump(tree, file)
        said = dvc(study, "repro", succeeds=False)
    finally:
        path.write_text(before, encoding="utf-8")
    assert not (study / "X").exists()
    assert "touch X" in said and ("params.yaml: " in said or "failed to reproduce 'sources'" in said)
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_changed_parameter_passes_the_check_again(study):
    """And the stage that checks costs nothing else: what depends on the sources does not run for it."""
    path, before = study / "params.yaml", (study / "params.yaml").read_text(encoding="utf-8")
    dvc(study, "repro", "sources")
    try:
        path.write_text(before + "# another\n", encoding="utf-8")
        assert "Running stage" not in dvc(study, "repro", "sources")
        path.write_text(before.replace("seed: 0", "seed: 7", 1), encoding="utf-8")
        assert "Running stage 'sources'" in dvc(study, "repro", "sources")
        assert "sources.txt" not in dvc(study, "status")
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("text", TEXTS)
def test_no_command_makes_anything_of_a_name(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLASHDIFF_STUDY", raising=False)
    for arguments in (
        ["new", "--images", str(tmp_path), "--", text],
        ["new", "x", f"--images={text}"],
        ["severity", "--", text],
        ["severity", "x.png", f"--study={text}"],
        ["severity", "x.png", f"--degradation={text}"],
        ["restore", "x.png", f"--degradation={text}", "--out=o"],
        ["train", "--", text],
        ["reconstruct", "--", text, text],
        ["convert", "--", text, text, text],
    ):
        assert cli.main(arguments) == 2, arguments
        said = capsys.readouterr()
        assert said.out == "" and said.err.strip() and "Traceback" not in said.err
    assert os.listdir(tmp_path) == []
