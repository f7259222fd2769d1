"""The page's templates: all prose of the report is in them, and Python hands them numbers."""

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace

from jinja2 import Environment, PackageLoader, StrictUndefined

from flashdiff.measures import MEASURES
from flashdiff.report import claims, headline
from flashdiff.report.names import solver_label

TEMPLATES = (
    "report.html.j2",
    "opening.html.j2",
    "sentences.html.j2",
    "claims.html.j2",
    "section.html.j2",
    "words.html.j2",
    "trust.html.j2",
    "made.html.j2",
    "notebook.html.j2",
    "captions.j2",
    "macros.html.j2",
    "report.css",
)
"""All of them: a stage depends on the templates that its code names, and the first includes the others."""


def number(value: float | None, form: str) -> str:
    """A number in a format, or "(not measured)"."""
    return "(not measured)" if value is None else format(value, form)


def signed(record: Mapping) -> str:
    """A record's value without its interval, a gain with its plus."""
    return ("+" if record["value"] > 0 else "") + headline.describe({**record, "low": None})


def bracket(record: Mapping) -> str:
    """A record's interval, or "" without one."""
    text = headline.describe(record)
    return text[text.index("[") :] if "[" in text else ""


def times(value: float) -> str:
    """A ratio without decimals that nobody needs."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}".removesuffix(".0")


@cache
def _environment() -> Environment:
    """Strict: a name that a template misspells is an error and no gap in the page."""
    found = Environment(
        loader=PackageLoader("flashdiff.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.globals["main_measure"] = next(iter(MEASURES.values()))
    found.globals["len"] = len
    found.filters |= {
        "described": headline.describe,
        "claimed": headline.label,
        "in_words": claims.in_words,
        "measured_in": headline.measured_in,
        "number": number,
        "signed": signed,
        "bracket": bracket,
        "sign": lambda record: "ahead" if record["low"] > 0 else "behind" if record["high"] < 0 else "level",
        "times": times,
        "solver": solver_label,
        "words": lambda name: name.replace("_", " "),
        "title_of": lambda name: name.replace("_", " ").capitalize(),
    }
    return found


def render(template: str, **values: object) -> str:
    """The text of a template of :data:`TEMPLATES` with its values."""
    return _environment().get_template(template).render(**values)


def module(template: str) -> SimpleNamespace:
    """What a template sets at its top: its macros, and its dictionaries of texts."""
    return _environment().get_template(template).module


def source(template: str) -> str:
    """The text of a template as it is written."""
    return _environment().loader.get_source(_environment(), template)[0]
