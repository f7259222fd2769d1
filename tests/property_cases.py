"""What property tests share: how many examples, what counts as a sentence, what must not start, and the count of it all."""

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from flashdiff.study.schema import escaped

ORDINARY, WHOLE = "ordinary", "whole"
"""The profiles: a fixed few examples in every test run, and the whole run of `make properties`, new ones each time."""
COUNTS: Counter[tuple[str, str]] = Counter()
"""(what was generated, what happened) -> how often."""
REFUSED, GOOD = "refused in a sentence", "good, and used"

_PLAIN = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile(ORDINARY, derandomize=True, phases=[Phase.explicit, Phase.generate], **_PLAIN)
settings.register_profile(WHOLE, derandomize=False, print_blob=True, **_PLAIN)


def examples(whole: int, share: float = 0.04) -> Callable:
    """How many examples a property is tried on: ``whole`` in the whole run, a share of them in the ordinary one."""
    few = max(5, round(whole * share))
    return settings(max_examples=whole if settings.get_current_profile_name() == WHOLE else few)


def count(what: str, happened: str) -> None:
    COUNTS[what, happened] += 1


def check_sentence(text: str) -> None:
    """One sentence per line: it has an end, is no traceback, can be printed, and does not go on and on."""
    assert text.strip(), "nothing was said"
    for line in text.strip().split("\n"):
        assert line.endswith((".", "?", ")")), line
        assert "Traceback" not in line and 'File "' not in line
        assert len(line) < 1200, len(line)
        assert line.isprintable(), repr(line)


def outcome(what: str, action: Callable, *raised: type[Exception]) -> object:
    """What ``action`` returns, or None where it refused with one of the exceptions (ValueError) and a sentence; counted."""
    with nothing_starts():
        try:
            made = action()
        except Exception as error:
            if not isinstance(error, raised or ValueError):
                raise
            check_sentence(escaped(str(error)))  # as commands and stages print it
            count(what, REFUSED)
            return None
    count(what, GOOD)
    return made


class Started(BaseException):
    """Work was about to begin; no ``except Exception`` can swallow it."""


@contextmanager
def nothing_starts() -> Iterator[None]:
    """Inside, a training step, a denoiser's evaluation, a download, a notebook and another program end the test."""
    import diffusers
    import huggingface_hub
    import papermill
    import pooch
    import torch

    started: list[str] = []

    def tripwire(name: str) -> Callable:
        def start(*_, **__):
            started.append(name)
            raise Started(name)

        return start

    places = [
        (torch.optim.Optimizer, "__init__"), (diffusers.UNet2DModel, "forward"), (socket.socket, "connect"),
        (socket, "getaddrinfo"), (huggingface_hub, "snapshot_download"), (pooch, "retrieve"),
        (papermill, "execute_notebook"), (subprocess, "Popen"), (os, "system"),
    ]  # fmt: skip
    wires = [patch.object(place, name, tripwire(f"{place.__name__}.{name}")) for place, name in places]
    for wire in wires:
        wire.start()
    try:
        yield
    finally:
        for wire in wires:
            wire.stop()
    assert not started, f"{started} was started"


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a file as accidents leave them: cut off, some bytes changed, put in or taken out, another file's, none."""
    place = st.integers(0, max(0, len(content) - 1))

    def changed(changes: list[tuple[int, int]]) -> bytes:
        new = bytearray(content)
        for at, value in changes:
            new[at] = value
        return bytes(new)

    return st.one_of(
        place.map(lambda at: content[:at]),
        st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8).map(changed),
        st.lists(
            st.tuples(st.integers(0, min(len(content) - 1, 120)), st.integers(0, 255)), min_size=1, max_size=4
        ).map(changed),
        st.tuples(place, st.binary(min_size=1, max_size=20)).map(
            lambda at: content[: at[0]] + at[1] + content[at[0] :]
        ),
        st.tuples(place, st.integers(1, 50)).map(lambda at: content[: at[0]] + content[sum(at) :]),
        st.binary(max_size=60),
    )


EVIL = ("$(touch X)", "`touch X`", "a; touch X", "a && touch X", "a | touch X", "a\ntouch X", "'; touch X; '", '"; touch X; "',
        "${IFS}touch", "a > X", "a & touch X", "#", "*", "~", "-rf", "--help", "\\", "%s", "{x}", "a b", "\t", "../../etc/passwd",
        "ü", "猫", "🙂", "", " ", ".", "..", "/", "\0", "\x1b[31m", "\u202e", "nul", "None", "true", "1e3", "{{ x }}")  # fmt: skip
"""Texts that a shell, a template, a path or a terminal takes for something else than a text."""
