"""Starts, walks and solvers: fields that are none are refused; walks fall to 0, steps rise with the start."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from property_cases import EVIL, GOOD, count, examples, outcome

from flashdiff import solvers, walks
from flashdiff.degradations import GaussianBlur
from flashdiff.fields import field_types
from flashdiff.solvers import SOLVERS
from flashdiff.starts import SHORT_STARTS, STARTS, match_snr
from flashdiff.walks import WALKS, EvenlySpaced, Growing, NoiseLevels, Strided

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(EVIL), st.binary(max_size=4), st.just({}), st.just(object),
    st.sampled_from([2**63, 2**64, 10**400, 1e308, 5e-324]), st.lists(st.floats(), max_size=3), st.complex_numbers(),
    st.builds(np.float64, st.floats()), st.builds(torch.tensor, st.floats(-2, 2)),
)  # fmt: skip
CLASSES = {
    f"{what} {name}": cls for what, kinds in (("walk", WALKS), ("start", SHORT_STARTS)) for name, cls in kinds.items()
}
NEEDED = {"steps": 3, "rate": 1.0, "power": 0.5, "index": 3}


@given(name=st.sampled_from(list(CLASSES)), data=st.data())
@examples(1500, 0.04)
def test_a_walk_or_a_start_takes_a_field_or_says_what_is_wrong_with_it(name, data):
    cls = CLASSES[name]
    fields = list(field_types(cls))
    given_ = {field: NEEDED[field] for field in fields if field in NEEDED} | {
        data.draw(st.sampled_from(fields)): data.draw(ODD)
    }
    outcome("starts and walks: one field", lambda: cls(**given_))


@given(kind=st.sampled_from(list(SOLVERS)), data=st.data())
@examples(1500, 0.04)
def test_a_solver_takes_a_field_or_says_what_is_wrong_with_it(kind, data):
    entry = {"kind": kind, data.draw(st.sampled_from(list(field_types(SOLVERS[kind])))): data.draw(ODD)}
    made = outcome("solvers: one field", lambda: _checked(entry), ValueError, TypeError, KeyError)
    assert made is None or callable(made.walk)


def _checked(entry):
    """A solver as an engine takes it: built, and asked whether it can begin."""
    walk = entry.get("walk")
    made = solvers.build(entry if not isinstance(walk, dict) else entry | {"walk": walk or "none"})
    solvers.check(made, GaussianBlur())
    return made


def prior_of(n, beta_end=0.02):
    abar = torch.cumprod(1 - torch.linspace(1e-4, beta_end, n, dtype=torch.float64), 0)
    table = torch.cat([abar, torch.ones(1, dtype=torch.float64)])
    return SimpleNamespace(abar=table, n_steps=n, signal=lambda i: table[i])


LENGTHS = st.integers(2, 1000)


@st.composite
def walks_of(draw):
    return draw(st.one_of(
        st.builds(Strided, st.integers(1, 400)), st.builds(EvenlySpaced, st.integers(1, 400)),
        st.builds(Growing, st.floats(0.01, 500), st.floats(0, 1)),
        st.builds(NoiseLevels, st.integers(2, 80), st.floats(1, 50), st.floats(0.01, 0.9), st.floats(0.5, 10)),
    ))  # fmt: skip


@given(walk=walks_of(), n=LENGTHS, data=st.data())
@examples(800, 0.1)
def test_every_walk_begins_at_its_start_and_falls(walk, n, data):
    prior = prior_of(n)
    start = data.draw(st.integers(0, n - 1))
    visited = walk(prior, start)
    assert visited[0] == start and (np.diff(visited) < 0).all() and visited[-1] >= 0
    assert visited.dtype == np.int64 and 0 <= walk.first(prior) < n
    if isinstance(walk, EvenlySpaced | Growing) and len(visited) > 1:
        assert visited[-1] == 0
    count("walks: fall from their start to 0", GOOD)


@given(rate=st.floats(0.01, 500), power=st.floats(0, 1), starts=st.lists(st.integers(0, 999), min_size=2, max_size=9))
@examples(500, 0.1)
def test_steps_of_growing_walks_rise_with_the_start(rate, power, starts):
    starts = np.sort(starts)
    steps = Growing(rate, power).steps(starts)
    assert (np.diff(steps) >= 0).all() and (steps >= 1).all() and (steps <= starts + 1).all()
    assert [len(Growing(rate, power)(None, int(i))) for i in starts] == steps.tolist()
    count("growing walks: steps rise with the start", GOOD)


@given(rule=st.sampled_from(list(STARTS)), n=LENGTHS, variances=st.lists(st.floats(1e-6, 1e4), min_size=2, max_size=8))
@examples(500, 0.1)
def test_starts_rise_with_the_severity(rule, n, variances):
    """An image that is harder never starts lower; the index is the one whose SNR is nearest, by brute force."""
    prior = prior_of(n)
    variance = torch.tensor(sorted(variances), dtype=torch.float64)
    index = STARTS[rule]().index(prior, variance)
    assert (index.diff() >= 0).all()
    snr = (prior.abar[:-1] / (1 - prior.abar[:-1])).numpy()
    nearest = [np.abs(snr - 1 / v).min() for v in variance.numpy()]
    assert np.allclose(np.abs(snr[index.numpy()] - 1 / variance.numpy()), nearest)
    assert torch.equal(match_snr(prior, variance), index)
    count("starts: the nearest SNR, and rise with the severity", GOOD)


@given(entry=st.sampled_from(list(WALKS)), data=st.data())
@examples(100, 0.2)
def test_a_walk_s_entry_gives_the_walk(entry, data):
    walk = data.draw(walks_of())
    kind = next(kind for kind, cls in WALKS.items() if isinstance(walk, cls))
    assert walks.build({"kind": kind, **vars(walk)}) == walk
    count("walks: entry -> walk -> entry", GOOD)
