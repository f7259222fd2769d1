"""What readers see of methods and solvers."""

import pytest

from flashdiff.report import names
from flashdiff.report.style import GREY, PALETTE
from flashdiff.solvers import SOLVERS

METHODS = {
    "no_diffusion": ("no diffusion, D(ẑ)", "0.35"),
    "full_length": ("full-length baseline", GREY),
    "flash_published": ("Flash, published start", PALETTE[0]),
    "flash_consistent": ("Flash, consistent start", PALETTE[1]),
    "flash_inversion": ("Flash, DDIM inversion", PALETTE[3]),
    "fixed_mean": ("fixed start, equal NFE", PALETTE[2]),
    "shuffled_published": ("others' severities, published", PALETTE[5]),
    "shuffled_consistent": ("others' severities, consistent", PALETTE[7]),
    "random_published": ("random starts, published", PALETTE[4]),
    "random_consistent": ("random starts, consistent", PALETTE[5]),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_have_a_name_and_a_colour(method):
    assert (names.label(method), names.colour(method)) == METHODS[method]


def test_adaptive_methods_have_a_marker():
    marked = ("flash_published", "flash_consistent", "flash_inversion", "full_length")
    assert [names.marker(method) for method in marked] == ["o", "D", "^", "X"]


def test_the_ladder_has_its_index_in_its_name():
    assert names.label("fixed_150") == "fixed start 150"


def test_solvers_have_the_name_of_their_class(monkeypatch):
    known = {"ldps": "LDPS", "gml_dps": "GML-DPS", "psld": "PSLD", "resample": "ReSample", "latent_daps": "LatentDAPS"}
    known |= {"latent_diffpir": "LatentDiffPIR", "ldps_diffpir": "LDPSDiffPIR"}
    assert {kind: names.solver_label(kind) for kind in SOLVERS} == known
    assert names.solver_label("ldps_ddim40") == "LDPS (ddim40)" and names.solver_label("an_other") == "an other"
    monkeypatch.setitem(SOLVERS, "mine", type("MySolver", (), {}))
    assert names.solver_label("mine_two_steps") == "MySolver (two steps)"


def test_few_step_methods_have_names_and_another_solver_its_own():
    known = {
        "adaptive": "Flash, few steps",
        "forward": "forward diffusion to one index",
        "shuffled": "others' severities",
    }
    assert {method: names.label(method) for method in known} == known
    assert names.label("ldps") == "LDPS, few steps"
