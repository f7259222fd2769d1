"""`flashdiff severity`: how hard each image is, as the severity encoder sees it."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashdiff.commands import pictures
from flashdiff.commands.expected_psnr import TABLE, ExpectedPSNR
from flashdiff.commands.pictures import Picture
from flashdiff.commands.strange import Watch
from flashdiff.commands.studies import Place
from flashdiff.messages import say

COLUMNS = ("file", "sigma_hat", "start", "expected_psnr", "expected_psnr_low", "expected_psnr_high", "flagged")
"""flagged: whether the measurement fits worse than nearly all that have this degradation; None where no thresholds were calibrated."""


def severity(paths: Sequence[Path], degradation: str | None, study: str | None, style: str) -> None:
    """Print a row per image to stdout; style: table, json or csv."""
    place, found = Place.find(study), pictures.find(paths)
    folder, words = place.encoder(degradation)
    prior, data = place.prior, place.study.data
    notes = pictures.check(found, data.image_size, data.channels)
    say(f"sigma_hat by {words}.")
    if notes:
        say(notes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
    expected = ExpectedPSNR.of(place.folder / TABLE)
    watch = Watch.of(place, degradation, folder)
    rows = _measure(found, folder, prior, data.image_size, data.channels, expected, watch)
    if watch is not None and (warning := watch.warning([row["flagged"] for row in rows])):
        say(warning)
    {"table": _table, "json": _json, "csv": _csv}[style](rows)


def _measure(
    found: Sequence[Picture],
    encoder: Path,
    prior: Path,
    size: int,
    channels: int,
    expected: ExpectedPSNR | None,
    watch: Watch | None,
) -> list[dict[str, Any]]:
    import numpy as np

    from flashdiff.datasets.splits import to_float
    from flashdiff.prior import Prior
    from flashdiff.severity import SeverityEncoder
    from flashdiff.starts import match_snr

    models, rows = (Prior.from_pretrained(prior), SeverityEncoder.from_pretrained(encoder)), []
    for at in range(0, len(found), 256):
        part = found[at : at + 256]
        y = to_float(pictures.read(part, size, channels))
        said = models[1].infer(y)
        ids = np.array([picture.id for picture in part])
        flags = [None] * len(part) if watch is None else watch.flags(y, said, models[0], ids)
        for picture, sigma, start, flag in zip(
            part, said.sigma_hat.tolist(), match_snr(models[0], said.variance), flags, strict=True
        ):
            psnr = (None, None, None) if expected is None else expected(sigma)
            rows.append(dict(zip(COLUMNS, (picture.name, sigma, int(start), *psnr, flag), strict=True)))
    return rows


def _table(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*("file", "sigma_hat", "start", "expected PSNR of D(z_hat), dB (80 % of images)"), box=None)
    watched = any(row["flagged"] is not None for row in rows)
    if watched:
        table.add_column("flagged")
    for column in table.columns[1:]:
        column.justify = "right"
    for file, sigma, start, mean, low, high, flag in (row.values() for row in rows):
        psnr = "not measured" if mean is None else f"{mean:.1f} ({low:.1f} to {high:.1f})"
        table.add_row(file, f"{sigma:.3f}", str(start), psnr, *(["yes" if flag else ""] if watched else []))
    console = Console()
    # a pipe or a narrow terminal gets whole lines, not cut ones
    console.print(table, width=max(console.width, console.measure(table).maximum), crop=False, soft_wrap=False)


def _json(rows: list[dict]) -> None:
    print(json.dumps(rows, indent=2))


def _csv(rows: list[dict]) -> None:
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
