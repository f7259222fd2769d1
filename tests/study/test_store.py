"""Reconstructions on disk: an interrupted run continues and gives what the uninterrupted one gives."""

import os

import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import COUNTS, Flash, FullLength
from flashdiff.sampling import Finished
from flashdiff.solvers import LDPS, LatentDiffPIR
from flashdiff.starts import FixedStart
from flashdiff.study.store import Store


@pytest.fixture
def measurement():
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (6, 1, 16, 16)))
    return measure(x, GaussianBlur(0.3, 2.0, 7), torch.linspace(0, 1, 6), 0.1, ids=np.array([4, 9, 0, 2, 7, 5]))


@pytest.fixture
def method(tiny_prior, tiny_encoder):
    return Flash(tiny_prior, tiny_encoder, LDPS(0.1), batch_size=2, progress=False)


def stored(folder, method, measurement, rows=None, rank=0):
    store = Store(folder, len(measurement), measurement.image_shape, rank=rank)
    rows = store.missing(rows)
    store.write(method.stream([measurement.select(rows)]), rows)
    return store


def same(result, expected):
    torch.testing.assert_close(result.images.double(), expected.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.sigma_hat.double(), expected.sigma_hat, rtol=1e-6, atol=0, equal_nan=True)
    for column in ("start", *COUNTS):
        assert getattr(result, column).tolist() == getattr(expected, column).tolist()


def test_store_gives_what_the_method_gives(tmp_path, method, measurement):
    result = stored(tmp_path, method, measurement).result()
    same(result, method(measurement))
    assert result.seconds > 0


def test_costs_keep_their_names(tmp_path, tiny_prior, tiny_encoder, measurement):
    """A step that encodes twice and has no gradient, so that no two columns agree."""
    method = Flash(tiny_prior, tiny_encoder, LatentDiffPIR(), FixedStart(3), progress=False)
    table = stored(tmp_path, method, measurement).records()
    assert (table[["start", "nfe", "decodes", "encodes", "gradients"]] == [3, 4, 5, 8, 0]).all(axis=None)


def test_ctrl_c_keeps_what_is_finished_and_a_rerun_continues(tmp_path, method, measurement):
    def interrupted(finished):
        for count, done in enumerate(finished):
            if count == 2:
                raise KeyboardInterrupt
            yield done

    store = Store(tmp_path, 6, (1, 16, 16))
    with pytest.raises(KeyboardInterrupt):
        store.write(interrupted(method.stream([measurement])), np.arange(6))
    kept = set(store.records().row)
    assert 2 <= len(kept) < 6
    before = store.images[sorted(kept)].copy()
    with pytest.raises(ValueError, match=f"{6 - len(kept)} of 6 images are missing"):
        store.result()

    again = stored(tmp_path, method, measurement)
    assert len(again.records()) == 6
    assert (again.images[sorted(kept)] == before).all()
    same(again.result(), method(measurement))


def test_line_that_a_kill_cut_short_does_not_count(tmp_path, method, measurement):
    store = stored(tmp_path, method, measurement)
    text = store.log.read_text()
    store.log.write_text(text[:-5])
    last = int(text.splitlines()[-1].split(",")[0])
    assert store.missing().tolist() == [last]
    again = stored(tmp_path, method, measurement)
    same(again.result(), method(measurement))


def test_processes_share_a_store(tmp_path, method, measurement):
    for rank in (0, 1):
        stored(tmp_path, method, measurement, rows=np.arange(rank, 6, 2), rank=rank)
    same(Store(tmp_path, 6, (1, 16, 16)).result(), method(measurement))


def test_severity_that_nobody_asked_for_survives(tmp_path, tiny_prior, measurement):
    result = stored(tmp_path, FullLength(tiny_prior, LDPS(0.1), progress=False), measurement).result()
    assert bool(result.sigma_hat.isnan().all()) and result.nfe.tolist() == [tiny_prior.n_steps] * 6


def test_folder_of_another_run_is_refused(tmp_path, tiny_prior):
    Store(tmp_path, 6, (1, 16, 16), {"method": "flash"})
    for n, shape, what in ((7, (1, 16, 16), {"method": "flash"}), (6, (1, 16, 16), {"method": "full"})):
        with pytest.raises(ValueError, match="another run; delete the folder"):
            Store(tmp_path, n, shape, what)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, tiny_prior, measurement):
    """Measurements that are made one after another: never more than two of them are alive."""
    import gc
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    def one_by_one():
        nonlocal most
        for k in range(6):
            part = measurement.select(np.array([k]))
            alive.append(weakref.ref(part))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            yield part
            del part

    method = Flash(tiny_prior, None, LDPS(0.1), FixedStart(3), batch_size=1, progress=False)
    severity = severity_of(tiny_prior, 1)
    store = Store(tmp_path, 6, (1, 16, 16))
    store.write(method.stream(one_by_one(), iter([severity] * 6)), np.arange(6))
    assert len(store.records()) == 6 and most <= 3


def severity_of(prior, n):
    from flashdiff.severity import Severity

    return Severity(torch.zeros(n, *prior.latent_shape((1, 16, 16)), dtype=torch.float64), torch.full((n,), 0.1))


def kept(folder):
    """A store of six noise images, of which those that are missing are written now."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.uniform(-1, 1, (6, 1, 16, 16)))
    counts = {name: np.arange(6) + 3 for name in COUNTS.values()}
    finished = Finished(np.arange(6), images, np.arange(6), sigma_hat=draw.uniform(size=6), **counts)
    store = Store(folder, 6, (1, 16, 16))
    rows = store.missing()
    store.write([Finished(np.arange(len(rows)), *(column[rows] for column in finished[1:]))], rows)
    return store


def flip(path, at):
    """Another bit in the byte at a place, counted from the end where it is negative."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("at", [-1, -1025, -3000], ids=["last pixel", "the image before", "another"])
def test_an_image_whose_bits_are_others_is_made_again(tmp_path, at):
    before = kept(tmp_path).images.copy()
    flip(tmp_path / "images.npy", at)
    assert len(Store(tmp_path, 6, (1, 16, 16)).missing()) == 1
    assert (kept(tmp_path).images == before).all()


def test_a_line_whose_bits_are_others_does_not_count(tmp_path):
    """Whichever of its characters it is: no cost and no start is another than it was written."""
    whole = kept(tmp_path)
    expected, log = whole.records(), whole.log.read_bytes()
    for at in range(log.index(b"\n") + 1):
        flip(whole.log, at)
        left = whole.records()
        assert len(left) < 6 and left.equals(expected[expected.row.isin(left.row)].reset_index(drop=True))
        whole.log.write_bytes(log)


DAMAGED = [("store.json", "empty"), ("store.json", "half"), ("store.json", "rubbish")]
DAMAGED += [("images.npy", "empty"), ("images.npy", "rubbish")]  # what is cut off after its header is mended


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_damaged_files_of_a_store_are_refused_by_name(tmp_path, name, damage):
    kept(tmp_path)
    content = (tmp_path / name).read_bytes()
    left = {"empty": b"", "half": content[: len(content) // 2], "rubbish": b"\xff" * len(content)}
    (tmp_path / name).write_bytes(left[damage])
    with pytest.raises(ValueError, match=rf"{name}: damaged; delete the folder .* are made anew\.$"):
        Store(tmp_path, 6, (1, 16, 16))


def test_a_torn_line_of_costs_does_not_count(tmp_path):
    store = kept(tmp_path)
    expected = store.cost()
    with (tmp_path / "cost-0.txt").open("a") as file:
        file.write("0.12")
    assert store.cost() == expected


def test_the_room_of_all_images_is_taken_at_once(tmp_path):
    """A mapped file with holes ends the process by a signal when the disk is full."""
    Store(tmp_path, 100, (1, 64, 64))
    assert (tmp_path / "images.npy").stat().st_blocks * 512 >= 100 * 64 * 64 * 4


def test_images_that_are_cut_off_are_made_again(tmp_path):
    before = kept(tmp_path).images.copy()
    os.truncate(tmp_path / "images.npy", 3000)
    assert len(Store(tmp_path, 6, (1, 16, 16)).missing()) == 4
    assert (kept(tmp_path).images == before).all()
