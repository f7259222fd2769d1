"""`flashdiff severity`: how hard each image is, as the severity encoder sees it."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashdiff.commands import pictures
from flashdiff.commands.expected_psnr import TABLE, ExpectedPSNR
from flashdiff.commands.pictures import Picture
from flashdiff.commands.strange import Watch
from flashdiff.commands.studies import Place
from flashdiff.messages import say
from flashdiff.trust import promises

COLUMNS = (
    "file", "sigma_hat", "start", "expected_psnr", "expected_psnr_low", "expected_psnr_high", "flagged", "psnr_low", "psnr_high",
    "restored_psnr_low", "restored_psnr_high",
)  # fmt: skip
"""flagged: whether the measurement fits worse than nearly all that have this degradation; None where no thresholds were
calibrated. psnr_low and psnr_high: the promised interval of the PSNR of D(z_hat); restored_...: of what `flashdiff restore`
makes of it by itself. Both None where the study has calibrated none for the degradation."""


def severity(paths: Sequence[Path], degradation: str | None, study: str | None, style: str) -> None:
    """Print a row per image to stdout; style: table, json or csv."""
    place, found = Place.find(study), pictures.find(paths)
    folder, words = place.encoder(degradation)
    prior, data = place.prior, place.study.data
    notes = pictures.check(found, data.image_size, data.channels)
    say(f"sigma_hat by {words}.")
    promised = place.promised(degradation, folder)
    if promised is None:
        why = "blind: nobody says what happened to the images" if degradation is None else "none are calibrated for it"
        say(f"No promised intervals of the PSNR ({why}).")
    if notes:
        say(notes)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may be any bytes
    expected = ExpectedPSNR.of(place.folder / TABLE)
    watch = Watch.of(place, degradation, folder)
    rows = _measure(found, folder, prior, data.image_size, data.channels, expected, watch)
    if watch is not None and (warning := watch.warning([row["flagged"] for row in rows])):
        say(warning)
    walk = place.walks(degradation)[1].get(f"{promised['evaluations']:g}") if promised else None
    for row in rows:
        of_walk = promises.of_walk(promised, walk)
        for name, method in (("", promises.NO_DIFFUSION), ("restored_", of_walk)):
            ends = promises.psnr_interval(promised, method, row["sigma_hat"]) or (None, None)
            row |= dict(zip((f"{name}psnr_low", f"{name}psnr_high"), ends, strict=True))
    {"table": _table, "json": _json, "csv": _csv}[style](rows, promised)


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
            rows.append(dict(zip(COLUMNS[:7], (picture.name, sigma, int(start), *psnr, flag), strict=True)))
    return rows


def _table(rows: list[dict], promised: Mapping[str, Any] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    heads = ["file", "sigma_hat", "start"]
    if promised is None:
        heads.append("expected PSNR of D(z_hat), dB (80 % of images)")
    else:
        heads += [
            f"{words}, dB ({promised['coverage']:.0%} of images)"
            for words in ("PSNR of D(z_hat)", f"restored in {promised['evaluations']:g}")
        ]
    watched = any(row["flagged"] is not None for row in rows)
    table = Table(*heads, *(["flagged"] if watched else []), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        cells = [row["file"], f"{row['sigma_hat']:.3f}", str(row["start"])]
        if promised is None:
            mean, low, high = (row[f"expected_psnr{end}"] for end in ("", "_low", "_high"))
            cells.append("not measured" if mean is None else f"{mean:.1f} ({low:.1f} to {high:.1f})")
        else:
            ends = [(row[f"{name}psnr_low"], row[f"{name}psnr_high"]) for name in ("", "restored_")]
            cells += ["not measured" if low is None else f"{low:.1f} to {high:.1f}" for low, high in ends]
        table.add_row(*cells, *(["yes" if row["flagged"] else ""] if watched else []))
    console = Console()
    # a pipe or a narrow terminal gets whole lines, not cut ones
    console.print(table, width=max(console.width, console.measure(table).maximum), crop=False, soft_wrap=False)


def _json(rows: list[dict], promised: Mapping[str, Any] | None) -> None:
    print(json.dumps(rows, indent=2))


def _csv(rows: list[dict], promised: Mapping[str, Any] | None) -> None:
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
