"""Every kind of picture file, in every folder layout: the right pixels, or a sentence, and what is left out is counted."""

import io
import os
import struct
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from picture_cases import CASES, FIRST, REFUSED, SIDE, chunk, exif, numbers, png, saved, tiff, upright
from PIL import Image

from flashdiff.datasets.folder import image_names, list_images
from flashdiff.datasets.images import ImageFile, open_image, read_image, read_images
from flashdiff.datasets.splits import SPLITS, open_split
from flashdiff.datasets.study_data import prepare

GREY = numbers("grey", 255)
PLAIN = png(GREY, 8, 0)


def settings(**changes):
    return {"name": "own", "images": None, "image_size": SIDE, "channels": 3, "validation": 3, "test": 4, **changes}


# ------------------------------------------------------------------------------------------------ modes, formats, depths


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_picture_has_the_pixels_that_its_format_says(case):
    for channels in (1, 3):
        read = read_image(case.content, SIDE, channels)
        assert (read.shape, read.dtype) == ((channels, SIDE, SIDE), np.uint8)
        assert case.wrong(read) <= case.within + (0.51 if channels == 1 else 0)  # the luma is rounded, too


def test_the_cases_differ():
    assert len({case.rgb.round().tobytes() for case in CASES}) == len(CASES) > 100


@pytest.mark.parametrize(("suffix", "content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_nobody_can_tell_the_pixels_of_is_refused(suffix, content, sentence):
    with pytest.raises(ValueError, match=rf"^here cannot be read \(.*{sentence}") as error:
        open_image(content, "here")
    assert "\n" not in str(error.value) and "BytesIO" not in str(error.value)


# -------------------------------------------------------------------------------------------------------- folder layouts


def flat(folder, number):
    return lambda case: folder / f"{number:05d}{case.suffix}"


def in_a_folder(place, files):
    for number, (suffix, content) in enumerate(files):
        path = (
            place / ("deep/er" if number % 3 else ".") / f"Ünï çodé {number}{suffix.upper() if number % 2 else suffix}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {"images": str(place), "layout": "folder"}


def numbered(place, files):
    for number, (suffix, content) in enumerate(files):
        path = place / f"{number // 50:05d}" / f"img{number:08d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {"images": str(place), "layout": "ffhq"}


def exported_lsun(place, files):
    for number, (suffix, content) in enumerate(files):
        key = f"{number:040x}"
        path = place.joinpath(*key[-3:]) / f"{key}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {"images": str(place), "layout": "lsun"}


def lsun(place, files):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(place), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for number, (_, content) in enumerate(files):
            transaction.put(b"%040x" % number, content)
    return {"images": str(place), "layout": "lsun"}


def parquet(place, files):
    datasets = pytest.importorskip("datasets")
    place.mkdir()
    cells = [{"bytes": content, "path": None} for _, content in files]
    table = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    table.to_parquet(place / "train-00000-of-00001.parquet")
    return {"images": str(place), "layout": "hugging_face"}


def archive(place, files):
    pytest.importorskip("datasets")
    place.mkdir()
    with zipfile.ZipFile(place / "train.zip", "w") as file:
        for number, (suffix, content) in enumerate(files):
            file.writestr(f"{number:05d}{suffix}", content)
    return {"images": str(place), "layout": "hugging_face"}


LAYOUTS = [in_a_folder, numbered, exported_lsun, lsun, parquet, archive]


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    """The library datasets, if it is there, keeps to the test's folder."""
    try:
        import datasets
    except ImportError:
        yield
        return
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_picture_is_taken_from_every_layout(tmp_path, hugging_face, layout, channels):
    """The whole matrix through a study's own stage; which picture an image is, its pixels say."""
    where = layout(tmp_path / "pictures", [(case.suffix, case.content) for case in CASES])
    frame = prepare(settings(**where, channels=channels), 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert list(frame["images"]) == [len(CASES) - 7, 3, 4]
    found = np.concatenate([open_split(tmp_path / "splits", name).images for name in SPLITS])
    left = list(CASES)
    for image in found:
        case = min(left, key=lambda case: case.wrong(image))
        assert case.wrong(image) <= case.within + (0.51 if channels == 1 else 0)
        left.remove(case)
    assert not left


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_read_is_counted_in_every_layout(tmp_path, hugging_face, layout):
    files = [(case.suffix, case.content) for case in CASES[:20]] + [
        (suffix, content) for suffix, content, _ in REFUSED.values()
    ]
    with pytest.raises(ValueError, match="cannot be read") as error:
        prepare(
            settings(**layout(tmp_path / "pictures", files)), 0, tmp_path / "raw", tmp_path / "splits", progress=False
        )
    lines = str(error.value).split("\n")
    assert len(lines) == 4 and lines[3] == f"In all {len(REFUSED)} of {len(files)} images cannot be read."
    assert all(line.startswith("data.images: ") and " cannot be read (" in line for line in lines[:3])


# ---------------------------------------------------------------------------------------------------------- orientation


WIDE = np.arange(SIDE * (SIDE + 4), dtype=np.uint8).reshape(SIDE, SIDE + 4) * 2
TURNED = {
    "jpg": lambda stored, k: saved(Image.fromarray(stored), "JPEG", quality=100, exif=exif(k)),
    "png": lambda stored, k: saved(Image.fromarray(stored), "PNG", exif=exif(k)),
    "webp": lambda stored, k: saved(Image.fromarray(stored), "WEBP", lossless=True, exif=exif(k)),
    "tiff": lambda stored, k: tiff(stored.tobytes(), {258: 8, 262: 1, 274: k}, height=len(stored), width=stored.shape[1]),
    "tiff, big endian": lambda stored, k: tiff(
        stored.tobytes(), {258: 8, 262: 1, 274: k}, ">", height=len(stored), width=stored.shape[1]
    ),
    "tiff, compressed": lambda stored, k: saved(Image.fromarray(stored), "TIFF", compression="tiff_lzw", tiffinfo={274: k}),
    "tiff of 16 bits": lambda stored, k: tiff(
        (stored.astype("<u2") * 257).tobytes(), {258: 16, 262: 1, 274: k}, height=len(stored), width=stored.shape[1]
    ),
    "png of 16 bits": lambda stored, k: saved(Image.fromarray(stored.astype(np.uint16) * 257), "PNG", exif=exif(k)),
    "webp, transparent": lambda stored, k: saved(
        Image.merge("LA", [Image.fromarray(stored), Image.new("L", stored.shape[::-1], 255)]), "WEBP", lossless=True, exif=exif(k)
    ),
    "avif": lambda stored, k: saved(Image.fromarray(stored), "AVIF", quality=100, subsampling="4:4:4", exif=exif(k)),
    "mpo": lambda stored, k: saved(Image.fromarray(stored), "MPO", quality=100, exif=exif(k)),
}  # fmt: skip


LOSSY = ("jpg", "mpo", "avif")


@pytest.mark.parametrize("orientation", FIRST)
@pytest.mark.parametrize("kind", TURNED)
def test_photographs_are_turned_upright(kind, orientation):
    opened = open_image(TURNED[kind](WIDE, orientation))
    expected = upright(WIDE, orientation)
    assert opened.size == opened.image.size == expected.shape[::-1]
    error = np.abs(np.asarray(opened.image.convert("L")).astype(int) - expected)
    assert error.max() <= (4 if kind in LOSSY else 0)
    square = WIDE[:, :SIDE]
    read = read_image(TURNED[kind](np.ascontiguousarray(square), orientation), SIDE, 1)
    assert np.abs(read[0].astype(int) - upright(square, orientation)).max() <= (4 if kind in LOSSY else 0)


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
@pytest.mark.parametrize("kind", [kind for kind in TURNED if kind != "tiff, compressed"])  # Pillow does not write one
def test_an_orientation_that_is_none_turns_nothing(kind, orientation):
    image = open_image(TURNED[kind](WIDE, orientation)).image
    assert np.abs(np.asarray(image.convert("L")).astype(int) - WIDE).max() <= (4 if kind in LOSSY else 0)


DAMAGED = {
    "no TIFF": b"Exif\0\0" + b"rubbish" * 9,
    "cut off": exif(6)[:-7],
    "nothing": b"Exif\0\0",
    "entries without end": exif(6)[:14] + b"\xff\xff" + exif(6)[16:],
    "an unknown type": exif(6)[:18] + b"\xff\xff" + exif(6)[20:],
    "many values": exif(6)[:20] + b"\xff\xff\xff\x7f" + exif(6)[24:],
    "a loop": exif(6)[:-4] + b"\x08\0\0\0",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger")  # Pillow says so, and goes on
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "mpo"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_good_pixels_around_a_damaged_exif_are_taken(kind, damage, monkeypatch):
    """As they lie, or turned where the orientation can still be read."""
    monkeypatch.setitem(globals(), "exif", lambda orientation: DAMAGED[damage])
    read = np.asarray(open_image(TURNED[kind](WIDE, 0)).image.convert("L")).astype(int)
    shown = [WIDE, upright(WIDE, 6)]
    assert min(np.abs(read - way).max() for way in shown if way.shape == read.shape) <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_tiff_with_a_damaged_exif_is_taken():
    content = tiff(GREY.astype(np.uint8).tobytes(), {258: 8, 262: 1, 34665: 60000})  # the EXIF lies behind the end
    np.testing.assert_array_equal(read_image(content, SIDE, 1)[0], GREY)


# --------------------------------------------------------------------------------------------------- several, too large


def animation(kind, n, **options):
    frames = [Image.fromarray(np.full((SIDE, SIDE, 3), 80 * k + 5, np.uint8)) for k in range(n)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


SEVERAL = {
    "gif": ("GIF", {}), "png": ("PNG", {}), "webp": ("WEBP", {"lossless": True}), "tiff": ("TIFF", {}),
    "tiff, compressed": ("TIFF", {"compression": "tiff_lzw"}), "avif": ("AVIF", {"quality": 100}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_pictures_the_first_is_taken_and_it_is_said(kind, capfd):
    name, options = SEVERAL[kind]
    files = [ImageFile("data.images", f"{n}", f"{n}", animation(name, n, **options)) for n in (1, 2, 3)]
    read = list(read_images(files, SIDE, 3))
    assert (
        all(np.abs(image.astype(int) - 5).max() <= (3 if kind == "avif" else 0) for _, image in read) and len(read) == 3
    )
    assert capfd.readouterr().err == "2 files hold several pictures (2, 3): the first of each is taken.\n"


def test_a_phones_second_picture_is_no_page():
    assert not open_image(animation("MPO", 2)).several


def test_an_animation_with_damage_behind_the_first_picture_is_read():
    content = animation("GIF", 3)
    opened = open_image(content[: len(content) - 20])
    assert np.asarray(opened.image.convert("L")).tolist() == [[5] * SIDE] * SIDE


def test_a_picture_above_the_limit_says_what_helps(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    with pytest.raises(
        ValueError, match=r"^big cannot be read \(it has more than 62 pixels, .*\); save it smaller, or remove it\.$"
    ):
        open_image(PLAIN, "big")
    monkeypatch.undo()
    # pixels count, not bytes: this file of some hundred bytes says that it has 1600 millions of them
    huge = PLAIN[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)) + PLAIN[33:]
    with pytest.raises(ValueError, match=r"^huge cannot be read \(it has more than 178 956 970 pixels, "):
        open_image(huge, "huge")


# -------------------------------------------------------------------------------------------- what a folder holds besides


def write(path, content=PLAIN):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_is_no_image_is_counted_and_said(tmp_path, capfd):
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    for name in ("A.PNG", "b.JPeG", "deep/er/c.tif", "日本.webp", ".d.png", "._A.PNG", ".DS_Store", ".thumbs/e.png", "train.zip",
                 "IMG_1.HEIC", "notes.txt", "labels", "nothing.png"):  # fmt: skip
        write(folder / name)
    (folder / "nothing.png").write_bytes(b"")  # an image by its name; reading it says that it is empty
    write(elsewhere / "f.png")
    write(elsewhere / "in/g.bmp")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked again").symlink_to(elsewhere / "in")
    (folder / "up").symlink_to(tmp_path)
    (folder / "here").symlink_to(folder)
    (folder / "h.png").symlink_to(elsewhere / "f.png")
    (folder / "gone.png").symlink_to(elsewhere / "gone.png")
    (folder / "folder.png").mkdir()
    write(folder / "folder.png/i.gif")
    os.mkfifo(folder / "pipe.png")
    expected = ["A.PNG", "b.JPeG", "deep/er/c.tif", "folder.png/i.gif", "h.png", "linked/f.png", "linked/in/g.bmp", "nothing.png",
                "日本.webp"]  # fmt: skip
    assert image_names(folder) == expected
    said = capfd.readouterr().err
    assert said.startswith(
        f"{folder}: 9 images; left out: 4 hidden (.DS_Store, ._A.PNG, .d.png, ...); "
    ) and said.endswith(".\n")
    assert "; 4 whose name does not end as an image's (IMG_1.HEIC, labels, notes.txt, ...); " in said
    assert "; 2 that are no files, or links to none (gone.png, pipe.png); " in said
    assert "; 3 links back to folders that are listed already (here, linked again, up)." in said
    assert len(said.split("\n")) == 2


def test_nothing_is_said_of_a_folder_of_images(tmp_path, capfd):
    write(tmp_path / "a.png")
    assert image_names(tmp_path) == ["a.png"]
    assert capfd.readouterr().err == ""


def test_a_linked_folder_does_not_rename_what_lies_here(tmp_path):
    write(tmp_path / "b/x.png")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    names, left = list_images(tmp_path)
    assert names == ["b/x.png"] and list(left.values()) == [["a"]]


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """Without root's rights to open everything; paths are relative to the test's folder."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_what_may_not_be_opened_is_counted_or_named(tmp_path, request, capfd):
    write(tmp_path / "pictures/a.png")
    write(tmp_path / "pictures/secret.png").chmod(0)
    write(tmp_path / "pictures/closed/b.png").parent.chmod(0)
    request.getfixturevalue("nobody")
    assert image_names("pictures") == ["a.png", "secret.png"]
    assert "left out: 1 folders that may not be opened (closed)." in capfd.readouterr().err
    with pytest.raises(
        ValueError, match=r"^secret cannot be read \(you are not allowed to\); allow it \(chmod u\+r\), or remove it\.$"
    ):
        open_image("pictures/secret.png", "secret")


def test_a_name_that_is_no_text_is_read_and_said(tmp_path, capfd):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(b"no image")
    (name,) = image_names(tmp_path)
    with pytest.raises(ValueError, match=r"caf\\udce9\.png cannot be read"):
        open_image(tmp_path / name)
    Path(os.fsdecode(raw)).rename(tmp_path / os.fsdecode(b"notes\xe9"))
    image_names(tmp_path)
    assert r"(notes\udce9)" in capfd.readouterr().err


def test_a_list_and_the_split_do_not_depend_on_how_a_system_writes_accents(tmp_path):
    """A Mac's file names are decomposed, those of a list that was written elsewhere are not."""
    splits = {}
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        for n in range(12):
            write(folder / unicodedata.normalize(form, f"Ü{n} é.png"), png(numbers(str(n), 255), 8, 0))
        lines = tmp_path / "list.txt"
        lines.write_text(unicodedata.normalize("NFC", "\n".join(f"Ü{n} é.png" for n in range(12))), encoding="utf-8")
        prepare(settings(images=folder, list=lines), 0, tmp_path / "raw", tmp_path / f"splits {form}", progress=False)
        splits[form] = [open_split(tmp_path / f"splits {form}", name).sha256 for name in SPLITS]
    assert splits["NFC"] == splits["NFD"]


def test_all_that_cannot_be_read_is_counted_once_everything_was_tried(tmp_path):
    for n in range(30):
        write(tmp_path / f"{n:02d}.png", b"" if n % 3 == 2 else png(numbers(str(n), 255), 8, 0))
    with pytest.raises(ValueError, match="cannot be read") as error:
        prepare(settings(images=tmp_path), 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert len(str(error.value).split("\n")) == 4
    assert str(error.value).endswith("In all 10 of 30 images cannot be read.")


def test_several_pictures_are_said_by_the_stage(tmp_path, capfd):
    for n in range(12):
        write(tmp_path / f"pictures/{n}.png", png(numbers(str(n), 255), 8, 0))
    write(tmp_path / "pictures/moves.gif", animation("GIF", 3))
    prepare(settings(images=tmp_path / "pictures"), 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert "1 files hold several pictures (" in capfd.readouterr().err


# -------------------------------------------------------------------------------------------------- archives of the hub


ARCHIVES = {
    "a split of its own": {"train.zip": "{n:02d}.png", "validation.zip": "{n:02d}.png"},
    "folders in it": {"train.zip": "train/{n:02d}.PNG"},
    "classes": {"train.zip": "{c}/{n:02d}.png"},
    "umlauts": {"train.zip": "Äpfel/ö {n:02d}.png"},
    "a tar": {"train.tar": "{n:02d}.png"},
}


def pack(folder, members):
    import tarfile

    folder.mkdir(parents=True)
    for number, (name, pattern) in enumerate(members.items()):
        files = {pattern.format(n=n, c="ab"[n % 2]): png(numbers(f"{number} {n}", 255), 8, 0) for n in range(12)}
        if name.endswith(".zip"):
            with zipfile.ZipFile(folder / name, "w") as file:
                for inside, content in files.items():
                    file.writestr(inside, content)
        else:
            with tarfile.open(folder / name, "w") as file:
                for inside, content in files.items():
                    about = tarfile.TarInfo(inside)
                    about.size = len(content)
                    file.addfile(about, io.BytesIO(content))


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_hugging_face_are_read(tmp_path, hugging_face, kind):
    pytest.importorskip("datasets")
    pack(tmp_path / "faces", ARCHIVES[kind])
    data = settings(images=str(tmp_path / "faces"), layout="hugging_face", channels=1)
    prepare(data, 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    found = {image.tobytes() for name in SPLITS for image in open_split(tmp_path / "splits", name).images}
    assert found == {numbers(f"0 {n}", 255).astype(np.uint8).tobytes() for n in range(12)}


def test_what_is_no_image_in_an_archive_is_counted(tmp_path, hugging_face, capfd):
    pytest.importorskip("datasets")
    pack(tmp_path / "faces", {"train.zip": "{n:02d}.png"})
    with zipfile.ZipFile(tmp_path / "faces/train.zip", "a") as file:
        for name in ("notes.txt", "__MACOSX/._00.png", ".DS_Store"):
            file.writestr(name, "no image")
    data = settings(images=str(tmp_path / "faces"), layout="hugging_face", channels=1)
    frame = prepare(data, 0, tmp_path / "raw", tmp_path / "splits", progress=False)
    assert frame["images"].sum() == 12
    assert "12 images; left out: 1 whose name does not end as an image's (notes.txt)." in capfd.readouterr().err


def test_a_damaged_image_in_an_archive_is_named(tmp_path, hugging_face):
    pytest.importorskip("datasets")
    pack(tmp_path / "faces", {"train.zip": "{n:02d}.png"})
    archive = (tmp_path / "faces/train.zip").read_bytes()
    at = archive.index(b"IDAT") + 20
    (tmp_path / "faces/train.zip").write_bytes(archive[:at] + bytes(9) + archive[at + 9 :])
    data = settings(images=str(tmp_path / "faces"), layout="hugging_face")
    with pytest.raises(
        ValueError, match=r"^data\.images: .*faces\[train\]/0 cannot be read \(Bad CRC-32 for file '00\.png'\); repair"
    ):
        prepare(data, 0, tmp_path / "raw", tmp_path / "splits", progress=False)
