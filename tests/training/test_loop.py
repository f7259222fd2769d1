"""The loop: exact resume, order of images, accumulation, averaged weights, duration, refusals, and the curve in DVCLive."""

import dataclasses
import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from small_training import double_loss_that, make

from flashdiff.messages import duration
from flashdiff.training import live_curve
from flashdiff.training import loop as training
from flashdiff.training.loop import Recipe, batch_ids, decisive, keyed, train

RECIPE = Recipe(steps=60, batch_size=4, learning_rate=0.01, warmup=5, ema=0.9, checkpoint_every=20, seed=3)


def loss_that(stop_at=None):
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3))).float()

    def loss(model, ids, step):
        if step == stop_at:
            raise KeyboardInterrupt
        value = (model(data[ids]) - data[ids].sum(1, keepdim=True)).square().mean()
        return value, {"mse": value}

    return loss


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_resumed_training_gives_the_same_weights_bit_for_bit(precision, tmp_path):
    recipe = dataclasses.replace(RECIPE, mixed_precision=precision)
    whole, parts = make(), make()
    curve = train(whole, loss_that(), 10, recipe, tmp_path / "whole.ckpt")
    with pytest.raises(KeyboardInterrupt):
        train(parts, loss_that(stop_at=47), 10, recipe, tmp_path / "parts.ckpt")
    parts = make()
    resumed = train(parts, loss_that(), 10, recipe, tmp_path / "parts.ckpt")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert curve.equals(resumed)


def test_finished_training_is_not_repeated(tmp_path):
    first, again = make(), make()
    train(first, loss_that(), 10, RECIPE, tmp_path / "x.ckpt")
    train(again, loss_that(stop_at=0), 10, RECIPE, tmp_path / "x.ckpt")
    assert torch.equal(first[0].weight, again[0].weight)


def test_training_learns_and_returns_averaged_weights(tmp_path):
    model = make()
    curve = train(model, loss_that(), 10, Recipe(400, 8, 0.02, ema=0.95, seed=0), tmp_path / "x.ckpt")
    assert curve.loss.iloc[-1] < 0.1 * curve.loss.iloc[0]
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert torch.equal(model[0].weight, state["ema"]["shadow_params"][0])
    assert not torch.equal(model[0].weight, state["model"]["0.weight"])


def test_another_recipe_is_refused(tmp_path):
    train(make(), loss_that(), 10, RECIPE, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="another recipe"):
        train(make(), loss_that(), 10, dataclasses.replace(RECIPE, seed=4), tmp_path / "x.ckpt")


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, tmp_path):
    """In float64, where only rounding is left; 3 does not divide the batch of 4."""
    whole, split = make().double(), make().double()
    seen = []
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3)))

    def loss(model, ids, step):
        seen.append(ids.tolist())
        error = model(data[ids]) - data[ids].sum(1, keepdim=True)
        return error.square().mean(), {"bias": error.mean()}

    curve = train(whole, loss, 10, RECIPE, tmp_path / "whole.ckpt")
    batches = [*seen]
    seen.clear()
    recipe = dataclasses.replace(RECIPE, accumulation=parts)
    torch.testing.assert_close(train(split, loss, 10, recipe, tmp_path / "split.ckpt").values, curve.values)
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    steps = [list(itertools.chain(*seen[first : first + parts])) for first in range(0, len(seen), parts)]
    assert steps == batches and max(map(len, seen)) == -(-4 // parts)


@pytest.mark.parametrize("parts", [0, 5])
def test_parts_without_images_are_refused(parts, tmp_path):
    recipe = dataclasses.replace(RECIPE, accumulation=parts)
    with pytest.raises(ValueError, match=f"accumulation: {parts} parts of the 4 images .* choose 1 to 4"):
        train(make(), loss_that(), 10, recipe, tmp_path / "x.ckpt")


def test_accumulation_and_checkpoint_interval_may_change_in_mid_training(tmp_path):
    whole, parts = make().double(), make().double()
    loss = double_loss_that()
    train(whole, loss, 10, RECIPE, tmp_path / "whole.ckpt")
    with pytest.raises(KeyboardInterrupt):
        train(parts, double_loss_that(stop_at=25), 10, RECIPE, tmp_path / "parts.ckpt")
    other = dataclasses.replace(RECIPE, accumulation=2, checkpoint_every=7)
    parts = make().double()
    train(parts, double_loss_that(refuse_before=20), 10, other, tmp_path / "parts.ckpt")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_checkpoint_from_before_accumulation_continues(tmp_path):
    whole, parts = make(), make()
    train(whole, loss_that(), 10, RECIPE, tmp_path / "whole.ckpt")
    with pytest.raises(KeyboardInterrupt):
        train(parts, loss_that(stop_at=25), 10, RECIPE, tmp_path / "parts.ckpt")
    state = torch.load(tmp_path / "parts.ckpt", weights_only=True)
    del state["recipe"]["accumulation"]
    torch.save(state, tmp_path / "parts.ckpt")
    parts = make()
    train(parts, loss_that(), 10, RECIPE, tmp_path / "parts.ckpt")
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


# ----------------------------------------------------------------------------------------------- how long it will take


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (45.4, "45 s"),
        (0.2, "1 s"),
        (89, "89 s"),
        (120, "2 min"),
        (3540, "59 min"),
        (3599, "1 h"),
        (3900, "1 h 5 min"),
        (4079, "1 h 10 min"),
        (7190, "2 h"),
        (35_700, "9 h 55 min"),
        (35_990, "10 h"),
        (39_400, "11 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def slow(monkeypatch):
    """A loss whose step s lasts ``seconds(s)`` by the clock of the loop, which only it moves."""
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(seconds, stop_at=None):
        loss = loss_that(stop_at)

        def work(model, ids, step):
            now[0] += seconds(step)
            return loss(model, ids, step)

        return work

    return slow


LONG = dataclasses.replace(RECIPE, steps=1240)


@pytest.mark.parametrize(("seconds", "said"), [(0.04, ""), (0.15, "about 3 min left"), (6.0, "about 2 h left")])
def test_a_long_run_says_after_its_first_steps_how_long_it_will_take(seconds, said, slow, tmp_path, capsys):
    """1220 steps are left then; the first step, which also allocates, does not count. A short run says nothing."""
    loss = slow(lambda step: 500 if step == 0 else seconds, stop_at=20)
    with pytest.raises(KeyboardInterrupt):
        train(make(), loss, 10, LONG, tmp_path / "x.ckpt", title="tiny")
    told = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert told == ([f"tiny: 1 240 steps on 1 CPU thread, {said}"] if said else [])


def test_a_resumed_run_measures_its_own_steps(slow, tmp_path, capsys):
    """Evaluations do not count: one of them, a thousand seconds long, falls among the steps that are timed."""
    options = {"evaluate": lambda model: {"one": 1.0}, "evaluate_every": 50, "title": "tiny"}
    with pytest.raises(KeyboardInterrupt):
        train(make(), slow(lambda step: 100, stop_at=45), 10, LONG, tmp_path / "x.ckpt", **options)
    assert "about 34 h left" in capsys.readouterr().err

    idle = slow(lambda step: 1000)

    def evaluate(model):
        idle(model, np.arange(4), 0)
        return {"one": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train(
            make(), slow(lambda step: 1, stop_at=61), 10, LONG, tmp_path / "x.ckpt", **options | {"evaluate": evaluate}
        )
    assert "tiny: 1 240 steps on 1 CPU thread, about 20 min left" in capsys.readouterr().err


def test_a_full_gpu_names_the_remedy(tmp_path):
    def loss(model, ids, step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    recipe = dataclasses.replace(RECIPE, batch_size=7, accumulation=2)
    with pytest.raises(
        MemoryError, match=r"tiny: 4 images at once .* raise accumulation \(now 2.* batch_size \(now 7\)"
    ):
        train(make(), loss, 10, recipe, tmp_path / "x.ckpt", title="tiny")


# ---------------------------------------------------------------------------------------------------------- DVCLive


@pytest.fixture
def ask_again(monkeypatch):
    """Whether dvclive is there is asked once per process; a test asks for itself, and leaves no answer behind."""
    live_curve._dvclive.cache_clear()
    yield monkeypatch
    live_curve._dvclive.cache_clear()


def test_without_dvclive_one_sentence_says_so_once(ask_again, tmp_path, capsys):
    ask_again.setitem(sys.modules, "dvclive", None)
    for name in ("a", "b"):
        curve = train(make(), loss_that(), 10, RECIPE, tmp_path / f"{name}.ckpt", live=tmp_path / "live")
        assert list(curve.step) == [50, 60]
    assert capsys.readouterr().err.count("pip install 'flashdiff[live]'") == 1
    assert not (tmp_path / "live").exists()


def test_nobody_who_does_not_ask_hears_of_dvclive(ask_again, tmp_path, capsys):
    ask_again.setitem(sys.modules, "dvclive", None)
    train(make(), loss_that(), 10, RECIPE, tmp_path / "x.ckpt")
    assert "dvclive" not in capsys.readouterr().err


def test_a_resumed_curve_in_dvclive_is_the_whole_curve(ask_again, tmp_path):
    """The kill comes after rows that the last checkpoint does not know; no row is lost, none comes twice."""
    pytest.importorskip("dvclive")
    recipe = dataclasses.replace(RECIPE, steps=240, checkpoint_every=60)
    options = {"evaluate": lambda model: {"weight": float(model[0].weight.sum())}, "evaluate_every": 100}
    arguments = (10, recipe, tmp_path / "x.ckpt")
    live = tmp_path / "live"
    with pytest.raises(KeyboardInterrupt):
        train(make(), loss_that(stop_at=170), *arguments, live=live, **options)
    assert list(pd.read_csv(live / "plots/metrics/loss.tsv", sep="\t").step) == [50, 100, 150]
    curve = train(make(), loss_that(), *arguments, live=live, **options)
    for name in ("loss", "mse", "weight"):
        logged = pd.read_csv(live / f"plots/metrics/{name}.tsv", sep="\t").set_index("step")[name]
        pd.testing.assert_series_equal(logged, curve.dropna(subset=[name]).set_index("step")[name])
    last = json.loads((live / "metrics.json").read_text())
    assert last == curve.iloc[-1].to_dict()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # dvclive's use of pathspec
@pytest.mark.parametrize("experiment", [False, True])
def test_dvclive_leaves_nothing_to_git_and_dvc(experiment, ask_again, tmp_path):
    """As in a stage that `dvc repro` or `dvc exp run` started: .build is ignored, and no dvc.yaml or experiment appears."""
    pytest.importorskip("dvclive")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    (tmp_path / ".gitignore").write_text(".build/\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "start"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "--quiet", "--all", "--message", "dvc"], cwd=tmp_path, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    ask_again.chdir(tmp_path)
    ask_again.setenv("DVC_ROOT", str(tmp_path))
    if experiment:
        ask_again.setenv("DVC_EXP_BASELINE_REV", head.strip())
    with live_curve.live_curve(".build/live/blur", []) as add:
        add({"step": 50, "loss": 1.0})
    assert (tmp_path / ".build/live/blur/plots/metrics/loss.tsv").is_file()
    changed = subprocess.run([*git, "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True)
    refs = subprocess.run([*git, "for-each-ref"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert changed.stdout == "" and len(refs.stdout.splitlines()) == 1


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_diverging_loss_is_named(tmp_path):
    def loss(model, ids, step):
        return model(torch.full((2, 3), torch.nan)).mean(), {}

    with pytest.raises(FloatingPointError, match="training: the loss is nan at step 50"):
        train(make(), loss, 10, RECIPE, tmp_path / "x.ckpt")


def test_every_epoch_shows_every_image_once():
    recipe = Recipe(steps=10, batch_size=4, learning_rate=0.1, seed=1)
    seen = np.concatenate([batch_ids(10, recipe, step) for step in range(10)])
    for epoch in seen.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:20])
    assert np.array_equal(batch_ids(10, recipe, 3), seen[12:16])  # a function of (seed, step) alone


def test_checkpoint_key_tells_everything_apart_that_training_depends_on():
    images = np.zeros((3, 1, 4, 4), np.uint8)
    base = keyed("a/encoder.ckpt", {"kl": 0.1, "steps": 3}, make(), images)
    assert base == keyed("a/encoder.ckpt", {"steps": 3, "kl": 0.1}, make(), images.copy())
    assert base.parent.name == "a" and base.suffix == ".ckpt" and base.stem.startswith("encoder-")
    other_weights = make()
    with torch.no_grad():
        next(other_weights.parameters())[0, 0] += 1e-3
    others = [
        keyed("a/encoder.ckpt", {"kl": 0.2, "steps": 3}, make(), images),
        keyed("a/encoder.ckpt", {"kl": 0.1, "steps": 3}, other_weights, images),
        keyed("a/encoder.ckpt", {"kl": 0.1, "steps": 3}, make(), images + 1),
        keyed("a/encoder.ckpt", {"kl": 0.1, "steps": 3}, make(), images[:2]),
    ]
    assert len({base, *others}) == 5


def test_what_a_machine_chooses_is_not_decisive(tiny_prior, tmp_path):
    """Its parameters are no part of a checkpoint's name, nor of the recipe that later stages compare."""
    from flashdiff.training.severity import recipe

    section = {"steps": 3, "accumulation": 2, "checkpoint_every": 9, "ema": None}
    assert decisive(section) == {"steps": 3, "ema": None}
    expected = {"seed": 1, "severity": {"steps": 3}, "degradation": {"kind": "box"}}
    assert recipe(1, section, {"kind": "box", "weights": None}) == expected


def test_a_recipe_does_not_depend_on_the_order_of_the_schema():
    """Its file is compared byte by byte, and a mixture's members have fields of their own."""
    from flashdiff.training.severity import recipe

    member = {"b": {"kind": "box", "weights": None, "noise_std": 0.1}}
    one = recipe(1, {"steps": 3, "ema": 0.9}, {"kind": "mixture", "members": member | {"a": {"kind": "blur"}}})
    other = {"members": {"a": {"kind": "blur"}, "b": {"noise_std": 0.1, "kind": "box"}}, "kind": "mixture"}
    assert json.dumps(one) == json.dumps(recipe(1, {"ema": 0.9, "steps": 3}, other))


def test_a_changed_weight_of_the_loss_does_not_continue_from_the_old_encoder(tiny_prior, tmp_path):
    """The number of steps and all else that the loop knows are equal: only the key tells the two trainings apart."""
    from flashdiff.degradations import GaussianBlur
    from flashdiff.training.severity import train_severity_encoder

    images = np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)
    recipe = {
        "steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "ema": 0.5,
        "mixed_precision": "no",
        "lambda_image": 1.0,
    }

    def train_with(weight):
        arguments = (tiny_prior.float(), GaussianBlur(radius=8), 0.1, images, images, recipe | {"lambda_sigma": weight})
        encoder, _ = train_severity_encoder(*arguments, seed=0, checkpoint=tmp_path / "encoder.ckpt")
        return encoder.std_conv.weight

    first = train_with(1.0)
    torch.testing.assert_close(train_with(1.0), first, rtol=0, atol=0)
    assert not torch.equal(train_with(100.0), first)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model.ckpt"
    train(make(), loss_that(), 10, RECIPE, path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0, 0.1, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_off_is_refused_with_the_remedy(checkpoint, share, tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(checkpoint[: int(share * len(checkpoint))])
    with pytest.raises(ValueError, match=r"^checkpoint: .*model.ckpt is damaged \(.+\); delete it, and the training"):
        train(make(), loss_that(), 10, RECIPE, path)


def test_a_checkpoint_with_another_bit_is_refused_or_the_same(checkpoint, tmp_path):
    """torch itself reads four fifths of them as if nothing was the matter."""
    path, expected = tmp_path / "model.ckpt", make()
    path.write_bytes(checkpoint)
    train(expected, loss_that(), 10, RECIPE, path)
    refused = 0
    for at in np.random.default_rng(0).integers(0, len(checkpoint), 60):
        content = bytearray(checkpoint)
        content[at] ^= 8
        path.write_bytes(content)
        model = make()
        try:
            train(model, loss_that(), 10, RECIPE, path)
        except ValueError:
            refused += 1
        else:
            for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
                assert torch.equal(ours, theirs)
    assert refused > 30


def test_a_full_disk_leaves_the_last_checkpoint_and_a_sentence(checkpoint, tmp_path):
    import resource

    path = tmp_path / "model.ckpt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(checkpoint) // 2, before[1]))
    try:
        with pytest.raises(OSError, match=r"model.part could not be written \(.*\); is the disk full\?"):
            train(make(), loss_that(), 10, RECIPE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
