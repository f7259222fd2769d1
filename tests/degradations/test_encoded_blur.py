"""The published blur network: its layout, its computation, and files that are refused; with random weights."""

import hashlib
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashdiff.degradations import EncodedBlur, encoded_blur_network, measure
from flashdiff.degradations.encoded_blur_network import EncodedBlurNetwork

# The names and shapes of the authors' GOPRO_wVAE.pth, from the code with which they save it.
RESIDUAL = {
    f"conv{n}.{name}": (64, 64, 3, 3) if name == "weight" else (64,) for n in (1, 2) for name in ("weight", "bias")
}


def convolution(name, out, into, side, bias=True):
    return {f"{name}.weight": (out, into, side, side)} | ({f"{name}.bias": (out,)} if bias else {})


PUBLISHED = (
    convolution("feature_extractor.0", 64, 3, 3)
    | convolution("feature_extractor.2", 64, 64, 3)
    | convolution("feature_extractor.4", 64, 64, 3)
    | {f"feature_extractor.{i}.{name}": shape for i in range(6, 16) for name, shape in RESIDUAL.items()}
    | convolution("adapter.model.down.0", 64, 64, 4, bias=False)
    | convolution("adapter.model.submodule.down.1", 128, 64, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.down.1", 256, 128, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.submodule.down.1", 512, 256, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.submodule.submodule.down.1", 512, 512, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.submodule.submodule.up.1", 1024, 512, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.submodule.up.1", 1024, 256, 4, bias=False)
    | convolution("adapter.model.submodule.submodule.up.1", 512, 128, 4, bias=False)
    | convolution("adapter.model.submodule.up.1", 256, 64, 4, bias=False)
    | convolution("adapter.model.up.1", 128, 64, 4, bias=False)  # transposed: (in, out), and the bias has its outputs
    | {"adapter.model.up.1.bias": (64,)}
    | {f"recon_trunk.{i}.{name}": shape for i in range(20) for name, shape in RESIDUAL.items()}
    | convolution("recon_trunk.20", 256, 64, 3)
    | convolution("recon_trunk.23", 256, 64, 3)
    | convolution("recon_trunk.26", 64, 64, 3)
    | convolution("recon_trunk.28", 3, 64, 3)
    | convolution("kernel_extractor.model.1", 64, 128, 7, bias=False)
    | convolution("kernel_extractor.model.4", 128, 64, 3, bias=False)
    | convolution("kernel_extractor.model.7", 256, 128, 3, bias=False)
    | convolution("kernel_extractor.model.10", 512, 256, 3, bias=False)
    | convolution("kernel_extractor.model.13", 1024, 512, 3, bias=False)
    | convolution("kernel_extractor.model.16", 1024, 1024, 3, bias=False)
    | {f"kernel_extractor.model.{i}.conv_block.{j}.weight": (1024, 1024, 3, 3) for i in range(19, 23) for j in (1, 5)}
)


def flat_state(**changes):
    """A state_dict in the published layout that takes no space: every tensor is one number, seen many times."""
    state = {name: torch.zeros(1).expand(shape) for name, shape in PUBLISHED.items()}
    return {name: value for name, value in (state | changes).items() if value is not None}


@pytest.fixture(scope="module")
def state():
    """Random weights in the published layout; the part that is not used is flat. Like trained ones, F stays near x."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, shape in PUBLISHED.items():
        if name.startswith("kernel_extractor"):
            values[name] = torch.zeros(1).expand(shape)
        else:
            fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
            values[name] = torch.randn(shape, generator=generator) / fan**0.5
            if ".conv2." in name or name.startswith("recon_trunk.28"):
                values[name] *= 0.1
    return values


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "GOPRO_wVAE.pth"
    torch.save(state, path)
    return str(path)


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def images(count=2, height=128, width=128):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (count, 3, height, width))).float()


def by_name(state, x, code):
    """F(x, k) once more, straight from the names: convolutions one after the other."""

    def conv(name, h, **how):
        return F.conv2d(h, state[f"{name}.weight"], state.get(f"{name}.bias"), **how)

    def residual(name, h):
        return h + conv(f"{name}.conv2", F.relu(conv(f"{name}.conv1", h, padding=1)), padding=1)

    def level(name, h, depth):
        """As the authors' code: the skip is activated, too; the ReLU that follows makes that the same as without."""
        h = h if depth == 0 else F.leaky_relu(h, 0.2)
        inner = conv(f"{name}.down.{min(depth, 1)}", h, stride=2, padding=1)
        inner = torch.cat([inner, code], 1) if depth == 4 else level(f"{name}.submodule", inner, depth + 1)
        weight, bias = state[f"{name}.up.1.weight"], state.get(f"{name}.up.1.bias")
        up = F.conv_transpose2d(F.relu(inner), weight, bias, stride=2, padding=1)
        return torch.tanh(up) if depth == 0 else torch.cat([up, h], 1)

    h = F.leaky_relu(conv("feature_extractor.0", x, padding=1), 0.1)
    for i in (2, 4):
        h = F.leaky_relu(conv(f"feature_extractor.{i}", h, stride=2, padding=1), 0.1)
    for i in range(6, 16):
        h = residual(f"feature_extractor.{i}", h)
    h = level("adapter.model", h, 0)
    for i in range(20):
        h = residual(f"recon_trunk.{i}", h)
    for i in (20, 23):
        h = F.leaky_relu(F.pixel_shuffle(conv(f"recon_trunk.{i}", h, padding=1), 2), 0.1)
    h = F.leaky_relu(conv("recon_trunk.26", h, padding=1), 0.1)
    return x + conv("recon_trunk.28", h, padding=1)


def test_names_and_shapes_are_the_published_ones():
    assert len(PUBLISHED) == 159
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in EncodedBlurNetwork().state_dict().items()}
    assert own == {name: shape for name, shape in PUBLISHED.items() if not name.startswith("kernel_extractor")}
    assert {name for name in PUBLISHED if name.startswith("kernel_extractor")} == encoded_blur_network.EXTRACTOR


def test_the_network_computes_what_its_names_say(state, weights):
    x, code = torch.rand(1, 3, 128, 256), torch.randn(1, 512, 1, 2)
    with torch.no_grad():
        y = EncodedBlurNetwork.load(weights, digest(weights))(x, code)
        torch.testing.assert_close(y, by_name(state, x, code))
    assert 0.01 < float((y - x).abs().mean()) < 1


def test_blur_by_the_network(weights):
    """Codes are the image's own and scaled by t; results lie in [-1, 1] and have gradients."""
    blur, x, ids, t = EncodedBlur(weights=weights), images(), np.array([5, 2]), torch.tensor([1.0, 0.5])
    state = blur.prepare(t, (3, 128, 128), ids)
    assert state["code"].shape == (2, 512, 1, 1)
    one = blur.prepare(torch.ones(1), (3, 128, 128), ids[1:])["code"]
    torch.testing.assert_close(state["code"][1:], 0.5 * one)
    large = blur.prepare(torch.ones(4), (3, 256, 256), np.arange(4))["code"]
    assert large.shape == (4, 512, 2, 2)
    assert abs(float(large.std()) - 1.2) < 0.05 and abs(float(large.mean())) < 0.05  # published: 1.2 N(0, I)

    output = blur.apply(x.requires_grad_(), state)
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    assert bool(gradient.isfinite().all()) and bool((gradient.flatten(1).norm(dim=1) > 0).all())
    x, y = x.detach(), output.detach()
    assert y.shape == x.shape and float(y.abs().max()) <= 1 and not torch.allclose(y, x, atol=0.01)
    with torch.no_grad():
        alone = blur.A(x[1:], t[1:], ids[1:])
        torch.testing.assert_close(alone[0], y[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(measure(x, blur, t, 0.0, ids=ids).y, y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 128, 200), (1, 128, 128)])
def test_images_that_the_network_cannot_take_are_refused(weights, shape):
    with pytest.raises(
        ValueError, match=rf"RGB images with sides in multiples of 128 pixels, not {shape[0]} x {shape[1]}"
    ):
        EncodedBlur(weights=weights).prepare(torch.ones(1), shape, np.arange(1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"adapter.model.down.0.weight": None, "adapter.model.down.9.weight": torch.zeros(1)},
            "lacks adapter.model.down.0.weight; has the unknown names adapter.model.down.9.weight; give the state_dict",
        ),
        (
            {f"recon_trunk.{i}.conv1.bias": None for i in range(5)},
            "lacks recon_trunk.0.conv1.bias, recon_trunk.1.conv1.bias, recon_trunk.2.conv1.bias and 2 more; give",
        ),
        ({"feature_extractor.0.weight": torch.zeros(64, 1, 3, 3)}, "has wrong shapes for feature_extractor.0.weight;"),
        ({"kernel_extractor.model.4.weight": None}, "lacks kernel_extractor.model.4.weight; give"),
        ({"optimizer": torch.zeros(2)}, "has the unknown names optimizer; give"),
    ],
)
def test_every_name_is_accounted_for(tmp_path, changes, sentence):
    path = tmp_path / "other.pth"
    torch.save(flat_state(**changes), path)
    with pytest.raises(ValueError, match=re.escape(f"weights: {path} {sentence}")) as refused:
        EncodedBlurNetwork.load(str(path), None)
    assert "\n" not in str(refused.value)


class Payload:
    """What runs code when it is unpickled by a reader that allows it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, write):
    path, folder = tmp_path / "evil.pth", tmp_path / "ran"
    write(flat_state() | {"extra": Payload(str(folder))} if write is torch.save else Payload(str(folder)), path)
    with pytest.raises(ValueError, match=r"weights: .*evil\.pth is not a file of tensors") as refused:
        EncodedBlurNetwork.load(str(path), None)
    assert "\n" not in str(refused.value) and not folder.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a file of tensors"),
        (b"<html>", "is not a file of tensors"),
        (b"\x80\x02K\x01}s.", "is not a file of tensors"),
        ({"a": 1}, "something else than named"),
        ([torch.zeros(1)], "something else than named"),
        ({1: torch.zeros(1)}, "something else than named"),
    ],
)
def test_other_files_are_refused(tmp_path, content, sentence):
    path = tmp_path / "other.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=f"weights: .*{sentence}") as refused:
        EncodedBlurNetwork.load(str(path), None)
    assert "\n" not in str(refused.value)


def test_the_checksum_comes_before_the_content(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save(Payload(str(tmp_path / "ran")), path)
    with pytest.raises(ValueError, match=rf"sha256: .*evil\.pth has {digest(path)[:12]}\.\.\., not 000000000000"):
        EncodedBlurNetwork.load(str(path), "0" * 64)


def test_a_missing_file_says_what_to_do():
    with pytest.raises(
        FileNotFoundError, match=r"there is no file 'nowhere\.pth'; download the authors' GOPRO_wVAE\.pth"
    ):
        EncodedBlurNetwork.load("nowhere.pth", None)


def test_a_download_is_kept_and_checked(weights, tmp_path, monkeypatch):
    """Without a network: what lies in the cache under its checksum is used, anything else is one sentence."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url, sha256 = "https://localhost:9/GOPRO_wVAE.pth", digest(weights)
    with pytest.raises(
        OSError, match=rf"weights: {url} could not be fetched .*; download it by hand and give its path"
    ):
        EncodedBlurNetwork.load(url, sha256)
    (tmp_path / "flashdiff").mkdir(exist_ok=True)
    os.link(weights, tmp_path / "flashdiff" / f"{sha256}.pth")
    assert isinstance(EncodedBlurNetwork.load(url, sha256), EncodedBlurNetwork)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"weights": "https://example.org/F.pth"},
            "EncodedBlur: sha256 is missing for 'https://example.org/F.pth'; a download is only",
        ),
        ({"weights": "http://example.org/F.pth", "sha256": "0" * 64}, "weights is 'http://example.org/F.pth', neither"),
        ({"weights": ""}, "EncodedBlur: weights is ''; String should have at least 1 character."),
        ({"weights": "F.pth", "sha256": "f00"}, "EncodedBlur: sha256 is 'f00'; String should match pattern"),
    ],
)
def test_a_bad_source_is_one_sentence(fields, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        EncodedBlur(**fields)
