"""The level of a measurement is found again: within what the noise allows, exactly without, and past false valleys."""

import numpy as np
import pytest
import torch

from flashdiff.degradations import BoxInpainting, GaussianBlur, RandomInpainting, SuperResolution, measure
from flashdiff.trust.blind import estimate_level

DEGRADATIONS = [GaussianBlur(0.3, 3.0, 8), SuperResolution(4.0), BoxInpainting(0.75)]
LEVELS = torch.linspace(0.061, 0.937, 7, dtype=torch.float64)  # none of the levels of the first grid


def scene(n):
    """Smooth images with detail at all scales, (n, 1, 16, 16) float64."""
    draw = np.random.default_rng(0).normal(size=(n, 1, 16, 16))
    frequency = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16))
    images = np.fft.ifft2(np.fft.fft2(draw) / (0.05 + frequency)).real
    return torch.from_numpy(images / np.abs(images).max((1, 2, 3), keepdims=True))


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=lambda d: type(d).__name__)
def test_level_without_noise_is_found_to_the_last_round(degradation):
    x = scene(len(LEVELS))
    m = measure(x, degradation, LEVELS, 0.0)
    t, residual = estimate_level(m.y, x, degradation, m.ids)
    torch.testing.assert_close(t, LEVELS, rtol=0, atol=2e-4)  # the last grid is 5e-5 wide
    assert residual.max() < 1e-2


def test_error_under_noise_is_what_the_derivative_says():
    """Least squares in one unknown: std(t) = noise_std / ||dA/dt||, here by finite differences; 200 draws of the noise."""
    blur, noise_std, n = GaussianBlur(0.3, 3.0, 8), 0.05, 200
    x, level = scene(1).expand(n, -1, -1, -1), torch.full((n,), 0.4, dtype=torch.float64)
    m = measure(x, blur, level, noise_std, seed=3)
    t, residual = estimate_level(m.y, x, blur, m.ids)
    slope = (blur.A(x[:1], level[:1] + 1e-4) - blur.A(x[:1], level[:1] - 1e-4)).norm() / 2e-4
    expected = noise_std / slope
    assert abs(t.mean() - 0.4) < 4 * expected / n**0.5
    assert 0.8 < t.std() / expected < 1.2  # the sample deviation of 200 draws is known to 5 %
    assert abs(residual.mean() - noise_std) < 0.1 * noise_std


@pytest.mark.parametrize("degradation", [*DEGRADATIONS, RandomInpainting(0.9, 2.0)], ids=lambda d: type(d).__name__)
def test_no_level_of_a_fine_grid_fits_better(degradation):
    """Brute force over 2001 levels, with a wrong image in place of the true one."""
    x = scene(3)
    m = measure(x, degradation, LEVELS[[1, 3, 5]], 0.05, ids=np.array([5, 0, 9]))
    wrong = 0.9 * x
    _, residual = estimate_level(m.y, wrong, degradation, m.ids)
    for k in range(3):
        fine = torch.linspace(0, 1, 2001, dtype=torch.float64)
        made = degradation.A(wrong[k : k + 1].expand(2001, -1, -1, -1), fine, np.full(2001, m.ids[k]))
        best = (m.y[k] - made).square().flatten(1).mean(1).min().sqrt()
        assert residual[k] <= best * (1 + 1e-4)


def test_batch_mates_do_not_matter():
    x = scene(3)
    m = measure(x, DEGRADATIONS[0], LEVELS[:3], 0.05)
    together, _ = estimate_level(m.y, x, DEGRADATIONS[0], m.ids)
    for k in range(3):
        alone, _ = estimate_level(m.y[k : k + 1], x[k : k + 1], DEGRADATIONS[0], m.ids[k : k + 1])
        assert torch.equal(alone[0], together[k])
