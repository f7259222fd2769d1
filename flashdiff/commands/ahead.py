"""`flashdiff train`, `reconstruct` and `convert`: what a stage does, ahead of it and on as many processes as were launched."""

from dataclasses import replace
from pathlib import Path

from flashdiff.commands.studies import check_prior
from flashdiff.study.schema import StudyError, load, select


def train(degradation: str) -> str:
    """Train a degradation's severity encoder ahead of its stage, on as many processes as launched this; returns one line."""
    study = load()
    if degradation not in study.degradations:
        raise StudyError(
            f"degradations: {degradation!r} is not among the study's degradations; choose one of "
            f"{', '.join(study.degradations)}."
        )
    if degradation in getattr(study.prior, "severity", {}):
        raise StudyError(
            f"prior.severity.{degradation}: that encoder is used, none is trained; remove the entry to train one."
        )
    prior = check_prior()

    from flashdiff.datasets.splits import open_split
    from flashdiff.degradations import build
    from flashdiff.devices import process_state
    from flashdiff.prior import Prior
    from flashdiff.training.severity import CHECKPOINT, LIVE, train_severity_encoder

    operator, noise_std = build(select(study, f"degradations.{degradation}"))
    _, curve = train_severity_encoder(
        Prior.from_pretrained(prior),
        operator,
        noise_std,
        open_split("data/splits", "train").images,
        open_split("data/splits", "validation").images,
        select(study, "severity"),
        study.seed,
        CHECKPOINT.format(degradation=degradation),
        LIVE.format(degradation=degradation),
    )
    return (
        f"{degradation}: severity encoder trained for {study.severity.steps} steps on {process_state().num_processes} "
        f"processes, ordering accuracy {curve.ordering_accuracy.iloc[-1]:.3f}; `make study` continues from there."
    )


def reconstruct(degradation: str, solver: str) -> str:
    """Run a pair's comparison ahead of its stage, on as many processes as launched this; returns one line."""
    study, pair = load(), f"{degradation}-{solver}"
    if pair not in study.pairs:
        raise StudyError(f"pairs: {pair!r} is not among the study's pairs; choose one of {', '.join(study.pairs)}.")
    check_prior()

    from flashdiff.devices import process_state
    from flashdiff.study import baseline
    from flashdiff.study.comparison import RUNS, Bench, methods
    from flashdiff.study.comparison import reconstruct as run
    from flashdiff.study.records import read_json

    chosen = read_json(f"data/tuned/{pair}.json")["chosen"]
    settings = study.reconstruction
    bench = Bench.load(
        "test",
        settings.n_images,
        select(study, f"degradations.{degradation}"),
        degradation,
        select(study, f"solvers.{solver}"),
        seed=study.seed,
        batch_size=settings.batch_size,
        levels=settings.levels.get(degradation),
    )
    alone = replace(bench, encoder=None)
    full_length = baseline.walk(alone, chosen["full_length"], baseline.RUNS.format(pair=pair))
    runs, walked = RUNS.format(pair=pair), {"full_length": full_length}
    run(bench, chosen, settings.fixed_starts, runs, controls=settings.controls, walked=walked)
    names = [name for name, *_ in methods(bench, chosen, settings.fixed_starts, settings.controls)]
    return (
        f"{pair}: {settings.n_images} images by {len(names)} methods on {process_state().num_processes} processes; "
        f"`make study` continues from there."
    )


def convert(checkpoint: str, config: str, target: str, raw: bool) -> str:
    """Write an original latent-diffusion checkpoint as a prior's folder; returns one line."""
    given = {"checkpoint": checkpoint, "config": config}
    if missing := {name: path for name, path in given.items() if not Path(path).is_file()}:
        raise StudyError(
            "\n".join(f"{n}: there is no file '{p}'; give the path of what was published." for n, p in missing.items())
        )

    from flashdiff.weights.published_prior import convert_compvis

    prior = convert_compvis(checkpoint, config, target, ema=not raw)
    size = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    return (
        f"{target}: {type(prior.autoencoder).__name__} and UNet, {size:.1f} million parameters,"
        f" {'raw' if raw else 'averaged'} weights, {prior.n_steps} steps."
    )
