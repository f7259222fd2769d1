"""Reconstructions on disk: an interrupted run continues and gives what the uninterrupted one gives."""

import numpy as np
import pytest
import torch

from flashdiff.degradations import GaussianBlur, measure
from flashdiff.flash import COUNTS, Flash, FullLength
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
