"""Few-step walks: gains that are known by construction, the rule of the cheapest winner, and what belongs together."""

import itertools

import numpy as np
import pandas as pd
import pytest
from synthetic import GAINS, few_step_rows, reconstruction_rows, seed_rows

from flashdiff.report import frontier
from flashdiff.report.frontier import Run
from flashdiff.study.records import write_json

NONE = pd.DataFrame()
"""A record of other training seeds without rows."""
BASE = np.linspace(18, 28, 12)
"""PSNR of the full-length baseline in the constructed rows, by image."""


def rows(method, gain, nfe, budget=np.nan, tuned_for="", images=range(12), perceptual=None):
    """Rows whose PSNR is that of the baseline and a gain, the same for every image or one per image."""
    gain = np.broadcast_to(gain, 12)
    distance = 0.4 - 0.1 * gain if perceptual is None else np.broadcast_to(perceptual, 12)
    columns = {"budget": budget, "method": method, "tuned_for": tuned_for, "image": range(12), "nfe": nfe}
    columns |= {
        "decodes": np.asarray(nfe) + 1,
        "psnr": BASE + gain,
        "frame_psnr": BASE + gain - 1,
        "ssim": 0.5,
        "perceptual": distance,
    }
    table = pd.DataFrame(columns)
    return table[table.image.isin(images)]


def long_rows(images=range(12), nfe=1000):
    """The long walks, on some of the images; nfe: evaluations of the baseline."""
    parts = [rows("full_length", 0, nfe), rows("no_diffusion", -1, 0), rows("flash_consistent", 0.5, 100)]
    return pd.concat([part[part.image.isin(images)] for part in parts]).drop(columns=["budget", "tuned_for"])


def few_rows(gains, budget=4.0, nfe=4):
    """Few-step rows of one budget: {(method, tuned_for): gain}."""
    return pd.concat([rows(method, gain, nfe, budget, tuned) for (method, tuned), gain in gains.items()])


EXACT = {
    ("adaptive", "psnr"): 2.0,
    ("adaptive", "perceptual"): 1.0,
    ("fixed", "psnr"): 1.5,
    ("fixed", "perceptual"): -0.5,
    ("oracle", "psnr"): 2.25,
    ("oracle", "perceptual"): 1.5,
}


# ------------------------------------------------------------------------------------------------------- what is read


def test_runs_are_methods_at_budgets_and_long_walks_have_neither_budget_nor_objective():
    found = frontier.runs(few_step_rows(), reconstruction_rows(), seed_rows())
    few = set(itertools.starmap(Run, itertools.product(GAINS, (3.0, 6.0), ("psnr", "perceptual"))))
    long = {"no_diffusion", "full_length", "flash_published", "flash_consistent", "flash_inversion"}
    assert set(found) == few | {Run(method) for method in long}
    assert frontier.budgets(found) == [3, 6] and frontier.objectives(found) == ["psnr", "perceptual"]
    assert frontier.opponents(found, 3.0) == [*list(GAINS)[1:], "no_diffusion", "full_length"]
    seeds = {run.method: list(table.index) for run, table in found.items()}
    assert {method for method, of in seeds.items() if of == [0, 1, 2]} == {
        "adaptive", "fixed", "no_diffusion", "flash_published", "flash_consistent",
    }  # fmt: skip
    assert seeds["oracle"] == seeds["full_length"] == [0]


def test_an_empty_record_of_seeds_leaves_the_study_s_own():
    for empty in (NONE, seed_rows()[:0]):
        found = frontier.runs(few_step_rows(), reconstruction_rows(), empty)
        assert {tuple(table.index) for table in found.values()} == {(0,)}


def test_runs_that_the_study_no_longer_has_are_left_out_of_the_record():
    few, long = few_step_rows(budgets=(6.0,)), reconstruction_rows()
    found = frontier.runs(few, long[long.method != "flash_published"], seed_rows())
    assert frontier.budgets(found) == [6] and Run("flash_published") not in found


def test_the_study_s_own_seed_in_the_record_is_refused():
    with pytest.raises(ValueError, match="an image stands twice in one seed; the study's own seed is 0"):
        frontier.runs(few_step_rows(), reconstruction_rows(), seed_rows(seeds=(0,)))


# ------------------------------------------------------------------------------------------------------------- gains


def test_gains_of_constructed_rows():
    found = frontier.runs(few_rows(EXACT), long_rows(), NONE)
    summary = frontier.metrics(found, 200)
    over_fixed = summary["gains"]["4"]["fixed"]
    for end in ("value", "low", "high"):
        assert over_fixed["psnr"]["psnr_gain_db"][end] == pytest.approx(0.5, rel=1e-4)
        assert over_fixed["perceptual"]["perceptual_gain"][end] == pytest.approx(1 - 0.3 / 0.45, rel=1e-4)
    full, nothing = (summary["gains"]["4"][method]["psnr"] for method in ("full_length", "no_diffusion"))
    assert full["psnr_gain_db"]["value"] == pytest.approx(2) and full["nfe_ratio"]["value"] == 250
    assert full["perceptual_gain"]["value"] == pytest.approx(0.5) and nothing["nfe_ratio"]["value"] == 0
    assert nothing["psnr_gain_db"]["value"] == pytest.approx(3)
    regret = summary["regret_to_oracle"]["4"]
    assert regret["psnr"]["value"] == pytest.approx(0.25, rel=1e-4)
    assert regret["perceptual"]["value"] == pytest.approx(1 - 0.175 / 0.2, rel=1e-4)  # of the walks tuned for PSNR
    assert summary["methods"]["4"]["adaptive"]["psnr"]["psnr"]["value"] == pytest.approx(BASE.mean() + 2)
    assert summary["long"]["full_length"]["nfe"]["value"] == 1000 and summary["seeds"] == 1


def test_gains_are_taken_on_the_images_and_seeds_that_both_have():
    gain = np.where(np.arange(12) < 4, 1.0, 3.0)  # the long walks are of the first four images
    few = few_rows({("adaptive", "psnr"): gain, ("fixed", "psnr"): 0.0, ("oracle", "psnr"): 0.0})
    other = few[few.method != "oracle"].assign(seed=5)
    other.loc[other.method == "adaptive", "psnr"] += 6
    found = frontier.runs(few, long_rows(images=range(4)), other)
    compared = frontier.metrics(found, 100)["gains"]["4"]
    expected = {"full_length": (1 + 3, 4, 2), "fixed": (gain.mean() + 3, 12, 2), "oracle": (gain.mean(), 12, 1)}
    expected["no_diffusion"] = (2, 4, 1)
    for method, (value, n, seeds) in expected.items():
        found = compared[method]["psnr"]["psnr_gain_db"]
        assert (found["value"], found["n"], found["seeds"]) == (pytest.approx(value, rel=1e-5), n, seeds), method


def test_a_further_seed_with_fewer_images_restricts_a_comparison_to_them():
    few = few_rows({("adaptive", "psnr"): np.arange(12.0), ("fixed", "psnr"): 0.0})
    found = frontier.runs(few, long_rows(), few[few.image < 3].assign(seed=1))
    gain = frontier.metrics(found, 100)["gains"]["4"]["fixed"]["psnr"]["psnr_gain_db"]
    assert (gain["value"], gain["n"], gain["seeds"]) == (1, 3, 2)


def test_metrics_are_strict_json_and_absent_controls_are_none(tmp_path):
    few = few_step_rows(gains={"adaptive": 1.0, "fixed": 0.5})
    summary = frontier.metrics(frontier.runs(few, reconstruction_rows(), NONE), 100)
    write_json(tmp_path / "metrics.json", summary)
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert summary["regret_to_oracle"] == {budget: {"psnr": None, "perceptual": None} for budget in ("3", "6")}
    assert list(summary["gains"]["3"]) == ["fixed", "no_diffusion", "full_length"]


# ---------------------------------------------------------------------------------------------- the cheapest winner

LOST, MIXED = -0.5, np.where(np.arange(12) % 2, 2.0, -2.0)


def ratio_of(settings):
    """nfe_ratio of {(budget, tuned_for): (gain in PSNR, perceptual distance)}; the baseline's distance is 0.4."""
    parts = [rows("adaptive", psnr, int(budget), budget, tuned, perceptual=distance)
             for (budget, tuned), (psnr, distance) in settings.items()]  # fmt: skip
    found = frontier.runs(pd.concat(parts), long_rows(), NONE)
    return frontier.metrics(found, 200)["nfe_ratio_100"]


def test_the_smallest_budget_that_wins_in_both_measures_counts():
    lost = {(2.0, tuned): (LOST, 0.3) for tuned in ("psnr", "perceptual")}
    found = ratio_of(lost | {(budget, tuned): (1.0, 0.3) for budget in (8.0, 5.0) for tuned in ("psnr", "perceptual")})
    assert (found["value"], found["budget"], found["tuned_for"]) == (200, 5, "psnr")
    assert found["low"] == found["high"] == 200 and found["n"] == 12 and found["tested"]


def test_one_setting_has_to_win_in_both():
    """At 2 evaluations each setting wins in the measure it is tuned for only; at 4 the one tuned for distance wins in both."""
    found = ratio_of({
        (2.0, "psnr"): (1.0, 0.5), (2.0, "perceptual"): (LOST, 0.3),
        (4.0, "psnr"): (MIXED, 0.3), (4.0, "perceptual"): (0.5, 0.3),
    })  # fmt: skip
    assert (found["value"], found["budget"], found["tuned_for"]) == (250, 4, "perceptual")
    assert "250.0 times fewer" in frontier.ratio_in_words(found)
    assert "budget 4, tuned for perceptual distance." in frontier.ratio_in_words(found)


def test_a_gain_that_chance_may_explain_does_not_win():
    found = ratio_of({(4.0, "psnr"): (MIXED, 0.3), (4.0, "perceptual"): (MIXED, 0.3)})
    assert found["value"] is None and found["budget"] is None and found["tested"]
    assert frontier.ratio_in_words(found).startswith("No setting")


def test_what_was_not_measured_is_not_tested():
    found = ratio_of({(4.0, "psnr"): (1.0, np.nan), (4.0, "perceptual"): (1.0, np.nan)})
    assert found["value"] is None and not found["tested"]
    assert frontier.ratio_in_words(found) == "Not tested."


def test_the_ratio_is_of_all_images_of_the_walk():
    nfe = np.where(np.arange(12) < 4, 2, 5)
    few = pd.concat([rows("adaptive", 1.0, nfe, 4.0, tuned) for tuned in ("psnr", "perceptual")])
    found = frontier.metrics(frontier.runs(few, long_rows(images=range(4)), NONE), 100)["nfe_ratio_100"]
    assert found["value"] == 250 and found["n"] == 12


# ------------------------------------------------------------------------------------------------------------ tables


def test_tables_hold_every_run_and_every_opponent():
    found = frontier.runs(few_step_rows(), reconstruction_rows(), seed_rows())
    summary = frontier.metrics(found, 100)
    table = frontier.budget_table(summary)
    assert len(table) == len(found) == 2 * 6 * 2 + 5
    long = table[table.budget.isna()].set_index("method")
    assert long.nfe["full_length"] == 1000 and set(long.tuned_for) == {""} and long.seeds["flash_published"] == 3
    mean = few_step_rows().groupby(["budget", "method", "tuned_for"])[["nfe", "psnr", "perceptual", "decodes"]].mean()
    for row in table[(table.method == "oracle")].to_dict("records"):
        expected = mean.loc[row["budget"], "oracle", row["tuned_for"]]
        assert [row[c] for c in expected.index] == pytest.approx(expected.to_list(), rel=1e-5)
        assert row["psnr_low"] < row["psnr"] < row["psnr_high"] and (row["images"], row["seeds"]) == (10, 1)
    gains = frontier.gain_table(summary)
    assert len(gains) == 2 * 7 * 2
    row = gains[(gains.budget == 3) & (gains.baseline == "fixed") & (gains.tuned_for == "psnr")].iloc[0]
    assert row.psnr_gain_db == pytest.approx(0.4, abs=0.06) and row.seeds == 3
    assert row.psnr_gain_db_low < row.psnr_gain_db < row.psnr_gain_db_high


def test_the_frontier_has_all_runs_on_the_images_that_all_have():
    gain = np.where(np.arange(12) < 4, 1.0, 3.0)
    few = few_rows({("adaptive", "psnr"): gain, ("fixed", "psnr"): 0.25})
    table = frontier.frontier_table(frontier.runs(few, long_rows(images=range(4)), NONE), 100).set_index("method")
    base = BASE[:4].mean()
    assert set(table.images) == {4} and table.psnr["full_length"] == pytest.approx(base)
    for method, value in (("adaptive", 1), ("fixed", 0.25), ("flash_consistent", 0.5), ("no_diffusion", -1)):
        ends = [table[column][method] for column in ("psnr", "psnr_low", "psnr_high")]
        assert ends == pytest.approx([base + value] * 3, rel=1e-5)  # images differ, differences to the baseline do not
    assert table.tuned_for.to_dict() == {"adaptive": "psnr", "fixed": "psnr"} | dict.fromkeys(
        ("full_length", "no_diffusion", "flash_consistent"), ""
    )


@pytest.mark.parametrize(("nfe", "width"), [(1000, 2.0), (120, 0.0)], ids=["strong", "weak"])
def test_where_the_baseline_is_weak_intervals_are_of_the_difference_to_no_diffusion(nfe, width):
    """The baseline fails on every image in its own way, by up to 2 dB; over D(z_hat) the gains are the same everywhere."""
    long = long_rows(nfe=nfe)
    failed = long.method == "full_length"
    long.loc[failed, "psnr"] -= np.linspace(0, 2, failed.sum())
    table = frontier.frontier_table(frontier.runs(few_rows({("adaptive", "psnr"): 1.0}), long, NONE), 500)
    for row in table[table.method.isin(("adaptive", "flash_consistent"))].itertuples():
        wide = row.psnr_high - row.psnr_low
        assert (0.2 < wide < width) if width else wide == pytest.approx(0, abs=1e-9)
        assert row.psnr == pytest.approx(BASE.mean() + (1 if row.method == "adaptive" else 0.5))
        assert row.psnr_low <= row.psnr + 1e-9 and row.psnr - 1e-9 <= row.psnr_high


def test_walks_without_common_images_cannot_stand_in_one_figure():
    few = few_rows({("adaptive", "psnr"): 1.0})
    found = frontier.runs(few[few.image > 5], long_rows(images=range(4)), NONE)
    with pytest.raises(ValueError, match="fewer than two images are in all of them; rerun walk_budgets"):
        frontier.frontier_table(found, 100)


# ---------------------------------------------------------------------------------------------------- by severity


def test_gains_by_severity_are_those_of_each_quarter():
    """Twelve images in the order of their severity: every quarter of three has a gain of its own over D(z_hat)."""
    steps = np.repeat([0.4, 0.3, 0.2, 0.1], 3)
    few = pd.concat(
        [few_rows({("adaptive", "psnr"): steps, ("fixed", "psnr"): 2 * steps, ("oracle", "psnr"): 0.0}),
         rows("no_diffusion", 0, 0, 0.0, "psnr")]
    ).merge(pd.DataFrame({"image": range(12), "sigma_hat": np.linspace(0.1, 1.2, 12)}))  # fmt: skip
    table = frontier.gains_by_severity(few.sample(frac=1, random_state=0), n_resamples=100)
    assert set(table.method) == {"adaptive", "fixed"} and len(table) == 8 and set(table.images) == {3}
    for method, factor in (("adaptive", 1), ("fixed", 2)):
        part = table[table.method == method].sort_values("part")
        np.testing.assert_allclose(part.psnr_gain_db, factor * steps[::3], rtol=1e-5)
        np.testing.assert_allclose(part.psnr_gain_db_low, factor * steps[::3], rtol=1e-5)
        np.testing.assert_allclose(part.sigma_hat, [0.2, 0.5, 0.8, 1.1])
