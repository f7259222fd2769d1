"""A stage's digest changes exactly when its notebook or the code it reaches changes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML

from flashdiff.study.digests import PACKAGE, code_of_module, code_of_notebook, of_stage, reachable, write

NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.name[0].isdigit()]
COMPUTING = ("01_download", "02_train_prior", "02_use_prior", "04_train_severity", "05_measure_severity",
             "08_tune_step_size", "09_reconstruct", "12_tune_budgets", "13_walk_budgets", "14_other_seeds",
             "17_ablation", "19_robustness", "21_baseline", "22_examples", "24_confidence", "26_allocation", "28_spread",
             "30_calibrated_start", "32_shift", "34_blind", "36_frechet")  # fmt: skip
DRAWING = ("03_look_at_prior", "06_ordering_accuracy", "07_severity_correlation", "10_reconstruction", "11_speed_up",
           "15_frontier", "16_report", "18_show_ablation", "20_show_robustness", "23_show_examples", "25_show_confidence",
           "27_show_allocation", "29_show_spread", "31_show_calibrated_start", "33_show_shift", "35_show_blind")  # fmt: skip
MODULES = {
    "__init__": '"""Package."""\n',
    "direct": "from pkg import second\n\n\ndef work():\n    return second.VALUE\n",
    "second": "VALUE = 1\n",
    "late": 'def work():\n    """Import late."""\n    from pkg.deep.inner import VALUE\n\n    return VALUE\n',
    "deep/__init__": "LEVEL = 1\n",
    "deep/inner": "import pkg.last\n\nVALUE = pkg.last.VALUE\n",
    "last": "VALUE = 1\n",
    "circle": "import pkg.direct\nimport pkg.circle\n",
    "other": "VALUE = 1\n",
    "page": 'TEMPLATE = "templates/page.html"\n',
}
REACHED = ["circle", "deep/__init__", "deep/inner", "direct", "last", "late", "page", "second"]


@pytest.fixture
def package(tmp_path):
    """A small package; the notebook beside it imports circle, late and page."""
    for name, source in MODULES.items():
        path = tmp_path / "pkg" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (tmp_path / "pkg" / "templates").mkdir()
    (tmp_path / "pkg" / "share" / "templates" / "page").mkdir(
        parents=True
    )  # a folder, as other programs' templates are
    for name in ("page.html", "unused.html"):
        (tmp_path / "pkg" / "templates" / name).write_text("<p>\n")
    return tmp_path / "pkg"


@pytest.fixture
def notebook(tmp_path):
    v4 = nbformat.v4
    parameters = v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    cells = [v4.new_markdown_cell("# Title"), parameters]
    cells += [v4.new_code_cell("import pkg.circle\nfrom pkg import late, page\n"), v4.new_code_cell("seed + 1")]
    path = tmp_path / "01_work.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def edit(notebook, change):
    content = nbformat.read(notebook, as_version=4)
    change(content)
    nbformat.write(content, notebook)


def run_and_save(content):
    """What executing and saving in JupyterLab leaves behind."""
    cell = content.cells[3]
    cell.execution_count = 4
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1"}, execution_count=4)]
    cell.metadata["execution"] = {"iopub.execute_input": "2024-01-01T00:00:00Z"}
    content.metadata["language_info"] = {"name": "python", "version": "3.12.1"}
    cell["id"] = "another-id"


def test_saving_a_notebook_changes_nothing(notebook, package):
    before = of_stage(notebook, package)
    edit(notebook, run_and_save)
    assert of_stage(notebook, package) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.cells[3].update(source="seed + 2"),
        lambda content: content.cells[0].update(source="# Another title"),
        lambda content: content.cells[1].metadata.update(tags=[]),
        lambda content: content.cells.pop(),
    ],
    ids=["code", "text", "tag", "cell"],
)
def test_a_change_that_the_executed_notebook_shows_changes_the_digest(notebook, package, change):
    before = of_stage(notebook, package)
    edit(notebook, change)
    assert of_stage(notebook, package) != before


DOCUMENTED = '''"""Module."""

CONSTANT = 1
"""What it is."""


class Thing:
    """Thing."""

    size: int = 2
    """Its size."""

    def work(self):
        """Work."""
        return "kept"  # a comment

    async def wait(self):
        """Only documented."""
'''
BARE = """CONSTANT = 1
class Thing:
    size: int = 2
    def work(self): return 'kept'
    async def wait(self):
        # nothing
        pass
"""


def test_comments_docstrings_and_layout_are_not_code():
    assert code_of_module(DOCUMENTED) == code_of_module(BARE)


@pytest.mark.parametrize(("old", "new"), [("2", "3"), ("'kept'", "'other'"), ("async def", "def"), ("pass", "wait()")])
def test_code_is_code(old, new):
    assert old in BARE
    assert code_of_module(BARE.replace(old, new)) != code_of_module(BARE)


def test_a_mended_docstring_changes_no_digest(notebook, package):
    before = of_stage(notebook, package)
    late = package / "late.py"
    late.write_text("# A comment.\n" + late.read_text().replace("Import late.", "Import only when asked."))
    assert of_stage(notebook, package) == before


def test_reachable_follows_imports_through_modules_and_functions(package):
    found = reachable("import pkg.circle\nfrom pkg import late, page\n", package)
    assert found == sorted(package / f"{name}.py" for name in REACHED)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import pkg", []),
        ("import pkg.second", ["second"]),
        ("import pkg.deep.inner as inner", ["deep/__init__", "deep/inner", "last"]),
        ("from pkg import second as s, VALUE", ["second"]),
        ("from pkg.deep import LEVEL", ["deep/__init__"]),
        ("from pkg.deep import inner", ["deep/__init__", "deep/inner", "last"]),
        ("import other, pkgs.second", []),
        ("if False:\n    import pkg.second", ["second"]),
    ],
)
def test_reachable_reads_every_form_of_import(package, source, names):
    assert reachable(source, package) == sorted(package / f"{name}.py" for name in names)


@pytest.mark.parametrize("name", REACHED)
def test_a_change_of_a_reached_module_changes_the_digest(notebook, package, name):
    before = of_stage(notebook, package)
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "ADDED = 1\n")
    assert of_stage(notebook, package) != before


@pytest.mark.parametrize("name", ["other", "__init__"])
def test_a_change_of_another_module_changes_nothing(notebook, package, name):
    before = of_stage(notebook, package)
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "ADDED = 1\n")
    assert of_stage(notebook, package) == before


def test_a_template_counts_with_the_module_that_names_it(notebook, package):
    before = of_stage(notebook, package)
    (package / "templates" / "unused.html").write_text("<b>\n")
    assert of_stage(notebook, package) == before
    (package / "templates" / "page.html").write_text("<b>\n")
    assert of_stage(notebook, package) != before


def test_another_value_in_the_parameters_cell_changes_nothing(notebook, package):
    """A stage replaces it, and depends on the study's values."""
    before = of_stage(notebook, package)
    edit(notebook, lambda content: content.cells[1].update(source="seed = 7"))
    assert of_stage(notebook, package) == before


def test_magics_and_shell_lines_are_read(notebook, package):
    edit(notebook, lambda content: content.cells[3].update(source="%timeit seed + 1\n!ls\nfrom pkg import other"))
    assert " other.py\n" in of_stage(notebook, package)


def test_a_cell_that_is_no_python_is_named_and_stops_nothing(notebook, tmp_path, capsys):
    edit(notebook, lambda content: content.cells[3].update(source="seed +"))
    with pytest.raises(SyntaxError, match=r"01_work.ipynb: cell 4 \(seed \+\) is no Python: invalid syntax"):
        of_stage(notebook)
    write(notebook.parent, tmp_path / "source")
    said = capsys.readouterr().err
    assert (
        said.startswith("01_work.ipynb: no stage can run it (01_work.ipynb: cell 4 (seed +)") and said.count("\n") == 1
    )
    assert (tmp_path / "source/01_work.txt").is_file()


def test_notebooks_without_a_number_are_not_looked_at(notebook, tmp_path):
    (notebook.parent / "mine.ipynb").write_text("no notebook at all")
    write(notebook.parent, tmp_path / "source")
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["01_work.txt"]


def test_write_makes_one_digest_per_numbered_notebook(tmp_path):
    write(NOTEBOOKS[0].parent, tmp_path / "source")
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == [f"{n.stem}.txt" for n in NUMBERED]
    for notebook in NUMBERED:
        assert (tmp_path / "source" / f"{notebook.stem}.txt").read_text(encoding="utf-8") == of_stage(notebook)


LOADED = """
import ast, json, sys
from pathlib import Path

files = {}
for name in sys.argv[1:]:
    cells = json.loads(Path(name).read_text(encoding="utf-8"))["cells"]
    for module in [module for module in sys.modules if module.split(".")[0] == "flashdiff"]:
        del sys.modules[module]
    for cell in cells:
        if cell["cell_type"] == "code":
            for statement in ast.parse("".join(cell["source"])).body:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    exec(ast.unparse(statement))
    files[name] = [module.__file__ for key, module in sys.modules.items() if key.startswith("flashdiff.")]
print(json.dumps(files))
"""


@pytest.fixture(scope="module")
def loaded():
    """Per notebook, the files of the package that its import lines load in a fresh Python."""
    command = [sys.executable, "-c", LOADED, *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_loads_is_in_its_digest(notebook, loaded):
    cells = nbformat.read(notebook, as_version=4).cells
    found = reachable("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    assert loaded[str(notebook)]
    assert {Path(name) for name in loaded[str(notebook)]} <= set(found)


def test_the_package_has_no_relative_imports():
    """The digest reads absolute ones only."""
    for path in PACKAGE.rglob("*.py"):
        assert not any(line.lstrip().startswith("from .") for line in path.read_text(encoding="utf-8").splitlines()), (
            path
        )


def modules_of(name):
    """The modules of the package in the digest of a notebook."""
    _, code = code_of_notebook(NOTEBOOKS[0].parent / f"{name}.ipynb")
    return {path.relative_to(PACKAGE).as_posix() for path in reachable(code)}


def test_every_numbered_notebook_computes_or_draws():
    assert sorted((*COMPUTING, *DRAWING)) == [path.stem for path in NUMBERED]


def test_make_figures_draws_with_every_notebook_that_draws():
    root = PACKAGE.parent
    (listed,) = re.findall(r"^figures:.*\n.* --single-item (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"]
    commands = {name: entry.get("do", entry)["cmd"] for name, entry in stages.items()}
    drawing = {name for name, cmd in commands.items() if any(f"/notebooks/{stem}.ipynb " in cmd for stem in DRAWING)}
    assert set(listed.split()) == drawing and len(drawing) == len(DRAWING)


@pytest.mark.parametrize("name", COMPUTING)
def test_a_computing_stage_does_not_depend_on_drawing_the_schema_or_the_runner(name):
    """So a label, a table or an error sentence never costs an encoder or a reconstruction."""
    found = modules_of(name)
    assert not {module for module in found if module.startswith("report/")}
    assert not found & {"study/schema.py", "study/stage.py", "study/digests.py", "cli.py", "pipeline.py"}


@pytest.mark.parametrize(
    ("module", "notebooks"),
    [
        ("report/encoder_figures.py", {"03_look_at_prior", "06_ordering_accuracy", "07_severity_correlation"}),
        ("report/comparison_figures.py", {"10_reconstruction", "11_speed_up"}),
        ("report/frontier_figures.py", {"15_frontier"}),
        ("report/pair_figures.py", {"16_report"}),
        ("report/style.py", set(DRAWING)),
        ("study/schema.py", set()),
        ("datasets/lsun.py", {"01_download"}),
        ("weights/compvis_names.py", {"02_use_prior"}),
        (
            "training/severity.py",
            {"04_train_severity", "14_other_seeds", "17_ablation", "19_robustness", "32_shift", "34_blind"},
        ),
        ("trust/spread.py", {"28_spread"}),
        ("trust/allocation.py", {"16_report", "26_allocation", "27_show_allocation"}),
        ("trust/calibrated_start.py", {"30_calibrated_start"}),
        (
            "study/comparison.py",
            {
                "08_tune_step_size",
                "09_reconstruct",
                "12_tune_budgets",
                "13_walk_budgets",
                "14_other_seeds",
                "19_robustness",
                "21_baseline",
                "22_examples",
                "24_confidence",
                "26_allocation",
                "28_spread",
                "30_calibrated_start",
                "32_shift",
                "34_blind",
                "36_frechet",
            },
        ),
    ],
)
def test_an_edit_of_a_module_reruns_these_stages_and_no_other(module, notebooks):
    assert (PACKAGE / module).is_file()
    assert {path.stem for path in NUMBERED if module in modules_of(path.stem)} == notebooks
