"""When to stop trusting: how well shifts are told apart, what is lost where nobody notices, and what falling back saves."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure

from flashdiff.report.intervals import bootstrap
from flashdiff.report.style import PAGE, PALETTE, SERIES, SMALL, canvas, need, styled
from flashdiff.report.tables import spread
from flashdiff.trust.shift import NONE, Reference, auc, either, reference, roc

UNSHIFTED = (NONE, "seen classes")
"""The cases that others are held against, of the study's own encoder and of one that has not seen all classes."""
SIGNALS = ("sigma_hat", "misfit", "both")
"""By what an image is judged: its severity, its misfit among images of like severity, and the two together."""


def judged(rows: pd.DataFrame, bins: int) -> pd.DataFrame:
    """The test rows without a walk, and a column p_... per signal: the conformal p-value against the encoder's validation images.

    rows: a record of :mod:`flashdiff.study.shift`; bins: groups of these by severity, for the misfit.
    """
    parts = []
    for encoder, own in rows[(rows.split == "test") & (rows.method == NONE)].groupby("encoder", sort=False):
        misfits = reference(rows, encoder, bins)
        sigma_hat, misfit = own.sigma_hat.to_numpy(float), own.misfit.to_numpy(float)
        p = {
            "p_sigma_hat": Reference(misfits.sigma_hat, misfits.sigma_hat).p_value(sigma_hat, sigma_hat),
            "p_misfit": misfits.p_value(sigma_hat, misfit),
        }
        parts.append(own.assign(**p, p_both=either(*p.values())))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*rows, *map("p_{}".format, SIGNALS)])


def _against(found: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """(shift, its images, the unshifted ones of the same encoder), the unshifted themselves first."""
    cases = []
    for _, of_encoder in found.groupby("encoder", sort=False):
        own = of_encoder[of_encoder["shift"].isin(UNSHIFTED)]
        cases += [(shift, part, own) for shift, part in of_encoder.groupby("shift", sort=False)]
    return cases


def detector_table(
    rows: Mapping[str, pd.DataFrame], bins: int, alarm: float, n_resamples: int, seed: int = 0
) -> pd.DataFrame:
    """One row per degradation and shift: images, promised (the share of false alarms that is asked for, ``alarm``), mean
    sigma_hat and misfit, the AUC of every signal against unshifted test images, and flagged, the share whose misfit has
    p <= ``alarm`` (of unshifted ones: false alarms), and flagged_both, by the two together.

    rows: {pair: record}. 95% intervals over images, of shares exact ones (Clopper and Pearson 1934). No record has rows: no rows.
    """
    table = []
    for item, record in rows.items():
        for shift, part, own in _against(judged(record, bins)):
            row: dict = {"degradation": item.partition("-")[0], "shift": shift.replace("_", " "), "images": len(part)}
            row |= {"promised": alarm, "sigma_hat": float(part.sigma_hat.mean()), "misfit": float(part.misfit.mean())}
            for signal in SIGNALS:
                scores = [-frame[f"p_{signal}"].to_numpy(float) for frame in (part, own)]
                row |= spread(f"auc_{signal}", _auc(*scores, n_resamples, seed) if part is not own else {})
            for name, signal in (("flagged", "misfit"), ("flagged_both", "both")):
                row |= spread(name, _share(part[f"p_{signal}"].to_numpy(float) <= alarm))
            table.append(row)
    return pd.DataFrame(table)


def _auc(shifted: np.ndarray, own: np.ndarray, n_resamples: int, seed: int) -> dict[str, float]:
    """The area under the ROC with its bootstrap interval, images of both groups drawn by themselves."""
    drawn = scipy.stats.bootstrap(
        (shifted, own), auc, n_resamples=min(n_resamples, 500), method="percentile", vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return {"value": float(auc(shifted, own)), "low": float(low), "high": float(high)}


def _share(flags: np.ndarray) -> dict[str, float]:
    found = scipy.stats.binomtest(int(flags.sum()), len(flags))
    low, high = found.proportion_ci(method="exact")
    return {"value": float(flags.mean()), "low": float(low), "high": float(high)}


def lost_table(
    rows: Mapping[str, pd.DataFrame], bins: int, alarm: float, n_resamples: int, seed: int = 0
) -> pd.DataFrame:
    """One row per degradation and shift whose images walk: psnr as they are restored by one who knows of no shift; lost_db, what knowing
    all would gain; saved_db, what falling back gains on all, and saved_flagged_db on the flagged ones (images: flagged_images; without
    number where there are less than two); evaluations of the walk and of the one fallen back to. 95% intervals over images, paired."""
    table = []
    for item, record in rows.items():
        for shift, part, _ in _against(judged(record, bins)):
            encoder = part.encoder.iloc[0]
            walked = record[(record.encoder == encoder) & (record["shift"] == shift) & (record.method != NONE)]
            if walked.empty:
                continue
            psnr = walked.pivot(index="image", columns="method", values="psnr").astype(float)
            nfe = walked.groupby("method").nfe.mean()
            flagged = part.set_index("image").loc[psnr.index].p_misfit.to_numpy(float) <= alarm
            saved = (psnr.fallback - psnr.ignored).to_numpy()
            row = {"degradation": item.partition("-")[0], "shift": shift.replace("_", " "), "images": len(psnr)}
            row |= {"nfe": float(nfe.ignored), "fallback_nfe": float(nfe.fallback)}
            for name, values in (
                ("psnr", psnr.ignored.to_numpy()),
                ("lost_db", (psnr.told - psnr.ignored).to_numpy()),
                ("saved_db", saved),
                ("saved_flagged_db", saved[flagged]),
            ):
                row |= spread(name, bootstrap(values, np.mean, n_resamples, seed))
            table.append(row | {"flagged_images": int(flagged.sum())})
    return pd.DataFrame(table)


def roc_table(rows: Mapping[str, pd.DataFrame], bins: int) -> pd.DataFrame:
    """The ROC of the misfit's p-value, a row per threshold: degradation, shift, false_alarms, detections."""
    table = []
    for item, record in rows.items():
        for shift, part, own in _against(judged(record, bins)):
            if shift in UNSHIFTED:
                continue
            false, true = roc(-part.p_misfit.to_numpy(float), -own.p_misfit.to_numpy(float))
            head = {"degradation": item.partition("-")[0], "shift": shift.replace("_", " ")}
            table.append(pd.DataFrame(head | {"false_alarms": false, "detections": true}))
    return pd.concat(table, ignore_index=True) if table else pd.DataFrame()


def sentences(detectors: pd.DataFrame, lost: pd.DataFrame) -> str:
    """What the tables mean, in plain words; of no rows, that nothing was measured."""
    if detectors.empty:
        return "Shifts were not measured."
    said = []
    for degradation, part in detectors.groupby("degradation", sort=False):
        own = part[part["shift"] == NONE].iloc[0]
        alarm = own.promised
        kept = "as promised" if own.flagged_low <= alarm <= own.flagged_high else "not as promised"
        others = part[~part["shift"].isin(UNSHIFTED)]
        shares = ", ".join(f"{row['shift']} {row.flagged:.0%}" for _, row in others.iterrows())
        said.append(
            f"{degradation.replace('_', ' ').capitalize()}: {own.flagged:.1%} false alarms [{own.flagged_low:.1%}, "
            f"{own.flagged_high:.1%}], {kept} ({alarm:.0%}); flagged are {shares}."
        )
        walked = lost[(lost.degradation == degradation) & ~lost["shift"].isin(UNSHIFTED)] if len(lost) else lost
        if len(walked):
            said.append(_walks(walked))
    return "\n".join(said)


def _walks(walked: pd.DataFrame) -> str:
    """What not knowing the shifts of one degradation costs, and what falling back does to each."""
    by_verdict: dict[str, list[str]] = {"saves": [], "costs": [], "changes nothing beyond chance": []}
    for _, row in walked.iterrows():
        verdict = (
            "saves" if row.saved_db_low > 0 else "costs" if row.saved_db_high < 0 else "changes nothing beyond chance"
        )
        by_verdict[verdict].append(f"{row['shift']} {row.saved_db:+.2f}")
    lost = ", ".join(f"{row['shift']} {row.lost_db:.2f}" for _, row in walked.iterrows())
    falls = "; ".join(f"{verdict} on {', '.join(of)}" for verdict, of in by_verdict.items() if of)
    return f"Not knowing the shift costs (dB) on {lost}. Falling back to a longer walk {falls}."


@styled
def shift_roc(table: pd.DataFrame) -> Figure:
    """How well shifts are told from images of the right kind by the misfit among images of like severity: a panel per degradation, a
    line per shift. On the dotted line one guesses.

    table: of :func:`roc_table`.

    >>> table = pd.read_csv("reports/figures_pdf/shift/shift_roc.csv")
    >>> figure = figures.shift_roc(table)
    """
    need(table, "degradation", "shift", "false_alarms", "detections")
    degradations = list(dict.fromkeys(table.degradation))
    figure, axes = canvas(columns=len(degradations), width=PAGE, height=2.7)
    known = list(dict.fromkeys(table["shift"]))
    for axis, degradation in zip(axes[0], degradations, strict=True):
        of = table[table.degradation == degradation]
        for shift, part in of.groupby("shift", sort=False):
            number = known.index(shift)
            line = SERIES[number % len(SERIES)][0]
            colour = PALETTE[number % len(PALETTE)]
            axis.step(part.false_alarms, part.detections, where="post", lw=1.2, ls=line, color=colour, label=shift)
        guess = np.linspace(0, 1, 200)
        axis.plot(guess, guess, ls=":", lw=0.8, color="0.5")
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axis.set(xlim=(0, 1), ylim=(0, 1.02), title=degradation.replace("_", " "))
        axis.set(xlabel="false alarms, of unshifted images", ylabel="flagged, of shifted images")
    shown = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, fontsize=SMALL)
    return figure
