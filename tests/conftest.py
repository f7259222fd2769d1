"""Settings of all tests; fixtures that several test files share go here, too."""

import os

import matplotlib

matplotlib.use("Agg")  # no window, whatever the user's matplotlibrc says
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # kernels of this environment, not those of the user's home

import pytest
import torch

# Tiny models gain nothing from threads, and threads that wait for each other crawl on a busy machine.
torch.set_num_threads(1)


def diffusion(n_steps: int) -> dict:
    """Keyword arguments of diffusers' scheduler: the published betas at another length."""
    return {"num_train_timesteps": n_steps, "beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="session")
def tiny_diffusion():
    return diffusion(40)


def make_prior(n_steps: int):
    from diffusers import DDPMScheduler

    from flashdiff.prior import Prior
    from flashdiff.prior_training import build_autoencoder, build_denoiser

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
