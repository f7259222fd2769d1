"""The programs load torch._dynamo when something is compiled, and then it is all there; a grammar that nobody needs never."""

import importlib.util
import json
import subprocess
import sys

import pytest

from flashdiff import late_imports
from flashdiff.late_imports import late, without

DEFERRED = """
import sys
from flashdiff.late_imports import defer_dynamo

def told():
    print("torch._dynamo" in sys.modules, end=" ")

defer_dynamo()
defer_dynamo()
assert not {"torch", "diffusers"} & set(sys.modules)
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DModel, VQModel
import flashdiff.pipeline
net = UNet2DModel(sample_size=8, block_out_channels=(32, 32), layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
                  up_block_types=("UpBlock2D",) * 2)
DiffusionPipeline().register_modules(unet=net)  # looks for compiled models
told()
assert not any(type(finder).__module__ == "flashdiff.late_imports" for finder in sys.meta_path)

import torch
from diffusers.utils.torch_utils import is_compiled_module

@torch.compiler.disable
def outside(x):
    return x + 1 if not torch.compiler.is_compiling() else x - 1

layer = torch.nn.Linear(2, 2)
print(is_compiled_module(layer), end=" ")
told()
compiled = torch.compile(layer, backend="eager")
inside = torch.compile(lambda x: outside(2 * x) if not torch.compiler.is_compiling() else outside(3 * x), backend="eager")
told()
print(is_compiled_module(compiled), is_compiled_module(layer), inside(torch.ones(())).item(), outside(1))
"""
IMPORTED = """
import sys
import torch
disable = torch.compiler.disable
import flashdiff.pipeline
print(torch.compiler.disable is disable, "torch._dynamo" in sys.modules, end=" ")
from flashdiff.late_imports import defer_dynamo
finders = list(sys.meta_path)
defer_dynamo()
print(torch.compiler.disable is disable, sys.meta_path == finders)
"""


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_neither_models_nor_pipelines_load_it_and_what_compiles_has_it_whole():
    """A function that is disabled stays out of the graph: it sees 3, and is not compiled itself."""
    assert run(DEFERRED) == ["False", "False", "False", "True", "True", "False", "4.0", "2"]


def test_importing_the_package_leaves_torch_as_it_is_and_where_diffusers_is_there_nothing_changes():
    assert run(IMPORTED) == ["True", "True", "True", "True"]


@pytest.fixture
def marked():
    """A decorator that says what it has decorated, and what it was told."""
    seen = []

    def decorator(fn=None, recursive=True, **options):
        if fn is None:
            return lambda fn: decorator(fn, recursive, **options)
        seen.append((fn, recursive, options))
        return fn

    return decorator, seen


def test_a_function_is_decorated_once_when_it_is_first_called(marked):
    decorator, seen = marked

    def twice(x, y=0):
        """Twice x."""
        return 2 * x + y

    for decorated, told in (
        (late(decorator)(twice), (True, {})),
        (late(decorator)()(twice), (True, {})),
        (late(decorator)(recursive=False, reason="test")(twice), (False, {"reason": "test"})),
        (late(decorator)(twice, False), (False, {})),
    ):
        seen.clear()
        assert not seen and decorated.__doc__ == "Twice x." and decorated.__name__ == "twice"
        assert decorated(3) == 6 and decorated(3, y=1) == 7
        assert [(fn is twice, *rest) for fn, *rest in seen] == [(True, *told)]


def test_what_is_no_plain_function_is_decorated_at_once(marked):
    decorator, seen = marked

    class Block:
        pass

    assert late(decorator)(Block) is Block and [fn for fn, *_ in seen] == [Block]


def test_the_module_that_marks_is_where_it_is_looked_for():
    """A diffusers that asks for torch._dynamo elsewhere first would be found by the tests above, too; this one says where."""
    import diffusers.utils.torch_utils as marks

    assert marks.__name__ == late_imports.MARKS and marks.maybe_allow_in_graph and marks.is_compiled_module


def test_a_module_is_hidden_for_as_long_as_it_is_in_the_way():
    with without("this"), pytest.raises(ImportError):
        importlib.import_module("this")
    assert "this" not in sys.modules and importlib.util.find_spec("this")
    with without("json"):
        assert importlib.import_module("json") is json


def test_notebooks_are_checked_without_the_grammar_of_addresses():
    """tests/conftest.py leaves it out of this process, as stages and their kernels do."""
    import nbformat

    assert sys.modules["rfc3987_syntax"] is None
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.validate(notebook)
    notebook.cells[0].source = 2
    with pytest.raises(nbformat.ValidationError, match="2 is not valid"):
        nbformat.validate(notebook)
