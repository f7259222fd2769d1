"""Reconstructions on disk as they finish: memory stays bounded, an interrupted run loses nothing, a rerun continues.

A store is a folder: images.npy (memory-mapped, one row per image), and records-RANK.csv of every process that works on
it, one line per finished image, written after its pixels are on disk. A line ends in a checksum of itself and of these
pixels: one that a kill has cut short does not count, nor one whose bits, or whose image's, are others now.
"""

import contextlib
import io
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashdiff.flash import COUNTS, Result
from flashdiff.sampling import EngineReport, Finished

COLUMNS = ("row", "start", *COUNTS, "sigma_hat")
COST = re.compile(r"^([0-9]+\.[0-9]{6}) ([0-9]+) ([0-9]+)$", re.MULTILINE)
"""A line of cost-RANK.txt: seconds, engine calls, sample steps."""


class Store:
    """Reconstructions of ``n`` images of shape (C, H, W), clipped to [-1, 1], float32, below ``folder``.

    Several processes may write to one store when they work on different rows. ``what`` (anything that JSON can hold)
    says what is stored here; a folder that holds something else, or damaged files, is refused with ValueError. The room
    for all images is taken at once: OSError when the disk has less.
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
        self.images = self._open(path, (n, *image_shape))
        self.log = self.folder / f"records-{rank}.csv"
        self._mend()

    def _claim(self, content: dict) -> None:
        path = self.folder / "store.json"
        if not path.exists():
            part = self._part("store")
            part.write_text(json.dumps(content) + "\n", encoding="utf-8")
            _publish(part, path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise self._damaged(path) from None
        if found != content:
            raise ValueError(
                f"{self.folder}: holds the reconstructions of another run; delete the folder or give another."
            )

    def _open(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        try:
            images = np.lib.format.open_memmap(path, mode="r+")  # one that is cut off gets its length back
            _take_room(path)
        except OSError:
            raise
        except Exception as error:  # a damaged header makes NumPy raise whatever it happens to
            raise self._damaged(path) from error
        if images.shape != shape or images.dtype != np.float32:
            raise self._damaged(path)
        return images

    def _damaged(self, path: Path) -> ValueError:
        return ValueError(f"{path}: damaged; delete the folder {self.folder}, and its reconstructions are made anew.")

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}-{self.rank}.part"

    def _mend(self) -> None:
        """Drop a last line without an end: the kill came while it was written."""
        if self.log.exists():
            os.truncate(self.log, self.log.read_bytes().rfind(b"\n") + 1)

    def records(self) -> pd.DataFrame:
        """What is finished, by all processes: COLUMNS, in the order of rows."""
        logs = (path.read_bytes() for path in sorted(self.folder.glob("records-*.csv")))
        whole = [line for log in logs for line in log.split(b"\n")[:-1]]
        lines = "".join(text.decode() + "\n" for text in map(self._unsealed, whole) if text is not None)
        table = pd.read_csv(io.StringIO(lines), names=list(COLUMNS))
        return table.drop_duplicates("row").sort_values("row", ignore_index=True)

    def _sealed(self, line: str, row: int) -> str:
        return f"{line},{_checksum(line.encode(), self.images[row])}\n"

    def _unsealed(self, line: bytes) -> bytes | None:
        """What was written of an image, None when it or the pixels are not what they were."""
        text, _, checksum = line.rpartition(b",")
        row = text.partition(b",")[0]
        if not (row.isdigit() and int(row) < self.n):
            return None
        return text if checksum.decode(errors="replace") == _checksum(text, self.images[int(row)]) else None

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
                    for line in zip(*columns, strict=True):
                        log.write(self._sealed(",".join(map(repr, map(_plain, line))), int(line[0])))
                    log.flush()
            finally:
                with (self.folder / f"cost-{self.rank}.txt").open("a") as file:
                    file.write(f"{time.perf_counter() - began:.6f} {report.calls} {report.sample_steps}\n")

    def cost(self) -> tuple[float, EngineReport]:
        """Seconds and engine steps of all writing so far, summed over processes and reruns; torn lines do not count."""
        costs = (path.read_text(errors="replace") for path in self.folder.glob("cost-*.txt"))
        lines = [found for text in costs for found in COST.findall(text)]
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


def _take_room(path: Path) -> None:
    """Give a sparse file its blocks: in a mapped file, a disk that is full later ends the process without a word."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:  # which names no file
                raise OSError(error.errno, error.strerror, str(path)) from None


def _checksum(line: bytes, pixels: np.ndarray) -> str:
    return f"{zlib.crc32(pixels.tobytes(), zlib.crc32(line)):08x}"


def _publish(part: Path, path: Path) -> None:
    """Give a finished file its name unless another process was faster: that one's may hold pixels already."""
    with contextlib.suppress(FileExistsError):
        os.link(part, path)
    part.unlink()


def _plain(value: np.generic) -> int | float:
    return value.item()
