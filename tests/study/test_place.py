"""Where a notebook works: as a stage in the study's folder, by hand with a folder of its own for outputs."""

import subprocess
import sys
from pathlib import Path

import pytest
from repositories import ROOT

from flashdiff.study import place


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study's folder with notebooks/ below it, where JupyterLab starts."""
    (tmp_path / "params.yaml").write_text("study: toy\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.delenv("FLASHDIFF_STUDY", raising=False)
    monkeypatch.delenv(place.STAGE, raising=False)
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_by_hand_outputs_go_to_a_folder_of_their_own(study, capsys):
    assert place.enter_study() == Path(".build/by_hand")
    assert Path.cwd() == study
    assert capsys.readouterr().out.startswith("Run by hand: outputs go to .build/by_hand")


def test_a_stage_writes_into_the_study_and_says_nothing(study, monkeypatch, capsys):
    monkeypatch.setenv(place.STAGE, "01_work")
    assert place.enter_study() == Path()
    assert Path.cwd() == study and capsys.readouterr().out == ""


def test_another_study_can_be_named(study, monkeypatch):
    smoke = ROOT / "studies/smoke"
    monkeypatch.setenv("FLASHDIFF_STUDY", str(smoke))
    place.enter_study()
    assert Path.cwd() == smoke
    monkeypatch.setenv("FLASHDIFF_STUDY", str(study / "notebooks"))
    with pytest.raises(FileNotFoundError, match=r"params\.yaml: not found in .*notebooks; open the notebook inside"):
        place.enter_study()


def test_it_loads_nothing_but_itself():
    script = "import sys; from flashdiff.study.place import enter_study; print(sorted(m for m in sys.modules if m.startswith('flashdiff')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flashdiff', 'flashdiff.study', 'flashdiff.study.place']"
