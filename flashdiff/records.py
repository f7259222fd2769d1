"""Small JSON files: what stages hand to one another and to readers."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_json(path: str | Path, content: Mapping) -> None:
    """Write a small JSON file, indented, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """Read a JSON file; raises FileNotFoundError naming the remedy."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not there; run `make study`, whose earlier stage writes it.") from None
