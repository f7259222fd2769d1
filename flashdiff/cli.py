"""`flashdiff ...`: what a notebook does, for people and machines without one."""

import argparse
import os
import sys
from collections.abc import Sequence

from flashdiff.study.schema import StudyError, load, select


def train(arguments: argparse.Namespace) -> str:
    """Train a degradation's severity encoder ahead of its stage, on as many processes as launched this; returns one line."""
    from flashdiff.datasets.splits import open_split
    from flashdiff.degradations import build
    from flashdiff.devices import process_state
    from flashdiff.prior import Prior
    from flashdiff.training.severity import CHECKPOINT, LIVE, train_severity_encoder

    study, name = load(), arguments.degradation
    if name not in study.degradations:
        raise StudyError(
            f"degradations: {name!r} is not among the study's degradations; choose one of {', '.join(study.degradations)}."
        )
    if name in getattr(study.prior, "severity", {}):
        raise StudyError(
            f"prior.severity.{name}: that encoder is used, none is trained; remove the entry to train one."
        )
    operator, noise_std = build(select(study, f"degradations.{name}"))
    _, curve = train_severity_encoder(
        Prior.from_pretrained("data/prior"),
        operator,
        noise_std,
        open_split("data/splits", "train").images,
        open_split("data/splits", "validation").images,
        select(study, "severity"),
        study.seed,
        CHECKPOINT.format(degradation=name),
        LIVE.format(degradation=name),
    )
    return (
        f"{name}: severity encoder trained for {study.severity.steps} steps on {process_state().num_processes} processes, "
        f"ordering accuracy {curve.ordering_accuracy.iloc[-1]:.3f}; `make study` continues from there."
    )


def reconstruct(arguments: argparse.Namespace) -> str:
    """Run a pair's comparison ahead of its stage, on as many processes as launched this; returns one line."""
    from flashdiff.devices import process_state
    from flashdiff.study.comparison import RUNS, Bench, methods
    from flashdiff.study.comparison import reconstruct as run
    from flashdiff.study.records import read_json

    study, pair = load(), f"{arguments.degradation}-{arguments.solver}"
    if pair not in study.pairs:
        raise StudyError(f"pairs: {pair!r} is not among the study's pairs; choose one of {', '.join(study.pairs)}.")
    chosen = read_json(f"data/tuned/{pair}.json")["chosen"]
    settings = study.reconstruction
    bench = Bench.load(
        "test",
        settings.n_images,
        select(study, f"degradations.{arguments.degradation}"),
        arguments.degradation,
        select(study, f"solvers.{arguments.solver}"),
        seed=study.seed,
        batch_size=settings.batch_size,
        levels=settings.levels.get(arguments.degradation),
    )
    run(bench, chosen, settings.fixed_starts, RUNS.format(pair=pair), controls=settings.controls)
    names = [name for name, *_ in methods(bench, chosen, settings.fixed_starts, settings.controls)]
    return (
        f"{pair}: {settings.n_images} images by {len(names)} methods on {process_state().num_processes} processes; "
        f"`make study` continues from there."
    )


def convert(arguments: argparse.Namespace) -> str:
    """Write an original latent-diffusion checkpoint as a prior's folder; returns one line."""
    from flashdiff.weights.published_prior import convert_compvis

    prior = convert_compvis(arguments.checkpoint, arguments.config, arguments.target, ema=not arguments.raw)
    size = sum(parameter.numel() for parameter in prior.parameters()) / 1e6
    return (
        f"{arguments.target}: {type(prior.autoencoder).__name__} and UNet, {size:.1f} million parameters,"
        f" {'raw' if arguments.raw else 'averaged'} weights, {prior.n_steps} steps."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="flashdiff", description="Run from the folder of a study.")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser(
        "reconstruct",
        help="reconstruct a pair's test images ahead of its stage, as in "
        "`accelerate launch --num_processes 4 -m flashdiff.cli reconstruct gaussian_blur ldps`",
    )
    runner.add_argument("degradation", help="name of the degradation in the study file")
    runner.add_argument("solver", help="name of the solver in the study file")
    runner.set_defaults(run=reconstruct)
    trainer = commands.add_parser(
        "train",
        help="train a degradation's severity encoder ahead of its stage, as in "
        "`accelerate launch --multi_gpu -m flashdiff.cli train gaussian_blur`",
    )
    trainer.add_argument("degradation", help="name of the degradation in the study file")
    trainer.set_defaults(run=train)
    converter = commands.add_parser(
        "convert",
        help="write an original latent-diffusion checkpoint of CompVis as a prior, as in "
        "`flashdiff convert ffhq256/model.ckpt ffhq256/config.yaml data/prior/ffhq-256`",
    )
    converter.add_argument("checkpoint", help="the published .ckpt")
    converter.add_argument("config", help="the config.yaml published with it")
    converter.add_argument("target", help="the folder to write, in the layout of diffusers; it must not exist")
    converter.add_argument("--raw", action="store_true", help="the last training step's weights, not their average")
    converter.set_defaults(run=convert)
    given = parser.parse_args(arguments)
    try:
        line = given.run(given)
    except (StudyError, ValueError, FileNotFoundError, FloatingPointError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", 0)) == 0:  # of the processes that a launcher started, one speaks for all
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
