"""Seconds off every start: what libraries load and nothing here needs comes late or never.

torch._dynamo is loaded when something is compiled, and not when diffusers is imported. While that is imported it marks functions
and classes for torch.compile, and both marks load torch._dynamo; so does a pipeline that asks whether its models are compiled.
Nothing here compiles. accelerate has a late `torch.compiler.disable` of its own for the same reason.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

MARKS = "diffusers.utils.torch_utils"
"""The module of diffusers that is the first to ask for torch._dynamo, and does without where there is none."""


def defer_dynamo() -> None:
    """From here on in this process, `torch.compiler.disable` marks a function when it is first called, and diffusers neither marks
    its blocks for graphs nor looks for compiled models while there can be none.

    For programs of this project: a library leaves torch as it is to those who import it. Nothing happens where diffusers is there
    already.
    """
    if MARKS not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds MARKS once, to be loaded by :class:`_Loader`."""

    def find_spec(self, name, path, target=None):
        if name != MARKS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Executes a module as if torch._dynamo were not there, unless it is."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def exec_module(self, module: ModuleType) -> None:
        import torch

        if "torch._dynamo" not in sys.modules:
            torch.compiler.disable = late(torch.compiler.disable)
        with without("torch._dynamo"):
            self.loader.exec_module(module)
        is_compiled = module.is_compiled_module
        module.is_compiled_module = lambda model: "torch._dynamo" in sys.modules and is_compiled(model)


def leave_out_grammar() -> None:
    """nbformat's jsonschema compiles a grammar of internationalised addresses when it is imported, a second each time, if the
    package rfc3987_syntax is there. No notebook has such an address."""
    sys.modules.setdefault("rfc3987_syntax", None)


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Inside, what imports an optional module finds that it is not installed; one that is loaded stays."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None
    try:
        yield
    finally:
        del sys.modules[module]


def late(decorator: Callable) -> Callable:
    """A decorator that decorates a function when that is first called; usable, as `torch.compiler.disable` is, with and without
    brackets. Anything but a plain function is decorated at once."""

    @functools.wraps(decorator)
    def decorate(fn=None, *arguments, **options):
        if fn is None:
            return lambda fn: decorate(fn, *arguments, **options)
        if not isinstance(fn, type(late)):
            return decorator(fn, *arguments, **options)

        @functools.wraps(fn)
        def called(*inputs, **named):
            if not made:
                made.append(decorator(fn, *arguments, **options))
            return made[0](*inputs, **named)

        made: list[Callable] = []
        return called

    return decorate
