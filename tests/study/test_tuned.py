"""From a tuned record to what runs: fields replace those of the entry, names become rules, objects stay as they are."""

import subprocess
import sys

import pytest

from flashdiff.solvers import LDPS
from flashdiff.starts import STARTS, ConsistentStart, FixedStart, PublishedStart
from flashdiff.study.tuned import few_step_of, flash_of, recipes, solver_of, start_of
from flashdiff.walks import EvenlySpaced

ENTRY = {"kind": "ldps", "stochasticity": 0.5, "eta": 9.0, "walk": {"kind": "evenly_spaced", "steps": 3}}
CHOSEN = {
    "flash_consistent": {"solver": {"eta": 0.3}, "start": {"k": 1.5}},
    "fixed": {"solver": {"eta": 0.7}, "start": {"fresh": 0.0}},
    "flash_published": {"solver": {"eta": 0.5}, "start": {"correction": 1.2}},
}


def test_flash_has_the_chosen_fields_the_entrys_others_and_the_options():
    flash = flash_of("prior", "encoder", ENTRY, CHOSEN["flash_consistent"], "consistent", seed=3, batch_size=2)
    assert flash.solver == LDPS(0.3, 0.5, EvenlySpaced(3)) and flash.start == ConsistentStart(1.5)
    assert (flash.prior, flash.encoder, flash.seed, flash.batch_size) == ("prior", "encoder", 3, 2)


def test_objects_are_taken_as_they_are():
    solver, start = LDPS(2.0), FixedStart(4)
    flash = flash_of(None, None, solver, CHOSEN["fixed"], start)
    assert flash.solver is solver and flash.start is start


@pytest.mark.parametrize("rule", STARTS)
def test_every_rule_of_the_registry_has_its_name(rule):
    assert type(start_of(rule, {"start": {}})) is STARTS[rule]


def test_recipes_are_those_of_the_tuned_rules_and_need_no_entry():
    found = recipes(ENTRY, CHOSEN)
    assert list(found) == ["published", "consistent"]  # the order of STARTS; inversion was not tuned
    assert found["published"] == {"solver": ENTRY | {"eta": 0.5}, "start": {"correction": 1.2}}
    alone = flash_of(None, None, {}, found["published"], "published")
    assert alone == flash_of(None, None, ENTRY, CHOSEN["flash_published"], "published")
    assert alone.start == PublishedStart(1.2)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="start: 'early' is unknown; choose one of published, consistent, inversion"):
        start_of("early", CHOSEN["fixed"])
    known = "published, consistent, inversion, scaled, fixed"
    with pytest.raises(ValueError, match=f"start: 'early' is unknown; choose one of {known}, or give a Start"):
        few_step_of(None, None, {"solver": ENTRY, "start": {"rule": "early"}})
    with pytest.raises(ValueError, match=r"is no solver; give a name or an object such as LDPS\(eta=1.0\)"):
        solver_of(LDPS, CHOSEN["fixed"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'k'"):
        start_of("published", CHOSEN["flash_consistent"])


def test_nothing_that_draws_or_tabulates_comes_along():
    code = "import sys, flashdiff.study.tuned; print({'pandas', 'matplotlib'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
