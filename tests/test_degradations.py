"""Degradations: adjoint identities, brute force, and measurements that depend on nothing but (seed, image id)."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from flashdiff.degradations import DEGRADATIONS, GaussianBlur, RandomInpainting, build, measure

LINEAR = {name: kind() for name, kind in DEGRADATIONS.items() if kind.linear}
T = torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)


def images(shape=(3, 2, 12, 17), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


@pytest.mark.parametrize("degradation", LINEAR.values(), ids=list(LINEAR))
def test_adjoint_identity_row_by_row(degradation):
    x, y = images(seed=1), images(seed=2)
    left = (degradation.A(x, T) * y).flatten(1).sum(1)
    right = (x * degradation.AT(y, T)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degradation", LINEAR.values(), ids=list(LINEAR))
def test_adjoint_is_the_vector_jacobian_product(degradation):
    x, y = images(seed=1).requires_grad_(), images(seed=2)
    (vjp,) = torch.autograd.grad(degradation.A(x, T), x, y)
    torch.testing.assert_close(degradation.AT(y, T), vjp)


@pytest.mark.parametrize("degradation", [kind() for kind in DEGRADATIONS.values()], ids=list(DEGRADATIONS))
def test_sample_alone_equals_sample_in_batch(degradation):
    x = images()
    together = degradation.A(x, T)
    for k in range(3):
        alone = degradation.A(x[k : k + 1], T[k : k + 1], ids=np.array([k]))
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-14)


def test_gaussian_blur_against_scipy():
    """Independent computation: scipy's 1-D correlations with whole-sample symmetric ("mirror") borders."""
    blur, x = GaussianBlur(std_min=0.5, std_max=2.5, radius=7), images()
    blurred = blur.A(x, T).numpy()
    for k, std in enumerate(0.5 + T.numpy() * 2.0):
        kernel = np.exp(-0.5 * (np.arange(-7, 8) / std) ** 2)
        kernel /= kernel.sum()
        expected = correlate1d(correlate1d(x[k].numpy(), kernel, axis=1, mode="mirror"), kernel, axis=2, mode="mirror")
        np.testing.assert_allclose(blurred[k], expected, atol=1e-12)


def test_gaussian_blur_keeps_constants_and_zero_width_is_the_identity():
    blur = GaussianBlur(std_min=0.0, std_max=9.0, radius=30)
    torch.testing.assert_close(
        blur.A(torch.full((3, 1, 8, 8), 0.7, dtype=torch.float64), T)[2], torch.full((1, 8, 8), 0.7).double()
    )
    x = images()
    torch.testing.assert_close(blur.A(x, torch.zeros(3, dtype=torch.float64)), x)


def test_inpainting_drops_the_stated_share_in_nested_masks():
    inpainting = RandomInpainting(drop_max=0.8)
    x, levels = torch.ones(5, 3, 200, 200), torch.linspace(0, 1, 5)
    kept = inpainting.A(x, levels)
    assert torch.equal(kept[:, :1].expand_as(kept), kept)  # the same mask in all channels
    for k, level in enumerate(levels):
        # a binomial share over 40 000 pixels has a standard deviation of at most 0.0025
        assert abs(float((kept[k] == 0).double().mean()) - 0.8 * float(level)) < 0.01
    assert bool((kept[1:] <= kept[:-1]).all())
    assert bool((kept[0] == 1).all())


def test_measurement_noise_is_keyed_by_seed_and_image_id():
    x, blur = images().float(), GaussianBlur()
    y = measure(x, blur, T.float(), 0.1, seed=3, ids=np.array([7, 0, 5])).y
    swapped = measure(x.flip(0), blur, T.float().flip(0), 0.1, seed=3, ids=np.array([5, 0, 7])).y
    torch.testing.assert_close(y, swapped.flip(0))
    assert not torch.allclose(y, measure(x, blur, T.float(), 0.1, seed=0, ids=np.array([7, 0, 5])).y)


def test_measurement_noise_has_the_stated_standard_deviation():
    x = torch.zeros(4, 1, 100, 100)
    y = measure(x, GaussianBlur(), 0.5, 0.1).y
    assert abs(float(y.std()) - 0.1) < 0.002  # standard error of the estimate: 0.00035
    assert abs(float(torch.corrcoef(y.flatten(1))[0, 1])) < 0.05


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"t": torch.tensor([0.0, 1.2, 0.5])}, "t: values"),
        ({"t": torch.tensor([0.0, 1.0])}, "t: shape"),
        ({"x": torch.full((3, 1, 8, 8), float("nan"))}, "x: values from nan"),
        ({"x": torch.full((3, 1, 8, 8), 255.0)}, "x: values"),
        ({"x": torch.zeros(3, 8, 8)}, "x: shape"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"ids": np.arange(2)}, "ids"),
    ],
)
def test_bad_measurements_are_refused_by_field(changes, field):
    good = {"x": torch.zeros(3, 1, 8, 8), "degradation": GaussianBlur(), "t": 0.5, "noise_std": 0.1}
    with pytest.raises(ValueError, match=field):
        measure(**(good | changes))


def test_build_takes_a_study_entry():
    blur, noise = build({"kind": "gaussian_blur", "std_min": 0.3, "std_max": 4.0, "noise_std": 0.1})
    assert (blur, noise) == (GaussianBlur(0.3, 4.0), 0.1)
    with pytest.raises(ValueError, match="kind 'sharpen' is unknown"):
        build({"kind": "sharpen", "noise_std": 0.1})
