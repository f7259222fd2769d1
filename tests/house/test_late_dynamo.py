"""The programs load torch._dynamo when something is compiled, and then it is all there."""

import subprocess
import sys

import pytest

from flashdiff import late_dynamo
from flashdiff.late_dynamo import late

LOADED = """
import sys
from flashdiff.late_dynamo import defer_dynamo
defer_dynamo()
defer_dynamo()
assert not {"torch", "diffusers"} & set(sys.modules)
"""
MODELS = "from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DModel, VQModel\nimport flashdiff.pipeline\n"


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_neither_models_nor_pipelines_load_it():
    """That a pipeline is made is what asks for compiled models."""
    program = f"""{LOADED}{MODELS}
net = UNet2DModel(sample_size=8, block_out_channels=(32, 32), layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
                  up_block_types=("UpBlock2D",) * 2)
DiffusionPipeline().register_modules(unet=net)
print("torch._dynamo" in sys.modules, any(type(f).__module__ == "flashdiff.late_dynamo" for f in sys.meta_path))
"""
    assert run(program) == ["False", "False"]


def test_it_is_loaded_whole_when_something_compiles_and_a_disabled_function_stays_out():
    program = f"""{LOADED}{MODELS}
import torch
from diffusers.utils.torch_utils import is_compiled_module

@torch.compiler.disable
def outside(x):
    return x + 1 if not torch.compiler.is_compiling() else x - 1

layer = torch.nn.Linear(2, 2)
print(is_compiled_module(layer), "torch._dynamo" in sys.modules)
compiled = torch.compile(layer, backend="eager")
inside = torch.compile(lambda x: outside(2 * x) if not torch.compiler.is_compiling() else outside(3 * x), backend="eager")
print(is_compiled_module(compiled), is_compiled_module(layer), inside(torch.ones(())).item(), outside(1))
"""
    assert run(program) == ["False", "False", "True", "False", "4.0", "2"]


def test_where_diffusers_is_there_already_nothing_changes():
    program = """
import sys
import torch
import diffusers.utils.torch_utils
from flashdiff.late_dynamo import defer_dynamo
disable, finders = torch.compiler.disable, list(sys.meta_path)
defer_dynamo()
print(torch.compiler.disable is disable, sys.meta_path == finders, "torch._dynamo" in sys.modules)
"""
    assert run(program) == ["True", "True", "True"]


def test_importing_the_package_leaves_torch_as_it_is():
    assert run("import torch, flashdiff.pipeline\nprint(torch.compiler.disable.__module__, 'late' in repr(torch.compiler.disable))") == [
        "torch.compiler", "False",
    ]  # fmt: skip


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

    assert marks.__name__ == late_dynamo.MARKS and marks.maybe_allow_in_graph and marks.is_compiled_module
