"""What is in git to be read without running anything: complete, consistent, and the source of the README's numbers."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flashdiff.report import readme
from flashdiff.report.headline import rules
from flashdiff.study.records import write_json
from flashdiff.study.schema import load, select
from flashdiff.training.severity import recipe

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"


@pytest.fixture(scope="module")
def records():
    return json.loads((REPORTS / "headline.json").read_text(encoding="utf-8"))


def test_every_claim_of_every_pair_is_there(records):
    study = load(ROOT / "params.yaml")
    pairs = {(pair.degradation, pair.solver) for pair in study.pairs.values()}
    controls = () if study.reconstruction.controls else ("shuffled_severity", "random_start")  # which then do not walk
    for claim in rules():
        found = {(r["degradation"], r["solver"]) for r in records if r["claim"] == claim}
        assert found == (set() if claim in controls else pairs), claim
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
    for page, text in readme.current(ROOT).items():
        assert (ROOT / page).read_text(encoding="utf-8") == text, page


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1000


def test_readme_shows_a_figure_that_is_there():
    readme_text = (ROOT / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme_text) + re.findall(r'<img src="([^"]+)"', readme_text)
    assert len(figures) > 10
    for figure in figures:
        assert (ROOT / figure).is_file(), figure


@pytest.mark.parametrize("stage", ["tune", "tune_budgets", "other_seeds"])
def test_a_fresh_clone_does_not_choose_the_step_sizes_again(stage, tmp_path):
    """The stage depends on the recipe that training writes: the one in git's lock must be the one of today's code."""
    study = load(ROOT / "params.yaml")
    lock = YAML(typ="safe").load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    for name, pair in study.pairs.items():
        file = f"data/severity/{pair.degradation}.recipe.json"
        (locked,) = [dep["md5"] for dep in lock["stages"][f"{stage}@{name}"]["deps"] if dep["path"] == file]
        sections = select(study, "severity"), select(study, f"degradations.{pair.degradation}")
        write_json(tmp_path / file, recipe(study.seed, *sections))
        assert hashlib.md5((tmp_path / file).read_bytes()).hexdigest() == locked, name


def test_results_are_of_the_sources_that_the_lock_names():
    """A result that was only committed (`dvc commit`) would name other sources than its notebook ran with."""
    lock = YAML(typ="safe").load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
    compared = []
    for name, stage in lock["stages"].items():
        sources = [dep["md5"] for dep in stage.get("deps", []) if dep["path"].startswith(".build/source/")]
        notebooks = [out["path"] for out in stage["outs"] if out["path"].endswith(".ipynb")]
        if sources:
            metadata = json.loads((ROOT / notebooks[0]).read_text(encoding="utf-8"))["metadata"]
            assert metadata["flashdiff"]["source"] == sources[0], name
            compared.append(name.partition("@")[0])
    assert set(compared) >= {"train_severity", "measure_severity", "reconstruct", "compare", "report"}
