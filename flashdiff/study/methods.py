"""The methods of a comparison: their names in tables and files, and which of them are held against which."""

from collections.abc import Iterable

STARTS = {"published": "flash_published", "consistent": "flash_consistent"}
"""The start rules that the study makes claims about, and the method that walks with each."""
ADAPTIVE = (*STARTS.values(), "flash_inversion")
CONTROLS = ("shuffled", "random")
"""Negative controls, one per start rule: severities of other images, and starts that know nothing of the image."""

LABELS = {
    "no_diffusion": "no diffusion, D(ẑ)",
    "full_length": "full-length baseline",
    "flash_published": "Flash, published start",
    "flash_consistent": "Flash, consistent start",
    "flash_inversion": "Flash, DDIM inversion",
    "fixed_mean": "fixed start, equal NFE",
    "shuffled_published": "others' severities, published",
    "shuffled_consistent": "others' severities, consistent",
    "random_published": "random starts, published",
    "random_consistent": "random starts, consistent",
}


SOLVERS = {"ldps": "LDPS", "gml_dps": "GML-DPS", "psld": "PSLD", "resample": "ReSample", "latent_daps": "LatentDAPS"}


def solver_label(name: str) -> str:
    """A solver's name for readers; what a study's name adds to its kind follows: ldps_ddim40 is LDPS (ddim40)."""
    for kind in sorted(SOLVERS, key=len, reverse=True):
        if name == kind:
            return SOLVERS[kind]
        if name.startswith(f"{kind}_"):
            return f"{SOLVERS[kind]} ({name.removeprefix(f'{kind}_').replace('_', ' ')})"
    return name.replace("_", " ")


DISTANCES = {
    "features": {"perceptual": "perceptual distance", "frechet": "Frechet distance"},
    "published": {"perceptual": "LPIPS (VGG)", "frechet": "FID (Inception, {n} images)"},
}
"""What measures a study's distances (``reconstruction.distances``), and what readers call them."""


def distance_names(kind: str, n: int) -> dict[str, str]:
    """{"perceptual", "frechet"}: what readers call the distances of n images that ``kind`` measures."""
    return {name: text.format(n=n) for name, text in DISTANCES[kind].items()}


def baselines(method: str) -> tuple[str, ...]:
    """What an adaptive method is compared with. Controls share its start rule: else they would measure the rule."""
    controls = tuple(f"{control}_{start}" for start, m in STARTS.items() if m == method for control in CONTROLS)
    return ("full_length", "no_diffusion", *(("fixed_mean",) if controls else ()), *controls)


def fixed_starts(methods: Iterable[str]) -> list[str]:
    """Those of the methods that start all images at one index."""
    return [method for method in methods if method.startswith("fixed_")]


def label(method: str) -> str:
    """A method's name for readers; the ladder of fixed starts has its index in its name."""
    return LABELS.get(method, method.replace("fixed_", "fixed start "))


def flash_method(rule: str) -> str:
    """The adaptive method that walks with a start rule."""
    return f"flash_{rule}"
