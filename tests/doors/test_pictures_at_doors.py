"""Pictures that people give to the commands and to the explorer: read by the one reader, or refused before anything loads."""

import csv
import os
from types import SimpleNamespace

import numpy as np
import pytest
from picture_cases import CASES, REFUSED, SIDE, exif, numbers, png, saved, upright
from PIL import Image

from flashdiff.commands import masks, new, pictures, restore
from flashdiff.commands.pictures import Picture
from flashdiff.explore.explorer import Explorer
from flashdiff.study.schema import StudyError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every case as a file."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, case in enumerate(CASES):
        (folder / f"{number:03d}{case.suffix}").write_bytes(case.content)
    return folder


def tolerance(case, channels):
    return case.within + (0.51 if channels == 1 else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_commands_read_every_kind_of_picture(folder, channels):
    found = pictures.find([folder])
    assert len(found) == len(CASES)
    said = pictures.check(found, SIDE, channels)
    assert said.startswith(f"{len([c for c in CASES if coloured(c) == (channels == 1)])} of {len(CASES)} images: ")
    for case, image in zip(CASES, pictures.read(found, SIDE, channels), strict=True):
        assert case.wrong(image) <= tolerance(case, channels)


def coloured(case):
    """Whether the file has colours or a palette, whatever it shows."""
    grey = ("png grey", "tiff grey", "P1", "P4", "jp2 L", "jp2 grey", "tga L", "pcx L", "jpg grey")
    return not (case.name.startswith(grey) or " grey up to" in case.name)


@pytest.mark.parametrize(("suffix", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_the_commands_refuse_what_nobody_can_read(tmp_path, suffix, content, sentence):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=rf"^{path}: cannot be read \(.*{sentence}"):
        pictures.check(pictures.find([path]), SIDE, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_explorer_reads_every_kind_of_picture(case):
    for channels in (1, 3):
        data = SimpleNamespace(image_size=SIDE, channels=channels)
        picture = Explorer.own_picture(SimpleNamespace(study=SimpleNamespace(data=data)), case.content, "mine")
        assert case.wrong((picture.x[0].numpy() + 1) * 127.5) <= tolerance(case, channels) + 1e-3
        assert picture.note.startswith(f"{SIDE} x {SIDE} pixels")
        assert ("made grey" in picture.note) == (channels == 1 and coloured(case))


@pytest.mark.parametrize(("suffix", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_the_explorer_refuses_what_nobody_can_read(suffix, content, sentence):
    study = SimpleNamespace(data=SimpleNamespace(image_size=SIDE, channels=1))
    with pytest.raises(
        ValueError, match=r"^mine(\.x)? (is no picture that can be read; choose|cannot be read \()"
    ) as error:
        Explorer.own_picture(SimpleNamespace(study=study), content, "mine")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_picture(tmp_path, orientation):
    stored = numbers("wide", 255).astype(np.uint8)[:5]
    path = tmp_path / "wide.png"
    path.write_bytes(saved(Image.fromarray(stored), "PNG", exif=exif(orientation)))
    height, width = upright(stored, orientation).shape
    with pytest.raises(StudyError, match=rf"wide\.png: {width} x {height} pixels, but the model knows 8 x 8"):
        pictures.check(pictures.find([path]), SIDE, 1)
    study = SimpleNamespace(data=SimpleNamespace(image_size=SIDE, channels=1))
    picture = Explorer.own_picture(SimpleNamespace(study=study), path.read_bytes(), "wide")
    assert picture.note.startswith(f"{width} x {height} pixels, the largest square in the middle taken")


def test_a_new_study_looks_at_pictures_through_the_same_reader(folder, tmp_path):
    names = [path.name for path in sorted(folder.iterdir())]
    sides, colours = new.look_at(folder, names)
    assert sides == [SIDE] * len(CASES)
    shown = sum(np.ptp(case.rgb.round(), axis=-1).max() > 20 for case in CASES)
    assert abs(colours - shown) <= 1
    big = np.zeros((600, 400, 3), np.uint8)
    big[..., 0] = 200
    for k in range(1, 9):
        (tmp_path / f"{k}.jpg").write_bytes(saved(Image.fromarray(big), "JPEG", exif=exif(k)))
    assert new.look_at(tmp_path, [f"{k}.jpg" for k in range(1, 9)]) == ([400] * 8, 8)
    for name, (suffix, content, _) in REFUSED.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    with pytest.raises(StudyError) as error:
        new.look_at(tmp_path, [f"{name}{suffix}" for name, (suffix, _, _) in REFUSED.items()])
    lines = str(error.value).split("\n")
    assert len(lines) == len(REFUSED) and all(
        line.startswith("images: ") and " cannot be read (" in line for line in lines
    )


def test_masks_are_read_by_the_same_reader(tmp_path):
    hole = numbers("hole", 1)
    kinds = {"a": (png(hole, 1, 0), ".png"), "b": (png(hole * 65535, 16, 0), ".png"),
             "c": (saved(Image.fromarray((hole * 255).astype(np.uint8)), "TIFF"), ".tif")}  # fmt: skip
    given = {}
    for name, (content, suffix) in kinds.items():
        given[name] = tmp_path / f"{name}{suffix}"
        given[name].write_bytes(content)
    keep = masks.read_files([Picture(name, path) for name, path in given.items()], given, SIDE)
    assert (keep[:, 0].numpy() == hole).all()


def test_what_is_given_twice_or_holds_several_pictures_is_said(tmp_path, capfd):
    frames = [Image.new("L", (SIDE, SIDE), 50 * k) for k in range(3)]
    (tmp_path / "moves.gif").write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (tmp_path / "again.gif").symlink_to(tmp_path / "moves.gif")
    found = pictures.find([tmp_path, tmp_path / "moves.gif"])
    assert len(found) == 1
    assert (
        capfd.readouterr().err == "2 of 3 names lead to a file that another one names, too: each file is taken once.\n"
    )
    said = pictures.check(found, SIDE, 1)
    assert said.startswith("1 files hold several pictures (") and "the first of each is taken." in said


def test_a_report_takes_every_name(tmp_path):
    """A name that is no UTF-8 would otherwise end the command after its first images."""
    name = os.fsdecode(b"caf\xe9.png")
    row = dict.fromkeys(restore.COLUMNS, "1") | {"file": name, "result": name, "settings": "x"}
    restore._write_report(tmp_path, [Picture(name, tmp_path / name)], {name: row})
    with open(tmp_path / "report.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [read["file"] for read in csv.DictReader(file)] == [name]
    (tmp_path / name).write_bytes(b"")
    request = SimpleNamespace(out=tmp_path, settings=lambda picture: "x")
    assert list(restore._finished([Picture(name, tmp_path / name)], request)) == [name]
