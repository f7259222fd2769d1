"""From what tuning chose to what runs: the one way from a tuned record (data/tuned/PAIR.json) to a Flash."""

from collections.abc import Mapping
from typing import Any

from flashdiff.flash import Flash
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import Solver, build
from flashdiff.starts import SHORT_STARTS, STARTS, Start
from flashdiff.study.methods import flash_method

Choice = Mapping[str, Mapping[str, Any]]
"""What was chosen for a method: {"solver": fields of the solver, "start": options of the start rule}."""


def solver_of(solver: Mapping | Solver, choice: Choice) -> Solver:
    """The solver of a study's entry, in which the chosen fields replace those of the same name; a Solver as it is."""
    if isinstance(solver, Mapping):
        return build(solver, **choice["solver"])
    if isinstance(solver, type) or not hasattr(solver, "step"):
        raise ValueError(f"solver: {solver!r} is no solver; give a name or an object such as LDPS(eta=1.0).")
    return solver


def start_of(rule: str | Start, choice: Choice, rules: Mapping[str, type[Start]] = STARTS) -> Start:
    """The start rule of a name in ``rules`` with the chosen options; a Start as it is."""
    if not isinstance(rule, str):
        return rule
    if rule not in rules:
        raise ValueError(f"start: {rule!r} is unknown; choose one of {', '.join(rules)}, or give a Start.")
    return rules[rule](**choice["start"])


def flash_of(
    prior: Prior, encoder: SeverityEncoder, solver: Mapping | Solver, choice: Choice, rule: str | Start, **options
) -> Flash:
    """Flash with :func:`solver_of` and :func:`start_of`; ``options`` are Flash's own: seed, batch_size, progress, ...

    Raises ValueError for a solver or a start rule that there is not, TypeError for a field that it has not.
    """
    return Flash(prior, encoder, solver_of(solver, choice), start_of(rule, choice), **options)


def few_step_of(prior: Prior, encoder: SeverityEncoder, choice: Choice, **options) -> Flash:
    """Flash as a few-step setting says: {"solver": a whole solver entry, "start": {"rule": of SHORT_STARTS, its options}}.

    options as in :func:`flash_of`, and what it raises.
    """
    chosen = dict(choice["start"])
    start = start_of(chosen.pop("rule"), {"start": chosen}, SHORT_STARTS)
    return flash_of(prior, encoder, choice["solver"], {"solver": {}}, start, **options)


def recipes(entry: Mapping, chosen: Mapping[str, Choice]) -> dict[str, dict[str, dict]]:
    """Start rule -> {"solver": the whole solver entry, "start": options}, for the rules that were tuned.

    entry: a study's solver entry; chosen: method -> choice, the record's ``chosen``, where the method that walks with a
    rule is that of :func:`flashdiff.study.methods.flash_method`. A recipe is a choice for the empty entry.
    """
    tuned = {rule: chosen[flash_method(rule)] for rule in STARTS if flash_method(rule) in chosen}
    return {
        rule: {"solver": {**entry, **choice["solver"]}, "start": dict(choice["start"])}
        for rule, choice in tuned.items()
    }
