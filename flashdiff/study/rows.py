"""Rows of the records that ship: with the same columns and types in every study, whether it measured something or not."""

from collections.abc import Iterable, Mapping

import pandas as pd


def typed(parts: Iterable[pd.DataFrame], columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows of all parts with these columns (name -> type); of none: no rows, so that every study has the file."""
    parts = [part[[*columns]] for part in parts if len(part)]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*columns])
    return rows.astype(columns)
