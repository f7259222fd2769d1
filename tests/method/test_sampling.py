"""The engine: continuous batching against a plain one-image loop, its call count, the noise it shares, its refusals."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from solver_cases import brief

from flashdiff.batch import Stream, normal, norms, per_sample, uniform
from flashdiff.degradations import DEGRADATIONS, measure
from flashdiff.sampling import Chunk, EngineReport, sample
from flashdiff.solvers import COSTS, LDPS, SOLVERS
from flashdiff.training.prior import draw_samples
from flashdiff.walks import EvenlySpaced, NoiseLevels, Strided

STARTS = torch.tensor([5, 21, 2, -1, 13, 0, 9])
IDS = np.array([7, 0, 3, 11, 5, 2, 8])
T = torch.linspace(0, 1, 7, dtype=torch.float64)


@pytest.fixture(params=["gaussian_blur", "nonlinear_blur", "mixture"])
def measurement(request):
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (7, 1, 16, 16)))
    return measure(x, DEGRADATIONS[request.param](), T, 0.1, ids=IDS)


def latents():
    return torch.from_numpy(np.random.default_rng(2).normal(size=(7, 4, 4, 4)))


def chunk(measurement, rows_=slice(None), start=STARTS):
    part = measurement.select(rows_)
    unknown, nothing = torch.full((len(part),), torch.nan), torch.zeros(len(part), dtype=torch.int64)
    return Chunk(part, start[rows_], latents()[rows_], nothing, unknown)


def run(prior, measurement, solver, batch_size, parts=(slice(None),), **options):
    """Images and costs of all samples in the order of ``parts``, each of which is a chunk."""
    count = sum(len(STARTS[rows_]) for rows_ in parts)
    images = torch.full((count, 1, 16, 16), torch.nan, dtype=torch.float64)
    costs = np.full((count, len(COSTS)), -1)
    chunks = (chunk(measurement, rows_) for rows_ in parts)
    for done in sample(prior, solver, chunks, batch_size=batch_size, progress=False, **options):
        images[done.rows] = done.images
        costs[done.rows] = np.stack([getattr(done, name) for name in COSTS], axis=1)
    assert not bool(images.isnan().any()) and (costs >= 0).all()
    return images, costs


def plain_loop(prior, measurement, solver, k):
    """Sample k alone, one step after another."""
    z, part = latents()[k : k + 1], measurement.select(np.array([k]))
    costs = np.array([0, 1, 0, 0])
    indices = [] if STARTS[k] < 0 else [*solver.walk(prior, int(STARTS[k])), -1]
    for i, i_prev in itertools.pairwise(indices):

        def noise(draw=0, i=int(i)):
            key = {"seed": 0, "step": i, "stream": Stream.REVERSE_STEP, "draw": draw}
            return normal((4, 4, 4), [IDS[k]], like=part.y, **key)

        step = solver.step(
            prior, part.operator(), part.y, z, torch.tensor([int(i)]), torch.tensor([int(i_prev)]), noise
        )
        z = step.z
        costs += [int(getattr(step, name)) for name in COSTS]
    return prior.decode(z)[0], costs


# at full step, PSLD on random weights grows rounding of 1e-15 to 3e-10
EVERY = pytest.mark.parametrize(
    "solver", [brief(name, **({"eta": 0.3} if name == "psld" else {})) for name in SOLVERS], ids=list(SOLVERS)
)


def defined_on(solver, measurement):
    if solver.needs_adjoint and not measurement.degradation.linear:
        pytest.skip("not defined: the solver needs an adjoint")


@EVERY
def test_engine_equals_a_plain_loop(solver, tiny_prior, measurement):
    """Batch mates, their severity, their start, the batch size and the chunks must not change a sample, nor its cost."""
    defined_on(solver, measurement)
    together = run(tiny_prior, measurement, solver, batch_size=4)
    order = np.array([3, 0, 6, 5, 1, 2, 4])
    shuffled = run(tiny_prior, measurement, solver, batch_size=3, parts=(order[:1], order[1:4], order[4:]))
    torch.testing.assert_close(shuffled[0], together[0][order], rtol=0, atol=1e-10)
    assert (shuffled[1] == together[1][order]).all()
    for k in range(7):
        image, costs = plain_loop(tiny_prior, measurement, solver, k)
        torch.testing.assert_close(image, together[0][k], rtol=0, atol=1e-10)
        assert costs.tolist() == together[1][k].tolist()


@pytest.mark.parametrize(
    "walk", [Strided(3), EvenlySpaced(4), NoiseLevels(6, 2.0, 0.2)], ids=lambda w: type(w).__name__
)
@pytest.mark.parametrize("stochasticity", [0.0, 0.4, 1.0])
def test_engine_follows_the_walk(walk, stochasticity, tiny_prior, measurement):
    solver = LDPS(0.3, stochasticity, walk)
    images, costs = run(tiny_prior, measurement, solver, batch_size=3)
    for k in range(7):
        image, cost = plain_loop(tiny_prior, measurement, solver, k)
        torch.testing.assert_close(image, images[k], rtol=0, atol=1e-10)
        steps = 0 if STARTS[k] < 0 else len(walk(tiny_prior, int(STARTS[k])))
        assert costs[k].tolist() == [steps, steps + 1, 0, steps] == cost.tolist()


def test_chunks_are_taken_up_when_slots_fall_free(tiny_prior, measurement):
    """Lazily: no chunk is asked for before the ones in front of it have all their samples in the batch."""
    asked = []

    def chunks():
        for k in range(7):
            asked.append(k)
            yield chunk(measurement, np.array([k]))

    finished = sample(tiny_prior, LDPS(), chunks(), batch_size=2, progress=False)
    first = next(finished)
    assert first.rows.tolist() == [0] and asked == [0, 1]  # the walk of 5 ends before that of 21
    assert sorted(row for part in finished for row in part.rows) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_engine_calls_stay_near_the_lower_bound(tiny_prior, measurement, batch_size):
    report = EngineReport()
    run(tiny_prior, measurement, SOLVERS["ldps"](), batch_size, report=report)
    steps = int((STARTS + 1).sum())
    assert report.sample_steps == steps
    assert report.calls <= max(math.ceil(steps / batch_size), int(STARTS.max()) + 1) + int(STARTS.max()) // 2


@pytest.mark.parametrize("steps", [4, 40, 100])
def test_samples_of_the_prior_are_those_of_an_explicit_loop(steps, tiny_prior):
    """The walk from pure noise at N - 1, written out; 100 steps of a diffusion of 40 are 40."""
    ids, like = np.arange(3), torch.empty(0, dtype=torch.float64)
    z = normal((4, 4, 4), ids, seed=5, step=0, stream=Stream.START, like=like)
    indices = np.linspace(0, 39, min(steps, 40)).round().astype(int)[::-1]
    with torch.no_grad():
        for i, i_prev in zip(indices.tolist(), [*indices[1:].tolist(), -1], strict=True):
            at, to = torch.full((3,), i), torch.full((3,), i_prev)
            noise = normal((4, 4, 4), ids, seed=5, step=i, stream=Stream.REVERSE_STEP, like=like)
            z = tiny_prior.reverse(z, tiny_prior.predict_z0(z, at), at, to, noise)
        expected = tiny_prior.decode(z).clamp(-1, 1)
    samples = draw_samples(tiny_prior, (1, 16, 16), 3, steps, seed=5)
    assert samples.dtype == torch.float64 and torch.equal(samples, expected)


def test_bad_starts_are_refused(tiny_prior, measurement):
    for start in (torch.full((7,), 40), torch.full((7,), -2), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="start"):
            next(sample(tiny_prior, LDPS(), [chunk(measurement, start=start)], progress=False))


def test_measurements_of_another_kind_do_not_join_the_stream(tiny_prior, measurement):
    other = dataclasses.replace(measurement, noise_std=0.2)
    chunks = [chunk(measurement, slice(0, 2)), chunk(other, slice(2, 4))]
    with pytest.raises(ValueError, match="stream the same degradation and noise only"):
        list(sample(tiny_prior, LDPS(), chunks, batch_size=4, progress=False))


def test_bf16_stays_close(tiny_prior, measurement):
    """Autocast rounds to three digits; a short walk stays within a hundredth of the range."""
    prior, solver = tiny_prior.float(), LDPS(0.1)
    part = dataclasses.replace(measurement, y=measurement.y.float(), t=measurement.t.float())
    images = []
    for precision in ("no", "bf16"):
        some = chunk(part, slice(0, 3), torch.tensor([2, 1, 0]))
        some = dataclasses.replace(some, z_start=some.z_start.float())
        done = list(sample(prior, solver, [some], mixed_precision=precision, progress=False))
        images.append(torch.cat([d.images for d in done])[np.argsort(np.concatenate([d.rows for d in done]))])
    assert images[1].dtype == torch.float32 and not torch.equal(images[0], images[1])
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=0.05)


def test_noise_depends_on_every_part_of_its_key_only():
    like = torch.empty(0, dtype=torch.float64)
    key = {"seed": 0, "step": 5, "stream": Stream.REVERSE_STEP, "like": like}
    base = normal((2, 3), [4, 9], **key)
    assert torch.equal(normal((2, 3), [9], **key)[0], base[1])
    assert torch.equal(normal((2, 3), [9, 4], **key | {"step": [5, 5]}).flip(0), base)
    for change in ({"seed": 1}, {"step": 6}, {"step": -1}, {"stream": Stream.START}, {"draw": 1}):
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
    assert per_sample(torch.tensor([1.0, 2.0]), x).shape == (2, 1, 1)
    torch.testing.assert_close(norms(x), torch.tensor([55.0**0.5, (36 + 49 + 64 + 81 + 100 + 121.0) ** 0.5]))
