"""Measurements of another kind than an encoder knows: what tells them apart, and what is lost where nobody does; rows per image."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import Tensor

from flashdiff.batch import slice_size
from flashdiff.datasets.splits import Split, split_ids, to_float
from flashdiff.degradations import Degradation, Measurement, build, measure
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.severity import Severity, SeverityEncoder, latent_error_variance
from flashdiff.study.budgets import few_step
from flashdiff.study.comparison import Bench
from flashdiff.study.experiments import uniform_levels
from flashdiff.study.robustness import CURVE, training_sections
from flashdiff.study.rows import typed
from flashdiff.training.severity import train_severity_encoder
from flashdiff.trust.blind import fit
from flashdiff.trust.shift import NONE, reference

CHECKPOINT = ".build/shift/{pair}/encoder.ckpt"
"""Where the trainings of a pair stand, below the study's folder, until their stage has saved its record."""
COLUMNS = {
    "encoder": "str", "shift": "str", "split": "str", "method": "str", "image": "int32", "t": "float32",
    "level": "float32", "sigma_hat": "float32", "sbar": "float32", "misfit": "float32", "psnr": "float32", "nfe": "int32",
}  # fmt: skip
"""The record's columns and their types. encoder: whose reference counts; shift: none, or what is not as it was trained; method: none
(D(z_hat) alone, of every image) or a walk of WALKS; level: the one that was found; misfit: in units of the assumed noise,
of [-1, 1] where there is none."""
WALKS = ("ignored", "told", "fallback")
"""What becomes of a shifted image: as `flashdiff restore` has it, which knows of no shift; with all that is true of it; and the
longer walk that one would fall back to, as ignorant as the first."""


@dataclass(frozen=True)
class Case:
    """Test images of one shift: x (n, C, H, W) and their ids, what truly happens to them, and who would know."""

    shift: str
    x: Tensor
    ids: np.ndarray
    operator: Degradation
    noise_std: float
    encoder: SeverityEncoder
    knows: SeverityEncoder


def record(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all parts with the columns and types of COLUMNS; of none: no rows, so that every study has the file."""
    return typed(parts, COLUMNS)


def signals(
    prior: Prior, encoder: SeverityEncoder, measurement: Measurement, x: Tensor, assumed: Degradation
) -> tuple[Severity, Measurement, dict[str, np.ndarray]]:
    """What can be seen of measurements without knowing what happened to them: the encoder's answer, the measurement as it would
    be restored, with the level (or mask) that is found for the ``assumed`` degradation, and the columns level, sigma_hat and
    misfit; and of the truth x (n, C, H, W) sbar and psnr, of D(z_hat)."""
    severity = encoder.infer(measurement.y).to("cpu")
    decoded = prior.decode_in_slices(severity.z_hat, slice_size(x)).to(x)
    found = fit(measurement.y, decoded, assumed, measurement.noise_std, measurement.ids)
    taken = replace(measurement, degradation=found.degradation, t=found.t)
    columns = {
        "level": found.t,
        "sigma_hat": severity.sigma_hat,
        "sbar": latent_error_variance(severity.z_hat, prior.encode_in_slices(x)).sqrt(),
        "misfit": found.misfit / (measurement.noise_std or 1.0),
        "psnr": psnr(decoded, x),
    }
    return severity, taken, {name: np.asarray(column, dtype=float) for name, column in columns.items()}


def reference_rows(
    prior: Prior, encoder: SeverityEncoder, name: str, x: Tensor, ids: np.ndarray, bench: Bench
) -> pd.DataFrame:
    """The signals of images of the right kind, of validation: what p-values are held against. Rows of COLUMNS."""
    assumed, noise_std = bench.measurement.degradation, bench.measurement.noise_std
    t = uniform_levels(ids, bench.seed, x)
    measurement = measure(x, assumed, t, noise_std, seed=bench.seed, ids=ids)
    _, _, columns = signals(prior, encoder, measurement, x, assumed)
    head = {
        "encoder": name,
        "shift": NONE,
        "split": "validation",
        "method": NONE,
        "image": np.arange(len(x)),
        "t": np.asarray(t),
    }
    return record([pd.DataFrame(head | columns | {"nfe": 0})])


def case_rows(bench: Bench, name: str, case: Case, choice: Mapping, longer: Mapping, walked: int) -> pd.DataFrame:
    """A case's signals, and of its first ``walked`` images what each of WALKS reaches: rows of COLUMNS.

    choice, longer: few-step settings; ``bench`` says what encoder and solver assume.
    """
    assumed = bench.measurement
    t = uniform_levels(case.ids, bench.seed, case.x)
    true = measure(case.x, case.operator, t, case.noise_std, seed=bench.seed, ids=case.ids)
    told = replace(true, noise_std=assumed.noise_std)
    severity, taken, columns = signals(bench.prior, case.encoder, told, case.x, assumed.degradation)
    head = {"encoder": name, "shift": case.shift, "split": "test", "image": np.arange(len(case.x)), "t": np.asarray(t)}
    frame = pd.DataFrame(head | columns | {"method": NONE, "nfe": 0})
    if not walked:
        return record([frame])
    rows, part = [frame], slice(walked)
    own = severity._replace(z_hat=severity.z_hat[part], variance=severity.variance[part])
    known = case.knows.infer(true.y[part]).to("cpu")
    runs = {
        "ignored": (choice, taken.select(part), own, case.encoder),
        "told": (choice, true.select(part), known, case.knows),
        "fallback": (longer, taken.select(part), own, case.encoder),
    }
    for method, (setting, measurement, said, encoder) in runs.items():
        run = few_step(replace(bench, encoder=encoder), setting)
        result = run(measurement, said, title=f"{case.shift} {method}")
        quality = np.asarray(psnr(result.images, case.x[part]), dtype=float)
        rows.append(frame[:walked].assign(method=method, psnr=quality, nfe=np.asarray(result.nfe)))
    return record(rows)


def fallback(choice: Mapping, shift: Mapping) -> dict:
    """The few-step setting that one would fall back to: ``choice`` with ``shift.fallback_steps`` steps, all images from
    ``shift.fallback_index`` with fresh noise, whatever an encoder says that may be mistaken."""
    walk = {"kind": "evenly_spaced", "steps": shift["fallback_steps"]}
    return {
        "solver": {**choice["solver"], "walk": walk},
        "start": {"rule": "fixed", "index": shift["fallback_index"], "fresh": 1.0},
    }


def cases(
    bench: Bench, knows: SeverityEncoder, noise: Iterable[float], operators: Mapping[str, Mapping]
) -> Iterator[Case]:
    """The unshifted images of the bench, and every shift of noise and operator on the same images.

    noise: true noise over the assumed one, of which the encoder knows every strength and the solver is told; operators: shift ->
    study entry; ``knows``: an encoder that was trained
    on these; a degradation of the own kind is known to the own encoder better.
    """
    assumed = bench.measurement
    shared = bench.truth, assumed.ids
    own = bench.encoder
    yield Case(NONE, *shared, assumed.degradation, assumed.noise_std, own, own)
    for ratio in noise:
        yield Case(f"noise x {ratio:g}", *shared, assumed.degradation, ratio * assumed.noise_std, own, own)
    for shift, entry in operators.items():
        operator, noise_std = build(entry)
        told = own if type(operator) is type(assumed.degradation) else knows
        yield Case(shift, *shared, operator, noise_std, own, told)


def shift_rows(
    bench: Bench, knows: SeverityEncoder, validation: Split, shift: Mapping, choice: Mapping, longer: Mapping,
    operators: Mapping[str, Mapping],
) -> pd.DataFrame:  # fmt: skip
    """The study's own encoder on shifts of noise and operator, and the references of it and of the one that trainings start from
    ("shipped"): rows of COLUMNS."""
    x = to_float(validation[np.arange(shift["validation"])])
    ids = split_ids("validation", len(x))
    parts = [
        reference_rows(bench.prior, encoder, name, x, ids, bench)
        for name, encoder in (("own", bench.encoder), ("shipped", knows))
    ]
    for case in cases(bench, knows, shift["noise"], operators):
        parts.append(case_rows(bench, "own", case, choice, longer, shift["walked"]))
    return record(parts)


def unseen_rows(
    bench: Bench, train: Split, validation: Split, test: Split, severity: Mapping, robustness: Mapping, shift: Mapping,
    choice: Mapping, longer: Mapping, checkpoint: str | os.PathLike,
) -> pd.DataFrame:  # fmt: skip
    """An encoder that was trained without the classes ``robustness.unseen``, on images of the others and of these: rows of COLUMNS.

    Its reference are validation images of the other classes; who knows is the same training on all classes. Trained as
    :func:`flashdiff.study.robustness.training_sections` says. No rows without ``shift.unseen``, or where no class is left out.
    """
    unseen = robustness["unseen"] if shift["unseen"] else []
    if not unseen:
        return record([])
    operator, noise_std, made = bench.measurement.degradation, bench.measurement.noise_std, {}
    for (_, variant), section in training_sections(severity, {**robustness, "lambda_sigma": []}).items():
        images = train.images[~np.isin(train.labels, unseen)] if variant == "without" else train.images
        arguments = (operator, noise_std, images, validation.images[:CURVE], section, bench.seed, checkpoint)
        made[variant], _ = train_severity_encoder(bench.prior, *arguments)
        made[variant].to(bench.encoder.device)
    kept = np.flatnonzero(~np.isin(validation.labels[: shift["validation"]], unseen))
    x = to_float(validation[kept])
    ids = split_ids("validation", shift["validation"])[kept]
    parts = [reference_rows(bench.prior, made["without"], "without", x, ids, bench)]
    for name, of_group in (
        ("seen classes", ~np.isin(test.labels, unseen)),
        ("unseen classes", np.isin(test.labels, unseen)),
    ):
        rows = np.flatnonzero(of_group)[: shift["n_images"]]
        ids = split_ids("test", len(test.labels))[rows]
        case = Case(name, to_float(test[rows]), ids, operator, noise_std, made["without"], made["all"])
        walked = shift["walked"] if name == "unseen classes" else 0
        parts.append(case_rows(bench, "without", case, choice, longer, walked))
    return record(parts)


def thresholds(rows: pd.DataFrame, degradation: str, noise_std: float, bins: int, alarm: float) -> dict:
    """The small table that `flashdiff severity` and `flashdiff restore` warn by, per encoder; no rows: no encoders."""
    names = [name for name in ("own", "shipped") if (rows.encoder == name).any()]
    encoders = {name: reference(rows, name, bins).thresholds(alarm).to_dict() for name in names}
    return {"degradation": degradation, "noise_std": noise_std, "encoders": encoders}
