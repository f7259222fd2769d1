"""What DVC writes in place, and a run that is killed meanwhile leaves half a file of: dvc.lock, and who uses which paths.

Which stages have finished stands in dvc.lock alone. So a copy of it lies in .build while a run is at work. A copy that is there
when a run begins is of one that was killed, and takes the place of a dvc.lock that lost stages.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from flashdiff.study.schema import StudyError

LOCK, COPY = Path("dvc.lock"), Path(".build/dvc.lock")
FORMAT = "schema: '2.0'\n"
"""How a dvc.lock begins; of another format nothing is known here, and nothing is done."""
QUIET_S = 0.2
"""Seconds in which a file that DVC writes changes; it writes dvc.lock within one."""


@contextlib.contextmanager
def safe() -> Iterator[bool]:
    """dvc.lock as a killed run left it is mended first; yields whether it had to be. Its copy goes when this run ends by itself,
    and stays after Ctrl-C. Raises StudyError for a damaged dvc.lock without a copy."""
    if LOCK.is_file() and not COPY.is_file() and not _is_whole(LOCK):
        raise StudyError(
            "dvc.lock: damaged, and no run has kept a copy; `git checkout dvc.lock` takes the committed one back, and stages that "
            "have finished since run again."
        )
    mended = COPY.is_file() and not (_is_whole(LOCK) and stages(_text(COPY)) <= stages(_text(LOCK)))
    if mended and _text(COPY):
        os.replace(COPY, LOCK)
    elif mended:  # nothing had finished yet, and DVC refuses an empty file
        LOCK.unlink(missing_ok=True)
    _write(_text(LOCK))
    yield mended
    COPY.unlink(missing_ok=True)


def forget_torn_users(root: Path) -> None:
    """Remove .dvc/tmp/rwlock, where DVC notes who uses which paths, below the repository ``root`` if it is half a file: DVC
    refuses it for good, and names of processes that live are written again with their next stage."""
    path = root / ".dvc/tmp/rwlock"
    for _ in range(2):
        try:
            json.loads(_text(path) if path.is_file() else "{}")
            return
        except ValueError:
            time.sleep(QUIET_S)  # another study of this repository may be writing it
    path.unlink(missing_ok=True)


def keep() -> None:
    """Copy dvc.lock once more where a run of the study is at work, unless DVC is writing it at this moment."""
    if not COPY.is_file():
        return
    text = _text(LOCK)
    time.sleep(QUIET_S)
    if text.endswith("\n") and text == _text(LOCK) and stages(_text(COPY)) <= stages(text):
        _write(text)


def stages(text: str) -> set[str]:
    """The stages that a dvc.lock names; none where it is of another format."""
    return set(re.findall(r"^  (\S.*):\n    cmd:", text, re.MULTILINE)) if text.startswith(FORMAT) else set()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _is_whole(path: Path) -> bool:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe").load(path)
    except (FileNotFoundError, YAMLError):
        return False
    if not isinstance(content, dict) or "schema" not in content:
        return False
    entries = content.get("stages") or {}
    return isinstance(entries, dict) and all(isinstance(e, dict) and "cmd" in e for e in entries.values())


def _write(text: str) -> None:
    COPY.parent.mkdir(exist_ok=True)
    part = COPY.with_suffix(f".{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, COPY)
