"""reports/index.html: the study on one static page, from the files its stages wrote. Works offline.

Equal results give equal bytes, but for the end, which says when and where they were made: revision, hardware, run times.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from flashdiff.measures import in_figures
from flashdiff.report import headline, tables
from flashdiff.report.claims import Listed, in_words, kind, listed, rules
from flashdiff.report.display import html, readable
from flashdiff.report.executed import FOLDER, of_study
from flashdiff.report.made import made
from flashdiff.report.names import DISTANCES, solver_label
from flashdiff.report.opening import first_screen, outcomes
from flashdiff.report.pictures import read_row
from flashdiff.report.sections import figure, of_all_pairs, section, title
from flashdiff.report.sentences import encoder_sentence, sentence
from flashdiff.report.template import module, render
from flashdiff.report.weak import weak_pairs
from flashdiff.study.methods import main_rule
from flashdiff.study.records import read_json

MANY = 4
"""More pairs than this: the page opens with the figure of all pairs, not with the frontier of each."""
LONG = 40
"""A table with more rows than this is folded by degradation."""
OPENING = "frontier"
"""The figure of each pair that stands on the first screen, where there is room for all pairs'."""
PICTURES = "comparisons/pictures"
NUMBERS = {2: "two", 3: "three", 4: "four"}


def assemble(
    folder: str | Path,
    study: str,
    degradations: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    target: str | Path | None = None,
) -> Path:
    """Write the page of a study's folder from its metrics, tables, figures and pictures; returns its path.

    target: by default reports/index.html below the folder, where its links lead. Raises FileNotFoundError naming a missing
    metrics file.
    """
    folder, reports, pairs = Path(folder), Path(folder) / "reports", list(pairs)
    records = headline.collect(folder, study, degradations, pairs)
    left_out = listed(records)
    budgets = {pair: read_json(reports / f"metrics/budgets-{'-'.join(pair)}.json") for pair in pairs}
    # what readers call the distances is the study's, and the same for all pairs
    distances = read_json(reports / f"metrics/reconstruction-{'-'.join(pairs[0])}.json")["distances"]
    starts, many = headline.starts(records), len(pairs) > MANY
    links, compared = _notebooks(reports, degradations, pairs), comparisons(folder, pairs)
    parts = [_section(reports, d, pairs, distances, records, many) for d in degradations]
    shown = {
        table["name"] for part in parts for pair in part["pairs"] for each in pair["parts"] for table in each["tables"]
    }
    page = render(
        "report.html.j2",
        study=study,
        n=max(r["n"] or 0 for r in records if r["claim"] == in_figures()[0].gain),
        screen=first_screen(left_out.records, budgets),
        found=outcomes(left_out),
        row=read_row(reports, PICTURES, pairs),
        opening=[] if many else _opening(reports, pairs, records),
        overview=_overview(reports, starts) if many else None,
        many=many,
        distances=distances,
        comparisons=_by_degradation(readable(compared, distances)),
        frechet="frechet" in {*compared, *shown},
        frechet_compared="frechet" in compared,
        across_solvers=_across_solvers(reports, distances),
        solvers=_figure(reports, "frontier_of_solvers"),
        main_start=main_rule(starts),
        paper=_claims(left_out.records, "paper"),
        own=_claims(left_out.records, "own"),
        timed="wall_clock_ratio" not in left_out.unmeasured,
        left_out=_named(left_out),
        sections=parts,
        trust=of_all_pairs(reports, distances),
        own_features=distances["perceptual"] == DISTANCES["features"]["perceptual"],
        notebooks=links,
        made=made(folder, [link["name"] for of_group in links.values() for link in of_group]),
    )
    path = reports / "index.html" if target is None else Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def comparisons(folder: str | Path, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """All pairs in one table, from their metrics files; raises FileNotFoundError naming a missing one."""
    metrics = Path(folder) / "reports/metrics"
    return tables.comparisons({(d, s): read_json(metrics / f"reconstruction-{d}-{s}.json") for d, s in pairs})


def _opening(reports: Path, pairs: Sequence[tuple[str, str]], records: Sequence[Mapping]) -> list[dict]:
    """The figures that open the page, those that were drawn."""
    paths = {pair: reports / "figures" / f"{OPENING}-{'-'.join(pair)}" / f"{OPENING}.png" for pair in pairs}
    weak = weak_pairs(records)
    return [figure(reports, path, *pair, pair in weak) for pair, path in paths.items() if path.is_file()]


def _figure(reports: Path, name: str) -> dict | None:
    """A figure of all pairs; None where it was not drawn."""
    path = reports / "comparisons" / f"{name}.png"
    return figure(reports, path) if path.is_file() else None


def _overview(reports: Path, starts: Sequence[str]) -> dict | None:
    """The figure of all pairs with its caption; None where it was not drawn."""
    if (drawn := _figure(reports, "gains_of_pairs")) is None:
        return None
    count = len(in_figures())
    rules_drawn = (
        "one start rule" if len(starts) == 1 else "both start rules" if len(starts) == 2 else "all start rules"
    )
    caption = module("captions.j2").figures[drawn["name"]]
    return drawn | {"caption": caption.format(panels=NUMBERS.get(count, count), starts=rules_drawn)}


def _across_solvers(reports: Path, distances: Mapping[str, str]) -> str | None:
    """The table of all solvers against one reference; None where every degradation has one solver."""
    path = reports / "comparisons/across_solvers.csv"
    if not path.is_file() or (table := pd.read_csv(path)).degradation.is_unique:
        return None
    return html(readable(table, distances))


def _by_degradation(table: pd.DataFrame, long: int = LONG) -> list[dict]:
    """A table of all degradations as [{"title", "html"}]: one, or one per degradation where it is long."""
    if len(table) <= long:
        return [{"title": "", "html": html(table)}]
    parts = table.groupby("degradation", sort=False)
    return [{"title": title(name), "html": html(part.drop(columns="degradation"))} for name, part in parts]


def _claims(records: Sequence[Mapping], whose: str) -> list[dict]:
    """The table of the paper's claims or of this project's own, what is claimed of an encoder said once, and folded by
    degradation where it is long: [{"title", "counts", "html"}]."""
    own = [r for r in records if kind(r["claim"]) == whose]
    of_encoder = {
        (r["degradation"], r["claim"]): {**r, "solver": None} for r in own if r["claim"] in headline.PER_ENCODER
    }
    own = [*of_encoder.values(), *(r for r in own if r["claim"] not in headline.PER_ENCODER)]
    groups, solvers = {"": own}, {r["solver"] for r in records} - {None}
    if len(own) > LONG:
        names = dict.fromkeys(r["degradation"] for r in own)
        groups = {name: [r for r in own if r["degradation"] == name] for name in names}
    return [
        {
            "title": title(name),
            "counts": pd.Series(map(in_words, part)).value_counts(),
            "html": _coloured(part, without=["degradation"] * bool(name) + ["solver"] * (len(solvers) < 2)),
        }
        for name, part in groups.items()
    ]


def _coloured(records: Sequence[Mapping], without: Sequence[str]) -> str:
    """Records as a table of HTML without some columns, each verdict with a class of its own."""
    text = html(headline.to_frame(records).drop(columns=without))
    for words in {in_words(r) for r in records}:
        text = text.replace(f"<td>{words}</td>", f'<td class="verdict {words.replace(" ", "-")}">{words}</td>')
    return text


def _named(left_out: Listed) -> dict[str, list[str]]:
    """What the page does not list, in words."""
    everywhere = [rules()[claim].label.format(measure="any measure", budget="any") for claim in left_out.unmeasured]
    equal = [f"{solver_label(solver)} on {d.replace('_', ' ')}" for d, solver in left_out.equal_cost]
    return {"unmeasured": everywhere, "equal_cost": equal}


def _section(
    reports: Path,
    degradation: str,
    pairs: Sequence[tuple[str, str]],
    distances: Mapping[str, str],
    records: Sequence[Mapping],
    many: bool,
) -> dict:
    """A degradation's section with its sentences, and of each pair what a folded one says of itself."""
    solvers = [solver for d, solver in pairs if d == degradation]
    order, elsewhere = list(module("captions.j2").figures), () if many else (OPENING,)
    found = section(reports, degradation, solvers, distances, records, order, elsewhere)
    for pair in found["pairs"]:
        own = [r for r in records if (r["degradation"], r["solver"]) == (degradation, pair["solver"])]
        walk = [r for r in own if r["start"] == main_rule(headline.starts(own))]
        main = in_figures()[0].gain
        pair["saved"] = next((r for r in walk if r["claim"] == "nfe_ratio"), None)
        pair["gained"] = next((r for r in walk if r["claim"] == main), None)
        pair["sentence"] = sentence(records, degradation, pair["solver"])
    return found | {"sentence": encoder_sentence(records, degradation)}


def _notebooks(reports: Path, degradations: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, list[dict]]:
    """Links to the executed notebooks, as pages where they were made, by degradation ("": those of the study)."""

    def link(path: Path) -> dict:
        page = reports / FOLDER / f"{path.stem}.html"
        source = path.relative_to(reports).as_posix()
        if page.is_file():
            return {"name": path.stem, "href": page.relative_to(reports).as_posix(), "source": source}
        return {"name": path.stem, "href": source, "source": None}

    return {group: [link(path) for path in paths] for group, paths in of_study(reports, degradations, pairs).items()}
