"""The experiments of a study side by side, for a terminal: `make compare`, which `dvc exp show` prints 2,700 characters wide.

python -m flashdiff.study.compare
"""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import PurePosixPath

import pandas as pd

FACTS = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")
"""What :func:`dvc.api.exp_show` says of an experiment beside its parameters, metrics and dependencies."""
CHECKSUM = re.compile(r"[0-9a-f]{32}(\.dir)?")
"""What it says of a dependency."""


def comparison(rows: Sequence[Mapping]) -> pd.DataFrame:
    """One row per parameter or metric that is not the same everywhere, one column per experiment, text; index: its name.

    rows: what :func:`dvc.api.exp_show` returns. Metrics come after parameters and are numbers with four significant digits;
    a metric's file stands before its name, and what an experiment does not have is "-".
    """
    columns = [row["Experiment"] or row["rev"] for row in rows]
    names = dict.fromkeys(name for row in rows for name in row if name not in FACTS)
    told = {name: [_text(row.get(name)) for row in rows] for name in names}
    differing = {
        name: values
        for name, values in told.items()
        if len(set(values)) > 1 and not any(map(CHECKSUM.fullmatch, values))
    }
    ordered = sorted(differing, key=_is_metric)  # stable: else as DVC has them
    return pd.DataFrame.from_dict(
        {_name(name): differing[name] for name in ordered}, orient="index", columns=columns, dtype=str
    )


def _is_metric(name: str) -> bool:
    return ".json:" in name


def _name(name: str) -> str:
    path, found, metric = name.partition(".json:")
    return f"{PurePosixPath(path).name}: {metric}" if found else name


def _text(value) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, Real) and not isinstance(value, bool) else str(value)


def to_text(table: pd.DataFrame, width: int) -> str:
    """The table in lines of at most ``width`` characters: names are cut from the left, columns go into blocks."""
    if table.empty:
        return "Nothing differs: run `dvc exp run -S NAME=VALUE` first."
    longest = max(24, width - 2 - max(len(column) for column in table.columns) - 2)
    short = table.rename(index=lambda name: name if len(name) <= longest else "..." + name[3 - longest :])
    return short.to_string(line_width=width)


def main(arguments: Sequence[str] | None = None) -> None:
    import dvc.api

    parser = argparse.ArgumentParser(prog="python -m flashdiff.study.compare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--commits", type=int, default=1, help="commits whose experiments are shown, from the last one on"
    )
    options = parser.parse_args(arguments)
    print(to_text(comparison(dvc.api.exp_show(num=options.commits)), shutil.get_terminal_size().columns))


if __name__ == "__main__":
    main()
