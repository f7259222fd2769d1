"""What stages hand to one another: per-image rows (parquet), and small JSON files."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd


def write_json(path: str | Path, content: Mapping) -> None:
    """Write a small JSON file, indented, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    """Read a JSON file; FileNotFoundError, or ValueError where it is damaged, with the remedy."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not there; run `make study`, whose earlier stage writes it.") from None
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> ValueError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path}: damaged ({said}); delete it and run `make study`, whose earlier stage writes it anew.")


def significant(value: float) -> float | None:
    """Six significant digits: what a bootstrap of some dozens of images can tell, and stable between runs.

    None for what is no finite number, which JSON has no word for.
    """
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write_rows(rows: pd.DataFrame, path: str | Path, optional: Collection[str] = ()) -> None:
    """Write per-image rows as parquet; refuses NaN, naming the column.

    optional: columns that may be NaN throughout, because they were not measured (:func:`flashdiff.measures.optional`).
    """
    missing = rows.isna()
    not_measured = [column for column in optional if column in rows and missing[column].all()]
    broken = rows.columns[missing.any()].difference(not_measured, sort=False)
    if len(broken):
        raise ValueError(f"{path}: NaN in {', '.join(broken)}; an image or a model is broken, nothing was written.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(path, index=False, write_page_checksum=True)


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to one .npz file, making its folder; equal arrays give equal bytes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def read_rows(path: str | Path, expect: int | None = None) -> pd.DataFrame:
    """Read per-image rows; FileNotFoundError with the remedy, ValueError where they are damaged or not as many as expected."""
    try:
        rows = pd.read_parquet(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: not there; run `make study`, whose earlier stage writes it.") from None
    except PermissionError:
        raise
    except (ValueError, OSError) as error:  # pyarrow's errors are one or the other
        raise _damaged(path, error) from None
    if expect is not None and len(rows) != expect:
        raise ValueError(f"{path}: {len(rows)} rows where {expect} were expected; rerun the stage that writes it.")
    return rows


def read_timings(path: str | Path, timed: bool = True) -> dict[str, dict]:
    """Method -> what it cost in all; without ``timed`` the seconds are NaN, because other work ran beside it."""
    timings = read_json(path)
    return timings if timed else {method: cost | {"seconds": float("nan")} for method, cost in timings.items()}


def to_records(table: pd.DataFrame) -> list[dict]:
    """The rows as dicts for JSON, without the cells that are missing."""
    return [{k: v for k, v in row.items() if not pd.isna(v)} for row in table.to_dict("records")]


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a small table for readers, six significant digits, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6g")
