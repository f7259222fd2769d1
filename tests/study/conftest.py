"""Fixtures of tests of a study's records."""

import pytest
import torch

from flashdiff.measures.features import Features
from flashdiff.severity import SeverityEncoder
from flashdiff.study.comparison import Bench

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}


@pytest.fixture
def load(tiny_prior):
    """(split, n) -> a bench of n noise images of 16 x 16, blurred, for LDPS, with tiny models of random weights."""
    prior = tiny_prior.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(1, 2).eval()
    encoder = SeverityEncoder.from_prior(prior).eval()

    def bench(split, n):
        seed = {"validation": 1, "test": 2}[split]
        x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return Bench.build(prior, encoder, features, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4, split=split)

    return bench
