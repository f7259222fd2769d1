"""What the check of a prior's denoiser catches: the shipped prior as it is, and with one fault after another.

    python -m benchmarks.denoiser_check [SETS]

prints the table of docs/trust.md: for each fault, over SETS sets of validation images (10; the right prior sees ten times as
many), how often it was refused, and how far the two measures were from their bounds.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from flashdiff.batch import per_sample
from flashdiff.datasets.splits import open_split
from flashdiff.prior import Prior
from flashdiff.weights.denoiser_check import IMAGES, TOLD_OTHERWISE, denoiser_errors


def with_encoding(encode: Callable[[Prior, Tensor], Tensor]) -> Callable[[Prior], Prior]:
    """A prior whose latents of images are others than its own."""

    def fault(prior: Prior) -> Prior:
        faulty = Prior(prior.autoencoder, prior.unet, prior.abar[:-1], prior.pixel_unshuffle)
        faulty.encode = lambda x: encode(prior, x)
        return faulty

    return fault


def with_schedule(**fields) -> Callable[[Prior], Prior]:
    """A prior with the fields of another scheduler_config.json."""

    def fault(prior: Prior) -> Prior:
        return Prior(prior.autoencoder, prior.unet, DDPMScheduler(**fields).alphas_cumprod, prior.pixel_unshuffle)

    return fault


def with_prediction(read: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Prior], Prior]:
    """A prior whose denoiser answers with something else than the noise: read(z, eps, abar)."""

    def fault(prior: Prior) -> Prior:
        faulty = Prior(prior.autoencoder, prior.unet, prior.abar[:-1], prior.pixel_unshuffle)

        def predict(z: Tensor, i: Tensor) -> Tensor:
            return read(z, prior.predict_eps(z, i), per_sample(prior.signal(i), z).to(z.dtype))

        faulty.predict_eps = predict
        return faulty

    return fault


def _clean(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    return (z - (1 - abar).sqrt() * eps) / abar.sqrt()


def untrained(prior: Prior) -> Prior:
    """A denoiser of the same architecture with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel.from_config(prior.unet.config)
    return Prior(prior.autoencoder, unet, prior.abar[:-1], prior.pixel_unshuffle)


BETAS = {"beta_start": 0.0015, "beta_end": 0.0195}
SD = {"beta_start": 0.00085, "beta_end": 0.012}
CHANNELS = torch.tensor([0.5, 1.0, 1.5, 2.0])[:, None, None]
FAULTS: dict[str, Callable[[Prior], Prior]] = {
    "scaling_factor 0.18215 written out": with_encoding(lambda prior, x: 0.18215 * prior.encode(x)),
    "latents divided by 0.18215": with_encoding(lambda prior, x: prior.encode(x) / 0.18215),
    "latents at half their scale": with_encoding(lambda prior, x: 0.5 * prior.encode(x)),
    "latents at 0.8 of their scale": with_encoding(lambda prior, x: 0.8 * prior.encode(x)),
    "latents at 1.25 of their scale": with_encoding(lambda prior, x: 1.25 * prior.encode(x)),
    "latents at twice their scale": with_encoding(lambda prior, x: 2 * prior.encode(x)),
    "latents shifted by half a standard deviation": with_encoding(lambda prior, x: prior.encode(x) + 0.5),
    "channels scaled 0.5, 1, 1.5, 2": with_encoding(lambda prior, x: CHANNELS.to(x) * prior.encode(x)),
    "channels in another order": with_encoding(lambda prior, x: prior.encode(x)[:, [1, 0, 3, 2]]),
    "latents transposed": with_encoding(lambda prior, x: prior.encode(x).transpose(2, 3)),
    "images in [0, 1]": with_encoding(lambda prior, x: prior.encode((x + 1) / 2)),
    "images as their negatives": with_encoding(lambda prior, x: prior.encode(-x)),
    "images less their mean, by their deviation": with_encoding(lambda prior, x: prior.encode((x + 0.43) / 0.71)),
    "schedule: linear, 0.0001 to 0.02 (diffusers' default)": with_schedule(),
    "schedule: scaled linear, 0.00085 to 0.012 (Stable Diffusion)": with_schedule(beta_schedule="scaled_linear", **SD),
    "schedule: linear in place of scaled linear": with_schedule(**BETAS),
    "schedule: cosine": with_schedule(beta_schedule="squaredcos_cap_v2"),
    "schedule: sigmoid": with_schedule(beta_schedule="sigmoid"),
    "schedule: 500 indices": with_schedule(num_train_timesteps=500, beta_schedule="scaled_linear", **BETAS),
    "denoiser predicts v": with_prediction(
        lambda z, eps, abar: abar.sqrt() * eps - (1 - abar).sqrt() * _clean(z, eps, abar)
    ),
    "denoiser predicts z0": with_prediction(_clean),
    "denoiser untrained": untrained,
}


def measures(prior: Prior, images: np.ndarray) -> tuple[float, float]:
    """The largest error in units of its bound, and the least share of it that remains where another index is told."""
    rows = denoiser_errors(prior, images)
    return float((rows.error / rows.bound).max()), float((rows.told_error / rows.error).min())


def main(sets: int) -> None:
    """Print the table."""
    prior = Prior.from_pretrained("data/prior")
    validation, draw = open_split("data/splits", "validation"), np.random.default_rng(0)
    print("| prior | refused | error / bound | told otherwise |\n| --- | --- | --- | --- |")
    for name, fault in {"as shipped": lambda prior: prior, **FAULTS}.items():
        n = 10 * sets if name == "as shipped" else sets
        faulty = fault(prior)
        found = np.array([measures(faulty, validation[draw.choice(len(validation), IMAGES, False)]) for _ in range(n)])
        refused = int(((found[:, 0] > 1) | (found[:, 1] < TOLD_OTHERWISE)).sum())
        ranges = (f"{values.min():.2f} to {values.max():.2f}" for values in found.T)
        print(f"| {name} | {refused} of {n} | {' | '.join(ranges)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
