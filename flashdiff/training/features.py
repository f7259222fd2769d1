"""How the classifier is trained in whose features a study measures distances."""

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashdiff.datasets.splits import to_float
from flashdiff.devices import device
from flashdiff.measures.features import Features
from flashdiff.training.loop import Recipe, keyed, train


def train_features(
    images: np.ndarray, labels: np.ndarray, parameters: Mapping, checkpoint: str | os.PathLike
) -> tuple[Features, pd.DataFrame]:
    """Train the classifier on uint8 images; without labels (-1) it learns which of four quarter turns an image took.

    ``parameters`` is the study's ``prior.features``. Returns the classifier and its learning curve with ``accuracy`` on
    the training batches.
    """
    turned = bool((labels < 0).all())
    torch.manual_seed(parameters["seed"])
    model = Features(images.shape[1], 4 if turned else int(labels.max()) + 1).to(device())

    def loss(model: nn.Module, ids: np.ndarray, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = to_float(images[ids])
        target = torch.from_numpy((ids + step) % 4 if turned else labels[ids])
        if turned:
            x = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x, target, strict=True)])
        x, target = x.to(device()), target.to(device())
        logits = model(x)
        return F.cross_entropy(logits, target), {"accuracy": (logits.argmax(1) == target).float().mean()}

    recipe = Recipe.of(parameters)
    path = keyed(checkpoint, dict(parameters), images, labels)
    return model, train(model, loss, len(images), recipe, path, title="features")
