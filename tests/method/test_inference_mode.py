"""Under the caller's torch.inference_mode() everything works as under no_grad, bit by bit, though solvers take gradients."""

import numpy as np
import pytest
import torch
from solver_cases import brief
from torch import nn

from flashdiff.degradations import GaussianBlur, NonlinearBlur, RandomInpainting, measure
from flashdiff.devices import as_normal_tensors, outside_inference_mode
from flashdiff.flash import Flash, FullLength
from flashdiff.prior import Prior
from flashdiff.solvers import SOLVERS
from flashdiff.starts import SHORT_STARTS, ConsistentStart, FixedStart
from flashdiff.walks import EvenlySpaced

OPERATORS = {
    "blur": GaussianBlur(0.3, 2.0, 4),
    "inpainting": RandomInpainting(),
    "nonlinear": NonlinearBlur(0.5, 4.0, 1.2),
}


def measured(operator, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (3, 1, 16, 16)))
    return measure(x, operator, torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64), 0.1)


def solver_of(kind):
    return brief(kind, walk=EvenlySpaced(3))


def same(one, other):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.start, other.start) and torch.equal(one.nfe, other.nfe)
    assert torch.equal(one.sigma_hat.nan_to_num(), other.sigma_hat.nan_to_num())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("kind", SOLVERS)
def test_every_solver_gives_the_same(kind, operator, tiny_prior, tiny_encoder):
    """The measurement made in the mode, too; batches of two, so that samples wait, join and leave."""
    degradation, solver = OPERATORS[operator], solver_of(kind)
    if solver.needs_adjoint and not degradation.linear:
        pytest.skip("needs an adjoint")
    for method in (
        Flash(tiny_prior, tiny_encoder, solver, ConsistentStart(), batch_size=2, progress=False),
        FullLength(tiny_prior, solver, batch_size=2, progress=False),
    ):
        with torch.no_grad():
            expected = method(measured(degradation))
        with torch.inference_mode():
            same(method(measured(degradation)), expected)
            assert torch.is_inference_mode_enabled()
        with torch.inference_mode():
            made = measured(degradation)
    same(method(made), expected)  # used after the mode was left


@pytest.mark.parametrize("rule", SHORT_STARTS)
def test_every_start_rule_gives_the_same(rule, tiny_prior, tiny_encoder):
    start = FixedStart(9) if rule == "fixed" else SHORT_STARTS[rule]()
    flash = Flash(tiny_prior, tiny_encoder, solver_of("ldps"), start, progress=False)
    with torch.no_grad():
        expected = flash(measured(OPERATORS["blur"]))
    with torch.inference_mode():
        same(flash(measured(OPERATORS["blur"])), expected)


def test_a_stream_may_cross_the_mode(tiny_prior):
    """The caller enters and leaves the mode between two samples; the loop neither breaks nor changes the caller's mode."""
    method = FullLength(tiny_prior, solver_of("ldps"), batch_size=1, progress=False)
    expected = method(measured(OPERATORS["blur"]))
    stream, found = method.stream([measured(OPERATORS["blur"])]), {}
    for k in range(3):
        with torch.inference_mode(k % 2 == 0):
            part = next(stream)
            assert torch.is_inference_mode_enabled() == (k % 2 == 0)
            found[int(part.rows[0])] = part.images.clone()
    for row, image in found.items():
        assert torch.equal(image[0].clamp(-1, 1), expected.images[row])


def test_a_prior_that_was_loaded_in_the_mode_admits_gradients(tiny_prior, tiny_diffusion, tiny_encoder, tmp_path):
    tiny_prior.save_pretrained(tmp_path, tiny_diffusion)
    with torch.inference_mode():
        loaded = Prior.from_pretrained(tmp_path)
        made = Prior(loaded.autoencoder, loaded.unet, torch.linspace(0.99, 0.1, 40), 2)
    assert not any(value.is_inference() for prior in (loaded, made) for value in prior.state_dict().values())
    assert not loaded.abar.is_inference() and not made.abar.is_inference()
    x = torch.rand(2, 1, 16, 16)
    result = FullLength(loaded, solver_of("ldps"), progress=False)(measure(x, OPERATORS["blur"], 0.5, 0.1))
    assert bool(torch.isfinite(result.images).all())


def test_what_was_moved_in_the_mode_admits_gradients(tiny_prior):
    """`.double()` or `.to(device)` there makes new tensors, of the kind that admits none."""
    method = FullLength(tiny_prior, solver_of("psld"), progress=False)
    expected = method(measured(OPERATORS["blur"]))
    with torch.inference_mode():
        for part in tiny_prior.modules():
            for name, value in part._parameters.items():
                part._parameters[name] = None if value is None else nn.Parameter(value.clone(), requires_grad=False)
            for name, value in part._buffers.items():
                part._buffers[name] = value.clone()
        assert tiny_prior.abar.is_inference()
        same(method(measured(OPERATORS["blur"])), expected)


def test_the_mode_is_left_for_no_grad_and_entered_again():
    with torch.inference_mode():
        with outside_inference_mode():
            assert not torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), outside_inference_mode():
            assert torch.is_grad_enabled() == enabled
    with torch.inference_mode():
        layer = nn.BatchNorm1d(2)
    as_normal_tensors(layer)
    assert not any(value.is_inference() for value in layer.state_dict().values())
    assert all(parameter.requires_grad for parameter in layer.parameters())
