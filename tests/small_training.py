"""A training that takes a moment: a small network, its loss, and the recipe of a run on two processes."""

import numpy as np
import torch
from torch import nn

from flashdiff.training.loop import Recipe

TWO_PROCESSES = Recipe(
    steps=40, batch_size=8, learning_rate=0.01, warmup=5, ema=0.9, checkpoint_every=10, seed=3, accumulation=2
)


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def double_loss_that(stop_at=None, refuse_before=0):
    data = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 3)))

    def loss(model, ids, step):
        assert step >= refuse_before
        if step == stop_at:
            raise KeyboardInterrupt
        return (model(data[ids]) - data[ids].sum(1, keepdim=True)).square().mean(), {}

    return loss
