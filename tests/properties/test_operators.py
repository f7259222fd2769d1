"""Measurements of anything: refused in a sentence or right; and what is true of every linear operator."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from property_cases import EVIL, GOOD, count, examples, outcome

from flashdiff.degradations import (
    DEGRADATIONS,
    Degradation,
    EncodedBlur,
    GaussianBlur,
    Measurement,
    Mixture,
    build,
    measure,
)
from flashdiff.fields import field_types

DRAWN = [kind for kind, cls in DEGRADATIONS.items() if cls not in (Mixture, EncodedBlur)]
"""Those whose fields are numbers."""
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(EVIL), st.complex_numbers(),
    st.sampled_from([2**63, 2**64, 1e308, 1e19, 5e-324, -0.0]), st.lists(st.floats(), max_size=3), st.just({}), st.just(object),
    st.builds(np.float64, st.floats()), st.builds(np.int64, st.integers(-9, 9)), st.builds(torch.tensor, st.floats(-2, 2)),
    st.binary(max_size=3), st.just(10**400), st.builds(float, st.integers(-9, 99)),
)  # fmt: skip


FIELDS = {
    "std_min": st.floats(0, 1), "std_max": st.floats(1.01, 6), "radius": st.integers(1, 40), "drop_max": st.floats(0.01, 1),
    "exponent": st.floats(0.1, 4), "field_seed": st.integers(0, 2**40), "side_max": st.floats(0.01, 1), "length_min": st.floats(0, 0.5),
    "length_max": st.floats(0.6, 9), "angle_seed": st.integers(0, 2**62), "factor_max": st.floats(1.1, 9), "gain_max": st.floats(1, 3),
    "path_seed": st.integers(0, 2**62),
}  # fmt: skip
"""Values that are good, of every field that is a number."""


@st.composite
def good_entries(draw, linear=False):
    """A study's entry of a degradation that is no mixture."""
    kinds = [kind for kind in DRAWN if DEGRADATIONS[kind].linear or not linear]
    kind = draw(st.sampled_from(kinds))
    fields = {name: draw(FIELDS[name]) for name in field_types(DEGRADATIONS[kind])}
    return {"kind": kind, **fields, "noise_std": draw(st.floats(0, 2))}


@st.composite
def images(draw, dtype=torch.float32, smallest=10):
    shape = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 3])),
        draw(st.integers(smallest, 17)),
        draw(st.integers(smallest, 17)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1


@given(kind=st.sampled_from(list(DEGRADATIONS)), data=st.data())
@examples(2500, 0.04)
def test_a_degradation_takes_a_field_or_says_what_is_wrong_with_it(kind, data):
    name = data.draw(st.sampled_from([*field_types(DEGRADATIONS[kind]), "kind", "noise_std"]))
    needed = {"weights": "none"} if kind == "encoded_blur" else {}
    odd = st.one_of(ODD, st.dictionaries(st.sampled_from("ab"), ODD)) if name == "members" else ODD
    entry = {"kind": kind, **needed, "noise_std": 0.1, name: data.draw(odd)}
    made = outcome("degradations: one field", lambda: build(entry), ValueError, TypeError)
    if made is None or isinstance(made[0], EncodedBlur):
        return
    for t in (0.0, 1.0):
        taken = outcome(
            "degradations: one field, used", lambda t=t: measure(torch.zeros(1, 1, 16, 16), made[0], t, made[1])
        )
        assert taken is None or taken.y.isfinite().all()


@given(entry=ODD)
@examples(200, 0.1)
def test_an_entry_that_is_none_is_refused(entry):
    outcome("degradations: an entry", lambda: build(entry))


def test_every_number_has_a_good_value():
    assert {name for kind in DRAWN for name in field_types(DEGRADATIONS[kind])} == set(FIELDS)


CLEAN = torch.zeros(2, 1, 16, 16)
TENSORS = [CLEAN[0], CLEAN[:0], CLEAN[..., :0], CLEAN.long(), CLEAN.bool(), CLEAN + 2, CLEAN * float("nan"), CLEAN.numpy(), CLEAN.tolist(),
           CLEAN.to(torch.complex64), CLEAN.double(), CLEAN.half(), CLEAN[None], CLEAN[:, :, :1, :1], CLEAN + float("inf")]  # fmt: skip
LEVELS = [
    [0.1, 0.2],
    [0.1],
    torch.zeros(3),
    torch.zeros(2, 1),
    np.array([0.1, 0.2]),
    [None],
    torch.tensor([0.1, float("nan")]),
    "0.5",
]
IDS = [
    [0],
    [0, 1],
    [-1, 1],
    [0.5, 1],
    [2**63, 1],
    [2**70, 1],
    [True, False],
    ["a", "b"],
    np.zeros((2, 1), int),
    [None, 1],
    range(2),
]
GIVEN = {
    "x": st.one_of(ODD, st.sampled_from(TENSORS)),
    "degradation": st.one_of(ODD, st.sampled_from([GaussianBlur, "gaussian_blur", EncodedBlur(weights="none")])),
    "t": st.one_of(ODD, st.sampled_from(LEVELS)),
    "noise_std": st.one_of(ODD, st.sampled_from([torch.zeros(2), torch.tensor(-1.0)])),
    "seed": ODD,
    "ids": st.one_of(ODD, st.sampled_from(IDS)),
    "draw": ODD,
}  # fmt: skip


@given(data=st.data(), name=st.sampled_from(list(GIVEN)))
@examples(2500, 0.04)
def test_a_measurement_is_right_or_refused(data, name):
    given_ = {
        "x": CLEAN,
        "degradation": GaussianBlur(radius=3),
        "t": 0.5,
        "noise_std": 0.1,
        name: data.draw(GIVEN[name]),
    }
    taken = outcome("measure(): one argument", lambda: measure(**given_))
    if taken is not None:
        assert taken.y.isfinite().all() and taken.y.shape == torch.as_tensor(given_["x"]).shape


@functools.cache
def plain(size):
    return torch.arange(size * size, dtype=torch.float64).reshape(1, 1, size, size) / size**2


def operator_of(degradation, x, t, ids=None):
    return Measurement(x, degradation, torch.full((len(x),), t, dtype=x.dtype), 0.0, np.arange(len(x)) if ids is None else ids,
                       tuple(x.shape[1:])).operator()  # fmt: skip


@given(entry=good_entries(linear=True), x=images(torch.float64), seed=st.integers(0, 99), t=st.floats(0, 1))
@examples(400, 0.1)
def test_the_adjoint_is_the_adjoint(entry, x, seed, t):
    """<A x, y> = <x, A^T y> for every sample, shape, level and field: computed from the two sides alone."""
    degradation, _ = build(entry)
    operator = operator_of(degradation, x, t)
    y = torch.randn(operator.A(x).shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, right = ((a * b).flatten(1).sum(1) for a, b in ((operator.A(x), y), (x, operator.AT(y))))
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    count("linear operators: <Ax, y> = <x, A'y>", GOOD)


@given(entry=good_entries(linear=True), x=images(torch.float64), scale=st.floats(-2, 2), t=st.floats(0, 1))
@examples(200, 0.1)
def test_linear_operators_are_linear(entry, x, scale, t):
    operator = operator_of(build(entry)[0], x, t)
    other = x.flip(-1)
    torch.testing.assert_close(
        operator.A(x + scale * other), operator.A(x) + scale * operator.A(other), rtol=1e-9, atol=1e-9
    )
    count("linear operators: A(x + a z) = Ax + a Az", GOOD)


@given(
    entries=st.lists(good_entries(), min_size=2, max_size=3), x=images(), t=st.floats(0, 1), seed=st.integers(0, 2**62)
)
@examples(300, 0.1)
def test_a_sample_is_measured_as_alone(entries, x, t, seed):
    """Row k of a batch is what that image gives by itself, mixtures and nonlinear operators included."""
    noise_std = entries[0]["noise_std"]
    members = {f"m{k}": entry | {"noise_std": noise_std} for k, entry in enumerate(entries)}
    degradation, _ = build({"kind": "mixture", "members": members, "noise_std": noise_std})
    ids = np.arange(7, 7 + len(x))
    together = measure(x, degradation, t, noise_std, seed=seed, ids=ids).y
    for k in range(len(x)):
        alone = measure(x[k : k + 1], degradation, t, noise_std, seed=seed, ids=ids[k : k + 1]).y
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-5, atol=1e-5)
    count("measurements: a row is as alone", GOOD)


@given(entry=good_entries(), x=images(), t=st.floats(0, 1), noise_std=st.floats(0, 2))
@examples(200, 0.1)
def test_noise_is_what_it_is_said_to_be(entry, x, t, noise_std):
    """y - A x = noise_std n, with the same n for every strength."""
    degradation, _ = build(entry)
    clean, unit, y = (measure(x, degradation, t, s, seed=3).y.double() for s in (0.0, 1.0, noise_std))
    torch.testing.assert_close(y - clean, noise_std * (unit - clean), rtol=1e-4, atol=1e-5)
    count("measurements: y - Ax = s n", GOOD)


@given(entry=good_entries(), x=images(), levels=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@examples(200, 0.1)
def test_masks_are_masks_and_nested(entry, x, levels):
    degradation, _ = build(entry)
    assume("inpainting" in entry["kind"])
    easy, hard = (degradation.A(torch.ones_like(x), torch.full((len(x),), t)) for t in sorted(levels))
    assert ((hard >= 0) & (hard <= easy + 1e-6) & (easy <= 1)).all()
    count("masks: within [0, 1], and nested", GOOD)


def test_what_a_degradation_is_not_is_named():
    with pytest.raises(ValueError, match="degradation: 'gaussian_blur'; give an object"):
        measure(CLEAN, "gaussian_blur", 0.5, 0.1)
    assert isinstance(GaussianBlur(), Degradation)
