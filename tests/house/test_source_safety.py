"""Nothing in the package executes what it reads: files are data, and parameters never reach a shell."""

import ast
import json
import re

import pytest
from repositories import ROOT

SOURCES = sorted(
    [*(ROOT / "flashdiff").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
)
EXECUTES = {"eval", "exec", "compile", "__import__", "execfile"}
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle", "pd.read_pickle",
                "torch.hub.load", "runpy.run_path"}  # fmt: skip


def source_of(path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def name_of(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def unguarded(source: str) -> list[str]:
    """Every call or import in Python source that could execute what a file or a parameter says, with its line."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # of a notebook: a line for the shell or a magic is no Python
        return [
            f"line {n}: {line.strip()}" for n, line in enumerate(source.split("\n"), 1) if re.match(r"\s*[!%]", line)
        ]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: import {name}" for name in modules if name.partition(".")[0] in UNPICKLES]
        if isinstance(node, ast.Call) and _unsafe(
            name_of(node.func), {k.arg: k.value for k in node.keywords}, node.args
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:100]}")
    return found


def _is(value: ast.expr | None, constant: object) -> bool:
    return isinstance(value, ast.Constant) and type(value.value) is type(constant) and value.value == constant


def _unsafe(name: str, options: dict, arguments: list) -> bool:
    last = name.rpartition(".")[2]
    if name in EXECUTES or name in UNSAFE_CALLS:
        return True
    if name == "torch.load" and not _is(options.get("weights_only"), True):
        return True
    if "allow_pickle" in options and not _is(options["allow_pickle"], False):
        return True
    if "trust_remote_code" in options and not _is(options["trust_remote_code"], False):
        return True
    if "shell" in options and not _is(options["shell"], False):
        return True
    if (
        name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all")
        and options.keys() | {"x"}
        and len(arguments) > 1
    ):
        return True
    if last == "YAML":  # ruamel's: safe, or the round trip that keeps comments; neither makes objects
        kind = options.get("typ", arguments[0] if arguments else None)
        return not (kind is None or _is(kind, "safe") or _is(kind, "rt"))
    # a program and its arguments as a list: as one text it would need a shell to be taken apart
    return name.startswith("subprocess.") and bool(arguments) and isinstance(arguments[0], ast.Constant | ast.JoinedStr)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_executes_what_it_reads(path):
    assert unguarded(source_of(path)) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=given)", "import pickle",
        "from pickle import loads", "import joblib", "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=given)",
        "eval(text)", "exec(text)", "os.system(command)", "subprocess.run(words, shell=True)", "subprocess.run('ls folder')",
        "subprocess.run(f'ls {folder}')", "YAML(typ='unsafe')", "YAML('unsafe')", "yaml.load(text, Loader)", "pd.read_pickle(path)",
        "load_dataset(x, trust_remote_code=True)", "torch.hub.load('a', 'b')", "!ls", "%run x", "__import__(name)",
    ],
)  # fmt: skip
def test_what_would_execute_is_found(line):
    assert unguarded(f"def f():\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)", "np.load(path)", "np.load(path, allow_pickle=False)", "model.eval()", "re.compile(text)",
        "subprocess.run(['ls', folder])", "subprocess.run(words)", "YAML(typ='safe')", "YAML()", "json.load(file)",
    ],
)  # fmt: skip
def test_what_reads_data_is_not(line):
    assert unguarded(f"def f():\n    {line}\n") == []


def test_nothing_but_the_shell_of_dvc_sees_a_parameter():
    """And of parameters only those whose values the schema holds to plain signs."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    commands = re.findall(r"cmd: (?:>-\n)?((?:.|\n)*?)\n\s+(?:params|deps):", text)
    assert len(commands) > 20
    named = {name for command in commands for name in re.findall(r"\$\{([^}]*)\}", command)}
    assert named == {"root", "prior.kind", "item.degradation", "item.solver"}
    assert "$" not in commands[0], "the stage that checks the study file has none"
