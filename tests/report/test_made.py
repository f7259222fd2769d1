"""The end of the page: seeds of every training and of noise, and hashes of what the results were made of."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from flashdiff.report import sections
from flashdiff.report.made import inputs, made, seeds, without_comments
from flashdiff.report.names import DISTANCES
from flashdiff.report.template import render
from flashdiff.study.records import write_json

ROOT = Path(__file__).parents[2]
PARAMETERS = """study: toy
seed: 3
other_seeds: [11, 12]
severity: {init: data/first}
pairs: {a: {}}
"""
PRIOR_CARD = """# Prior
- autoencoder: channels [8, 16], learning_rate 0.002, seed 4
- denoiser: channels [8], seed 15, head 8
- diffusion: n_steps 40
"""
ENCODER_CARD = """# Encoder
```json
{
  "seed": 27,
  "severity": {"seed_of_another_thing": 5}
}
```
"""
DVC = "stages:\n  download: {cmd: x}\n  reconstruct: {foreach: [a], do: {cmd: x}}\n"
MD5 = "0123456789abcdef" * 2


def locked(path, md5=MD5, **size):
    return {"path": path, "hash": "md5", "md5": md5, **size}


LOCK = {
    "schema": "2.0",
    "stages": {
        "an_older_name": {"deps": [locked("data/forgotten", "f" * 32)], "outs": [locked("data/prior", "0" * 32)]},
        "download": {"outs": [locked("data/splits", f"{MD5}.dir", size=5000, nfiles=7), locked("reports/metrics/data.json")]},
        "reconstruct@removed": {"deps": [locked("data/tuned/removed.json", "d" * 32)]},
        "reconstruct@a": {
            "deps": [locked("data/tuned/a.json", "e" * 32, size=10), locked("data/prior", size=1), locked("data/severity/a.recipe.json")],
            "outs": [locked("data/results/rows.parquet")],
        },
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """What the end of the page reads of a study."""
    for name, text in {
        "params.yaml": PARAMETERS, "dvc.yaml": DVC, "dvc.lock": json.dumps(LOCK),
        "data/prior/README.md": PRIOR_CARD, "data/first/README.md": ENCODER_CARD,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_seeds_are_those_of_the_study_and_of_the_cards(folder):
    cards = {"data/prior": {"autoencoder": 4, "denoiser": 15}, "data/first": {"": 27}}
    assert seeds(folder) == {"study": 3, "other": [11, 12], "cards": cards}


def test_inputs_are_those_of_the_stages_that_the_study_has(folder):
    """No results, no reports, no recipes; nothing of a stage that was renamed, or of a pair that was removed."""
    found = [(entry["path"], entry["md5"], entry["size"], entry["files"]) for entry in inputs(folder)]
    assert found == [
        ("data/splits", MD5, 5000, 7),
        ("data/prior", MD5, 1, None),
        ("data/tuned/a.json", "e" * 32, 10, None),
    ]


@pytest.mark.parametrize("missing", ["params.yaml", "dvc.lock", "dvc.yaml", "data/prior/README.md"])
def test_what_is_not_known_is_left_out(folder, missing):
    (folder / missing).unlink()
    assert (seeds(folder)["study"] is None) == (missing == "params.yaml")
    assert bool(inputs(folder)) != missing.startswith("dvc")
    assert ("data/prior" in seeds(folder)["cards"]) != missing.startswith("data")


def end_of_page(folder):
    shown = {"notebooks": {}, "own_features": True, "frechet": False, "distances": DISTANCES["features"]}
    return render("made.html.j2", made=made(folder, []), **shown)


def test_the_page_says_seeds_and_hashes_in_a_fold(folder):
    write_json(folder / "reports/metrics/data.json", {"test": {"images": 8, "sha256": "ab" * 32}, "overlap": {}})
    fold = end_of_page(folder).partition("<summary>Seeds, and hashes")[2].partition("</details>")[0]
    assert "Seed 3 keys" in fold and "seeds 11 and 12" in fold and "test <code>abababababab</code>" in fold
    assert "By its card, data/prior was trained with seed 4 (autoencoder), 15 (denoiser)." in fold
    assert "By its card, data/first was trained with seed 27." in fold
    rows = re.findall(r"<tr><td>(data/[^<]+)</td><td><code>(\w+)</code></td><td>(\d+)</td><td>(\d+)</td></tr>", fold)
    assert rows == [
        ("data/splits", MD5[:10], "7", "5"), ("data/prior", MD5[:10], "1", "0"), ("data/tuned/a.json", "e" * 10, "1", "0"),
    ]  # fmt: skip


def test_a_page_without_any_of_it_has_no_such_fold(tmp_path):
    assert "Seeds, and hashes" not in end_of_page(tmp_path)


@pytest.mark.parametrize("high", [1.0, 1.1], ids=["equal by construction", "equal by chance"])
def test_quality_over_cost_is_left_out_where_all_walks_cost_the_same(tmp_path, high):
    """As 40 evenly spaced steps from every start do; a ratio with an interval is a measured one. The other pair keeps its own."""
    names = {"quality_against_steps", "quality_of_methods"}
    for pair in ("blur-ldps", "inpainting-ldps"):
        for name in names:
            path = tmp_path / f"figures/reconstruct-{pair}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(path)
    ratio = {"claim": "nfe_ratio", "start": "published", "solver": "ldps", "verdict": "described"}
    records = [
        ratio | {"degradation": "blur", "value": 1.0, "low": 1.0, "high": high},
        ratio | {"degradation": "inpainting", "value": 9.0, "low": 8.0, "high": 10.0},
    ]

    def shown(degradation):
        found = sections.section(tmp_path, degradation, ["ldps"], DISTANCES["features"], records, [])
        return {figure["name"] for part in found["pairs"][0]["parts"] for figure in part["figures"]}

    assert shown("inpainting") == names
    assert shown("blur") == (names - {"quality_against_steps"} if high == 1 else names)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))], ids=str)
def test_parameters_without_comments_are_the_same_parameters(path):
    text, yaml = path.read_text(encoding="utf-8"), YAML(typ="safe")
    short = without_comments(text)
    assert yaml.load(short) == yaml.load(text)
    assert len(short.splitlines()) < len(text.splitlines()) and "\n\n" not in short


@pytest.mark.parametrize(
    "text", ["a: 'x # y'  # z", 'a: "x # y"', "a: x#y # z", "# head\n\na: 1\n\n\nb: [1, 2]  # both\n"]
)
def test_a_sign_in_a_text_begins_no_comment(text):
    yaml = YAML(typ="safe")
    assert yaml.load(without_comments(text)) == yaml.load(text)
