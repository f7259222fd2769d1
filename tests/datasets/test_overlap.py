"""What splits share: counted here pair by pair, image by image."""

import json

import numpy as np
import pytest
from repositories import ROOT
from ruamel.yaml import YAML

from flashdiff.datasets import overlap
from flashdiff.datasets.overlap import ALIKE, PAIRS, count_overlap, in_words
from flashdiff.datasets.splits import SPLITS, Split, write_splits


def noisy(draw, image, correlation):
    """An image whose pixels correlate with these by about so much, in another brightness and contrast."""
    x = image - image.mean()
    noise = draw.normal(size=image.shape)
    noise -= noise.mean() + (noise * x).sum() / (x * x).sum() * x
    mixed = correlation * x / np.linalg.norm(x) + np.sqrt(1 - correlation**2) * noise / np.linalg.norm(noise)
    return (mixed / np.abs(mixed).max() * 90 + 120).round().clip(0, 255)


@pytest.fixture(params=[(1, 28, 28), (3, 17, 30), (1, 5, 9)], ids=str)
def splits(request, tmp_path):
    """Three splits with everything in them: near pairs on both sides of the bound, images of one colour, copies within one."""
    draw, shape = np.random.default_rng(0), request.param
    parts = {
        name: list(draw.integers(0, 256, (n, *shape))) for name, n in (("train", 40), ("validation", 20), ("test", 30))
    }
    for target, source, correlations in (("test", "train", (0.97, 0.985, 0.995, 0.999)), ("test", "validation", (0.996,)),
                                         ("validation", "train", (0.98, 0.998))):  # fmt: skip
        for k, correlation in enumerate(correlations):
            parts[target][k + 5] = noisy(draw, parts[source][k].astype(float), correlation)
    parts["train"] += [np.full(shape, 7), np.full(shape, 8), parts["train"][3].copy(), parts["train"][3].copy()]
    parts["test"] += [np.full(shape, 200)]
    made = {name: [(image.astype(np.uint8), -1) for image in images] for name, images in parts.items()}
    write_splits(tmp_path, made, "made")
    return tmp_path, {name: np.stack([image for image, _ in images]) for name, images in made.items()}


def test_counts_are_those_of_all_pairs(splits, monkeypatch):
    monkeypatch.setattr(overlap, "_ROWS", 7)  # so that chunks end in the middle
    folder, images = splits
    found = count_overlap(folder)
    for first, second in PAIRS:
        near = 0
        for a in images[first]:
            with np.errstate(invalid="ignore", divide="ignore"):
                near += any(
                    np.corrcoef(a.ravel(), b.ravel())[0, 1] >= ALIKE for b in images[second] if a.std() and b.std()
                )
        assert found["near"][f"{first} in {second}"] == near
        assert found["exact"][f"{first} in {second}"] == 0
    assert found["near"]["test in train"] >= 2 and found["near"]["validation in train"] >= 1
    assert found["within"] == {"train": 2, "validation": 0, "test": 0}
    assert json.loads(json.dumps(found)) == found


def test_the_bound_is_one(splits):
    """No pair is lost to the signatures: their product is never below the correlation."""
    _, images = splits
    every = np.concatenate([*images.values()])
    split = Split("all", every, np.full(len(every), -1), "")
    signatures, flat = overlap._signatures(split), every.reshape(len(every), -1)
    moving = flat.std(1) > 0
    correlations = np.corrcoef(flat[moving])
    assert (signatures[moving] @ signatures[moving].T >= correlations - 1e-5).all()
    assert not signatures[~moving].any()


def test_an_exact_copy_would_be_counted(splits):
    """The stage refuses to write one; a file that was changed later is counted all the same."""
    folder, images = splits
    test = np.load(folder / "test.npy")
    test[4] = images["train"][9]
    test[6] = images["validation"][2]
    np.save(folder / "test.npy", test)
    assert count_overlap(folder)["exact"] == {"test in train": 1, "test in validation": 1, "validation in train": 0}


def test_the_line_says_all_counts():
    pairs = [f"{a} in {b}" for a, b in PAIRS]
    found = {"exact": dict(zip(pairs, (0, 1, 2), strict=True)), "near": dict(zip(pairs, (30, 40, 50), strict=True))}
    line = in_words({**found, "within": {}, "rule": overlap.RULE})
    assert line.startswith(
        "test in train: 0 the same, 30 nearly; test in validation: 1 the same, 40 nearly; validation in train: 2"
    )
    assert str(ALIKE) in line and "\n" not in line


def test_what_ships_was_trained_on_the_default_studys_training_images():
    """Prior and severity encoder come from other studies: none of those trains on an image that the default study tests on."""
    read = YAML(typ="safe").load
    own = read(ROOT / "params.yaml")["data"]
    for study in ("fashion-mnist-pretraining", "fashion-mnist-full", "fashion-mnist-solvers"):
        other = read(ROOT / f"studies/{study}/params.yaml")["data"]
        assert {**own, "test": 0} == {**other, "test": 0}  # splits follow from these fields alone; test plays no part
    assert set(SPLITS) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    "study", [".", *(f"studies/fashion-mnist-{name}" for name in ("pretraining", "full", "solvers"))]
)
def test_every_stage_that_ran_read_one_and_the_same_splits(study):
    """So the count of the default study is that of all trainings and tunings: by DVC's hash of the files, in every lock."""
    stages = YAML(typ="safe").load((ROOT / study / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    default = YAML(typ="safe").load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]["download"]["outs"]
    (expected,) = [out["md5"] for out in default if out["path"] == "data/splits"]
    read = {
        name: {entry["md5"] for entry in (*stage.get("deps", []), *stage["outs"]) if entry["path"] == "data/splits"}
        for name, stage in stages.items()
    }
    assert set.union(*read.values()) == {expected}
    if study == ".":
        training = {
            "prior",
            "train_severity",
            "tune",
            "tune_budgets",
            "other_seeds",
            "ablate",
            "robustness",
            "baseline",
        }
        assert training <= {name.partition("@")[0] for name, found in read.items() if found}
