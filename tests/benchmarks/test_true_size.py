"""The published size: what its operations cost, counted; how the benchmark measures; and, on request, the real thing.

FLASHDIFF_TRUE_SIZE=1 adds the tests that build the full model and take steps with it: minutes, and 5 GB of memory.
"""

import copy
import math
import os
import re
import time

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import true_size
from benchmarks.true_size import IMAGE, Cost, Measured, Passes, alone, build, measured, throughput
from flashdiff.datasets.splits import to_float
from flashdiff.degradations import Operator, RandomInpainting, measure
from flashdiff.devices import device
from flashdiff.flash import Flash
from flashdiff.severity import SeverityEncoder, training_loss
from flashdiff.solvers import LDPS
from flashdiff.starts import FixedStart

SMALL = (1, 16, 16)


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.fixture(scope="module")
def published():
    """The published architecture, without memory."""
    return build("meta")


@pytest.fixture(scope="module")
def published_flops(published):
    return Cost.flops(published, IMAGE)


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior.float()


@pytest.fixture
def flops(prior):
    return Cost.flops(copy.deepcopy(prior).to("meta"), SMALL)


@pytest.fixture
def counting_prior(prior, flops, monkeypatch):
    """The prior, with a denoiser that never gets a leaf of the graph: the counter's hooks do not stand that."""
    predict = prior.predict_eps
    monkeypatch.setattr(prior, "predict_eps", lambda z, i: predict(1 * z, i))
    return prior


# ---------------------------------------------------------------------------------------------- the published architecture


def test_parameters_are_those_of_the_published_model(published):
    assert millions(published.unet) == pytest.approx(274.06, abs=0.005)
    assert millions(published.autoencoder) == pytest.approx(55.32, abs=0.005)
    assert published.autoencoder.quantize.embedding.weight.shape == (8192, 3)
    assert published.latent_shape(IMAGE) == (3, 64, 64)
    assert published.scaling_factor == 1.0 and published.n_steps == 1000
    assert {parameter.device.type for parameter in published.parameters()} == {"meta"}


def test_attention_is_at_32_16_and_8_with_heads_of_32(published):
    unet = published.unet
    heads = [[a.heads for a in getattr(block, "attentions", [])] for block in (*unet.down_blocks, *unet.up_blocks)]
    assert heads == [[], [14] * 2, [21] * 2, [28] * 2, [28] * 3, [21] * 3, [14] * 3, []]
    assert unet.config.sample_size == 64


# ---------------------------------------------------------------------------------------------------------- counted FLOPs


def layer_by_layer(network: nn.Module, forward) -> tuple[int, int]:
    """FLOPs of all layers of a network by their textbook formulas, and those among them of attention's two products."""
    products, attention, handles = [], [], []

    def convolution(layer, inputs, out):
        products.append(2 * layer.in_channels * layer.out_channels * math.prod(layer.kernel_size) * out[0, 0].numel())

    def linear(layer, inputs, out):
        products.append(2 * layer.in_features * layer.out_features * out.numel() // out.shape[-1])

    def attend(layer, inputs, out):
        positions = out.shape[2] * out.shape[3]
        attention.append(2 * 2 * positions**2 * layer.to_q.out_features)

    rules = {"Conv2d": convolution, "Linear": linear, "Attention": attend}
    for module in network.modules():
        if rule := rules.get(type(module).__name__):
            handles.append(module.register_forward_hook(rule))
    forward()
    for handle in handles:
        handle.remove()
    assert products and attention
    return sum(products) + sum(attention), sum(attention)


def test_forward_passes_are_the_sum_of_their_layers(published, published_flops):
    i = torch.zeros(1, dtype=torch.int64, device="meta")
    z, x = torch.empty(1, 3, 64, 64, device="meta"), torch.empty(1, *IMAGE, device="meta")
    passes = {
        "denoiser": (published.unet, lambda: published.predict_eps(z, i)),
        "decoder": (published.autoencoder, lambda: published.decode(z)),
        "encoder": (published.autoencoder, lambda: published.encode(x)),
    }
    for name, (network, forward) in passes.items():
        total, attention = layer_by_layer(network, forward)
        counted = getattr(published_flops, name)
        assert counted.forward == total, name
        # backward to the input: every product once, transposed; attention's two products have two factors each
        expected = 0 if name == "encoder" else total + attention
        assert counted.backward == pytest.approx(expected, rel=2e-3), name
    total, attention = layer_by_layer(published.autoencoder, passes["encoder"][1])
    # backward to the weights as well: twice
    assert published_flops.severity.backward == pytest.approx(2 * total, rel=2e-3)


def counted(work) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def masked(n: int):
    """n measurements by an operator without products."""
    return measure(to_float(true_size.noise_images(n, SMALL)), RandomInpainting(), torch.linspace(0, 1, n), 0.1)


def test_a_reverse_step_costs_what_the_model_says(counting_prior, flops):
    measurement, z, i = masked(3), torch.randn(3, 4, 4, 4), torch.tensor([5, 30, 11])
    operator = Operator(measurement.degradation, measurement.operator().state, 0.1)
    work = counted(
        lambda: LDPS().step(counting_prior, operator, measurement.y, z, i, i - 1, lambda draw=0: torch.randn_like(z))
    )
    assert work == 3 * flops.reverse_step > 0


def test_a_reconstruction_costs_what_the_model_says(counting_prior, flops):
    encoder = SeverityEncoder.from_prior(counting_prior).requires_grad_(False)
    for start in (-1, 0, 6):
        flash = Flash(counting_prior, encoder, LDPS(), FixedStart(start), batch_size=2, progress=False)
        assert counted(lambda flash=flash: flash(masked(5))) == 5 * flops.image(start + 1)


def test_a_training_step_costs_what_the_model_says(prior, flops):
    encoder = SeverityEncoder.from_prior(prior)
    loss = training_loss(prior, RandomInpainting(), 0.1, true_size.noise_images(4, SMALL))
    assert counted(lambda: loss(encoder, range(4), 0)[0].backward()) == 4 * flops.training_step > 0


def test_the_blur_is_a_thousandth_of_a_step(published_flops):
    state = true_size.BLUR.prepare(torch.ones(1), IMAGE, [0])
    x = torch.rand(1, *IMAGE, requires_grad=True)
    work = counted(lambda: true_size.BLUR.apply(x, state).sum().backward())
    assert 0 < work < published_flops.reverse_step / 1000


# ----------------------------------------------------------------------------------------------------------- how it is measured


@pytest.mark.parametrize(("work", "steps"), [("flash", 4), ("one_by_one", 4), ("training", 3)])
def test_work_gives_the_seconds_of_its_steps(prior, work, steps):
    batches = [(1, "no")] if work == "one_by_one" else [(1, "no"), (3, "bf16")]
    for batch, precision in batches:
        seconds = getattr(true_size, work)(prior, SMALL, batch, precision)
        assert len(seconds) == steps and min(seconds) > 0


@pytest.mark.parametrize("work", ["flash", "one_by_one", "training"])
def test_nothing_is_reported_of_a_model_that_breaks(prior, work):
    prior.autoencoder.decoder.conv_out.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError):
        getattr(true_size, work)(prior, SMALL, 1, "no")


def test_the_loop_takes_one_image_in_float32(prior):
    with pytest.raises(ValueError, match="the loop takes one image, in float32"):
        true_size.one_by_one(prior, SMALL, 2, "no")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("x: can't allocate memory: y")]
)
def test_too_little_memory_is_an_answer_and_other_errors_are_not(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setitem(true_size.WORK, "Flash", fail)
    monkeypatch.setattr(true_size, "build", lambda device: None)
    assert measured("Flash", "cpu", 1, "no") is None
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        measured("Flash", "cpu", 1, "no")


def test_the_fastest_step_after_the_first_counts(monkeypatch):
    monkeypatch.setitem(true_size.WORK, "Flash", lambda *_: [0.5, 3.0, 2.0, 4.0])
    monkeypatch.setattr(true_size, "build", lambda device: None)
    found = measured("Flash", "cpu", 1, "no")
    assert found.seconds == 2.0
    assert 2**26 < found.peak < 2**35  # this process, in bytes


@pytest.mark.slow
def test_a_process_of_its_own_computes_on_the_device_and_may_die():
    assert alone("meta", False, device) == torch.device("meta")
    assert alone("cpu", False, os._exit, 9) is None


def test_cpu_time_is_not_the_time_of_a_clock(monkeypatch):
    monkeypatch.setattr(true_size, "clock", true_size.clock)  # put back afterwards
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    for cpu_time, least, most in ((False, 0.2, math.inf), (True, 0, 0.1)):
        true_size._settle("cpu", cpu_time)
        began = true_size.now(torch.device("cpu"))
        time.sleep(0.2)
        assert least <= true_size.now(torch.device("cpu")) - began < most


def test_table_stops_where_memory_does():
    flops = Cost(Passes(1e12, 1e12), Passes(1e12, 2e12), Passes(2e12, 0), Passes(2e12, 4e12))
    asked = []

    def run(work, batch, precision):
        asked.append((work, batch, precision))
        return Measured(0.5 * batch**0.5, 2**31) if batch < 16 else None

    table = throughput([64, 16, 4], ["float32", "bf16"], flops, run).set_index(["work", "precision", "batch"])
    assert ("Flash", 64, "no") not in asked and ("Flash", 16, "bf16") in asked
    assert (
        table.loc[("Flash", "float32", 16), "s per step"]
        == table.loc[("training", "bf16", 16), "s per step"]
        == "out of memory"
    )
    row = table.loc[("Flash", "float32", 4)]  # 4 images a second; a reconstruction is 100 steps of 5 TFLOP and 3 more
    assert row["steps/s"] == 1.0 and row["TFLOP/s"] == 4 * 5 and row["peak GiB"] == 2.0
    assert row["images/s"] == pytest.approx(4 / (503 / 5)) and row["against the loop"] == 4 * 0.5
    row = table.loc[("training", "float32", 4)]
    assert row["images/s"] == 4 and row["TFLOP/s"] == 4 * (2 + 6 + 3) and math.isnan(row["against the loop"])


def test_command_line_writes_the_tables(monkeypatch, tmp_path, capsys):
    def answer(device, cpu_time, function, *arguments):
        assert device == "cpu" and cpu_time
        if function is measured:
            return Measured(1.5, 3 * 2**30) if arguments[2] == 1 else None
        return Cost(Passes(1, 2), Passes(3, 4), Passes(5, 0), Passes(6, 7))

    monkeypatch.setattr(true_size, "alone", answer)
    monkeypatch.setattr(true_size, "__file__", str(tmp_path / "true_size.py"))
    true_size.main(["--name", "here", "--device", "cpu", "--batches", "1", "2", "--cpu-time"])
    text = (tmp_path / "results/here-true-size.md").read_text()
    assert text in capsys.readouterr().out
    assert re.search(r"\| denoiser +\| +274\.1 +\| +202\.4 ", text)
    assert re.search(r"\| Flash +\| float32 +\| +1 +\| +1\.5 +\|", text)
    assert re.search(r"\| training +\| float32 +\| +2 +\| out of memory \| +\|", text)
    assert "nan" not in text and "the machine had other work" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tpu"], "--device tpu: not on this machine"),
        (["--device", "cpu", "--batches", "0"], "--batches 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, said, capsys):
    with pytest.raises(SystemExit):
        true_size.main(arguments)
    assert said in capsys.readouterr().err


def test_cpu_time_of_several_threads_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(SystemExit):
        true_size.main(["--device", "cpu", "--cpu-time"])
    assert "set OMP_NUM_THREADS=1" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ the true size

on_request = pytest.mark.skipif(
    os.environ.get("FLASHDIFF_TRUE_SIZE") != "1", reason="set FLASHDIFF_TRUE_SIZE=1: minutes, and 5 GB of memory"
)


@on_request
@pytest.mark.slow
@pytest.mark.parametrize(("work", "gib"), [("Flash", 6), ("training", 7)])
def test_steps_at_the_true_size_are_finite_and_fit_into_memory(work, gib):
    found = alone("cpu", False, measured, work, "cpu", 1, "no")  # raises for values that are not finite
    assert found is not None
    assert 0 < found.peak < gib * 2**30
