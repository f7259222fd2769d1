"""A learning curve that can be watched as it grows: DVCLive's files, read by `dvc plots show` and the editors that know it."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from flashdiff.messages import say

Add = Callable[[Mapping[str, float]], None]


@contextlib.contextmanager
def live_curve(folder: str | os.PathLike | None, history: Sequence[Mapping[str, float]]) -> Iterator[Add]:
    """A function that adds a row (step, and metrics by name) to the DVCLive log in ``folder``.

    The log starts with ``history``, the rows of a resumed run: whatever the folder held before is replaced, because rows
    that were logged after the last checkpoint come again. No experiment is saved and no dvc.yaml written: the stage that
    trains has its own outputs. Without a folder, or without the library (one sentence says so), rows go nowhere.
    """
    library = None if folder is None else _dvclive()
    if library is None:
        yield lambda row: None
        return
    with library.Live(dir=os.fspath(folder), save_dvc_exp=False, dvcyaml=None) as log:

        def add(row: Mapping[str, float]) -> None:
            log.step = row["step"]
            for name, value in row.items():
                if name != "step":
                    log.log_metric(name, value)
            log.next_step()

        for row in history:
            add(row)
        yield add


@functools.cache  # so that the sentence comes once
def _dvclive():
    try:
        import dvclive
    except ImportError:
        say(
            "dvclive is not installed: the learning curve comes as CSV at the end; `pip install 'flashdiff[live]'` shows it as it grows."
        )
        return None
    return dvclive
