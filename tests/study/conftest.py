"""Fixtures of tests of a study's records."""

import pytest
import torch

from flashdiff.measures.features import Features
from flashdiff.severity import SeverityEncoder
from flashdiff.study.comparison import Bench

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}


def make_bench(prior, n, seed, split="test"):
    """n noise images of 16 x 16, blurred, for LDPS, with a tiny prior and tiny models of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = Features(1, 2).eval()
    x = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    encoder = SeverityEncoder.from_prior(prior).eval()
    return Bench.build(prior, encoder, features, x, BLUR, {"kind": "ldps"}, seed=0, batch_size=4, split=split)


@pytest.fixture(scope="session")
def new_bench():
    """make_bench, for tests and for fixtures that outlive one."""
    return make_bench


@pytest.fixture
def load(tiny_prior):
    """(split, n) -> make_bench with other images for either split."""
    prior = tiny_prior.float()
    return lambda split, n: make_bench(prior, n, {"validation": 1, "test": 2}[split], split)
