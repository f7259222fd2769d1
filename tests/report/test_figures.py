"""Figures: what is drawn is the data, axes say what they show, and a figure that is saved twice has the same bytes."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from figure_cases import (
    FROM_IMAGES,
    FROM_ROWS,
    claims,
    curve,
    draw,
    drawn,
    few_step_runs,
    of_solvers,
    pictures,
    quality_table,
    reconstructed,
    seen,
)
from matplotlib.patches import ConnectionPatch
from synthetic import ablation_rows, few_step_rows, ordering_rows, reconstruction_rows, severity_rows, timings

from flashdiff import figures
from flashdiff.report import frontier, intervals, style, tables
from flashdiff.report.names import label
from flashdiff.study.methods import ladder

LEVEL, SIGMA = "severity level t", "predicted severity σ̂ (latent units)"
NFE = "denoiser evaluations (NFE)"
QUALITY = ["PSNR (dB), higher is better", "perceptual distance, lower is better"]


def drawn_line(axis, label):
    """(x, y) of the line with that legend label."""
    (line,) = [line for line in axis.lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def test_the_cases_below_are_all_figures_there_are():
    assert {*FROM_ROWS, *FROM_IMAGES} == set(figures.__all__) - {"save"}


# ------------------------------------------------------------------------------------------------ labels and refusals

RATIO = "true noise / assumed noise"
AXES = {
    "learning_curve": [("optimiser step", "training loss"), ("optimiser step", "on held-out images")],
    "severity_against_level_per_image": [(LEVEL, SIGMA)],
    "ordering_by_pair": [("lower level t", "higher level t"), ("", "pairs in the right order (%)")],
    "severity_against_level": [(LEVEL, SIGMA)],
    "severity_shares": [("share of the variance of σ̂ (%)", "")],
    "calibration": [(SIGMA, "true latent error s̄ (latent units)")],
    "error_statistics": [
        ("excess kurtosis of an image's latent error", "test images"),
        ("correlation of neighbouring entries", "test images"),
    ],
    "quality_against_steps": [(NFE, label) for label in QUALITY],
    "start_distribution": [("start index of the reverse diffusion", "test images")],
    "starts_by_severity": [(f"{NFE} of a fixed start", "PSNR, gain over the start of equal NFE (dB)")],
    "wall_clock": [("seconds per image, all images in one run", "")],
    "quality_of_methods": [(label, "") for label in QUALITY],
    "ablation": [(LEVEL, "true latent error s̄ (latent units)")],
    "confidence": [(SIGMA, "PSNR (dB)")] * 4,
    "intervals_held": [("test images held", "")] * 2,
    "noise_robustness": [
        (RATIO, "latent error (latent units)"),
        (RATIO, "mean σ̂ / mean s̄"),
        (RATIO, "PSNR (dB)"),
    ],
    "blind_levels": [
        ("error of the level, |t̂ - t|", ""),
        ("PSNR, gain (dB)", ""),
        ("perceptual distance, decrease (%)", ""),
    ],
    "shift_roc": [("false alarms, of unshifted images", "flagged, of shifted images")] * 2,
    "unseen_classes": [(LEVEL, "true latent error s̄ (latent units)")],
    "encoder_choices": [
        ("true latent error s̄\n(latent units)", ""),
        ("mean σ̂ / mean s̄", ""),
        ("Spearman correlation\nof σ̂ with s̄", ""),
        ("ordering accuracy", ""),
    ],
    "start_choices": [("mean start index", ""), ("PSNR (dB)", ""), ("PSNR, paired gain (dB)", "")],
    "calibrated_start": [
        ("", "gaussian blur\nstart index + 1"),
        ("", "steps"),
        ("", ""),
        ("predicted severity σ̂", "random inpainting\nstart index + 1"),
        ("predicted severity σ̂", "steps"),
        ("gain in PSNR (dB)", ""),
    ],
    "budget_for_a_set": [
        ("", "gaussian blur\nPSNR (dB)"),
        ("", "gain over equal shares (dB)"),
        ("", "evaluations of an image"),
        ("mean evaluations", "random inpainting\nPSNR (dB)"),
        ("mean evaluations", "gain over equal shares (dB)"),
        ("predicted severity σ̂", "evaluations of an image"),
    ],
    "posterior_spread": [
        *(("", "error left / all"), ("", "coverage")),
        ("least sure pixels taken away", "error left / all"),
        ("nominal level", "coverage"),
    ],
    "frontier": [(NFE, label.replace(", ", ",\n")) for label in QUALITY],
    "frechet": [(NFE, "Frechet distance, lower is better")],
    "frontier_of_solvers": [(NFE, label.replace(", ", ",\n")) for label in QUALITY],
    "gain_over_fixed": [
        ("mean evaluations asked (budget)", "PSNR,\ngain (dB)"),
        ("mean evaluations asked (budget)", "perceptual distance,\ndecrease (%)"),
    ],
    "gain_by_severity": [
        ("mean evaluations asked (budget)", "PSNR,\ngain (dB)"),
        ("mean evaluations asked (budget)", "perceptual distance,\ndecrease (%)"),
    ],
    "gains_of_pairs": [
        ("PSNR, gain (dB)", ""),
        ("perceptual distance, decrease (%)", ""),
        ("evaluations, baseline / Flash", ""),
    ],
}


@pytest.mark.parametrize("name", AXES)
def test_axes_say_what_they_show_and_in_which_unit(name):
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in drawn(name).axes] == AXES[name]


LEGENDS = {
    "learning_curve": [
        ["loss", "latent", "severity", "image"],
        ["ordering accuracy", "spearman error", "calibration ratio"],
    ],
    "severity_against_level_per_image": [["mean of 12 images", "one image each"]],
    "severity_against_level": [["mean per tenth of the range"]],
    "calibration": [["mean of ten equal bins", "perfect calibration"]],
    "quality_against_steps": [
        [
            "fixed start, same for all images",
            label("no_diffusion"),
            label("flash_published"),
            label("flash_consistent"),
            label("flash_inversion"),
            label("full_length"),
        ]
    ],
    "starts_by_severity": [[*tables.THIRDS, "where Flash starts them (mean)"]],
    "ablation": [
        [
            *("squared loss", "likelihood loss", "published architecture", "own network architecture"),
            *("300 steps", "1000 steps", "prior's encoder, untrained"),
        ]
    ],
    "blind_levels": [["gaussian blur", "random inpainting"]],
    "shift_roc": [["noise x 2", "masks"]],
    "noise_robustness": [["true, s̄", "predicted, σ̂"], ["no diffusion, D(ẑ)", "Flash, few steps"]],
    "unseen_classes": [
        [
            *("on unseen classes, trained on all classes", "on unseen classes, trained without the unseen"),
            *("on other classes, trained on all classes", "on other classes, trained without the unseen"),
        ]
    ],
    "calibrated_start": [
        [
            *("calibrated start", "tuned rule, set by hand", "consistent start", "white part of the error"),
            *("3 evaluations", "6 evaluations"),
        ]
    ],
    "budget_for_a_set": [
        [
            *("equal shares", "tuned rule, each image by itself", "by predicted severity"),
            "best shares, in hindsight",
        ]
    ],
    "posterior_spread": [["few steps, start noise", "few steps, fresh noise", "published walk"]],
    "frontier": [
        [
            *("Flash, few steps", "best fixed start and steps", "forward diffusion to one index"),
            *("true error known (oracle)", label("psld"), f"{label('no_diffusion')}, NFE 0"),
            *map(label, ("flash_published", "flash_consistent", "flash_inversion", "full_length")),
        ]
    ],
    "frechet": [["Flash, few steps", "best fixed start and steps", f"{label('no_diffusion')}, NFE 0"]],
    "frontier_of_solvers": [
        ["LDPS", "PSLD", "long walk of Flash", label("full_length"), label("no_diffusion")],
    ],
    "gains_of_pairs": [[label("flash_published"), label("flash_consistent")]],
    "start_distribution": [[f"mean {(100 * reconstruction_rows(10).sigma_hat[:10]).astype(int).mean():.0f}"]],
}


@pytest.mark.parametrize("name", LEGENDS)
def test_legends_name_every_series_without_a_frame(name):
    figure = drawn(name)
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()] + figure.legends
    assert [sorted(text.get_text() for text in legend.get_texts()) for legend in legends] == [
        sorted(texts) for texts in LEGENDS[name]
    ]
    assert not any(legend.get_frame_on() for legend in legends)


@pytest.mark.parametrize("name", FROM_ROWS)
def test_a_missing_column_is_named_and_no_other_is_needed(name):
    rows, function, needed = FROM_ROWS[name]
    table = rows()
    for column in needed:
        with pytest.raises(ValueError, match=rf"column {column} is missing; this figure needs .*\b{column}\b"):
            function(table.drop(columns=column))
    function(table[needed])


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    with matplotlib.rc_context({"legend.frameon": True, "font.size": 17}):
        for name in ("calibration", "image_grid"):
            draw(name)
        assert matplotlib.rcParams["legend.frameon"] and matplotlib.rcParams["font.size"] == 17


# ---------------------------------------------------------------------------------------------------- what is drawn


def test_learning_curve_draws_the_loss_and_the_held_out_measures():
    table = curve()
    left, right = figures.learning_curve(table, "gaussian_blur").axes
    assert left.get_title() == "gaussian blur" and left.get_yscale() == "log" and right.get_yscale() == "linear"
    for column in ("loss", "latent", "severity", "image"):
        np.testing.assert_array_equal(drawn_line(left, column), table[["step", column]].to_numpy().T)
    for column in ("ordering_accuracy", "spearman_error", "calibration_ratio"):
        measured = table[table.step % 250 == 0]
        np.testing.assert_array_equal(
            drawn_line(right, column.replace("_", " ")), measured[["step", column]].to_numpy().T
        )


def test_a_run_that_is_measured_at_every_row_draws_no_measure_as_a_loss():
    """The smoke study trains 20 steps: one row, with everything in it."""
    left, right = figures.learning_curve(curve().dropna().tail(1), "smoke").axes
    assert [line.get_label() for line in left.lines] == ["loss", "latent", "severity", "image"]
    assert len(right.lines) == 3


def test_the_classifier_is_measured_on_its_training_batches_and_a_bare_loss_has_one_panel():
    table = curve()[["step", "loss"]]
    assert figures.learning_curve(table.assign(accuracy=0.5), "features").axes[1].get_ylabel() == "on training batches"
    assert len(figures.learning_curve(table, "denoiser").axes) == 1


def test_per_image_lines_are_the_paths_and_the_mean_is_of_all_images():
    rows = ordering_rows()
    axis = figures.severity_against_level_per_image(rows, shown=4).axes[0]
    sigma = rows.sigma_hat.to_numpy().reshape(12, 5)
    thin = [line for line in axis.lines if line.get_linewidth() == 0.5]
    np.testing.assert_array_equal([line.get_ydata() for line in thin], sigma[:4])
    x, y = drawn_line(axis, "mean of 12 images")
    np.testing.assert_allclose(x, np.linspace(0, 1, 5))
    np.testing.assert_allclose(y, sigma.mean(0))


def test_ordering_by_pair_counts_every_pair():
    rows = ordering_rows()
    axis = figures.ordering_by_pair(rows.sample(frac=1, random_state=0)).axes[0]
    shown = axis.collections[0].get_array().reshape(4, 4)
    for low in range(4):
        for high in range(1, 5):
            cell = shown[high - 1, low]
            if high <= low:
                assert np.ma.is_masked(cell)
                continue
            right = 0
            for image in range(12):
                path = rows[rows.image == image].sigma_hat.to_list()
                right += path[low] <= path[high]
            assert cell == pytest.approx(100 * right / 12)
    assert 50 < shown.min() < shown.max()  # the rows do tell pairs apart
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.00", "0.25", "0.50", "0.75"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.25", "0.50", "0.75", "1.00"]
    assert [text.get_text() for text in axis.texts] == [f"{value:.0f}" for value in shown.compressed()]


def test_severity_shares_are_drawn_in_per_cent():
    table = tables.severity_shares(ordering_rows())
    axis = figures.severity_shares(table).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], 100 * table.share)
    assert [text.get_text() for text in axis.get_yticklabels()] == table.part.tolist()


def test_severity_against_level_draws_every_image_and_the_mean_per_tenth():
    rows = severity_rows()
    rows.loc[0, "t"] = 0.0  # belongs to the first tenth
    axis = figures.severity_against_level(rows).axes[0]
    np.testing.assert_array_equal(axis.collections[0].get_offsets(), rows[["t", "sigma_hat"]])
    tenth = np.ceil(rows.t * 10).clip(lower=1)
    expected = [rows[["t", "sigma_hat"]][tenth == number].mean() for number in range(1, 11)]
    np.testing.assert_allclose(np.transpose(drawn_line(axis, "mean per tenth of the range")), expected)
    spearman = scipy.stats.spearmanr(rows.t, rows.sigma_hat).statistic
    assert axis.get_title() == f"120 test images, Spearman correlation {spearman:.2f}"


def test_calibration_draws_equal_bins_and_the_diagonal():
    rows = severity_rows()
    axis = figures.calibration(rows).axes[0]
    np.testing.assert_array_equal(axis.collections[0].get_offsets(), rows[["sigma_hat", "sbar"]])
    ascending = rows.sort_values("sigma_hat")[["sigma_hat", "sbar"]].to_numpy()
    expected = [part.mean(0) for part in np.split(ascending, 10)]
    np.testing.assert_allclose(np.transpose(drawn_line(axis, "mean of ten equal bins")), expected)
    x, y = drawn_line(axis, "perfect calibration")
    assert (x == y).all() and axis.get_xlim() == axis.get_ylim() == tuple(x)
    assert x[1] > max(rows.sigma_hat.max(), rows.sbar.max())


def test_error_statistics_count_every_image_once():
    rows = severity_rows()
    rows.loc[3, "kurtosis"] = 1e4  # one wild image goes into the last bar and does not stretch the axis
    for axis, column in zip(figures.error_statistics(rows).axes, ("kurtosis", "neighbour_correlation"), strict=True):
        values = rows[column].clip(*np.quantile(rows[column], [0.005, 0.995]))
        counts, edges = np.histogram(values, bins=30)
        np.testing.assert_array_equal([bar.get_height() for bar in axis.patches], counts)
        np.testing.assert_allclose([bar.get_x() for bar in axis.patches], edges[:-1], atol=1e-6)
        assert counts.sum() == len(rows) and list(axis.lines[0].get_xdata()) == [0, 0]


def errorbars(axis, along="y"):
    """{label: (place, value, lowest, highest)} of the marks of an axis whose intervals run along x or y."""
    found = {}
    for container in axis.containers:
        mark, _, (bar,) = container.lines
        value, place = (mark.get_ydata()[0], mark.get_xdata()[0])[:: 1 if along == "y" else -1]
        ends = [point[int(along == "y")] for point in bar.get_segments()[0]]
        assert {float(point[int(along != "y")]) for point in bar.get_segments()[0]} == {place}
        found[container.get_label()] = (place, value, *ends)
    return found


def test_quality_against_steps_draws_means_and_intervals():
    rows = reconstruction_rows()
    figure = figures.quality_against_steps(tables.quality_against_baseline(rows, n_resamples=1000))
    mean = rows.groupby("method")[["nfe", "psnr", "perceptual"]].mean()
    for axis, column in zip(figure.axes, ("psnr", "perceptual"), strict=True):
        fixed = mean.loc[["fixed_20", "fixed_mean", "fixed_150"]]  # by cost
        np.testing.assert_allclose(
            drawn_line(axis, "fixed start, same for all images"), fixed[["nfe", column]].to_numpy().T, rtol=1e-5
        )
        marks = errorbars(axis)
        assert len(marks) == 4 and axis.get_xscale() == "log"
        for method in ("flash_published", "flash_consistent", "flash_inversion", "full_length"):
            values = rows.pivot(index="image", columns="method", values=column)
            gain = intervals.bootstrap((values[method] - values.full_length).to_numpy(), np.mean, 1000)
            ends = [mean[column]["full_length"] + gain[end] for end in ("value", "low", "high")]
            np.testing.assert_allclose(marks[label(method)], [mean.nfe[method], *ends], rtol=1e-5)
            assert (gain["low"] < gain["high"]) == (method != "full_length")
        (level,) = [line for line in axis.lines if line.get_linestyle() == "--"]
        np.testing.assert_allclose(level.get_ydata(), mean[column]["full_length"], rtol=1e-5)
        _, height = drawn_line(axis, label("no_diffusion"))
        np.testing.assert_allclose(height, mean[column]["no_diffusion"], rtol=1e-5)


def test_quality_of_methods_draws_every_method_that_has_a_name():
    table = quality_table()
    named = table[~table.method.isin(ladder(table.method))]  # and not the ladder of fixed starts
    figure = figures.quality_of_methods(table)
    written = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert written == [f"{label(row.method)} ({row.nfe:.0f})" for row in named.itertuples()] and len(written) == 13
    for axis, column in zip(figure.axes, ("psnr", "perceptual"), strict=True):
        marks = errorbars(axis, along="x")
        assert list(marks) == written
        (level,) = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert set(level.get_xdata()) == {table.set_index("method")[column]["full_length"]}
        for place, (name, row) in enumerate(zip(written, named.to_dict("records"), strict=True)):
            expected = [place, row[column], row[f"{column}_low"], row[f"{column}_high"]]
            np.testing.assert_allclose(marks[name], expected, rtol=1e-12)


def test_the_frontier_of_solvers_draws_each_solver_s_own_walks():
    """A line through the budgets that are tuned for the panel's measure, one on to long walk and baseline, and their marks."""
    table = of_solvers().sort_values("nfe", kind="stable")
    table.loc[table.solver == "psld", "psnr"] += 3
    for axis, measure in zip(figures.frontier_of_solvers(table).axes, ("psnr", "perceptual"), strict=True):
        nothing, *drawn = axis.lines
        assert nothing.get_ydata()[0] == pytest.approx(table[table.part == frontier.NOTHING][measure].mean())
        for solver, lines in zip(("ldps", "psld"), (drawn[:4], drawn[4:]), strict=True):
            own = table[table.solver == solver]
            few = own[(own.part == frontier.FEW) & (own.tuned_for == measure)]
            ends = [own[own.part == part] for part in (frontier.LONG, frontier.FULL)]
            for line, rows in zip(lines, (pd.concat([few.tail(1), *ends]), few, *ends), strict=True):
                assert len(rows) and line.get_xdata().tolist() == rows.nfe.tolist()
                assert line.get_ydata().tolist() == rows[measure].tolist()


def test_the_frontier_of_solvers_leaves_out_degradations_with_one_solver_where_others_have_several():
    table = frontier.frontier_table(few_step_runs(), n_resamples=10)
    pairs = [("blur", "ldps"), ("blur", "psld"), ("mixture", "ldps")]
    assert set(frontier.frontier_of_solvers(dict.fromkeys(pairs, table)).degradation) == {"blur"}
    assert set(frontier.frontier_of_solvers(dict.fromkeys(pairs[1:], table)).degradation) == {"blur", "mixture"}
    parts = frontier.frontier_of_solvers({("blur", "ldps"): table}).groupby("part").nfe.agg(["min", "max"])
    assert parts.loc[frontier.NOTHING, "max"] == 0 < parts.loc[frontier.FEW, "min"]
    assert parts.loc[frontier.LONG, "max"] < parts.loc[frontier.FULL, "min"]


def test_gains_of_pairs_draws_both_starts_of_every_pair_that_was_measured():
    table = claims()
    figure = figures.gains_of_pairs(table)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["gaussian blur, LDPS", "motion blur, LDPS (ddim40)"]
    scales = {"psnr_gain_db": 1, "perceptual_gain": 100, "nfe_ratio": 1}
    for axis, (claim, scale) in zip(figure.axes, scales.items(), strict=True):
        assert axis.lines[0].get_xdata()[0] == (1 if claim == "nfe_ratio" else 0)  # where there is no gain
        for container, start in zip(axis.containers, ("published", "consistent"), strict=True):
            rows = table[(table.claim == claim) & (table.start == start)].dropna()
            assert container.get_label() == label(f"flash_{start}")
            points, _, (bars,) = container.lines
            np.testing.assert_allclose(
                np.asarray(points.get_xdata(), dtype=float), scale * rows.value.to_numpy(dtype=float)
            )
            places = np.asarray(points.get_ydata(), dtype=float)
            assert (np.round(places) == np.arange(len(rows))).all()
            assert ((places < np.round(places)) == (start == "published")).all()
            ends = np.array([segment[:, 0] for segment in bars.get_segments()])
            np.testing.assert_allclose(ends.astype(float), scale * rows[["low", "high"]].to_numpy(dtype=float))
    assert len(figure.axes[1].containers[1].lines[0].get_xdata()) == 1


def test_the_frontier_joins_budgets_marks_long_walks_and_leaves_out_shuffled_severities():
    table = FROM_ROWS["frontier"][0]()
    figure = figures.frontier(table)
    assert figure.get_size_inches()[0] * 72 <= 487
    for axis, column in zip(figure.axes, ("psnr", "perceptual"), strict=True):
        drawn = {container.get_label(): container for container in axis.containers}
        assert label("shuffled") not in drawn and axis.get_xscale() == "log"
        for method in ("adaptive", "fixed", "forward", "oracle", "psld"):
            rows = table[(table.method == method) & (table.tuned_for == column)].sort_values("nfe")
            line, _, bars = drawn[label(method)].lines
            np.testing.assert_array_equal([line.get_xdata(), line.get_ydata()], rows[["nfe", column]].to_numpy().T)
            assert bool(bars) == (method != "oracle") and (line.get_linestyle() == ":") == (method == "oracle")
            if bars:
                ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])
                np.testing.assert_allclose(ends.astype(float), rows[[f"{column}_low", f"{column}_high"]])
        long = table[table.tuned_for == ""].set_index("method")
        for method in ("flash_published", "flash_consistent", "full_length"):
            mark = drawn[label(method)].lines[0]
            assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (long.nfe[method], long[column][method])
        dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
        (level,) = [line for line in dashed if list(line.get_xdata()) == [0, 1]]  # over the whole width
        assert set(level.get_ydata()) == {long[column]["full_length"]}
        place, height = drawn_line(axis, f"{label('no_diffusion')}, NFE 0")
        assert place == 0 and height == long[column]["no_diffusion"]
        assert axis.get_xlim()[0] < table[table.nfe > 0].nfe.min()


def test_the_frechet_distance_is_drawn_with_its_difference_to_no_diffusion():
    table = FROM_ROWS["frechet"][0]()
    (axis,) = figures.frechet(table).axes
    (level,) = table.frechet_distance[table.method == "no_diffusion"]
    place, height = drawn_line(axis, f"{label('no_diffusion')}, NFE 0")
    assert place == 0 and height == level and axis.get_xscale() == "log"
    (across,) = [line for line in axis.lines if list(line.get_xdata()) == [0, 1]]  # over the whole width
    assert set(across.get_ydata()) == {level}
    drawn = {container.get_label(): container for container in axis.containers}
    assert set(drawn) == {label("adaptive"), label("fixed")}
    for method in ("adaptive", "fixed"):
        rows = table[table.method == method].sort_values("nfe")
        line, _, (bars,) = drawn[label(method)].lines
        np.testing.assert_array_equal(
            [line.get_xdata(), line.get_ydata()], rows[["nfe", "frechet_distance"]].to_numpy().T
        )
        ends = np.array([segment[:, 1] for segment in bars.get_segments()]).astype(float)
        np.testing.assert_allclose(ends - level, rows[["minus_no_diffusion_low", "minus_no_diffusion_high"]])


def test_the_ablation_draws_every_training_in_the_style_of_its_choices():
    rows = ablation_rows()
    (axis,) = figures.ablation(rows).axes
    *lines, untrained = axis.lines
    groups = list(rows.groupby(["loss", "architecture", "steps"], sort=False))
    for line, (_, part) in zip(lines, groups, strict=True):
        np.testing.assert_array_equal([line.get_xdata(), line.get_ydata()], part[["t", "error"]].to_numpy().T)
    np.testing.assert_array_equal(untrained.get_ydata(), groups[0][1].error_e0)
    losses, architectures, lengths = zip(*(training for training, _ in groups), strict=True)
    for choices, told in (
        (losses, [line.get_color() for line in lines]),
        (architectures, [(line.get_linestyle(), line.get_marker()) for line in lines]),
        (lengths, [line.get_linewidth() for line in lines]),
    ):
        assert len(set(zip(choices, told, strict=True))) == len(set(choices)) == len(set(told)) == 2
    assert lines[0].get_linewidth() < lines[1].get_linewidth() and axis.get_yscale() == "log"


def test_the_gain_over_fixed_is_that_of_the_walks_tuned_for_the_panel():
    table = frontier.gain_table(frontier.metrics(few_step_runs(), n_resamples=100))
    for axis, (tuned_for, gain, scale) in zip(
        figures.gain_over_fixed(table).axes,
        (("psnr", "psnr_gain_db", 1), ("perceptual", "perceptual_gain", 100)),
        strict=True,
    ):
        rows = table[(table.baseline == "fixed") & (table.tuned_for == tuned_for)]
        line, _, (bars,) = axis.containers[0].lines
        assert list(line.get_xdata()) == [3, 6] and list(axis.lines[0].get_ydata()) == [0, 0]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), scale * rows[gain])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends.astype(float), scale * rows[[f"{gain}_low", f"{gain}_high"]])


def test_a_study_without_perceptual_distance_has_a_panel_that_says_so():
    few, long = (rows.assign(perceptual=np.nan) for rows in (few_step_rows(), reconstruction_rows()))
    found = frontier.runs(few, long, few[:0])
    for figure in (
        figures.frontier(frontier.frontier_table(found, 100)),
        figures.gain_over_fixed(frontier.gain_table(frontier.metrics(found, 100))),
    ):
        assert [len(axis.containers) > 0 for axis in figure.axes] == [True, False]
        assert [text.get_text() for text in figure.axes[1].texts] == ["not measured"]


def test_start_distribution_counts_the_published_starts():
    rows = reconstruction_rows()
    start = rows[rows.method == "flash_published"].start
    axis = figures.start_distribution(rows).axes[0]
    np.testing.assert_array_equal([bar.get_height() for bar in axis.patches], np.histogram(start, bins=20)[0])
    assert axis.lines[0].get_xdata()[0] == pytest.approx(start.mean())


def test_starts_by_severity_draws_every_third_and_marks_its_start():
    table = tables.fixed_starts_by_severity(reconstruction_rows(), n_resamples=100)
    (axis,) = figures.starts_by_severity(table).axes
    drawn = {lines.get_label(): np.asarray(lines.lines[0].get_ydata(), dtype=float) for lines in axis.containers}
    for images, part in table.groupby("images"):
        np.testing.assert_allclose(drawn[images], part.psnr_gain_db)
    marks = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    np.testing.assert_allclose(marks, table.flash_nfe.unique())


def test_wall_clock_draws_seconds_and_writes_both_ratios():
    table = tables.speed(timings())
    axis = figures.wall_clock(table).axes[0]
    methods = ["flash_published", "flash_consistent", "flash_inversion", "fixed_mean", "full_length"]
    by_method = table.set_index("method").loc[methods]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], by_method.seconds_per_image)
    assert [label.get_text() for label in axis.get_yticklabels()] == [label(method) for method in methods]
    for text, row in zip(axis.texts, by_method.itertuples(), strict=True):
        assert text.get_text().startswith(f" {row.seconds_per_image:.2f} s")
        ratios = f"; {row.wall_clock_ratio:.1f} times less time, {row.nfe_ratio:.1f} times fewer evaluations"
        assert (ratios in text.get_text()) == (row.Index != "full_length")


# ----------------------------------------------------------------------------------------------------- images


def assert_shows(axis, image):
    """The axis shows the image (C, H, W) in [-1, 1]; grey ones as three equal channels."""
    pixels = np.broadcast_to((image + 1) / 2, (3, *image.shape[1:])).transpose(1, 2, 0)
    np.testing.assert_allclose(axis.images[0].get_array(), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_the_images_row_by_row(channels):
    images = pictures(5, channels)
    figure = figures.image_grid(images, "Five images", columns=3)
    assert figure.get_suptitle() == "Five images" and len(figure.axes) == 6
    for axis, image in zip(figure.axes[:5], images, strict=True):
        assert_shows(axis, image)
    assert not figure.axes[5].images and not figure.axes[5].axison


def test_values_outside_the_range_are_clipped_and_not_left_to_matplotlib(caplog):
    axis = figures.image_grid(np.array([-3.0, 3.0, 0.0, 1.0]).reshape(1, 1, 2, 2), "").axes[0]
    np.testing.assert_array_equal(axis.images[0].get_array()[..., 0], [[0, 1], [0.5, 1]])
    assert not caplog.records  # matplotlib would warn


def test_degradation_levels_shows_one_row_per_image():
    clean, degraded = pictures(2), pictures(6, seed=1).reshape(2, 3, 1, 6, 6)
    axes = np.reshape(figures.degradation_levels(clean, degraded, np.linspace(0, 1, 3)).axes, (2, 4))
    assert [axis.get_title() for axis in axes[0]] == ["clean", "t = 0.0", "t = 0.5", "t = 1.0"]
    for row in range(2):
        assert_shows(axes[row, 0], clean[row])
        for level in range(3):
            assert_shows(axes[row, 1 + level], degraded[row, level])


def test_outliers_stand_above_their_numbers_kind_by_kind():
    table, images = tables.outliers(severity_rows(), k=2), seen()
    lines = np.reshape(figures.outliers(table, images).axes, (3, 8))
    for line, name in zip(lines, images, strict=True):
        for axis, image in zip(line, table.image, strict=True):
            assert_shows(axis, images[name][image])
    for axis, row in zip(lines[-1], table.itertuples(), strict=True):
        assert axis.get_xlabel() == f"t = {row.t:.2f}\nσ̂ = {row.sigma_hat:.2f}\ns̄ = {row.sbar:.2f}"
    kinds = ["easier than\nits level", "harder than\nits level", "error\nunderrated", "error\noverrated"]
    assert [axis.get_title(loc="left") for axis in lines[0][::2]] == kinds
    assert not any(axis.get_title(loc="left") for axis in lines[0][1::2])
    assert [line[0].get_ylabel() for line in lines] == ["clean", "measured", "D(ẑ)"]


def test_matched_pairs_stand_side_by_side():
    table, images = tables.matched_pairs(severity_rows(), k=2), seen()
    lines = np.reshape(figures.matched_pairs(table, images).axes, (3, 4))
    assert [axis.get_title() for axis in lines[0]] == ["pair 1", "", "pair 2", ""]
    for k in range(4):
        side, row = ("easy", "hard")[k % 2], table.iloc[k // 2]
        for line, name in zip(lines, images, strict=True):
            assert_shows(line[k], images[name][int(row[f"{side}_image"])])
        assert lines[-1][k].get_xlabel() == f"t = {row[f'{side}_t']:.2f}\nσ̂ = {row[f'{side}_sigma_hat']:.2f}"


def test_outliers_of_the_level_are_tied_to_their_dots():
    """Each thumbnail's line ends at its image's (t, sigma_hat), and the dot there is marked."""
    rows, images = severity_rows(), seen()
    table = tables.outliers(rows, k=2)
    figure = figures.severity_against_level(rows, table, images)
    scatter = next(axis for axis in figure.axes if axis.get_xlabel())
    shown = table[table.kind.isin(["easy", "hard"])].sort_values("sigma_hat", ascending=False)
    ends = [tie.xy2 for tie in figure.artists if isinstance(tie, ConnectionPatch)]
    assert ends == list(zip(shown.t, shown.sigma_hat, strict=True))
    marked = {(line.get_xdata()[0], line.get_ydata()[0]) for line in scatter.lines if len(line.get_xdata()) == 1}
    assert marked == set(ends)
    cells = [axis for axis in figure.axes if axis is not scatter]
    for pair, image in zip(np.reshape(cells, (4, 2)), shown.image, strict=True):
        assert_shows(pair[0], images["truth"][image])
        assert_shows(pair[1], images["measurement"][image])


def test_reconstructions_rise_in_level_and_stand_above_their_own_numbers():
    rows, images = reconstruction_rows(), reconstructed()
    figure = figures.reconstructions(rows, images, shown=3)
    axes = np.reshape(figure.axes, (3, 7))
    methods = ["no_diffusion", "full_length", "flash_published", "flash_consistent", "flash_inversion"]
    names = ["measurement", *methods, "truth"]
    by_level = np.argsort(rows.t[:10].to_numpy())
    assert [text.replace("\n", " ") for text in (axis.get_title() for axis in axes[0])] == [
        label(name) for name in names
    ]
    for line, image in zip(axes, (by_level[0], by_level[4], by_level[9]), strict=True):
        for axis, name in zip(line, names, strict=True):
            assert_shows(axis, images[name][image])
            cell = rows[(rows.method == name) & (rows.image == image)]
            if len(cell):
                assert axis.get_xlabel() == f"{cell.psnr.item():.1f} dB, {cell.nfe.item()} NFE"
        head = rows[rows.image == image].iloc[0]
        assert line[0].get_xlabel() == f"t = {head.t:.2f}, σ̂ = {head.sigma_hat:.2f}"


def test_fewer_images_than_rows_to_show_are_all_shown():
    rows = reconstruction_rows()
    assert len(figures.reconstructions(rows[rows.image < 3], reconstructed(), shown=8).axes) == 3 * 7


# ----------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("name", ["ordering_by_pair", "calibration", "quality_of_methods", "image_grid"])
def test_a_figure_drawn_and_saved_twice_has_the_same_bytes(tmp_path, name):
    rows = severity_rows(20)
    for folder in ("a", "b"):
        figures.save(draw(name), tmp_path / folder, name, rows)
    for suffix, head in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("csv", b"image,")):
        first, second = (tmp_path / folder / f"{name}.{suffix}" for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes() and first.read_bytes().startswith(head)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a" / f"{name}.csv"), rows, rtol=1e-5)


def test_below_the_report_figures_what_is_for_print_goes_beside(tmp_path):
    """dvc reads reports/figures as plots and would take a CSV or PDF there for one."""
    folder = tmp_path / "reports" / "figures" / "order-gaussian_blur"
    figures.save(draw("image_grid"), folder, "grid", severity_rows(20))
    found = sorted(path.relative_to(tmp_path / "reports").as_posix() for path in tmp_path.rglob("*.*"))
    beside = "figures_pdf/order-gaussian_blur/grid"
    assert found == ["figures/order-gaussian_blur/grid.png", f"{beside}.csv", f"{beside}.pdf"]


def test_without_rows_no_csv_is_written(tmp_path):
    figures.save(draw("image_grid"), tmp_path / "timings", "grid")
    assert sorted(path.name for path in (tmp_path / "timings").iterdir()) == ["grid.pdf", "grid.png"]


def test_an_emptied_folder_keeps_nothing_of_an_earlier_run(tmp_path):
    folder, beside = (tmp_path / "reports" / name / "ablation-blur" for name in ("figures", "figures_pdf"))
    figures.save(draw("image_grid"), folder, "grid", severity_rows(20))
    assert style.emptied(folder) == folder
    assert folder.is_dir() and beside.is_dir() and not [*folder.iterdir(), *beside.iterdir()]
    assert style.emptied(tmp_path / "elsewhere").is_dir()
