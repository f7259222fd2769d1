"""Splits of IDX files: what is in them, that they never overlap, that damage is noticed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flashdiff.datasets import mnist
from flashdiff.datasets.fetch import installed_copy
from flashdiff.datasets.mnist import fetch_fashion_mnist, idx_parts, read_idx
from flashdiff.datasets.splits import SPLITS, open_split, split_ids, to_bytes, to_float, write_splits
from flashdiff.datasets.study_data import prepare


def write_idx(path, array):
    """IDX as its authors describe it: two zero bytes, type 8 (unsigned byte), axes, big-endian sizes, data."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx(tmp_path):
    """(folder, arrays): 20 training and 6 test images of 5 x 5, every one different."""
    rng = np.random.default_rng(0)
    folder, arrays = tmp_path / "idx", {}
    folder.mkdir()
    for name, n in (("train", 20), ("t10k", 6)):
        arrays[name] = rng.integers(1, 256, (n, 5, 5)), np.arange(n) % 10
        write_idx(folder / f"{name}-images-idx3-ubyte", arrays[name][0])
        write_idx(folder / f"{name}-labels-idx1-ubyte", arrays[name][1])
    return folder, arrays


@pytest.fixture
def splits(tmp_path, idx):
    write_splits(tmp_path / "splits", idx_parts(idx[0], 8, 1, 4), "tiny")
    return tmp_path / "splits"


# ------------------------------------------------------------------------------------------------------- values, files


def test_to_float_maps_bytes_to_minus_one_to_one():
    x = to_float(np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8))
    assert (x.dtype, x.shape) == (torch.float32, (4, 1, 8, 8))
    assert (x.min(), x.max()) == (-1, 1)
    torch.testing.assert_close(x.flatten().double(), torch.linspace(-1, 1, 256, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32, torch.float64, torch.bfloat16])
def test_to_bytes_is_the_inverse_and_clips(kind):
    """Every level comes back; what lies between two goes to the nearer one, what lies beyond to the end."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)

    def of(values):
        values = np.asarray(values, np.float64)
        return values.astype(kind) if isinstance(kind, type) else torch.from_numpy(values).to(kind)

    if kind is not torch.bfloat16:  # it has no 256 levels
        np.testing.assert_array_equal(to_bytes(of(levels / 127.5 - 1)), levels)
        np.testing.assert_array_equal(to_bytes(of((levels + 0.49) / 127.5 - 1)), levels)
        np.testing.assert_array_equal(to_bytes(of((levels - 0.49) / 127.5 - 1)), levels)
    ends = to_bytes(of([-1e9, -1.001, -1, 1, 1.001, 1e9]))
    assert (ends.dtype, ends.tolist()) == (np.uint8, [0, 0, 0, 255, 255, 255])
    half = to_bytes(of([0.0]))  # 127.5, and 128 is even
    assert half.tolist() == [128]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 1, 4, 5), (2, 3, 4, 5)])
def test_to_bytes_keeps_the_shape(shape):
    for images in (np.zeros(shape), torch.zeros(shape, requires_grad=True)):
        assert to_bytes(images).shape == shape
    np.testing.assert_array_equal(to_bytes(to_float(np.full((1, 1, 2, 2), 9, np.uint8))), np.full((1, 1, 2, 2), 9))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_has_no_colour_is_refused(value):
    for images in (np.array([0.5, value, 0.1]), torch.tensor([0.5, value, 0.1])):
        with pytest.raises(ValueError, match=r"^image: 1 of 3 values are NaN or infinite"):
            to_bytes(images)


def test_read_idx(idx):
    folder, arrays = idx
    np.testing.assert_array_equal(read_idx(folder / "t10k-images-idx3-ubyte"), arrays["t10k"][0])


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"\0\0\x08\x01\0\0\0\x02a", b"\0\0\x0d\x01\0\0\0\x01a", b"<html>"]
)
def test_broken_idx_is_named(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match="broken: not a complete IDX file"):
        read_idx(tmp_path / "broken")


# --------------------------------------------------------------------------------------------------------------- splits


def test_splits_of_idx_are_the_official_ones_padded_with_black(idx, splits):
    arrays = idx[1]
    expected = {
        "train": (arrays["train"][0][:16], arrays["train"][1][:16]),
        "validation": (arrays["train"][0][16:], arrays["train"][1][16:]),
        "test": arrays["t10k"],
    }
    for name, (images, labels) in expected.items():
        split = open_split(splits, name)
        padded = np.zeros((len(images), 1, 8, 8), np.uint8)
        padded[:, 0, 1:6, 1:6] = images
        assert (split.name, len(split), split.images.dtype) == (name, len(images), np.uint8)
        np.testing.assert_array_equal(split.images, padded)
        np.testing.assert_array_equal(split.labels, labels)
        assert split.labels.dtype == np.int64
        ids = [len(images) - 1, 0]
        np.testing.assert_array_equal(split[ids], padded[ids])
        np.testing.assert_array_equal(np.load(splits / f"{name}.npy"), padded)  # a plain .npy file, header and all


def test_batches_are_copies_and_the_files_stay_as_they_are(splits):
    split = open_split(splits, "test")
    batch = split[:2]
    batch[:] = 0
    to_float(split[np.array([1, 2])])  # writable, else torch warns
    assert split.verify().images[:2].any()


def test_hashes_are_those_of_the_content(splits):
    about = json.loads((splits / "splits.json").read_text())
    assert about["source"] == "tiny"
    assert about["shape"] == [1, 8, 8]
    assert {name: part["images"] for name, part in about["splits"].items()} == {"train": 16, "validation": 4, "test": 6}
    for name, part in about["splits"].items():
        content = np.load(splits / f"{name}.npy").tobytes() + np.load(splits / f"{name}-labels.npy").tobytes()
        assert part["sha256"] == hashlib.sha256(content).hexdigest() == open_split(splits, name).sha256


def test_splits_are_the_same_bytes_each_time(tmp_path, idx, splits):
    write_splits(tmp_path / "again", idx_parts(idx[0], 8, 1, 4), "tiny")
    for path in splits.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert len(list(splits.iterdir())) == 7


def images_of(*values, shape=(1, 4, 4), dtype=np.uint8):
    return [(np.full(shape, value, dtype), 0) for value in values]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"train": images_of(1, 2), "test": images_of(3, 2)}, "test image 1 has the pixels of an image of split train"),
        ({"train": images_of(1), "test": images_of()}, "no image is left for split test"),
        ({"train": images_of(1), "test": images_of(2, shape=(1, 4, 5))}, "test image 0 is uint8"),
        ({"train": images_of(1, dtype=np.float32)}, "train image 0 is float32"),
    ],
)
def test_write_splits_refuses(tmp_path, splits, parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_splits(splits, parts, "bad")
    with pytest.raises(ValueError, match="no complete splits"):  # what was there before does not pass for the new
        open_split(splits, "train")


def test_equal_images_inside_one_split_are_no_leak(tmp_path):
    write_splits(tmp_path, {"train": images_of(1, 1), "validation": images_of(2), "test": images_of(3)}, "twins")
    assert len(open_split(tmp_path, "train")) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE = {
    "no file": (lambda folder: (folder / "test.npy").unlink(), r"test\.npy: missing"),
    "no labels": (lambda folder: (folder / "test-labels.npy").unlink(), r"test-labels\.npy: missing"),
    "no description": (lambda folder: (folder / "splits.json").unlink(), r"splits\.json is missing"),
    "description cut off": (lambda folder: cut(folder / "splits.json"), "does not describe split test"),
    "description of others": (
        lambda folder: (folder / "splits.json").write_text('{"splits": {}}'),
        "does not describe",
    ),
    "images cut off": (lambda folder: cut(folder / "test.npy"), r"test\.npy: cut off"),
    "labels cut off": (lambda folder: cut(folder / "test-labels.npy"), r"test-labels\.npy: cut off"),
    "empty": (lambda folder: (folder / "test.npy").write_bytes(b""), r"test\.npy: cut off"),
    "floats": (lambda folder: np.save(folder / "test.npy", np.zeros((6, 1, 8, 8))), "holds float64"),
    "too few": (lambda folder: np.save(folder / "test.npy", np.zeros((5, 1, 8, 8), np.uint8)), r"\(5, 1, 8, 8\), not"),
    "an archive": (
        lambda folder: (np.savez(folder / "a.npz", a=np.zeros(1)), (folder / "a.npz").rename(folder / "test.npy")),
        r"test\.npy: cut off or",
    ),
    "pickle": (
        lambda folder: np.save(folder / "test.npy", np.array([{}]), allow_pickle=True),
        r"test\.npy: cut off or",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence_with_a_remedy(splits, damage):
    spoil, sentence = DAMAGE[damage]
    spoil(splits)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_split(splits, "test")
    assert str(caught.value).endswith("run the study's stage download again.")
    assert "\n" not in str(caught.value)


def test_verify_notices_one_changed_pixel(splits):
    images = np.load(splits / "test.npy")
    images[3, 0, 4, 4] ^= 1
    np.save(splits / "test.npy", images)
    with pytest.raises(ValueError, match="Split test: its content is not"):
        open_split(splits, "test").verify()


def test_unknown_split_is_named(splits):
    with pytest.raises(ValueError, match="'valid': there is none of this name; take one of train, validation, test"):
        open_split(splits, "valid")


# -------------------------------------------------------------------------------------------------------- Fashion-MNIST


def test_fashion_mnist_from_a_source_to_splits(tmp_path, monkeypatch, idx):
    folder, _ = idx
    monkeypatch.setattr(mnist, "SOURCES", {"copy": installed_copy(folder)})
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(digests) == set(mnist.FASHION_MNIST)
    with pytest.raises(OSError, match="wrong SHA-256"):  # these are not Fashion-MNIST
        fetch_fashion_mnist(tmp_path / "raw")
    monkeypatch.setattr(mnist, "FASHION_MNIST", digests)
    data = {"name": "fashion-mnist", "images": None, "image_size": 8, "channels": 1, "validation": 4}
    frame = prepare(data, 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert list(frame["images"]) == [16, 4, 6]
    assert set(frame["shape"]) == {"1 x 8 x 8"}
    assert prepare(data, 1, tmp_path / "raw", tmp_path / "splits", progress=False).equals(frame)  # no seed in it


def test_unknown_data_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name: 'mnist' is not known; take fashion-mnist"):
        prepare({"name": "mnist", "images": None}, 0, tmp_path / "raw", tmp_path / "splits")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((8, 3, 4), r"data\.channels: 3"),
        ((4, 1, 4), r"data\.image_size: 4 is smaller"),
        ((8, 1, 20), r"data\.validation: 20; give a count from 1 to 19"),
        ((8, 1, 0), r"data\.validation: 0"),
    ],
)
def test_idx_settings_are_named(idx, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        idx_parts(idx[0], *arguments)


def test_labels_for_other_images_are_noticed(idx):
    write_idx(idx[0] / "t10k-labels-idx1-ubyte", np.zeros(5))
    with pytest.raises(ValueError, match="6 t10k images but 5 labels"):
        idx_parts(idx[0], 8, 1, 4)


def test_the_published_splits(tmp_path):
    """The splits of the default study, on every machine; needs the raw files, which `make study` leaves."""
    raw = Path(__file__).parents[2] / "data" / "raw" / "fashion-mnist"
    if not raw.is_dir():
        pytest.skip("data/raw/fashion-mnist is not there; run `make study` first")
    write_splits(tmp_path, idx_parts(raw, 32, 1, 5000), "fashion-mnist")
    assert {name: open_split(tmp_path, name).sha256[:16] for name in SPLITS} == {
        "train": "ac646122a550ad93",
        "validation": "4e91f682927cb26b",
        "test": "f24cf301b160abd4",
    }


def test_no_two_splits_share_an_id():
    ids = [split_ids(name, 100_000) for name in SPLITS]
    assert len(np.unique(np.concatenate(ids))) == 300_000 and all(part[0] >= 0 for part in ids)
    np.testing.assert_array_equal(split_ids("test", 3), split_ids("test", 100)[:3])
