"""The loop: exact resume, order of images, averaged weights, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from flashdiff.training import Recipe, batch_ids, keyed, train

RECIPE = Recipe(steps=60, batch_size=4, learning_rate=0.01, warmup=5, ema=0.9, checkpoint_every=20, seed=3)


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def loss_that(stop_at=None):
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3))).float()

    def loss(model, ids, step):
        if step == stop_at:
            raise KeyboardInterrupt
        value = (model(data[ids]) - data[ids].sum(1, keepdim=True)).square().mean()
        return value, {"mse": value}

    return loss


def test_resumed_training_gives_the_same_weights_bit_for_bit(tmp_path):
    whole, parts = make(), make()
    curve = train(whole, loss_that(), 10, RECIPE, tmp_path / "whole.ckpt")
    with pytest.raises(KeyboardInterrupt):
        train(parts, loss_that(stop_at=47), 10, RECIPE, tmp_path / "parts.ckpt")
    parts = make()
    resumed = train(parts, loss_that(), 10, RECIPE, tmp_path / "parts.ckpt")
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
        train(make(), loss_that(), 10, Recipe(steps=61, batch_size=4, learning_rate=0.01), tmp_path / "x.ckpt")


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


def test_a_changed_weight_of_the_loss_does_not_continue_from_the_old_encoder(tiny_prior, tmp_path):
    """The number of steps and all else that the loop knows are equal: only the key tells the two trainings apart."""
    from flashdiff.degradations import GaussianBlur
    from flashdiff.severity_training import train_severity_encoder

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
