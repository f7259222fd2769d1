"""Settings of all tests; fixtures that several test files share go here, too."""

import json
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, whatever the user's matplotlibrc says
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # kernels of this environment, not those of the user's home

import numpy as np
import pytest
import torch

from flashdiff.late_imports import leave_out_grammar

leave_out_grammar()

# Tiny models gain nothing from threads, and threads that wait for each other crawl on a busy machine.
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores: the stages of a whole study wait for one another's programs."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Whole studies first: processes share the files, and a long one that starts last keeps all of them waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def diffusion(n_steps: int) -> dict:
    """Keyword arguments of diffusers' scheduler: the published betas at another length."""
    return {"num_train_timesteps": n_steps, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="session")
def tiny_diffusion():
    return diffusion(40)


def make_prior(n_steps: int):
    from diffusers import DDPMScheduler

    from flashdiff.prior import Prior
    from flashdiff.training.prior import build_autoencoder, build_denoiser

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = build_autoencoder(1, 2, [8, 16], 4, 1)
        autoencoder.register_to_config(scaling_factor=1.7)
        unet = build_denoiser(4, 4, [32, 32], 1, 8)
    return Prior(autoencoder, unet, DDPMScheduler(**diffusion(n_steps)).alphas_cumprod, pixel_unshuffle=2).double()


@pytest.fixture
def tiny_prior():
    """Random weights, float64, N = 40; images (1, 16, 16), latents (4, 4, 4)."""
    return make_prior(40)


@pytest.fixture
def fine_prior():
    """The published schedule, N = 1000: steps fine enough to compare variances."""
    return make_prior(1000)


@pytest.fixture
def tiny_encoder(tiny_prior):
    from flashdiff.severity import SeverityEncoder

    return SeverityEncoder.from_prior(tiny_prior).double().eval().requires_grad_(False)


def write_study(folder: Path) -> Path:
    """The smoke study's parameters beside tiny models of random weights (float32), noise images, and a tuning record."""
    from flashdiff.datasets.splits import write_splits
    from flashdiff.measures.features import Features
    from flashdiff.severity import SeverityEncoder

    smoke = Path(__file__).parents[1] / "studies/smoke/params.yaml"
    (folder / "params.yaml").write_text(smoke.read_text())
    draw = np.random.default_rng(0)
    parts = {
        name: [(draw.integers(0, 256, (1, 16, 16), dtype=np.uint8), 0) for _ in range(8)]
        for name in ("train", "validation", "test")
    }
    write_splits(folder / "data/splits", parts, "noise")
    prior = make_prior(40).float()
    # a denoiser that answers little: at full size, random weights amplify rounding until it shows
    with torch.no_grad():
        prior.unet.conv_out.weight.mul_(0.02)
    prior.save_pretrained(folder / "data/prior", diffusion(40))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Features(1, 2).save_pretrained(folder / "data/prior/features")
    options = {
        "flash_published": {"correction": 1.2},
        "flash_consistent": {"k": 1.0},
        "fixed_mean": {},
        "fixed_fresh": {},
    }
    chosen = {m: {"solver": {"eta": 0.05}, "start": options.get(m, {})} for m in (*options, "full_length")}
    (folder / "data/tuned").mkdir(exist_ok=True)
    for seed, degradation in enumerate(("gaussian_blur", "random_inpainting", "mixture")):
        SeverityEncoder.from_prior(prior, seed=seed).save_pretrained(folder / "data/severity" / degradation)
        (folder / f"data/tuned/{degradation}-ldps.json").write_text(json.dumps({"chosen": chosen}))
    return folder


@pytest.fixture
def tiny_study(tmp_path):
    return write_study(tmp_path)


@pytest.fixture(scope="session")
def new_prior():
    """make_prior, for fixtures that outlive a test."""
    return make_prior


@pytest.fixture(scope="session")
def new_study():
    """write_study, for fixtures that outlive a test."""
    return write_study
