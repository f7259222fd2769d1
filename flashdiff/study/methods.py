"""The methods of a comparison: their names in rows and files, made of the start rules', and what is held against what."""

from collections.abc import Iterable

from flashdiff.starts import STARTS

MAIN = "consistent"
"""The start rule that stands for Flash where there is room for one, in the studies that have it."""
EQUAL_COST = ("fixed_mean", "fixed_fresh")
"""One start for all images, at the mean of the adaptive ones: z_hat as it is, and z_hat with the published rule's noise."""
CONTROLS = ("shuffled", "random")
"""Negative controls, one per start rule: severities of other images, and starts that know nothing of the image."""


def flash_method(rule: str) -> str:
    """The adaptive method that walks with a start rule."""
    return f"flash_{rule}"


def controls(rule: str) -> tuple[str, ...]:
    """The negative controls that walk with a start rule."""
    return tuple(f"{control}_{rule}" for control in CONTROLS)


def rules(methods: Iterable[str]) -> list[str]:
    """The start rules whose adaptive method is among the methods, in the order of STARTS."""
    found = set(methods)
    return [rule for rule in STARTS if flash_method(rule) in found]


def adaptive(methods: Iterable[str]) -> list[str]:
    """Those of the methods that are adaptive, in the order of STARTS."""
    return [flash_method(rule) for rule in rules(methods)]


def main_rule(rules: Iterable[str]) -> str:
    """The one of the start rules that stands for Flash: :data:`MAIN`, else the first; ValueError where there is none."""
    rules = list(rules)
    if not rules:
        raise ValueError("methods: none is adaptive; tune at least one start rule.")
    return MAIN if MAIN in rules else rules[0]


def baselines(method: str) -> tuple[str, ...]:
    """What an adaptive method is compared with. Controls share its start rule: else they would measure the rule."""
    return "full_length", "no_diffusion", *EQUAL_COST, *controls(method.removeprefix("flash_"))


def fixed_starts(methods: Iterable[str]) -> list[str]:
    """Those of the methods that start all images at one index, without fresh noise: they differ in the index alone."""
    return [method for method in methods if method.startswith("fixed_") and method != "fixed_fresh"]


def ladder(methods: Iterable[str]) -> list[str]:
    """The fixed starts that a study lists, without the one of equal mean cost."""
    return [method for method in fixed_starts(methods) if method not in EQUAL_COST]
