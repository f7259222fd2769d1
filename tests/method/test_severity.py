"""The severity encoder: architecture, the loss by hand, brute-force ordering accuracy."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashdiff.degradations import GaussianBlur, RandomInpainting
from flashdiff.severity import (
    Severity,
    SeverityEncoder,
    latent_error_variance,
    negative_log_likelihood,
    ordering_accuracy,
    severity_at_levels,
    severity_loss_terms,
    training_loss,
)


def test_starts_as_the_priors_encoder(tiny_prior):
    encoder = SeverityEncoder.from_prior(tiny_prior)
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(encoder.double()(x).z_hat, tiny_prior.encode(x), rtol=1e-6, atol=1e-6)


def test_variance_is_the_mean_square_of_std_conv(tiny_prior, tiny_encoder):
    y = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        features = tiny_encoder.encoder(torch.nn.functional.pixel_unshuffle(y, 2))
        out = torch.einsum("oc,bchw->bohw", tiny_encoder.std_conv.weight[:, :, 0, 0], features)
        out = (out + tiny_encoder.std_conv.bias[:, None, None]) * tiny_prior.scaling_factor
    torch.testing.assert_close(tiny_encoder.infer(y).variance, torch.stack([(o**2).mean() for o in out]))


def test_infer_does_not_depend_on_batch_size(tiny_encoder):
    y = torch.rand(5, 1, 16, 16, dtype=torch.float64)
    together, alone = tiny_encoder.infer(y, batch_size=5), tiny_encoder.infer(y, batch_size=1)
    torch.testing.assert_close(together.z_hat, alone.z_hat, rtol=0, atol=1e-12)
    torch.testing.assert_close(together.variance, alone.variance, rtol=0, atol=1e-12)


def test_loss_terms_by_hand():
    z_hat, z0, x0 = (torch.from_numpy(np.random.default_rng(k).normal(size=(3, 2, 4, 4))) for k in range(3))
    variance = torch.tensor([0.1, 2.0, 0.7], dtype=torch.float64)
    latent, severity, image = severity_loss_terms(Severity(z_hat, variance), z0, x0, lambda z: 2 * z)
    for k in range(3):
        e = (z_hat[k] - z0[k]).numpy().ravel()
        assert latent[k] == pytest.approx((e**2).sum() / 32)
        assert severity[k] == pytest.approx((float(variance[k]) - np.var(e, ddof=1)) ** 2)
        assert image[k] == pytest.approx(((2 * z_hat[k] - x0[k]).numpy() ** 2).mean())


def test_sbar_of_a_known_error():
    z0 = torch.zeros(1, 4, 4, 4)
    e = torch.tensor([1.0, -1.0]).repeat(32).reshape(1, 4, 4, 4) + 5.0  # the mean does not count, the divisor is d - 1
    assert float(latent_error_variance(e, z0)) == pytest.approx(64 / 63)


def test_training_loss_gives_every_image_its_own_draw(tiny_prior, tiny_encoder):
    """The loss of two images is the mean of their single losses: no draw depends on the batch, no term mixes it."""
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    loss = training_loss(tiny_prior.float(), GaussianBlur(0.3, 2.0, 7), 0.1, images, seed=5)
    encoder = tiny_encoder.float()
    pair = loss(encoder, np.array([3, 1]), 7)[0]
    single = [loss(encoder, np.array([k]), 7)[0] for k in (3, 1)]
    torch.testing.assert_close(pair, torch.stack(single).mean(), rtol=1e-5, atol=1e-6)


def test_loss_weights(tiny_prior, tiny_encoder):
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
    loss = training_loss(tiny_prior.float(), GaussianBlur(), 0.1, images, lambda_sigma=2.0, lambda_image=3.0)
    total, terms = loss(tiny_encoder.float(), np.array([0, 1]), 0)
    torch.testing.assert_close(total, terms["latent"] + 2 * terms["severity"] + 3 * terms["image"])


def test_ordering_accuracy_brute_force():
    sigma = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (20, 10)).astype(float))  # ties on purpose
    for row, accuracy in zip(sigma.numpy(), ordering_accuracy(sigma), strict=True):
        pairs = [row[i] <= row[j] for i, j in itertools.combinations(range(10), 2)]
        assert float(accuracy) == pytest.approx(sum(pairs) / 45)
    assert float(ordering_accuracy(torch.arange(10.0)[None])) == 1.0
    assert float(ordering_accuracy(-torch.arange(10.0)[None])) == 0.0


def test_severity_at_levels_shape_and_levels(tiny_encoder):
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    levels = torch.linspace(0, 1, 4)
    sigma = severity_at_levels(tiny_encoder, x, GaussianBlur(0.3, 2.0, 7), 0.0, levels)
    assert sigma.shape == (2, 4)
    expected = tiny_encoder.infer(GaussianBlur(0.3, 2.0, 7).A(x, torch.ones(2))).sigma_hat
    torch.testing.assert_close(sigma[:, 3], expected)


def test_disk_round_trip(tiny_encoder, tmp_path):
    tiny_encoder.save_pretrained(tmp_path)
    again = SeverityEncoder.from_pretrained(tmp_path, torch_dtype=torch.float64)
    y = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(again.infer(y).variance, tiny_encoder.infer(y).variance)


def test_bad_measurements_are_refused(tiny_encoder):
    with pytest.raises(ValueError, match="y: shape"):
        tiny_encoder.infer(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="NaN"):
        tiny_encoder.infer(torch.full((1, 1, 16, 16), torch.nan))


@pytest.fixture
def correcting(tiny_prior):
    return SeverityEncoder.from_prior(tiny_prior, seed=1, correction_channels=(8, 16)).double().eval()


def test_a_correcting_encoder_is_gate_times_e0_plus_correction(tiny_prior, correcting):
    y = torch.randn(3, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        correction, error, gate = correcting.correction(F.pixel_unshuffle(y, 2)).chunk(3, 1)
        found = correcting(y)
    expected = torch.sigmoid(gate + 2) * tiny_prior.encode(y) + correction * tiny_prior.scaling_factor
    torch.testing.assert_close(found.z_hat, expected)
    variance = (error * tiny_prior.scaling_factor).square().flatten(1).mean(1)
    torch.testing.assert_close(found.variance, variance)


def test_a_correcting_encoder_learns_its_correction_and_leaves_e0_as_it_is(tiny_prior, correcting):
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16), dtype=np.uint8)
    encoder = correcting.float().train()
    value, _ = training_loss(tiny_prior.float(), GaussianBlur(0.3, 2.0, 7), 0.1, images, loss="likelihood")(
        encoder, np.arange(8), 0
    )
    value.backward()
    moved = {name.split(".")[0] for name, weights in encoder.named_parameters() if weights.grad is not None}
    assert moved == {"correction"}
    for name, weights in tiny_prior.autoencoder.encoder.state_dict().items():
        assert torch.equal(weights, encoder.encoder.state_dict()[name])


def test_a_correcting_encoder_keeps_e0_in_full_precision(correcting, tiny_prior):
    """With the correction silent and the gate wide open, bf16 must not cost the clean image anything."""
    encoder = correcting.float()
    with torch.no_grad():
        encoder.correction.conv_out.weight.zero_()
        encoder.correction.conv_out.bias.zero_()
        encoder.correction.conv_out.bias[-4:] = 100.0
        y = torch.randn(2, 1, 16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(y).z_hat
    torch.testing.assert_close(found, tiny_prior.float().encode(y), rtol=1e-5, atol=1e-6)


def test_correcting_encoders_survive_the_disk(correcting, tmp_path):
    correcting.float().save_pretrained(tmp_path)
    again, y = SeverityEncoder.from_pretrained(tmp_path), torch.randn(2, 1, 16, 16)
    assert again.corrects and torch.equal(again.infer(y).z_hat, correcting.infer(y).z_hat)
    assert not any(weights.requires_grad for weights in (*again.encoder.parameters(), *again.quant_conv.parameters()))


def test_a_correction_of_another_depth_is_refused(tiny_prior):
    with pytest.raises(ValueError, match=r"severity.architecture.channels: \[8\] for an autoencoder of 2 resolutions"):
        SeverityEncoder.from_prior(tiny_prior, correction_channels=[8])


def test_the_likelihood_is_that_of_a_normal_distribution():
    """v^(1/2) times twice the negative log-density per entry, up to log 2 pi; its best constant v is the mean square."""
    z0 = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    error = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    variance = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, (variance + 1e-6).sqrt()[:, None, None, None])
    density = -2 * normal.log_prob(error).flatten(1).mean(1) - np.log(2 * np.pi)
    found = negative_log_likelihood(Severity(error, variance), z0)
    torch.testing.assert_close(found, variance.sqrt() * density, rtol=1e-5, atol=1e-5)
    free = error[:1].square().mean().clone().requires_grad_()
    negative_log_likelihood(Severity(error[:1], free[None]), z0[:1]).sum().backward()
    assert abs(float(free.grad)) < 1e-5


def test_noise_levels_are_drawn_per_image_from_their_range(tiny_prior):
    """A degradation that does nothing: what is added to the images has each its own standard deviation, within the range."""
    seen = []

    class Listener(torch.nn.Module):
        def forward(self, y):
            seen.append(y)
            return Severity(torch.zeros(len(y), 4, 4, 4), torch.ones(len(y)))

    images = np.full((400, 1, 16, 16), 128, dtype=np.uint8)
    nothing = RandomInpainting(drop_max=1e-9)
    training_loss(tiny_prior.float(), nothing, (0.1, 0.3), images, loss="likelihood")(Listener(), np.arange(400), 0)
    spread = (seen[0] - seen[0].flatten(1).mean(1)[:, None, None, None]).flatten(1).std(1)
    assert 0.08 < float(spread.min()) < 0.13 and 0.27 < float(spread.max()) < 0.35
    assert float(spread.mean()) == pytest.approx(0.2, abs=0.01)


def test_no_level_of_one_seed_has_the_noise_of_another_seeds_level(tiny_encoder, monkeypatch):
    """The level is in the counter: of 3 seeds x 4 levels all 12 measurements of a grey image are different."""
    seen = []
    monkeypatch.setattr(SeverityEncoder, "infer", lambda self, y: seen.append(y) or Severity(y, torch.ones(len(y))))
    x, nothing = torch.zeros(1, 1, 16, 16), RandomInpainting(drop_max=1e-9)
    for seed in range(3):
        severity_at_levels(tiny_encoder, x, nothing, 0.1, torch.linspace(0, 1, 4), seed=seed)
    assert len({y.numpy().tobytes() for y in seen}) == 12


def test_strict_ordering_accuracy_counts_equal_answers_as_wrong():
    constant = torch.full((2, 5), 0.3)
    assert ordering_accuracy(constant).tolist() == [1, 1] and ordering_accuracy(constant, strict=True).tolist() == [
        0,
        0,
    ]
    rising = torch.linspace(0, 1, 5).expand(2, 5)
    assert ordering_accuracy(rising, strict=True).tolist() == [1, 1]
