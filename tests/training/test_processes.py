"""Training in processes of its own: killed with SIGKILL, on two processes, from the command line, ahead of its stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from small_training import TWO_PROCESSES, double_loss_that, make

from flashdiff import cli
from flashdiff.datasets.splits import open_split
from flashdiff.degradations import build
from flashdiff.prior import Prior
from flashdiff.study.schema import load, select
from flashdiff.training import loop as training
from flashdiff.training.severity import CHECKPOINT, train_severity_encoder

ROOT = Path(__file__).parents[2]
# accelerate's own launcher of several processes is the one for GPUs; without a GPU the processes use their CPU
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

ENCODER = """
import sys
import numpy as np, torch

sys.path.insert(0, {tests!r})
from conftest import make_prior
from flashdiff.degradations import GaussianBlur
from flashdiff.training.severity import train_severity_encoder

torch.set_num_threads(1)
folder, images = sys.argv[1], np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)
recipe = dict(steps=120, batch_size=4, learning_rate=1e-3, ema=0.9, mixed_precision="no", checkpoint_every=5)
recipe |= dict(lambda_sigma=1.0, lambda_image=1.0)
arguments = (make_prior(40).float(), GaussianBlur(radius=8), 0.1, images, images, recipe)
encoder, curve = train_severity_encoder(*arguments, seed=0, checkpoint=folder + "/run/encoder.ckpt")
torch.save(encoder.state_dict(), folder + "/final.pt")
curve.to_csv(folder + "/curve.csv")
"""

MLP = """
import os, signal, sys

sys.path.insert(0, {tests!r})
from small_training import TWO_PROCESSES, double_loss_that, make
from flashdiff.training.loop import train

# the middle third of the run: from the checkpoint of step 10, until a kill in step 25
loss = double_loss_that(refuse_before=10)

def deadly(model, ids, step):
    assert len(ids) == 2  # two processes, two parts
    if step == 25:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(model, ids, step)

train(make().double(), deadly, 10, TWO_PROCESSES, sys.argv[1])
"""


def script(folder: Path, source: str) -> Path:
    path = folder / "script.py"
    path.write_text(source.format(tests=str(ROOT / "tests")))
    return path


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path):
    """kill -9 as soon as a checkpoint lies there, then again from the start: against a run that nobody disturbed."""
    command = [sys.executable, str(script(tmp_path, ENCODER))]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=ENVIRONMENT)

    run, quiet = tmp_path / "killed/run", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, str(tmp_path / "killed")], env=ENVIRONMENT, **quiet) as process:
        while process.poll() is None and not list(run.glob("*.ckpt")):
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (checkpoint,) = run.glob("*.ckpt")
    assert 5 <= torch.load(checkpoint, weights_only=True)["step"] < 120
    assert not (tmp_path / "killed/final.pt").exists()

    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True, env=ENVIRONMENT)
    whole, killed = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "killed"))
    torch.testing.assert_close(killed, whole, rtol=0, atol=0)
    assert (tmp_path / "killed/curve.csv").read_bytes() == (tmp_path / "whole/curve.csv").read_bytes()


@pytest.mark.slow
def test_the_number_of_processes_may_change_in_mid_training(tmp_path):
    """One process, then two that are killed, then one again, in float64: against one process all the way."""

    whole, parts = make().double(), make().double()
    curve = training.train(whole, double_loss_that(), 10, TWO_PROCESSES, tmp_path / "whole.ckpt")
    checkpoint = tmp_path / "parts.ckpt"
    with pytest.raises(KeyboardInterrupt):
        training.train(parts, double_loss_that(stop_at=15), 10, TWO_PROCESSES, checkpoint)
    assert torch.load(checkpoint, weights_only=True)["step"] == 10

    launched = [*LAUNCH, str(script(tmp_path, MLP)), str(checkpoint)]
    run = subprocess.run(launched, capture_output=True, text=True, env=ENVIRONMENT)
    assert run.returncode != 0 and "SIGKILL" in run.stderr, run.stderr[-3000:]
    assert torch.load(checkpoint, weights_only=True)["step"] == 20

    parts = make().double()
    resumed = training.train(parts, double_loss_that(refuse_before=20), 10, TWO_PROCESSES, checkpoint)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(resumed.values, curve.values, rtol=1e-10, atol=1e-12)


def train_as_the_stage_does(degradation: str, checkpoint: str, **changed):
    """What the cell of the training notebook does, with parameters as papermill hands them over."""
    study = load()
    entry, severity = (
        json.loads(json.dumps(select(study, path))) for path in (f"degradations.{degradation}", "severity")
    )
    severity |= changed
    operator, noise_std = build(entry)
    images, validation = (open_split("data/splits", name).images for name in ("train", "validation"))
    return train_severity_encoder(
        Prior.from_pretrained("data/prior"), operator, noise_std, images, validation, severity, study.seed, checkpoint
    )


def test_the_stage_looks_where_the_command_trains():
    (notebook,) = (json.loads(path.read_text()) for path in ROOT.glob("notebooks/*_train_severity.ipynb"))
    source = "".join("".join(cell["source"]) for cell in notebook["cells"])
    literal = CHECKPOINT.format(degradation="{degradation_name}")
    assert f'f"{literal}"' in source or "CHECKPOINT.format(degradation=degradation_name)" in source


def test_training_ahead_of_the_stage(tiny_study, monkeypatch, capsys):
    """The stage finds the encoder finished: it asks for no loss, and gets the same encoder and curve."""
    monkeypatch.chdir(tiny_study)
    assert cli.main(["train", "gaussian_blur"]) == 0
    assert capsys.readouterr().out.startswith(
        "gaussian_blur: severity encoder trained for 20 steps on 1 processes, ordering"
    )
    (checkpoint,) = Path(".build/severity/gaussian_blur").iterdir()

    def refuse(*arguments, **options):
        raise AssertionError("trained again what was finished")

    monkeypatch.setattr(training.Run, "advance", refuse)
    changed = {"accumulation": 2, "checkpoint_every": 5}  # what the machine chooses may have changed meanwhile
    encoder, curve = train_as_the_stage_does("gaussian_blur", ".build/severity/gaussian_blur/encoder.ckpt", **changed)
    state = torch.load(checkpoint, weights_only=True)
    assert torch.equal(encoder.std_conv.weight, state["ema"]["shadow_params"][-2])
    assert list(curve.step) == [20] and curve.ordering_accuracy.between(0, 1).all()


def test_a_published_encoder_is_not_trained(tiny_study, monkeypatch, capsys):
    monkeypatch.chdir(tiny_study)
    study = YAML(typ="safe").load(Path("params.yaml"))
    study["prior"] = {"kind": "use_prior", "path": "theirs", "severity": {"mixture": "theirs.ckpt"}}
    YAML().dump(study, Path("params.yaml"))
    assert cli.main(["train", "mixture"]) == 2
    assert "prior.severity.mixture: that encoder is used, none is trained" in capsys.readouterr().err


def test_an_unknown_degradation_and_missing_images_are_named(tiny_study, monkeypatch, capsys):
    monkeypatch.chdir(tiny_study)
    assert cli.main(["train", "fog"]) == 2
    expected = "degradations: 'fog' is not among the study's degradations; choose one of gaussian_blur, "
    assert expected in capsys.readouterr().err
    (tiny_study / "data/splits").rename(tiny_study / "data/elsewhere")
    assert cli.main(["train", "gaussian_blur"]) == 2
    assert "data/splits: no complete splits in this folder" in capsys.readouterr().err
    assert not Path(".build").exists()


@pytest.mark.slow
def test_two_processes_train_the_encoder_of_one(tiny_study, monkeypatch):
    """`accelerate launch ... flashdiff train` on two CPU processes; the stage then has nothing left to train.

    On inpainting: of the blur's pairs of levels, one has severities that differ by 1e-7, which rounding turns round; here the
    nearest two differ by 1e-4.
    """
    monkeypatch.chdir(tiny_study)
    launch = [*LAUNCH, "-m", "flashdiff.cli", "train", "random_inpainting"]
    run = subprocess.run(launch, capture_output=True, text=True, env=ENVIRONMENT)
    assert run.returncode == 0, run.stderr[-3000:]
    (line,) = run.stdout.splitlines()
    assert line.startswith("random_inpainting: severity encoder trained for 20 steps on 2 processes")

    alone, curve_alone = train_as_the_stage_does("random_inpainting", "alone/encoder.ckpt")

    def refuse(*arguments, **options):
        raise AssertionError("trained again what was finished")

    monkeypatch.setattr(training.Run, "advance", refuse)
    both, curve = train_as_the_stage_does("random_inpainting", ".build/severity/random_inpainting/encoder.ckpt")
    # not the weights one by one: a bias in front of a normalisation changes nothing, and Adam makes steps of its rounding
    y = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (16, 1, 16, 16))).float()
    for a, b in zip(alone.infer(y), both.infer(y), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        curve.drop(columns="spearman_error"), curve_alone.drop(columns="spearman_error"), rtol=1e-3
    )


def test_processes_that_found_different_checkpoints_do_not_start(monkeypatch, tmp_path):

    run = training.Run(make(), None, 10, TWO_PROCESSES, None)
    monkeypatch.setattr(run.accelerator, "gather", lambda step: torch.cat([step, step + 250]))
    with pytest.raises(ValueError, match=r"the processes found those of steps \[0, 250\]"):
        run.check_agreement()
