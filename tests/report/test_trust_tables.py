"""Tables and sentences of the calibrated start and of the spread: closed forms, both verdicts, and studies without them."""

import numpy as np
import pandas as pd
import pytest
from synthetic import allocation_rows, calibrated_rows, spread_rows

from flashdiff.report import allocation, calibrated, spread
from flashdiff.study import calibrated as calibrated_study
from flashdiff.study import spread as spread_study

BLUR = "gaussian_blur-ldps"


def of_calibrated(rows, budget=3.0):
    table = calibrated.table({BLUR: rows}, 200)
    return table[table.budget == budget].set_index("method")


def exact(gain, best, n=12):
    """Rows whose gains are the same for every image."""
    rows = calibrated_rows(n)
    base = rows[rows.method == "adaptive"].set_index(["budget", "image"]).psnr
    for method, by in (("calibrated", gain), ("hindsight", best)):
        chosen = rows.method == method
        at = pd.MultiIndex.from_frame(rows.loc[chosen, ["budget", "image"]])
        rows.loc[chosen, "psnr"] = base.loc[at].to_numpy() + by
    return rows


def test_gains_and_the_share_of_the_regret_are_differences_of_means():
    rows = calibrated_rows()
    table, psnr = of_calibrated(rows), rows[rows.budget == 3].pivot(index="image", columns="method", values="psnr")
    best = np.maximum(psnr.hindsight, psnr.adaptive) - psnr.adaptive
    for method, words in calibrated.METHODS.items():
        gain = psnr[method] - psnr.adaptive if method != "hindsight" else best
        assert table.psnr_gain_db[words] == pytest.approx(gain.mean(), rel=1e-4, abs=1e-6)
        assert table.regret_closed[words] == pytest.approx(gain.mean() / best.mean(), rel=1e-4, abs=1e-6)
    assert table.regret_closed[calibrated.METHODS["hindsight"]] == 1


def test_hindsight_has_the_tuned_rule_s_own_start_too():
    table = of_calibrated(exact(gain=0.0, best=-0.5))
    assert table.psnr_gain_db[calibrated.METHODS["hindsight"]] == 0
    assert np.isnan(table.regret_closed[calibrated.METHODS["calibrated"]])


@pytest.mark.parametrize(
    ("gain", "best", "verdict"),
    [
        (0.06, 0.1, "60% [60%, 60%] of the regret of 0.100 dB to the best start of each image in hindsight: the goal of a half is met."),
        (0.04, 0.1, "of the regret of 0.100 dB to the best start of each image in hindsight: the goal of a half is missed."),
        (-0.02, 0.1, "-20% [-20%, -20%] of the regret"),
        (0.01, 0.0, "there is no regret to close beyond chance."),
    ],
)  # fmt: skip
def test_the_goal_s_verdict_follows_from_the_interval(gain, best, verdict):
    told = calibrated.sentence(calibrated.table({BLUR: exact(gain, best)}, 200))
    assert told.count(verdict) == 2 and told.startswith(f"gaussian blur, 3 evaluations: {gain:+.3f} dB")


def test_an_interval_around_a_half_is_undecided():
    rows = exact(0.05, 0.1)
    chosen = rows.method == "calibrated"
    rows.loc[chosen, "psnr"] += np.where(np.arange(chosen.sum()) % 2, 0.04, -0.04)
    assert calibrated.sentence(calibrated.table({BLUR: rows}, 200)).count("undecided") == 2


def exactly(own, tuned, n=24):
    """Ways in which every image gains the same over equal shares, at one budget."""
    rows = allocation.ways_of(allocation_rows(n), 4)
    same = rows[(rows.way == allocation.SAME) & (rows.budget == 3)]
    gains = {allocation.SAME: 0.0, allocation.TUNED: tuned, allocation.SHARED: own, allocation.HINDSIGHT: 0.2}
    return pd.concat([same.assign(way=way, psnr=same.psnr + gain) for way, gain in gains.items()])


def test_gains_of_shares_are_paired_differences():
    ways = allocation.ways_of(allocation_rows(96), 4)
    table = allocation.table({BLUR: ways}, 200).set_index(["budget", "shares"])
    assert len(table) == 2 * len(allocation.WAYS)
    for (budget, way), part in ways[ways.budget.isin([3, 6])].groupby(["budget", "way"]):
        psnr = {w: p.set_index("image").psnr for w, p in ways[ways.budget == budget].groupby("way")}
        row = table.loc[(budget, allocation.WAYS[way])]
        assert row.nfe == part.nfe.mean() and row.psnr == pytest.approx(part.psnr.mean())
        assert row.over_equal_shares_db == pytest.approx((psnr[way] - psnr["same"]).mean(), abs=1e-4)
        assert row.over_tuned_rule_db == pytest.approx((psnr[way] - psnr["tuned"]).mean(), abs=1e-4)
        closed = (psnr[way] - psnr["same"]).mean() / (psnr["hindsight"] - psnr["same"]).mean()
        assert row.regret_closed == pytest.approx(closed, rel=1e-4)


@pytest.mark.parametrize(
    ("own", "tuned", "verdict"),
    [(0.1, 0.05, "pays"), (0.1, 0.1, "no difference beyond chance"), (0.1, 0.15, "costs")],
)
def test_shares_pay_where_they_beat_the_tuned_rule(own, tuned, verdict):
    gain = own - tuned
    assert allocation.sentence(allocation.table({BLUR: exactly(own, tuned)}, 200)) == (
        "Gaussian blur, evaluations shared by predicted severity, PSNR over the tuned rule: 3 on average "
        f"{gain:+.3f} dB [{gain:.3f}, {gain:.3f}], {verdict} (regret of equal shares to the best in hindsight: 0.200 dB)."
    )


def test_the_spread_s_table_is_means_over_images():
    rows = spread_rows()
    table = spread.table({BLUR: rows}, 200).set_index("sampler")
    for sampler, words in spread.SAMPLERS.items():
        part = rows[rows["sampler"] == sampler]
        row = table.loc[words]
        assert row.images == len(part) and row.nfe == pytest.approx((part.nfe * part.samples).mean())
        assert row.psnr_of_one == pytest.approx(part.psnr_one.mean(), rel=1e-4)
        assert row.mean_over_one_walk == pytest.approx((part.psnr_mean - part.psnr_walk).mean(), abs=1e-4)
        assert row.relative_ause == pytest.approx(part.ause.mean() / part.ause_random.mean(), rel=1e-4)
        assert row.coverage == pytest.approx(part.object_90.mean(), rel=1e-4)
        assert row.coverage_low <= row.coverage <= row.coverage_high


@pytest.mark.parametrize(
    ("few", "full", "verdict"),
    [
        (0.6, 0.8, "The spread of the published walk is the more honest one."),
        (0.85, 0.5, "The spread of few steps is the more honest one."),
        (1.0, 0.89, "The spread of the published walk is the more honest one."),
        (0.8, 0.8, "Neither spread is more honest than the other beyond chance."),
    ],
)
def test_the_honest_spread_is_the_one_whose_coverage_is_nearer(few, full, verdict):
    rows = spread_rows()
    for sampler, covered in (("few_fresh", few), ("full", full)):
        rows.loc[rows["sampler"] == sampler, "object_90"] = np.float32(covered)
    assert spread.sentence(spread.table({BLUR: rows}, 200)).endswith(verdict)


def test_curves_are_the_record_s_means_by_share_and_level():
    rows = spread_rows()
    drawn = spread.curves({BLUR: rows})
    part = drawn[(drawn["sampler"] == spread.SAMPLERS["full"]) & (drawn.kind == "left")]
    assert part.x.tolist() == list(spread_study.FRACTIONS)
    assert part.y.iloc[3] == pytest.approx(rows[rows["sampler"] == "full"].left_15.mean(), rel=1e-5)
    assert set(drawn[drawn.kind == "object"].x) == set(spread_study.LEVELS)


def test_a_study_without_the_experiments_has_no_rows_and_nothing_to_say():
    none = (
        calibrated.table({BLUR: calibrated_study.record([])}, 100),
        spread.table({BLUR: spread_study.record([])}, 100),
    )
    assert none[0].empty and none[1].empty
    assert calibrated.sentence(none[0]) == spread.sentence(none[1]) == ""
    assert calibrated.curves({BLUR: calibrated_study.record([])}, none[0]).empty
    assert spread.curves({BLUR: spread_study.record([])}).empty
    assert allocation.table({}, 100).empty and allocation.sentence(allocation.table({}, 100)) == ""
    assert allocation.curves({}, 100).empty
    assert spread.examples("nowhere", {BLUR: spread_study.record([])}) == {}
