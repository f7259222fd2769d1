"""docs/custom_solver.md does what it says: its code blocks run as they stand, and the solver in them is a solver."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import Flash
from flashdiff.solvers import SOLVERS
from flashdiff.starts import FixedStart
from flashdiff.walks import Strided

PAGE = Path(__file__).parents[2] / "docs" / "custom_solver.md"


@pytest.fixture
def measurement():
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (5, 1, 16, 16)))
    levels = torch.linspace(0, 1, 5, dtype=torch.float64)
    return measure(x, GaussianBlur(), levels, 0.1, ids=np.array([4, 9, 0, 2, 7]))


@pytest.fixture
def page(tiny_prior, tiny_encoder, measurement, monkeypatch):
    """The names that the page's blocks leave behind, run one after another like the cells of a notebook."""
    registry = dict(SOLVERS)  # the page registers its solver, and other tests must not see it
    monkeypatch.setattr("flashdiff.solvers.SOLVERS", registry)
    names = {"__name__": "page", "prior": tiny_prior, "encoder": tiny_encoder, "measurement": measurement}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names | {"registry": registry}


def test_the_page_runs(page, measurement, tiny_prior):
    flash, full = page["flash"], page["full"]
    assert flash.images.shape == full.images.shape == (5, 1, 16, 16)
    assert bool(torch.isfinite(flash.images).all()) and bool(torch.isfinite(full.images).all())
    assert torch.equal(flash.nfe, flash.start + 1) and torch.equal(flash.decodes, flash.nfe + 1)
    assert torch.equal(flash.gradients, flash.nfe) and flash.encodes.tolist() == [0] * 5
    assert full.nfe.tolist() == [10] * 5 and full.decodes.tolist() == [11] * 5
    assert page["registry"]["mpgd"] is page["MPGD"] and "mpgd" not in SOLVERS
    assert page["solver"] == page["MPGD"](rho=0.3, walk=Strided(2))


def test_its_step_is_its_formula(page, measurement, tiny_prior):
    """By central differences of the residual, at two indices."""
    solver = page["MPGD"](rho=0.3)
    part = measurement.select(slice(0, 2))
    z, noise = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 2, 4, 4, 4)))
    i, i_prev = torch.tensor([30, 4]), torch.tensor([28, 3])
    got = solver.step(tiny_prior, part.operator(), part.y, z, i, i_prev, lambda draw=0: noise).z
    z0 = tiny_prior.predict_z0(z, i)
    move = (got - tiny_prior.reverse(z, z0, i, i_prev, noise)) / -0.3
    direction = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 4, 4, 4)))

    def residual(z0, k):
        return torch.linalg.vector_norm((part.y - part.operator().A(tiny_prior.decode(z0)))[k])

    for k in range(2):
        slope = (residual(z0 + 1e-5 * direction, k) - residual(z0 - 1e-5 * direction, k)) / 2e-5
        expected = float(tiny_prior.abar[i_prev[k]]) ** 0.5 * float(slope)
        assert float((move[k] * direction[k]).sum()) == pytest.approx(expected, rel=1e-6)


def test_batch_mates_do_not_change_a_sample(page, measurement, tiny_prior, tiny_encoder):
    solver = page["MPGD"](rho=0.3)
    runs = [
        Flash(tiny_prior, tiny_encoder, solver, FixedStart(5), batch_size=size, progress=False)(measurement)
        for size in (1, 64)
    ]
    torch.testing.assert_close(runs[0].images, runs[1].images, rtol=0, atol=1e-10)
