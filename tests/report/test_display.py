"""Tables as readers see them: three columns become one text, decimals follow the numbers, and rows that fit on paper say so."""

import pandas as pd
import pytest

from flashdiff.report import display


def readable(**columns):
    return display.with_intervals(pd.DataFrame(columns)).to_dict("list")


def test_three_columns_become_one():
    assert readable(psnr=[22.333, -1.5], psnr_low=[21.0, -2.25], psnr_high=[23.456, -0.75]) == {
        "psnr": ["22.33 [21.00, 23.46]", "-1.50 [-2.25, -0.75]"]
    }


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.12345, -1.5], ["0.123", "-1.500"]),  # below 2: three decimals
        ([2.0, 0.5], ["2.00", "0.50"]),
        ([50.04, -3.0], ["50.0", "-3.0"]),
        ([-100.4, 3.0], ["-100", "3"]),
        ([1, -20], ["1", "-20"]),  # integers stay what they are
        ([1000, 0], ["1000", "0"]),
        ([1.5, float("nan")], ["1.500", ""]),
    ],
)
def test_decimals_follow_the_size_of_the_column(values, texts):
    assert readable(some_number=values) == {"some number": texts}


def test_integers_with_an_interval_have_the_decimals_of_the_interval():
    """A mean that happens to be whole is read from the CSV as an integer."""
    assert readable(nfe=[3, 4], nfe_low=[2.5, 3.5], nfe_high=[4, 5]) == {
        "nfe": ["3.00 [2.50, 4.00]", "4.00 [3.50, 5.00]"]
    }


def test_texts_pass_and_a_missing_interval_leaves_no_nan():
    nan = float("nan")
    table = readable(method=["fixed_20", "a"], gain=[1.0, nan], gain_low=[nan, nan], gain_high=[nan, nan], n=[3, 4])
    assert table == {"method": ["fixed_20", "a"], "gain": ["1.000", ""], "n": ["3", "4"]}


def test_a_table_whose_rows_fit_on_paper_says_so():
    """Cells are what fits or not: heads break between their words."""
    cell = "x" * (display.WIDTH // 2 - 2)
    assert 'class="dataframe fits"' in display.html(pd.DataFrame({"a long head": [cell], "b": [cell]}))
    assert "fits" not in display.html(pd.DataFrame({"a long head": [cell + "x"], "b": [cell + "x"]}))
    assert "fits" in display.html(pd.DataFrame({"n": pd.array([3, None], dtype="Int64")}))
