"""Weights are data: through every door that reads a file from outside, a pickle that would run code does not run."""

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from flashdiff import cli
from flashdiff.datasets.splits import SPLITS, open_split, write_splits
from flashdiff.degradations.encoded_blur_network import EncodedBlurNetwork
from flashdiff.measures.features import Features
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.study import baseline
from flashdiff.study.records import read_json, read_rows
from flashdiff.training.loop import Recipe, train
from flashdiff.weights.compvis import load_compvis_prior
from flashdiff.weights.published_prior import convert_compvis, take_prior
from flashdiff.weights.published_severity import load_published
from tests.conftest import make_prior

SAVED = Path(__file__).parents[1] / "data/compvis-vq"
NAME = "diffusion_pytorch_model"


class Payload:
    """What makes a folder when it is unpickled by a reader that allows it."""

    def __init__(self, there):
        self.there = there

    def __reduce__(self):
        return os.mkdir, (str(self.there),)


def zipped(content, path):
    torch.save(content, path)


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


def numpy_object(content, path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([content], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


def npz_object(content, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("images", "ids", "t"):
            buffer = io.BytesIO()
            np.save(buffer, np.array([content], dtype=object), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def parquet_extension(content, path):
    """As pyarrow before 14.0.1 would have unpickled the description of a column's type (CVE-2023-47248)."""
    told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(content)}
    schema = pyarrow.schema(
        [pyarrow.field("a", pyarrow.int64(), metadata=told)], metadata={b"pandas": pickle.dumps(content)}
    )
    pyarrow.parquet.write_table(pyarrow.table([[1]], schema=schema), path)


WRITERS = {w.__name__: w for w in (zipped, legacy, bare, numpy_object, npz_object, parquet_extension)}


def folder_with(save, name, part=""):
    def door(write, content, tmp):
        save(tmp / "model")
        for path in (tmp / "model" / part).glob(f"{NAME}.*"):
            path.unlink()
        write(content, tmp / "model" / part / name)
        return tmp / "model"

    return door


def a_prior(folder):
    make_prior(40).float().save_pretrained(folder, {"num_train_timesteps": 40})


def an_encoder(folder):
    SeverityEncoder.from_prior(make_prior(40).float()).save_pretrained(folder)


def some_features(folder):
    Features(1, 2).save_pretrained(folder)


def train_on(path):
    model = torch.nn.Linear(1, 1)
    train(model, lambda m, ids, step: (m(torch.ones(1, 1)).mean(), {}), 4, Recipe(2, 2, 0.1, checkpoint_every=1), path)


def from_hub(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    return Prior.from_pretrained("owner/name")


def beside_config(name):
    def door(write, content, tmp):
        shutil.copy(SAVED / "config.yaml", tmp / "config.yaml")
        write(content, tmp / name)
        return tmp / name

    return door


def alone(name):
    def door(write, content, tmp):
        (tmp / name).parent.mkdir(parents=True, exist_ok=True)
        write(content, tmp / name)
        return tmp / name

    return door


def in_splits(write, content, tmp):
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    write_splits(tmp, {name: [(image + k, 0)] for k, name in enumerate(SPLITS)}, "here")
    write(content, tmp / "test.npy")
    return tmp


DOORS = {
    "checkpoint .ckpt": (beside_config("model.ckpt"), lambda path, _: load_compvis_prior(path)),
    "checkpoint .pt": (beside_config("model.pt"), lambda path, _: take_prior(path, path.parent / "taken")),
    "checkpoint .pth": (beside_config("model.pth"), lambda path, _: convert_compvis(path, SAVED / "config.yaml", path.parent / "made")),
    "checkpoint .bin": (beside_config("model.bin"), lambda path, _: load_compvis_prior(path)),
    "denoiser .bin": (folder_with(a_prior, f"{NAME}.bin", "unet"), lambda path, _: Prior.from_pretrained(path)),
    "denoiser safetensors": (folder_with(a_prior, f"{NAME}.safetensors", "unet"), lambda path, _: Prior.from_pretrained(path)),
    "autoencoder .bin": (folder_with(a_prior, f"{NAME}.bin", "vae"), lambda path, _: take_prior(path, path.parent / "taken")),
    "autoencoder fp16": (folder_with(a_prior, f"{NAME}.fp16.bin", "vae"), lambda path, _: Prior.from_pretrained(path)),
    "hub .bin": (folder_with(a_prior, f"{NAME}.bin", "unet"), from_hub),
    "encoder .bin": (folder_with(an_encoder, f"{NAME}.bin"), lambda path, _: SeverityEncoder.from_pretrained(path)),
    "encoder safetensors": (folder_with(an_encoder, f"{NAME}.safetensors"), lambda path, _: SeverityEncoder.from_pretrained(path)),
    "features .bin": (folder_with(some_features, f"{NAME}.bin"), lambda path, _: Features.from_pretrained(path)),
    "published severity": (alone("encoder.ckpt"), lambda path, _: load_published(path, make_prior(40))),
    "training resumes": (alone("run.ckpt"), lambda path, _: train_on(path)),
    "blur network": (alone("blur.pth"), lambda path, _: EncodedBlurNetwork.load(str(path), None)),
    "images": (in_splits, lambda path, _: open_split(path, "test")),
    "baseline": (alone("pair.npz"), lambda path, _: baseline.load(path, None)),
    "rows": (alone("rows.parquet"), lambda path, _: read_rows(path, 17)),
    "record": (alone("record.json"), lambda path, _: read_json(path)),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("door", DOORS)
def test_a_payload_does_not_run_and_one_sentence_says_why(door, writer, tmp_path, monkeypatch):
    place, read = DOORS[door]
    there = tmp_path / "executed"
    path = place(WRITERS[writer], {"state_dict": {"a": torch.zeros(1)}, "x": Payload(there)}, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        read(path, monkeypatch)
    assert not there.exists()
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said
    assert "weights_only" not in said and "allow_pickle=True" not in said  # no advice to execute it


@pytest.mark.parametrize("writer", WRITERS)
def test_the_payload_is_live(writer, tmp_path):
    """So that the tests above could fail: a reader that trusts the file does run it."""
    there, path = tmp_path / "executed", tmp_path / "file"
    WRITERS[writer]({"x": Payload(there)}, path)
    if writer == "parquet_extension":
        pickle.loads(pyarrow.parquet.read_schema(path).metadata[b"pandas"])
    elif writer.endswith("object"):
        loaded = np.load(path, allow_pickle=True)
        loaded["ids"] if writer == "npz_object" else loaded
    elif writer == "bare":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert there.is_dir()


def test_a_command_does_not_run_it_either(tmp_path, capsys):
    zipped({"state_dict": {}, "x": Payload(tmp_path / "executed")}, tmp_path / "model.ckpt")
    assert cli.main(["convert", str(tmp_path / "model.ckpt"), str(SAVED / "config.yaml"), str(tmp_path / "made")]) == 2
    assert not (tmp_path / "executed").exists() and not (tmp_path / "made").exists()
    assert "neither a tensor nor plain data" in capsys.readouterr().err


def test_a_data_set_s_own_program_is_not_run(tmp_path):
    """A folder for the library datasets may hold a program that older releases of it ran to load the data."""
    from flashdiff.datasets.hugging_face import hugging_face

    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "pictures.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    with pytest.raises(ValueError, match=r"^data\.images: ") as refused:
        hugging_face({"images": str(folder)}, "data")
    assert not (tmp_path / "executed").exists() and "\n" not in str(refused.value)


def test_rows_are_rows_whatever_is_said_of_their_types(tmp_path):
    """pandas reads its own notes in a parquet file as JSON."""
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet", 1).a.tolist() == [1]
