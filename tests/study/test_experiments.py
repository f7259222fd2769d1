"""What the experiments on severity count beside what they measure."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flashdiff.severity import Severity
from flashdiff.study.experiments import encoder_cost


@pytest.mark.parametrize("channels", [1, 8])
def test_the_encoders_cost_is_counted_in_guided_evaluations(channels):
    """Convolutions alone, 3 x 3 on 8 x 8: an encoder of 1 -> channels -> 4, a denoiser of 4 -> 4, a decoder of 4 -> 1.

    A convolution costs the same forward and back to its input.
    """

    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1, bias=False)

    first, second, denoiser, decoder = conv(1, channels), conv(channels, 4), conv(4, 4), conv(4, 1)
    encoder = SimpleNamespace(infer=lambda y: Severity(second(first(y)).detach(), torch.ones(len(y))))
    prior = SimpleNamespace(abar=torch.ones(11), n_steps=10, predict_z0=lambda z, i: denoiser(z), decode=decoder)
    expected = (1 * channels + channels * 4) / (2 * (4 * 4 + 4 * 1))
    assert encoder_cost(prior, encoder, torch.zeros(1, 1, 8, 8)) == pytest.approx(expected)
