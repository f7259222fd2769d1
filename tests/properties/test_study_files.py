"""Study files as a user could break them: refused in sentences by every door, before any work; or good, and then wholly so."""

import contextlib
import copy
import io
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from property_cases import EVIL, GOOD, REFUSED, check_sentence, count, examples, mutated, nothing_starts, outcome
from repositories import ROOT
from ruamel.yaml import YAML

from flashdiff import cli, degradations, solvers
from flashdiff.degradations import measure
from flashdiff.study import stage
from flashdiff.study.schema import Study, StudyError, load, select

FILES = [
    ROOT / "params.yaml",
    *(ROOT / f"studies/{name}/params.yaml" for name in ("smoke", "ffhq-256", "lsun-bedrooms-256")),
]
STUDIES = [YAML(typ="safe").load(path.read_text(encoding="utf-8")) for path in FILES]
NUMBERS = [-1, 0, 1, 2, 3, 7, 16, 2**31, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.5, -0.5, 1e-9, 5e-324, 1e19, 1e30, 1e308, -1e308,
           float("nan"), float("inf"), -float("inf")]  # fmt: skip
KINDS = ["ldps", "psld", "resample", "latent_daps", "gaussian_blur", "motion_blur", "super_resolution", "mixture", "encoded_blur",
         "strided", "growing", "train_prior", "use_prior", "published", "fixed", "hugging_face"]  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(EVIL), st.sampled_from(KINDS), st.integers(),
                    st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=5))  # fmt: skip
NAMES = st.one_of(st.sampled_from([*KINDS, *EVIL, "kind", "steps", "seed", "name", "walk"]), st.text(max_size=12), st.integers(-5, 5),
                  st.none(), st.booleans())  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=6
)


def places(tree, path=()):
    """The path of every value below a study."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


PLACES = [list(places(tree)) for tree in STUDIES]


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def set_(section, key, value, draw):
    section[key] = value


def remove(section, key, value, draw):
    del section[key]


def add(section, key, value, draw):
    if isinstance(section, dict):
        section[draw(NAMES)] = value
    else:
        section.append(value)


def rename(section, key, value, draw):
    if isinstance(section, dict):
        section[draw(NAMES)] = section.pop(key)
    else:
        section.append(copy.deepcopy(section[key]))


def wrap(section, key, value, draw):
    section[key] = draw(st.sampled_from([[section[key]], {"x": section[key]}, str(section[key]), [section[key]] * 2]))


def another(section, key, value, draw):
    """The value of another place, as copying a section to where it does not belong does."""
    tree = draw(st.sampled_from(STUDIES))
    section[key] = copy.deepcopy(at(tree, draw(st.sampled_from(list(places(tree))))))


@st.composite
def broken_studies(draw, most=3):
    """A shipped study with one to three changes."""
    number = draw(st.integers(0, len(STUDIES) - 1))
    tree = copy.deepcopy(STUDIES[number])
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(PLACES[number]))
        change = draw(st.sampled_from([set_, set_, set_, remove, add, rename, wrap, another]))
        # an earlier change took the place away
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
            change(at(tree, path[:-1]), path[-1], draw(VALUES), draw)
    return tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder below the repository's root as far as a study can tell: its path to the repository is of plain letters."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(autouse=True)
def within(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FLASHDIFF_STUDY", raising=False)


def said(main, arguments):
    """(exit status, what was said on stderr) of a command."""
    complaints = io.StringIO()
    with nothing_starts(), contextlib.redirect_stderr(complaints), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as error:  # argparse
            status = error.code
    return status, complaints.getvalue()


def check_good(study):
    """What the schema takes is the same after a round trip, and every object of it can be made and used."""
    assert Study.model_validate(study.model_dump(mode="json")) == study
    again = json.loads(json.dumps(study.model_dump(mode="json")))
    assert Study.model_validate(again) == study
    for name in study.degradations:
        degradation, noise_std = degradations.build(select(study, f"degradations.{name}"))
        size, channels = study.data.image_size, study.data.channels
        if size <= 32 and "encoded" not in json.dumps(select(study, f"degradations.{name}")):
            for t in (0.0, 1.0):
                y = measure(torch.zeros(1, channels, size, size), degradation, t, noise_std, seed=study.seed).y
                assert y.isfinite().all()
    for name in study.solvers:
        solvers.build(select(study, f"solvers.{name}"))


DOORS = {
    "check": lambda: said(stage.main, ["check"]),
    "digest": lambda: said(stage.main, ["digest", "--into", "digests"]),
    "run": lambda: said(
        stage.main, ["run", str(ROOT / "notebooks/04_train_severity.ipynb"), "out.ipynb", "seed", "severity"]
    ),
    "train": lambda: said(cli.main, ["train", "gaussian_blur"]),
    "reconstruct": lambda: said(cli.main, ["reconstruct", "gaussian_blur", "ldps"]),
    "severity": lambda: said(cli.main, ["severity", str(ROOT / "params.yaml"), "--study", "."]),
    "restore": lambda: said(
        cli.main, ["restore", "x.png", "--degradation", "gaussian_blur", "--out", "o", "--study", "."]
    ),
}


def tried(what, door):
    """The study file at hand: refused by ``load`` and by a door, in the same sentences, or wholly good."""
    refusal = None
    with nothing_starts():
        try:
            study = load()
        except StudyError as error:
            refusal = str(error)
    if refusal is None:
        check_good(study)
        count(what, GOOD)
        return
    check_sentence(refusal)
    assert all(line.startswith("params.yaml") for line in refusal.split("\n"))
    status, complaint = DOORS[door]()
    assert status in (1, 2)
    check_sentence(complaint)
    assert refusal in complaint or door in ("severity", "restore")
    count(what, REFUSED)


def dumped(tree):
    text = io.StringIO()
    YAML(typ="safe").dump(tree, text)
    return text.getvalue().encode()


@given(tree=broken_studies(), door=st.sampled_from(list(DOORS)))
@examples(4000, 0.03)
def test_a_broken_study_is_refused_by_every_door(tree, door):
    """The tree stands for what YAML reads; the tests below have the file itself."""
    Path("params.yaml").touch()
    with patch.object(YAML, "load", lambda *_: copy.deepcopy(tree)):
        tried("study files: values, names, nesting", door)


@given(data=st.data(), door=st.sampled_from(list(DOORS)))
@examples(300, 0.05)
def test_a_damaged_study_file_is_refused_by_every_door(data, door):
    text = data.draw(st.sampled_from(FILES)).read_bytes()
    Path("params.yaml").write_bytes(data.draw(mutated(text)))
    tried("study files: bytes", door)


LINES = ["  <<: *a", "x: &a [*a]", "seed: *none", "seed: &a 0", "study: !!python/object/apply:os.system ['touch X']", "seed: 0",
         "\tseed: 0", "? [1, 2]", ": : :", "- - -", "---", "...", "%YAML 9.9", "seed: 0x10", "seed: 1_000", "seed: 01:20", "seed: !!int a",
         "root: 2020-13-45", "root: !!binary '*'", "'", '"', "{", "[" * 2000, "}", "seed: !!bool 0", "seed: " + "9" * 5000, "&a", "*a",
         "!x y: 1", "#", "&x: &x {x: *x}", "a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e]"]  # fmt: skip


@given(data=st.data(), door=st.sampled_from(list(DOORS)))
@examples(300, 0.05)
def test_lines_that_yaml_takes_for_more_than_a_value(data, door):
    lines = data.draw(st.sampled_from(FILES)).read_text(encoding="utf-8").split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        line = data.draw(st.one_of(st.sampled_from(LINES), st.sampled_from(lines)))
        lines[number : number + data.draw(st.integers(0, 1))] = [line]
    Path("params.yaml").write_text("\n".join(lines), encoding="utf-8")
    tried("study files: anchors, tags, lines", door)


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize("field", ["study", "root", "data.name"])
def test_what_becomes_part_of_a_command_is_of_plain_signs(field, value):
    tree = copy.deepcopy(STUDIES[1])
    *outer, last = field.split(".")
    at(tree, outer)[last] = value
    Path("params.yaml").write_bytes(dumped(tree))
    if (field == "root" and value in (".", "..", "/", "../../etc/passwd", "None")) or value in ("nul", "1e3", "true"):
        load()  # a text of plain signs, whatever it says
        return
    with pytest.raises(StudyError, match=field):
        load()


@pytest.mark.parametrize("value", [value for value in EVIL if not value.isidentifier() and value != "1e3"])
@pytest.mark.parametrize("section", ["degradations", "solvers", "pairs"])
def test_a_name_that_becomes_part_of_a_command_is_of_plain_signs(section, value):
    tree = copy.deepcopy(STUDIES[1])
    entries = tree[section]
    first = next(iter(entries))
    entries[value] = entries.pop(first)
    if section == "pairs":
        entries[value] = {"degradation": value, "solver": "ldps"}
    Path("params.yaml").write_bytes(dumped(tree))
    with pytest.raises(StudyError, match=section):
        load()


TEXTS = st.one_of(st.sampled_from(EVIL), st.text(max_size=30))


@given(texts=st.lists(TEXTS, min_size=2, max_size=2), number=st.floats(0, 1e9))
@examples(300, 0.1)
def test_values_reach_a_notebook_as_they_are(texts, number):
    """papermill writes them into a cell as Python: no text may become code there."""
    from papermill.translators import PythonTranslator

    values = {"path": texts[0], "section": {"images": texts[1], "list": [number, None, True, texts[0]]}}
    names = {}
    exec(PythonTranslator.codify(values), names)
    assert {name: names[name] for name in values} == values
    count("texts as a notebook's parameters", GOOD)


@given(tree=broken_studies(most=1))
@examples(300, 0.05)
def test_sections_of_a_good_study_are_selected_as_they_are_written(tree):
    """What a stage is given is what the file says: the schema adds what was left out, and changes nothing."""
    with contextlib.suppress(Exception):
        study = Study.model_validate(tree)
        for name, entry in tree["solvers"].items():
            assert select(study, f"solvers.{name}") == entry
        for field in ("seed", "root", "other_seeds"):
            assert select(study, field) == tree[field]


def test_the_tripwire_trips():
    from property_cases import Started

    for start in (lambda: os.system("true"), lambda: torch.optim.SGD([torch.zeros(1)], 0.1)):
        with pytest.raises(Started), nothing_starts():
            start()
    with pytest.raises(AssertionError), nothing_starts(), contextlib.suppress(Started):
        os.system("true")
    with pytest.raises(AssertionError):
        outcome("none", lambda: (_ for _ in ()).throw(ValueError("no end")))
