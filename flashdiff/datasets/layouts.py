"""How a data set lies on disk: the layouts by their names in the study file."""

from collections.abc import Callable, Mapping

from flashdiff.datasets.collection import Collection
from flashdiff.datasets.folder import named
from flashdiff.datasets.hugging_face import hugging_face
from flashdiff.datasets.lsun import lsun
from flashdiff.datasets.numbered import numbered

# A further layout is one function (section of the study file, its name) -> Collection, and one line here.
LAYOUTS: dict[str, Callable[[Mapping, str], Collection]] = {
    "folder": named,
    "celebahq": numbered,
    "ffhq": numbered,
    "lsun": lsun,
    "hugging_face": hugging_face,
}


def open_collection(entry: Mapping, field: str) -> Collection:
    """What a section with ``images`` and perhaps ``layout``, ``split`` and ``column`` names.

    field: the section's name, ``data`` or ``data.test_set``. ValueError for an unknown layout, for options of another
    one, and whatever the layout itself misses.
    """
    layout = entry.get("layout") or "folder"
    if layout not in LAYOUTS:
        raise ValueError(f"{field}.layout: {layout!r} is not known; take one of {', '.join(LAYOUTS)}.")
    for option in ("split", "column"):
        if layout != "hugging_face" and entry.get(option) is not None:
            raise ValueError(f"{field}.{option}: {entry[option]!r} plays no part in layout {layout}; remove it.")
    return LAYOUTS[layout](entry, field)
