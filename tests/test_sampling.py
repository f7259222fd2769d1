"""The engine: continuous batching against a plain one-image loop, its call count, the noise it shares, its refusals."""

import math

import numpy as np
import pytest
import torch

from flashdiff.batch import Stream, normal, norms, rows, uniform
from flashdiff.degradations import DEGRADATIONS, measure
from flashdiff.sampling import EngineReport, walk
from flashdiff.solvers import SOLVERS

STARTS = torch.tensor([5, 21, 2, -1, 13, 0, 9])
IDS = np.array([7, 0, 3, 11, 5, 2, 8])
T = torch.linspace(0, 1, 7, dtype=torch.float64)


@pytest.fixture(params=list(DEGRADATIONS))
def measurement(request):
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (7, 1, 16, 16)))
    return measure(x, DEGRADATIONS[request.param](), T, 0.1, ids=IDS)


def latents():
    return torch.from_numpy(np.random.default_rng(2).normal(size=(7, 4, 4, 4)))


def run(prior, measurement, solver, batch_size, rows_=slice(None), report=None):
    count = len(STARTS[rows_])
    images = torch.full((count, 1, 16, 16), torch.nan, dtype=torch.float64)
    part, start, z = measurement.select(rows_), STARTS[rows_], latents()[rows_]
    for row, done in walk(prior, part, solver, start, z, batch_size=batch_size, progress=False, report=report):
        images[row] = done
    assert not bool(images.isnan().any())
    return images


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=list(SOLVERS))
def test_sample_alone_equals_sample_in_batch(solver, tiny_prior, measurement):
    """Batch mates, their severity and their start must not change a sample."""
    together = run(tiny_prior, measurement, solver, batch_size=3)
    for k in range(7):
        alone = run(tiny_prior, measurement, solver, batch_size=1, rows_=np.array([k]))
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", [kind() for kind in SOLVERS.values()], ids=list(SOLVERS))
def test_engine_equals_a_plain_loop(solver, tiny_prior, measurement):
    together = run(tiny_prior, measurement, solver, batch_size=4)
    for k in range(7):
        z, part = latents()[k : k + 1], measurement.select(np.array([k]))
        for i in range(int(STARTS[k]), -1, -1):
            noise = normal((4, 4, 4), [IDS[k]], seed=0, step=i, stream=Stream.REVERSE_STEP, like=z)
            at = torch.tensor([i])
            z = solver.step(tiny_prior, part.operator(), part.y, z, at, at - 1, noise)
        torch.testing.assert_close(tiny_prior.decode(z)[0], together[k], rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_engine_calls_stay_near_the_lower_bound(tiny_prior, measurement, batch_size):
    report = EngineReport()
    run(tiny_prior, measurement, SOLVERS["ldps"](), batch_size, report=report)
    evaluations = int((STARTS + 1).sum())
    assert report.evaluations == evaluations
    assert report.calls <= max(math.ceil(evaluations / batch_size), int(STARTS.max()) + 1) + int(STARTS.max()) // 2


def test_gradient_step_is_per_sample(tiny_prior, measurement):
    """A norm over the batch, or a mean, would shrink every sample's step when the batch grows."""
    z, i = latents(), torch.full((7,), 12)
    noise = torch.zeros_like(z)
    plain = SOLVERS["ldps"](eta=0.0).step(tiny_prior, measurement.operator(), measurement.y, z, i, i - 1, noise)
    guided = SOLVERS["ldps"](eta=2.0).step(tiny_prior, measurement.operator(), measurement.y, z, i, i - 1, noise)
    for k in range(7):
        zk = z[k : k + 1].requires_grad_()
        x = tiny_prior.decode(tiny_prior.predict_z0(zk, i[:1]))
        residual = measurement.y[k] - measurement.select(np.array([k])).operator().A(x)[0]
        (gradient,) = torch.autograd.grad(residual.square().sum().sqrt(), zk)
        torch.testing.assert_close(plain[k] - guided[k], 2.0 * gradient[0], rtol=1e-9, atol=1e-11)


def test_bad_starts_are_refused(tiny_prior, measurement):
    for start in (torch.full((7,), 40), torch.full((7,), -2), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="start"):
            next(walk(tiny_prior, measurement, SOLVERS["ldps"](), start, latents(), progress=False))


def test_noise_depends_on_every_part_of_its_key_only():
    like = torch.empty(0, dtype=torch.float64)
    key = {"seed": 0, "step": 5, "stream": Stream.REVERSE_STEP, "like": like}
    base = normal((2, 3), [4, 9], **key)
    assert torch.equal(normal((2, 3), [9], **key)[0], base[1])
    assert torch.equal(normal((2, 3), [9, 4], **key | {"step": [5, 5]}).flip(0), base)
    for change in ({"seed": 1}, {"step": 6}, {"step": -1}, {"stream": Stream.START}):
        assert not torch.allclose(normal((2, 3), [4, 9], **key | change), base)
    assert not torch.allclose(normal((2, 3), [5, 9], **key)[0], base[0])
    torch.testing.assert_close(
        normal((2, 3), [4, 9], **key | {"like": like.float()}).double(), base, rtol=1e-6, atol=1e-7
    )


def test_noise_is_standard_normal_and_uniform_is_uniform():
    like = torch.empty(0, dtype=torch.float64)
    draws = normal((100,), range(2000), seed=3, step=1, stream=Stream.START, like=like)
    assert float(draws.mean()) == pytest.approx(0, abs=0.01) and float(draws.std()) == pytest.approx(1, abs=0.01)
    assert float(torch.corrcoef(draws[:2])[0, 1]) == pytest.approx(0, abs=0.35)
    levels = uniform(range(4000), seed=0, step=0, stream=Stream.LEVEL, like=like)
    assert float(levels.min()) >= 0 and float(levels.max()) < 1
    assert float(levels.mean()) == pytest.approx(0.5, abs=0.02)


def test_rows_and_norms():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert rows(torch.tensor([1.0, 2.0]), x).shape == (2, 1, 1)
    torch.testing.assert_close(norms(x), torch.tensor([55.0**0.5, (36 + 49 + 64 + 81 + 100 + 121.0) ** 0.5]))
