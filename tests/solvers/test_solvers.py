"""Every solver against closed forms: a linear decoder and a Gaussian prior make denoiser, gradients and laws known.

The references are written in numpy from the papers' formulas; they share with the solvers the noise and nothing else.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from flashdiff.degradations import (
    BoxInpainting,
    Degradation,
    GaussianBlur,
    MotionBlur,
    NonlinearBlur,
    Operator,
    RandomInpainting,
    SuperResolution,
    measure,
)
from flashdiff.prior import Prior
from flashdiff.solvers import (
    COSTS,
    GMLDPS,
    LDPS,
    PSLD,
    SOLVERS,
    LatentDAPS,
    LatentDiffPIR,
    LDPSDiffPIR,
    ReSample,
    build,
    check,
)
from flashdiff.solvers.guided import Guided
from flashdiff.solvers.latent_diffpir import conjugate_gradients, gradient_descent
from flashdiff.walks import EvenlySpaced, NoiseLevels, Strided

LATENT, IMAGE = (2, 1, 2), (1, 2, 3)
GUIDED = {"ldps": LDPS(0.7), "gml_dps": GMLDPS(0.7, gamma=0.3), "psld": PSLD(0.7, gamma=0.3)}


def tensor(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


class Toy(Prior):
    """z0 ~ N(mu, C) in 4 dimensions, D(z) = W z with 6 pixels, E(x) = V x with V not quite the inverse of W.

    steps and ``reverse`` are the package's; the denoiser is the exact one of this prior.
    """

    def __init__(self, n_steps: int, seed: int = 0):
        nn.Module.__init__(self)
        rng = np.random.default_rng(seed)
        largest = 0.0195 * 1000 / n_steps
        betas = np.linspace(0.0015**0.5, largest**0.5, n_steps) ** 2
        self.register_buffer("abar", tensor(np.append(np.cumprod(1 - betas), 1.0)))
        axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        self.axes, self.variances = axes, np.array([1.5, 1.0, 0.8, 0.6])
        self.mu, self.C = 0.3 * rng.normal(size=4), axes * self.variances @ axes.T
        self.W = 0.6 * rng.normal(size=(6, 4))
        self.V = np.linalg.pinv(self.W) + 0.1 * rng.normal(size=(4, 6))

    def level(self, i) -> np.ndarray:
        """abar_i as (B, 1), 1 at i = -1."""
        return self.abar.numpy()[np.asarray(i)][:, None]

    def shrink(self, v, i) -> np.ndarray:
        """sqrt(abar) C (abar C + (1 - abar) I)^-1 v, row by row: the symmetric slope of E[z0 | z] in z."""
        abar = self.level(i)
        share = np.sqrt(abar) * self.variances / (abar * self.variances + 1 - abar)
        return (v @ self.axes * share) @ self.axes.T

    def posterior_mean(self, z, i) -> np.ndarray:
        """E[z0 | z_i = z] (B, 4)."""
        return self.mu + self.shrink(z - np.sqrt(self.level(i)) * self.mu, i)

    def predict_eps(self, z, i):
        abar = self.signal(i)[:, None]
        flat = z.flatten(1)
        covariance = abar[:, :, None] * tensor(self.C) + (1 - abar[:, :, None]) * torch.eye(4, dtype=torch.float64)
        white = torch.linalg.solve(covariance, flat - abar.sqrt() * tensor(self.mu))
        return ((1 - abar).sqrt() * white).reshape(z.shape)

    def decode(self, z):
        return (z.flatten(1) @ tensor(self.W).T).reshape(-1, *IMAGE)

    def encode(self, x):
        return (x.flatten(1) @ tensor(self.V).T).reshape(-1, *LATENT)


@dataclass(frozen=True)
class Mix(Degradation):
    """y = M x with a matrix M (m, 6) of its own for every sample."""

    linear: ClassVar[bool] = True

    def prepare(self, t, image_shape, ids):
        raise NotImplementedError("the tests give the state themselves")

    def apply(self, x, state):
        return (state["matrix"] @ x.flatten(1)[:, :, None])[:, :, 0]

    def adjoint(self, y, state):
        return (state["matrix"].mT @ y[:, :, None]).reshape(-1, *IMAGE)


@dataclass
class Problem:
    """B measurements of latents drawn from the prior; everything also in numpy, latents as (B, 4)."""

    prior: Toy
    count: int
    pixels: int = 3
    noise_std: float = 0.1
    seed: int = 1
    shared: bool = False  # one matrix for all samples

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        matrices = 0.5 * rng.normal(size=(1 if self.shared else self.count, self.pixels, 6))
        self.M = np.broadcast_to(matrices, (self.count, self.pixels, 6))
        self.H = self.M @ self.prior.W
        z0 = self.prior.mu + rng.normal(size=(self.count, 4)) @ np.linalg.cholesky(self.prior.C).T
        self.y = np.einsum("bmd,bd->bm", self.H, z0) + self.noise_std * rng.normal(size=(self.count, self.pixels))
        self.operator = Operator(Mix(), {"matrix": tensor(self.M)}, self.noise_std)

    def residual(self, z) -> np.ndarray:
        """y - A(D(z)) (B, m)."""
        return self.y - np.einsum("bmd,bd->bm", self.H, z)

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of z0 given y, for the first sample."""
        precision = np.linalg.inv(self.prior.C)
        covariance = np.linalg.inv(precision + self.H[0].T @ self.H[0] / self.noise_std**2)
        return covariance @ (precision @ self.prior.mu + self.H[0].T @ self.y[0] / self.noise_std**2), covariance


class Draws:
    """The noise of one step: the k-th draw is the same however often and in whichever order draws are asked for."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def numpy(self, k: int) -> np.ndarray:
        return np.random.default_rng([self.seed, k]).normal(size=(self.count, 4))

    def __call__(self, draw: int = 0) -> torch.Tensor:
        return tensor(self.numpy(draw)).reshape(-1, *LATENT)


class FastDraws(Draws):
    """Fresh draws for large batches: every number is asked for once."""

    def __init__(self, count, seed=0):
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def __call__(self, draw=0):
        return torch.randn(self.count, *LATENT, generator=self.generator, dtype=torch.float64)


def indices(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def step(solver, problem, z, i, i_prev, draws):
    """The solver's step with latents (B, 4) in numpy."""
    taken = solver.step(
        problem.prior, problem.operator, tensor(problem.y), tensor(z).reshape(-1, *LATENT), i, i_prev, draws
    )
    assert not taken.z.requires_grad
    return taken.z.flatten(1).numpy(), taken


def walk_down(solver, problem, z, start, advance, seed=100):
    """A whole run from ``start``: ``advance(z, i, i_prev, draws)`` takes one step; all samples share the indices."""
    for i, i_prev in itertools.pairwise([*solver.walk(problem.prior, start), -1]):
        n = len(z)
        z = advance(z, torch.full((n,), int(i)), torch.full((n,), int(i_prev)), Draws(n, seed + int(i)))
    return z


def latents(count, seed=3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4))


# --- guided solvers: LDPS, GML-DPS, PSLD ------------------------------------------------------------------------------


def reverse_by_hand(prior, z, z0, i, i_prev, noise, stochasticity):
    """DDIM, Eq. 12, with the variance of Eq. 16."""
    a, b = prior.level(i), prior.level(i_prev)
    eps = (z - np.sqrt(a) * z0) / np.sqrt(1 - a)
    variance = stochasticity**2 * (1 - b) / (1 - a) * (1 - a / b)
    return np.sqrt(b) * z0 + np.sqrt(np.maximum(1 - b - variance, 0)) * eps + np.sqrt(variance) * noise


def unit(v):
    return v / np.sqrt((v * v).sum(-1, keepdims=True))


def transposed(matrix, v) -> np.ndarray:
    """matrix^T v, row by row: matrix (B, m, d) or (m, d), v (B, m)."""
    return np.einsum("...md,...m->...d", matrix, v)


def gradient_by_hand(solver, problem, z0):
    """Gradient of the objective with respect to z0_hat (B, 4)."""
    W, V, M, H = problem.prior.W, problem.prior.V, problem.M, problem.H
    residual = problem.residual(z0)
    gradient = -transposed(H, unit(residual))
    if isinstance(solver, GMLDPS):
        gradient = gradient + solver.gamma * transposed(np.eye(4) - V @ W, unit(z0 - z0 @ (V @ W).T))
    if isinstance(solver, PSLD):
        corrected = z0 @ W.T + transposed(M, residual)
        slope = np.eye(4) - V @ (np.eye(6) - np.swapaxes(M, 1, 2) @ M) @ W
        gradient = gradient + solver.gamma * transposed(slope, unit(z0 - corrected @ V.T))
    return gradient


def objective_by_hand(solver, problem, z0):
    """The objective (B,) at z0_hat (B, 4)."""
    W, V, M = problem.prior.W, problem.prior.V, problem.M
    residual = problem.residual(z0)
    value = np.sqrt((residual**2).sum(1))
    if isinstance(solver, GMLDPS):
        value = value + solver.gamma * np.sqrt(((z0 - z0 @ (V @ W).T) ** 2).sum(1))
    if isinstance(solver, PSLD):
        corrected = z0 @ W.T + transposed(M, residual)
        value = value + solver.gamma * np.sqrt(((z0 - corrected @ V.T) ** 2).sum(1))
    return value


def guided_by_hand(solver, problem):
    def advance(z, i, i_prev, draws):
        prior = problem.prior
        z0 = prior.posterior_mean(z, i)
        gradient = prior.shrink(gradient_by_hand(solver, problem, z0), i)
        length = np.sqrt(np.asarray(i) - np.asarray(i_prev))
        if solver.length == "polyak":
            length = objective_by_hand(solver, problem, z0) / (gradient**2).sum(1)
        free = reverse_by_hand(prior, z, z0, i, i_prev, draws.numpy(0), solver.stochasticity)
        return free - solver.eta * length[:, None] * gradient

    return advance


@pytest.mark.parametrize("length", ["stride", "polyak"])
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", GUIDED)
def test_guided_step_by_hand(name, stochasticity, length):
    """One step at four indices, strides 1 and more, down to clean."""
    solver = replace(GUIDED[name], stochasticity=stochasticity, length=length)
    problem, z, draws = Problem(Toy(60), 4), latents(4), Draws(4, 0)
    i, i_prev = indices(59, 30, 7, 0), indices(58, 21, 3, -1)
    got, taken = step(solver, problem, z, i, i_prev, draws)
    expected = guided_by_hand(solver, problem)(z, i, i_prev, draws)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert taken[1:] == (1, 1, int(name != "ldps"), 1)


def test_polyaks_step_brings_a_linear_objective_to_zero():
    """One pixel: the residual's norm is linear on either side of 0, so eta = 1 meets the datum in the estimate at z - step."""
    solver, problem, z = LDPS(1.0, 0.0, length="polyak"), Problem(Toy(60), 5, pixels=1), latents(5)
    i, i_prev = torch.full((5,), 30), torch.full((5,), 20)
    (guided, _), (free, _) = (step(s, problem, z, i, i_prev, Draws(5, 0)) for s in (solver, replace(solver, eta=0.0)))
    moved = problem.prior.posterior_mean(z + guided - free, i)
    assert np.abs(problem.residual(problem.prior.posterior_mean(z, i))).min() > 0.01
    np.testing.assert_allclose(problem.residual(moved), 0, atol=1e-9)


def test_where_the_data_are_met_exactly_polyaks_step_is_zero():
    problem, z = Problem(Toy(60), 2), latents(2)
    i, i_prev = indices(40, 3), indices(39, 2)
    met = problem.residual(problem.prior.posterior_mean(z, i))
    problem.y = problem.y - met
    for solver in (LDPS(0.5, 0.0, length="polyak"), LDPS(0.0, 0.0)):
        got, _ = step(solver, problem, z, i, i_prev, Draws(2, 0))
        assert np.isfinite(got).all()
    np.testing.assert_allclose(
        *(step(LDPS(e, 0.0, length="polyak"), problem, z, i, i_prev, Draws(2, 0))[0] for e in (0.5, 0.0)), atol=1e-9
    )


def test_gamma_zero_is_ldps():
    problem, z, draws = Problem(Toy(60), 2), latents(2), Draws(2, 0)
    steps = [
        step(s, problem, z, indices(40, 3), indices(39, 2), draws)[0]
        for s in (LDPS(0.7), GMLDPS(0.7, gamma=0), PSLD(0.7, gamma=0))
    ]
    np.testing.assert_allclose(steps[1:], [steps[0]] * 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GUIDED)
def test_guided_run_by_hand(name):
    """The whole chain in numpy with the same noise; and how well the data are explained in the end.

    The gradient steps do not sample the posterior exactly, and the step size sets where the residual settles; so the
    second part is a bound and not a law. Over samples of the joint distribution, y - A x of a posterior sample x is
    distributed as the noise, mean square noise_std^2: of these it must be within a factor of 2, of the prior's own
    samples it is far from that.
    """
    solver, problem = replace(GUIDED[name], eta=0.15, walk=Strided(2)), Problem(Toy(300), 60, noise_std=0.3)
    z = latents(60)
    got = walk_down(solver, problem, z, 299, lambda *at: step(solver, problem, *at)[0])
    expected = walk_down(solver, problem, z, 299, guided_by_hand(solver, problem))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)
    free = replace(solver, eta=0.0)
    unguided = walk_down(free, problem, z, 299, lambda *at: step(free, problem, *at)[0])
    of_noise, of_prior = (np.square(problem.residual(z0)).mean() / 0.3**2 for z0 in (got, unguided))
    assert 0.5 < of_noise < 2 and of_prior > 10


def assert_same_law(z, mean, covariance):
    """Sample mean and covariance of z (n, d) within five standard errors of the given ones."""
    n = len(z)
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(z.mean(0) - mean) < 5 * error).all()
    variances = np.diag(covariance)
    error = np.sqrt((variances[:, None] * variances + covariance**2) / n)
    assert (np.abs(np.cov(z.T) - covariance) < 5 * error).all()


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_without_guidance_the_prior_is_sampled(stochasticity):
    """eta = 0 of the step that all three share: linear, so mean and variance along the prior's axes follow a recursion.

    It ends at the prior itself but for the finite number of steps, 200.
    """
    solver, prior = LDPS(0.0, stochasticity), Toy(200)
    problem = Problem(prior, 4000)
    z = walk_down(solver, problem, latents(4000), 199, lambda *at: step(solver, problem, *at)[0])
    mean, variance = np.zeros(4), np.ones(4)
    for i, i_prev in itertools.pairwise(range(199, -2, -1)):
        zero, one, at = np.zeros((1, 4)), prior.axes.T, (np.full(4, i), np.full(4, i_prev))
        slopes = reverse_by_hand(prior, one, prior.shrink(one, at[0]), *at, 0, stochasticity)
        noise = reverse_by_hand(prior, zero, zero, [i], [i_prev], np.ones((1, 4)), stochasticity)[0, 0]
        shift = reverse_by_hand(prior, zero, prior.posterior_mean(zero, [i]), [i], [i_prev], 0, stochasticity)[0]
        slope = np.diag(slopes @ prior.axes)
        mean, variance = slope * mean + shift @ prior.axes, slope**2 * variance + noise**2
    assert_same_law(z @ prior.axes, mean, np.diag(variance))
    np.testing.assert_allclose(mean, prior.mu @ prior.axes, atol=0.02)
    np.testing.assert_allclose(variance, prior.variances, rtol=0.05)


# --- ReSample ---------------------------------------------------------------------------------------------------------


def adam_by_hand(matrix, y, start, solver, noise_std):
    """min ||y - matrix x||^2 by PyTorch's Adam for one sample; returns x and how often the residual was looked at."""
    x = tensor(start).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=solver.learning_rate)
    for k in range(solver.max_iterations):
        squares = (tensor(y) - tensor(matrix) @ x).square()
        if float(squares.detach().mean()) < noise_std**2:
            return x.detach().numpy(), k + 1
        optimiser.zero_grad()
        squares.sum().backward()
        optimiser.step()
    return x.detach().numpy(), solver.max_iterations


def test_resample_step_by_hand():
    """All stages in one batch of an N = 1000 diffusion: above 750, between two solves, image, latent, last."""
    solver, prior = ReSample(g=40.0, max_iterations=60), Toy(1000)
    problem, z, draws = Problem(prior, 10, noise_std=0.05), latents(10), Draws(10, 0)
    # chaotic; due, but chaotic; not due; image at 640, 750, 701 and 301; latent at 300 and 121; last
    i = indices(999, 760, 633, 640, 750, 701, 301, 300, 121, 8)
    i_prev = indices(997, 758, 631, 638, 738, 699, 299, 298, 119, -1)
    got, taken = step(solver, problem, z, i, i_prev, draws)
    z0 = prior.posterior_mean(z, i)
    free = reverse_by_hand(prior, z, z0, i, i_prev, draws.numpy(0), 1.0)
    a, b = prior.level(i), prior.level(i_prev)
    variance = 40.0 * (1 - b) / a * (1 - a / b)
    expected, decodes = free.copy(), np.zeros(10, dtype=int)
    for k in range(3, 10):
        if k < 7:
            x, _ = adam_by_hand(problem.M[k], problem.y[k], prior.W @ z0[k], solver, 0.05)
            star, decodes[k] = prior.V @ x, 1
        else:
            star, decodes[k] = adam_by_hand(problem.H[k], problem.y[k], z0[k], solver, 0.05)
        (s2,), (abar,) = variance[k], a[k]
        mean = (s2 * np.sqrt(abar) * star + (1 - abar) * free[k]) / (s2 + 1 - abar)
        spread = s2 * (1 - abar) / (s2 + 1 - abar)
        expected[k] = star if i_prev[k] < 0 else mean + np.sqrt(spread) * draws.numpy(1)[k]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert taken.evaluations == 1 and taken.decodes.tolist() == decodes.tolist()
    assert taken.encodes.tolist() == [0] * 3 + [1] * 4 + [0] * 3  # the images
    assert taken.gradients.tolist() == [0] * 7 + decodes[7:].tolist()  # the latents, through the decoder
    assert len({int(d) for d in decodes[7:]}) > 1  # the samples stop at different times


@pytest.mark.parametrize("start", [999, 998, 437, 20, 19, 1, 0])
def test_resample_is_consistent_every_tenth_step_and_at_the_last(start):
    """Counted from the clean end, so that walks from other starts solve at the same places."""
    solver, prior = ReSample(chaotic_above=1.0), Toy(1000)
    walk = solver.walk(prior, start)
    due = solver.is_consistent(torch.tensor(walk), torch.tensor([*walk[1:], -1]), 1000)
    assert np.flatnonzero(due.numpy()[::-1]).tolist() == list(range(0, len(walk), 10))


def test_resample_solves_at_the_same_places_on_other_walks():
    """By another stride as often, and at every step where steps are longer than the period."""
    prior = Toy(1000)
    for stride, count in ((1, 50), (5, 50), (50, 20)):
        solver = ReSample(walk=Strided(stride), chaotic_above=1.0)
        at = solver.walk(prior, 999)
        assert int(solver.is_consistent(torch.tensor(at), torch.tensor([*at[1:], -1]), 1000).sum()) == count


def test_resample_without_noise_runs_all_iterations():
    problem = Problem(Toy(1000), 2, noise_std=0.0)
    _, taken = step(ReSample(max_iterations=7), problem, latents(2), indices(100, 9), indices(98, -1), Draws(2, 0))
    assert taken.decodes.tolist() == [7, 7]


def test_resample_run_satisfies_the_data():
    """Three pixels of four unknowns can be met exactly, so every sample ends below the noise's mean square."""
    solver, problem = ReSample(g=40.0), Problem(Toy(1000), 30, noise_std=0.05)
    z = walk_down(solver, problem, latents(30), 999, lambda *at: step(solver, problem, *at)[0])
    assert (np.square(problem.residual(z)).mean(1) <= 0.05**2).all()
    # and stays a plausible latent: the mean of chi^2 with one degree of freedom is 1
    distance = np.square((z - problem.prior.mu) @ problem.prior.axes) / problem.prior.variances
    assert distance.mean() < 2


# --- LatentDAPS -------------------------------------------------------------------------------------------------------


def level_index(prior, s) -> int:
    abar = prior.abar.numpy()[:-1]
    return int(np.abs(np.log(np.sqrt((1 - abar) / abar)) - np.log(s)).argmin())


def flow_indices(prior, i, steps) -> list[int]:
    s_i, s_0 = (np.sqrt(1 / float(prior.abar[k]) - 1) for k in (i, 0))
    between = [(s_i ** (1 / 7) + k / steps * (s_0 ** (1 / 7) - s_i ** (1 / 7))) ** 7 for k in range(1, steps)]
    return [i, *(level_index(prior, s) for s in between), -1]


def flow(problem, i, steps=2) -> tuple[np.ndarray, np.ndarray]:
    """The flow from index i to clean is affine: z0_hat = F z + f."""
    prior, F, f = problem.prior, np.eye(4), np.zeros(4)
    for j, to in itertools.pairwise(flow_indices(prior, i, steps)):
        at = ([j] * 4, [to] * 4)
        F = reverse_by_hand(prior, F.T, prior.shrink(F.T, at[0]), *at, 0, 0.0).T
        z0 = prior.posterior_mean(f[None], [j])
        f = reverse_by_hand(prior, f[None], z0, [j], [to], 0, 0.0)[0]
    return F, f


def daps_by_hand(solver, problem, z, i, i_prev, draws, tau, step_sizes):
    """Zhang et al. 2025: Euler steps dz/ds = eps in the variance-exploding latent, MCMC, noise."""
    out = []
    for k in range(len(z)):
        levels = flow_indices(problem.prior, int(i[k]), solver.ode_steps)
        s = [np.sqrt(1 / float(problem.prior.abar[j]) - 1) if j >= 0 else 0.0 for j in levels]
        latent = z[k] * np.sqrt(1 + s[0] ** 2)  # variance-exploding: z / sqrt(abar), 1 / abar = 1 + s^2
        for j, here, to in zip(levels, s, s[1:], strict=False):
            z0 = problem.prior.posterior_mean(latent[None] / np.sqrt(1 + here**2), [j])[0]
            latent = latent + (to - here) * (latent - z0) / here
        z0_hat, h, H, y = latent, step_sizes[k], problem.H[k], problem.y[k]
        z0, v = z0_hat, draws.numpy(1)[k]
        for n in range(solver.mcmc_steps):
            gradient = -2 * H.T @ (y - H @ z0)
            if solver.clip is not None:
                gradient = np.clip(gradient, -solver.clip, solver.clip)
            score, xi = -gradient / (2 * tau**2) - (z0 - z0_hat) / s[0] ** 2, draws.numpy(2 + n)[k]
            if solver.momentum is None:
                z0 = z0 + h * score + np.sqrt(2 * h) * xi
            else:
                v = solver.momentum * v + np.sqrt(h) * score + np.sqrt(2 * (1 - solver.momentum)) * xi
                z0 = z0 + np.sqrt(h) * v
        (b,) = problem.prior.level(i_prev)[k]
        out.append(np.sqrt(b) * z0 + np.sqrt(1 - b) * draws.numpy(0)[k])
    return np.stack(out)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("ode_steps", [1, 2, 3])
@pytest.mark.parametrize("momentum", [None, 0.8])
def test_latent_daps_step_by_hand(momentum, ode_steps, clip):
    """At four levels, among them one above s_max, one below s_min, index 0, and down to clean."""
    walk = NoiseLevels(10, s_max=5.0, s_min=0.2)
    solver = LatentDAPS(0.2, 5, 1e-3, momentum, 0.1, clip, ode_steps, walk)
    prior = Toy(1000)
    problem, z, draws = Problem(prior, 4), latents(4), Draws(4, 0)
    i, i_prev = indices(990, 400, 15, 0), indices(900, 370, -1, -1)
    got, taken = step(solver, problem, z, i, i_prev, draws)
    s = np.sqrt(1 / prior.level(i)[:, 0] - 1)
    ramp = np.clip((s ** (1 / 7) - 5 ** (1 / 7)) / (0.2 ** (1 / 7) - 5 ** (1 / 7)), 0, 1)
    assert ramp[0] == 0 and 0 < ramp[1] < 1 and (ramp[2:] == 1).all()
    expected = daps_by_hand(solver, problem, z, i, i_prev, draws, 0.2, 1e-3 * (1 - 0.9 * ramp))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert taken[1:] == (ode_steps, 5, 0, 5)


def test_latent_daps_step_on_another_walk_and_with_the_measurements_noise():
    """tau None is noise_std; the step size falls linearly in log s from the first index of a full run to index 0."""
    solver, prior = LatentDAPS(None, 3, 1e-3, 0.8, decay=0.1, walk=EvenlySpaced(9)), Toy(1000)
    problem, z, draws = Problem(prior, 3, noise_std=0.3), latents(3), Draws(3, 0)
    i, i_prev = indices(999, 500, 0), indices(874, 375, -1)
    got, _ = step(solver, problem, z, i, i_prev, draws)
    s = np.sqrt(1 / prior.level(i)[:, 0] - 1)
    h = 1e-3 * (1 - 0.9 * np.log(s / s[0]) / np.log(s[2] / s[0]))
    expected = daps_by_hand(solver, problem, z, i, i_prev, draws, 0.3, h)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    silent = Problem(prior, 3, noise_std=0.0)
    with pytest.raises(ValueError, match=r"solver\.tau"):
        step(solver, silent, z, i, i_prev, draws)


@pytest.mark.parametrize(("momentum", "step_size"), [(None, 2e-3), (0.9, 2e-4)])
def test_latent_daps_samples_the_conditional(momentum, step_size):
    """Long chains end in N(z0_hat, s^2) times the likelihood, whose mean and covariance are known."""
    n, prior, i = 4000, Toy(1000), 250
    solver = LatentDAPS(0.5, 800, step_size, momentum, 1.0, walk=Strided(1))
    problem = Problem(prior, n, shared=True)
    problem.y = np.broadcast_to(problem.y[:1], problem.y.shape)
    z = np.broadcast_to(latents(1), (n, 4))
    got, _ = step(solver, problem, z, torch.full((n,), i), torch.full((n,), -1), FastDraws(n))
    z0_hat = flow(problem, i)[0] @ z[0] + flow(problem, i)[1]
    s2, H = 1 / float(prior.abar[i]) - 1, problem.H[0]
    covariance = np.linalg.inv(np.eye(4) / s2 + H.T @ H / 0.5**2)
    assert_same_law(got, covariance @ (z0_hat / s2 + H.T @ problem.y[0] / 0.5**2), covariance)


def daps_law(solver, problem, start, step_size):
    """Mean and covariance of the whole run's result in closed form: every part of it is affine with Gaussian noise."""
    prior, H, tau, b = problem.prior, problem.H[0], solver.tau, solver.momentum
    mean, covariance = np.zeros(4), np.eye(4)
    for i, i_prev in itertools.pairwise([*solver.walk(prior, start), -1]):
        F, f = flow(problem, i)
        mean, covariance = F @ mean + f, F @ covariance @ F.T
        s2, h = 1 / float(prior.abar[i]) - 1, step_size(np.sqrt(1 / float(prior.abar[i]) - 1))
        # z0, velocity and z0_hat as one vector
        one, none, K = np.eye(4), np.zeros((4, 4)), H.T @ H / tau**2 + np.eye(4) / s2
        velocity = np.hstack([-np.sqrt(h) * K, b * one, np.sqrt(h) * one / s2])
        T = np.vstack([np.hstack([one, none, none]) + np.sqrt(h) * velocity, velocity, np.hstack([none, none, one])])
        push = np.sqrt(h) * H.T @ problem.y[0] / tau**2
        shift = np.concatenate([np.sqrt(h) * push, push, np.zeros(4)])
        kick = np.vstack([np.sqrt(h) * one, one, none]) * np.sqrt(2 * (1 - b))
        m = np.concatenate([mean, np.zeros(4), mean])
        S = np.block([[covariance, none, covariance], [none, one, none], [covariance, none, covariance]])
        for _ in range(solver.mcmc_steps):
            m, S = T @ m + shift, T @ S @ T.T + kick @ kick.T
        abar = float(prior.abar[i_prev])
        mean, covariance = np.sqrt(abar) * m[:4], abar * S[:4, :4] + (1 - abar) * np.eye(4)
    return mean, covariance


@pytest.mark.parametrize("pixels", [2, 12])
def test_latent_daps_run_has_the_law_of_its_recursion(pixels):
    """Mean and covariance of 4000 runs; and where the data determine the latent, they are the posterior's.

    DAPS puts N(z0_hat, s^2 I) in the place of p(z0 | z_i), with z0_hat from the flow; even with exact MCMC that is not
    the posterior where the data say little, so the comparison with it is made for twelve pixels on four unknowns.
    """
    n, prior = 4000, Toy(1000)
    walk = NoiseLevels(12, s_max=8.0, s_min=0.1)
    problem = Problem(prior, n, pixels, noise_std=0.1, shared=True)
    problem.y = np.broadcast_to(problem.y[:1], problem.y.shape)
    solver = LatentDAPS(None, 100, 1.1e-4, 0.9, 0.8, walk=walk)
    start = walk.first(prior)
    z = latents(n)
    for i, i_prev in itertools.pairwise([*walk(prior, start), -1]):
        z, _ = step(solver, problem, z, torch.full((n,), int(i)), torch.full((n,), int(i_prev)), FastDraws(n, int(i)))

    def step_size(s):
        ramp = (s ** (1 / 7) - 8 ** (1 / 7)) / (0.1 ** (1 / 7) - 8 ** (1 / 7))
        return 1.1e-4 * (1 - 0.2 * min(max(ramp, 0), 1))

    mean, covariance = daps_law(replace(solver, tau=0.1), problem, start, step_size)
    assert_same_law(z, mean, covariance)
    if pixels == 12:
        posterior_mean, posterior_covariance = problem.posterior
        std = np.sqrt(np.diag(posterior_covariance))
        assert (np.abs(z.mean(0) - posterior_mean) < (0.03 + 5 / np.sqrt(n)) * std).all()
        np.testing.assert_allclose(z.var(0) / std**2, 1, atol=0.03 + 5 * np.sqrt(2 / n))


# --- LatentDiffPIR ----------------------------------------------------------------------------------------------------


def proximal_by_hand(matrix, y, u, mu) -> np.ndarray:
    """argmin ||y - matrix x||^2 + mu ||x - u||^2 for one sample, by the normal equations; mu = 0: the nearest minimiser."""
    if mu == 0:
        return u + np.linalg.pinv(matrix) @ (y - matrix @ u)
    return np.linalg.solve(matrix.T @ matrix + mu * np.eye(len(u)), matrix.T @ y + mu * u)


def diffpir_by_hand(solver, problem):
    def advance(z, i, i_prev, draws):
        prior = problem.prior
        a = prior.level(i)
        z0 = prior.posterior_mean(z, i)
        u = z0 @ prior.W.T
        delta = solver.lam * (1 - a[:, 0]) / a[:, 0]
        parts = zip(problem.M, problem.y, u, problem.noise_std**2 / delta, strict=True)
        corrected = z0 + (np.stack([proximal_by_hand(*part) for part in parts]) - u) @ prior.V.T
        return reverse_by_hand(prior, z, corrected, i, i_prev, draws.numpy(0), solver.stochasticity)

    return advance


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
def test_latent_diffpir_step_by_hand(stochasticity, noise_std):
    """One step at four indices, strides 1 and more, down to clean; three pixels are measured, so three iterations solve."""
    solver = LatentDiffPIR(0.2, 3, stochasticity)
    problem, z, draws = Problem(Toy(60), 4, noise_std=noise_std), latents(4), Draws(4, 0)
    i, i_prev = indices(59, 30, 7, 0), indices(58, 21, 3, -1)
    got, taken = step(solver, problem, z, i, i_prev, draws)
    np.testing.assert_allclose(got, diffpir_by_hand(solver, problem)(z, i, i_prev, draws), rtol=0, atol=1e-9)
    assert taken[1:] == (1, 1, 2, 0)


def test_latent_diffpir_run_by_hand():
    """The whole chain in numpy; and data that are nearly free of noise are explained in the end.

    With encoder and decoder that are inverse to each other on the images of latents, and six pixels on four unknowns.
    """
    prior = Toy(300)
    prior.V = np.linalg.pinv(prior.W)
    solver, problem = LatentDiffPIR(0.5, 10, walk=Strided(10)), Problem(prior, 20, pixels=6, noise_std=0.01)
    z = latents(20)
    got = walk_down(solver, problem, z, 299, lambda *at: step(solver, problem, *at)[0])
    expected = walk_down(solver, problem, z, 299, diffpir_by_hand(solver, problem))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)
    free = walk_down(LDPS(0.0, 0.0, Strided(10)), problem, z, 299, lambda *at: step(LDPS(0.0, 0.0), problem, *at)[0])
    guided, unguided = (np.square(problem.residual(z0)).mean() for z0 in (got, free))
    assert guided < 0.01 * unguided


@pytest.mark.parametrize("length", ["stride", "polyak"])
def test_ldps_diffpir_is_proximal_at_the_last_step_alone(length):
    """In one batch, and where all samples take their last step or none does."""
    solver = LDPSDiffPIR(0.3, 0.0, length=length, lam=0.2, iterations=3)
    problem, z, draws = Problem(Toy(60), 4), latents(4), Draws(4, 0)
    i = indices(59, 30, 7, 0)
    for last in ([False, True, False, True], [False] * 4, [True] * 4):
        i_prev = torch.where(torch.tensor(last), -1, i - 3).clamp(min=-1)
        last = (i_prev < 0).numpy()
        got, taken = step(solver, problem, z, i, i_prev, draws)
        guided = guided_by_hand(solver, problem)(z, i, i_prev, draws)
        proximal = diffpir_by_hand(solver, problem)(z, i, i_prev, draws)
        np.testing.assert_allclose(got, np.where(last[:, None], proximal, guided), rtol=0, atol=1e-9)
        assert [cost(taken, k) for k in range(4)] == [[1, 1, 2, 0] if at_end else [1, 1, 0, 1] for at_end in last]


def pixels(seed, count=5, side=8) -> torch.Tensor:
    return tensor(np.random.default_rng(seed).uniform(-1, 1, (count, 1, side, side)))


def prepared(degradation, seed=1, count=5, side=8, noise_std=0.1):
    """Measurements of random images at rising levels, their operator, images u that are not the true ones, and mu."""
    levels = torch.linspace(0.1, 1, count, dtype=torch.float64)
    measurement = measure(pixels(seed, count, side), degradation, levels, noise_std)
    mu = tensor(np.geomspace(0.01, 3, count)).reshape(-1, 1, 1, 1)
    return measurement.y, measurement.operator(), pixels(seed + 1, count, side), mu


LINEAR = pytest.mark.parametrize(
    "degradation",
    [GaussianBlur(0.3, 2.0, 7), MotionBlur(0.0, 6.0), SuperResolution(), BoxInpainting(), RandomInpainting()],
    ids=lambda d: type(d).__name__,
)


@LINEAR
def test_conjugate_gradients_are_the_dense_solution(degradation):
    """The matrix of every sample is read off column by column; its normal equations are solved by numpy."""
    y, operator, u, mu = prepared(degradation)
    got = conjugate_gradients(operator, y, u, mu, 200)
    columns = torch.eye(64, dtype=torch.float64).reshape(64, 1, 1, 8, 8).expand(-1, 5, -1, -1, -1)
    matrices = torch.stack([operator.A(column) for column in columns], dim=-1).reshape(5, 64, 64).numpy()
    for k in range(5):
        expected = proximal_by_hand(matrices[k], y[k].flatten().numpy(), u[k].flatten().numpy(), float(mu[k]))
        np.testing.assert_allclose(got[k].flatten().numpy(), expected, rtol=0, atol=1e-9)


@LINEAR
def test_conjugate_gradients_lower_the_objective_with_every_iteration(degradation):
    y, operator, u, mu = prepared(degradation)

    def objective(x):
        return (y - operator.A(x)).square().sum((1, 2, 3)) + mu[:, 0, 0, 0] * (x - u).square().sum((1, 2, 3))

    values = torch.stack([objective(conjugate_gradients(operator, y, u, mu, n)) for n in range(8)])
    assert bool((values[0] > values[1]).all()) and bool((values.diff(dim=0) <= 1e-12).all())


@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_one_iteration_is_exact_for_a_mask_of_zeros_and_ones(iterations):
    """Kept pixels become (y + mu u) / (1 + mu), dropped ones stay; for mu = 0 the kept ones are y's."""
    y, operator, u, mu = prepared(RandomInpainting())
    mu[2] = 0
    keep = operator.state["keep"].bool()
    expected = torch.where(keep, (y + mu * u) / (1 + mu), u)
    got = conjugate_gradients(operator, y, u, mu, iterations)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LINEAR
def test_without_noise_the_iteration_ends_at_the_data(degradation, dtype):
    """mu = 0: far past convergence, singular operators included, nothing grows from rounding."""
    y, operator, u, mu = prepared(degradation, noise_std=0.0)
    operator = replace(operator, state={k: v.to(dtype) for k, v in operator.state.items()})
    x = conjugate_gradients(operator, y.to(dtype), u.to(dtype), 0 * mu.to(dtype), 500)
    before, after = ((y.to(dtype) - operator.A(v)).flatten(1).norm(dim=1) for v in (u.to(dtype), x))
    assert bool(torch.isfinite(x).all()) and float(x.abs().max()) < 10
    assert bool((after < 1e-3 * before).all())


def test_gradient_descent_finds_the_proximal_point_of_a_linear_operator():
    y, operator, u, mu = prepared(GaussianBlur(0.3, 1.0, 7))
    exact = conjugate_gradients(operator, y, u, mu + 0.5, 200)
    torch.testing.assert_close(gradient_descent(operator, y, u, mu + 0.5, 200), exact, rtol=0, atol=1e-5)


def test_gradient_descent_lowers_the_misfit_of_a_nonlinear_operator():
    """Its objective never grows; the misfit, the part of it that was not 0 at first, falls. Saturated pixels included."""
    y, operator, u, mu = prepared(NonlinearBlur(length_max=6.0))

    def parts(x):
        return (y - operator.A(x)).square().sum((1, 2, 3)), mu[:, 0, 0, 0] * (x - u).square().sum((1, 2, 3))

    runs = [parts(gradient_descent(operator, y, u, mu, n)) for n in range(12)]
    objective = torch.stack([misfit + distance for misfit, distance in runs])
    assert bool((objective.diff(dim=0) <= 0).all())
    assert bool((runs[10][0] < 0.8 * runs[0][0])[:4].all()) and bool((runs[10][0] < runs[0][0]).all())


@pytest.mark.parametrize("degradation", [GaussianBlur(), NonlinearBlur(length_max=6.0)], ids=lambda d: type(d).__name__)
def test_latent_diffpir_needs_no_gradient_of_a_network(degradation, tiny_prior, monkeypatch):
    """The networks are asked without a graph, and its data step lowers the misfit of the decoded clean estimate."""
    for name in ("predict_eps", "decode", "encode"):
        inner = getattr(tiny_prior, name)

        def without(x, *at, inner=inner):
            assert not torch.is_grad_enabled() and not x.requires_grad
            return inner(x, *at)

        monkeypatch.setattr(tiny_prior, name, without)
    measurement = measure(pixels(1, 3, 16), degradation, torch.linspace(0, 1, 3, dtype=torch.float64), 0.05)
    z, i, i_prev = tensor(np.random.default_rng(2).normal(size=(3, 4, 4, 4))), indices(25, 11, 6), indices(24, 3, -1)
    seen = []
    for name in ("conjugate_gradients", "gradient_descent"):
        inner = {"conjugate_gradients": conjugate_gradients, "gradient_descent": gradient_descent}[name]

        def watched(operator, y, u, mu, iterations, inner=inner, name=name):
            x = inner(operator, y, u, mu, iterations)
            seen.append((name, *((y - operator.A(v)).flatten(1).norm(dim=1) for v in (u, x))))
            return x

        monkeypatch.setattr(f"flashdiff.solvers.latent_diffpir.{name}", watched)
    LatentDiffPIR().step(tiny_prior, measurement.operator(), measurement.y, z, i, i_prev, lambda draw=0: z)
    ((name, before, after),) = seen
    assert name == ("conjugate_gradients" if degradation.linear else "gradient_descent")
    assert bool((after < before).all())


def test_the_proximal_step_is_in_full_precision_under_autocast(tiny_prior, monkeypatch):
    prior = tiny_prior.float()
    measurement = measure(pixels(1, 3, 16).float(), GaussianBlur(), torch.linspace(0, 1, 3), 0.05)
    found = []

    def watched(operator, y, u, mu, iterations):
        found.append((u, mu, conjugate_gradients(operator, y, u, mu, iterations)))
        return found[-1][-1]

    monkeypatch.setattr("flashdiff.solvers.latent_diffpir.conjugate_gradients", watched)
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        at = (measurement.operator(), measurement.y, z, indices(25, 11, 6), indices(24, 3, -1), lambda draw=0: z)
        LatentDiffPIR().step(prior, *at)
    ((u, mu, x),) = found
    assert torch.equal(x, conjugate_gradients(measurement.operator(), measurement.y, u, mu, 10))


# --- every solver of the registry -------------------------------------------------------------------------------------

EVERY = pytest.mark.parametrize("name", list(SOLVERS))
# Of N = 40; for ReSample: above all stages, image, image, latent, last, last.
AT, TO = indices(39, 25, 20, 11, 6, 0), indices(37, 15, 18, -1, -1, -1)


def measured():
    x = tensor(np.random.default_rng(1).uniform(-1, 1, (6, 1, 16, 16)))
    levels = torch.linspace(0, 1, 6, dtype=torch.float64)
    z = tensor(np.random.default_rng(2).normal(size=(6, 4, 4, 4)))
    return measure(x, GaussianBlur(), levels, 0.1), z


def take(solver, prior, measurement, z, rows):
    def noise(draw=0):
        draws = [np.random.default_rng([int(k), draw]).normal(size=(4, 4, 4)) for k in measurement.ids[rows]]
        return tensor(np.stack(draws))

    operator = measurement.operator(rows)
    return solver.step(prior, operator, measurement.y[rows], z[rows], AT[rows], TO[rows], noise)


def cost(taken, k) -> list[int]:
    return [int(c[k]) if isinstance(c, torch.Tensor) else c for c in (getattr(taken, name) for name in COSTS)]


@EVERY
def test_sample_alone_equals_sample_in_batch(name, tiny_prior):
    """Batch mates, their severity and their index must not change a sample, nor what it costs."""
    solver = SOLVERS[name]()
    measurement, z = measured()
    together = take(solver, tiny_prior, measurement, z, np.arange(6))
    assert together.z.shape == z.shape and together.z.dtype == z.dtype and not together.z.requires_grad
    for k in range(6):
        alone = take(solver, tiny_prior, measurement, z, np.array([k]))
        torch.testing.assert_close(alone.z[0], together.z[k], rtol=0, atol=1e-10)
        assert cost(alone, 0) == cost(together, k)


@EVERY
def test_costs_are_the_calls_made(name, tiny_prior, monkeypatch):
    """Rows that went through denoiser, decoder and encoder, and back, in one batch, are what the samples are charged with.

    A backward pass through a network is seen by the gradient that arrives at its output; one pass may arrive at several,
    so it is counted at the decoder, which every one of them goes through.
    """
    rows, back = {"predict_eps": 0, "decode": 0, "encode": 0}, {"predict_eps": 0, "decode": 0, "encode": 0}

    def counted(call, inner):
        def arrived(gradient):
            back[call] += len(gradient)

        def wrapper(z, *at):
            rows[call] += len(z)
            out = inner(z, *at)
            if out.requires_grad:
                out.register_hook(arrived)
            return out

        return wrapper

    for call in rows:
        monkeypatch.setattr(tiny_prior, call, counted(call, getattr(tiny_prior, call)))
    measurement, z = measured()
    taken = take(SOLVERS[name](), tiny_prior, measurement, z, np.arange(6))
    evaluations, decodes, encodes, gradients = np.sum([cost(taken, k) for k in range(6)], axis=0)
    assert rows == {"predict_eps": evaluations, "decode": decodes, "encode": encodes} and decodes > 0
    assert back["decode"] == gradients
    assert back["predict_eps"] == issubclass(SOLVERS[name], Guided) * gradients
    assert back["encode"] == (name in GUIDED) * encodes


def test_hard_consistency_is_solved_in_full_precision_under_autocast(tiny_prior):
    """The iterates of Adam must be float32's, to the last digit, from the same start."""
    prior, (measurement, z) = tiny_prior.float(), measured()
    operator = measurement.operator()
    operator = replace(
        operator, state={k: v.float() if v.is_floating_point() else v for k, v in operator.state.items()}
    )
    solver, y, z0 = ReSample(max_iterations=5), measurement.y.float(), z.float()
    plain = solver._minimise(prior.decode, operator, y, z0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = solver._minimise(prior.decode, operator, y, z0)
    assert torch.equal(plain[0], rounded[0]) and torch.equal(plain[1], rounded[1])


@EVERY
def test_input_is_left_as_it_was(name, tiny_prior):
    measurement, z = measured()
    before = z.clone(), measurement.y.clone()
    take(SOLVERS[name](), tiny_prior, measurement, z, slice(None))
    assert torch.equal(z, before[0]) and torch.equal(measurement.y, before[1]) and not z.requires_grad


@EVERY
def test_build_and_check(name):
    solver = build({"kind": name, "walk": {"kind": "evenly_spaced", "steps": 7}})
    assert type(solver) is SOLVERS[name] and solver.walk == EvenlySpaced(7)
    check(solver, GaussianBlur())


@dataclass(frozen=True)
class Squared(Mix):
    """A degradation without adjoint."""

    linear: ClassVar[bool] = False


@EVERY
def test_only_psld_is_refused_on_a_nonlinear_degradation(name):
    if name != "psld":
        return check(SOLVERS[name](), Squared())
    with pytest.raises(ValueError, match=r"PSLD needs the adjoint A\^T, and Squared is not linear"):
        check(PSLD(), Squared())


@pytest.mark.parametrize(
    ("solver", "fields"),
    [
        (LDPS, {"eta": -0.1}),
        (LDPS, {"stochasticity": 1.5}),
        (PSLD, {"eta": float("nan")}),
        (GMLDPS, {"gamma": -0.1}),
        (PSLD, {"gamma": float("nan")}),
        (ReSample, {"g": -1.0}),
        (ReSample, {"every": 0}),
        (ReSample, {"learning_rate": 0.0}),
        (ReSample, {"max_iterations": 0}),
        (ReSample, {"semantic_above": 0.8}),
        (ReSample, {"chaotic_above": 1.1}),
        (LatentDAPS, {"tau": 0.0}),
        (LatentDAPS, {"mcmc_steps": 0}),
        (LatentDAPS, {"step_size": -1e-6}),
        (LatentDAPS, {"momentum": 1.0}),
        (LatentDAPS, {"decay": 0.0}),
        (LatentDAPS, {"clip": 0.0}),
        (LatentDAPS, {"ode_steps": 0}),
        (LatentDiffPIR, {"lam": 0.0}),
        (LatentDiffPIR, {"iterations": 0}),
        (LatentDiffPIR, {"stochasticity": -0.1}),
    ],
)
def test_bad_fields_are_refused(solver, fields):
    (name,) = fields
    with pytest.raises(ValueError, match=name):
        solver(**fields)
