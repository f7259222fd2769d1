"""LPIPS and FID: the libraries' own code on small or random networks, against independent computations; and without them."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
import torchmetrics
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from flashdiff.datasets.splits import to_float
from flashdiff.measures import published
from flashdiff.measures.features import Features, feature_distance, frechet, penultimate
from flashdiff.measures.published import PublishedDistances, load_distances
from flashdiff.study import comparison

VGG = "https://download.pytorch.org/models/vgg16-397923af.pth"
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


def images(n, channels=3, size=16, seed=0):
    """Random images (n, channels, size, size) in [-1, 1] that differ in brightness."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.rand(n, 1, 1, 1, generator=draw) - 0.5
    return (level + 0.5 * torch.randn(n, channels, size, size, generator=draw)).clamp(-1, 1)


class Weighted(nn.Module):
    """In LPIPS' place: the mean of squared differences, of the three channels by weights of their own; (B, 1, 1, 1)."""

    def forward(self, a, b):
        assert a.shape[1:] == b.shape[1:] == (3, 16, 16) and a.dtype == torch.float32
        return ((a - b).square() * torch.tensor([1.0, 10.0, 100.0])[:, None, None]).mean((1, 2, 3), keepdim=True)


class Moments(nn.Module):
    """In Inception's place: five numbers of every image, and a record of what came in."""

    num_features = 5

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return torch.from_numpy(moments(x.numpy()))


def moments(x):
    """(n, 3, H, W) uint8 -> (n, 5) float32."""
    x = x.astype(np.float32) / 100
    halves = [x[..., :8].mean((1, 2, 3)), x[..., 8:].mean((1, 2, 3)), x[:, :, :8].std((1, 2, 3))]
    return np.stack([*halves, x[:, 0].mean((1, 2)), x[..., 3:].std((1, 2, 3))], axis=1)


def closed_form(a, b):
    """|mu|^2 + tr(A + B - 2 (AB)^0.5) with scipy's matrix square root."""
    first, second = np.cov(a.astype(float), rowvar=False), np.cov(b.astype(float), rowvar=False)
    shift = np.square(a.astype(float).mean(0) - b.astype(float).mean(0)).sum()
    return shift + np.trace(first + second - 2 * scipy.linalg.sqrtm(first @ second).real)


def measured(batch_size=16):
    return PublishedDistances(Weighted(), FrechetInceptionDistance(feature=Moments()), batch_size)


# ------------------------------------------------------------------------------------------------------------- LPIPS


def test_every_image_has_the_distance_to_its_own_reference():
    x, y = images(5), images(5, seed=1)
    expected = (np.square(x.numpy() - y.numpy()) * np.array([1, 10, 100])[:, None, None]).mean((1, 2, 3))
    np.testing.assert_allclose(measured().perceptual(x, y), expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_change_a_distance(batch_size):
    x, y = images(7), images(7, seed=1)
    expected = [measured().perceptual(x[k : k + 1], y[k : k + 1])[0] for k in range(7)]
    found = measured(batch_size).perceptual(x, y)
    assert found.shape == (7,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_lies_outside_the_range_is_clipped_and_grey_is_repeated():
    x, y = images(4, channels=1), images(4, channels=1, seed=1)
    grey = measured().perceptual(x, y)
    np.testing.assert_allclose(grey, 37 * np.square(x.numpy() - y.numpy()).mean((1, 2, 3)), rtol=1e-5)  # 37 = 111 / 3
    bright = torch.where(x > 0.9, 5.0, x)
    np.testing.assert_allclose(measured().perceptual(bright, y), measured().perceptual(bright.clamp(-1, 1), y))
    assert (measured().perceptual(x.double(), y.double()) == grey).all()


def test_a_broken_image_has_no_distance_and_the_others_keep_theirs():
    x, y = images(4), images(4, seed=1)
    broken = x.clone()
    broken[2, 0, 3, 3] = torch.nan
    found, whole = measured().perceptual(broken, y), measured().perceptual(x, y)
    assert np.isnan(found).tolist() == [False, False, True, False] and (found[[0, 1, 3]] == whole[[0, 1, 3]]).all()


VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg16(weights=None):
    """torchvision's VGG16 at random weights, as far as LPIPS reads it: Simonyan & Zisserman 2015, configuration D."""
    layers, before = [], 3
    for entry in VGG16:
        layers += [nn.MaxPool2d(2)] if entry == "M" else [nn.Conv2d(before, entry, 3, padding=1), nn.ReLU()]
        before = before if entry == "M" else entry
    return SimpleNamespace(features=nn.Sequential(*layers))


@pytest.fixture
def torchvision(monkeypatch):
    """A module in torchvision's place, whose networks a test chooses."""
    module = ModuleType("torchvision")
    module.models = SimpleNamespace(VGG16_Weights=SimpleNamespace(DEFAULT="ImageNet"), vgg16=vgg16)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    for place in ("torchmetrics.image.lpip", "torchmetrics.functional.image.lpips"):
        monkeypatch.setattr(f"{place}._TORCHVISION_AVAILABLE", True)
    return module


def test_lpips_in_vgg_by_hand(torchvision):
    """torchmetrics' LPIPS with its trained weights over five feature maps, against the formula of Zhang et al. 2018."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lpips = published._lpips()
    x, y = images(3, channels=1, size=32), images(3, channels=1, size=32, seed=1)
    found = PublishedDistances(lpips, None, batch_size=2).perceptual(x, y)
    weights = torch.load(Path(torchmetrics.__file__).parent / "functional/image/lpips_models/vgg.pth", "cpu")
    mean, std = (torch.tensor(v)[:, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    layers = [layer for part in lpips.net.children() for layer in part]
    a, b = ((u.repeat(1, 3, 1, 1) - mean) / std for u in (x, y))
    expected = torch.zeros(3)
    for k, layer in enumerate(layers):
        a, b = layer(a), layer(b)
        if k in (3, 8, 15, 22, 29):  # the last ReLU before each pooling
            p, q = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            weight = weights[f"lin{(3, 8, 15, 22, 29).index(k)}.model.1.weight"]
            expected += ((p - q).square() * weight).sum(1).mean((1, 2))
    assert len(layers) == 30 and (expected > 0.01).all()
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4)


# --------------------------------------------------------------------------------------------------------------- FID


def test_fid_is_the_closed_form_on_the_bytes_of_image_files():
    pixels = {
        name: np.random.default_rng(k).integers(0, 256, (40, 3, 16, 16), np.uint8) for k, name in enumerate("abt")
    }
    pixels["b"] //= 2
    distances = measured()
    found = distances.frechet({name: to_float(pixels[name]) for name in "ab"}, to_float(pixels["t"]))
    assert list(found) == ["a", "b"]
    for name in "ab":
        assert found[name] == pytest.approx(closed_form(moments(pixels[name]), moments(pixels["t"])), rel=1e-4)
    assert found["b"] > 10 * found["a"] > 0
    assert [len(part) for part in distances.fid.inception.seen] == 3 * [16, 16, 8]  # memory is bounded by the batch
    seen = torch.cat(distances.fid.inception.seen)
    assert seen.dtype == torch.uint8  # and exactly what was in the files: true images first, each set once
    np.testing.assert_array_equal(seen.numpy(), np.concatenate([pixels[name] for name in "tab"]))


def test_images_between_two_levels_are_rounded_and_grey_is_repeated():
    distances = measured()
    x = torch.tensor([-127.5, 0.4, 0.6, 200.4, 200.6, 254.6, 300.0, 127.0]).div(127.5).sub(1).repeat(2, 1, 16, 2)
    distances.frechet({}, x)
    (seen,) = distances.fid.inception.seen
    assert seen.shape == (2, 3, 16, 16) and (seen == seen[1, 2, 5]).all()
    assert seen[1, 2, 5, :8].tolist() == [0, 0, 1, 200, 201, 255, 255, 127]


@pytest.mark.parametrize("batch_size", [1, 9, 100])
def test_the_batch_size_does_not_change_fid(batch_size):
    found, truth = {"a": images(20), "b": images(20, seed=1)}, images(20, seed=2)
    expected = measured().frechet(found, truth)
    assert measured(batch_size).frechet(found, truth) == pytest.approx(expected, rel=1e-4)


def test_fid_does_not_depend_on_what_was_measured_before():
    distances, a, b, truth = measured(), images(20), images(20, seed=1), images(20, seed=2)
    alone = distances.frechet({"a": a}, truth)["a"]
    distances.frechet({"b": b, "c": truth}, b)
    again = distances.frechet({"b": b, "a": a}, truth)
    assert again["a"] == alone and again["b"] != alone
    assert distances.frechet({"c": truth}, truth)["c"] == pytest.approx(0, abs=1e-6)


# -------------------------------------------------------------------------------------------------- what cannot be had


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A module in torch-fidelity's place, and a stand-in for torchmetrics' Inception that records its arguments."""
    made = []

    class Inception(Moments):
        def __init__(self, **arguments):
            super().__init__()
            made.append(arguments)

    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Inception)
    return made


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Where torch.hub keeps what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return f"{tmp_path}/hub/checkpoints"


def unreachable(*arguments, **options):
    """What torch.hub raises without a network."""
    raise URLError("[Errno -3] Temporary failure in name resolution")


def assert_not_measured(distances, lpips, fid):
    x, y = images(5), images(5, seed=1)
    assert np.isnan(distances.perceptual(x, y)).all() == lpips and distances.perceptual(x, y).shape == (5,)
    assert np.isnan(distances.frechet({"a": x, "b": y}, y)["b"]) == fid


def test_without_the_libraries_one_message_says_how_to_get_them(monkeypatch, cache, capsys):
    for library in ("torchvision", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    distances = PublishedDistances.load()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith("LPIPS (VGG) is not measured (") and "FID (Inception) is not measured (" in said
    assert "torchvision" in said and "torch_fidelity" in said and "everything else is" in said
    assert "pip install 'flashdiff[published-distances]'" in said
    assert said.endswith(f"put {VGG} and {INCEPTION} into {cache}.\n")
    assert_not_measured(distances, lpips=True, fid=True)


def test_a_torchvision_that_does_not_fit_torch_is_no_crash(monkeypatch, cache, capsys):
    """What PyPI's torchvision says beside a torch for the CPU."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name in ("torchvision", "torch_fidelity"):
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert_not_measured(PublishedDistances.load(), lpips=True, fid=True)
    assert capsys.readouterr().err.count("(operator torchvision::nms does not exist)") == 2


def test_without_a_network_the_message_says_which_file_goes_where(
    torchvision, torch_fidelity, monkeypatch, cache, capsys
):
    torchvision.models.vgg16 = unreachable
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", unreachable)
    distances = PublishedDistances.load()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and said.count("Temporary failure in name resolution") == 2
    assert said.endswith(f"put {VGG} and {INCEPTION} into {cache}.\n")
    assert_not_measured(distances, lpips=True, fid=True)


def test_what_can_be_had_is_measured(torchvision, torch_fidelity, cache, capsys):
    torchvision.models.vgg16 = unreachable
    distances = PublishedDistances.load()
    said = capsys.readouterr().err
    assert said.startswith("LPIPS (VGG) is not measured (") and "FID" not in said
    assert said.endswith(f"put {VGG} into {cache}.\n")
    assert distances.lpips is None and isinstance(distances.fid.inception, Moments)
    assert np.isnan(distances.perceptual(images(3), images(3))).all()


def test_the_networks_are_the_published_ones_and_nothing_is_said(torchvision, torch_fidelity, monkeypatch, capsys):
    asked = []
    torchvision.models.vgg16 = lambda weights=None: asked.append(weights) or vgg16()
    monkeypatch.setattr(published, "device", lambda: torch.device("mps"))  # which has no float64: on the CPU
    distances = PublishedDistances.load()
    assert capsys.readouterr().err == ""
    assert asked == ["ImageNet"]
    assert torch_fidelity == [
        {
            "name": "inception-v3-compat",
            "features_list": ["2048"],
            "feature_extractor_weights_path": None,
            "antialias": False,  # torch-fidelity's resizing, not torchmetrics' own
        }
    ]
    assert distances.lpips.pnet_type == "vgg" and not distances.lpips.training
    assert (
        {p.device.type for p in distances.lpips.parameters()}
        == {"cpu"}
        == {distances.fid.real_features_sum.device.type}
    )


# -------------------------------------------------------------------------------------------- beside the shipped features


def test_frechet_distances_of_few_images_are_not_measured():
    few = torch.zeros(comparison.ENOUGH - 1, 1, 2, 2)
    table = comparison.frechet_distances(PublishedDistances(None, None), few, {"a": few.numpy(), "b": few.numpy()})
    assert comparison.ENOUGH == 1000 and table == {key: {"value": None, "n": 999} for key in "ab"}


def test_both_kinds_of_distances_are_asked_alike(monkeypatch):
    monkeypatch.setattr(comparison, "ENOUGH", 12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(3, 10).eval()
    x, truth = images(12), images(12, seed=1)
    np.testing.assert_array_equal(features.perceptual(x, truth), feature_distance(features, x, truth))
    expected = frechet(penultimate(features, x), penultimate(features, truth))
    assert features.frechet({"a": x}, truth) == {"a": expected}
    table = comparison.frechet_distances(features, truth, {"a": x.numpy()})
    assert table == {"a": {"value": pytest.approx(expected, rel=1e-5), "n": 12}}
    published = comparison.frechet_distances(measured(), truth, {"a": x.numpy(), "b": truth.numpy()})
    bytes_of = {name: (u + 1).mul(127.5).round().byte().numpy() for name, u in (("x", x), ("truth", truth))}
    expected = frechet(moments(bytes_of["x"]), moments(bytes_of["truth"]))
    assert published["a"] == {"value": pytest.approx(expected, rel=1e-4), "n": 12}
    nothing = comparison.frechet_distances(PublishedDistances(None, None), truth, {"a": x.numpy()})
    assert nothing == {"a": {"value": None, "n": 12}}


def test_a_study_says_which_kind_measures(tmp_path, torchvision, torch_fidelity, capsys):
    Features(1, 2).save_pretrained(tmp_path / "features")
    assert isinstance(load_distances("features", tmp_path / "features"), Features)
    published = load_distances("published", tmp_path / "features")
    assert isinstance(published.lpips, nn.Module) and isinstance(published.fid, FrechetInceptionDistance)
    assert capsys.readouterr().err == ""


def test_a_prior_without_a_classifier_is_said_and_nothing_is_measured(tmp_path, capsys):
    distances = load_distances("features", tmp_path / "features")
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/features: not there") and "reconstruction.distances: published" in said
    assert_not_measured(distances, lpips=True, fid=True)
