"""The main results in sentences, read off the records: which records, here; the words are in sentences.html.j2."""

from collections.abc import Mapping, Sequence

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report import headline
from flashdiff.report.template import module

OVER = ("adaptive_vs_best_fixed", "shuffled_severity")
"""Claims that say what the adaptive choice itself is worth in the long walks."""


def encoder_sentence(records: Sequence[Mapping], degradation: str) -> str:
    """The main result of one degradation's severity encoder in plain words (HTML)."""
    of = {r["claim"]: r["value"] for r in records if r["degradation"] == degradation}
    return str(module("sentences.html.j2").encoder(degradation, of)).strip()


def sentence(records: Sequence[Mapping], degradation: str, solver: str) -> str:
    """The main result of one degradation and solver in plain words (HTML)."""
    own = [r for r in records if (r["degradation"], r["solver"]) == (degradation, solver)]
    main = next(iter(MEASURES))

    def of(claim: str, start: str | None, measure: str | None = None) -> Mapping | None:
        found = (r for r in own if (r["claim"], r["start"]) == (claim, start))
        return next((r for r in found if measure in (None, r["measure"])), None)

    starts = headline.starts(own)
    walks = [
        {"start": start, "nfe": of("nfe_ratio", start), "gains": [of(measure.gain, start) for measure in in_figures()]}
        for start in starts
    ]
    over = {claim: [r for start in starts if (r := of(claim, start, main))] for claim in OVER}
    few = [
        [r for r in own if (r["claim"], r["measure"]) == ("adaptive_vs_best_fixed_few", measure.name)]
        for measure in in_figures()
    ]
    few = [known for of_measure in few if (known := [r for r in of_measure if r["value"] is not None])]
    told = module("sentences.html.j2").pair(solver, walks, over, of("nfe_ratio_100", None), few)
    return str(told).strip()
