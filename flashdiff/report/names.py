"""What readers see of methods, solvers and measures: names, colours and markers. Those of a start rule follow from STARTS."""

from collections.abc import Mapping

from flashdiff.measures import Measure
from flashdiff.report.style import GREY, PALETTE
from flashdiff.solvers import SOLVERS
from flashdiff.starts import STARTS

METHODS = {
    "no_diffusion": "no diffusion, D(ẑ)",
    "full_length": "full-length baseline",
    "fixed_mean": "fixed start, equal NFE",
    "fixed_fresh": "fixed start, published noise, equal NFE",
}
"""The methods that have no start rule."""
FEW_STEPS = {
    "adaptive": "Flash, few steps",
    "fixed": "best fixed start and steps",
    "forward": "forward diffusion to one index",
    "shuffled": "others' severities",
    "oracle": "true error known (oracle)",
}
"""The methods of few-step walks; any other is named after its solver."""
PATTERNS = {"flash": "Flash, {start}", "shuffled": "others' severities, {rule}", "random": "random starts, {rule}"}
"""What stands before a rule in a method's name -> the method in words."""
START_LABELS = {"inversion": "DDIM inversion"}
"""Start rules that readers know by another name than "NAME start"."""
COLOURS = {
    "no_diffusion": "0.35",
    "full_length": GREY,
    "fixed_mean": PALETTE[2],
    "fixed_fresh": PALETTE[5],
    "flash": (PALETTE[0], PALETTE[1], PALETTE[3], PALETTE[6]),
    "shuffled": (PALETTE[5], PALETTE[7], PALETTE[6], PALETTE[3]),
    "random": (PALETTE[4], PALETTE[5], PALETTE[6], PALETTE[1]),
}
"""Of a method, or of a kind of methods by the order of their rules, from the start again where they run out."""
MARKERS = ("o", "D", "^", "v", "P", "*")
"""Of adaptive methods, by the order of their rules."""

DISTANCES = {
    "features": {"perceptual": "perceptual distance", "frechet": "Frechet distance"},
    "published": {"perceptual": "LPIPS (VGG)", "frechet": "FID (Inception, {n} images)"},
}
"""What measures a study's distances (``reconstruction.distances``), and what readers call them."""


def pair_columns(item: str) -> dict[str, str]:
    """The columns degradation and solver of a pair, by its name DEGRADATION-SOLVER."""
    return dict(zip(("degradation", "solver"), item.split("-", 1), strict=True))


def distance_names(kind: str, n: int) -> dict[str, str]:
    """{"perceptual", "frechet"}: what readers call the distances of n images that ``kind`` measures."""
    return {name: text.format(n=n) for name, text in DISTANCES[kind].items()}


def measure_label(measure: Measure, distances: Mapping[str, str] = DISTANCES["features"]) -> str:
    """What readers call a measure; distances: what :func:`distance_names` says of the study's."""
    return distances.get(measure.name, measure.label)


def measure_with_unit(measure: Measure, distances: Mapping[str, str] = DISTANCES["features"]) -> str:
    """A measure and, in brackets, its unit: what heads a column or an axis."""
    return measure_label(measure, distances) + (f" ({measure.unit})" if measure.unit else "")


def label(method: str) -> str:
    """A method's name for readers; the ladder of fixed starts has its index in its name."""
    kind, _, rule = method.partition("_")
    if kind in PATTERNS and rule in STARTS:
        return PATTERNS[kind].format(rule=rule, start=START_LABELS.get(rule, f"{rule} start"))
    if method in SOLVERS:
        return f"{solver_label(method)}, few steps"
    return (METHODS | FEW_STEPS).get(method, method.replace("fixed_", "fixed start "))


def colour(method: str) -> str | tuple[float, float, float]:
    """A method's colour in all figures."""
    if method in METHODS:
        return COLOURS[method]
    kind, _, rule = method.partition("_")
    return COLOURS[kind][list(STARTS).index(rule) % len(COLOURS[kind])]


def marker(method: str) -> str:
    """The mark of an adaptive method, or of the full-length baseline."""
    return "X" if method == "full_length" else MARKERS[list(STARTS).index(method.partition("_")[2]) % len(MARKERS)]


def solver_label(name: str) -> str:
    """A solver's name for readers; what a study's name adds to its kind follows: ldps_ddim40 is LDPS (ddim40)."""
    for kind in sorted(SOLVERS, key=len, reverse=True):
        if name == kind or name.startswith(f"{kind}_"):
            added = name.removeprefix(kind).replace("_", " ").strip()
            text = getattr(SOLVERS[kind], "label", SOLVERS[kind].__name__)
            return f"{text} ({added})" if added else text
    return name.replace("_", " ")
