"""Folders of a user's own images: every kind of file, the split by names, copies, and the errors."""

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashdiff.datasets.folder import image_names
from flashdiff.datasets.images import read_image
from flashdiff.datasets.own_images import image_folder
from flashdiff.datasets.splits import SPLITS, open_split
from flashdiff.datasets.study_data import prepare


@pytest.fixture
def pictures(tmp_path):
    """A folder of 12 different images, nested, with files around them that are none."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "pictures"
    for k in range(12):
        path = folder / ("deep/er" if k % 3 else ".") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)
    (folder / "notes.txt").write_text("not an image")
    (folder / "._0.png").write_bytes(b"what a Mac leaves behind")
    (folder / "gone.png").symlink_to("what was moved.png")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "0.png").write_bytes(b"no image either")
    return folder


def settings(**changes):
    return {"name": "own", "images": None, "image_size": 8, "channels": 1, "validation": 3, "test": 2, **changes}


# ----------------------------------------------------------------------------------------------- folders of own images


def test_only_images_count(pictures):
    assert image_names(pictures) == sorted([f"{k}.png" if k % 3 == 0 else f"deep/er/{k}.png" for k in range(12)])


def test_a_folder_is_split_by_seed_and_names(tmp_path, pictures):
    data = settings(images=pictures, channels=3)
    frame = prepare(data, 0, tmp_path / "raw", tmp_path / "a", progress=False)
    assert frame.to_dict("list") == {
        "split": list(SPLITS),
        "images": [7, 3, 2],
        "shape": ["3 x 8 x 8"] * 3,
        "sha256": [open_split(tmp_path / "a", name).sha256 for name in SPLITS],
    }
    elsewhere = shutil.copytree(pictures, tmp_path / "elsewhere" / "copy", symlinks=True)
    again = prepare(settings(images=elsewhere, channels=3), 0, tmp_path / "raw2", tmp_path / "b", progress=False)
    assert again.equals(frame)
    other = prepare(data, 1, tmp_path / "raw3", tmp_path / "c", progress=False)
    assert not set(other["sha256"]) & set(frame["sha256"])
    # files.csv says which file became which image, and every file is in exactly one split
    with open(tmp_path / "raw" / "files.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == image_names(pictures)
    for row in rows:
        image = open_split(tmp_path / "a", row["split"])[int(row["image"])]
        np.testing.assert_array_equal(image, read_image(pictures / row["file"], 8, 3))
        assert row["copy_of"] == ""
    assert set(open_split(tmp_path / "a", "train").labels) == {-1}


def test_the_order_is_the_documented_one(pictures):
    keys = sorted((hashlib.sha256(f"7/{name}".encode()).digest(), name) for name in image_names(pictures))
    parts = image_folder(settings(images=pictures), 7, pictures.parent / "raw", progress=False)
    for name, images in parts.items():
        for image, label in images:
            np.testing.assert_array_equal(image, read_image(pictures / keys.pop(0)[1], 8, 1), err_msg=name)
            assert label == -1
    assert not keys


def test_copies_of_an_image_count_once(tmp_path, pictures, capfd):
    names = image_names(pictures)
    for name in names:
        with Image.open(pictures / name) as image:
            image.save(pictures / f"{Path(name).stem}-copy.bmp")  # other bytes, the same pixels
    frame = prepare(settings(images=pictures), 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert list(frame["images"]) == [7, 3, 2]
    pixels = [image.tobytes() for name in SPLITS for image in open_split(tmp_path / "splits", name).images]
    assert len(set(pixels)) == len(pixels) == len(names)
    assert "12 exact copies" in capfd.readouterr().err
    with open(tmp_path / "raw" / "files.csv", encoding="utf-8") as file:
        copies = [row for row in csv.DictReader(file) if row["copy_of"]]
    assert len(copies) == 12
    assert all(Path(row["file"]).stem.split("-")[0] == Path(row["copy_of"]).stem.split("-")[0] for row in copies)


def test_copies_only_leave_nothing_to_train_on(tmp_path):
    for k in range(9):
        Image.new("L", (8, 8), min(k, 4)).save(tmp_path / f"{k}.png")
    with pytest.raises(ValueError, match="no image is left for split train"):
        prepare(settings(images=tmp_path), 0, tmp_path / "raw", tmp_path / "splits", progress=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": "nowhere"}, r"data\.images: nowhere is not a folder"),
        ({"test": 9}, r"data\.images: .* holds 12 images, too few for 9 test and 3 validation"),
        ({"test": 0}, r"data\.test: 0"),
        ({"validation": 0}, r"data\.validation: 0"),
        ({"channels": 2}, r"data\.channels: 2"),
    ],
)
def test_bad_settings_are_named(tmp_path, pictures, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        prepare(settings(**{"images": pictures, **changes}), 0, tmp_path / "raw", tmp_path / "splits", progress=False)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken", "truncated"])
def test_an_unreadable_image_is_named(tmp_path, pictures, content):
    path = pictures / "deep" / "bad.png"
    path.write_bytes((pictures / "0.png").read_bytes()[:150] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"data\.images: .*deep/bad\.png cannot be read .* repair or remove it\.$"):
        prepare(settings(images=pictures), 0, tmp_path / "raw", tmp_path / "splits", progress=False)


# -------------------------------------------------------------------------------------------------- one image at a time

HALVES = np.repeat([[0, 255]], 6, axis=0).repeat(6, axis=1)  # (6, 12): left half black, right half white


def save(path, array, mode=None):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_the_same_picture(tmp_path, mode, channels):
    path = save(tmp_path / "image.png", HALVES.astype(np.uint8), mode)
    image = read_image(path, 6, channels)
    assert (image.shape, image.dtype, image.flags["C_CONTIGUOUS"]) == ((channels, 6, 6), np.uint8, True)
    np.testing.assert_array_equal(image, np.broadcast_to(HALVES[:, 3:9], (channels, 6, 6)))


def test_cmyk(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(path)  # no ink: white
    assert read_image(path, 4, 1).min() == read_image(path, 4, 3).min() == 255


def test_colour_keeps_its_channels_and_grey_is_their_luma(tmp_path):
    path = save(tmp_path / "image.png", np.full((4, 4, 3), (200, 100, 50), np.uint8))
    np.testing.assert_array_equal(read_image(path, 4, 3)[:, 0, 0], [200, 100, 50])
    assert abs(int(read_image(path, 4, 1)[0, 0, 0]) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 25700, 65535], [128, 129, 32768, 65406], [1, 2, 3, 4], [9, 9, 9, 9]], np.uint16)
    image = read_image(save(tmp_path / "image.png", values), 4, 1)
    np.testing.assert_array_equal(image[0], np.round(values / 257).astype(np.uint8))
    assert read_image(tmp_path / "image.png", 4, 3)[2, 0, 3] == 255


@pytest.mark.parametrize("array", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_of_unknown_range_are_refused(tmp_path, array):
    path = tmp_path / "image.tif"
    Image.fromarray(array).save(path)
    with pytest.raises(ValueError, match=r"image\.tif cannot be read"):
        read_image(path, 4, 1)


def test_transparent_parts_become_black(tmp_path):
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[..., 3] = [0, 255, 255, 0]
    np.testing.assert_array_equal(
        read_image(save(tmp_path / "rgba.png", pixels), 4, 3)[0], np.broadcast_to([0, 200, 200, 0], (4, 4))
    )
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 250, 250, 250])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert read_image(tmp_path / "palette.png", 4, 3).max() == 0


def test_photographs_are_turned_upright(tmp_path):
    upright = np.arange(16, dtype=np.uint8).reshape(4, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # as the camera was held: turn by 90 degrees clockwise to show
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png", 4, 1)[0], upright)


def test_the_centre_is_cropped_and_the_resize_is_antialiased(tmp_path):
    wide = np.zeros((64, 128), np.uint8)
    wide[:, 32:96] = (np.indices((64, 64)).sum(0) % 2) * 255  # a fine checkerboard between black margins
    image = read_image(save(tmp_path / "image.png", wide), 8, 1)
    error = np.abs(image[0].astype(int) - 127)
    assert error[:, 2:-2].max() <= 1  # aliasing would leave black or white
    assert error.max() <= 10  # a wrong crop would leave black columns; at the cut the filter looks a little outside
    assert read_image(save(tmp_path / "tiny.png", np.full((2, 3), 77, np.uint8)), 8, 3).shape == (3, 8, 8)
    assert read_image(tmp_path / "tiny.png", 8, 3).max() == 77
