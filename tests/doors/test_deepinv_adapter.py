"""deepinv both ways: its physics give what they give there, and Flash inside deepinv is Flash."""

import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import diffusers  # before the stand-in: at its import it asks whether there is a torchvision
import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur, RandomInpainting, measure
from flashdiff.flash import Flash, FullLength
from flashdiff.solvers import LDPS, PSLD, SOLVERS
from flashdiff.starts import FixedStart
from flashdiff.walks import EvenlySpaced

PAGE = Path(__file__).parents[2] / "docs" / "deepinv.md"


class TorchvisionStandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Any module of torchvision, with any name in it. deepinv imports many at its top and uses none of them here."""

    def find_spec(self, name, path=None, target=None):
        ours = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def exec_module(self, module):
        module.__getattr__ = self.anything

    @staticmethod
    def anything(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def import_deepinv():
    """The real deepinv. Where torchvision is not installed it gets a stand-in, gone again when this returns."""
    if importlib.util.find_spec("deepinv") is None:
        pytest.skip('deepinv is not installed: pip install "flashdiff[deepinv]"', allow_module_level=True)
    stand_in = TorchvisionStandIn() if importlib.util.find_spec("torchvision") is None else None
    sys.meta_path += [stand_in] if stand_in else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deepinv's imports are not ours to judge
            return importlib.import_module("deepinv")
    finally:
        if stand_in:
            sys.meta_path.remove(stand_in)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]


dinv = import_deepinv()

from flashdiff.deepinv_adapter import (  # noqa: E402  (imports deepinv)
    DeepinvDegradation,
    DeepinvReconstructor,
    measurement_from_deepinv,
)

SHAPE = (1, 16, 16)
IDS = np.array([4, 9, 0])


def uniform(*shape, seed=0, low=0.0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, 1, shape))


def kernels(n=3, side=5, seed=1):
    """Kernels (n, 1, side, side), asymmetric and not normalised."""
    return uniform(n, 1, side, side, seed=seed)


def masks(n=3, seed=2):
    return (uniform(n, *SHAPE, seed=seed) > 0.4).double()


def square(x):
    return x**2


def blur(padding, n=1):
    return dinv.physics.Blur(kernels(n), padding=padding)


# Linear physics, with one parameter for all images (n = 1) or with one per image.
LINEAR = {
    **{f"blur, {p}": lambda n, p=p: blur(p, n) for p in ("valid", "circular", "reflect", "replicate", "constant")},
    "blur, FFT": lambda n: dinv.physics.BlurFFT(SHAPE, filter=kernels(n)),
    "inpainting": lambda n: dinv.physics.Inpainting(SHAPE, mask=masks(n)),
    "downsampling": lambda n: dinv.physics.Downsampling(SHAPE, filter=kernels(n), factor=2),
    "downsampling, reflect": lambda n: dinv.physics.Downsampling(SHAPE, filter=kernels(n), factor=4, padding="reflect"),
    "composed": lambda n: dinv.physics.Inpainting(SHAPE, mask=masks(n)) * blur("reflect", n),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are composing two physics objects:UserWarning"),
    pytest.mark.filterwarnings("ignore:At least one input physics is a DecomposablePhysics:UserWarning"),
    pytest.mark.filterwarnings("ignore:The tuple format for dataset outputs is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:non_blocking_transfers=True can only be used:UserWarning"),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("make", LINEAR.values(), ids=list(LINEAR))
def test_applies_as_the_physics_and_row_by_row(make, n):
    """The batch is deepinv's own; rows reordered, alone or twice give the same, and the physics keeps its batch."""
    physics, x = make(n), uniform(3, *SHAPE, low=-1)
    degradation = DeepinvDegradation(physics, ids=IDS)
    y = physics.A(x)
    assert degradation.linear
    torch.testing.assert_close(degradation.A(x, torch.zeros(3), IDS), y, rtol=0, atol=1e-12)
    for rows in ([2, 0], [1], [0, 1, 1]):
        torch.testing.assert_close(
            degradation.A(x[rows], torch.ones(len(rows)), IDS[rows]), y[rows], rtol=0, atol=1e-12
        )
    torch.testing.assert_close(physics.A(x), y, rtol=0, atol=0)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("make", LINEAR.values(), ids=list(LINEAR))
def test_adjoint_identity_row_by_row(make, n):
    x = uniform(3, *SHAPE, low=-1)
    degradation = DeepinvDegradation(make(n), ids=IDS)
    state = degradation.prepare(torch.zeros(3), SHAPE, IDS)
    y = uniform(*degradation.apply(x, state).shape, seed=5, low=-1)
    left = (degradation.apply(x, state) * y).flatten(1).sum(1)
    right = (x * degradation.adjoint(y, state)).flatten(1).sum(1)
    assert (left.abs() > 1e-3).all()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=0)


def widths(t, image_shape, ids):
    """GaussianBlur(0.3, 2.0, radius=7) in deepinv's words."""
    std = 0.3 + t * (2.0 - 0.3)
    line = torch.exp(-0.5 * (torch.arange(-7, 8) / std[:, None]) ** 2)
    line = line / line.sum(1, keepdim=True)
    return {"filter": (line[:, :, None] * line[:, None, :])[:, None]}


def shares(t, image_shape, ids):
    return {"mask": RandomInpainting(0.8).prepare(t, image_shape, ids)["keep"]}


@pytest.mark.parametrize(
    ("ours", "physics", "parameters"),
    [
        (GaussianBlur(0.3, 2.0, 7), lambda: dinv.physics.Blur(padding="reflect"), widths),
        (RandomInpainting(0.8), lambda: dinv.physics.Inpainting(SHAPE), shares),
    ],
    ids=["blur", "inpainting"],
)
def test_equivalent_physics_gives_the_same_reconstructions(ours, physics, parameters, tiny_prior, tiny_encoder):
    """Our operator and deepinv's, severity by severity: measurements, LDPS, and PSLD, which uses the adjoint."""
    x, t = uniform(5, *SHAPE, low=-1), torch.linspace(0, 1, 5, dtype=torch.float64)
    theirs = DeepinvDegradation(physics(), parameters=parameters)
    ids = np.array([4, 9, 0, 2, 7])
    expected, got = (measure(x, degradation, t, 0.1, ids=ids) for degradation in (ours, theirs))
    torch.testing.assert_close(got.y, expected.y, rtol=0, atol=1e-12)
    for solver in (LDPS(0.1), PSLD(0.1)):
        # batches of two: samples with different starts and levels meet, states are cut and joined
        flash = Flash(tiny_prior, tiny_encoder, solver, FixedStart(6), batch_size=2, progress=False)
        torch.testing.assert_close(flash(got).images, flash(expected).images, rtol=0, atol=1e-6)
        strided = dataclasses.replace(solver, walk=EvenlySpaced(5))
        full = FullLength(tiny_prior, strided, batch_size=2, progress=False)
        torch.testing.assert_close(full(got).images, full(expected).images, rtol=0, atol=1e-6)


def test_parameters_row_alone_equals_row_in_the_batch():
    x, t = uniform(3, *SHAPE, low=-1), torch.tensor([0.1, 0.9, 0.5], dtype=torch.float64)
    degradation = DeepinvDegradation(dinv.physics.Blur(padding="circular"), parameters=widths)
    y = degradation.A(x, t)
    torch.testing.assert_close(y, dinv.physics.Blur(widths(t, SHAPE, IDS)["filter"], padding="circular").A(x))
    assert not torch.allclose(y[0], degradation.A(x, t.flip(0))[0])
    for k in range(3):
        one = slice(k, k + 1)
        torch.testing.assert_close(degradation.A(x[one], t[one]), y[one], rtol=0, atol=1e-12)


def noisy(physics, sigma=0.05):
    physics.noise_model = dinv.physics.GaussianNoise(sigma)
    return physics


@pytest.mark.parametrize("make", LINEAR.values(), ids=list(LINEAR))
def test_linear_range_rule(make):
    """With y = A u + n in deepinv's units the measurement is A x + 2 n, x = 2 u - 1; in other units it is y itself."""
    physics, u = noisy(make(3)), uniform(3, *SHAPE)
    x, noise = 2 * u - 1, 0.05 * uniform(*physics.A(u).shape, seed=7, low=-1)
    measurement = measurement_from_deepinv(physics.A(u) + noise, physics, ids=IDS)
    torch.testing.assert_close(measurement.y, measurement.operator().A(x) + 2 * noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(measurement.y, physics.A(x) + 2 * noise, rtol=0, atol=1e-10)
    assert measurement.noise_std == pytest.approx(0.1)
    assert measurement.image_shape == SHAPE and measurement.t.tolist() == [0, 0, 0]
    plain = measurement_from_deepinv(physics.A(x) + noise, physics, ids=IDS, unit_range=False)
    torch.testing.assert_close(plain.y, plain.operator().A(x) + noise, rtol=0, atol=1e-10)
    assert plain.noise_std == pytest.approx(0.05)


def test_nonlinear_range_rule():
    physics, u = noisy(dinv.physics.Physics(square)), uniform(3, *SHAPE)
    measurement = measurement_from_deepinv(u**2, physics)
    torch.testing.assert_close(measurement.y, 2 * u**2 - 1)
    torch.testing.assert_close(measurement.operator().A(2 * u - 1), measurement.y)
    plain = measurement_from_deepinv(u**2, physics, unit_range=False)
    torch.testing.assert_close(plain.operator().A(u), plain.y)
    torch.testing.assert_close(plain.y, u**2)


def test_nonlinear_physics_has_no_adjoint(tiny_prior, tiny_encoder):
    physics = noisy(dinv.physics.Physics(square))
    measurement = measurement_from_deepinv(uniform(2, *SHAPE), physics)
    assert not measurement.degradation.linear
    for method in (
        Flash(tiny_prior, tiny_encoder, PSLD(), progress=False),
        FullLength(tiny_prior, PSLD(), progress=False),
    ):
        with pytest.raises(ValueError, match="PSLD needs the adjoint A\\^T, and DeepinvDegradation is not linear"):
            method(measurement)
    with pytest.raises(TypeError, match="DeepinvDegradation is not linear and has no adjoint"):
        measurement.operator().AT(measurement.y)
    result = FullLength(tiny_prior, LDPS(0.1, walk=EvenlySpaced(4)), progress=False)(measurement)
    assert bool(torch.isfinite(result.images).all())


@pytest.mark.parametrize("n", [1, 3])
def test_a_degradation_does_not_change_with_its_physics(n):
    """The physics is copied: neither a later update nor a call with other parameters reaches the other side."""
    physics, x = noisy(blur("circular", n)), uniform(3, *SHAPE)
    y, before = physics.A(x), physics.filter.clone()
    measurement = measurement_from_deepinv(y, physics, ids=IDS)
    if n == 1:
        DeepinvDegradation(physics, parameters=widths).A(x, torch.linspace(0, 1, 3, dtype=torch.float64))
    assert torch.equal(physics.filter, before)
    physics.update(filter=kernels(n, seed=8), sigma=torch.tensor(0.3))
    torch.testing.assert_close(measurement.operator().A(x), y, rtol=0, atol=0)
    assert measurement.noise_std == pytest.approx(0.1)


def test_physics_with_a_generator_is_copied():
    physics = dinv.physics.Inpainting(SHAPE, mask=0.5, rng=torch.Generator().manual_seed(0))
    x = uniform(2, *SHAPE)
    torch.testing.assert_close(DeepinvDegradation(physics).A(x, torch.zeros(2)), physics.A(x))


@pytest.mark.parametrize(
    "physics",
    [dinv.physics.BlurFFT(SHAPE, filter=kernels(1).float()), blur("circular").float()],
    ids=["torch.fft knows no bfloat16", "autocast would convolve in bfloat16"],
)
def test_physics_is_evaluated_in_full_precision_under_autocast(physics):
    degradation, x = DeepinvDegradation(physics), uniform(2, *SHAPE).bfloat16()  # what a decoder hands over there
    with torch.autocast("cpu", torch.bfloat16):
        y = degradation.apply(x, {})
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, physics.A(x.float()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_physics_follows_the_images_to_their_device():
    physics, x = blur("circular", 2).float(), uniform(2, *SHAPE).float()
    measurement = measurement_from_deepinv(physics.A(x).cuda(), physics)
    torch.testing.assert_close(measurement.operator().A(x.cuda()).cpu(), physics.A(x))
    assert physics.filter.device.type == "cpu"


@pytest.fixture
def methods(tiny_prior, tiny_encoder):
    return {
        "flash": Flash(tiny_prior, tiny_encoder, LDPS(0.1), FixedStart(5), batch_size=2, progress=False),
        "full": FullLength(tiny_prior, LDPS(0.1, walk=EvenlySpaced(5)), batch_size=2, progress=False),
    }


@pytest.mark.parametrize("name", ["flash", "full"])
def test_reconstructor_equals_the_method(methods, name):
    """On a physics that says in deepinv's words what a flashdiff degradation says, one kernel per image."""
    method, levels = methods[name], torch.linspace(0, 1, 5, dtype=torch.float64)
    measurement = measure(uniform(5, *SHAPE, low=-1), GaussianBlur(0.3, 2.0, 7), levels, 0.1, ids=np.arange(5))
    physics = noisy(dinv.physics.Blur(widths(levels, SHAPE, None)["filter"], padding="reflect"))
    model = DeepinvReconstructor(method)
    assert isinstance(model, dinv.models.Reconstructor)
    y = (measurement.y + 1) / 2  # the blur preserves constants
    images = model(y, physics)
    torch.testing.assert_close(images, (method(measurement).images + 1) / 2, rtol=0, atol=1e-6)
    assert not images.requires_grad and float(images.min()) >= 0 and float(images.max()) <= 1
    plain = DeepinvReconstructor(method, unit_range=False, noise_std=0.1)(measurement.y, physics)
    torch.testing.assert_close(plain, method(measurement).images, rtol=0, atol=1e-6)


def test_ids_are_counted_over_calls_or_given(methods):
    """Two calls, one call, another order, an image alone: the same reconstructions, keyed by the id."""
    physics = noisy(blur("reflect", 4))
    physics.filter /= physics.filter.flatten(1).sum(1)[:, None, None, None]
    y = physics.A(uniform(4, *SHAPE))
    together = DeepinvReconstructor(methods["flash"])(y, physics)
    counting = DeepinvReconstructor(methods["flash"])
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = noisy(dinv.physics.Blur(physics.filter[rows], padding="reflect"))
        parts.append(counting(y[rows], part))
    torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-10)
    assert counting.next_id == 4
    flipped = noisy(dinv.physics.Blur(physics.filter.flip(0), padding="reflect"))
    given = counting(y.flip(0), flipped, ids=np.array([3, 2, 1, 0]))
    torch.testing.assert_close(given.flip(0), together, rtol=0, atol=1e-10)
    assert counting.next_id == 4
    assert not torch.allclose(counting(y, physics), together, atol=1e-3), "new ids, new noise"


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
def test_every_solver_runs_in_a_reconstructor(solver, tiny_prior, tiny_encoder):
    flash = Flash(tiny_prior, tiny_encoder, solver(), FixedStart(2), progress=False)
    physics = noisy(dinv.physics.Inpainting(SHAPE, mask=masks(2)))
    images = DeepinvReconstructor(flash)(physics.A(uniform(2, *SHAPE)), physics)
    assert images.shape == (2, *SHAPE) and bool(torch.isfinite(images).all())


@pytest.mark.parametrize("inside", [True, False], ids=["physics made there", "physics made before"])
@pytest.mark.parametrize("name", ["flash", "full"])
def test_inference_mode_gives_the_bits_of_no_grad(name, inside, methods):
    """The measurement is made in it, too, by a physics with a batch of kernels."""

    def made():
        physics = noisy(dinv.physics.Blur(kernels(3), padding="circular"))
        return physics, physics.A(uniform(3, *SHAPE))

    before = made()
    with torch.no_grad():
        expected = DeepinvReconstructor(methods[name])(before[1], before[0])
    with torch.inference_mode():
        physics, y = made() if inside else before
        assert torch.equal(DeepinvReconstructor(methods[name])(y, physics), expected)


def test_reconstructor_holds_the_networks_in_evaluation_mode(methods, tiny_prior, tiny_encoder):
    model = DeepinvReconstructor(methods["flash"])
    model.train()
    assert {tiny_prior, tiny_encoder} <= set(model.modules())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("batch_size", [2, 3])
def test_deepinvs_own_evaluation(methods, batch_size):
    """dinv.test on images and measurements in memory: its PSNR is that of the method's own reconstructions."""
    physics, u = noisy(dinv.physics.Inpainting(SHAPE, mask=masks(1))), uniform(5, *SHAPE)
    y = physics.A(u)
    loader = torch.utils.data.DataLoader(dinv.datasets.TensorDataset(x=u, y=y), batch_size=batch_size)
    model = DeepinvReconstructor(methods["flash"])
    metric = dinv.loss.metric.PSNR()
    results = dinv.test(model, loader, physics, metrics=[metric], verbose=False)
    images = methods["flash"](measurement_from_deepinv(y, physics)).images
    assert results["PSNR"] == pytest.approx(float(metric((images + 1) / 2, u).mean()), abs=1e-6)
    assert results["PSNR no learning"] == pytest.approx(float(metric(physics.A_adjoint(y), u).mean()), abs=1e-6)


def test_deepinvs_own_evaluation_with_a_generator(methods):
    """Measurements made on the fly, a new kernel for every image of every batch: the physics brings its batch along."""
    physics = noisy(dinv.physics.Blur(padding="circular", filter=kernels(1, side=7)))
    generator = dinv.physics.generator.MotionBlurGenerator(psf_size=(7, 7), dtype=torch.float64)
    loader = torch.utils.data.DataLoader(dinv.datasets.TensorDataset(x=uniform(5, *SHAPE)), batch_size=2)
    model = DeepinvReconstructor(methods["flash"])
    results = dinv.test(model, loader, physics, online_measurements=True, physics_generator=generator, verbose=False)
    assert np.isfinite(results["PSNR"]) and model.next_id == 5


def test_tomography_reconstructs_at_full_length(methods):
    """A measurement of another shape, and as many angles as images, which are no batch; Flash refuses it."""
    physics = noisy(dinv.physics.Tomography(angles=3, img_width=16, normalize=True))  # knows float32 only
    y = physics.A(uniform(3, *SHAPE).float())
    methods["full"].prior.float()
    images = DeepinvReconstructor(methods["full"])(y, physics)
    assert images.shape == (3, *SHAPE)
    alone = DeepinvReconstructor(methods["full"])(y[2:], physics, ids=np.array([2]))
    torch.testing.assert_close(alone, images[2:], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"differs from the image's \(1, 16, 16\).*; use FullLength"):
        DeepinvReconstructor(methods["flash"])(y, physics)


def test_noise_of_the_physics():
    physics, y = blur("circular"), uniform(2, *SHAPE)
    assert measurement_from_deepinv(y, physics).noise_std == 0  # ZeroNoise
    noisy(physics, torch.tensor([0.2, 0.2]))
    assert measurement_from_deepinv(y, physics).noise_std == pytest.approx(0.4)
    assert measurement_from_deepinv(y, physics, noise_std=0.1).noise_std == pytest.approx(0.2)
    noisy(physics, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"sigma goes from 0\.1 to 0.2 within the batch; give one noise_std, or"):
        measurement_from_deepinv(y, physics)
    physics.noise_model = dinv.physics.PoissonNoise()
    with pytest.raises(ValueError, match="noise of the physics is PoissonNoise, not GaussianNoise; give the standard"):
        measurement_from_deepinv(y, physics)
    assert measurement_from_deepinv(y, physics, noise_std=0.1).noise_std == pytest.approx(0.2)
    with pytest.raises(ValueError, match="noise_std: nan; give a standard deviation >= 0"):
        measurement_from_deepinv(y, physics, noise_std=float("nan"))


def test_wrong_arguments_in_one_sentence(methods):
    physics, y = noisy(blur("circular")), uniform(3, *SHAPE)
    with pytest.raises(TypeError, match=r"physics: Linear; give a deepinv.physics.Physics\.$"):
        DeepinvDegradation(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="physics: NoneType; give"):
        DeepinvReconstructor(methods["flash"])(y, None)
    with pytest.raises(TypeError, match=r"method: Prior; give a flashdiff Flash or FullLength\.$"):
        DeepinvReconstructor(methods["flash"].prior)
    for wrong in (list(y), y[0, 0, 0], y[:0], torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"y: .*; give one tensor \(B, ...\) with B >= 1"):
            DeepinvReconstructor(methods["flash"])(wrong, physics)
    with pytest.raises(ValueError, match=r"ids: shape \(2,\) for 3 measurements; give one id per measurement"):
        measurement_from_deepinv(y, physics, ids=np.arange(2))
    with pytest.raises(ValueError, match=r"y: \(3, 1, 8, 16\) does not fit Inpainting \(.*\); give the y that"):
        measurement_from_deepinv(y[:, :, :8], dinv.physics.Inpainting(SHAPE, mask=masks(1)))
    with pytest.raises(ValueError, match=r"y: .* but Blur makes \(3, 1, 20, 20\) of images \(1, 20, 20\); give the y"):
        measurement_from_deepinv(y, physics, image_shape=(1, 20, 20))
    stack = dinv.physics.stack(physics, physics)
    with pytest.raises(TypeError, match=r"physics: Stacked\w+ gives a TensorList; give one whose A and A\^T give one"):
        measure(y, DeepinvDegradation(stack), 0.0, 0.1)


def test_batches_that_do_not_fit_are_refused():
    x, t = uniform(3, *SHAPE), torch.zeros(3)
    with pytest.raises(
        ValueError, match="ids: None, but filter of Blur holds a batch of 3; give the id of every row's"
    ):
        DeepinvDegradation(blur("circular", 3))
    with pytest.raises(ValueError, match="filter of Blur holds a batch of 2 for 3 images; give one for all or one per"):
        measurement_from_deepinv(x, blur("circular", 2))
    with pytest.raises(ValueError, match=r"ids: \[1, 1, 2\] has an image twice"):
        measurement_from_deepinv(x, blur("circular", 3), ids=np.array([1, 1, 2]))
    with pytest.raises(ValueError, match="ids: 5 is not among the degradation's own ids"):
        DeepinvDegradation(blur("circular", 3), ids=IDS).A(x, t, np.array([4, 5, 0]))
    for given, shape in ((kernels(2), r"\(2, 1, 5, 5\)"), (0.5, "float")):
        degradation = DeepinvDegradation(blur("circular"), parameters=lambda *_, given=given: {"filter": given})
        with pytest.raises(
            ValueError, match=f"parameters: filter is {shape} for 3 images; give a tensor, one row each"
        ):
            degradation.A(x, t)


def test_samples_that_depend_on_their_batch_are_refused():
    """Where the engine, which cuts and reorders batches, would be wrong in silence."""
    x, hidden = uniform(3, *SHAPE), masks(3)
    for A in (
        lambda x: x * hidden,
        lambda x: x * hidden[: len(x)],
        lambda x: x - x.mean(0),
        lambda x: x + torch.rand(()),
    ):
        with pytest.raises(
            ValueError, match="Physics measures an image differently in another batch; give a physics that"
        ):
            measurement_from_deepinv(x, dinv.physics.Physics(A))


def test_without_deepinv_one_sentence_says_what_to_install(monkeypatch):
    for missing in ("deepinv", "deepinv.models"):
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "flashdiff.deepinv_adapter", raising=False)
        with pytest.raises(ImportError, match=rf'{missing} is not installed; run `pip install "flashdiff\[deepinv\]"`'):
            importlib.import_module("flashdiff.deepinv_adapter")
        monkeypatch.undo()


def test_nothing_else_imports_deepinv():
    """`import flashdiff` and everything but the adapter do without it."""
    package = Path(__file__).parents[2] / "flashdiff"
    users = [
        path.name for path in package.rglob("*.py") if re.search(r"^\s*(import|from) deepinv", path.read_text(), re.M)
    ]
    assert users == ["deepinv_adapter.py"]


def test_the_stand_in_is_gone():
    """Other tests of this process must not take it for a torchvision."""
    assert not any(isinstance(finder, TorchvisionStandIn) for finder in sys.meta_path)
    if importlib.util.find_spec("torchvision") is None:
        assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
        assert not diffusers.utils.is_torchvision_available()


def test_the_page_runs(tiny_prior, tiny_encoder):
    """docs/deepinv.md: its blocks run as they stand, one after another."""
    names = {"prior": tiny_prior.float(), "encoder": tiny_encoder.float()}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    u = uniform(2, *SHAPE).float()
    assert names["reconstruct"](u).shape == u.shape
    x = torch.ones(3, 1, 32, 32)
    y = names["degradation"].A(x, torch.tensor([0.0, 0.5, 1.0]))
    assert y.mean((1, 2, 3)).tolist() == [1, 0.5, 0]
