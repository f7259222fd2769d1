"""The comparison of methods: what is tuned, what each method is told, interrupted runs, and several processes."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flashdiff import cli
from flashdiff.report import summaries
from flashdiff.starts import FixedStart, match_snr
from flashdiff.study import baseline, comparison, methods, records
from flashdiff.study.schema import load, select

LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


TUNED = "data/tuned/gaussian_blur-ldps.json"


def load_bench(n=6):
    """The bench of the study in the current folder."""
    study = load()
    entries = (select(study, "degradations.gaussian_blur"), "gaussian_blur", select(study, "solvers.ldps"))
    return comparison.Bench.load("test", n, *entries, seed=0, batch_size=4)


@pytest.fixture
def bench(tiny_study, monkeypatch):
    monkeypatch.chdir(tiny_study)
    return load_bench()


@pytest.fixture
def one_batch(tiny_study, monkeypatch):
    monkeypatch.chdir(tiny_study)
    return load_bench(4)


@pytest.fixture
def chosen():
    return records.read_json(TUNED)["chosen"]


@pytest.fixture
def published_alone(tiny_study):
    """The tiny study with the published start rule only: fewer walks, for tests of how they are walked."""
    path = tiny_study / TUNED
    tuned = records.read_json(path)
    del tuned["chosen"]["flash_consistent"]
    records.write_json(path, tuned)
    return tiny_study


@pytest.fixture(scope="module")
def compared(new_study, tmp_path_factory):
    """(bench, what is chosen, the folder of a finished run with every control, its results)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(new_study(tmp_path_factory.mktemp("study")))
        bench, chosen, folder = load_bench(), records.read_json(TUNED)["chosen"], Path("run").absolute()
        yield bench, chosen, folder, comparison.reconstruct(bench, chosen, [3, 10], folder)


def test_every_method_and_its_controls_run(compared):
    bench, chosen, _, results = compared
    expected = {
        "no_diffusion",
        "full_length",
        "fixed_mean",
        "fixed_fresh",
        "fixed_3",
        "fixed_10",
        *methods.adaptive(chosen),
    }
    expected |= {control for rule in methods.rules(chosen) for control in methods.controls(rule)}
    assert set(results) == expected
    start = match_snr(bench.prior, bench.severity.variance)
    assert results["flash_published"].start.tolist() == start.tolist()
    assert sorted(results["shuffled_published"].start) == sorted(start)  # the same severities, none with its own image
    assert results["fixed_mean"].start.tolist() == [round(float(start.double().mean()))] * 6
    assert max(results["random_consistent"].start) <= 2 * bench.mean_start
    assert results["full_length"].nfe.tolist() == [40] * 6
    rows, timings = comparison.tabulate(bench, results)
    assert (rows.groupby("method").size() == 6).all() and set(timings) == expected | {"severity_encoder"}
    assert (rows.nfe == rows.start + 1).all() and (rows.decodes == rows.start + 2).all()
    assert (rows.gradients == rows.nfe).all() and (rows.encodes == 0).all()
    full = timings["full_length"]
    assert (full["nfe"], full["decodes"], full["encodes"], full["gradients"]) == (240, 246, 0, 240)
    assert timings["severity_encoder"]["gradients"] == 0 and timings["full_length"]["engine_calls"] == 80


def test_without_controls_the_rest_is_the_same(compared):
    bench, chosen, folder, whole = compared
    one = comparison.reconstruct(bench, chosen, [3, 10], folder, controls=["published"])
    assert {m for m in one if m.startswith(methods.CONTROLS)} == set(methods.controls("published"))
    fewer = comparison.reconstruct(bench, chosen, [3, 10], folder, controls=[])
    assert set(whole) - set(fewer) == {c for rule in methods.rules(chosen) for c in methods.controls(rule)}
    rows, _ = comparison.tabulate(bench, fewer)
    gains = summaries.reconstruction_metrics(rows, n_resamples=100)["gains"]
    assert set(gains["flash_published"]) == {"full_length", "no_diffusion", "fixed_mean", "fixed_fresh"}
    for method, result in fewer.items():
        assert torch.equal(result.images, whole[method].images)


def test_only_images_between_the_two_levels_are_reconstructed(bench):
    entry = select(load(), "degradations.gaussian_blur")
    at = functools.partial(comparison.Bench.load, "test", 6, entry, "gaussian_blur", bench.solver, seed=0, batch_size=4)
    torch.testing.assert_close(at(levels=[0.75, 1.0]).measurement.t, 0.75 + bench.measurement.t / 4)
    assert at(levels=[1.0, 1.0]).measurement.t.tolist() == [1.0] * 6


def test_baselines_share_the_start_rule():
    assert methods.baselines("flash_published")[-2:] == ("shuffled_published", "random_published")
    assert methods.baselines("flash_consistent")[-2:] == ("shuffled_consistent", "random_consistent")
    assert methods.baselines("flash_inversion")[-2:] == ("shuffled_inversion", "random_inversion")


def test_shuffle_gives_every_image_another_ones_severity():
    for n in (2, 3, 64):
        other = comparison._cyclic_shuffle(n, seed=0)
        assert sorted(other) == list(range(n)) and (other != np.arange(n)).all()


def test_interrupted_comparison_continues(compared, tmp_path, monkeypatch):
    bench, chosen, folder, _ = compared
    whole = comparison.reconstruct(bench, chosen, [3], folder, controls=[])
    real, calls = comparison.Store.write, []

    def interrupted(store, *arguments):
        calls.append(store)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(store, *arguments)

    monkeypatch.setattr(comparison.Store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison.reconstruct(bench, chosen, [3], tmp_path / "run", controls=[])
    assert len(calls) == 4
    again = comparison.reconstruct(bench, chosen, [3], tmp_path / "run", controls=[])
    assert len(calls) == 4 + len(whole) - 3  # what was finished is not computed again
    for method, result in whole.items():
        torch.testing.assert_close(again[method].images, result.images, rtol=0, atol=0)


def baseline_alone(bench, chosen, folder):
    """The baseline's images of a comparison; every other method counts as walked, so that it takes no time."""
    others = dict.fromkeys(name for name, *_ in comparison.methods(bench, chosen, [], []) if name != "full_length")
    return comparison.reconstruct(bench, chosen, [], folder, controls=[], walked=others)["full_length"].images


def test_a_result_of_other_parameters_is_not_continued(bench, chosen, tmp_path):
    first = baseline_alone(bench, chosen, tmp_path / "run")
    other = chosen | {"full_length": {"solver": {"eta": 0.9}, "start": {}}}
    assert not torch.equal(baseline_alone(bench, other, tmp_path / "run"), first)


def test_a_result_of_other_levels_or_of_another_split_is_not_continued(bench, chosen, tmp_path):
    """Levels and ids key the measurement and its noise: what a run left behind belongs to one set of them."""
    whole = baseline_alone(bench, chosen, tmp_path / "run")
    x, entry = bench.truth, select(load(), "degradations.gaussian_blur")
    parts = (bench.prior, bench.encoder, bench.distances, x, entry, bench.solver)
    for options in ({"levels": [0.75, 1.0]}, {"split": "validation"}):
        other = comparison.Bench.build(*parts, seed=0, batch_size=4, **options)
        found = baseline_alone(other, chosen, tmp_path / "run")
        alone = baseline_alone(other, chosen, tmp_path / "alone")
        assert torch.equal(found, alone) and not torch.equal(found, whole)


def test_tuning_chooses_the_best_trial_of_every_method(one_batch):
    bench = one_batch
    starts = {"published": {"correction": [1.0, 1.2]}, "consistent": {"k": [1.0]}, "inversion": {"stride": [2]}}
    chosen, trials = comparison.tune(bench, {"solver": {"eta": [0.0, 0.3]}, "starts": starts})
    counts = trials.groupby("method").size().to_dict()
    assert counts == {
        "fixed_fresh": 2,
        "fixed_mean": 2,
        "flash_consistent": 2,
        "flash_inversion": 2,
        "flash_published": 4,
        "full_length": 2,
    }
    for method, options in chosen.items():
        found = trials[trials.method == method]
        best = found.loc[found.psnr.idxmax()]
        for field, value in (options["solver"] | options["start"]).items():
            assert best[field] == value
    assert set(chosen["flash_published"]["start"]) == {"correction"} and chosen["full_length"]["start"] == {}
    run = bench.flash(FixedStart(bench.mean_start, 1.0), {"solver": {"eta": 0.3}})(bench.measurement)
    trial = trials[(trials.method == "fixed_fresh") & (trials.eta == 0.3)]
    assert trial.psnr.item() == pytest.approx(bench.quality(run.images)["psnr"].mean(), abs=1e-4)


def test_a_single_candidate_is_taken_and_nothing_is_run_for_it(one_batch):
    starts = {"published": {"correction": [1.2]}, "consistent": {"k": [1.0, 1.5]}}
    chosen, trials = comparison.tune(one_batch, {"solver": {"eta": [0.3]}, "starts": starts})
    assert set(trials.method) == {"flash_consistent"}  # these have a choice
    assert chosen["flash_published"] == {"solver": {"eta": 0.3}, "start": {"correction": 1.2}}
    assert chosen["full_length"] == {"solver": {"eta": 0.3}, "start": {}}
    assert "flash_inversion" not in chosen


def test_a_diverged_candidate_is_not_chosen(one_batch, monkeypatch):
    real = comparison.Bench.quality
    values = iter([float("nan"), 20.0, 10.0] * 10)

    def quality(self, images):
        return real(self, images) | {"psnr": np.full(len(images), next(values))}

    monkeypatch.setattr(comparison.Bench, "quality", quality)
    starts = {"published": {"correction": [1.0]}, "consistent": {"k": [1.0]}}
    chosen, _ = comparison.tune(one_batch, {"solver": {"eta": [0.1, 0.2, 0.3]}, "starts": starts})
    assert {options["solver"]["eta"] for options in chosen.values()} == {0.2}


def test_undefined_pair_is_refused_before_any_model_is_asked(bench):
    nonlinear = {"kind": "nonlinear_blur", "length_min": 0.0, "length_max": 4.0, "gain_max": 1.5, "noise_std": 0.1}
    with pytest.raises(ValueError, match=r"PSLD needs the adjoint A\^T"):
        comparison.Bench.build(
            None, None, None, bench.truth, nonlinear, {"kind": "psld", "gamma": 0.1}, seed=0, batch_size=4
        )


def test_cli_runs_a_pair_and_names_an_unknown_one(published_alone, monkeypatch, capsys):
    monkeypatch.chdir(published_alone)
    assert cli.main(["reconstruct", "gaussian_blur", "psld"]) == 2
    assert "pairs: 'gaussian_blur-psld' is not among the study's pairs; choose one of gaussian_blur-ldps" in (
        capsys.readouterr().err
    )
    assert cli.main(["reconstruct", "gaussian_blur", "ldps"]) == 0
    assert "6 images by 9 methods on 1 processes" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_the_images_of_one(published_alone, monkeypatch):
    """`accelerate launch` on two CPU processes, against one process; the notebook then finds all of it finished."""
    monkeypatch.chdir(published_alone)
    # accelerate's own launcher of several processes is the one for GPUs; without a GPU the processes use their CPU
    launch = [*LAUNCH, "-m", "flashdiff.cli", "reconstruct", "gaussian_blur", "ldps"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(launch, capture_output=True, text=True, env=environment, cwd=published_alone)
    assert run.returncode == 0, run.stderr[:3000]
    assert "on 2 processes" in run.stdout
    study, bench, found = load(), load_bench(), records.read_json(TUNED)["chosen"]
    alone = comparison.reconstruct(bench, found, study.reconstruction.fixed_starts, published_alone / "alone")
    (folder,) = Path(".build/reconstruct/gaussian_blur-ldps").iterdir()
    (of_baseline,) = Path(".build/baseline/gaussian_blur-ldps").iterdir()
    for method, result in alone.items():
        shared = comparison.Store((of_baseline if method == "full_length" else folder) / method, 6, (1, 16, 16))
        assert {path.name for path in shared.folder.glob("records-*.csv")} == {"records-0.csv", "records-1.csv"}
        torch.testing.assert_close(shared.result().images, result.images, rtol=0, atol=1e-4)
        assert shared.result().nfe.tolist() == result.nfe.tolist()

    def refuse(*arguments):
        raise AssertionError("computed again what the processes had finished")

    monkeypatch.setattr(comparison.Store, "write", refuse)
    runs, baseline_runs = (room.RUNS.format(pair="gaussian_blur-ldps") for room in (comparison, baseline))
    walked = baseline.walk(dataclasses.replace(bench, encoder=None), found["full_length"], baseline_runs)
    starts = study.reconstruction.fixed_starts
    again = comparison.reconstruct(bench, found, starts, runs, walked={"full_length": walked})
    assert dataclasses.astuple(again["full_length"].engine) > (0, 0)
