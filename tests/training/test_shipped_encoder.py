"""An encoder that lies beside the prior is taken instead of trained, and only when it was made for that prior."""

import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur
from flashdiff.severity import SeverityEncoder
from flashdiff.training.severity import held_out_evaluation, take_shipped_encoder

BLUR, NOISE_STD = GaussianBlur(radius=8), 0.1


@pytest.fixture
def validation():
    return np.random.default_rng(0).integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)


def test_it_is_taken_as_it_is_and_measured_once(tiny_prior, validation, tmp_path):
    prior = tiny_prior.float()
    SeverityEncoder.from_prior(prior, seed=3).save_pretrained(tmp_path / "blur")
    encoder, curve = take_shipped_encoder(tmp_path / "blur", prior, BLUR, NOISE_STD, validation, seed=1)
    for ours, theirs in zip(encoder.parameters(), SeverityEncoder.from_prior(prior, seed=3).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not encoder.training
    expected = held_out_evaluation(prior, BLUR, NOISE_STD, validation, seed=1)(encoder)
    assert curve.to_dict("records") == [{"step": 0} | expected]


@pytest.mark.parametrize(
    ("field", "value"), [("in_channels", 3), ("latent_channels", 8), ("pixel_unshuffle", 1), ("scaling_factor", 1.0)]
)
def test_one_of_another_prior_is_refused(field, value, tiny_prior, validation, tmp_path):
    prior = tiny_prior.float()
    config = dict(SeverityEncoder.from_prior(prior).config) | {field: value}
    SeverityEncoder(**config).save_pretrained(tmp_path / "blur")
    with pytest.raises(ValueError, match=rf"blur: {field} is {value}, the prior's is .* give the prior's own encoder"):
        take_shipped_encoder(tmp_path / "blur", prior, BLUR, NOISE_STD, validation, seed=1)
