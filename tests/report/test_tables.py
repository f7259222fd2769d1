"""Tables: refusals, and small cases that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest

from flashdiff import figures
from flashdiff.report import headline, summaries, tables
from flashdiff.study import records


def severity_rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    t = rng.uniform(size=n)
    difficulty = rng.normal(0, 0.1, n)
    sigma = 0.3 + t / 2 + difficulty
    return pd.DataFrame(
        {
            "image": np.arange(n),
            "t": t,
            "sigma_hat": sigma,
            "sbar": sigma * 1.05,
            "psnr": 30 - 10 * sigma,
            "perceptual": sigma,
        }
    )


def test_read_refuses_another_number_of_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    records.write_rows(severity_rows(20), path)
    assert len(records.read_rows(path, expect=20)) == 20
    with pytest.raises(ValueError, match="20 rows where 21 were expected"):
        records.read_rows(path, expect=21)
    with pytest.raises(FileNotFoundError, match="make study"):
        records.read_rows(tmp_path / "other.parquet", expect=1)


def test_nan_is_refused_and_nothing_written(tmp_path):
    rows = severity_rows(20)
    rows.loc[3, "sbar"] = np.nan
    with pytest.raises(ValueError, match="NaN in sbar"):
        records.write_rows(rows, tmp_path / "rows.parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_calibration_bins_hold_equal_counts_and_their_means():
    rows = severity_rows(400)
    table = tables.calibration(rows, bins=10)
    assert table.n.tolist() == [40] * 10
    lowest = rows.nsmallest(40, "sigma_hat")
    assert table.sigma_hat[0] == pytest.approx(lowest.sigma_hat.mean()) and table.sbar[0] == pytest.approx(
        lowest.sbar.mean()
    )
    np.testing.assert_allclose(table.sbar, 1.05 * table.sigma_hat)


def test_outliers_are_the_planted_ones():
    rows = severity_rows(400)
    rows.loc[7, "sigma_hat"], rows.loc[9, "sigma_hat"] = -5.0, 9.0
    rows.loc[7, "sbar"], rows.loc[9, "sbar"] = -5.0, 9.0
    rows.loc[11, "sbar"], rows.loc[13, "sbar"] = 10 * rows.sigma_hat[11], 0.01 * rows.sigma_hat[13]
    table = tables.outliers(rows, k=3)
    first = table.groupby("kind").image.first()
    assert first.to_dict() == {"easy": 7, "hard": 9, "underrated": 11, "overrated": 13}
    assert table.kind.tolist() == [kind for kind in ("easy", "hard", "underrated", "overrated") for _ in range(3)]


def test_expected_severity_never_falls_with_the_level():
    rows = severity_rows(200)
    fitted = tables.expected_given_level(rows)[np.argsort(rows.t.to_numpy())]
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted.mean() == pytest.approx(rows.sigma_hat.mean())  # a least-squares fit keeps the mean


def test_matched_pairs_are_near_in_severity_and_far_in_level():
    pairs = tables.matched_pairs(severity_rows(2000), k=5)
    assert len(pairs) == 5
    assert ((pairs.easy_sigma_hat - pairs.hard_sigma_hat).abs() < 0.1).all()
    assert (pairs.easy_t - pairs.hard_t > 0.3).all()


def two_way(of_level, of_image, rest=0.0):
    """Rows of severities that are the sum of what the level, the image and the rest (images, levels) give."""
    sigma = np.asarray(of_level)[None, :] + np.asarray(of_image)[:, None] + rest
    image, level = np.indices(sigma.shape)
    return pd.DataFrame({"image": image.ravel(), "t": level.ravel(), "sigma_hat": sigma.ravel()})


def test_shares_of_a_sum_of_level_and_image_are_their_variances():
    """Level variance 4 ((1, 3, 5) -> ddof 1), image variance 2 (0, 2), nothing left."""
    table = tables.severity_shares(two_way([1, 3, 5], [0, 2])).set_index("part")
    np.testing.assert_allclose(table.component, [4, 2, 0], atol=1e-12)
    np.testing.assert_allclose(table.share, [2 / 3, 1 / 3, 0], atol=1e-12)


def test_what_neither_level_nor_image_explains_is_the_rest():
    """Doubly centred rest of +-1 in a 2 x 2 layout: its mean square is 4; level and image have none, and no less than that."""
    table = tables.severity_shares(two_way([0, 0], [0, 0], np.array([[1, -1], [-1, 1]])))
    np.testing.assert_allclose(table.component, [0, 0, 4], atol=1e-12)
    assert table.share.tolist() == [0, 0, 1]


def test_shares_find_the_variances_that_rows_were_drawn_with():
    rng = np.random.default_rng(0)
    rows = two_way(rng.normal(0, 3, 400), rng.normal(0, 2, 400), rng.normal(0, 1, (400, 400)))
    np.testing.assert_allclose(tables.severity_shares(rows).component, [9, 4, 1], rtol=0.2)


def test_shares_need_every_image_at_every_level():
    with pytest.raises(ValueError, match="every image at every level"):
        tables.severity_shares(two_way([0, 1], [0, 1]).head(3))


def test_saved_tables_are_identical_twice(tmp_path):
    table = pd.DataFrame({"method": ["full_length"], "psnr": [22.123456789]})
    for folder in ("a", "b"):
        tables.save(table, tmp_path / folder, "quality")
    for suffix in ("csv", "tex"):
        assert (tmp_path / "a" / f"quality.{suffix}").read_bytes() == (
            tmp_path / "b" / f"quality.{suffix}"
        ).read_bytes()
    assert (
        "full-length baseline" in (tmp_path / "a" / "quality.tex").read_text()
        and r"\toprule" in (tmp_path / "a" / "quality.tex").read_text()
    )


def test_correlations_and_speed_by_hand():
    table = tables.severity_correlations(severity_rows(100), 100)
    assert table.set_index("sigma_hat against").loc["sbar", "pearson"] == pytest.approx(1)
    assert table.set_index("sigma_hat against").loc["psnr", "spearman"] == pytest.approx(-1)
    timings = {
        m: {"seconds": s, "images": 2, "nfe": n, "engine_calls": 1}
        for m, s, n in (("full_length", 8.0, 2000), ("flash_published", 1.0, 200), ("no_diffusion", 0.1, 0))
    }
    speed = tables.speed(timings).set_index("method")
    assert speed.loc["flash_published", "wall_clock_ratio"] == 8 and speed.loc["flash_published", "nfe_ratio"] == 10
    assert "no_diffusion" not in speed.index


def test_quality_against_a_baseline_leaves_out_how_much_images_differ():
    """Images differ by 10 dB, a method from the baseline by 1 dB on every image but one."""
    base, gain = np.linspace(15, 25, 9), np.ones(9)
    gain[4] = 1.9
    columns = {"image": np.arange(9), "perceptual": 1 / base}
    parts = [
        pd.DataFrame(columns | {"method": "full_length", "nfe": 1000, "psnr": base}),
        pd.DataFrame(columns | {"method": "flash", "nfe": 100, "psnr": base + gain}),
    ]
    table = tables.quality_against_baseline(pd.concat(parts), n_resamples=500).set_index("method")
    assert table.psnr.tolist() == pytest.approx([20, 21.1]) and table.nfe.tolist() == [1000, 100]
    assert table.psnr_low.flash == pytest.approx(21) and 21.1 < table.psnr_high.flash <= 21.4
    assert table.psnr_low.full_length == table.psnr_high.full_length == table.psnr.full_length
    assert table.perceptual_low.flash == table.perceptual_high.flash == pytest.approx((1 / base).mean())


def starts():
    """Nine images whose PSNR falls by 1 dB per step that a fixed start is away from the image's own best one, and Flash
    on the best start: images 0 to 2 are least severe and best at 10, 3 to 5 at 20, 6 to 8 at 30, but for image 8 (10)."""
    sigma = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    best = np.array([10, 10, 10, 20, 20, 20, 30, 30, 10])
    methods = {"fixed_10": 10, "fixed_mean": 20, "fixed_30": 30, "flash_published": best - 1, "flash_consistent": best}
    parts = []
    for method, start in methods.items():
        columns = {"sigma_hat": sigma, "nfe": start, "psnr": 40 - sigma - abs(best - start)}
        parts.append(pd.DataFrame({"image": np.arange(9), "method": method} | columns))
    return pd.concat(parts).sample(frac=1, random_state=0)


def test_headroom_is_what_the_best_choices_gain():
    table = tables.headroom(starts(), n_resamples=100).set_index("start")
    per_third, per_image = "best fixed start for each third of severity", "best fixed start for each image"
    # 20 for all loses 10 dB on six of nine images; 10, 20, 30 lose 20 dB on image 8 alone
    assert table.psnr_gain_db["best fixed start for all"] == 0
    assert table.psnr_gain_db[per_third] == pytest.approx((60 - 20) / 9, rel=1e-5)
    assert table.psnr_gain_db[per_image] == pytest.approx(60 / 9, rel=1e-5)
    assert table.psnr_gain_db["Flash, consistent start"] == pytest.approx(60 / 9, rel=1e-5)
    assert table.psnr_gain_db["Flash, published start"] == pytest.approx(60 / 9 - 1, rel=1e-5)
    assert table.nfe[per_third] == pytest.approx(20) and table.nfe[per_image] == pytest.approx(160 / 9)
    assert (table.psnr_gain_db_low <= table.psnr_gain_db).all() and (
        table.psnr_gain_db <= table.psnr_gain_db_high
    ).all()


def test_headroom_of_one_fixed_start_has_nothing_to_choose():
    rows = starts()
    table = tables.headroom(rows[~rows.method.isin(["fixed_10", "fixed_30"])], n_resamples=100)
    assert table.empty and "psnr_gain_db_high" in table


def test_fixed_starts_by_severity_are_held_against_the_start_of_equal_mean_cost():
    table = tables.fixed_starts_by_severity(starts(), n_resamples=100)
    assert table.images.tolist() == [name for name in tables.THIRDS for _ in range(3)]
    assert table.nfe.tolist() == [10, 20, 30] * 3
    assert table.psnr_gain_db.tolist() == pytest.approx([10, 0, -10, -10, 0, -10, -10 / 3, 0, 10 / 3], rel=1e-5)
    assert table.flash_nfe.tolist() == pytest.approx([10] * 3 + [20] * 3 + [70 / 3] * 3)


def test_across_solvers_all_are_held_against_the_first_solvers_full_length():
    rng = np.random.default_rng(0)
    base = rng.normal(22, 2, 8)

    def pair(flash, full, nfe):
        columns = {"image": np.arange(8), "ssim": 0.5, "decodes": nfe + 1}
        walked = {"method": "flash_consistent", "psnr": base + flash, "frame_psnr": base, "perceptual": 0.3, "nfe": nfe}
        long = {"method": "full_length", "psnr": base + full, "frame_psnr": base, "perceptual": 0.4, "nfe": 10 * nfe}
        return pd.concat([pd.DataFrame(columns | walked), pd.DataFrame(columns | long)])

    rows = {("blur", "ldps"): pair(1, 0, 100), ("blur", "ddim"): pair(3, -9, 40), ("hole", "psld"): pair(2, 1, 50)}
    table = tables.across_solvers(rows, n_resamples=100).set_index(["degradation", "solver"])
    assert table.reference.tolist() == ["ldps", "ldps", "psld"]
    assert table.psnr_gain_db.tolist() == pytest.approx([1, 3, 1])
    assert table.nfe_ratio.tolist() == pytest.approx([10, 25, 10]) and table.nfe.tolist() == [100, 40, 50]
    assert table.decodes.tolist() == [101, 41, 51]
    np.testing.assert_allclose(table.perceptual_gain, 0.25)


def test_seconds_that_were_not_measured_alone_are_no_seconds(tmp_path):
    cost = {"seconds": 20.0, "images": 2, "nfe": 10, "decodes": 12, "engine_calls": 10}
    timings = {"flash_published": cost, "full_length": cost | {"seconds": 200.0, "nfe": 100}}
    records.write_json(tmp_path / "timings.json", timings)
    assert records.read_timings(tmp_path / "timings.json") == timings
    untimed = records.read_timings(tmp_path / "timings.json", timed=False)
    speed = tables.speed(untimed).set_index("method")
    assert speed.seconds_per_image.isna().all() and speed.nfe_ratio.flash_published == 10
    ratio = summaries.speed_metrics(untimed)["wall_clock_ratio"]["flash_published"]
    assert (
        ratio["value"] is None and headline.record("wall_clock_ratio", "s", "d", "l", ratio)["verdict"] == "not tested"
    )
    (axis,) = figures.wall_clock(tables.speed(untimed)).axes
    assert [text.get_text() for text in axis.texts] == ["not measured"] and not axis.patches
