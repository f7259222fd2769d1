"""Tables of blind walks and of shifts: closed forms, and what a study without the experiments has."""

import numpy as np
import pytest
from synthetic import blind_rows, shift_rows

from flashdiff.report import blind, shift, tables

PAIRS = {"gaussian_blur-ldps": blind_rows(), "random_inpainting-ldps": blind_rows(True)}


def test_blind_walks_are_held_against_the_known_level():
    table = blind.level_table(PAIRS, 100).set_index(["degradation", "told"])
    assert len(table) == 9
    for variant, loss in {"known": 0, "fitted": 0.1, "refined": 0.2, "mask": 0.5, "fixed": 5}.items():
        row = table.loc["random_inpainting", blind.VARIANTS[variant]]
        assert row.psnr_gain_db == pytest.approx(-loss, abs=1e-6) == row.psnr_gain_db_low
        assert row.level_error == pytest.approx(loss / 10, abs=1e-6) == row.level_bias
        assert row.error_after == pytest.approx(loss / 20, abs=1e-6)
        assert row.perceptual_gain == pytest.approx(-loss, abs=1e-6) and row.nfe == 6


def test_kinds_are_counted():
    table = blind.kind_table(PAIRS).set_index("degradation")
    assert table.loc["blur", ["taken_for_blur", "taken_for_masks"]].tolist() == [9, 3]
    assert table.right.to_dict() == {"blur": 0.75, "masks": 1.0}
    assert table.level_error.tolist() == pytest.approx([0.01, 0.01])


def test_the_sentence_of_blind_walks_says_behind_and_level():
    levels, kinds = blind.level_table(PAIRS, 100), blind.kind_table(PAIRS)
    said = blind.sentences(levels, kinds)
    assert "one level for all is behind the true level (-5.00 dB [-5.00, -5.00], error of the level 0.500)" in said
    assert "87.5% of the measurements" in said and "the fewest of blur, 75.0%" in said
    assert blind.sentences(levels.assign(psnr_gain_db_low=-1, psnr_gain_db_high=1), kinds).count("level with") == 7


def test_shifts_that_stand_apart_are_all_flagged_and_unshifted_ones_rarely():
    rows = {"gaussian_blur-ldps": shift_rows()}
    table = shift.detector_table(rows, 1, 0.05, 100).set_index("shift")
    assert table.auc_misfit[["noise x 2", "masks"]].tolist() == [1, 1]
    assert table.flagged[["noise x 2", "masks"]].tolist() == [1, 1]
    assert table.flagged["none"] <= 0.05 and table.auc_sigma_hat["masks"] == pytest.approx(0.5)
    n, low = 40, 0.025 ** (1 / 40)  # Clopper and Pearson of n out of n: the bound solves low^n = 0.025
    assert table.flagged_low["masks"] == pytest.approx(low) and table.images["masks"] == n
    curve = shift.roc_table(rows, 1)
    for _, part in curve.groupby("shift"):
        assert np.trapezoid(part.detections, part.false_alarms) == pytest.approx(1)


def test_what_is_lost_and_saved_is_the_difference_of_walks_on_the_same_images():
    table = shift.lost_table({"gaussian_blur-ldps": shift_rows()}, 1, 0.05, 100).set_index("shift")
    for name, more in (("none", 0), ("noise x 2", 1), ("masks", 5)):
        row = table.loc[name]
        assert row.lost_db == pytest.approx(more) == row.lost_db_low
        assert row.saved_db == pytest.approx(more / 4) == row.saved_db_high
        assert (row.nfe, row.fallback_nfe, row.images) == (6, 24, 20)
    assert table.flagged_images[["noise x 2", "masks"]].tolist() == [20, 20]
    assert table.saved_flagged_db["masks"] == pytest.approx(1.25)


def test_the_sentence_of_shifts_follows_the_intervals():
    rows = {"gaussian_blur-ldps": shift_rows()}
    detectors, lost = shift.detector_table(rows, 1, 0.05, 100), shift.lost_table(rows, 1, 0.05, 100)
    said = shift.sentences(detectors, lost)
    assert "as promised (5%)" in said and "noise x 2 100%, masks 100%" in said
    walks = "Not knowing the shift costs (dB) on noise x 2 1.00, masks 5.00. Falling back to a longer walk "
    assert said.endswith(f"{walks}saves on noise x 2 +0.25, masks +1.25.")
    mixed = lost.assign(
        saved_db_low=np.where(lost["shift"] == "masks", -2, -1), saved_db_high=np.where(lost["shift"] == "masks", -1, 1)
    )
    expected = f"{walks}costs on masks +1.25; changes nothing beyond chance on noise x 2 +0.25."
    assert shift.sentences(detectors, mixed).endswith(expected)
    assert "not as promised" in shift.sentences(detectors.assign(flagged_low=0.2), lost)


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda rows: blind.level_table(rows, 100), blind_rows()),
        (blind.kind_table, blind_rows()),
        (lambda rows: shift.detector_table(rows, 2, 0.05, 100), shift_rows()),
        (lambda rows: shift.lost_table(rows, 2, 0.05, 100), shift_rows()),
        (lambda rows: shift.roc_table(rows, 2), shift_rows()),
    ],
    ids=["levels", "kinds", "detectors", "lost", "roc"],
)
def test_a_study_without_the_experiment_has_a_table_of_nothing(make, rows, tmp_path):
    table = tables.save(make({"a-ldps": rows.iloc[:0]}), tmp_path, "table")
    assert table.empty and (tmp_path / "table.tex").is_file()
    assert blind.sentences(table, table).endswith("not measured.")
    assert shift.sentences(table, table).endswith("not measured.")
