"""`flashdiff restore`: images from their measurements, some at a time; what is finished stays, a rerun continues."""

import csv
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flashdiff.commands import pictures
from flashdiff.commands.pictures import Picture
from flashdiff.commands.strange import Watch
from flashdiff.commands.studies import NO_PICTURES_OWN, Place, choose
from flashdiff.messages import say
from flashdiff.study.schema import StudyError
from flashdiff.trust import promises

BATCH = 32
"""Images side by side; so many are lost at most by Ctrl-C."""
COLUMNS = (
    "file", "result", "level", "level_from", "sigma_hat", "start", "evaluations", "residual", "psnr_low", "psnr_high", "seconds",
    "settings", "flagged",
)  # fmt: skip
"""Of report.csv. level_from: given, estimated or mask; residual: root mean square of y - A(x; t), in [-1, 1] units, about
the noise's standard deviation where the image explains its measurement; psnr_low, psnr_high: what severity promised of the
result's PSNR in dB, empty where nobody calibrated this walk on this degradation and noise; settings: a digest of all that the result rests on;
flagged: yes or no, whether the measurement fits worse than nearly all that have this degradation, empty where no thresholds were calibrated."""
INPAINTING = ("random_inpainting", "box_inpainting")


@dataclass(frozen=True)
class Request:
    """What is to be done, checked. masks: picture's name -> file, None where none were given."""

    place: Place
    degradation: str
    entry: Mapping[str, Any]
    encoder: Path
    walks: Mapping[str, Any]
    budget: float | None
    level: float | None
    noise_std: float
    masks: Mapping[str, Path] | None
    out: Path
    promised: Mapping[str, Any] | None

    @property
    def promised_walk(self) -> str | None:
        """What the calibrated intervals call the walk that is taken; None where they are of others, or of another noise."""
        if self.promised is None or self.noise_std != self.entry["noise_std"] or not self.walks:
            return None
        from flashdiff.pipeline import EVALUATIONS

        wanted = EVALUATIONS if self.budget is None else self.budget
        taken = min(self.walks, key=lambda tuned: abs(float(tuned) - wanted))
        return promises.of_walk(self.promised, self.walks[taken])

    @cached_property
    def watch(self) -> Watch | None:
        """What its images are held against to tell strangers; None where no thresholds were calibrated for them."""
        return Watch.of(self.place, self.degradation, self.encoder, self.noise_std)

    @property
    def level_from(self) -> str:
        """Where the level comes from: given, estimated, or mask (a file, or read off the measurement)."""
        if self.level is not None:
            return "given"
        read_off = self.entry["kind"] == "random_inpainting"
        return "mask" if self.masks is not None or read_off else "estimated"

    def settings(self, picture: Picture) -> str:
        """Ten digits that change with anything that changes the result: image, mask, models, walk, level, noise."""
        models = [*self.encoder.glob("*.safetensors"), *self.place.prior.rglob("*.safetensors")]
        parts = [
            picture.digest,
            self.masks and Picture(picture.name, self.masks[picture.name]).digest,
            [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(models)],
            [self.entry, dict(self.walks), self.budget, self.level, self.noise_std],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def restore(
    paths: Sequence[Path], degradation: str, out: Path, level: float | None, mask: Path | None, budget: float | None,
    noise_std: float | None, study: str | None,
) -> str:  # fmt: skip
    """Write out/NAME.png of every image, and out/report.csv; returns one line. Ctrl-C keeps what is finished."""
    place = Place.find(study)
    entry = place.entries[choose("degradation", degradation, place.entries)]
    found = pictures.find(paths)
    _check_options(place, degradation, entry, level, mask, budget)
    _check_results(found, out)
    encoder, words = place.encoder(degradation)
    size, channels = place.study.data.image_size, place.study.data.channels
    notes = pictures.check(found, size, channels)
    masks = None if mask is None else pictures.find_masks(found, mask, size)
    pair, walks = place.walks(degradation)
    std = entry["noise_std"] if noise_std is None else noise_std
    promised = place.promised(degradation, encoder)
    request = Request(place, degradation, entry, encoder, walks, budget, level, std, masks, out, promised)
    place.prior  # refuses where there is none  # noqa: B018
    rows = _finished(found, request)
    waiting = [picture for picture in found if picture.name not in rows]
    if rows:
        say(f"{len(rows)} of {len(found)} images are in {out} already, restored with these settings: not done again.")
    if not waiting:
        return f"{len(found)} images in {out}; see {out / 'report.csv'}."
    say(f"Restoring with {words}.")
    if pair is not None and place.study.pairs[pair].degradation != degradation:
        say(f"No walk was tuned for {degradation}; it takes the one of {place.study.pairs[pair].degradation}.")
    if notes:
        say(notes)
    return _run(request, found, waiting, rows, size, channels)


def _check_options(
    place: Place, degradation: str, entry: Mapping, level: float | None, mask: Path | None, budget: float | None
) -> None:
    """All that is wrong with the options, before anything heavy loads; StudyError with a sentence for each."""
    problems, kind = [], entry["kind"]
    if kind in NO_PICTURES_OWN or kind in ("mixture", "encoded_blur"):
        what = NO_PICTURES_OWN.get(kind, "operator")
        known = [name for name, other in place.entries.items() if other["kind"] in (*INPAINTING, *_BLIND)]
        problems.append(
            f"degradation: {degradation} has a {what} of each image's own, which nobody knows of your pictures; "
            f"choose one of {', '.join(known)}."
        )
    if mask is not None and kind not in INPAINTING:
        problems.append(f"mask: plays no part in {degradation}; leave it out.")
    if mask is not None and level is not None:
        problems.append("level: a mask says which pixels are missing; leave out --level or --mask.")
    _, walks = place.walks(degradation)
    if budget is not None and not any(float(tuned) == budget for tuned in walks):
        known = (
            f"choose one of {', '.join(walks)}" if walks else "this study has tuned no walks of few steps; leave it out"
        )
        problems.append(f"budget: {budget:g} evaluations were not tuned for; {known}.")
    if problems:
        raise StudyError("\n".join(problems))


_BLIND = ("gaussian_blur", "super_resolution")
"""Degradations that are known once their level is."""


def _check_results(found: Sequence[Picture], out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise StudyError(f"out: {out} is a file; name a folder.")
    first: dict[str, Picture] = {}
    for picture in found:
        other = first.setdefault(picture.result, picture)
        if other is not picture:
            raise StudyError(
                f"out: {other.path} and {picture.path} would both be written to {out / picture.result}; restore them one "
                "after the other into different folders, or name the folder above both."
            )
        if (out / picture.result).resolve() == picture.path.resolve():
            raise StudyError(f"out: {picture.path} would be overwritten by its own result; name another folder.")


def _finished(found: Sequence[Picture], request: Request) -> dict[str, dict[str, str]]:
    """Name -> row of an earlier report, of the images that it holds with the same settings and whose result is there."""
    report = request.out / "report.csv"
    if not report.is_file():
        return {}
    with open(report, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    return {
        p.name: rows[p.name]
        for p in found
        if p.name in rows and rows[p.name].get("settings") == request.settings(p) and (request.out / p.result).is_file()
    }


def _write_report(out: Path, found: Sequence[Picture], rows: Mapping[str, Mapping]) -> None:
    """report.csv, whole or not at all, in the order of the images."""
    part = out / ".report.csv.part"
    with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # names may be of any bytes
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[picture.name] for picture in found if picture.name in rows)
    part.replace(out / "report.csv")


def _run(
    request: Request,
    found: Sequence[Picture],
    waiting: Sequence[Picture],
    rows: dict[str, Any],
    size: int,
    channels: int,
) -> str:
    from tqdm import tqdm

    out, levels = request.out, []
    out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(waiting), desc="restore", unit="image")
    try:
        flash = _load(request)
        began = time.perf_counter()
        for at in range(0, len(waiting), BATCH):
            part = waiting[at : at + BATCH]
            images, made = _batch(flash, request, part, size, channels)
            for picture, image, row in zip(part, images, made, strict=True):
                pictures.write(image, out / picture.result)
                row["seconds"] = f"{(time.perf_counter() - began) / len(part):.4g}"
                rows[picture.name] = row
                levels.append(float(row["level"]))
            _write_report(out, found, rows)
            bar.update(len(part))
            began = time.perf_counter()
    except KeyboardInterrupt:
        bar.close()
        say(f"Stopped; {len(rows)} of {len(found)} images are finished and kept in {out}; the same command continues.")
        raise
    bar.close()
    _warn(request, [rows[picture.name] for picture in found])
    if request.level_from != "given":
        word = "estimated" if request.level_from == "estimated" else "read off the masks"
        middle = sorted(levels)[len(levels) // 2]
        say(f"Level {word}: {min(levels):.2f} to {max(levels):.2f}, {middle:.2f} in the middle.")
    return f"{len(found)} images in {out}; see {out / 'report.csv'}."


def _warn(request: Request, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say how many images are flagged, where any are."""
    if request.watch is not None and (warning := request.watch.warning([row.get("flagged") == "yes" for row in rows])):
        say(warning)


def _flagged(flash, request: Request, y, severity, ids) -> list[str]:
    """The column flagged of some measurements."""
    if request.watch is None:
        return [""] * len(y)
    return ["yes" if flag else "no" for flag in request.watch.flags(y, severity, flash.prior, ids)]


def _load(request: Request):
    """The Flash that restores; its models are read from disk, and no hub is asked."""
    from diffusers.utils import logging

    from flashdiff.pipeline import FlashPipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place, name = request.place, request.degradation
    entry = None if name in place.study.degradations else dict(request.entry)
    pipe = FlashPipeline.from_study(name, place.folder, encoder=request.encoder, entry=entry)
    pipe.set_progress_bar_config(disable=True)
    return pipe.flash(evaluations=request.budget, batch_size=BATCH)


def _batch(flash, request: Request, part: Sequence[Picture], size: int, channels: int):
    """uint8 images (B, C, H, W) and the rows of the report, of some pictures."""
    import numpy as np
    import torch

    from flashdiff.commands import masks
    from flashdiff.datasets.splits import to_bytes, to_float
    from flashdiff.degradations import Measurement, build
    from flashdiff.trust import blind

    y = to_float(pictures.read(part, size, channels))
    ids = np.array([picture.id for picture in part])
    degradation, _ = build(request.entry)
    if request.level_from == "mask":
        keep = blind.read_off(y, request.noise_std)
        if request.masks is not None:
            keep = masks.read_files(part, request.masks, size)
        t = blind.level_of(keep, *blind.share_of(degradation))
        y, degradation = y * keep, blind.KnownMasks(dict(zip(ids.tolist(), keep, strict=True)))
    severity = flash.encoder.infer(y, BATCH)
    if request.level_from == "given":
        t = torch.full((len(y),), request.level)
    elif request.level_from == "estimated":
        t, _ = blind.estimate_level(y, flash.prior.decode_in_slices(severity.z_hat, BATCH), degradation, ids)
    result = flash(Measurement(y, degradation, t, request.noise_std, ids, tuple(y.shape[1:])), severity)
    residual = (y - degradation.A(result.images, t, ids)).square().flatten(1).mean(1).sqrt()
    ends = [
        promises.psnr_interval(request.promised, request.promised_walk, sigma) or ("", "")
        for sigma in severity.sigma_hat.tolist()
    ]
    columns = zip(part, t, severity.sigma_hat, result.start, result.nfe, residual, ends, strict=True)
    rows = [
        {
            "file": picture.name,
            "result": picture.result,
            "level": f"{float(level):.4f}",
            "level_from": request.level_from,
            "sigma_hat": f"{float(sigma):.4f}",
            "start": int(start),
            "evaluations": int(evaluations),
            "residual": f"{float(left):.4f}",
            "psnr_low": f"{low:.4g}" if low != "" else "",
            "psnr_high": f"{high:.4g}" if high != "" else "",
            "settings": request.settings(picture),
        }
        for picture, level, sigma, start, evaluations, left, (low, high) in columns
    ]
    for row, flag in zip(rows, _flagged(flash, request, y, severity, ids), strict=True):
        row["flagged"] = flag
    return to_bytes(result.images), rows
