"""Tables of robustness and single choices: closed forms, and what a study without the experiments has."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from synthetic import robustness_rows

from flashdiff.report import robustness, tables
from flashdiff.report.display import readable
from flashdiff.report.names import DISTANCES

TABLES = (
    robustness.noise_table,
    robustness.class_table,
    robustness.class_levels,
    robustness.encoder_table,
    robustness.start_table,
)


def of(rows, experiment, variant):
    return rows[(rows.experiment == experiment) & (rows.variant == variant)]


def test_noise_is_summed_up_per_ratio():
    rows = robustness_rows()
    table = robustness.noise_table(rows, 100).set_index("true_over_assumed_noise")
    assert table.index.tolist() == [0.5, 1, 2, 4]
    for ratio, row in table.iterrows():
        decoded, walked = (of(rows, "noise", f"{ratio:g}").query("method == @m") for m in ("no_diffusion", "few_step"))
        assert row.latent_error == pytest.approx(decoded.sbar.mean(), rel=1e-5)
        assert row.calibration_ratio == pytest.approx(decoded.sigma_hat.mean() / decoded.sbar.mean(), rel=1e-5)
        assert row.psnr_of_z_hat == pytest.approx(decoded.psnr.mean(), rel=1e-5)
        assert row.psnr_few_steps == pytest.approx(walked.psnr.mean(), rel=1e-5)
        assert row.nfe == 6
    np.testing.assert_allclose(table.loc[4].calibration_ratio, 1 / np.sqrt(2), rtol=1e-5)
    # every image has the same ratio of both, so that which images are drawn changes nothing
    np.testing.assert_allclose(table.loc[4].calibration_ratio_low, 1 / np.sqrt(2), rtol=1e-5)


def test_classes_are_compared_on_the_same_images():
    rows = robustness_rows()
    table = robustness.class_table(rows, 100).set_index(["measured_on", "training"])
    assert len(table) == 4 and table.images.groupby("measured_on").first().to_dict() == {
        "unseen classes": 3,
        "other classes": 7,
    }
    for training, on, ratio in (
        ("all classes", "unseen classes", 1.0),
        ("all classes", "other classes", 1.0),
        ("without the unseen", "other classes", 1.0),
        ("without the unseen", "unseen classes", 1.5),
    ):
        row = table.loc[on, training]
        assert [row.error_ratio, row.error_ratio_low, row.error_ratio_high] == pytest.approx([ratio] * 3, rel=1e-5)
    levels = robustness.class_levels(rows, 100)
    assert len(levels) == 4 * 5
    means = levels.groupby(["measured_on", "training"]).latent_error.mean()
    np.testing.assert_allclose(means, table.latent_error[means.index], rtol=1e-4)


def test_encoders_are_measured_over_all_levels():
    rows = robustness_rows()
    table = robustness.encoder_table(rows, 100).set_index("choice")
    assert table.index.tolist() == [
        *(f"severity weight λ = {weight}" for weight in (0.1, 1, 10)), "one encoder for all", "one encoder each",
    ]  # fmt: skip
    part = of(rows, "lambda_sigma", "10")
    row = table.loc["severity weight λ = 10"]
    assert row.spearman_error == pytest.approx(scipy.stats.spearmanr(part.sigma_hat, part.sbar).statistic, rel=1e-5)
    right = [
        image.sigma_hat.iloc[i] <= image.sigma_hat.iloc[j]
        for _, image in part.groupby("image")
        for i in range(5)
        for j in range(i + 1, 5)
    ]
    assert row.ordering_accuracy == pytest.approx(np.mean(right), rel=1e-5)
    assert row.error_at_0.item() == pytest.approx(part[part.t == 0].sbar.mean(), rel=1e-5)


def test_an_interval_keeps_the_levels_of_an_image_together():
    """Images that are alike but for a constant: the mean's interval is as wide as that of their own means."""
    constant = np.random.default_rng(0).normal(0, 1, 40)
    rows = pd.concat(
        pd.DataFrame({"image": np.arange(40), "t": t, "sbar": 5 + t + constant, "sigma_hat": constant, "psnr": 1.0})
        for t in (0.0, 0.5, 1.0)
    ).assign(experiment="encoder", variant="own")
    row = robustness.encoder_table(rows, 2000).iloc[0]
    expected = tables.spread("x", robustness.bootstrap(5.5 + constant, np.mean, 2000))
    assert [row.latent_error_low, row.latent_error_high] == pytest.approx([expected["x_low"], expected["x_high"]])


def test_gains_of_starts_are_over_the_fixed_start_and_of_corrections_over_the_first():
    rows = robustness_rows()
    table = robustness.start_table(rows, 100).set_index("choice")
    assert table.index.tolist() == [
        "published start", "consistent start", "scaled start", "fixed start", "published, c = 1", "published, c = 1.2",
    ]  # fmt: skip
    for name, experiment, variant, against in (
        ("published start", "start", "published", "fixed"),
        ("published, c = 1.2", "correction", "1.2", "1"),
    ):
        ours, theirs = (of(rows, experiment, v).psnr.to_numpy() for v in (variant, against))
        assert table.loc[name].psnr_gain_db == pytest.approx((ours - theirs).mean(), rel=1e-4)
    for name in ("fixed start", "published, c = 1"):
        assert table.loc[name, ["psnr_gain_db", "psnr_gain_db_low", "psnr_gain_db_high"]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_without_an_experiment_there_are_no_rows_and_the_table_is_still_saved(make, tmp_path):
    table = tables.save(make(robustness_rows().iloc[:0], 100), tmp_path, "table")
    assert table.empty and (tmp_path / "table.tex").is_file()


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_heads_are_words(make):
    heads = readable(make(robustness_rows(), 100), DISTANCES["features"]).columns
    assert not [head for head in heads if "_" in head or "psnr" in head or "sigma" in head]
