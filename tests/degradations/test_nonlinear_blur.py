"""Camera shake in linear light: brute force with bilinear warps, the path, the camera response, saturation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from flashdiff.degradations import NonlinearBlur
from flashdiff.degradations.nonlinear_blur import linear_light, response

T = torch.tensor([0.0, 0.37, 1.0, 0.62], dtype=torch.float64)
IDS = np.array([7, 0, 31, 4])


def images(shape=(4, 3, 11, 14), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


def srgb_to_linear(v):
    """IEC 61966-2-1, written once more."""
    return np.where(v <= 0.04045, v / 12.92, np.abs((v + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(v):
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * np.abs(v) ** (1 / 2.4) - 0.055)


def test_against_an_average_of_warped_images_in_linear_light():
    """Independent computation: images to linear light, warped by scipy along the path, averaged, exposed, clipped."""
    blur, x = NonlinearBlur(length_min=1.0, length_max=8.0, gain_max=1.7, path_seed=2), images()
    y = blur.A(x, T, IDS).numpy()
    paths = blur._paths(IDS, T).numpy()
    rows, columns = np.mgrid[:11, :14]
    for k, t in enumerate(T.numpy()):
        light = srgb_to_linear((x[k].numpy() + 1) / 2)
        moved = [
            [map_coordinates(channel, [rows + down, columns + across], order=1, mode="mirror") for channel in light]
            for down, across in (1.0 + 7.0 * t) * paths[k]
        ]
        exposed = np.minimum((1 + 0.7 * t) * np.mean(moved, 0), 1)
        # 1e-6: the standard rounds the place where the toe ends to 0.0031308
        np.testing.assert_allclose(y[k], 2 * linear_to_srgb(exposed) - 1, atol=1e-6)


def test_paths_are_smooth_centred_and_of_unit_length():
    paths = NonlinearBlur(0.0, 25.0)._paths(np.arange(500), torch.ones(1, dtype=torch.float64))
    n = paths.shape[1]
    assert n == 200
    torch.testing.assert_close(paths.mean(1), torch.zeros(500, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    steps = paths.diff(dim=1) * n
    speed = steps.norm(dim=2)
    # a chord between midpoints is a little shorter than the arc where the path turns
    assert bool((speed <= 1 + 1e-12).all()) and bool((speed > 0.99).all())
    turns = (steps[:, 1:] * steps[:, :-1]).sum(2) / (speed[:, 1:] * speed[:, :-1])
    assert bool((turns > np.cos(0.2)).all())
    reach = paths.norm(dim=2).amax(1)
    assert bool((reach <= 0.5).all())  # so that a kernel of radius length / 2 holds every path
    ends = (paths[:, -1] - paths[:, 0]).norm(dim=1)
    assert 0.3 < float(ends.mean()) < 0.8 and float(ends.std()) > 0.1  # curved, and each in its own way


def test_paths_are_the_images_own_and_only_scaled_by_the_level():
    blur, like = NonlinearBlur(0.0, 8.0), torch.ones(1, dtype=torch.float64)
    paths = blur._paths(IDS, like)
    assert torch.equal(blur._paths(IDS[::-1], like).flip(0), paths)
    assert not torch.allclose(paths[0], paths[1], atol=0.1)
    assert not torch.allclose(NonlinearBlur(0.0, 8.0, path_seed=1)._paths(IDS, like), paths, atol=0.1)
    kernel = blur.prepare(T, (1, 20, 20), IDS)["kernel"]
    torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    at = torch.arange(-4.0, 5.0, dtype=torch.float64)
    torch.testing.assert_close((kernel * at).sum((1, 2)), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[4, 4] = 1
    assert torch.equal(kernel[0], expected)  # t = 0: no motion


def test_light_adds_up_in_linear_light():
    """Half black, half white along the path is mid *light*, which is far brighter than mid-grey."""
    x = torch.full((1, 1, 9, 9), -1.0, dtype=torch.float64)
    x[..., 4, 4] = 1
    blur = NonlinearBlur(0.0, 6.0, gain_max=1.0)
    y = blur.A(x, torch.ones(1, dtype=torch.float64), np.array([3]))
    light = linear_light((y + 1) / 2)
    assert float(light.sum()) == pytest.approx(1.0)
    assert float(y.sum()) > float(x.sum()) + 3


def test_saturated_pixels_are_white_and_have_gradient_zero():
    blur, t = NonlinearBlur(0.0, 4.0, gain_max=2.0), torch.ones(1, dtype=torch.float64)
    values = torch.tensor([-0.9, 0.0, 0.4, 0.6, 1.0], dtype=torch.float64)  # light 0.5, the threshold, is at 0.47
    for value in values:
        x = value.expand(1, 1, 9, 9).clone().requires_grad_()
        y = blur.A(x, t, IDS[:1])
        (gradient,) = torch.autograd.grad(y.sum(), x)
        expected = min(2 * float(srgb_to_linear((value.numpy() + 1) / 2)), 1)
        torch.testing.assert_close(
            y, torch.full_like(y, float(2 * linear_to_srgb(np.array(expected)) - 1)), atol=1e-6, rtol=0
        )
        assert (float(gradient.abs().max()) == 0) == (float(value) > 0.47)


def test_response_and_its_inverse():
    value = torch.linspace(-0.5, 1.5, 2001, dtype=torch.float64)
    torch.testing.assert_close(response(linear_light(value)), value)
    inside = value[(value >= 0) & (value <= 1)].numpy()
    np.testing.assert_allclose(linear_light(torch.from_numpy(inside)).numpy(), srgb_to_linear(inside), atol=1e-15)
    np.testing.assert_allclose(response(torch.from_numpy(inside)).numpy(), linear_to_srgb(inside), atol=1e-6)
    assert bool((response(value).diff() > 0).all()) and bool((linear_light(value).diff() > 0).all())


def test_black_images_and_estimates_beyond_the_range_have_finite_gradients():
    """A pure power would give infinity times zero at black."""
    for value in (-1.0, -1.3, 1.2):
        x = torch.full((1, 1, 9, 9), value).requires_grad_()
        (gradient,) = torch.autograd.grad(NonlinearBlur(0.0, 4.0).A(x, torch.full((1,), 0.5)).sum(), x)
        assert bool(gradient.isfinite().all())
        if value < 0:
            # toe to toe: slope 1 but for the exposure
            torch.testing.assert_close(gradient.sum(), torch.tensor(81 * 1.25))
