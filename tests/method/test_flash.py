"""The adaptive start: SNR inversion by brute force, variances of the start latents, and the methods end to end."""

import dataclasses

import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import Flash, FullLength
from flashdiff.severity import Severity
from flashdiff.solvers import LDPS, LatentDiffPIR
from flashdiff.starts import ConsistentStart, FixedStart, InversionStart, PublishedStart, ScaledStart, match_snr
from flashdiff.walks import EvenlySpaced


def test_match_snr_brute_force(tiny_prior):
    abar = tiny_prior.abar[:-1].tolist()
    for variance in (1e-4, 0.01, 0.05, 0.3, 2.0, 50.0):
        gaps = [abs(a / (1 - a) - 1 / variance) for a in abar]
        assert int(match_snr(tiny_prior, torch.tensor([variance]))) == gaps.index(min(gaps))


def test_match_snr_inverts_the_schedule(tiny_prior):
    i = torch.arange(tiny_prior.n_steps)
    abar = tiny_prior.abar[:-1]
    assert torch.equal(match_snr(tiny_prior, (1 - abar) / abar), i)


def severity(n=4000, variance=0.2, seed=0):
    """z_hat = z0 + e with z0, e independent normal: what the model of the error assumes."""
    g = torch.Generator().manual_seed(seed)
    z0 = torch.randn(n, 1, 4, 4, generator=g, dtype=torch.float64)
    e = variance**0.5 * torch.randn(z0.shape, generator=g, dtype=torch.float64)
    return (
        z0,
        Severity(z0 + e, torch.full((n,), variance, dtype=torch.float64)),
        torch.randn(z0.shape, generator=g, dtype=torch.float64),
    )


@pytest.mark.parametrize("k", [1.0, 1.5, 2.0])
def test_consistent_start_has_the_noise_the_denoiser_expects(fine_prior, k):
    z0, seen, noise = severity()
    i, z, _ = ConsistentStart(k)(fine_prior, seen, noise)
    abar = fine_prior.signal(i)[:, None, None, None]
    error = (z - abar.sqrt() * z0) / (1 - abar).sqrt()
    assert float(error.std()) == pytest.approx(
        1, abs=0.02
    )  # 64 000 entries: standard error 0.003, grid error below 0.01
    assert float((error * z0).mean()) == pytest.approx(0, abs=0.02)


def test_published_start_is_the_papers_formula(fine_prior):
    _, seen, noise = severity(n=2)
    i, z, _ = PublishedStart(correction=1.2)(fine_prior, seen, noise)
    torch.testing.assert_close(z, (1 - 0.24) ** 0.5 * seen.z_hat + 0.24**0.5 * noise)
    assert torch.equal(i, match_snr(fine_prior, seen.variance))


def test_published_start_has_twice_the_expected_noise_for_small_severity(fine_prior):
    z0, seen, noise = severity(variance=0.02)
    i, z, _ = PublishedStart()(fine_prior, seen, noise)
    error = z - (1 - 0.02) ** 0.5 * z0
    assert float(error.var() / (1 - fine_prior.signal(i)).mean()) == pytest.approx(2, rel=0.05)


def test_full_correction_is_capped_at_pure_noise(fine_prior):
    _, seen, noise = severity(n=2, variance=3.0)
    torch.testing.assert_close(PublishedStart(1.2)(fine_prior, seen, noise).z, noise)


def test_scaled_start_counts_a_share_of_the_severity_as_noise_and_starts_nowhere_below_its_lowest(fine_prior):
    _, seen, noise = severity(n=3)
    seen = seen._replace(variance=torch.tensor([1e-4, 0.2, 2.0], dtype=torch.float64))
    i, z, _ = ScaledStart(share=0.25, lowest=7)(fine_prior, seen, noise)
    assert i.tolist() == [7, *match_snr(fine_prior, 0.25 * seen.variance[1:]).tolist()] and int(i[1]) > 7
    torch.testing.assert_close(z, fine_prior.signal(i)[:, None, None, None].sqrt() * seen.z_hat)
    whole, consistent = ScaledStart()(fine_prior, seen, noise), ConsistentStart(1.0)(fine_prior, seen, noise)
    assert torch.equal(whole.index, consistent.index) and torch.equal(whole.z, consistent.z)


class GaussianPrior:
    """The part of a prior that a start uses, with the exact denoiser of latents z0 ~ N(0, variance I)."""

    def __init__(self, prior, variance):
        self.abar, self.signal, self.variance = prior.abar, prior.signal, variance

    def predict_eps(self, z, i):
        abar = self.signal(i)[:, None, None, None]
        return (1 - abar).sqrt() * z / (abar * self.variance + 1 - abar)


@pytest.mark.parametrize("variance", [1.0, 0.5])
def test_inversion_follows_the_probability_flow(fine_prior, variance):
    """For normal latents the flow only rescales: its solution at index i is z_hat sqrt(abar v + 1 - abar) / sqrt(v)."""
    z_hat = torch.randn(6, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = torch.tensor([1e-4, 0.01, 0.1, 0.3, 1.0, 2.0], dtype=torch.float64)
    i, z, evaluations = InversionStart()(GaussianPrior(fine_prior, variance), Severity(z_hat, spread), z_hat)
    abar = fine_prior.signal(i)[:, None, None, None]
    assert torch.equal(i, match_snr(fine_prior, spread)) and torch.equal(evaluations, i + 1)
    exact = z_hat * ((abar * variance + 1 - abar) / variance).sqrt()
    torch.testing.assert_close(z, exact, rtol=0.02, atol=0)  # one Euler step per index; the first one is the largest


def test_inversion_counts_its_evaluations(tiny_prior, tiny_encoder, measurement):
    result = Flash(tiny_prior, tiny_encoder, LDPS(), InversionStart(stride=3), progress=False)(measurement)
    inversion = (result.start + 1 + 2) // 3
    assert torch.equal(result.nfe, result.start + 1 + inversion)
    assert torch.equal(result.decodes, result.start + 2)


def test_stream_equals_call(tiny_prior, tiny_encoder, measurement):
    """Measurements that come one after another give what they give together, whatever the order of finishing."""
    flash = Flash(tiny_prior, tiny_encoder, LDPS(0.1), FixedStart(6), batch_size=2, progress=False)
    parts = (measurement.select(rows) for rows in (np.array([0]), np.array([1, 2]), np.array([3, 4])))
    images = torch.empty(5, 1, 16, 16, dtype=torch.float64)
    for done in flash.stream(parts):
        images[done.rows] = done.images
    torch.testing.assert_close(images.clamp(-1, 1), flash(measurement).images, rtol=0, atol=1e-10)


def test_methods_take_the_same_walk(tiny_prior, tiny_encoder, measurement):
    """At an equal number of evaluations, full length and Flash differ in the start only."""
    solver = LDPS(0.1, stochasticity=0.0, walk=EvenlySpaced(4))
    flash = Flash(tiny_prior, tiny_encoder, solver, FixedStart(9), progress=False)(measurement)
    full = FullLength(tiny_prior, solver, progress=False)(measurement)
    assert flash.nfe.tolist() == full.nfe.tolist() == [4] * 5
    assert full.start.tolist() == [tiny_prior.n_steps - 1] * 5


def test_undefined_pair_is_refused_before_the_encoder_runs(tiny_prior, measurement):
    @dataclasses.dataclass(frozen=True)
    class NeedsAdjoint(LDPS):
        needs_adjoint = True

    class Nonlinear(GaussianBlur):
        linear = False

    undefined = dataclasses.replace(measurement, degradation=Nonlinear(0.3, 2.0, 7))
    for method in (
        Flash(tiny_prior, None, NeedsAdjoint(), progress=False),
        FullLength(tiny_prior, NeedsAdjoint(), progress=False),
    ):
        with pytest.raises(ValueError, match="NeedsAdjoint needs the adjoint A\\^T, and Nonlinear is not linear"):
            method(undefined)


@pytest.fixture
def measurement():
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (5, 1, 16, 16)))
    return measure(x, GaussianBlur(0.3, 2.0, 7), torch.linspace(0, 1, 5), 0.1, ids=np.array([4, 9, 0, 2, 7]))


@pytest.mark.parametrize(
    "start",
    [PublishedStart(1.2), ConsistentStart(1.0), FixedStart(6), InversionStart(2)],
    ids=lambda s: type(s).__name__,
)
def test_flash_alone_equals_flash_in_batch(tiny_prior, tiny_encoder, measurement, start):
    """Batch mates, batch size and order of the images must not change an image.

    Starts from 1 to 9 and a small step: on random weights, long walks amplify rounding until it shows.
    """
    abar = tiny_prior.abar[torch.tensor([1, 3, 5, 7, 9])]
    severity = Severity(tiny_encoder.infer(measurement.y).z_hat, (1 - abar) / abar)
    methods = [Flash(tiny_prior, tiny_encoder, LDPS(0.1), start, batch_size=b, progress=False) for b in (1, 2, 64)]
    results = [method(measurement, severity) for method in methods]
    order = np.array([3, 0, 4, 1, 2])
    shuffled = methods[1](measurement.select(order), Severity(severity.z_hat[order], severity.variance[order]))
    for result in results[1:]:
        torch.testing.assert_close(result.images, results[0].images, rtol=0, atol=1e-10)
        assert torch.equal(result.nfe, results[0].nfe)
    torch.testing.assert_close(shuffled.images, results[0].images[order], rtol=0, atol=1e-10)


def test_costs_are_counted(tiny_prior, tiny_encoder, measurement):
    flash = Flash(tiny_prior, tiny_encoder, LDPS(), batch_size=2, progress=False)(measurement)
    assert torch.equal(flash.nfe, flash.start + 1) and torch.equal(flash.decodes, flash.nfe + 1)
    assert torch.equal(flash.gradients, flash.nfe) and flash.encodes.tolist() == [0] * 5
    free = Flash(tiny_prior, tiny_encoder, LatentDiffPIR(), batch_size=2, progress=False)(measurement)
    assert torch.equal(free.nfe, flash.nfe) and torch.equal(free.decodes, flash.decodes)
    assert torch.equal(free.encodes, 2 * free.nfe) and free.gradients.tolist() == [0] * 5
    assert flash.engine.sample_steps == int(flash.nfe.sum())
    full = FullLength(tiny_prior, LDPS(), progress=False)(measurement)
    assert full.nfe.tolist() == [tiny_prior.n_steps] * 5 and bool(full.sigma_hat.isnan().all())
    assert full.engine.calls == tiny_prior.n_steps


def test_no_diffusion_is_the_decoded_estimate(tiny_prior, tiny_encoder, measurement):
    result = Flash(tiny_prior, tiny_encoder, LDPS(), FixedStart(-1), progress=False)(measurement)
    z_hat = tiny_encoder.infer(measurement.y).z_hat
    torch.testing.assert_close(result.images, tiny_prior.decode(z_hat).clamp(-1, 1))
    assert result.nfe.tolist() == [0] * 5 and result.decodes.tolist() == [1] * 5
    assert result.encodes.tolist() == result.gradients.tolist() == [0] * 5


def test_seed_zero_is_a_seed(tiny_prior, tiny_encoder, measurement):
    runs = [Flash(tiny_prior, tiny_encoder, LDPS(), seed=s, progress=False)(measurement).images for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.allclose(runs[0], runs[2])


def test_public_names_are_importable():
    import flashdiff

    for name in flashdiff.__all__:
        assert getattr(flashdiff, name).__name__ == name
