"""Restoring without being told the degradation: what it costs against knowing, and which kind measurements are taken for."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flashdiff.measures import MEASURES
from flashdiff.report.intervals import bootstrap, by_method
from flashdiff.report.names import DISTANCES
from flashdiff.report.panels import gain_in_words
from flashdiff.report.style import PAGE, PALETTE, SERIES, SMALL, canvas, need, styled
from flashdiff.report.tables import spread

KNOWN = "known"
"""The variant that others are compared with."""
VARIANTS = {
    "known": "the true level",
    "fitted": "the level that fits D(ẑ) best",
    "refined": "that, refined after half of the walk",
    "mask": "the mask, read off the measurement",
    "fixed": "one level for all",
}
"""What a walk is told, in the order of the table."""
GAINS = ("psnr", "perceptual")
"""The measures that are compared."""


def level_table(rows: Mapping[str, pd.DataFrame], n_resamples: int, seed: int = 0) -> pd.DataFrame:
    """One row per degradation and variant: level_error, mean abs(told - t), level_bias, mean told - t, and error_after, the same of
    the level that fits the restored image best; mean nfe; psnr; and the gains over knowing the level, paired. 95% intervals are
    over images. No such experiment: no rows.

    rows: {pair: record of :mod:`flashdiff.study.blind`}.
    """
    found = []
    for item, record in rows.items():
        part = record[record.experiment == "level"]
        columns = {name: by_method(part.assign(method=part.variant), name).astype(float) for name in GAINS}
        for variant in (name for name in VARIANTS if name in set(part.variant)):
            own = part[part.variant == variant]
            row = {"degradation": item.partition("-")[0], "told": VARIANTS[variant], "nfe": float(own.nfe.mean())}
            errors = {"level_error": (own.told - own.t).abs(), "level_bias": own.told - own.t}
            for name, error in (errors | {"error_after": (own.after - own.t).abs()}).items():
                row |= spread(name, bootstrap(error.to_numpy(float), np.mean, n_resamples, seed))
            for name in GAINS:
                measure, of = MEASURES[name], columns[name]
                both = of[variant].to_numpy(), of[KNOWN].to_numpy()
                row |= spread(measure.gain, bootstrap(both, measure.improvement, n_resamples, seed))
            found.append(row)
    return pd.DataFrame(found)


def kind_table(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The confusion of kinds: one row per true kind, with how many images were taken for each, right, the share that was taken
    for what it is, and level_error, the mean error of the level of these. No such experiment: no rows.

    rows: as :func:`level_table` takes them; every pair has the same rows of this experiment, the first are taken.
    """
    record = next(iter(rows.values()), pd.DataFrame(columns=["experiment"]))
    part = record[record.experiment == "kind"]
    found, kinds = [], list(dict.fromkeys(part.variant)) if len(part) else []
    for kind in kinds:
        own = part[part.variant == kind]
        right = own[own.found == kind]
        counts = {f"taken_for_{other}": int((own.found == other).sum()) for other in kinds}
        error = float((right.told - right.t).abs().mean())
        found.append({"degradation": kind} | counts | {"right": len(right) / len(own), "level_error": error})
    return pd.DataFrame(found)


def sentences(levels: pd.DataFrame, kinds: pd.DataFrame) -> str:
    """What the tables mean, in plain words; of no rows, that nothing was measured."""
    if levels.empty:
        return "Restoring without the level was not measured."
    said = []
    for degradation, part in levels.groupby("degradation", sort=False):
        told = part.set_index("told")
        words = []
        for variant in ("fitted", "refined", "mask", "fixed"):
            if VARIANTS[variant] not in told.index:
                continue
            row = told.loc[VARIANTS[variant]]
            low, high = row.psnr_gain_db_low, row.psnr_gain_db_high
            verdict = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
            words.append(
                f"{VARIANTS[variant]} is {verdict} the true level ({row.psnr_gain_db:+.2f} dB [{low:.2f}, {high:.2f}], "
                f"error of the level {row.level_error:.3f})"
            )
        said.append(f"{degradation.replace('_', ' ').capitalize()}, at equal evaluations: {'; '.join(words)}.")
    if len(kinds):
        worst = kinds.loc[kinds.right.idxmin()]
        said.append(
            f"Of {len(kinds)} kinds, {kinds.right.mean():.1%} of the measurements are taken for what they are; the fewest of "
            f"{worst.degradation.replace('_', ' ')}, {worst.right:.1%}."
        )
    return "\n".join(said)


@styled
def blind_levels(table: pd.DataFrame, distances: Mapping[str, str] = DISTANCES["features"]) -> Figure:
    """What walks reach by what they are told of the level, a line per variant and a mark per degradation: the error of the level,
    and PSNR and perceptual distance against knowing it, with 95% intervals. One level for all stands in the table alone: it
    loses so much that nothing could be read beside it.

    table: of :func:`level_table`; distances: what readers call the study's (:func:`flashdiff.report.names.distance_names`).

    >>> table = pd.read_csv("reports/figures_pdf/blind/blind_levels.csv")
    >>> figure = figures.blind_levels(table)
    """
    measures = [MEASURES[name] for name in GAINS]
    names = ["level_error", *(measure.gain for measure in measures)]
    need(table, "degradation", "told", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")))
    table = table[table.told != VARIANTS["fixed"]]
    told = [words for words in VARIANTS.values() if (table.told == words).any()]
    degradations = list(dict.fromkeys(table.degradation))
    figure, axes = canvas(columns=3, width=PAGE, height=1.1 + 0.22 * len(told))
    words = ["error of the level, |t̂ - t|", *(gain_in_words(measure, distances) for measure in measures)]
    scales = [1, *(100 if measure.relative else 1 for measure in measures)]
    for axis, name, text, scale in zip(axes[0], names, words, scales, strict=True):
        for number, degradation in enumerate(degradations):
            part = table[table.degradation == degradation]
            at = np.array([told.index(words) for words in part.told])
            aside = 0.3 * (number - (len(degradations) - 1) / 2) / max(1, len(degradations) - 1)
            value, low, high = (scale * part[f"{name}{end}"].to_numpy(float) for end in ("", "_low", "_high"))
            axis.errorbar(
                value, at + aside, xerr=[value - low, high - value], fmt=SERIES[number % len(SERIES)][1], ms=3.5,
                elinewidth=1, capsize=1.5, color=PALETTE[number % len(PALETTE)], label=degradation.replace("_", " "),
            )  # fmt: skip
        axis.axvline(0, color="0.5", ls="--", lw=0.8)
        axis.set(yticks=range(len(told)), yticklabels=[], ylim=(len(told) - 0.5, -0.5))
        axis.set_xlabel(text, fontsize=SMALL)
    axes[0, 0].set_yticklabels(told)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(degradations))
    return figure
