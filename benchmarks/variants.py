"""Ways to run the networks faster, each timed alternately with the plain engine in one run: ratios, and what they change.

`python -m benchmarks.variants`: some minutes; prints the table of what was tried and writes benchmarks/results/NAME-variants.md.
"""

import argparse
import copy
import math
import platform
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.engine import chunk, machine, measurements, seconds
from flashdiff.devices import device
from flashdiff.prior import Prior
from flashdiff.sampling import sample
from flashdiff.solvers import LDPS

BATCH, STEPS = 64, 8


def channels_last(prior: Prior) -> Prior:
    return prior.to(memory_format=torch.channels_last)


def denoiser_channels_last(prior: Prior) -> Prior:
    prior.unet.to(memory_format=torch.channels_last)
    return prior


def decoder_channels_last(prior: Prior) -> Prior:
    prior.autoencoder.to(memory_format=torch.channels_last)
    return prior


def compiled(prior: Prior) -> Prior:
    prior.unet = torch.compile(prior.unet, dynamic=False)
    prior.autoencoder.decoder = torch.compile(prior.autoencoder.decoder, dynamic=False)
    return prior


def unchanged(prior: Prior) -> Prior:
    return prior


VARIANTS: dict[str, tuple[Callable[[Prior], Prior], str]] = {
    "plain, float32": (unchanged, "no"),
    "channels_last, both networks": (channels_last, "no"),
    "channels_last, denoiser only": (denoiser_channels_last, "no"),
    "channels_last, autoencoder only": (decoder_channels_last, "no"),
    "bf16 autocast": (unchanged, "bf16"),
    "bf16 autocast, channels_last": (channels_last, "bf16"),
    "torch.compile": (compiled, "no"),
    "torch.compile, channels_last": (lambda prior: compiled(channels_last(prior)), "no"),
}


def images(prior: Prior, precision: str) -> Tensor:
    measurement, start = measurements(BATCH), torch.full((BATCH,), STEPS - 1)
    found = torch.empty(BATCH, *measurement.image_shape)
    parts = sample(
        prior,
        LDPS(),
        [chunk(prior, measurement, start)],
        batch_size=BATCH,
        mixed_precision=precision,
        progress=False,
    )
    for part in parts:
        found[part.rows] = part.images.float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default=platform.node() or "machine", help="of the results file")
    parser.add_argument("--rounds", type=int, default=4, help="how often each timing is repeated")
    given = parser.parse_args()
    plain = Prior.from_pretrained("data/prior").to(device())
    priors = {name: (change(copy.deepcopy(plain)), precision) for name, (change, precision) in VARIANTS.items()}
    first = {name: seconds(lambda p=prior, x=precision: images(p, x)) for name, (prior, precision) in priors.items()}
    best = dict.fromkeys(priors, math.inf)
    for _ in range(given.rounds):
        for name, (prior, precision) in priors.items():
            best[name] = min(best[name], seconds(lambda p=prior, x=precision: images(p, x)))
    reference = images(plain, "no")
    table = pd.DataFrame(
        [
            {
                "variant": name,
                "ms per image step": 1e3 * best[name] / (BATCH * STEPS),
                "speed-up": best["plain, float32"] / best[name],
                "first call, s more": first[name] - best[name],
                "largest change of a pixel": float((images(*priors[name]) - reference).abs().max()),
            }
            for name in priors
        ]
    )
    text = f"# What was tried: {given.name}\n\n{machine()} {BATCH} images, {STEPS} LDPS steps.\n\n"
    text += table.to_markdown(index=False, floatfmt=".3g") + "\n"
    path = Path(__file__).parent / "results" / f"{given.name}-variants.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(text, f"\nwritten to {path}")


if __name__ == "__main__":
    main()
