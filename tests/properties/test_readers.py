"""Damaged files through every reader: read, or refused in one sentence that names the file; and what is written is read again."""

import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from property_cases import GOOD, count, examples, mutated, outcome

from flashdiff.commands.expected_psnr import ExpectedPSNR
from flashdiff.datasets.images import read_image
from flashdiff.datasets.mnist import idx_parts, read_idx
from flashdiff.datasets.own_images import image_folder
from flashdiff.datasets.splits import open_split, to_bytes, to_float, write_splits
from flashdiff.diffusers_folder import looks_local
from flashdiff.measures.features import Features
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study.records import read_arrays, read_json, read_rows, write_arrays, write_json, write_rows
from flashdiff.weights.checkpoints import read_checkpoint
from flashdiff.weights.compvis_config import read_config
from tests.conftest import diffusion, make_prior

SAVED = Path(__file__).parents[1] / "data/compvis-vq"
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def picture(form, **options):
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).convert("P" if form == "GIF" else "RGB").save(buffer, form, **options)
    return buffer.getvalue()


PICTURES = {
    form: picture(form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "JPEG2000")
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Name of a file -> its reader, all in one folder."""
    folder = tmp_path_factory.mktemp("good")
    prior = make_prior(40).float()
    prior.save_pretrained(folder / "prior", diffusion(40))
    SeverityEncoder.from_prior(prior).save_pretrained(folder / "encoder")
    Features(1, 2).save_pretrained(folder / "features")
    write_rows(pd.DataFrame({"image": range(30), "x": np.linspace(0, 1, 30)}), folder / "rows.parquet")
    write_arrays(folder / "arrays.npz", {"images": IMAGE, "ids": np.arange(3)})
    write_json(folder / "record.json", {"chosen": {"a": [1, 2.5, None]}})
    image = np.zeros((1, 4, 4), np.uint8)
    write_splits(
        folder / "splits", {n: [(image + k, k)] for k, n in enumerate(("train", "validation", "test"))}, "none"
    )
    torch.save({"state_dict": {"a": torch.ones(3)}, "beside": [1, "x"]}, folder / "model.ckpt")
    shutil.copy(SAVED / "config.yaml", folder / "config.yaml")
    (folder / "idx").mkdir()
    for name in ("train", "t10k"):
        (folder / f"idx/{name}-images-idx3-ubyte").write_bytes(idx(np.ones((3, 28, 28), np.uint8)))
        (folder / f"idx/{name}-labels-idx1-ubyte").write_bytes(idx(np.ones(3, np.uint8)))
    (folder / "table.csv").write_text("sigma_hat,psnr,psnr_low,psnr_high,images\n0.1,30,29,31,5\n0.3,20,19,21,5\n")
    return folder


READERS = {
    "prior/model_index.json": lambda f: Prior.from_pretrained(f / "prior"),
    "prior/unet/config.json": lambda f: Prior.from_pretrained(f / "prior"),
    "prior/vae/config.json": lambda f: Prior.from_pretrained(f / "prior"),
    "prior/scheduler/scheduler_config.json": lambda f: Prior.from_pretrained(f / "prior"),
    "prior/unet/diffusion_pytorch_model.safetensors": lambda f: Prior.from_pretrained(f / "prior"),
    "encoder/config.json": lambda f: SeverityEncoder.from_pretrained(f / "encoder"),
    "encoder/diffusion_pytorch_model.safetensors": lambda f: SeverityEncoder.from_pretrained(f / "encoder"),
    "features/config.json": lambda f: Features.from_pretrained(f / "features"),
    "features/diffusion_pytorch_model.safetensors": lambda f: Features.from_pretrained(f / "features"),
    "rows.parquet": lambda f: read_rows(f / "rows.parquet", 30),
    "arrays.npz": lambda f: read_arrays(f / "arrays.npz", ("images",)),
    "record.json": lambda f: read_json(f / "record.json"),
    "model.ckpt": lambda f: read_checkpoint(f / "model.ckpt"),
    "config.yaml": lambda f: read_config(f / "config.yaml"),
    "idx/train-images-idx3-ubyte": lambda f: read_idx(f / "idx/train-images-idx3-ubyte"),
    "idx/t10k-labels-idx1-ubyte": lambda f: idx_parts(f / "idx", 32, 1, 1),
}


# of a damaged archive numpy leaves the file to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@examples(60, 0.1)
def test_a_damaged_file_is_read_or_named(name, good, data):
    path = good / name
    content = path.read_bytes()
    path.write_bytes(data.draw(mutated(content)))
    try:
        outcome(f"damaged files: {_kind(name)}", lambda: READERS[name](good), ValueError, OSError)
    finally:
        path.write_bytes(content)


def _kind(name):
    if name.startswith(("prior", "encoder", "features")):
        return "networks' folders"
    return "IDX" if name.startswith("idx") else "checkpoints, records, configurations"


@given(
    form=st.sampled_from(list(PICTURES)),
    data=st.data(),
    size=st.sampled_from([1, 16, 31]),
    channels=st.sampled_from([1, 3]),
)
@examples(1500, 0.05)
def test_a_damaged_picture_is_read_or_refused(form, data, size, channels):
    content = data.draw(mutated(PICTURES[form]))
    image = outcome("damaged files: pictures", lambda: read_image(content, size, channels, "photo"))
    assert image is None or (image.dtype == np.uint8 and image.shape == (channels, size, size))


@given(
    contents=st.lists(st.one_of(st.binary(max_size=40), mutated(PICTURES["PNG"])), min_size=1, max_size=5),
    data=st.data(),
)
@examples(60, 0.1)
def test_a_folder_with_damaged_pictures_makes_no_splits(contents, data, tmp_path_factory):
    """Its sentence says how many and which; a folder of too few is refused before any is read."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, content in enumerate(contents):
        (folder / f"{k}.png").write_bytes(content)
    asked = {
        "images": str(folder),
        "image_size": 16,
        "channels": 1,
        "test": data.draw(st.integers(-1, 3)),
        "validation": 1,
    }

    def split():
        return {name: list(part) for name, part in image_folder(asked, 0, folder / "raw", False).items()}

    outcome("folders of damaged pictures", split)


@given(array=st.integers(0, 2**32 - 1), n=st.integers(1, 4))
@examples(100, 0.1)
def test_what_is_written_is_read(array, n, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    rng = np.random.default_rng(array)
    parts = {
        name: [(rng.integers(0, 256, (1, 5, 6), dtype=np.uint8), k) for k in range(n)]
        for name in ("train", "validation", "test")
    }
    write_splits(folder, parts, "noise")
    for name, part in parts.items():
        split = open_split(folder, name).verify()
        np.testing.assert_array_equal(split.images, [image for image, _ in part])
        np.testing.assert_array_equal(to_bytes(to_float(split.images)), split.images)
    rows = pd.DataFrame({"image": range(n), "x": rng.normal(size=n)})
    write_rows(rows, folder / "rows.parquet")
    pd.testing.assert_frame_equal(read_rows(folder / "rows.parquet", n), rows)
    arrays = {"a": rng.normal(size=(n, 2)), "b": rng.integers(0, 9, n)}
    write_arrays(folder / "arrays.npz", arrays)
    read = read_arrays(folder / "arrays.npz", arrays)
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    np.testing.assert_array_equal(read_idx_of(folder, arrays["b"].astype(np.uint8)), arrays["b"])
    count("round trips: splits, rows, arrays, IDX, bytes", GOOD)


def read_idx_of(folder, array):
    (folder / "file").write_bytes(idx(array))
    return read_idx(folder / "file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(content=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
@examples(100, 0.1)
def test_records_are_read_as_they_were_written(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "record.json"
    write_json(path, content)
    assert read_json(path) == json.loads(json.dumps(content))
    count("round trips: JSON records", GOOD)


@given(sigma=st.floats(-1, 2))
@examples(50, 0.2)
def test_a_measured_table_says_what_lies_between_its_rows(sigma):
    rows = [
        dict(zip(("sigma_hat", "psnr", "psnr_low", "psnr_high"), row, strict=True))
        for row in ((0.1, 30, 29, 31), (0.5, 20, 18, 22))
    ]
    mean, low, high = ExpectedPSNR(rows)(sigma)
    assert 18 <= low <= mean <= high <= 31


@pytest.mark.parametrize(
    "path", ["./prior", "../prior", "~/prior", "/data/prior", "data/prior/", "a/b/c", "/", ".", "data/a b/c"]
)
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    for cls in (Prior, SeverityEncoder, Features):
        said = outcome("paths that are not there", lambda cls=cls: cls.from_pretrained(path + "x"), FileNotFoundError)
        assert said is None


@pytest.mark.parametrize(
    ("name", "local"), [("CompVis/ldm-celebahq-256", False), ("gpt2", False), ("here/model", True), ("here", True)]
)
def test_the_name_of_a_model_on_the_hub_is_told_from_a_path(name, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert looks_local(name) is local
