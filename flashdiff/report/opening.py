"""The first screen of the page: what the study found, in three numbers, taken from its records by fixed rules."""

from collections.abc import Mapping, Sequence
from statistics import median

from flashdiff.measures import MEASURES, in_figures
from flashdiff.report import headline
from flashdiff.report.claims import Listed, in_words, kind
from flashdiff.report.names import solver_label
from flashdiff.study.methods import main_rule

FEW = 3
"""So many pairs have their own numbers on a card; of more, it shows the median and the range."""
CHOICE = "adaptive_vs_best_fixed_few"


def first_screen(records: Sequence[Mapping], budgets: Mapping[tuple[str, str], Mapping]) -> dict:
    """What the first screen says of a study's records.

    budgets: (degradation, solver) -> the pair's metrics of few-step walks. Every pair has one walk that all its numbers
    are of: the cheapest few-step Flash that beats the full-length baseline in every drawn measure beyond chance. Where
    there is none, they are of the long Flash with the main start rule, and what a choice per image is worth is of the
    largest budget: a pair without a winner shows what it has.

    Returns "pairs": one dict per pair (see :func:`_of_pair`), of which "winners" beat the baseline and "tested" were
    asked; ranges over the pairs (see :func:`_range`) of what the cards and the sentences say, those of "saved" and
    "gained" over the winners where there are any; "verdicts": how the choice per image ended, over budgets and measures.
    """
    pairs = [_of_pair(records, pair, metrics) for pair, metrics in budgets.items()]
    several = len({degradation for degradation, _ in budgets}) < len(budgets)
    for pair in pairs:
        degradation = pair["degradation"].replace("_", " ")
        pair["name"] = f"{degradation}, {solver_label(pair['solver'])}" if several else degradation
    choices = [r for r in records if r["claim"] == CHOICE and r["value"] is not None]
    winners = [pair for pair in pairs if pair["wins"]]
    long = [r for r in records if r["start"] == main_rule(headline.starts(records))]

    def of(claim: str) -> list[Mapping]:
        return [r for r in records if r["claim"] == claim]

    return {
        "pairs": pairs,
        "winners": winners,
        "tested": [pair for pair in pairs if pair["tested"]],
        "each": len(pairs) <= FEW,
        "saved": _range([p["saved"] for p in winners or pairs]),
        "gained": _range([p["gained"] for p in winners or pairs]),
        "order": _range(of("ordering_accuracy")),
        "error": _range(of("spearman_error")),
        "long_saved": _range([r for r in long if r["claim"] == "nfe_ratio"]),
        "long_gained": _range([r for r in long if r["claim"] == next(iter(MEASURES.values())).gain]),
        "choice": _range([p["choice"] for p in pairs]),
        "verdicts": _count(choices),
        "choices": _range(choices, of=next(iter(MEASURES))),
    }


def _of_pair(records: Sequence[Mapping], pair: tuple[str, str], metrics: Mapping) -> dict:
    """A pair's numbers: "saved" (baseline / Flash in evaluations), "gained" (in the main measure over the baseline) and
    "choice" (over the best choice for all images), records or None; "wins": whether a few-step walk beats the baseline."""
    main, own = next(iter(MEASURES.values())), [r for r in records if (r["degradation"], r["solver"]) == pair]

    def of(claim: str, **entries: object) -> Mapping | None:
        found = (r for r in own if r["claim"] == claim and all(r[name] == value for name, value in entries.items()))
        return next((r for r in found if r["value"] is not None), None)

    ratio, head = of("nfe_ratio_100"), {"degradation": pair[0], "solver": pair[1]}
    budget = ratio["budget"] if ratio else max((float(b) for b in metrics["gains"]), default=None)
    choice = {"choice": of(CHOICE, budget=budget, measure=main.name), "budget": budget}
    head |= choice | {"wins": ratio is not None, "tested": metrics["nfe_ratio_100"]["tested"], "baseline": None}
    full = metrics["long"].get("full_length")
    head["baseline"] = full["nfe"]["value"] if full else None
    if ratio is None:
        start = {"start": main_rule(headline.starts(own))}
        return head | {"saved": of("nfe_ratio", **start), "gained": of(main.gain, **start), "also": []}
    over = metrics["gains"][f"{budget:g}"]["full_length"][metrics["nfe_ratio_100"]["tuned_for"]]
    names, study = metrics["distances"], own[0]["study"]
    gained, *also = (
        headline.record(measure.gain, study, *pair, over[measure.gain], budget=budget, distances=names)
        for measure in in_figures()
    )
    return head | {"saved": ratio, "gained": gained, "also": also}


def _range(records: Sequence[Mapping | None], of: str | None = None) -> dict | None:
    """Median and range of the records' values (of one measure), and the records at both ends; None without any."""
    known = sorted(
        (r for r in records if r and r["value"] is not None and of in (None, r["measure"])), key=lambda r: r["value"]
    )
    if not known:
        return None
    middle = known[len(known) // 2] | {"value": median(r["value"] for r in known), "low": None}
    return {"low": known[0], "high": known[-1], "median": middle, "n": len(known), "verdicts": _count(known)}


def _count(records: Sequence[Mapping]) -> dict[str, int]:
    """How many of the records have each verdict in words, and "all"."""
    words = [in_words(r) for r in records]
    return {word: words.count(word) for word in dict.fromkeys(words)} | {"all": len(words)}


def outcomes(listed: Listed) -> dict:
    """What comes out and what does not, from the records that a page lists.

    "paper": verdicts of the paper's claims, counted; "failed": of its claims that are not reproduced everywhere, each
    with its words, how often it failed and was tested, and where; "own": the same of this project's comparisons that are
    not ahead everywhere ("not_ahead") and of its bounds that are not met everywhere ("not_met").
    """
    records = {which: [r for r in listed.records if kind(r["claim"]) == which] for which in ("paper", "own")}
    return {
        "paper": _count(records["paper"]),
        "failed": _short(records["paper"], {"not reproduced"}),
        "not_ahead": _short(records["own"], {"level", "behind"}),
        "not_met": _short(records["own"], {"not met"}),
    }


def _short(records: Sequence[Mapping], bad: set[str]) -> list[dict]:
    """Claims with a bad verdict anywhere: {"claim", "label", "bad", "of", "where"}."""
    found = []
    for claim in dict.fromkeys(r["claim"] for r in records):
        of = [r for r in records if r["claim"] == claim and in_words(r) != "described"]
        worse = [r for r in of if in_words(r) in bad]
        if worse:
            where = list(dict.fromkeys(r["degradation"].replace("_", " ") for r in worse))
            found.append({"claim": claim, "record": worse[0], "bad": len(worse), "of": len(of), "where": where})
    return found
