"""The ablation of the severity encoder's training: which trainings there are, how they differ, and what is measured of them."""

import numpy as np
import pandas as pd
import pytest

from flashdiff.datasets.splits import split_ids, to_float
from flashdiff.degradations import build, measure
from flashdiff.measures.quality import psnr
from flashdiff.study import ablation
from flashdiff.study.records import write_csv
from flashdiff.training.severity import LEVELS, train_severity_encoder

BLUR = {"kind": "gaussian_blur", "std_min": 0.3, "std_max": 2.0, "radius": 7, "noise_std": 0.1}
EQUAL = {"batch_size": 4, "ema": 0.9, "lambda_sigma": 1.0, "lambda_image": 0.5, "mixed_precision": "no"}
ARCHITECTURES = {"published": None, "correction": {"channels": [8, 8], "layers": 1}}
ABLATION = {
    "steps": [2, 3], "losses": ["squared", "likelihood"], "architectures": ARCHITECTURES, "learning_rate": 0.01,
    "n_images": 5,
}  # fmt: skip


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior.float()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 8, 1, 16, 16), dtype=np.uint8)


def measured(prior, images, checkpoint, **changes):
    return ablation.errors_of_trainings(prior, BLUR, *images, EQUAL, {**ABLATION, **changes}, 3, checkpoint)


def test_every_loss_meets_every_architecture_and_every_length():
    found = ablation.trainings(ABLATION)
    assert len(found) == len(set(found)) == 8
    assert found[:3] == [("squared", "published", 2), ("squared", "published", 3), ("squared", "correction", 2)]
    assert ablation.trainings({**ABLATION, "steps": []}) == []


def test_trainings_share_all_that_is_not_varied():
    section = ablation.severity_section(ablation.Training("squared", "published", 2), EQUAL, ABLATION)
    own = {"init": None, "architecture": None, "loss": "squared", "steps": 2, "learning_rate": 0.01}
    assert section == EQUAL | own


def test_rows_hold_what_each_training_errs(prior, images, tmp_path, monkeypatch):
    rows = measured(prior, images, tmp_path / "encoder.ckpt")
    assert list(rows) == list(ablation.COLUMNS) == list(ablation.no_rows())
    assert [tuple(key) for key in rows[ablation.TRAINING].drop_duplicates().to_numpy()] == ablation.trainings(ABLATION)
    assert rows.groupby(ablation.TRAINING).t.apply(list).tolist() == [list(LEVELS)] * 8
    assert rows.groupby("t").error.nunique().tolist() == [8] * len(LEVELS)

    operator, noise_std = build(BLUR)
    x, ids = to_float(images[1][:5]), split_ids("validation", 5)
    z0 = prior.encode(x).detach()
    for training in (("squared", "published", 2), ("likelihood", "correction", 3)):
        section = ablation.severity_section(ablation.Training(*training), EQUAL, ABLATION)
        encoder, _ = train_severity_encoder(prior, operator, noise_std, *images, section, 3, tmp_path / "again.ckpt")
        assert encoder.corrects == (training[1] == "correction")
        for row in rows.set_index(ablation.TRAINING).loc[[training]].to_dict("records"):
            y = measure(x, operator, row["t"], noise_std, seed=3, ids=ids).y
            told = encoder.infer(y)
            for column, z in (("error", told.z_hat), ("error_e0", prior.encode(y).detach())):
                assert row[column] == pytest.approx(float((z - z0).flatten(1).std(1).mean()), rel=1e-5)
            assert row["sigma_hat"] == pytest.approx(float(told.sigma_hat.mean()), rel=1e-5)
            assert row["psnr"] == pytest.approx(float(psnr(prior.decode(told.z_hat).detach(), x).mean()), rel=1e-5)

    monkeypatch.setattr("flashdiff.training.loop.Run.advance", lambda _: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(measured(prior, images, tmp_path / "encoder.ckpt"), rows)


def test_a_training_starts_from_the_prior_s_own_encoder(prior, images, tmp_path):
    changes = {"steps": [3], "losses": ["squared"], "architectures": {"published": None}, "learning_rate": 1e-12}
    rows = measured(prior, images, tmp_path / "encoder.ckpt", **changes)
    np.testing.assert_allclose(rows.error, rows.error_e0, rtol=1e-4)


def test_a_study_without_an_ablation_has_a_record_without_rows(prior, images, tmp_path):
    rows = measured(prior, images, tmp_path / "encoder.ckpt", steps=[])
    assert rows.pivot(index=ablation.TRAINING, columns="t", values="error").empty
    write_csv(rows, tmp_path / "record.csv")
    assert list(pd.read_csv(tmp_path / "record.csv")) == list(ablation.COLUMNS)
    assert not list(tmp_path.glob("*.ckpt"))
