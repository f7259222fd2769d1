"""Weights as people have them: variants, old formats, half precision, old names; what is damaged or foreign is one sentence."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashdiff.prior import Prior
from flashdiff.study import stage
from flashdiff.weights.compvis import load_compvis_prior
from flashdiff.weights.published_prior import convert_compvis, take_prior

SAVED = Path(__file__).parents[1] / "data/compvis-vq"
CHECKPOINT, CONFIG = SAVED / "model.ckpt", SAVED / "config.yaml"
NAME = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "prior"
    convert_compvis(CHECKPOINT, CONFIG, folder)
    return folder


@pytest.fixture
def folder(converted, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(converted, tmp_path / "prior"))


@pytest.fixture(scope="module")
def original(converted):
    return dict(Prior.from_pretrained(converted).named_parameters())


def rewrite(folder, change, name=f"{NAME}.safetensors", save=save_file):
    """Both networks' weights, changed and saved under another name."""
    for part in ("vqvae", "unet"):
        path = folder / part / f"{NAME}.safetensors"
        state = change(load_file(path))
        path.unlink()
        save(state, path.with_name(name))


def assert_equal(prior, original, rtol=0.0):
    for name, parameter in prior.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, original[name], rtol=rtol, atol=rtol / 100)


def halved(dtype):
    return lambda state: {name: value.to(dtype) for name, value in state.items()}


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_folder_with_the_half_precision_variant_only_is_read(variant, dtype, folder, original, tmp_path):
    rewrite(folder, halved(dtype), f"{NAME}.{variant}.safetensors")
    assert_equal(Prior.from_pretrained(folder), original, torch.finfo(dtype).eps)
    take_prior(folder, tmp_path / "taken")
    assert_equal(Prior.from_pretrained(tmp_path / "taken"), original, torch.finfo(dtype).eps)


def test_half_precision_under_the_usual_name_is_read_in_full(folder, original):
    rewrite(folder, halved(torch.float16))
    assert_equal(Prior.from_pretrained(folder), original, torch.finfo(torch.float16).eps)


def test_the_full_weights_are_preferred_to_a_variant(folder, original):
    for part in ("vqvae", "unet"):
        (folder / part / f"{NAME}.fp16.safetensors").write_bytes(b"not even read")
    assert_equal(Prior.from_pretrained(folder), original)


def deprecated(state):
    """Attention as diffusers named it before 0.12, as in CompVis' folders on the hub."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name):
        for new, former in names.items():
            name = name.replace(f".{new}.", f".{former}.")
        return name

    assert any(old(name) != name for name in state)
    return {old(name): value for name, value in state.items()}


@pytest.mark.parametrize("change", [lambda state: state, deprecated], ids=["now", "before 0.12"])
def test_pickled_weights_are_read_as_tensors(change, folder, original):
    rewrite(folder, change, f"{NAME}.bin", torch.save)
    assert_equal(Prior.from_pretrained(folder), original)


def refused(folder, error=ValueError):
    with pytest.raises(error, match=r"^prior: ") as caught:
        Prior.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


class Payload:
    def __init__(self, there):
        self.there = there

    def __reduce__(self):
        return os.mkdir, (str(self.there),)


def test_a_pickle_that_would_run_code_is_refused_unexecuted(folder, tmp_path):
    there = tmp_path / "executed"
    rewrite(folder, lambda state: state | {"more": Payload(there)}, f"{NAME}.bin", torch.save)
    assert "no tensors at all" in refused(folder)
    assert not there.exists()


def test_a_tensor_that_is_missing_is_not_drawn_at_random(folder):
    """diffusers draws it, and says so in a warning."""
    rewrite(folder, lambda state: dict(list(state.items())[1:]))
    assert "lacks 1 tensor" in refused(folder)


def test_a_tensor_that_is_not_known_is_refused(folder):
    rewrite(folder, lambda state: state | {"spare.weight": torch.zeros(2)})
    assert "holds unknown 1 tensor (spare.weight)" in refused(folder)


def test_weights_of_another_architecture_are_refused(folder):
    path = folder / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [32, 64]}))
    assert "are not those of its config.json" in refused(folder)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"\x00" * 100]
)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_that_holds_no_tensors_is_refused(content, suffix, folder):
    (folder / f"unet/{NAME}.safetensors").unlink()
    (folder / f"unet/{NAME}.{suffix}").write_bytes(content)
    assert "copy the model again" in refused(folder)


def test_a_folder_without_weights_or_with_a_strange_variant_is_refused(folder):
    path = folder / f"unet/{NAME}.safetensors"
    path.rename(path.with_name(f"{NAME}.non_ema.safetensors"))
    assert "holds the weights only as non_ema; rename the file" in refused(folder)
    path.with_name(f"{NAME}.non_ema.safetensors").rename(path.with_name("diffusion_flax_model.msgpack"))
    assert "holds no weights" in refused(folder, FileNotFoundError)


# ------------------------------------------------------------------------------------------------------- CompVis' files


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_is_read_whatever_its_name_format_and_precision(suffix, new, dtype, original, tmp_path):
    content = torch.load(CHECKPOINT, weights_only=True)
    content["state_dict"] = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in content["state_dict"].items()
    }
    path = tmp_path / f"model{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    shutil.copy(CONFIG, tmp_path / "config.yaml")
    tolerance = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_equal(load_compvis_prior(path), original, tolerance)
    assert_equal(take_prior(path, tmp_path / "prior"), original, tolerance)
    with pytest.raises(ValueError, match="is an original checkpoint; give it to"):
        Prior.from_pretrained(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_a_checkpoint_of_either_format_that_would_run_code_is_refused_unexecuted(new, tmp_path):
    content = torch.load(CHECKPOINT, weights_only=True) | {"beside": Payload(tmp_path / "executed")}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=new)
    shutil.copy(CONFIG, tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=r"refers to \S*mkdir, which is neither a tensor nor plain data"):
        take_prior(tmp_path / "model.pt", tmp_path / "prior")
    assert not (tmp_path / "executed").exists()


def test_no_sentence_advises_to_execute_a_file(tmp_path):
    """torch's own do, of an archive of the format before 0.1.10 among others."""
    import tarfile

    with tarfile.open(tmp_path / "model.ckpt", "w") as archive:
        archive.add(CONFIG, "config.yaml")
    with pytest.raises(
        ValueError, match=r"of the format before torch 0\.1\.10, which cannot be read as data"
    ) as caught:
        load_compvis_prior(tmp_path / "model.ckpt", CONFIG)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")  # a pickle of its own
    with pytest.raises(ValueError, match="is not readable as tensors") as other:
        load_compvis_prior(tmp_path / "model.ckpt", CONFIG)
    assert not any("weights_only" in str(error.value) and "False" in str(error.value) for error in (caught, other))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pth"])
def test_make_study_asks_for_the_config_beside_a_checkpoint(name, tmp_path, monkeypatch):
    """Before anything runs, whatever the checkpoint is called."""
    study = Path(__file__).parents[2] / "studies/ffhq-256/params.yaml"
    text = study.read_text().replace("path: CompVis/ldm-celebahq-256", f"path: ./weights/{name}")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(stage.StudyError, match=r"weights/config\.yaml"):
        stage.check()


# --------------------------------------------------------------------------------------------- a scale that nobody named


def unnamed(folder):
    path = folder / "vqvae/config.json"
    content = json.loads(path.read_text())
    del content["scaling_factor"]
    path.write_text(json.dumps(content))


def test_a_vq_folder_that_names_no_scaling_factor_has_one(folder, original, tmp_path):
    """As CompVis/ldm-celebahq-256. Its copy in the study says it, so that no other reader takes diffusers' 0.18215."""
    expected = Prior.from_pretrained(folder)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    unnamed(folder)
    prior, taken = Prior.from_pretrained(folder), take_prior(folder, tmp_path / "taken")
    for found in (prior, taken, Prior.from_pretrained(tmp_path / "taken")):
        assert found.scaling_factor == 1.0 and torch.equal(found.encode(x), expected.encode(x))
    assert json.loads((tmp_path / "taken/vqvae/config.json").read_text())["scaling_factor"] == 1.0
    assert "scaling_factor" not in json.loads((folder / "vqvae/config.json").read_text())


@pytest.mark.parametrize("scale", [0.18215, 0.5, 1])
def test_a_scaling_factor_that_is_named_is_kept(scale, folder, tmp_path):
    path = folder / "vqvae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": scale}))
    assert Prior.from_pretrained(folder).scaling_factor == scale
    assert take_prior(folder, tmp_path / "taken").scaling_factor == scale
    assert (tmp_path / "taken/vqvae/config.json").read_bytes() == path.read_bytes()


def test_a_prior_from_a_read_only_folder_can_be_replaced(tiny_prior, tiny_diffusion, tmp_path):
    """And one that was copied before, with the permissions of its source; and what a killed copy has left goes."""
    source, target, left = tmp_path / "source", tmp_path / "target", tmp_path / ".target-abcdefgh/target"
    tiny_prior.save_pretrained(source, tiny_diffusion)
    left.mkdir(parents=True)
    closed = [*source.rglob("*"), source, left]
    try:
        for path in closed:
            path.chmod(0o555 if path.is_dir() else 0o444)
        for _ in range(2):
            take_prior(source, target)
            assert all(path.stat().st_mode & 0o200 for path in [target, *target.rglob("*")])
            assert not left.parent.exists()
            for path in target.rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
    finally:
        for path in [source, *source.rglob("*"), target, *target.rglob("*")]:
            path.chmod(0o755)
