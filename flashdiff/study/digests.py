"""What of the sources a stage depends on: its notebook's cells, the code of every module they reach, their templates.

Saving a notebook from Jupyter, mending a comment or a docstring changes files, but no digest: nothing reruns.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent


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


def code_of_notebook(notebook: Path) -> tuple[str, str]:
    """All cells with their tags (what an executed copy shows), and the code cells alone (what imports)."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    text = "\n".join(f"%% {cell.cell_type} {cell.metadata.get('tags', '')}\n{cell.source}" for cell in cells) + "\n"
    return text, "\n".join(cell.source for cell in cells if cell.cell_type == "code")


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
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # what is imported from a package may be one of its modules
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            root, *parts = name.split(".")
            if root == package.name:
                for depth in range(1, len(parts) + 1):
                    path = package.joinpath(*parts[:depth])
                    yield from (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())


def of_stage(notebook: Path, package: Path = PACKAGE) -> str:
    """The digest of a notebook: its cells, then a line per reachable module and per template, with its hash."""
    text, code = code_of_notebook(notebook)
    files = {path: code_of_module(path.read_text(encoding="utf-8")) for path in reachable(code, package)}
    for template in sorted(package.glob("templates/*")):
        if any(template.name in module for module in files.values()):
            files[template] = template.read_text(encoding="utf-8")
    return text + "".join(
        f"{hashlib.sha256(content.encode()).hexdigest()} {path.relative_to(package).as_posix()}\n"
        for path, content in files.items()
    )


def write(notebooks: Path, folder: Path) -> None:
    """One digest per notebook of a folder into ``folder``, named after the notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(notebooks.glob("*.ipynb")):
        (folder / f"{notebook.stem}.txt").write_text(of_stage(notebook), encoding="utf-8")
