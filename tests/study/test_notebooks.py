"""Notebooks and the stages that run them agree, and a notebook only tells what the package does."""

import ast
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML

from flashdiff.study import stage
from flashdiff.study.schema import load

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.name[0].isdigit()]
STUDIES = [ROOT, *sorted(path.parent for path in ROOT.glob("studies/*/params.yaml"))]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = {name: entry.get("do", entry) for name, entry in STAGES.items()}  # foreach stages are one level deeper
RUN = "python -m flashdiff.study.stage run "
RUNNING = {name: entry for name, entry in STAGES.items() if entry["cmd"].startswith(RUN)}
SHIPPED = {
    "prior",
    "tune",
    "tune_budgets",
    "baseline",
    "other_seeds",
    "ablate",
    "robustness",
    "confidence",
    "shift",
    "blind",
    "spread",
    "calibrated",
    "allocation",
    "frechet",
}  # their results are in git and do not depend on code (docs/decisions.md)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
each_stage = pytest.mark.parametrize("name", RUNNING)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def working_cells(path):
    """The code cells after the parameters."""
    return [cell for cell in code_cells(path) if "parameters" not in cell.metadata.get("tags", [])]


def command(name, prior="train_prior"):
    """A stage's notebook, its output and its parameters, as dvc.yaml has them for studies of that kind of prior."""
    notebook, output, *items = shlex.split(RUNNING[name]["cmd"].removeprefix(RUN).replace("${prior.kind}", prior))
    return ROOT / notebook.removeprefix("${root}/"), output, items


def names_of(items):
    return [re.split(":?=", item, maxsplit=1)[0] for item in items]


def paths_of(items):
    """The study's parameters that a command hands over: all but plain texts."""
    return [item.partition("=")[2] or item for item in items if ":=" not in item]


@each_numbered
def test_a_numbered_notebook_is_run_by_one_stage(path):
    kinds = ("train_prior", "use_prior")
    assert len({name for name in RUNNING for prior in kinds if command(name, prior)[0] == path}) == 1


@each_stage
def test_a_stage_runs_a_numbered_notebook(name):
    assert command(name)[0] in NUMBERED


@each_numbered
def test_the_first_code_cell_is_the_one_parameters_cell(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged == [True] + [False] * (len(tagged) - 1)


@each_stage
def test_a_stage_gives_exactly_the_parameters_of_its_notebook(name):
    notebook, _, items = command(name)
    given = names_of(items)
    assert len(given) == len(set(given))
    assert set(given) == stage.notebook_parameters(notebook)


def handed_over(name, folder, prior="train_prior"):
    """What a stage gives its notebook in a study: of the first degradation and pair, where it goes over them."""
    study = load(folder / "params.yaml")
    pair = next(iter(study.pairs.values()))
    of_pairs = "${item.solver}" in RUNNING[name]["cmd"]
    degradation = pair.degradation if of_pairs else next(iter(study.degradations))
    _, _, items = command(name, prior)
    filled = [i.replace("${item.degradation}", degradation).replace("${item.solver}", pair.solver) for i in items]
    return stage.parse_parameters(study, filled)


def parameters_of(notebook):
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}


@each_stage
def test_the_parameters_cell_holds_the_default_study_s_values(name):
    """So Run All works by hand, and a researcher sees the values and changes one."""
    assert parameters_of(command(name)[0]) == handed_over(name, ROOT)


@each_stage
@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_every_study_gives_values_of_the_same_types(name, folder):
    types = {key: type(value) for key, value in parameters_of(command(name)[0]).items()}
    assert {key: type(value) for key, value in handed_over(name, folder).items()} == types


@each_stage
def test_what_a_stage_hands_over_reruns_it_when_it_changes(name):
    declared = RUNNING[name].get("params", [])
    for path in paths_of(command(name)[2]):
        assert any(path == key or path.startswith(f"{key}.") for key in declared), path


@each_stage
def test_a_stage_declares_no_parameter_that_it_does_not_hand_over(name):
    assert set(RUNNING[name].get("params", [])) == set(paths_of(command(name)[2]))


@each_stage
def test_a_stage_depends_on_the_digest_of_its_notebook(name):
    digests = [path for path in RUNNING[name]["deps"] if path.startswith(".build/")]
    expected = [] if name in SHIPPED else [f".build/source/{command(name)[0].stem}.txt"]
    assert digests == expected


@each_stage
def test_the_executed_notebook_is_an_output_of_its_stage(name):
    notebook, output, _ = command(name)
    outputs = [key for entry in RUNNING[name]["outs"] if isinstance(entry, dict) for key in entry]
    assert output in [key.replace("${prior.kind}", "train_prior") for key in outputs]
    assert Path(output).name.startswith(notebook.stem)


@pytest.mark.parametrize("name", STAGES)
def test_commands_are_written_tidily(name):
    """A blank more or less would rerun the stage."""
    assert STAGES[name]["cmd"] == " ".join(STAGES[name]["cmd"].split())


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_every_study_has_the_same_stages(folder):
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()


@each_notebook
def test_outputs_go_below_the_folder_that_enter_study_returns(path):
    """Else a notebook that is run by hand would overwrite what the study has made."""
    writers = re.compile(
        r"(figures\.save|tables\.save|save_pretrained|write_\w+|save_images|savez_compressed|headline\.write)\("
    )
    folders = {"out"}
    for cell in working_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assign) and any(
                isinstance(n, ast.Name) and n.id in folders for n in ast.walk(node.value)
            ):
                folders |= {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            if isinstance(node, ast.Call) and writers.match(ast.unparse(node.func) + "("):
                named = {n.id for argument in node.args for n in ast.walk(argument) if isinstance(n, ast.Name)}
                assert named & folders, ast.unparse(node)


@each_numbered
def test_the_first_lines_say_what_it_reads_and_what_it_takes(path):
    text = nbformat.read(path, as_version=4).cells[0].source
    assert re.search(r"^Reads .*(; takes|; it takes| takes )", text, re.MULTILINE | re.DOTALL), text


@each_numbered
def test_the_last_cell_says_what_came_out(path):
    assert "print(" in code_cells(path)[-1].source


@each_notebook
def test_no_stored_outputs(path):
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, cell.source


@each_notebook
def test_no_functions_or_classes(path):
    """They belong into the package, where they are tested."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for cell in code_cells(path):
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(cell.source))), cell.source


def numbers_given_a_name(source):
    """Lines that assign a number, or a list or tuple with one, to a variable."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            entries = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("line", ["n = 3", "n: int = -1", "n += 2", "a, b = 1, 'x'", "sizes = [0.5]", "print(n := 3)"])
def test_a_number_with_a_name_is_found(line):
    assert numbers_given_a_name(line)


@pytest.mark.parametrize("line", ["n = len(x)", "name = 'a'", "f(seed=0)", "on = True", "n: int", "x = y[:3]"])
def test_other_lines_are_no_numbers_with_a_name(line):
    assert not numbers_given_a_name(line)


@each_notebook
def test_settings_come_from_the_study(path):
    for cell in working_cells(path):
        assert numbers_given_a_name(cell.source) == []


def from_the_package(cells):
    """Per cell, whether it uses what flashdiff gives: its own names, or variables made with them in any cell so far."""
    known, answers = set(), []
    for cell in cells:
        uses = False
        for statement in ast.parse(cell.source).body:
            nodes = list(ast.walk(statement))
            if isinstance(statement, ast.ImportFrom) and statement.module.partition(".")[0] == "flashdiff":
                known |= {alias.asname or alias.name for alias in statement.names}
            names = [node for node in nodes if isinstance(node, ast.Name)]
            if any(node.id in known for node in names if isinstance(node.ctx, ast.Load)):
                uses = True
                known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        answers.append(uses)
    return answers


@each_notebook
def test_every_cell_uses_the_package(path):
    cells = working_cells(path)
    assert len(cells) > 1
    for cell, uses in zip(cells, from_the_package(cells), strict=True):
        assert uses, cell.source
