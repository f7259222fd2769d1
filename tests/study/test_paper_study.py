"""ffhq-256 from end to end on stand-ins in the published formats: every loader, converter and report on its real path.

Images of 32 pixels lie in the folders and lists of CelebA-HQ and FFHQ, the prior is a small VQ model as CompVis saves
them (tests/data/compvis-vq) whose denoiser has seen them, one severity encoder is an original checkpoint. Numbers mean
nothing; that they belong together is checked against the files they come from.
"""

import importlib.util
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from repositories import ROOT, copy_repository, dvc, stages_that_ran
from ruamel.yaml import YAML

from flashdiff.datasets.splits import to_float
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study.records import read_json
from flashdiff.study.schema import load
from flashdiff.weights.compvis import EMA, UNET, load_compvis_prior
from flashdiff.weights.compvis_names import unet_sources
from flashdiff.weights.denoiser_check import SIGNALS, check_denoiser
from flashdiff.weights.published_severity import load_published

pytestmark = pytest.mark.slow
SAVED = ROOT / "tests/data/compvis-vq"
PAIR = "random_inpainting-resample_inpainting"
"""Beside it nonlinear blur has an encoder alone. A second pair would take 20 more stages, and Gaussian blur six, without a
format or a loader that these two do not have; pairs in company: tests/study/test_smoke_study.py."""
STEPS = 300
"""Of the stand-in denoiser's training: ten seconds."""
TRAINED, TESTED = range(3, 15), [5, 1002, 3, 1000, 4, 0, 1, 2, 1001, 6]


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """A smooth colour image, another one for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def write_datasets(folder):
    faces, others, lists = (folder / name for name in ("celeba_hq_256", "ffhq", "lists"))
    for place in (faces, lists):
        place.mkdir(parents=True)
    for number in range(20):
        picture(number, (36, 32)).save(faces / f"{number:05d}.jpg", quality=95)
    for number in TESTED:
        place = others / f"{number // 1000:05d}"
        place.mkdir(parents=True, exist_ok=True)
        picture(5000 + number, (32, 32)).save(place / f"img{number:08d}.png")
    (lists / "celebahq_train_ids.txt").write_text("".join(f"{number:05d}\n" for number in TRAINED))
    (lists / "ffhq_test_ids.txt").write_text("".join(f"{number:05d}\n" for number in TESTED))
    shutil.copytree(SAVED, folder / "weights")
    teach(folder / "weights")


def teach(weights):
    """Train the checkpoint's denoiser on the stand-in images: the stage `prior` takes none that does not know them.

    The first stage is untrained, so its latents are scaled to unit variance first. What is taught are the indices that the
    stage asks about.
    """
    yaml, path = YAML(), weights / "config.yaml"
    config = yaml.load(path.read_text())
    config["model"]["params"]["scale_factor"] = 4.0
    with path.open("w") as file:
        yaml.dump(config, file)
    prior = load_compvis_prior(weights / "model.ckpt")
    images = [np.asarray(picture(number, (36, 32)))[:, 2:34].transpose(2, 0, 1) for number in TRAINED]
    z0, unet, draw = prior.encode_in_slices(to_float(np.stack(images))), prior.unet, torch.Generator().manual_seed(0)
    indices = torch.tensor([int((prior.abar - share).abs().argmin()) for share in SIGNALS])
    optimiser = torch.optim.Adam(unet.requires_grad_(True).parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        z, i = z0[torch.randint(len(z0), (16,), generator=draw)], indices[torch.randint(3, (16,), generator=draw)]
        noise, signal = torch.randn(z.shape, generator=draw), prior.signal(i).float()[:, None, None, None]
        loss = (unet(signal.sqrt() * z + (1 - signal).sqrt() * noise, i).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    content = torch.load(weights / "model.ckpt", weights_only=True)
    for name, source in unet_sources(unet).items():
        value = unet.state_dict()[name]
        for key in (UNET + source.key, EMA + f"diffusion_model.{source.key}".replace(".", "")):
            stored = content["state_dict"][key]
            if part := re.search(r"\.to_([qkv])\.", name):  # all heads' queries, keys and values lie in one tensor
                heads = (-1, unet.config.attention_head_dim, *value.shape[1:])
                stored.view(-1, 3, *heads[1:])[:, "qkv".index(part[1])] = value.view(heads)
            else:
                stored.copy_(value.view(stored.shape))
    torch.save(content, weights / "model.ckpt")


def stand_in(content: dict) -> dict:
    """The study file of ffhq-256, smaller: what is left out or shortened costs hours or cannot be had here."""
    content["data"] |= {"image_size": 32, "validation": 4, "test": 10}
    content["prior"]["path"] = "../../datasets/weights/model.ckpt"
    del content["degradations"]["gaussian_blur"]
    content["degradations"]["nonlinear_blur"] = {
        "kind": "nonlinear_blur", "length_min": 0.0, "length_max": 6.0, "gain_max": 1.5, "noise_std": 0.1,
    }  # fmt: skip
    content["prior"]["severity"] = {"random_inpainting": "../../datasets/weights/severity_encoder.ckpt"}
    content["severity"] |= {"steps": 6, "batch_size": 4}
    content["ordering"] |= {"n_images": 6, "levels": 3}
    content["correlation"] |= {"n_images": 10}
    content["pairs"] = {PAIR: content["pairs"][PAIR]}
    for solver in content["solvers"].values():
        solver["walk"] = {"kind": "evenly_spaced", "steps": 4}
        if solver["kind"] == "resample":
            solver["max_iterations"] = 5
    content["tune"] |= {"n_images": 4, "batch_size": 4}
    content["reconstruction"] |= {"n_images": 5, "batch_size": 3, "fixed_starts": [20]}
    content["budgets"] |= {"evaluations": [2], "n_images": 4, "batch_size": 4}
    content["budgets"]["tune"] |= {"n_images": 4, "starts": [20]}
    for walks in content["budgets"]["walks"].values():
        for walk in walks:
            walk["candidates"] = {field: values[:1] for field, values in walk["candidates"].items()}
            if walk["solver"]["kind"] == "resample":
                walk["solver"]["max_iterations"] = 5
    content["ablation"] |= {"n_images": 4}
    content["report"]["bootstrap"] = 100
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    repository = copy_repository(tmp_path_factory.mktemp("repository"))
    folder = repository / "studies" / "ffhq-256"
    write_datasets(repository / "datasets")
    yaml = YAML()
    content = yaml.load((folder / "params.yaml").read_text())
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(stand_in(content), file)
    ran = stages_that_ran(dvc(folder, "repro"))
    assert {name.partition("@")[0] for name in ran} == set(
        YAML(typ="safe").load((folder / "dvc.yaml").read_text())["stages"]
    )
    return folder


def test_images_are_those_of_the_lists_in_their_order(study):
    test, train, validation = (np.load(study / f"data/splits/{name}.npy") for name in ("test", "train", "validation"))
    expected = [np.asarray(picture(5000 + number, (32, 32))).transpose(2, 0, 1) for number in TESTED]
    np.testing.assert_array_equal(test, expected)
    assert len(train) == len(TRAINED) - 4 and len(validation) == 4
    with Image.open(study / f"../../datasets/celeba_hq_256/{TRAINED[-1]:05d}.jpg") as last:
        middle = np.asarray(last)[:, 2:34].transpose(2, 0, 1)  # the largest square of 36 x 32
    np.testing.assert_array_equal(validation[-1], middle)


def test_the_prior_is_the_converted_checkpoint(study):
    ours = Prior.from_pretrained(study / "data/prior")
    original = load_compvis_prior(study / "../../datasets/weights/model.ckpt")
    for (name, tensor), (same, expected) in zip(ours.state_dict().items(), original.state_dict().items(), strict=True):
        assert name == same and torch.equal(tensor, expected)
    assert not (study / "data/prior/features").exists()


def test_the_denoiser_was_asked_about_the_validation_images(study):
    kept = pd.read_csv(study / "data/prior/denoiser_check.csv")
    validation = np.load(study / "data/splits/validation.npy")
    pd.testing.assert_frame_equal(
        kept, check_denoiser(Prior.from_pretrained(study / "data/prior"), validation), rtol=1e-3
    )


def test_the_published_encoder_is_used_and_the_others_are_trained(study):
    prior = Prior.from_pretrained(study / "data/prior")
    used = SeverityEncoder.from_pretrained(study / "data/severity/random_inpainting")
    for a, b in zip(
        used.parameters(), load_published(SAVED / "severity_encoder.ckpt", prior).parameters(), strict=True
    ):
        assert torch.equal(a, b)
    untrained = SeverityEncoder.from_prior(prior)
    trained = SeverityEncoder.from_pretrained(study / "data/severity/nonlinear_blur")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), untrained.parameters(), strict=True))
    measured = pd.read_csv(study / "reports/severity/random_inpainting.csv")
    assert measured.step.tolist() == [0] and measured.ordering_accuracy.between(0, 1).all()


def test_published_hyperparameters_are_taken_as_they_are(study):
    solvers = load(study / "params.yaml").solvers
    for name, fields in (
        ("psld_blur", {"eta": 2}),
        ("ldps_nonlinear", {"eta": 1}),
        ("resample_inpainting", {"g": 200}),
    ):
        assert solvers[name].model_dump().items() >= fields.items()
    chosen = read_json(study / f"data/tuned/{PAIR}.json")["chosen"]
    assert chosen["full_length"]["solver"] == chosen["flash_published"]["solver"] == {}
    assert chosen["flash_published"]["start"] == {"correction": 1.2}


def test_inpainting_is_reconstructed_at_the_published_levels(study):
    rows = pd.read_parquet(study / f"data/results/reconstruction-{PAIR}.parquet")
    assert rows.t.between(0.875, 1).all() and rows.t.nunique() == 5
    assert rows.groupby("method").image.nunique().eq(5).all()
    everywhere = pd.read_parquet(study / "data/results/severity-random_inpainting.parquet")
    assert everywhere.t.min() < 0.5  # severity itself is measured at all levels


def test_a_degradation_without_a_comparison_has_its_encoder_in_the_report(study):
    records = json.loads((study / "reports/headline.json").read_text())
    found = {(r["degradation"], r["solver"]) for r in records}
    assert found == {tuple(PAIR.split("-")), ("nonlinear_blur", None)}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="LPIPS may be measured here")
def test_without_the_published_networks_their_columns_stay_empty(study):
    metrics = read_json(study / f"reports/metrics/reconstruction-{PAIR}.json")["methods"]["flash_published"]
    assert metrics["perceptual"]["value"] is None and np.isfinite(metrics["psnr"]["value"])
    records = json.loads((study / "reports/headline.json").read_text())
    verdicts = {r["claim"]: r["verdict"] for r in records if r["solver"] == PAIR.partition("-")[2]}
    assert verdicts["perceptual_gain"] == "not tested" and verdicts["psnr_gain_db"] != "not tested"


def test_the_report_names_the_published_distances(study):
    page = (study / "reports/index.html").read_text()
    assert "LPIPS (VGG)" in page and "small classifier" not in page
    assert all(name in page for name in ("ReSample (inpainting)", "Nonlinear blur"))
