"""Robustness and single choices: figures and tables, from the record that their stage keeps."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flashdiff.report.intervals import CORRELATIONS, bootstrap, ratio_of_means
from flashdiff.report.style import LEVEL, PAGE, PALETTE, SBAR, SMALL, canvas, need, styled
from flashdiff.report.tables import spread

RATIO = "true noise / assumed noise"
CALIBRATION = "mean σ̂ / mean s̄"
PSNR = "PSNR (dB)"
FIXED = "fixed"
"""The start that other start rules are compared with; corrections are with the first of them."""
TRAININGS = {"all": "all classes", "without": "without the unseen"}
IMAGES = {True: "unseen classes", False: "other classes"}
ENCODERS = {"for_all": "one encoder for all", "own": "one encoder each"}
ENCODER_MEASURES = {
    "latent_error": SBAR.replace(" (", "\n("),
    "calibration_ratio": CALIBRATION,
    "spearman_error": "Spearman correlation\nof σ̂ with s̄",
    "ordering_accuracy": "ordering accuracy",
}
"""Column of :func:`encoder_table` -> what its panel says."""


EACH = (-2, -1)
"""The axes of images and levels."""


def _correlation(sigma_hat: np.ndarray, sbar: np.ndarray, psnr: np.ndarray) -> np.ndarray:
    return CORRELATIONS["spearman"](*(column.reshape(*column.shape[:-2], -1) for column in (sigma_hat, sbar)))


def _ordering(sigma_hat: np.ndarray, sbar: np.ndarray, psnr: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(sigma_hat.shape[-1], 1)
    return (sigma_hat[..., first] <= sigma_hat[..., second]).mean(EACH)


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "latent_error": lambda sigma_hat, sbar, psnr: sbar.mean(EACH),
    "predicted_error": lambda sigma_hat, sbar, psnr: sigma_hat.mean(EACH),
    "calibration_ratio": lambda sigma_hat, sbar, psnr: sigma_hat.mean(EACH) / sbar.mean(EACH),
    "spearman_error": _correlation,
    "ordering_accuracy": _ordering,
    "psnr": lambda sigma_hat, sbar, psnr: psnr.mean(EACH),
}
"""What is said of one run: of sigma_hat, sbar and psnr, each (..., images, levels), levels rising."""


def _columns(part: pd.DataFrame, *names: str) -> list[np.ndarray]:
    """Columns of one run's rows as (images, levels)."""
    part = part.sort_values(["image", "t"])
    return [part[name].to_numpy(float).reshape(part.image.nunique(), -1) for name in names]


def _intervals(part: pd.DataFrame, names: list[str], n_resamples: int, seed: int) -> dict[str, float]:
    """STATISTICS of one run's rows as columns with 95% intervals over images; all levels of an image stay together."""
    columns, found = _columns(part, "sigma_hat", "sbar", "psnr"), {}
    for name in names:
        # the images' numbers are resampled: a bootstrap takes one number per image, and an image has one per level
        def of(images: np.ndarray, axis: int = -1, statistic: Callable = STATISTICS[name]) -> np.ndarray:
            return statistic(*(column[images.astype(int)] for column in columns))

        found |= spread(name, bootstrap(np.arange(len(columns[0])), of, n_resamples, seed))
    return found


def _of(rows: pd.DataFrame, *experiments: str) -> pd.DataFrame:
    return rows[rows.experiment.isin(experiments)]


def noise_table(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per true noise level, as a multiple of the one that encoder and solver are told: latent_error, predicted_error, calibration_ratio,
    psnr_of_z_hat (D(z_hat)) and psnr_few_steps with 95% intervals, mean nfe. No such experiment: no rows.

    rows: of :func:`flashdiff.study.robustness.walk_rows`.
    """
    found = []
    for ratio, part in _of(rows, "noise").groupby("variant", sort=False):
        decoded, walked = (part[part.method == method] for method in ("no_diffusion", "few_step"))
        row = {"true_over_assumed_noise": float(ratio)}
        row |= _intervals(decoded, ["latent_error", "predicted_error", "calibration_ratio"], n_resamples, seed)
        for name, of in (("psnr_of_z_hat", decoded), ("psnr_few_steps", walked)):
            row |= spread(name, bootstrap(of.psnr.to_numpy(float), np.mean, n_resamples, seed))
        found.append(row | {"nfe": float(walked.nfe.mean())})
    return pd.DataFrame(found)


def class_table(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per training and group of images: latent_error, calibration_ratio, spearman_error and psnr (D(z_hat)), and error_ratio, latent error over
    that of the training on all classes on the same images, with 95% intervals over images. No such experiment: no rows.

    rows: of :func:`flashdiff.study.robustness.trained_rows`.
    """
    found, rows = [], _of(rows, "classes")
    for (unseen, variant), part in rows.groupby(["unseen", "variant"], sort=False):
        row = {"training": TRAININGS[variant], "measured_on": IMAGES[bool(unseen)], "images": part.image.nunique()}
        row |= _intervals(part, ["latent_error", "calibration_ratio", "spearman_error", "psnr"], n_resamples, seed)
        with_all = rows[(rows.variant == "all") & (rows.unseen == unseen)]
        means = [_columns(each, "sbar")[0].mean(1) for each in (part, with_all)]
        ratio = bootstrap(tuple(means), ratio_of_means, n_resamples, seed)
        found.append(row | spread("error_ratio", ratio))
    return pd.DataFrame(found)


def class_levels(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per training, group of images and level t: latent_error with its 95% interval over images; what
    :func:`unseen_classes` draws."""
    found = []
    for (unseen, variant, t), part in _of(rows, "classes").groupby(["unseen", "variant", "t"], sort=False):
        head = {"training": TRAININGS[variant], "measured_on": IMAGES[bool(unseen)], "t": float(t)}
        found.append(head | _intervals(part, ["latent_error"], n_resamples, seed))
    return pd.DataFrame(found)


def encoder_table(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per choice of an encoder's training, the weight of the severity term, and one for all or one each: the measures of ENCODER_MEASURES and
    psnr (D(z_hat)) with 95% intervals over images, and error_at_... every level. No such experiment: no rows.

    rows: of :func:`flashdiff.study.robustness.trained_rows` and :func:`flashdiff.study.robustness.shared_rows`.
    """
    found = []
    for (experiment, variant), part in _of(rows, "lambda_sigma", "encoder").groupby(
        ["experiment", "variant"], sort=False
    ):
        row = {"choice": f"severity weight λ = {variant}" if experiment == "lambda_sigma" else ENCODERS[variant]}
        row |= _intervals(part, [*ENCODER_MEASURES, "psnr"], n_resamples, seed)
        found.append(row | {f"error_at_{t:g}": float(e) for t, e in part.groupby("t").sbar.mean().items()})
    return pd.DataFrame(found)


def start_table(rows: pd.DataFrame, n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per start rule and per correction of the published one: mean start index and evaluations, psnr with its 95% interval, and psnr_gain_db,
    paired, over the fixed start or the first correction. No such experiment: no rows.

    rows: of :func:`flashdiff.study.robustness.walk_rows`.
    """
    found = []
    for experiment, of in _of(rows, "start", "correction").groupby("experiment", sort=False):
        psnr = {v: _columns(part, "psnr")[0][:, 0] for v, part in of.groupby("variant", sort=False)}
        against = psnr.get(FIXED, next(iter(psnr.values())))
        for variant, part in of.groupby("variant", sort=False):
            row = {"choice": f"{variant} start" if experiment == "start" else f"published, c = {variant}"}
            row |= {"mean_start": float(part.start.mean()), "evaluations": float(part.nfe.mean())}
            row |= spread("psnr", bootstrap(psnr[variant], np.mean, n_resamples, seed))
            found.append(row | spread("psnr_gain_db", bootstrap(psnr[variant] - against, np.mean, n_resamples, seed)))
    return pd.DataFrame(found)


def _band(axis: Axes, table: pd.DataFrame, x: str, y: str, shift: float = 1.0, **style) -> None:
    """A line with the interval of every point; shift: factor of x, so that intervals at one x stand beside each other."""
    below, above = table[y] - table[f"{y}_low"], table[f"{y}_high"] - table[y]
    axis.errorbar(shift * table[x], table[y], yerr=[below, above], lw=1.2, elinewidth=0.8, capsize=1.5, ms=3.5, **style)


@styled
def noise_robustness(table: pd.DataFrame) -> Figure:
    """What a true noise level does that encoder and solver are not told: latent error, true and predicted; their ratio; and PSNR
    of D(z_hat) and of a few-step walk. The vertical line is where what they are told is true.

    table: of :func:`noise_table`.

    >>> table = pd.read_csv("reports/figures_pdf/robustness-gaussian_blur-ldps/noise_robustness.csv")
    >>> figure = figures.noise_robustness(table)
    """
    names = ["latent_error", "predicted_error", "calibration_ratio", "psnr_of_z_hat", "psnr_few_steps"]
    need(table, "true_over_assumed_noise", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")))
    x = "true_over_assumed_noise"
    figure, axes = canvas(columns=3, width=PAGE, height=2.3)
    error, calibration, quality = axes[0]
    _band(error, table, x, "latent_error", 0.97, color=PALETTE[1], marker="o", label="true, s̄")
    _band(error, table, x, "predicted_error", 1.03, color=PALETTE[0], marker="s", ls="--", label="predicted, σ̂")
    error.set_ylabel("latent error (latent units)")
    _band(calibration, table, x, "calibration_ratio", color=PALETTE[0], marker="o")
    calibration.axhline(1, color="0.5", ls="--", lw=0.8)
    calibration.set_ylabel(CALIBRATION)
    _band(quality, table, x, "psnr_of_z_hat", 0.97, color="0.35", marker="s", ls="--", label="no diffusion, D(ẑ)")
    _band(quality, table, x, "psnr_few_steps", 1.03, color=PALETTE[0], marker="o", label="Flash, few steps")
    quality.set_ylabel(PSNR)
    for axis in axes[0]:
        axis.axvline(1, color="0.5", ls=":", lw=0.8)
        axis.set_xscale("log")
        axis.set_xticks(table[x], [f"{ratio:g}" for ratio in table[x]])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(RATIO)
    for axis in (error, quality):
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2, borderaxespad=0, fontsize=SMALL)
    return figure


@styled
def unseen_classes(table: pd.DataFrame) -> Figure:
    """True latent error by level after the same training with and without some classes, on images of these and of the others.

    table: of :func:`class_levels`.

    >>> table = pd.read_csv("reports/figures_pdf/robustness-gaussian_blur-ldps/unseen_classes.csv")
    >>> figure = figures.unseen_classes(table)
    """
    need(table, "training", "measured_on", "t", "latent_error", "latent_error_low", "latent_error_high")
    figure, axes = canvas(height=2.9)
    axis = axes[0, 0]
    marks = dict(zip(TRAININGS.values(), (("-", "o"), ("--", "s")), strict=True))
    colours = dict(zip(IMAGES.values(), (PALETTE[1], PALETTE[0]), strict=True))
    for (images, training), part in table.groupby(["measured_on", "training"], sort=False):
        line, mark = marks[training]
        _band(
            axis, part, "t", "latent_error", color=colours[images], ls=line, marker=mark,
            label=f"on {images}, trained {'on ' if training == TRAININGS['all'] else ''}{training}",
        )  # fmt: skip
    axis.set(xlabel=LEVEL, ylabel=SBAR)
    figure.legend(loc="outside lower center", ncols=1, fontsize=SMALL)
    return figure


def _choices(table: pd.DataFrame, measures: Mapping[str, str], height: float) -> Figure:
    """Dots with intervals, one line per choice, a panel per measure."""
    figure, axes = canvas(columns=len(measures), width=PAGE, height=height)
    lines = np.arange(len(table))[::-1]
    for number, (axis, (name, words)) in enumerate(zip(axes[0], measures.items(), strict=True)):
        ends = (
            [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
            if f"{name}_low" in table
            else None
        )
        axis.errorbar(table[name], lines, xerr=ends, fmt="o", color=PALETTE[0], ms=3.5, elinewidth=1, capsize=1.5)
        axis.set_yticks(lines, table.choice if number == 0 else [""] * len(lines))
        axis.set_ylim(-0.6, len(lines) - 0.4)
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlabel(words)
    return figure


@styled
def encoder_choices(table: pd.DataFrame) -> Figure:
    """What single choices do to the encoder: a line per choice, and a panel per measure.

    table: of :func:`encoder_table`.

    >>> table = pd.read_csv("reports/figures_pdf/robustness-gaussian_blur-ldps/encoder_choices.csv")
    >>> figure = figures.encoder_choices(table)
    """
    need(table, "choice", *(f"{name}{end}" for name in ENCODER_MEASURES for end in ("", "_low", "_high")))
    figure = _choices(table, ENCODER_MEASURES, 0.9 + 0.2 * len(table))
    figure.axes[1].axvline(1, color="0.5", ls="--", lw=0.8)
    return figure


@styled
def start_choices(table: pd.DataFrame) -> Figure:
    """What the start rule and the published one's correction do to a few-step walk: a line per choice; its mean start, its
    PSNR, and the gain over the fixed start or the first correction.

    table: of :func:`start_table`.

    >>> table = pd.read_csv("reports/figures_pdf/robustness-gaussian_blur-ldps/start_choices.csv")
    >>> figure = figures.start_choices(table)
    """
    intervals = (f"{name}{end}" for name in ("psnr", "psnr_gain_db") for end in ("", "_low", "_high"))
    need(table, "choice", "mean_start", *intervals)
    words = {"mean_start": "mean start index", "psnr": PSNR, "psnr_gain_db": "PSNR, paired gain (dB)"}
    figure = _choices(table, words, 0.8 + 0.2 * len(table))
    figure.axes[2].axvline(0, color="0.5", ls="--", lw=0.8)
    return figure
