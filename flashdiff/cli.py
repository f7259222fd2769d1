"""`flashdiff ...`: the commands, their options and their help; what they do is in flashdiff/commands/.

Nothing heavy loads here: a command checks names and paths first, and torch loads when there is something to compute.
"""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import flashdiff
from flashdiff.late_imports import defer_dynamo

# Rich's boxes would break examples; \b keeps the lines of a block of help as they are.
app = typer.Typer(
    name="flashdiff",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Mistake(Exception):
    """What the user can put right; main prints the message and returns 2."""


def _degradations(incomplete: str) -> list[str]:
    """For the shell's completion: the degradations of the study that ships."""
    from flashdiff.commands.studies import Place

    return [name for name in Place.find().entries if name.startswith(incomplete)]


def _version(asked: bool) -> None:
    if asked:
        print(f"flashdiff {flashdiff.__version__}")
        raise typer.Exit


Degradation = Annotated[str, typer.Argument(help="name of the degradation in the study file")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="image files, and folders of image files")]
StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study", metavar="FOLDER", envvar="FLASHDIFF_STUDY",
        help="folder of another study, or its name in studies/; default: the models that ship",
    ),
]  # fmt: skip


@app.callback()
def flashdiff_(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and leave")
    ] = False,
) -> None:
    """Restore images, and say how hard each of them is; make studies of your own.

    \b
    flashdiff severity blurry/                                   how hard is each image?
    flashdiff restore blurry/ --degradation gaussian_blur --out restored
    flashdiff new holidays --images ~/pictures                   a study on your own images
    """


class Style(StrEnum):
    """How rows are printed."""

    TABLE, JSON, CSV = "table", "json", "csv"


@app.command(short_help="how hard is each image?")
def severity(
    paths: Paths,
    degradation: Annotated[
        str | None,
        typer.Option(help="what happened to the images; default: blind", autocompletion=_degradations),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON list instead of a table")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV instead of a table")] = False,
    study: StudyOption = None,
) -> None:
    """Say how hard each image is to restore: sigma_hat, where its walk starts, and how good D(z_hat) can be.

    \b
    flashdiff severity photo.png
    flashdiff severity folder/ --csv > severity.csv
    flashdiff severity folder/ --json | jq '.[] | select(.sigma_hat > 0.4) | .file'
    """
    from flashdiff.commands.severity import severity as run

    if as_json and as_csv:
        raise Mistake("json: --json and --csv are two formats; leave one out.")
    run(paths, degradation, study, Style.JSON if as_json else Style.CSV if as_csv else Style.TABLE)


@app.command(short_help="restore images")
def restore(
    paths: Paths,
    degradation: Annotated[
        str, typer.Option(help="what happened to the images, as in gaussian_blur", autocompletion=_degradations)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder of the results and of report.csv")],
    level: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="t", help="how strong, 0 to 1, for all images; default: estimated for each"),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="for inpainting: an image, white where pixels are kept, for all; or a folder with one for each, of its name; "
            "default: mid-grey pixels are missing (random inpainting), or the level is estimated (box)",
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="N", help="mean denoiser evaluations per image, of those tuned; default: 6")
    ] = None,
    noise_std: Annotated[
        float | None,
        typer.Option(
            min=0, max=2, metavar="s", help="standard deviation of the noise in [-1, 1]; default: the study's"
        ),
    ] = None,
    study: StudyOption = None,
) -> None:
    """Restore images into DIR/NAME.png, and say in DIR/report.csv what was done to each.

    Ctrl-C keeps what is finished; the same command continues, and does nothing twice.

    \b
    flashdiff restore photo.png --degradation gaussian_blur --out restored
    flashdiff restore folder/ --degradation gaussian_blur --level 0.4 --budget 12 --out restored
    flashdiff restore scans/ --degradation random_inpainting --mask masks/ --out restored
    """
    from flashdiff.commands.restore import restore as run

    _say(run(paths, degradation, out, level, mask, budget, noise_std, study))


@app.command(short_help="a study for your own images")
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="of the study, in small letters: the folder studies/NAME")
    ],
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="your images: every image file below it")],
    image_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="height and width that they are resized to; default: as they allow"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="1|3", help="grey or colour; default: as the images are")
    ] = None,
    validation: Annotated[
        int | None, typer.Option(metavar="N", help="validation images; default: by their number")
    ] = None,
    test: Annotated[int | None, typer.Option(metavar="N", help="test images; default: by their number")] = None,
) -> None:
    """Make studies/NAME for your own images, ready for `make study STUDY=NAME`, and explain what was chosen.

    \b
    flashdiff new holidays --images ~/pictures
    flashdiff new holidays --images ~/pictures --image-size 64 --channels 3
    """
    from flashdiff.commands.new import new as run

    _say(run(name, images, image_size=image_size, channels=channels, validation=validation, test=test))


@app.command(short_help="train a severity encoder ahead of its stage")
def train(degradation: Degradation) -> None:
    """Train a degradation's severity encoder ahead of its stage; in the folder of a study.

    \b
    flashdiff train gaussian_blur
    accelerate launch --multi_gpu -m flashdiff.cli train gaussian_blur
    """
    from flashdiff.commands.ahead import train as run

    _say(run(degradation))


@app.command(short_help="run a comparison ahead of its stage")
def reconstruct(
    degradation: Degradation, solver: Annotated[str, typer.Argument(help="name of the solver in the study file")]
) -> None:
    """Reconstruct a pair's test images ahead of its stage; in the folder of a study.

    \b
    flashdiff reconstruct gaussian_blur ldps
    accelerate launch --num_processes 4 -m flashdiff.cli reconstruct gaussian_blur ldps
    """
    from flashdiff.commands.ahead import reconstruct as run

    _say(run(degradation, solver))


@app.command(short_help="a published checkpoint as a prior")
def convert(
    checkpoint: Annotated[str, typer.Argument(help="the published .ckpt")],
    config: Annotated[str, typer.Argument(help="the config.yaml published with it")],
    target: Annotated[str, typer.Argument(help="the folder to write, in the layout of diffusers; it must not exist")],
    raw: Annotated[bool, typer.Option("--raw", help="the last training step's weights, not their average")] = False,
) -> None:
    """Write an original latent-diffusion checkpoint of CompVis as a prior.

    \b
    flashdiff convert ffhq256/model.ckpt ffhq256/config.yaml data/prior/ffhq-256
    """
    from flashdiff.commands.ahead import convert as run

    _say(run(checkpoint, config, target, raw))


def _say(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:  # of the processes that a launcher started, one speaks for all
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 2 for what the user can put right, said in sentences on stderr, 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:  # this process is the command's own
        defer_dynamo()
    try:
        return app(given or ["--help"], prog_name="flashdiff", standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except typer.Abort:
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        from flashdiff.study.schema import escaped

        print(escaped(sentence), file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """What the user is told of an error that is not the program's own; None for one that is."""
    if hasattr(error, "format_message"):  # of typer's own: an unknown option, a missing argument
        return f"{error.format_message()} (`flashdiff --help`)"
    known = (Mistake, ValueError, OSError, FloatingPointError, MemoryError)  # StudyError is a ValueError
    return str(error) if isinstance(error, known) else None


if __name__ == "__main__":
    sys.exit(main())
