"""Faults in a tiny study: which stage, which fault, what happened, and whether a rerun gives the undisturbed run's bytes.

Images that a rerun walks in another company than before differ by rounding, as with another batch size: this is said, and
bounded by ROUNDING. All else is compared to the last byte.
"""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import numpy as np
import pandas as pd
from injection import (
    AtWrite,
    Fault,
    FileLimit,
    FullAtWrite,
    FullDisk,
    KillAtWrite,
    ReadOnly,
    Signal,
    StageOfStudy,
    content,
    damaged,
    left_behind,
    put_back,
    remove,
    run_cells,
    stages_of,
)
from ruamel.yaml import YAML

COMPUTING = (
    "download", "prior", "train_severity", "measure_severity", "tune", "baseline", "reconstruct", "tune_budgets", "walk_budgets",
    "other_seeds", "examples", "ablate", "robustness", "confidence", "spread", "calibrated", "allocation", "frechet",
    "shift", "blind",
)  # fmt: skip
"""The stages that compute or train, in an order in which they can run; the others draw what these left."""
DRAWING = (
    "show_prior", "order", "correlate", "compare", "speedup", "frontier", "show_examples", "show_ablation", "show_robustness",
    "show_confidence", "show_spread", "show_calibrated", "show_allocation", "show_shift", "show_blind", "report",
)  # fmt: skip
STAGES = (*COMPUTING, *DRAWING)
DEGRADATION, SOLVER = "gaussian_blur", "ldps"
ROOT = Path(__file__).parents[2]
RERUNS = ("seconds", "engine_calls", "engine")
"""What of a record says how it was computed: seconds, and batches, which a rerun fills differently."""
ROUNDING = 1e-3
"""Largest difference of a value that walked in another batch, relative to 1 + its size."""
NAMED = re.compile(r"(?:data|reports|\.build)/[^\s:;,()]*[^\s:;,().]")
"""The path in a sentence that refuses a file."""


@dataclass
class Trial:
    """A chain of faults in one stage, and what became of it: "equal", "refused" (and equal once its remedy was followed),
    or what is wrong."""

    stage: str
    faults: list[str]
    said: list[str] = field(default_factory=list)
    verdict: str = ""
    ok: bool = False


@dataclass
class Undisturbed:
    """A study's folder in which everything has run, and of every stage its bytes, CPU seconds and number of writes."""

    folder: Path
    stages: dict[str, StageOfStudy]
    outs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)

    def measure(self, stage: StageOfStudy) -> None:
        """Run a stage's cells without a fault, twice: what they write, how long they take, and that equal runs are equal."""
        for again in (False, True):
            clear(self, stage)
            outcome = run_cells(self.folder, stage, AtWrite(0))
            assert outcome.finished, f"{stage.name}: {outcome.said}"
            if again:
                assert (wrong := differences(self, stage)) == [], f"{stage.name}: {wrong}"
            self.outs[stage.name] = content(self.folder, results(stage))
        self.seconds[stage.name], self.writes[stage.name] = outcome.seconds, int(outcome.said)


def tiny_study(folder: Path) -> Undisturbed:
    """A study of one degradation and one solver on 64 images of 16 x 16 pixels, in which nothing has run yet.

    folder: takes the place of the repository; the study lies in studies/faults.
    """
    for name in ("notebooks", "tests/data/images"):
        shutil.copytree(ROOT / name, folder / name)
    place = folder / "studies/faults"
    place.mkdir(parents=True)
    (place / ".build").mkdir()
    study = YAML(typ="safe").load((ROOT / "studies/smoke/params.yaml").read_text())
    study["study"] = "faults"
    study["degradations"] = {DEGRADATION: study["degradations"][DEGRADATION]}
    study["pairs"] = {f"{DEGRADATION}-{SOLVER}": {"degradation": DEGRADATION, "solver": SOLVER}}
    with (place / "params.yaml").open("w") as file:
        YAML().dump(study, file)
    stages = stages_of(ROOT / "dvc.yaml", DEGRADATION, SOLVER, study["prior"]["kind"], study["data"]["name"])
    return Undisturbed(place, {name: stages[name] for name in STAGES})


def results(stage: StageOfStudy) -> tuple[str, ...]:
    """What a stage's cells write; its executed notebook is the command's."""
    return tuple(out for out in stage.outs if not out.startswith("reports/notebooks"))


def clear(whole: Undisturbed, stage: StageOfStudy) -> None:
    """The study as it is just before a stage runs for the first time."""
    remove(whole.folder, results(stage))
    for left in list(left_behind(whole.folder)):
        remove(whole.folder, (str(left),))
    kept = (
        "features",
        "prior",
        "severity",
        "seeds",
        "ablation",
        "robustness",
        "reconstruct",
        "baseline",
        "budgets",
        "confidence",
        "shift",
    )
    for name in kept:
        shutil.rmtree(whole.folder / ".build" / name, ignore_errors=True)


def differences(whole: Undisturbed, stage: StageOfStudy) -> list[str]:
    """What of a stage's results is another than in the undisturbed run, and what it left lying about."""
    found, expected = content(whole.folder, results(stage)), whole.outs[stage.name]
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"{name} is new" for name in sorted(found.keys() - expected.keys())]
    both = sorted(found.keys() & expected.keys())
    wrong += [f"{name} differs" for name in both if not same(name, found[name], expected[name])]
    return wrong + [f"{path} is left" for path in left_behind(whole.folder)]


def how_equal(whole: Undisturbed, stage: StageOfStudy) -> str:
    """ "equal", or "equal up to rounding", for results without :func:`differences`."""
    found = content(whole.folder, results(stage))
    for name, data in whole.outs[stage.name].items():
        if found[name] != data and (rounding(name, found[name], data) or 0) > 0:
            return "equal up to rounding"
    return "equal"


def same(name: str, one: bytes, other: bytes) -> bool:
    """Whether two results are equal to the last byte, apart from how long they took and in which batches."""
    if one == other:
        return True
    if name.endswith(".json") and "timings" in name:
        return _untimed(json.loads(one)) == _untimed(json.loads(other))
    if name.startswith("data/baseline/"):
        ours, theirs = (dict(np.load(io.BytesIO(data))) for data in (one, other))
        return close({key: ours[key] for key in ours if key not in RERUNS}, theirs) is not None
    return name.startswith("data/") and rounding(name, one, other) is not None


def rounding(name: str, one: bytes, other: bytes) -> float | None:
    """The largest relative difference of two results; None where more than rounding differs."""
    if name.endswith(".npz"):
        return close(*(dict(np.load(io.BytesIO(data))) for data in (one, other)))
    if name.endswith(".parquet"):
        return close(*(dict(pd.read_parquet(io.BytesIO(data)).items()) for data in (one, other)))
    return None


def close(ours: dict, theirs: dict) -> float | None:
    """As :func:`rounding`, of columns or arrays by name: floats within ROUNDING, everything else equal."""
    if not ours.keys() <= theirs.keys():
        return None
    largest = 0.0
    for key, value in ours.items():
        one, other = np.asarray(value), np.asarray(theirs[key])
        if one.shape != other.shape or one.dtype != other.dtype:
            return None
        if one.dtype.kind != "f":
            if not np.array_equal(one, other):
                return None
        elif one.size and not np.array_equal(one, other, equal_nan=True):
            largest = max(largest, float(np.nanmax(np.abs(one - other) / (1 + np.abs(other)))))
    return largest if largest <= ROUNDING else None


def _untimed(entry):
    if isinstance(entry, dict):
        return {name: _untimed(value) for name, value in entry.items() if name not in RERUNS}
    return entry


Draw = Callable[[np.random.Generator, Undisturbed, StageOfStudy], Fault]


def _moment(number) -> Draw:
    def draw(rng, whole, stage):
        return Signal(number, float(rng.uniform(0, whole.seconds[stage.name])))

    return draw


def _write(kind) -> Draw:
    def draw(rng, whole, stage):
        return kind(int(rng.integers(1, whole.writes[stage.name] + 1)))

    return draw


def _size(kind) -> Draw:
    def draw(rng, whole, stage):
        largest = max(map(len, whole.outs[stage.name].values()))
        return kind(int(rng.uniform(0, largest)))

    return draw


def _closed(rng, whole, stage) -> ReadOnly:
    return ReadOnly(str(rng.choice(["data", "data/results", ".build", "reports", "."])))


FAULTS: dict[str, Draw] = {
    "kill -9 at a moment": _moment(SIGKILL),
    "kill -9 at a write": _write(KillAtWrite),
    "Ctrl-C at a moment": _moment(SIGINT),
    "SIGTERM at a moment": _moment(SIGTERM),
    "disk full": _size(FullDisk),
    "disk full at a write": _write(FullAtWrite),
    "no file beyond a size": _size(FileLimit),
    "read-only folder": _closed,
}
DAMAGE = ("empty", "cut off", "another bit")


def chain(whole: Undisturbed, stage: StageOfStudy, kinds: list[str], rng: np.random.Generator) -> Trial:
    """Faults one after another in a stage, each on what the one before left; then an undisturbed rerun.

    A kind of DAMAGE spoils a file that the runs before have left, of their results or of what they kept to go on from. In the
    end the undisturbed results lie there again, so that later stages read what they read then, seconds included.
    """
    trial = _chain(whole, stage, kinds, rng)
    clear(whole, stage)
    put_back(whole.folder, whole.outs[stage.name])
    return trial


def _chain(whole: Undisturbed, stage: StageOfStudy, kinds: list[str], rng: np.random.Generator) -> Trial:
    trial = Trial(stage.name, [])
    clear(whole, stage)
    for kind in kinds:
        if kind in DAMAGE:
            paths = sorted({*content(whole.folder, results(stage)), *map(str, left_behind(whole.folder))})
            if not paths:
                continue
            path = whole.folder / str(rng.choice(paths))
            path.write_bytes(damaged(path.read_bytes(), kind, float(rng.uniform())))
            trial.faults.append(kind)
            trial.said.append(f"{kind}: {path.relative_to(whole.folder)}")
            continue
        outcome = run_cells(whole.folder, stage, FAULTS[kind](rng, whole, stage))
        if outcome.finished:  # the fault came too late, or did no harm: then the result has to be right
            wrong = [
                what for what in differences(whole, stage) if not what.endswith(" is left")
            ]  # a later run removes it
            if wrong:
                trial.verdict = f"finished under {kind} with {wrong[0]}"
                trial.faults.append(kind)
                return trial
            continue
        trial.faults.append(kind)
        trial.said.append(f"{kind}: {outcome.status} {outcome.said}")
    return rerun(whole, stage, trial)


def rerun(whole: Undisturbed, stage: StageOfStudy, trial: Trial) -> Trial:
    """Run undisturbed and compare; where a file is refused, follow the sentence's remedy and run again."""
    refused = 0
    while not (outcome := run_cells(whole.folder, stage)).finished:
        trial.said.append(f"rerun: {outcome.status} {outcome.said}")
        named = [path for path in NAMED.findall(outcome.said) if (whole.folder / path).exists()]
        if not named or refused > 4:
            trial.verdict = f"the rerun fails: {outcome.said}"
            return trial
        refused += 1
        remove(whole.folder, (named[-1],))
    wrong = differences(whole, stage)
    trial.ok = not wrong
    trial.verdict = "; ".join(wrong[:3]) if wrong else ("refused, then " if refused else "") + how_equal(whole, stage)
    return trial


def kinds_in_turn(rng: np.random.Generator, small_disk: bool) -> Iterator[list[str]]:
    """Chains of kinds of faults without end: every kind as often as every other, in chains of one to four."""
    waiting: list[str] = []
    while True:
        length = int(rng.integers(1, 5))
        while len(waiting) < length:
            kinds = [*FAULTS, *DAMAGE]
            kinds = [kind for kind in kinds if small_disk or kind != "disk full"]
            waiting += [str(kind) for kind in rng.permutation(kinds)]
        yield [waiting.pop(0) for _ in range(length)]


def load_libraries() -> None:
    """Load what the stages do, so that a forked one starts at once, and let trainings write checkpoints every fourth step."""
    import dataclasses

    import pyarrow.parquet
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel

    import flashdiff.study.comparison
    import flashdiff.training.model_card
    import flashdiff.training.prior
    from flashdiff.training import loop

    assert all((pyarrow.parquet, AutoencoderKL, DDPMScheduler, UNet2DModel, flashdiff.study.comparison))
    torch.set_num_threads(1)
    fields = [field.name for field in dataclasses.fields(loop.Recipe) if field.default is not dataclasses.MISSING]
    values = list(loop.Recipe.__init__.__defaults__)
    values[fields.index("checkpoint_every")] = 4
    loop.Recipe.__init__.__defaults__ = tuple(values)
