"""Few-step walks: the stride that meets a budget, what is tried, what is chosen, and what every run is told."""

import json

import numpy as np
import pytest
import torch

from flashdiff.severity import latent_error_variance
from flashdiff.starts import SHORT_STARTS
from flashdiff.study import budgets, seeds
from flashdiff.walks import Growing

WALKS = [
    {"solver": {"kind": "ldps", "stochasticity": 0.0}, "candidates": {"eta": [0.0, 0.1]}},
    {"solver": {"kind": "gml_dps", "gamma": 0.05}, "candidates": {}},
]


@pytest.fixture
def bench(tiny_prior, new_bench):
    return new_bench(tiny_prior.float(), 6, seed=0)


@pytest.fixture(scope="module")
def chosen(new_prior, new_bench):
    bench = new_bench(new_prior(40).float(), 6, seed=0)
    return budgets.tune(
        bench, [2, 5], WALKS, starts=[5, 20], fresh=[0.0, 1.0], adaptive={"consistent": {"k": [1.0]}}, powers=[0.0, 1.0]
    )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("evaluations", [1, 1.5, 3, 6, 24])
def test_the_rate_meets_the_budget_and_a_larger_one_does_not(tiny_prior, evaluations, power):
    starts = np.random.default_rng(0).integers(0, 40, 30)

    def mean_steps(rate):
        return np.mean([len(Growing(rate, power)(tiny_prior, int(i))) for i in starts])

    rate = budgets.rate_for(starts, evaluations, power)
    assert mean_steps(rate) <= evaluations
    assert mean_steps(1.006 * rate) > evaluations or mean_steps(rate) == np.mean(starts + 1)


def test_a_budget_below_one_evaluation_is_refused():
    with pytest.raises(ValueError, match=r"evaluations: 0.5 on average; .* give 1 or more"):
        budgets.rate_for(np.array([3]), 0.5, 1.0)


def test_adaptive_walks_meet_the_budget_on_the_images_that_chose_their_rate(bench):
    rules = {"consistent": {"k": [1.0, 2.0]}, "scaled": {"share": [0.3]}, "inversion": {"stride": [40]}}
    choices = budgets.adaptive_choices(bench, 3, WALKS[0]["solver"], {"eta": [0.1]}, rules, [0.0, 1.0])
    assert {choice["start"]["rule"] for choice in choices} == set(rules)
    for choice in choices:
        result = budgets.few_step(bench, choice)(bench.measurement)
        assert float(result.nfe.double().mean()) <= 3  # the inversion's own evaluations included
        options = {name: value for name, value in choice["start"].items() if name != "rule"}
        expected = SHORT_STARTS[choice["start"]["rule"]](**options).index(bench.prior, bench.severity.variance)
        assert result.start.tolist() == expected.tolist()


def test_powers_that_lead_to_the_same_steps_are_tried_once(bench):
    """The untrained encoder sees nearly one severity; six that differ take equal steps at one evaluation alone."""
    vars(bench)["severity"] = bench.severity._replace(variance=torch.linspace(0.05, 3, 6))
    for evaluations, tried in ((1, 1), (4, 2)):
        rules = {"consistent": {"k": [1.0]}}
        choices = budgets.adaptive_choices(bench, evaluations, WALKS[0]["solver"], {"eta": [0.1]}, rules, [0.0, 1.0])
        assert len(choices) == tried


@pytest.mark.parametrize("evaluations", [1, 3, 6])
def test_fixed_walks_take_as_many_steps_as_the_budget_allows(bench, evaluations):
    for choice in budgets.fixed_choices(evaluations, WALKS[0]["solver"], {"eta": [0.1]}, [1, 5, 20, 39], [0.0]):
        steps = min(evaluations, choice["start"]["index"] + 1)
        assert budgets.few_step(bench, choice)(bench.measurement).nfe.tolist() == [steps] * 6


def test_every_method_is_chosen_by_its_best_trial_for_each_objective(bench, chosen):
    settings, trials = chosen
    assert list(settings) == ["2", "5"] and set(settings["2"]) == {"adaptive", "fixed", "forward", "gml_dps"}
    counts = trials.groupby(["budget", "method"]).size()
    assert counts[2, "adaptive"] == 2 and counts[2, "fixed"] == 8 and counts[2, "gml_dps"] == 1
    for budget, methods in settings.items():
        for method, objectives in methods.items():
            tried = trials[(trials.budget == float(budget)) & (trials.method == method.replace("forward", "fixed"))]
            if method == "forward":
                tried = tried[[json.loads(choice)["start"]["fresh"] == 1 for choice in tried.choice]]
            best = tried.loc[tried.psnr.idxmax()]
            assert objectives["psnr"] == json.loads(best.choice)
            assert objectives["perceptual"] == json.loads(tried.loc[tried.perceptual.idxmin()].choice)


def test_every_run_is_told_what_its_name_says(bench, chosen):
    told = {name: severity for name, _, severity in budgets.walks_of(bench, chosen[0])}
    truth = bench.prior.encode_in_slices(bench.truth)
    oracle = told["2/oracle/psnr"]
    torch.testing.assert_close(oracle.variance, latent_error_variance(bench.severity.z_hat, truth))
    assert torch.equal(oracle.z_hat, bench.severity.z_hat)
    shuffled = told["2/shuffled/psnr"].variance
    assert sorted(shuffled.tolist()) == sorted(bench.severity.variance.tolist())
    assert not bool((shuffled == bench.severity.variance).any())
    assert not any(
        name.split("/")[1] in ("oracle", "shuffled") for name, *_ in budgets.walks_of(bench, chosen[0], False)
    )


def test_rows_say_which_run_they_belong_to_and_a_rerun_continues(bench, chosen, tmp_path, monkeypatch):
    rows, timings = budgets.walk(bench, chosen[0], str(tmp_path / "run"))
    runs = rows.groupby(["budget", "method", "tuned_for"]).size()
    assert (runs == 6).all() and len(runs) == 1 + 2 * (4 * 2 + 2)
    nothing = rows[rows.method == "no_diffusion"]
    assert (nothing.nfe == 0).all() and (nothing.budget == 0).all()
    # equal settings run once, and their rows are equal
    distinct = {json.dumps([b, m, c]) for b, ms in chosen[0].items() for m, o in ms.items() for c in o.values()}
    assert len(timings) - 1 <= len(distinct) + 1 + 2 * 2
    monkeypatch.setattr("flashdiff.sampling._advance", lambda *_: pytest.fail("computed again"))
    again, _ = budgets.walk(bench, chosen[0], str(tmp_path / "run"))
    assert again.psnr.tolist() == rows.psnr.tolist()


def test_the_record_of_other_seeds_repeats_adaptive_and_fixed_walks(bench, chosen, tmp_path):
    tuned = {
        "flash_consistent": {"solver": {"eta": 0.1}, "start": {"k": 1.0}},
        "full_length": {"solver": {}, "start": {}},
    }
    rows = seeds.walk(bench, chosen[0], tuned, 4, tmp_path / "run")
    assert list(rows.assign(seed=1)) == list(seeds.no_rows())
    assert set(rows.method) == {"no_diffusion", "adaptive", "fixed", "flash_consistent"}
    long = rows[rows.method == "flash_consistent"]
    assert len(long) == 4 and (long.budget == bench.prior.n_steps).all() and (long.nfe == long.start + 1).all()
    few, _ = budgets.walk(bench, chosen[0], str(tmp_path / "whole"), controls=False)
    same = few[few.method.isin(set(rows.method))]
    assert rows[rows.method != "flash_consistent"].psnr.tolist() == same.psnr.tolist()
