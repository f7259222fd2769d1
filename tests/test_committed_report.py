"""What is in git to be read without running anything: complete, consistent, and the source of the README's numbers."""

import json
import re
from pathlib import Path

import pytest

from flashdiff import readme
from flashdiff.headline import RULES
from flashdiff.study import load

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"


@pytest.fixture(scope="module")
def records():
    return json.loads((REPORTS / "headline.json").read_text(encoding="utf-8"))


def test_every_claim_of_every_pair_is_there(records):
    study = load(ROOT / "params.yaml")
    pairs = {(pair.degradation, pair.solver) for pair in study.pairs.values()}
    for claim in RULES:
        assert {(r["degradation"], r["solver"]) for r in records if r["claim"] == claim} == pairs, claim
    assert {r["study"] for r in records} == {study.study}


def test_records_are_of_the_committed_study(records):
    """A report of other parameters than those of params.yaml would show another number of images."""
    study = load(ROOT / "params.yaml")
    counts = {r["claim"]: r["n"] for r in records}
    assert counts["ordering_accuracy"] == study.ordering.n_images
    assert counts["spearman_error"] == study.correlation.n_images
    assert counts["psnr_gain_db"] == study.reconstruction.n_images


def test_page_links_only_what_is_there():
    page = (REPORTS / "index.html").read_text(encoding="utf-8")
    targets = re.findall(r'(?:src|href)="([^"#:]+)"', page)
    assert len(targets) > 20
    for target in targets:
        assert (REPORTS / target).is_file(), target


def test_readme_shows_the_numbers_of_the_reports():
    """After a new study: `make readme`."""
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.current(ROOT)


def test_readme_shows_a_figure_that_is_there():
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert figures
    for figure in figures:
        assert (ROOT / figure).is_file(), figure
