"""The main results in sentences: each says what its records say, gains and losses alike."""

import pytest
from synthetic import interval, write_metrics

from flashdiff.report import headline, sentences


def records_with(psnr, perceptual, nfe=9.96, order=0.981, error=0.934):
    """Records of one degradation and solver, both starts with the same gains."""
    head = ("toy", "gaussian_blur", "ldps")
    records = [
        headline.record("ordering_accuracy", *head, interval(order, order, order)),
        headline.record("spearman_error", *head, interval(error, error, error)),
        headline.record("encoder_cost", *head, interval(0.559)),
    ]
    for start in ("published", "consistent"):
        for claim, measured in (("nfe_ratio", interval(nfe, nfe, nfe)), ("psnr_gain_db", psnr), ("perceptual_gain", perceptual)):  # fmt: skip
            records.append(headline.record(claim, *head, measured, start=start))
    return records


BETTER, WORSE, UNCLEAR = interval(1.25, 1.0, 1.5), interval(-1.25, -1.5, -1.0), interval(0.25, -1.0, 1.5)


def test_what_the_adaptive_choice_itself_is_worth_is_said_where_it_was_measured():
    head, records = ("toy", "gaussian_blur", "ldps"), records_with(BETTER, BETTER)
    assert "Gain in PSNR" not in sentences.sentence(records, "gaussian_blur", "ldps")
    for start, value in (("published", -0.25), ("consistent", 0.125)):
        for measure, scale in (("psnr", 1), ("perceptual", 10)):
            measured = interval(value * scale, value * scale - 0.5, value * scale + 0.5)
            records.append(headline.record("adaptive_vs_best_fixed", *head, measured, start=start, measure=measure))
    assert sentences.sentence(records, "gaussian_blur", "ldps").endswith(
        "]. Gain in PSNR over one fixed start of equal cost for all images: -0.250 dB [-0.750, 0.250] (published start), "
        "0.125 dB [-0.375, 0.625] (consistent start)."
    )


def test_what_few_steps_reach_is_said():
    head, records = ("toy", "gaussian_blur", "ldps"), records_with(BETTER, BETTER)
    assert "few steps" not in sentences.sentence(records, "gaussian_blur", "ldps")
    for budget, value in ((3.0, 0.25), (6.0, -0.125)):
        for measure, scale in (("psnr", 1), ("perceptual", 0.1)):
            measured = interval(value * scale, value * scale - 0.05, value * scale + 0.05)
            few = headline.record("adaptive_vs_best_fixed_few", *head, measured, budget=budget, measure=measure)
            records.append(few)
    gains = (
        " Gain in PSNR over the best fixed start and steps, by evaluations: 0.250 dB [0.200, 0.300] at 3, "
        "-0.125 dB [-0.175, -0.075] at 6. Gain in perceptual distance over the best fixed start and steps, by evaluations: "
        "2.50% [-2.50, 7.50] at 3, -1.25% [-6.25, 3.75] at 6."
    )
    both = "beats the baseline in PSNR and distance"
    for measured, verdict, words in (
        (interval(83.2, 82, 84), "reproduced", f" With few steps Flash {both} with 83 times fewer evaluations."),
        (None, "not tested", f" That Flash with few steps {both} was not tested."),
        (None, "not reproduced", f" That Flash with few steps {both} is not shown at any budget."),
    ):
        ratio = headline.record("nfe_ratio_100", *head, measured) | {"verdict": verdict}
        assert sentences.sentence([*records, ratio], "gaussian_blur", "ldps").endswith(words + gains)


def test_the_whole_sentences():
    records = records_with(BETTER, interval(-0.125, -0.15, -0.1))
    what = (
        "Flash needs 10.0 times fewer denoiser evaluations than the full-length baseline, PSNR is better by "
        "1.25 dB [1.00, 1.50] and perceptual distance is worse by 12.5% [10.0, 15.0]"
    )
    assert sentences.sentence(records, "gaussian_blur", "ldps") == (
        f"<strong>LDPS:</strong> with the published start {what}; with the consistent start {what}."
    )
    assert sentences.encoder_sentence(records, "gaussian_blur") == (
        "<strong>Gaussian blur:</strong> the severity encoder puts 98.1% of all pairs of levels in the right order, and its "
        "severity correlates with the true error at 0.93 (Spearman). Asking it, once per image, costs 0.56 of a guided evaluation."
    )


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (BETTER, "PSNR is better by 1.25 dB [1.00, 1.50] and"),
        (WORSE, "PSNR is worse by 1.25 dB [1.00, 1.50] and"),
        (UNCLEAR, "PSNR is not distinguishable from the baseline's (difference 0.250 dB [-1.000, 1.500]) and"),
        (interval(0.5, 0.0, 1.0), "PSNR is not distinguishable from the baseline's"),
        (interval(-0.5, -1.0, 0.0), "PSNR is not distinguishable from the baseline's"),
        (None, "PSNR was not measured and"),
    ],
)
def test_a_gain_reads_as_its_interval_says(measured, words):
    text = sentences.sentence(records_with(measured, interval(0.1, 0.05, 0.2)), "gaussian_blur", "ldps")
    assert text.count(words) == 2
    assert text.count("perceptual distance is better by 10.0% [5.0, 20.0]") == 2


def test_a_sentence_without_measures_says_so():
    records = records_with(None, None, nfe=None, order=None, error=None)
    text = sentences.encoder_sentence(records, "gaussian_blur") + sentences.sentence(records, "gaussian_blur", "ldps")
    assert "puts (not measured) of all pairs" in text and "at (not measured) (Spearman)" in text
    assert "needs (not measured) times fewer" in text and "None" not in text


def test_a_start_that_costs_more_than_it_saves_is_said_to(tmp_path):
    records = [r | {"value": 0.5} if r["claim"] == "nfe_ratio" else r for r in records_with(BETTER, BETTER)]
    text = sentences.sentence(records, "gaussian_blur", "ldps")
    assert text.count("needs 2.0 times more denoiser evaluations than the full-length baseline") == 2


def test_equal_cost_is_said_in_words(tmp_path):
    write_metrics(tmp_path)
    records = headline.collect(tmp_path, "toy", ["gaussian_blur"], [("gaussian_blur", "ldps")])
    equal = [r | {"value": 1.0} if r["claim"] == "nfe_ratio" else r for r in records]
    assert (
        sentences.sentence(equal, "gaussian_blur", "ldps").count(
            "needs as many denoiser evaluations as the full-length baseline"
        )
        == 3
    )
