"""Which few-step walks a study has tuned for a degradation. Loads no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashdiff.study.schema import Study


def few_step_walks(folder: Path, study: Study, degradation: str) -> tuple[str | None, dict[str, Mapping[str, Any]]]:
    """(pair, mean evaluations as text -> walk), of the degradation's first pair whose record is in ``folder``/data/tuned.

    A walk is what :func:`flashdiff.study.tuned.few_step_of` takes: the adaptive one with the best perceptual distance. A
    degradation that is in no pair takes the walks of the study's first pair. (None, {}) where none were tuned.
    """
    own = [name for name, pair in study.pairs.items() if pair.degradation == degradation]
    for pair in own or [*study.pairs][:1]:
        record = folder / f"data/tuned/budgets-{pair}.json"
        if record.is_file():
            chosen = json.loads(record.read_text(encoding="utf-8"))["chosen"]
            return pair, {budget: methods["adaptive"]["perceptual"] for budget, methods in chosen.items()}
    return None, {}
