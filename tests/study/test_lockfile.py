"""dvc.lock after a run that was killed while DVC wrote it: cut off anywhere, it becomes what it was when the last stage began."""

import contextlib

import pytest

from flashdiff.study import lockfile
from flashdiff.study.schema import StudyError

ENTRY = "  {name}:\n    cmd: python -m work {name}\n    deps:\n    - path: data\n      md5: abc\n    outs:\n    - path: out\n      md5: def\n"


def lock(*names):
    return "schema: '2.0'\nstages:\n" + "".join(ENTRY.format(name=name) for name in names)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lockfile, "QUIET_S", 0)
    (tmp_path / ".build").mkdir()
    return tmp_path


def killed(text, then):
    """A run that had written ``text`` when its last stage began, and dies while dvc.lock is ``then``."""
    lockfile.LOCK.write_text(text)
    with contextlib.suppress(KeyboardInterrupt), lockfile.safe():
        lockfile.keep()
        lockfile.LOCK.write_text(then)
        raise KeyboardInterrupt


@pytest.mark.parametrize("length", range(0, len(lock("data", "train@blur", "walk")), 7))
def test_wherever_it_is_cut_off_no_stage_is_lost(length):
    before, after = lock("data", "train@blur"), lock("data", "train@blur", "walk")
    killed(before, after[:length])
    with lockfile.safe():
        assert lockfile.stages(lockfile.LOCK.read_text()) >= {"data", "train@blur"}
        assert lockfile.LOCK.read_text() in (before, after[:length])
    assert not lockfile.COPY.exists()


def test_what_was_written_whole_stays():
    after = lock("data", "train@blur", "walk")
    killed(lock("data"), after)
    with lockfile.safe() as mended:
        assert not mended and lockfile.LOCK.read_text() == after


def test_a_copy_follows_every_stage_and_goes_with_the_run():
    lockfile.LOCK.write_text(lock("data"))
    lockfile.keep()
    assert not lockfile.COPY.exists()  # no run of the study is at work
    with lockfile.safe() as mended:
        lockfile.LOCK.write_text(lock("data", "walk"))
        lockfile.keep()
        assert not mended and lockfile.COPY.read_text() == lock("data", "walk")
        for torn in ("", lock("data", "walk")[:40], lock("walk")):  # DVC is writing
            lockfile.LOCK.write_text(torn)
            lockfile.keep()
            assert lockfile.COPY.read_text() == lock("data", "walk")
    assert not lockfile.COPY.exists()


def test_a_study_that_has_not_run_has_none():
    with lockfile.safe() as mended:
        assert not mended
    assert not lockfile.LOCK.exists() and not lockfile.COPY.exists()


@pytest.mark.parametrize("torn", ["", "schema", "schema: '2.0'\nstages:\n  data:\n    cm"])
def test_what_the_first_stage_left_torn_goes(torn):
    with contextlib.suppress(KeyboardInterrupt), lockfile.safe():
        lockfile.LOCK.write_text(torn)
        raise KeyboardInterrupt
    with lockfile.safe() as mended:
        assert mended and not lockfile.LOCK.exists()


def test_a_damaged_lock_that_no_run_has_kept_is_refused_with_the_remedy():
    lockfile.LOCK.write_text(lock("data")[:30])
    with (
        pytest.raises(StudyError, match=r"^dvc\.lock: damaged, and no run has kept a copy; `git checkout dvc.lock`"),
        lockfile.safe(),
    ):
        pytest.fail("a run began")


@pytest.mark.parametrize(
    ("text", "stays"), [("{}", True), ('{"out": {"write": null}}', True), ("", False), ('{"out": {"wri', False)]
)
def test_half_a_list_of_users_goes(folder, text, stays):
    lockfile.forget_torn_users(folder)  # there is none
    users = folder / ".dvc/tmp/rwlock"
    users.parent.mkdir(parents=True)
    users.write_text(text)
    lockfile.forget_torn_users(folder)
    assert users.exists() == stays
