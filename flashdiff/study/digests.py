"""What of the sources a stage depends on: its notebook's cells, the code of every module they reach, their templates.

Saving a notebook from Jupyter, mending a comment or a docstring changes files, but no digest: nothing reruns.
"""

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PARAMETERS = "parameters"
"""The tag of the cell that a stage fills in."""
BUILT = Path(".build/source")
"""Where a study keeps the digests of its notebooks."""


@functools.cache  # by text: most modules are reached by most notebooks
def code_of_module(source: str) -> str:
    """A module's code without comments and docstrings (also those of attributes), in one layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
    return ast.unparse(tree) + "\n"


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def plain_python(source: str) -> str:
    """A cell's source with IPython's magics and shell lines as the Python that they stand for."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def code_of_notebook(notebook: Path) -> tuple[str, str]:
    """All cells with their tags (what an executed copy shows), and the code cells alone, as Python (what imports).

    The cell of the parameters is left out of both: a stage replaces its values, and depends on those of the study.
    Raises SyntaxError naming notebook and cell.
    """
    import nbformat

    numbered = enumerate(nbformat.read(notebook, as_version=4).cells, start=1)
    cells = [(number, cell) for number, cell in numbered if PARAMETERS not in cell.metadata.get("tags", [])]
    text = "\n".join(f"%% {cell.cell_type} {cell.metadata.get('tags', '')}\n{cell.source}" for _, cell in cells) + "\n"
    code = []
    for number, cell in cells:
        if cell.cell_type == "code":
            code.append(plain_python(cell.source))
            try:
                ast.parse(code[-1])
            except SyntaxError as error:
                first = next((line for line in cell.source.splitlines() if line.strip()), "")
                raise SyntaxError(f"{notebook.name}: cell {number} ({first}) is no Python: {error.msg}") from None
    return text, "\n".join(code)


def reachable(source: str, package: Path = PACKAGE) -> list[Path]:
    """Files of the package that ``source`` imports, directly or through one another; sorted.

    Imports inside functions count. The package's own __init__ does not: its names load their modules on first use.
    """
    found: set[Path] = set()
    waiting = list(_imported(source, package))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path.read_text(encoding="utf-8"), package)
    return sorted(found)


def _imported(source: str, package: Path) -> Iterator[Path]:
    for name in _names(source):
        root, *parts = name.split(".")
        if root == package.name:
            for depth in range(1, len(parts) + 1):
                path = package.joinpath(*parts[:depth])
                yield from (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())


@functools.cache
def _names(source: str) -> tuple[str, ...]:
    """The dotted names that a source imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # what is imported from a package may be one of its modules
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def of_stage(notebook: Path, package: Path = PACKAGE) -> str:
    """The digest of a notebook: its cells, then a line per reachable module and per template, with its hash."""
    text, code = code_of_notebook(notebook)
    files = {path: code_of_module(path.read_text(encoding="utf-8")) for path in reachable(code, package)}
    for template in sorted(path for path in package.rglob("templates/*") if path.is_file()):
        if any(template.name in module for module in files.values()):
            files[template] = template.read_text(encoding="utf-8")
    return text + "".join(
        f"{hashlib.sha256(content.encode()).hexdigest()} {path.relative_to(package).as_posix()}\n"
        for path, content in files.items()
    )


def write(notebooks: Path, folder: Path) -> None:
    """One digest per numbered notebook of a folder into ``folder``, named after the notebook.

    One that cannot be read stops nothing here: a line names notebook and cell, and so will the stage that runs it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(notebooks.glob("[0-9]*.ipynb")):
        try:
            digest = of_stage(notebook)
        except Exception as error:  # no JSON, no notebook, no Python: whatever a stray file brings
            print(f"{notebook.name}: no stage can run it ({' '.join(str(error).split())}).", file=sys.stderr)
            digest = hashlib.sha256(notebook.read_bytes()).hexdigest() + "\n"
        (folder / f"{notebook.stem}.txt").write_text(digest, encoding="utf-8")


def md5_of_stage(notebook: Path) -> str | None:
    """MD5 of a notebook's digest in the present study's folder, as dvc.lock has it; None where no digest was written.

    An executed notebook keeps it: so a reader can tell a result of these sources from one that was only committed.
    """
    path = BUILT / f"{notebook.stem}.txt"
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None
