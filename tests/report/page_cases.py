"""A study's folder as its stages leave it, made up, and what tests ask of its page: what several test files need."""

import itertools
from html.parser import HTMLParser

import pandas as pd
from figure_cases import FROM_ROWS, draw
from synthetic import (
    ablation_rows,
    example_arrays,
    example_rows,
    reconstruction_rows,
    robustness_rows,
    severity_rows,
    write_metrics,
)

from flashdiff import figures
from flashdiff.report import ablation, frontier, headline, robustness, tables
from flashdiff.report import page as report
from flashdiff.report import pictures as opening_pictures
from flashdiff.study.records import read_json

STUDY, DEGRADATIONS, SOLVERS = "toy", ["gaussian_blur", "random_inpainting"], ["ldps"]
PAIRS = [(degradation, "ldps") for degradation in DEGRADATIONS]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What the tests ask of a page: elements with attributes, texts by element, rows of tables; tags must nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.rows, self.images = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "img":
            self.images.append((dict(attributes)["src"], set(self.open)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.append((tag, []))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        for tag, parts in self.texts[-1:] if self.open else []:
            if tag == self.open[-1]:
                parts.append(data)

    def attributes(self, name):
        """All values of an attribute, in the order of the page."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def inside(self, tag):
        """The sources of the images inside elements of that kind."""
        return [source for source, around in self.images if tag in around]

    def text_of(self, tag):
        """The text directly inside every element of that kind."""
        return ["".join(parts) for name, parts in self.texts if name == tag]


def write_study(folder, degradations=DEGRADATIONS, solvers=SOLVERS):
    """Reports of a study as its stages leave them: metrics, tables, a few figures and executed notebooks."""
    write_metrics(folder, degradations, solvers)
    reports, quality = folder / "reports", tables.quality_and_nfe(reconstruction_rows(), 100)
    (reports / "notebooks").mkdir()
    for degradation in degradations:
        figures.save(draw("ordering_by_pair"), reports / f"figures/order-{degradation}", "ordering_by_pair")
        # in another order than the page's
        for name in ("calibration", "severity_against_level"):
            figures.save(draw(name), reports / f"figures/correlate-{degradation}", name)
        figures.save(draw("ablation"), reports / f"figures/ablation-{degradation}", "ablation")
        tables.save(ablation.table(ablation_rows()), reports / "tables", f"ablation-{degradation}")
        (reports / f"notebooks/06_ordering_accuracy-{degradation}.ipynb").write_text("{}")
        tables.save(
            tables.severity_correlations(severity_rows(), 100),
            reports / "tables",
            f"severity_correlations-{degradation}",
        )
        for solver in solvers:
            item = f"{degradation}-{solver}"
            for name in ("gain_over_fixed", "frontier"):
                figures.save(draw(name), reports / f"figures/frontier-{item}", name)
            summary = read_json(reports / f"metrics/budgets-{item}.json")
            tables.save(frontier.budget_table(summary), reports / "tables", f"budgets-{item}")
            tables.save(frontier.gain_table(summary), reports / "tables", f"budget_gains-{item}")
            figures.save(draw("start_distribution"), reports / f"figures/reconstruct-{item}", "start_distribution")
            figures.save(draw("wall_clock"), reports / f"timings/speedup-{item}", "wall_clock")
            figures.save(draw("noise_robustness"), reports / f"figures/robustness-{item}", "noise_robustness")
            noise = robustness.noise_table(robustness_rows(), 100)
            tables.save(noise, reports / "tables", f"robustness_noise-{item}")
            tables.save(quality, reports / "tables", f"quality-{item}")
            paired = [
                tables.paired_comparison(reconstruction_rows(), method, baseline, 100)
                for method in ("flash_published", "flash_consistent")
                for baseline in ("full_length", "fixed_mean")
            ]
            tables.save(pd.concat(paired), reports / "tables", f"paired-{item}")
    for name in ("confidence", "intervals_held"):
        figures.save(draw(name), reports / "figures/confidence", name)
    tables.save(FROM_ROWS["intervals_held"][0](), reports / "tables", "confidence")
    pair = degradations[0], solvers[0]
    opening_pictures.save_row(example_rows(), example_arrays(), reports / report.PICTURES, pair, "6/adaptive/psnr")
    headline.write(
        headline.collect(folder, STUDY, degradations, list(itertools.product(degradations, solvers))),
        reports / "headline.json",
    )
