"""Degradations: adjoint identities, brute force, and measurements that depend on nothing but (seed, image id)."""

import re

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter, map_coordinates

from flashdiff.batch import Stream, uniform
from flashdiff.degradations import (
    DEGRADATIONS,
    BoxInpainting,
    EncodedBlur,
    GaussianBlur,
    Mixture,
    MotionBlur,
    NonlinearBlur,
    RandomInpainting,
    SuperResolution,
    build,
    measure,
)

# Small enough for images of a dozen pixels; every family, and a mixture of them all.
FAMILIES = {
    "gaussian_blur": GaussianBlur(0.3, 3.0, 7),
    "random_inpainting": RandomInpainting(0.8),
    "box_inpainting": BoxInpainting(0.7),
    "motion_blur": MotionBlur(0.0, 7.5),
    "super_resolution": SuperResolution(3.5),
    "nonlinear_blur": NonlinearBlur(0.0, 7.5, 1.4),
}
EVERY = FAMILIES | {
    "mixture": Mixture(FAMILIES),
    "linear_mixture": Mixture({name: family for name, family in FAMILIES.items() if family.linear}),
}
LINEAR = {name: degradation for name, degradation in EVERY.items() if degradation.linear}
T = torch.tensor([0.0, 0.37, 1.0, 0.62, 0.81, 0.15], dtype=torch.float64)
IDS = np.array([7, 0, 31, 4, 2, 11])

each = pytest.mark.parametrize("degradation", EVERY.values(), ids=list(EVERY))
each_linear = pytest.mark.parametrize("degradation", LINEAR.values(), ids=list(LINEAR))
each_family = pytest.mark.parametrize("degradation", FAMILIES.values(), ids=list(FAMILIES))


def images(shape=(6, 3, 9, 13), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


def scenes(count=6, size=32):
    """Images with the statistics of scenes: smooth shapes with edges, in [-1, 1]."""
    noise = np.random.default_rng(5).normal(size=(count, size, size))
    smooth = np.stack([gaussian_filter(n, 3, mode="mirror") for n in noise])
    smooth /= np.abs(smooth).max((1, 2), keepdims=True)
    return torch.from_numpy(0.6 * smooth + 0.4 * np.sign(smooth))[:, None]


def test_every_kind_is_tried():
    """The published network takes images of 128 pixels and more; it has a file of its own, test_encoded_blur.py."""
    assert {type(d) for d in EVERY.values()} == set(DEGRADATIONS.values()) - {EncodedBlur}
    assert len(LINEAR) == 6


@each_linear
def test_adjoint_identity_row_by_row(degradation):
    x, y = images(seed=1), images(seed=2)
    left = (degradation.A(x, T, IDS) * y).flatten(1).sum(1)
    right = (x * degradation.AT(y, T, IDS)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@each_linear
def test_adjoint_is_the_vector_jacobian_product(degradation):
    x, y = images(seed=1).requires_grad_(), images(seed=2)
    (vjp,) = torch.autograd.grad(degradation.A(x, T, IDS), x, y)
    torch.testing.assert_close(degradation.AT(y, T, IDS), vjp)


@each_linear
def test_the_adjoint_is_differentiable(degradation):
    """PSLD takes gradients through A^T A."""
    y, v = images(seed=1).requires_grad_(), images(seed=2)
    (vjp,) = torch.autograd.grad(degradation.AT(y, T, IDS), y, v)
    torch.testing.assert_close(degradation.A(v, T, IDS), vjp)


def test_without_linearity_there_is_no_adjoint():
    for name in ("nonlinear_blur", "mixture"):
        assert not EVERY[name].linear
        with pytest.raises(TypeError, match="no adjoint"):
            EVERY[name].AT(images(), T, IDS)


@each_linear
def test_linear_means_linear(degradation):
    x, y = images(seed=1), images(seed=2)
    together = degradation.A(2 * x - 3 * y, T, IDS)
    torch.testing.assert_close(together, 2 * degradation.A(x, T, IDS) - 3 * degradation.A(y, T, IDS))


@each
def test_gradient(degradation):
    x = images((3, 1, 4, 5), seed=3).requires_grad_()
    t, ids = T[:3], IDS[:3]
    degradation = small(degradation)
    assert torch.autograd.gradcheck(lambda x: degradation.A(x, t, ids), x)


def small(degradation):
    """The same with motion that an image of 4 x 5 pixels can reflect."""
    if isinstance(degradation, Mixture):
        return Mixture({name: small(member) for name, member in degradation.members.items()}, member_seed=1)
    return {
        MotionBlur: MotionBlur(0.0, 5.0),
        NonlinearBlur: NonlinearBlur(0.0, 5.0, 1.4),
    }.get(type(degradation), degradation)


@each
def test_sample_alone_equals_sample_in_batch(degradation):
    """Whatever its neighbours, its place in the batch, and the way in which states were cut and joined."""
    x = images()
    together = degradation.A(x, T, IDS)
    for k in range(6):
        alone = degradation.A(x[k : k + 1], T[k : k + 1], ids=IDS[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-14)
    order = np.array([4, 2, 5, 0, 3, 1])
    parts = [degradation.prepare(T[o], (3, 9, 13), IDS[o]) for o in (order[:1], order[1:])]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    kept = [5, 0, 3]
    state = {name: value[kept] for name, value in joined.items()}
    again = degradation.apply(x[order[kept]], state)
    torch.testing.assert_close(again, together[order[kept]], rtol=0, atol=1e-14)


@each
def test_float32_is_float64_rounded(degradation):
    """Random paths, angles, masks and members do not depend on the precision."""
    x = images()
    t = T.float().double()
    torch.testing.assert_close(
        degradation.A(x.float(), t.float(), IDS).double(), degradation.A(x, t, IDS), atol=1e-5, rtol=0
    )


@each
def test_the_same_for_every_channel(degradation):
    x = images()
    y = degradation.A(x, T, IDS)
    for c in range(3):
        torch.testing.assert_close(degradation.A(x[:, c : c + 1], T, IDS), y[:, c : c + 1], rtol=0, atol=1e-14)


@each_family
def test_severity_grows_with_the_level(degradation):
    """The mean squared change of every image rises from level to level; at t = 0 there is (almost) none.

    Super-resolution: the mean over the images, because a coarse grid may happen to fit an image's edges.
    """
    x = scenes()
    levels = torch.linspace(0, 1, 8, dtype=torch.float64)
    change = torch.stack([(degradation.A(x, t.expand(6), IDS) - x).square().flatten(1).mean(1) for t in levels])
    assert float(change[0].max()) < (1e-4 if isinstance(degradation, GaussianBlur) else 1e-15)
    assert float(change[-1].min()) > 0.01
    rises = change.mean(1) if isinstance(degradation, SuperResolution) else change
    assert bool((rises.diff(dim=0) > 0).all())


def test_gaussian_blur_against_scipy():
    """Independent computation: scipy's 1-D correlations with whole-sample symmetric ("mirror") borders."""
    blur, x = GaussianBlur(std_min=0.5, std_max=2.5, radius=7), images()
    blurred = blur.A(x, T).numpy()
    for k, std in enumerate(0.5 + T.numpy() * 2.0):
        kernel = np.exp(-0.5 * (np.arange(-7, 8) / std) ** 2)
        kernel /= kernel.sum()
        expected = correlate1d(correlate1d(x[k].numpy(), kernel, axis=1, mode="mirror"), kernel, axis=2, mode="mirror")
        np.testing.assert_allclose(blurred[k], expected, atol=1e-12)


def test_gaussian_blur_keeps_constants_and_zero_width_is_the_identity():
    blur = GaussianBlur(std_min=0.0, std_max=9.0, radius=30)
    x, grey = images(), torch.full((6, 1, 8, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(blur.A(grey, T), grey)
    torch.testing.assert_close(blur.A(x, torch.zeros(6, dtype=torch.float64)), x)


def test_random_inpainting_drops_the_stated_share_in_nested_masks():
    inpainting = RandomInpainting(drop_max=0.8)
    x, levels = torch.ones(5, 3, 200, 200), torch.linspace(0, 1, 5)
    kept = inpainting.A(x, levels)
    for k, level in enumerate(levels):
        # a binomial share over 40 000 pixels has a standard deviation of at most 0.0025
        assert abs(float((kept[k] == 0).double().mean()) - 0.8 * float(level)) < 0.01
    assert bool((kept[1:] <= kept[:-1]).all())
    assert bool((kept[0] == 1).all())


@pytest.mark.parametrize("shape", [(12, 20), (15, 9)])
def test_box_inpainting_covers_the_stated_share_in_nested_masks(shape):
    box, levels = BoxInpainting(side_max=0.8), torch.linspace(0, 1, 9, dtype=torch.float64)
    kept = box.A(torch.ones(9, 1, *shape, dtype=torch.float64), levels)[:, 0]
    torch.testing.assert_close((1 - kept).mean((1, 2)), (0.8 * levels) ** 2)
    torch.testing.assert_close(kept.flip(1, 2), kept)  # centred
    assert bool((kept[1:] <= kept[:-1]).all()) and bool((kept >= 0).all())
    assert (kept[-1] > 0).any() and (kept[-1] == 0).any()


def test_box_inpainting_cuts_out_whole_pixels_where_edges_meet_them():
    kept = BoxInpainting(side_max=0.5).A(torch.ones(1, 1, 8, 16), torch.ones(1))[0, 0]
    expected = torch.ones(8, 16)
    expected[2:6, 4:12] = 0
    assert torch.equal(kept, expected)


def test_motion_blur_against_an_average_of_shifted_images():
    """Independent computation: scipy's bilinear interpolation along the line, with "mirror" borders."""
    blur, x = MotionBlur(length_min=1.0, length_max=9.0, angle_seed=3), images()
    blurred = blur.A(x, T, IDS).numpy()
    angles = np.pi * uniform(IDS, seed=3, step=0, stream=Stream.DEGRADATION, like=T).numpy()
    rows, columns = np.mgrid[:9, :13]
    for k, length in enumerate(1.0 + 8.0 * T.numpy()):
        positions = (np.arange(600) + 0.5) / 600 - 0.5
        moved = [
            [
                map_coordinates(
                    channel, [rows + s * np.sin(angles[k]), columns + s * np.cos(angles[k])], order=1, mode="mirror"
                )
                for channel in x[k].numpy()
            ]
            for s in length * positions
        ]
        # the kernel sums 72 points where the average has 600
        np.testing.assert_allclose(blurred[k], np.mean(moved, 0), atol=2e-3)


def test_motion_blur_has_a_direction_of_its_own_per_image_and_none_is_preferred():
    """Direction from the second moments of the kernel: twice the angle, averaged, leaves nothing."""
    ids = np.arange(2000)
    kernels = MotionBlur(0.0, 9.0).prepare(torch.ones(2000), (1, 32, 32), ids)["kernel"]
    at = torch.arange(-5.0, 6.0)
    down, across = (kernels * at[:, None] ** 2).sum((1, 2)), (kernels * at**2).sum((1, 2))
    mixed = (kernels * at[:, None] * at).sum((1, 2))
    doubled = torch.atan2(2 * mixed, across - down)
    expected = 2 * np.pi * uniform(ids, seed=0, step=0, stream=Stream.DEGRADATION, like=kernels)
    torch.testing.assert_close(doubled.cos(), expected.cos(), atol=0.02, rtol=0)
    torch.testing.assert_close(doubled.sin(), expected.sin(), atol=0.02, rtol=0)
    assert abs(float(doubled.cos().mean())) < 0.07 and abs(float(doubled.sin().mean())) < 0.07  # 4 standard errors
    # variance of a line of length L, and of the bilinear weights, at most 1/4 per axis
    variance = down + across
    assert bool(((variance > 81 / 12 * 0.98) & (variance < 81 / 12 + 0.5)).all())


@pytest.mark.parametrize("degradation", [MotionBlur(0.0, 30.0), NonlinearBlur(0.0, 30.0)], ids=["motion", "nonlinear"])
def test_motion_beyond_the_image_is_refused(degradation):
    with pytest.raises(ValueError, match=r"length_max: reaches 15 pixels .* 12 x 20 pixels .* 11 at most; lower it"):
        degradation.A(torch.zeros(1, 1, 12, 20), torch.zeros(1))


def test_super_resolution_is_the_block_average_at_integer_factors():
    x = images((1, 2, 12, 18))
    y = SuperResolution(factor_max=3.0).A(x, torch.ones(1, dtype=torch.float64))
    blocks = x.unflatten(2, (4, 3)).unflatten(4, (6, 3)).mean((3, 5))
    torch.testing.assert_close(y, blocks.repeat_interleave(3, 2).repeat_interleave(3, 3))


@pytest.mark.parametrize("t", [0.13, 0.5, 1.0])
def test_super_resolution_against_a_fine_grid(t):
    """Independent computation: pixels cut into 1000 pieces, averaged over the cells they fall into, averaged back."""
    size, cell = 11, 1 + t * 2.7
    x = images((1, 1, size, size))
    y = SuperResolution(factor_max=3.7).A(x, torch.tensor([t], dtype=torch.float64))[0, 0].numpy()
    place = (np.arange(1000 * size) + 0.5) / 1000
    pixel, owner = place.astype(int), (place / cell).astype(int)

    def coarse(lines):  # (size, n) -> (size, n), along the first axis
        pieces = lines[pixel]
        means = np.stack([pieces[owner == c].mean(0) for c in range(owner.max() + 1)])
        return means[owner].reshape(size, 1000, -1).mean(1)

    np.testing.assert_allclose(y, coarse(coarse(x[0, 0].numpy()).T).T, atol=2e-3)


def test_super_resolution_keeps_constants():
    grey = torch.full((6, 1, 10, 15), -0.3, dtype=torch.float64)
    torch.testing.assert_close(SuperResolution(6.3).A(grey, T), grey)


def test_each_sample_of_a_mixture_is_degraded_by_one_member_at_its_own_level():
    mixture, x = Mixture(FAMILIES), images()
    member = mixture.prepare(T, (3, 9, 13), IDS)["member"]
    y = mixture.A(x, T, IDS)
    for k, name in enumerate([list(FAMILIES)[m] for m in member]):
        alone = FAMILIES[name].A(x[k : k + 1], T[k : k + 1], IDS[k : k + 1])
        torch.testing.assert_close(y[k : k + 1], alone, rtol=0, atol=1e-14)
    assert len(set(member.tolist())) > 2


def test_the_members_of_a_mixture_are_equally_likely_and_an_image_keeps_its_own():
    members, ids = {f"drop_{k}": RandomInpainting(0.1 * k) for k in range(1, 7)}, np.arange(6000)

    def drawn(t, seed=0):
        return Mixture(members, seed).prepare(torch.full((6000,), t), (1, 1, 1), ids)["member"]

    base, other = drawn(0.4), drawn(0.4, seed=1)
    assert torch.equal(drawn(0.9), base)
    for draw in (base, other):
        # a binomial count of mean 1000 has a standard deviation of 29
        assert (np.abs(np.bincount(draw.numpy(), minlength=6) - 1000) < 120).all()
    assert abs(float((base == other).double().mean()) - 1 / 6) < 0.02  # as often as independent draws agree


def test_a_mixture_computes_each_row_once(monkeypatch):
    seen = []
    for family in {type(member) for member in FAMILIES.values()}:
        monkeypatch.setattr(family, "apply", lambda self, x, state: (seen.append(len(x)), x)[1])
    x = images()
    assert torch.equal(Mixture(FAMILIES).A(x, T, IDS), x)  # and puts rows back where they were
    assert sum(seen) == 6


def test_measurement_noise_is_keyed_by_seed_and_image_id():
    x, t, blur = images((3, 1, 9, 13)).float(), T[:3].float(), GaussianBlur()
    y = measure(x, blur, t, 0.1, seed=3, ids=np.array([7, 0, 5])).y
    swapped = measure(x.flip(0), blur, t.flip(0), 0.1, seed=3, ids=np.array([5, 0, 7])).y
    torch.testing.assert_close(y, swapped.flip(0))
    assert not torch.allclose(y, measure(x, blur, t, 0.1, seed=0, ids=np.array([7, 0, 5])).y)


@each
def test_the_operator_of_a_measurement_is_what_produced_it(degradation):
    x = images().clamp(-1, 1)
    measurement = measure(x, degradation, T, 0.0, ids=IDS)
    torch.testing.assert_close(measurement.operator().A(x), measurement.y, rtol=0, atol=0)
    some = np.array([4, 1])
    torch.testing.assert_close(measurement.operator(some).A(x[some]), measurement.y[some], rtol=0, atol=1e-14)
    torch.testing.assert_close(measurement.select(some).operator().A(x[some]), measurement.y[some], rtol=0, atol=1e-14)


def test_measurement_noise_has_the_stated_standard_deviation():
    x = torch.zeros(4, 1, 100, 100)
    y = measure(x, GaussianBlur(), 0.5, 0.1).y
    assert abs(float(y.std()) - 0.1) < 0.002  # standard error of the estimate: 0.00035
    assert abs(float(torch.corrcoef(y.flatten(1))[0, 1])) < 0.05


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"t": torch.tensor([0.0, 1.2, 0.5])}, "t: values"),
        ({"t": torch.tensor([0.0, 1.0])}, "t: shape"),
        ({"x": torch.full((3, 1, 8, 8), float("nan"))}, "x: values from nan"),
        ({"x": torch.full((3, 1, 8, 8), 255.0)}, "x: values"),
        ({"x": torch.zeros(3, 8, 8)}, "x: shape"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"ids": np.arange(2)}, "ids"),
    ],
)
def test_bad_measurements_are_refused_by_field(changes, field):
    good = {"x": torch.zeros(3, 1, 8, 8), "degradation": GaussianBlur(), "t": 0.5, "noise_std": 0.1}
    with pytest.raises(ValueError, match=field):
        measure(**(good | changes))


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        (GaussianBlur, {"std_min": -0.1}, "GaussianBlur: std_min is -0.1; it should be greater than or equal to 0."),
        (GaussianBlur, {"std_min": 3.0}, "GaussianBlur: std_max is 3.0; give a value above std_min, 3.0."),
        (
            GaussianBlur,
            {"std_max": float("nan")},
            "GaussianBlur: std_max is nan; it should be a finite number.",
        ),
        (GaussianBlur, {"radius": 0}, "GaussianBlur: radius is 0; it should be greater than or equal to 1."),
        (
            RandomInpainting,
            {"drop_max": 1.1},
            "RandomInpainting: drop_max is 1.1; it should be less than or equal to 1.",
        ),
        (
            BoxInpainting,
            {"side_max": 0.0},
            "BoxInpainting: side_max is 0.0; it should be greater than 0.",
        ),
        (
            MotionBlur,
            {"length_max": float("inf")},
            "MotionBlur: length_max is inf; it should be a finite number.",
        ),
        (SuperResolution, {"factor_max": 1.0}, "SuperResolution: factor_max is 1.0; it should be greater than 1."),
        (
            NonlinearBlur,
            {"length_min": -1.0},
            "NonlinearBlur: length_min is -1.0; it should be greater than or equal to 0.",
        ),
        (NonlinearBlur, {"gain_max": 0.9}, "NonlinearBlur: gain_max is 0.9; it should be greater than or equal to 1."),
        (Mixture, {"members": {"blur": GaussianBlur()}}, "Mixture: members are ['blur']; give at least two."),
        (
            Mixture,
            {"members": {"a": Mixture(), "b": MotionBlur()}},
            "Mixture: member 'a' is a mixture; give its members ",
        ),
    ],
)
def test_a_bad_field_is_one_sentence(kind, fields, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        kind(**fields)
    assert "\n" not in str(refused.value)


def test_build_takes_a_study_entry():
    blur, noise = build({"kind": "gaussian_blur", "std_min": 0.3, "std_max": 4.0, "noise_std": 0.1})
    assert (blur, noise) == (GaussianBlur(0.3, 4.0), 0.1)
    with pytest.raises(ValueError, match="kind 'sharpen' is unknown"):
        build({"kind": "sharpen", "noise_std": 0.1})


def test_build_takes_a_mixture_with_its_members():
    box = {"kind": "box_inpainting", "side_max": 0.4, "noise_std": 0.1}
    shake = {"kind": "nonlinear_blur", "length_min": 0.0, "length_max": 5.0, "gain_max": 1.2, "noise_std": 0.1}
    entry = {"kind": "mixture", "noise_std": 0.1, "members": {"box": box, "shake": shake}}
    mixture, noise = build(entry)
    assert noise == 0.1
    assert mixture == Mixture({"box": BoxInpainting(0.4), "shake": NonlinearBlur(0.0, 5.0, 1.2)})
    with pytest.raises(ValueError, match=r"member 'box' has noise_std 0\.2, the mixture 0\.1; give both the same"):
        build(entry | {"members": {"box": box | {"noise_std": 0.2}, "shake": shake}})
