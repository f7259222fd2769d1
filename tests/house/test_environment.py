"""The doors to the environment agree: pyproject.toml, environment.yml, constraints.txt, hooks, make targets, README."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base",  # -base: no Qt
               "huggingface-hub": "huggingface_hub", "lazy-loader": "lazy_loader", "lmdb": "python-lmdb", "playwright": "playwright-python"}  # fmt: skip
IMPORT_NAMES = {
    "pillow": "PIL",
    "scikit-image": "skimage",
    "ruamel-yaml": "ruamel",
    "pre-commit": "pre_commit",
    "ipython": "IPython",
    "torch-fidelity": "torch_fidelity",
    "huggingface-hub": "huggingface_hub",
    "lazy-loader": "lazy_loader",
}
PROGRAMS = {  # needed without an import of their own: run by make, dvc or papermill, or an engine of another library
    "dvc",
    "ipykernel",
    "ipywidgets",
    "jupyterlab",
    "nbstripout",
    "pre-commit",
    "pyarrow",
    "pytest-xdist",
    "ruff",
    "safetensors",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": 3,
            "id": "settings",
            "metadata": {"tags": ["parameters"], "execution": {"iopub.execute_input": "2024-01-01T00:00:00Z"}},
            "outputs": [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}],
            "source": ["steps = 1\n", "print(steps)"],
        }
    ],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for requirements in lists for line in requirements]


def imported(source: str) -> set[str]:
    """Top-level names of the modules that Python source imports anywhere, relative imports left out."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    of = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in plain | of}


def notebook_source(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^\s*[%!].*$", "", code, flags=re.MULTILINE)  # magics are not Python


def third_party_imports() -> set[str]:
    paths = [*(ROOT / "flashdiff").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in paths]
    sources += [notebook_source(path) for path in (ROOT / "notebooks").glob("*.ipynb")]
    own = {"flashdiff", *(path.stem for path in paths), *(path.parent.name for path in paths)}
    return set().union(*map(imported, sources)) - own - set(sys.stdlib_module_names)


def test_conda_door_lists_the_same_ranges():
    lines = YAML(typ="safe").load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [Requirement(line) for line in lines if isinstance(line, str) and line != "pip"]
    ours = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in declared()}
    ours["python"] = Requirement("python" + PROJECT["requires-python"]).specifier
    assert {r.name: r.specifier for r in conda} == ours
    assert len(conda) == len(ours), "a package is listed twice"
    assert {"pip": ["-e ."]} in lines


def pinned() -> dict[str, Version]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[\w.]+", version), f"constraints.txt: '{line}' is no plain name==version"
            pins[canonicalize_name(name)] = Version(version)
    return pins


def test_constraints_pin_every_dependency_within_its_range():
    pins = pinned()
    for requirement in declared():
        assert canonicalize_name(requirement.name) in pins, f"constraints.txt: {requirement.name} is missing"
        pin = pins[canonicalize_name(requirement.name)]
        assert pin in requirement.specifier, f"constraints.txt: {requirement.name}=={pin} is outside {requirement}"


def test_pins_can_be_installed_on_the_oldest_python():
    """Debian 12 has 3.11.2; a pin that asks for a later patch release would leave its users without an environment."""
    (oldest,) = SpecifierSet(PROJECT["requires-python"])
    pins = pinned()
    for distribution in metadata.distributions():
        name, needed = canonicalize_name(distribution.metadata["Name"]), distribution.metadata["Requires-Python"]
        if needed and pins.get(name) == Version(distribution.version):
            assert f"{oldest.version}.0" in SpecifierSet(needed), f"constraints.txt: {name} needs Python {needed}"


def modules() -> dict[str, str]:
    """Declared packages and the module that each is imported as."""
    return {canonicalize_name(r.name): IMPORT_NAMES.get(canonicalize_name(r.name), r.name) for r in declared()}


def test_every_import_is_declared():
    assert third_party_imports() - set(modules().values()) == set(), "imported, but not in pyproject.toml"


def hooks() -> dict[str, dict]:
    (repository,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    return {hook["id"]: hook for hook in repository["hooks"]}


def test_hooks_run_the_pinned_versions():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    for hook in hooks().values():
        assert set(hook["additional_dependencies"]) <= set(pins), hook["id"]


def test_make_lint_strips_as_the_hook_does():
    options = hooks()["nbstripout"]["entry"].removeprefix("nbstripout ")
    assert f"STRIP := {options}\n" in (ROOT / "Makefile").read_text()


def test_output_stripper_drops_outputs_and_keeps_the_parameters_tag(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps(NOTEBOOK))
    program, *options = shlex.split(hooks()["nbstripout"]["entry"])
    subprocess.run([Path(sys.executable).with_name(program), *options, path], check=True)
    (cell,) = json.loads(path.read_text())["cells"]
    assert cell["outputs"] == []
    assert cell["execution_count"] is None
    assert cell["metadata"] == {"tags": ["parameters"]}
    assert cell["source"] == NOTEBOOK["cells"][0]["source"]
    assert json.loads(path.read_text())["metadata"] == NOTEBOOK["metadata"]  # JupyterLab asks where no kernel is named


def targets() -> set[str]:
    """The make targets that `make` alone prints."""
    printed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(re.findall(r"^  ([a-z]+) ", printed.stdout, flags=re.MULTILINE))


def test_make_prints_the_targets_that_the_readme_names():
    named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    named = {first or second for first, second in named}
    assert {"study", "test"} <= named
    assert named <= targets()


def test_make_refuses_an_unknown_study_in_one_sentence():
    run = subprocess.run(["make", "study-exists", "STUDY=nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "STUDY=nowhere: there is no studies/nowhere/dvc.yaml" in run.stderr


def test_continuous_integration_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[0] == "#!/usr/bin/env bash"
    assert [line for line in script if line and line[0] != "#"][-1] == "make test"
    assert "set -euo pipefail" in script


MADE = ["data/raw/x", "data/splits/x", "data/severity/x", "data/results/x", ".build/x", ".venv/x"]
KEPT = ["data/prior/x", "data/tuned/x", "reports/index.html", "reports/severity/x.csv", "dvc.lock"]


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("folder", ["", "studies/smoke/"])
def test_git_ignores_what_a_machine_makes_for_itself(folder, name):
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    assert subprocess.run(["git", "check-ignore", "-q", folder + name], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("name", KEPT)
def test_git_keeps_results(name):
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 1
