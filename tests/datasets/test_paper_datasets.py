"""CelebA-HQ, FFHQ, LSUN and Hugging Face data sets as they lie on disk, and the lists that choose from them."""

import csv
import hashlib
import io
import shutil
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from flashdiff.datasets import images
from flashdiff.datasets.images import ImageFile, read_image, read_images
from flashdiff.datasets.numbered import number
from flashdiff.datasets.splits import SPLITS, open_split
from flashdiff.datasets.study_data import prepare

SIDE = 8
KEYS = [hashlib.sha1(bytes([n])).hexdigest() for n in range(20)]  # as LSUN's


def pixels(n):
    """The picture number n: noise, so that any two differ everywhere."""
    return np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def encoded(n, suffix):
    file = io.BytesIO()
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(pixels(n)).save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def fill(folder, names):
    """Write picture n as names[n]."""
    for n, name in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(n, path.suffix))
    return folder


def contents(folder):
    """Which pictures are in each split, in their order; JPEG changes pixels a little, so the nearest one counts."""
    known = np.stack([pixels(n) for n in range(20)]).transpose(0, 3, 1, 2).astype(int)

    def nearest(image):
        distances = np.abs(known - image).mean((1, 2, 3))
        assert distances.min() < 10 < np.partition(distances, 1)[1]
        return int(distances.argmin())

    return {name: [nearest(image) for image in open_split(folder, name).images] for name in SPLITS}


def write_list(path, lines):
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def split(tmp_path):
    """A function that prepares a study's data section and tells which pictures are in each split."""

    def run(seed=0, **data):
        data = {"name": "faces", "image_size": SIDE, "channels": 3, "validation": 2, "test": 3, **data}
        prepare(data, seed, tmp_path / "raw", tmp_path / "splits", progress=False)
        return contents(tmp_path / "splits")

    return run


@pytest.fixture
def celebahq(tmp_path):
    return fill(tmp_path / "celebahq", {n: f"{n:05d}.{'png' if n == 4 else 'jpg'}" for n in range(10)})


@pytest.fixture
def ffhq(tmp_path):
    return fill(tmp_path / "ffhq", {n: f"00000/img{n:08d}.png" for n in range(10, 20)})


# ------------------------------------------------------------------------------------------------- one file, many files


def test_bytes_and_open_files_are_read_like_paths(tmp_path):
    path = fill(tmp_path, {3: "3.png"}) / "3.png"
    with open(path, "rb") as file:
        for source in (path, str(path), path.read_bytes(), file):
            np.testing.assert_array_equal(read_image(source, SIDE, 3), pixels(3).transpose(2, 0, 1))


def test_what_cannot_be_read_is_named_as_asked():
    with pytest.raises(ValueError, match=r"^data\.images: an image cannot be read "):
        read_image(b"no image", SIDE, 3)
    with pytest.raises(ValueError, match=r"^data\.test_set\.images: here/1 cannot be read .*; repair or remove it\.$"):
        list(read_images([ImageFile("data.test_set.images", "here/1", "1", b"no image")], SIDE, 3))


def test_many_are_read_in_order_and_few_at_a_time(monkeypatch):
    """The first picture is the last to be decoded; reading on waits for it, and does not fill the memory."""
    drawn, others = [], threading.Semaphore(0)

    def slow_first(content, *_):
        if content == b"0":
            assert others.acquire(timeout=60)  # until another picture is done
        others.release()
        return int(content)

    def files():
        for n in range(200):
            drawn.append(n)
            yield ImageFile("data.images", str(n), str(n), b"%d" % n)

    monkeypatch.setattr(images, "read_image", slow_first)
    monkeypatch.setattr(images.os, "cpu_count", lambda: 4)
    most = 0
    for n, (file, image) in enumerate(read_images(files(), SIDE, 3)):
        assert (file.name, image) == (str(n), n)
        most = max(most, len(drawn) - n)
    assert n == 199
    assert 4 <= most <= 10


# ------------------------------------------------------------------------------------------------------ numbered images


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("imgHQ20126.npy", "20126"),  # celebahqtrain.txt of taming-transformers and latent-diffusion
        ("20126", "20126"),  # celebahq_train_ids.txt of flash-diffusion
        ("52535.png", "52535"),  # ffhqtrain.txt of taming-transformers
        ("02469.png", "2469"),
        ("/data/ffhq_dataset/images1024x1024/34278.png", "34278"),
        ("00012/img00012345.png", "12345"),
        ("00000", "0"),
        ("img.png", None),
        ("00017_hair.png", None),
        ("12/faces.png", None),
    ],
)
def test_the_number_of_a_line(line, key):
    assert number(line) == key


def test_trained_on_celebahq_tested_on_ffhq(split, tmp_path, celebahq, ffhq):
    """As the paper: lists of the published latent diffusion models on both sides, each in its own order."""
    train = write_list(tmp_path / "celebahqtrain.txt", [f"imgHQ{n:05d}.npy" for n in (7, 2, 9, 4, 0, 5, 3)])
    test = write_list(tmp_path / "ffhqvalidation.txt", [f"{n:05d}.png" for n in (18, 11, 15, 12)])
    found = split(
        images=str(celebahq),
        layout="celebahq",
        list=str(train),
        test_set={"images": str(ffhq), "layout": "ffhq", "list": str(test)},
    )
    assert found == {"train": [7, 2, 9, 4, 0], "validation": [5, 3], "test": [18, 11, 15]}
    fewer = split(
        images=str(celebahq),
        layout="celebahq",
        list=str(train),
        train=2,
        test_set={"images": str(ffhq), "layout": "ffhq", "list": str(test)},
    )
    assert fewer == {"train": [7, 2], "validation": [5, 3], "test": [18, 11, 15]}
    with open(tmp_path / "raw" / "files.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["image"], row["copy_of"]) for row in rows[:4]] == [
        ("test", "0", ""),
        ("test", "1", ""),
        ("test", "2", ""),
        ("validation", "0", ""),
    ]
    assert rows[0]["file"] == str(ffhq / "00000/img00000018.png")
    assert rows[5]["file"] == str(celebahq / "00007.jpg")


def test_the_paths_of_lists_are_relative_to_the_study(split, tmp_path, monkeypatch, celebahq, ffhq):
    (tmp_path / "study" / "lists").mkdir(parents=True)
    write_list(tmp_path / "study" / "lists" / "train.txt", [f"{n}" for n in range(6)])
    monkeypatch.chdir(tmp_path / "study")
    data = {"images": "../celebahq", "layout": "celebahq", "list": "lists/train.txt"}
    found = split(**data, test_set={"images": "../ffhq", "layout": "ffhq"})
    assert found == {"train": [0, 1, 2, 3], "validation": [4, 5], "test": [10, 11, 12]}


def test_without_lists_numbers_give_the_order(split, tmp_path, ffhq):
    names = {0: "100.jpg", 1: "00000.jpg", 2: "2.jpg", 3: "10.jpg", 4: "deep/imgHQ00003.png", 5: "9.jpg"}
    found = split(
        images=fill(tmp_path / "faces", names), layout="celebahq", test_set={"images": ffhq, "layout": "ffhq"}
    )
    assert found == {"train": [1, 2, 4, 5], "validation": [3, 0], "test": [10, 11, 12]}


@pytest.mark.parametrize("name", ["00000/img{:08d}.png", "00000/{:05d}.png", "{:05d}.png"])
@pytest.mark.parametrize("lists", [True, False])
def test_ffhq_is_one_data_set_in_every_layout(split, tmp_path, name, lists):
    """The same seed divides it alike, however the download laid it out; with a list and without."""
    images = fill(tmp_path / "ffhq", {n: name.format(n) for n in range(10)})
    chosen = [9, 8, 7, 6, 5, 4, 3] if lists else range(10)
    listed = {"list": write_list(tmp_path / "list.txt", [f"{n:05d}.png" for n in chosen])} if lists else {}
    found = split(seed=5, images=images, layout="ffhq", **listed)
    order = sorted(chosen, key=lambda n: hashlib.sha256(f"5/{n}".encode()).digest())
    assert found == {"test": order[:3], "validation": order[3:5], "train": order[5:]}


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ("readme.png", r"holds readme\.png, whose name is no number"),
        ("4.jpg", r"holds image 4 twice, as 00004\.png and 4\.jpg"),
        ("thumbnails/00002.png", r"holds image 2 twice, as 00002\.jpg and thumbnails/00002\.png"),
    ],
)
def test_files_that_are_not_the_layouts_are_named(split, celebahq, extra, sentence):
    fill(celebahq, {19: extra})
    with pytest.raises(ValueError, match=rf"^data\.images: .*celebahq {sentence}"):
        split(images=celebahq, layout="celebahq")


# ---------------------------------------------------------------------------------------------------------------- lists

LISTS = {
    "blank": ([" ", ""], r"is empty; name one image per line, or remove the field\.$"),
    "no number": (["00001.jpg", "a.jpg", "b.jpg"], r": 2 lines of .*list\.txt have no number .*\(a\.jpg, b\.jpg\)"),
    "twice": (
        ["00001.jpg", "00002.jpg", "imgHQ00001.npy"],
        r": 1 lines of .*above them \(imgHQ00001\.npy\); name each",
    ),
    "missing": (
        ["00001.jpg", *(f"{n}.jpg" for n in range(50, 55))],
        r": 5 of the 6 images that .*list\.txt names are not in .*celebahq \(50\.jpg, 51\.jpg, 52\.jpg, \.\.\.\); add",
    ),
}


@pytest.mark.parametrize("field", ["data", "data.test_set"])
@pytest.mark.parametrize("case", LISTS)
def test_bad_lists_are_named_before_an_image_is_read(split, tmp_path, celebahq, ffhq, case, field):
    for path in (*celebahq.iterdir(), *(ffhq / "00000").iterdir()):
        path.write_bytes(b"whoever reads this fails otherwise")
    lines, sentence = LISTS[case]
    bad = {"images": celebahq, "layout": "celebahq", "list": write_list(tmp_path / "list.txt", lines)}
    good = {"images": ffhq, "layout": "ffhq"}
    data = {**bad, "test_set": good} if field == "data" else {**good, "test_set": bad}
    with pytest.raises(
        ValueError, match=f"^{field}.list{sentence if sentence[0] == ':' else f': .* {sentence}'}"
    ) as caught:
        split(**data)
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named(split, celebahq):
    with pytest.raises(ValueError, match=r"^data\.list: there is no file lists/none\.txt; give"):
        split(images=celebahq, layout="celebahq", list="lists/none.txt")


def test_lists_may_come_from_windows(split, tmp_path, celebahq, ffhq):
    lines = "\ufeff" + "\r\n".join(f"{n:05d}.jpg" for n in (3, 1, 2)) + "\r\n\r\n"
    (tmp_path / "list.txt").write_bytes(lines.encode())
    found = split(images=celebahq, list=tmp_path / "list.txt", test_set={"images": ffhq, "layout": "ffhq"})
    assert found == {"train": [3], "validation": [1, 2], "test": [10, 11, 12]}


def test_lists_choose_from_any_folder_by_relative_names(split, tmp_path):
    images = fill(tmp_path / "own", {n: f"{'deep/' if n % 2 else ''}picture {n}.png" for n in range(10)})
    names = [f"{'./deep/' if n % 2 else ''}picture {n}.png" for n in range(10)]
    train, test = write_list(tmp_path / "train.txt", names[5:]), write_list(tmp_path / "test.txt", names[4::-1])
    found = split(images=images, list=train, test_set={"images": images, "list": test})
    assert found == {"train": [5, 6, 7], "validation": [8, 9], "test": [4, 3, 2]}
    divided = split(images=images, layout="folder", list=train, test=1, validation=1)  # without a test set: by a seed
    assert sorted(n for part in divided.values() for n in part) == [5, 6, 7, 8, 9]


# ------------------------------------------------------------------------------------------------- two sides, no overlap


def test_an_image_on_both_sides_is_named_before_an_image_is_read(split, tmp_path, ffhq):
    for path in (ffhq / "00000").iterdir():
        path.write_bytes(b"whoever reads this fails otherwise")
    (tmp_path / "link").symlink_to(ffhq)
    train = write_list(tmp_path / "train.txt", [f"{n}.png" for n in (10, 11, 12, 13)])
    test = write_list(tmp_path / "test.txt", [f"{n}.png" for n in (15, 12, 10, 16)])
    data = {"images": ffhq, "layout": "ffhq", "list": train}
    sentence = (
        r"^data\.test_set: 2 of its 3 images are also among .*/img00000010\.png, .*/img00000012\.png\); give each"
    )
    for folder, line in ((ffhq, test), (tmp_path / "link", test)):
        with pytest.raises(ValueError, match=sentence):
            split(**data, test_set={"images": folder, "layout": "ffhq", "list": line})


def test_without_lists_one_folder_cannot_serve_both_sides(split, ffhq):
    data = {"images": ffhq, "layout": "ffhq"}
    with pytest.raises(
        ValueError, match=r"^data\.test_set: 3 of its 3 images are also among .*img00000010\.png, .*give each"
    ):
        split(**data, test_set=data)


def test_what_only_the_test_set_lists_is_not_trained_on(split, tmp_path, ffhq):
    """Also what it names beyond the images that are used: another ``test`` must not change the training set."""
    test = write_list(tmp_path / "test.txt", [f"{n:05d}" for n in (19, 12, 10, 16)])
    data = {"images": ffhq, "layout": "ffhq"}
    for count in (3, 4):
        found = split(**data, test=count, test_set={**data, "list": test})
        assert found == {"train": [11, 13, 14, 15], "validation": [17, 18], "test": [19, 12, 10, 16][:count]}


def test_only_images_that_are_used_can_overlap(split, tmp_path, ffhq):
    train = write_list(tmp_path / "train.txt", [f"{n}.png" for n in (10, 11, 12, 13)])
    test = write_list(tmp_path / "test.txt", [f"{n}.png" for n in (15, 17, 16, 10)])
    data = {"images": ffhq, "layout": "ffhq"}
    found = split(**data, list=train, test_set={**data, "list": test})
    assert found == {"train": [10, 11], "validation": [12, 13], "test": [15, 17, 16]}


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"validation": 10}, r"data\.validation: 10 images, but .*celebahq has 10; lower it"),
        ({"test": 11}, r"data\.test: 11 images, but .*ffhq has 10; lower it"),
        ({"test": 0}, r"data\.test: 0; give a count of at least 1"),
        ({"validation": 0}, r"data\.validation: 0; give a count of at least 1"),
    ],
)
def test_more_images_than_there_are(split, celebahq, ffhq, counts, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        split(images=celebahq, layout="celebahq", test_set={"images": ffhq, "layout": "ffhq"}, **counts)


def test_more_images_than_a_list_names(split, tmp_path, celebahq):
    line = write_list(tmp_path / "list.txt", ["1.jpg", "2.jpg", "3.jpg"])
    with pytest.raises(
        ValueError, match=r"^data\.list: .*list\.txt names 3 images, too few for 3 test and 2 validation"
    ):
        split(images=celebahq, layout="celebahq", list=line)


def test_a_full_disk_is_noticed_before_an_image_is_read(split, celebahq, monkeypatch):
    for path in celebahq.iterdir():
        path.write_bytes(b"whoever reads this fails otherwise")
    needed = 10 * 3 * SIDE**2
    usage = shutil.disk_usage(celebahq)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(ValueError, match=r"^data\.images: the splits of 10 images take 0\.0 GB, and 0\.0 GB are free"):
        split(images=celebahq, layout="celebahq")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    with pytest.raises(ValueError, match=r"cannot be read"):
        split(images=celebahq, layout="celebahq")


def test_copies_of_earlier_images_are_left_out_of_training(split, tmp_path, ffhq, capfd):
    images = fill(tmp_path / "faces", {n: f"{n}.png" for n in range(6)})
    shutil.copy(ffhq / "00000/img00000011.png", images / "1.png")  # a test image
    shutil.copy(images / "5.png", images / "2.png")  # a validation image
    shutil.copy(images / "0.png", images / "3.png")
    found = split(images=images, layout="ffhq", test_set={"images": ffhq, "layout": "ffhq"})
    assert found == {"train": [0], "validation": [4, 5], "test": [10, 11, 12]}
    assert "3 exact copies of other images left out" in capfd.readouterr().err
    with open(tmp_path / "raw" / "files.csv", encoding="utf-8") as file:
        copies = {row["file"]: row["copy_of"] for row in csv.DictReader(file) if row["copy_of"]}
    assert copies == {
        str(images / "1.png"): str(ffhq / "00000/img00000011.png"),
        str(images / "2.png"): str(images / "5.png"),
        str(images / "3.png"): str(images / "0.png"),
    }


def test_a_validation_image_with_the_pixels_of_a_test_image_is_named(split, celebahq, ffhq):
    shutil.copy(ffhq / "00000/img00000011.png", celebahq / "00009.jpg")
    sentence = r"validation image .*/00009\.jpg has exactly the pixels of test image .*/img00000011\.png; take one"
    with pytest.raises(ValueError, match=sentence):
        split(images=celebahq, layout="celebahq", test_set={"images": ffhq, "layout": "ffhq"})


def test_a_published_test_set_stays_as_it_is(split, tmp_path, celebahq, ffhq):
    shutil.copy(ffhq / "00000/img00000010.png", ffhq / "00000/img00000011.png")
    found = split(images=celebahq, layout="celebahq", test_set={"images": ffhq, "layout": "ffhq"})
    assert found["test"] == [10, 10, 12]
    with open(tmp_path / "raw" / "files.csv", encoding="utf-8") as file:
        twin = list(csv.DictReader(file))[1]
    assert twin == {
        "file": str(ffhq / "00000/img00000011.png"),
        "split": "test",
        "image": "1",
        "copy_of": str(ffhq / "00000/img00000010.png"),
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layout": "coco"},
            r"data\.layout: 'coco' is not known; take one of folder, celebahq, ffhq, lsun, hugging_face",
        ),
        ({"split": "train"}, r"data\.split: 'train' plays no part in layout ffhq"),
        ({"test_set": {"images": "nowhere"}}, r"data\.test_set\.images: nowhere is not a folder"),
        (
            {"test_set": {"images": "x", "column": "image"}},
            r"data\.test_set\.column: 'image' plays no part in layout folder",
        ),
    ],
)
def test_bad_settings_are_named(split, ffhq, changes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        split(**{"images": ffhq, "layout": "ffhq", **changes})


@pytest.mark.parametrize("field", ["layout", "list", "split", "column", "test_set"])
def test_nothing_is_passed_over_without_images(split, field):
    with pytest.raises(ValueError, match=rf"^data\.{field}: plays no part without data\.images"):
        split(name="fashion-mnist", images=None, **{field: "x"})


def test_a_broken_test_image_is_named(split, celebahq, ffhq):
    (ffhq / "00000/img00000012.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^data\.test_set\.images: .*ffhq/00000/img00000012\.png cannot be read"):
        split(images=celebahq, layout="celebahq", test_set={"images": ffhq, "layout": "ffhq"})


# ----------------------------------------------------------------------------------------------------------------- LSUN


@pytest.fixture
def database(tmp_path):
    """bedroom_train_lmdb with pictures 0 to 9, written as LSUN's authors did: keys, and webp files as values."""
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "bedroom_train_lmdb"
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for n in range(10):
            transaction.put(KEYS[n].encode(), encoded(n, ".webp"))
    (folder / "lock.mdb").unlink()
    folder.chmod(0o555)
    return folder


def flat(folder):
    return fill(folder, {n: f"{KEYS[n]}.webp" for n in range(10)})


def nested(folder):
    return fill(folder, {n: "/".join(KEYS[n][:6]) + f"/{KEYS[n]}.webp" for n in range(10)})


BY_KEY = sorted(range(10), key=KEYS.__getitem__)


@pytest.mark.parametrize("export", [flat, nested])
def test_exported_lsun(split, tmp_path, export):
    images = export(tmp_path / "bedrooms")
    test = write_list(tmp_path / "test.txt", [f"{KEYS[n]}.webp" for n in (6, 2, 4)])
    train = write_list(tmp_path / "train.txt", [f"{KEYS[n]}.webp" for n in (1, 9, 3, 5)])
    data = {"images": images, "layout": "lsun"}
    found = split(**data, list=train, test_set={**data, "list": test})
    assert found == {"train": [1, 9], "validation": [3, 5], "test": [6, 2, 4]}


def test_the_order_of_exported_lsun_is_that_of_its_keys(split, tmp_path, ffhq):
    images = nested(tmp_path / "bedrooms")
    for path in sorted(images.rglob("*.webp"))[::2]:
        path.rename(images / path.name)
    found = split(images=images, layout="lsun", test_set={"images": ffhq, "layout": "ffhq"})
    assert found == {"train": BY_KEY[:8], "validation": BY_KEY[8:], "test": [10, 11, 12]}


def test_lsun_is_one_data_set_in_every_layout(split, tmp_path, database):
    found = split(seed=2, images=database, layout="lsun")
    assert found == split(seed=2, images=nested(tmp_path / "nested"), layout="lsun")
    assert found == split(seed=2, images=flat(tmp_path / "flat"), layout="lsun")
    order = sorted(range(10), key=lambda n: hashlib.sha256(f"2/{KEYS[n]}".encode()).digest())
    assert found == {"test": order[:3], "validation": order[3:5], "train": order[5:]}


def test_two_lists_choose_from_one_database(split, tmp_path, database):
    """bedrooms_train.txt and bedrooms_val.txt of latent-diffusion do; and nothing is written there."""
    test = write_list(tmp_path / "bedrooms_val.txt", [f"{KEYS[n]}.webp" for n in (6, 2, 4)])
    train = write_list(tmp_path / "bedrooms_train.txt", [f"{KEYS[n]}.webp" for n in (1, 9, 3, 5)])
    data = {"images": database, "layout": "lsun"}
    assert split(**data, list=train, test_set={**data, "list": test}) == {
        "train": [1, 9],
        "validation": [3, 5],
        "test": [6, 2, 4],
    }
    assert [path.name for path in database.iterdir()] == ["data.mdb"]
    with pytest.raises(ValueError, match=r"data\.test_set: 1 of its 1 images .*bedroom_train_lmdb/"):
        split(**data, list=train, test=1, test_set={**data, "list": write_list(test, [KEYS[3]])})
    with pytest.raises(
        ValueError, match=r"data\.list: 1 of the 1 images .* are not in .*bedroom_train_lmdb \(0+\.webp\)"
    ):
        split(**data, list=write_list(train, ["0" * 40 + ".webp"]))


def test_a_database_in_its_own_order(split, database, ffhq):
    found = split(images=database, layout="lsun", test_set={"images": ffhq, "layout": "ffhq"})
    assert found == {"train": BY_KEY[:8], "validation": BY_KEY[8:], "test": [10, 11, 12]}


def test_a_damaged_database_is_named(split, tmp_path, database):
    content = (database / "data.mdb").read_bytes()
    for damaged, reason in ((content[:-4096], "the file is cut off"), (b"no database" * 1000, "MDB_INVALID")):
        folder = tmp_path / "damaged"
        folder.mkdir(exist_ok=True)
        (folder / "data.mdb").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"data\.images: .*damaged cannot be read as an LMDB \(.*{reason}.*\); download"
        ):
            split(images=folder, layout="lsun")


def test_a_broken_image_in_a_database_is_named_by_its_key(split, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as transaction:
        for n in range(10):
            transaction.put(KEYS[n].encode(), b"no image" if n == 5 else encoded(n, ".webp"))
    with pytest.raises(ValueError, match=rf"data\.images: .*db/{KEYS[5]} cannot be read"):
        split(images=tmp_path / "db", layout="lsun")


def test_a_database_without_the_package_is_one_sentence(split, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^data\.images: .* is an LMDB, and the package .*run `pip install lmdb`, or"):
        split(images=tmp_path, layout="lsun")


# --------------------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The library datasets, with its cache in a folder of the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def table(library, **columns):
    """A table of the library: in every column these pictures, encoded as PNG, and beside them a label."""
    cells = {name: [{"bytes": encoded(n, ".png"), "path": None} for n in numbers] for name, numbers in columns.items()}
    labels = range(len(next(iter(cells.values()))))
    features = {name: library.Image() for name in cells} | {"label": library.Value("int64")}
    return library.Dataset.from_dict({**cells, "label": list(labels)}, features=library.Features(features))


def parquet(library, folder):
    for name, numbers in (("train", range(10)), ("validation", range(10, 15))):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table(library, image=numbers).to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")


def saved(library, folder):
    library.DatasetDict(
        {"train": table(library, image=range(10)), "validation": table(library, image=range(10, 15))}
    ).save_to_disk(folder)


def files(library, folder):
    fill(folder, {n: f"{'train' if n < 10 else 'validation'}/{n:02d}.png" for n in range(15)})


@pytest.mark.parametrize("write", [parquet, saved, files])
def test_hugging_face_folders(split, tmp_path, library, write):
    write(library, tmp_path / "faces")
    data = {"images": str(tmp_path / "faces"), "layout": "hugging_face"}
    found = split(**data, test_set={**data, "split": "validation", "column": "image"})
    assert found == {"train": list(range(8)), "validation": [8, 9], "test": [10, 11, 12]}
    train = write_list(tmp_path / "train.txt", [f"imgHQ{n:05d}.npy" for n in (7, 0, 9)])
    assert split(**data, list=train, test_set={**data, "split": "validation"}) == {
        "train": [7],
        "validation": [0, 9],
        "test": [10, 11, 12],
    }
    divided = split(seed=3, **data)
    order = sorted(range(10), key=lambda n: hashlib.sha256(f"3/{n}".encode()).digest())
    assert divided == {"test": order[:3], "validation": order[3:5], "train": order[5:]}


def test_hugging_face_rows_on_both_sides_are_named(split, tmp_path, library):
    parquet(library, tmp_path / "faces")
    data = {"images": str(tmp_path / "faces"), "layout": "hugging_face"}
    with pytest.raises(ValueError, match=r"data\.test_set: 3 of its 3 images .*faces\[train\]/0"):
        split(**data, test_set={**data, "split": "train"})


def test_one_saved_split(split, tmp_path, library):
    table(library, image=range(10), mask=range(10, 20)).save_to_disk(tmp_path / "faces")
    data = {"images": tmp_path / "faces", "layout": "hugging_face"}
    assert sorted(n for part in split(**data, column="mask").values() for n in part) == list(range(10, 20))
    with pytest.raises(
        ValueError, match=r"data\.column: .*faces has 2 columns of images \(image, mask\) among image, mask, label"
    ):
        split(**data)
    with pytest.raises(
        ValueError, match=r"data\.column: 'label' is no column of images of .*faces; take one of image, mask\."
    ):
        split(**data, column="label")
    with pytest.raises(
        ValueError, match=r"data\.images: .*faces, split train, .*saved as one split; remove the field split"
    ):
        split(**data, column="mask", split="train")


def test_an_empty_cell_is_named(split, tmp_path, library):
    cells = [{"bytes": encoded(n, ".png"), "path": None} for n in range(9)] + [None]
    features = library.Features({"image": library.Image()})
    library.Dataset.from_dict({"image": cells}, features=features).save_to_disk(tmp_path / "faces")
    with pytest.raises(ValueError, match=r"data\.images: .*faces\[train\]/9 cannot be read"):
        split(images=tmp_path / "faces", layout="hugging_face")


@pytest.mark.parametrize(("split_name", "reason"), [("test", "test"), ("train", "doesn't contain any data files")])
def test_what_the_library_cannot_load_is_one_sentence(split, tmp_path, library, split_name, reason):
    folder = tmp_path / "faces"
    folder.mkdir()
    if split_name == "test":
        parquet(library, folder)
    with pytest.raises(
        ValueError, match=rf"^data\.images: .*faces, split {split_name}, cannot be loaded .*{reason}"
    ) as caught:
        split(images=folder, layout="hugging_face", split=split_name)
    assert "\n" not in str(caught.value)


def test_hugging_face_without_the_package_is_one_sentence(split, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"^data\.layout: hugging_face needs the package datasets, .*`pip install datasets`"
    ):
        split(images="owner/name", layout="hugging_face")
