"""Weak baselines: what they are, and that figures and captions show them as such."""

import numpy as np
import pandas as pd
import pytest

from flashdiff import figures
from flashdiff.report import tables
from flashdiff.report.template import module
from flashdiff.report.weak import WEAK, is_weak, reference, weak_pairs
from tests.report.figure_cases import FROM_ROWS, claims

BOTH = pytest.mark.parametrize("weak", [False, True], ids=["strong", "weak"])


def test_a_baseline_is_weak_below_one_and_a_half_times_the_dearest_flash():
    flash = {"no_diffusion": 0, "flash_published": 80, "flash_consistent": 100, "fixed_mean": 400}
    assert is_weak(flash | {"full_length": 149}) and not is_weak(flash | {"full_length": 150})
    assert not is_weak(flash) and not is_weak({"full_length": 1, "fixed_mean": 100})
    assert reference(flash | {"full_length": 149}) == "no_diffusion"
    assert reference(flash | {"full_length": 150}) == "full_length"
    assert reference({"full_length": 40, "flash_published": 40}) == "full_length"  # there is nothing else


def test_a_pair_is_weak_by_the_least_of_its_ratios():
    records = [
        {"claim": claim, "degradation": degradation, "solver": "ldps", "value": value}
        for claim, degradation, value in [
            ("nfe_ratio", "blur", 9.0), ("nfe_ratio", "blur", 1.49), ("nfe_ratio", "jpeg", WEAK), ("nfe_ratio", "mask", None),
            ("psnr_gain_db", "jpeg", 0.1), ("nfe_ratio_100", "jpeg", 1.0),
        ]
    ]  # fmt: skip
    assert weak_pairs(records) == {("blur", "ldps")} == weak_pairs(pd.DataFrame(records).to_dict("records"))


def with_baseline(name, weak, beyond):
    """The table of a figure whose baseline costs 1.4 or 1.6 times the long walks, with quality far beyond all else or within."""
    table = FROM_ROWS[name][0]().copy()
    if name == "frontier_of_solvers":
        full = (table.part == "full length") & (table.solver == "psld")
        walk = table[(table.part == "long walk") & (table.solver == "psld")].nfe.max()
        table.loc[table.solver == "psld", "weak"] = weak
    else:
        full = table.method == "full_length"
        walk = table[table.method.str.startswith("flash_")].nfe.max()
    table.loc[full, "nfe"] = (1.4 if weak else 1.6) * walk
    for column, sign in (("psnr", -1), ("perceptual", 1)):
        ends = [c for c in table if c.removesuffix("_low").removesuffix("_high") == column]
        others = table.loc[~full, ends].to_numpy(float)
        worst, spread = (others.min(), others.max())[sign > 0], np.ptp(others)
        table.loc[full, ends] = worst + sign * 4 * spread if beyond else others.mean()
    return table, full


@BOTH
@pytest.mark.parametrize("beyond", [True, False], ids=["beyond", "within"])
@pytest.mark.parametrize("name", ["frontier", "quality_against_steps", "quality_of_methods", "frontier_of_solvers"])
def test_a_weak_baseline_is_hollow_and_does_not_stretch_the_axis(name, beyond, weak):
    table, full = with_baseline(name, weak, beyond)
    figure = getattr(figures, name)(table)
    along_x = name == "quality_of_methods"
    for axis, column, arrow in zip(figure.axes, ("psnr", "perceptual"), "◂▸" if along_x else "▾▴", strict=True):
        at, nfe = table.loc[full, column].item(), table.loc[full, "nfe"].item()
        low, high = axis.get_xlim() if along_x else axis.get_ylim()
        others = table.loc[~full, column]
        assert (low <= at <= high) != (weak and beyond) and low < others.min() < others.max() < high
        assert (high - low < 2 * np.ptp(table.loc[~full, [c for c in table if c.startswith(column)]])) != (
            beyond and not weak
        )
        faces = {
            line.get_markerfacecolor()
            for line in axis.lines
            if line.get_marker() in ("X", "o") and at in (line.get_xdata() if along_x else line.get_ydata())
        }
        assert ("white" in faces) == weak and len(faces) == 1
        written = [text.get_text() for text in axis.texts]
        assert [set(text.split()) for text in written] == ([{arrow, f"{at:.3g}"}] if weak and beyond else [])
        if written and not along_x:
            assert axis.texts[0].xy[0] == pytest.approx(nfe)
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    words += [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert any("weak" in text for text in words) == weak


@BOTH
def test_the_dashed_level_is_that_of_what_intervals_are_of(weak):
    table, _ = with_baseline("quality_of_methods", weak, beyond=False)
    levels = table.set_index("method").psnr
    (dashed,) = [line for line in figures.quality_of_methods(table).axes[0].lines if line.get_linestyle() == "--"]
    assert set(dashed.get_xdata()) == {levels["no_diffusion" if weak else "full_length"]}


@BOTH
def test_intervals_around_means_are_of_the_difference_to_no_diffusion_where_the_baseline_is_weak(weak):
    """The baseline fails on every image in its own way; over D(z_hat) all images gain 1 dB."""
    base, images = np.linspace(15, 25, 9), np.arange(9)
    methods = {
        "no_diffusion": (0, base),
        "flash_consistent": (100, base + 1),
        "full_length": (140 if weak else 160, base[::-1]),
    }
    rows = pd.concat(
        pd.DataFrame({"image": images, "method": method, "nfe": nfe, "psnr": psnr, "perceptual": 1 / psnr})
        for method, (nfe, psnr) in methods.items()
    )
    flash = tables.quality_against_baseline(rows, n_resamples=500).set_index("method").loc["flash_consistent"]
    assert flash.psnr == pytest.approx(21)
    assert (flash.psnr_high - flash.psnr_low < 1e-9) == weak and (flash.psnr_high - flash.psnr_low > 3) != weak


@BOTH
def test_captions_name_what_intervals_are_of(weak):
    """Every caption that leaves it open gets it, in the words for this pair."""
    captions, drawn = module("captions.j2"), module("macros.html.j2").drawn
    left_open = {name for name, text in captions.figures.items() if "{reference}" in text}
    assert left_open == {"frontier", "quality_against_steps", "quality_of_methods"}
    entries = {"path": "a.png", "width": 9, "height": 9, "of": "", "on_screen": False, "pdf": None, "weak": weak}
    for name in captions.figures:
        text = drawn({"name": name} | entries)
        assert "{reference}" not in text and ("baseline is weak here" in text) == (weak and name in left_open)


def test_gains_of_pairs_marks_the_pairs_with_a_weak_baseline():
    table = claims()
    assert weak_pairs(table.to_dict("records")) == set()
    ratio = (table.claim == "nfe_ratio") & (table.solver == "ldps")
    table.loc[ratio, ["value", "low", "high"]] = 1.2, 1.1, 1.3
    names = [text.get_text() for text in figures.gains_of_pairs(table).axes[0].get_yticklabels()]
    assert [name.endswith("*") for name in names] == ["LDPS*" in name for name in names] and any(
        n.endswith("*") for n in names
    )
