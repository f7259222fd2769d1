"""Reconstructions on disk as they finish: memory stays bounded, an interrupted run loses nothing, a rerun continues.

A store is a folder: images.npy (memory-mapped, one row per image), and records-RANK.csv of every process that works on
it, one line per finished image, written after its pixels are on disk. A line that a kill has cut short does not count.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashdiff.flash import COUNTS, Result
from flashdiff.sampling import EngineReport, Finished

COLUMNS = ("row", "start", *COUNTS, "sigma_hat")


class Store:
    """Reconstructions of ``n`` images of shape (C, H, W), clipped to [-1, 1], float32, below ``folder``.

    Several processes may write to one store when they work on different rows. ``what`` (anything that JSON can hold)
    says what is stored here; a folder that holds something else is refused with ValueError.
    """

    def __init__(
        self, folder: str | Path, n: int, image_shape: tuple[int, ...], what: Mapping | None = None, rank: int = 0
    ):
        self.folder, self.n, self.rank = Path(folder), n, rank
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim({"n": n, "image_shape": list(image_shape), "columns": list(COLUMNS), "what": dict(what or {})})
        path = self.folder / "images.npy"
        if not path.exists():
            blank = self._part("images")
            np.lib.format.open_memmap(blank, mode="w+", dtype=np.float32, shape=(n, *image_shape)).flush()
            _publish(blank, path)
        self.images = np.lib.format.open_memmap(path, mode="r+")
        self.log = self.folder / f"records-{rank}.csv"
        self._mend()

    def _claim(self, content: dict) -> None:
        path = self.folder / "store.json"
        if not path.exists():
            part = self._part("store")
            part.write_text(json.dumps(content) + "\n", encoding="utf-8")
            _publish(part, path)
        if json.loads(path.read_text(encoding="utf-8")) != content:
            raise ValueError(
                f"{self.folder}: holds the reconstructions of another run; delete the folder or give another."
            )

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}-{self.rank}.part"

    def _mend(self) -> None:
        """Drop a last line without an end: the kill came while it was written."""
        if self.log.exists():
            text = self.log.read_bytes()
            self.log.write_bytes(text[: text.rfind(b"\n") + 1])

    def records(self) -> pd.DataFrame:
        """What is finished, by all processes: COLUMNS, in the order of rows."""
        lines = "".join(
            line for path in sorted(self.folder.glob("records-*.csv")) for line in path.read_text().splitlines(True)
            if line.endswith("\n")
        )  # fmt: skip
        table = pd.read_csv(io.StringIO(lines), names=list(COLUMNS))
        return table.drop_duplicates("row").sort_values("row", ignore_index=True)

    def missing(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows, of all or of those given, that are not finished yet."""
        rows = np.arange(self.n) if rows is None else np.asarray(rows)
        return rows[~np.isin(rows, self.records().row)]

    def write(self, finished: Iterable[Finished], rows: np.ndarray, report: EngineReport | None = None) -> None:
        """Write samples as they come; ``rows`` (k,) says which row of the store the stream's k-th sample is.

        ``report`` is the one that the stream fills. Whatever ends the stream, Ctrl-C included, what was finished stays.
        """
        began, report = time.perf_counter(), report or EngineReport()
        with self.log.open("a", encoding="utf-8") as log:
            try:
                for done in finished:
                    at = rows[done.rows]
                    self.images[at] = done.images.clamp(-1, 1).float().numpy()
                    self.images.flush()
                    costs = [getattr(done, name) for name in COUNTS.values()]
                    columns = (at, done.start, *costs, done.sigma_hat)
                    log.writelines(",".join(map(repr, map(_plain, line))) + "\n" for line in zip(*columns, strict=True))
                    log.flush()
            finally:
                with (self.folder / f"cost-{self.rank}.txt").open("a") as file:
                    file.write(f"{time.perf_counter() - began:.6f} {report.calls} {report.sample_steps}\n")

    def cost(self) -> tuple[float, EngineReport]:
        """Seconds and engine steps of all writing so far, summed over processes and reruns."""
        lines = [line.split() for path in self.folder.glob("cost-*.txt") for line in path.read_text().splitlines()]
        engine = EngineReport(sum(int(line[1]) for line in lines), sum(int(line[2]) for line in lines))
        return sum(float(line[0]) for line in lines), engine

    def result(self) -> Result:
        """All reconstructions in memory; raises ValueError when some are missing."""
        missing = self.missing()
        if len(missing):
            raise ValueError(
                f"{self.folder}: {len(missing)} of {self.n} images are missing, the first is row {missing[0]}; "
                "run the reconstruction again, it continues there."
            )
        table = self.records()
        columns = {name: torch.tensor(table[name].to_numpy()) for name in COLUMNS[1:]}
        sigma_hat = columns.pop("sigma_hat").float()
        images = torch.from_numpy(np.array(self.images))
        seconds, engine = self.cost()
        return Result(images, sigma_hat, **columns, seconds=seconds, engine=engine)


def _publish(part: Path, path: Path) -> None:
    """Give a finished file its name unless another process was faster: that one's may hold pixels already."""
    with contextlib.suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _plain(value: np.generic) -> int | float:
    return value.item()
