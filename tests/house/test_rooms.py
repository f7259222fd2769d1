"""The floors of the house: every module imports from its own floor or from those below it, never from above."""

import ast
from pathlib import Path

import pytest
from repositories import ROOT

PACKAGE = ROOT / "flashdiff"
FLOORS = ("method", "measures", "training", "weights", "trust", "study", "report", "doors")
DOORS = ("pipeline", "deepinv_adapter", "cli", "commands", "explore", "figures")
METHOD = ("degradations", "solvers", "datasets")
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def floor(module: str) -> str:
    """The floor of a file below the package, or of a dotted module's path, as in study/store.py."""
    room = module.removesuffix(".py").split("/")[0]
    if room in FLOORS:
        return room
    return "doors" if room in DOORS else "method"


def imported(source: str) -> set[str]:
    """Paths below the package, without suffix, of all modules that the source imports anywhere, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {"/".join(name.split(".")[1:3]) for name in names if name.split(".")[0] == "flashdiff"}
    return found - {""}


def too_high(module: str, source: str) -> set[str]:
    """What the module imports from a floor above its own."""
    own = FLOORS.index(floor(module))
    return {name for name in imported(source) if FLOORS.index(floor(name)) > own}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_a_module_imports_from_its_floor_or_below(module):
    assert too_high(module, (PACKAGE / module).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("sampling.py", "from flashdiff.study import store", {"study/store"}),
        ("solvers/ldps.py", "def f():\n    from flashdiff.training.loop import train", {"training/loop"}),
        ("study/comparison.py", "import flashdiff.report.tables", {"report/tables"}),
        ("report/page.py", "from flashdiff.pipeline import FlashPipeline", {"pipeline/FlashPipeline"}),
        ("report/page.py", "from flashdiff.study.records import read_json", set()),
        ("cli.py", "from flashdiff.report import readme", set()),
    ],
)
def test_an_import_from_above_is_found(module, line, found):
    assert too_high(module, line) == found


def test_every_module_is_on_a_floor():
    """A new room has to be given its floor here."""
    top = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert top - set(DOORS) == {*FLOORS, *METHOD} - {"method", "doors"}


def test_nobody_but_doors_and_notebooks_imports_the_report():
    importers = {m for m in MODULES if any(n.startswith("report") for n in imported((PACKAGE / m).read_text()))}
    assert {floor(module) for module in importers} <= {"report", "doors"}


@pytest.mark.parametrize("path", sorted(Path(ROOT / "tests").glob("*/test_*.py")), ids=lambda path: path.stem)
def test_no_test_file_imports_another(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("test_")]
