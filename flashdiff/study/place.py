"""Where a notebook works: in the study's folder, and where its outputs go. Light, and all that a notebook needs of the runner."""

import os
from pathlib import Path

STAGE = "FLASHDIFF_STAGE"
"""Set in the environment of a notebook that runs as a stage; without it a person runs it by hand."""
BY_HAND = Path(".build/by_hand")


def enter_study() -> Path:
    """Make the study's folder the working directory and return the folder, relative to it, that outputs go to.

    A stage's outputs go to the study's folder itself. By hand they go to .build/by_hand, and a sentence says so: nothing
    below data/ or reports/ changes. JupyterLab starts a kernel beside its notebook, so the default study's folder is
    looked for above; FLASHDIFF_STUDY names another one (a folder with a params.yaml). Raises FileNotFoundError.
    """
    named = os.environ.get("FLASHDIFF_STUDY")
    candidates = [Path(named)] if named else [Path.cwd(), *Path.cwd().parents]
    for folder in candidates:
        if (folder / "params.yaml").is_file():
            os.chdir(folder)
            return _outputs()
    raise FileNotFoundError(
        f"params.yaml: not found in {' or '.join(map(str, candidates[:3]))}; open the notebook inside the repository."
    )


def _outputs() -> Path:
    if STAGE in os.environ:
        return Path()
    print(f"Run by hand: outputs go to {BY_HAND} in {Path.cwd()}; nothing below data/ or reports/ changes.")
    return BY_HAND
