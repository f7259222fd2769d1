"""Command lines of anything: a status and a sentence, no traceback, nothing made and nothing begun."""

import contextlib
import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from property_cases import EVIL, REFUSED, check_sentence, count, examples, nothing_starts

from flashdiff import cli
from flashdiff.study import stage

WORDS = st.one_of(
    st.sampled_from([*EVIL, "photo.png", "empty", "params.yaml", "nowhere", "gaussian_blur", "smoke", "fashion-mnist"]),
    st.text(max_size=15),
    st.integers().map(str),
    st.floats().map(str),
).filter(lambda text: "\0" not in text and "\n" not in text)  # sentences are told apart by their lines
OPTIONS = {
    "severity": ["--degradation", "--study", "--json", "--csv", "--jsn"],
    "restore": ["--degradation", "--out", "--level", "--mask", "--budget", "--noise-std", "--study"],
    "new": ["--images", "--image-size", "--channels", "--validation", "--test"],
    "train": ["--study"],
    "reconstruct": ["--all"],
    "convert": ["--raw", "--ema"],
    "nonsense": ["--x"],
}
STAGE = ["check", "digest", "run", "walk", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "empty").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "photo.png")  # a size that no shipped model takes
    (folder / "params.yaml").write_text("study: [\n")
    return folder


@pytest.fixture(autouse=True)
def within(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FLASHDIFF_STUDY", raising=False)


def visible():
    """What is in the folder, but for what a stage notes of its own failures."""
    return sorted(name for name in os.listdir() if name != ".build")


def refused(what, main, arguments):
    before = visible()
    out, complaints = io.StringIO(), io.StringIO()
    with nothing_starts(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
        try:
            status = main(arguments)
        except SystemExit as error:  # of argparse, which prints its usage, too
            status = error.code
    assert visible() == before
    if status == 0:
        assert (
            {"-h", "--help", "--version"} & {*arguments} or not arguments or any("help" in word for word in arguments)
        )
        return
    assert status in (1, 2)
    lines = [line for line in complaints.getvalue().strip().split("\n") if "left out:" not in line]
    if what == "command lines: a stage" and "usage:" in complaints.getvalue():
        assert "Traceback" not in complaints.getvalue()
    else:
        check_sentence("\n".join(lines))
    count(what, REFUSED)


@given(data=st.data(), command=st.sampled_from(list(OPTIONS)))
@examples(1200, 0.04)
def test_a_command_line_ends_in_a_sentence(data, command):
    arguments = [command]
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            arguments.append(data.draw(st.sampled_from(OPTIONS[command])))
        arguments.append(data.draw(WORDS))
    refused("command lines: flashdiff", cli.main, arguments)


@given(data=st.data(), command=st.sampled_from(STAGE))
@examples(400, 0.05)
def test_a_stage_s_command_line_ends_in_a_sentence(data, command):
    refused("command lines: a stage", stage.main, [command, *data.draw(st.lists(WORDS, max_size=4))])
