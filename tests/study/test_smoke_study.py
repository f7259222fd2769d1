"""The whole study on 64 small images through the real dvc.yaml: every stage, every notebook, every report, and reruns.

It runs as by `make study`, its degradations side by side, and is rerun as by `dvc repro`; in a copy of the repository, so that
nothing here depends on what the working tree holds or leaves anything in it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from repositories import ENVIRONMENT, ROOT, copy_repository, dvc, git, stages_that_ran
from ruamel.yaml import YAML

from flashdiff.study import run

pytestmark = pytest.mark.slow
PAIRS = {"gaussian_blur": "ldps", "mixture": "latent_daps"}
ALONE = "random_inpainting"
"""Has an encoder and no comparison, and is left out here: tests/study/test_paper_study.py has such a degradation, too."""
OF_ALL_PAIRS = {f"show_{name}" for name in ("allocation", "blind", "calibrated", "confidence", "shift", "spread")}
"""Stages that draw all pairs together, and so read which there are."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def study(repository):
    """The smoke study's folder after its first run."""
    folder = repository / "studies" / "smoke"
    content = YAML(typ="safe").load((folder / "params.yaml").read_text())
    del content["degradations"][ALONE]
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(content, file)
    (folder / "dvc.lock").unlink(missing_ok=True)  # of a run in the working tree
    environment = dict(ENVIRONMENT)
    del environment[run.THREADS]  # who sets it has the degradations one after the other
    command = [sys.executable, "-m", run.__name__]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    ran, described = (YAML(typ="safe").load(folder / name)["stages"] for name in ("dvc.lock", "dvc.yaml"))
    assert {name.partition("@")[0] for name in ran} == set(described)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "run")
    return folder


def test_every_notebook_ran_and_kept_its_outputs(study):
    executed = list((study / "reports/notebooks").glob("*.ipynb"))
    sources = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")} - {"02_use_prior"}
    assert {path.stem.partition("-")[0] for path in executed} == sources
    for path in executed:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells), path.name
        assert any(cell["outputs"] for cell in cells), path.name


def test_the_report_and_its_records_are_there(study):
    page = (study / "reports/index.html").read_text()
    for source in re.findall(r'src="([^"]+)"', page):
        assert (study / "reports" / source).is_file(), source
    records = json.loads((study / "reports/headline.json").read_text())
    found = {(r["study"], r["degradation"], r["solver"]) for r in records}
    assert found == {("smoke", *pair) for pair in PAIRS.items()}


def test_rows_hold_every_image_and_method_once(study):
    for degradation, solver in PAIRS.items():
        rows = pd.read_parquet(study / f"data/results/reconstruction-{degradation}-{solver}.parquet")
        assert (rows.groupby("method").image.nunique() == 6).all() and (rows.groupby("method").size() == 6).all()
        full = rows[rows.method == "full_length"]
        # 20 indices; 5 noise levels, of which some share an index of so short a diffusion, and two evaluations at each
        assert full.nfe.nunique() == 1 and full.nfe.iloc[0] in {"ldps": [20], "latent_daps": [2, 4, 6, 8, 10]}[solver]
        assert (rows[rows.method == "no_diffusion"].nfe == 0).all()
        inversion = rows[rows.method == "flash_inversion"]  # its start costs evaluations, too: every second index
        rest = rows[
            ~rows.method.str.endswith("_inversion")
        ]  # without it, and without its controls, which start as it does
        if solver == "ldps":
            assert (inversion.nfe == inversion.start + 1 + (inversion.start + 2) // 2).all() and len(inversion) == 6
            assert (rest.nfe == rest.start + 1).all() and (rows.decodes == rows.start + 2).all()
        else:  # two evaluations and two decodes per level
            assert (rest.nfe == rest.decodes - 1).all() and (rest.nfe <= 2 * 6).all()


def test_nothing_to_do_the_second_time(study):
    said = dvc(study, "repro")
    assert stages_that_ran(said) == set()
    assert "up to date" in said


def test_metrics_and_plots_are_declared(study):
    (shown,) = json.loads(dvc(study, "metrics", "show", "--json")).values()
    for pair in map("-".join, PAIRS.items()):
        (summary,) = [v for path, v in shown["data"].items() if path.endswith(f"reports/summary/{pair}.json")]
        assert 0 <= summary["data"]["ordering_accuracy"] <= 1
        assert summary["data"]["published"]["nfe_ratio"] > 0
    plots = dvc(study, "plots", "show", "--out", "plots")
    assert "plots" in plots and list((study / "plots").rglob("*.png"))


def test_the_prior_of_another_study_is_asked_before_it_is_taken(study):
    """This one's has learned next to nothing in its few steps: it is refused in a sentence, and nothing is put in place.

    That a good one is taken whole: tests/study/test_paper_study.py.
    """
    folder = study.with_name("reuse")
    folder.mkdir()
    (folder / "dvc.yaml").write_bytes((study / "dvc.yaml").read_bytes())
    content = YAML(typ="safe").load((study / "params.yaml").read_text())
    content |= {"study": "reuse", "prior": {"kind": "use_prior", "path": "../smoke/data/prior"}}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(content, file)
    said = dvc(folder, "repro", "prior", succeeds=False)
    assert "prior: the denoiser does not know the latents of these images" in said
    assert not (folder / "data/prior").exists() and (folder / "data/splits").is_dir()


def test_explorer_notebook_runs_on_the_study(study, monkeypatch, tmp_path):
    import papermill

    monkeypatch.setenv("FLASHDIFF_STUDY", str(study))
    done = papermill.execute_notebook(
        str(ROOT / "notebooks/explore_severity.ipynb"),
        str(tmp_path / "explored.ipynb"),
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--log-level=ERROR"],
    )
    assert "fd-page" in str(done.cells[2].outputs)
    assert "start index" in str(done.cells[3].outputs)


def content(folder):
    return {
        path: path.read_bytes() for name in ("data", "reports") for path in (folder / name).rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["06_ordering_accuracy", "08_tune_step_size", "09_reconstruct", "16_report"])
def test_a_notebook_run_by_hand_changes_nothing_of_the_study(study, name, monkeypatch, tmp_path):
    """With another value in its parameters cell, as a person plays with it; the default study's values are replaced."""
    import nbformat
    import papermill

    before = content(study)
    (executed,) = list((study / "reports/notebooks").glob(f"{name}*gaussian_blur*.ipynb")) or [
        study / f"reports/notebooks/{name}.ipynb"
    ]
    (injected,) = [c for c in nbformat.read(executed, 4).cells if "injected-parameters" in c.metadata.get("tags", [])]
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    cell.source = injected.source.replace("seed = 0", "seed = 3")
    nbformat.write(notebook, tmp_path / "played.ipynb")
    monkeypatch.setenv("FLASHDIFF_STUDY", str(study))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = papermill.execute_notebook(
        str(tmp_path / "played.ipynb"),
        None,
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--log-level=ERROR"],
    )
    said = "".join(out.get("text", "") for c in done.cells for out in c.get("outputs", []))
    assert "Run by hand: outputs go to .build/by_hand" in said
    assert content(study) == before
    assert any(path.is_file() for path in (study / ".build/by_hand").rglob("*"))


def test_an_experiment_reruns_exactly_what_depends_on_its_parameter(study):
    said = dvc(study, "exp", "run", "--set-param", "ordering.levels=3")
    encoders = {f"{stage}@{name}" for stage in ("measure_severity", "order") for name in PAIRS}
    assert stages_that_ran(said) == encoders | {"sources", "show_confidence", "report"}
    accuracy = json.loads((study / "reports/metrics/ordering-gaussian_blur.json").read_text())
    assert accuracy["levels"] == 3
    difference = json.loads(dvc(study, "metrics", "diff", "--json"))
    assert any("reports/summary/" in path for path in difference)


@pytest.fixture(scope="module")
def read(study):
    """What each stage of the study, which becomes the current folder, reads of its parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        with Repo() as repository:
            yield {
                stage.addressing: [d for d in stage.deps if isinstance(d, ParamsDependency)]
                for stage in repository.index.stages
            }


@pytest.mark.parametrize(
    ("section", "field", "value", "stages"),
    [
        (
            "report",
            "bootstrap",
            150,
            {
                "compare",
                "correlate",
                "frontier",
                "report",
                "show_allocation",
                "show_blind",
                "show_calibrated",
                "show_robustness",
                "show_shift",
                "show_spread",
                "speedup",
            },
        ),
        ("correlation", "n_images", 15, {"measure_severity", "correlate", "reconstruct"}),
        ("severity", "lambda_sigma", 2.0, {"ablate", "blind", "other_seeds", "robustness", "shift", "train_severity"}),
        ("severity", "steps", 21, {"blind", "other_seeds", "robustness", "shift", "train_severity"}),
        ("prior", "card_steps", 4, {"prior"}),
        ("tune", "n_images", 5, {"tune"}),
        ("ablation", "learning_rate", 0.002, {"ablate"}),
        ("ablation", "n_images", 6, {"ablate", "show_ablation"}),
        ("robustness", "noise", [1.0, 3.0], {"robustness", "shift"}),
        ("confidence", "coverage", 0.7, {"confidence"}),
        ("spread", "samples", 3, {"spread"}),
        ("calibrated", "starts", [5, 10], {"calibrated"}),
        ("allocation", "numbers", [1, 3, 4], {"allocation", "show_allocation"}),
        ("frechet", "evaluations", [2.0], {"frechet"}),
        ("budgets", "n_images", 5, {"walk_budgets", "other_seeds"}),
        (
            "solvers",
            "ldps",
            {"kind": "ldps", "stochasticity": 0.5},
            {"tune", "baseline", "reconstruct", "walk_budgets", "examples", "other_seeds", "spread"},
        ),
    ],
)
def test_a_parameter_changes_the_stages_that_read_it(read, monkeypatch, section, field, value, stages):
    """Without running: what a parameter invalidates directly, by DVC's own status of the parameters that a stage reads; what follows
    from those, it finds as it runs."""
    content = YAML(typ="safe").load(Path("params.yaml"))
    content[section][field] = value
    monkeypatch.setattr("dvc.dependency.param.load_path", lambda *_, **options: content)  # once, and not for each stage
    changed = {name.partition("@")[0] for name, deps in read.items() if any(d.workspace_status() for d in deps)}
    assert changed == stages | {"sources"}  # which checks the parameters


def test_a_failing_cell_leaves_the_previous_report(study, repository):
    notebook = repository / "notebooks" / "16_report.ipynb"
    before = notebook.read_text()
    source = json.loads(before)
    reports = {path: path.read_bytes() for path in (study / "reports").rglob("*") if path.is_file()}
    source["cells"][-1]["source"] = ['raise RuntimeError("broken on purpose")']
    notebook.write_text(json.dumps(source))
    try:
        said = dvc(study, "repro", succeeds=False)
    finally:
        notebook.write_text(before)
    assert "16_report.ipynb: cell" in said and "broken on purpose" in said
    for path, content in reports.items():
        assert path.is_file() and path.read_bytes() == content, path


def test_a_wrong_parameter_stops_before_any_stage_works(study):
    path = study / "params.yaml"
    before = path.read_text()
    try:
        path.write_text(before.replace("n_images: 8", "n_images: none at all"))
        said = dvc(study, "repro", succeeds=False)
    finally:
        path.write_text(before)
    assert "ordering.n_images: 'none at all' is not valid" in said


def test_what_a_removed_pair_left_behind_is_not_seen(study):
    """Its files stay on disk (DVC does not remove them); reports speak of the study as it is. Last: nothing is put back."""
    path = study / "params.yaml"
    study_file = YAML(typ="safe").load(path.read_text())
    del study_file["pairs"]["mixture-latent_daps"], study_file["degradations"]["mixture"]
    with path.open("w") as file:
        YAML().dump(study_file, file)
    assert stages_that_ran(dvc(study, "repro", "report")) == {"sources", *OF_ALL_PAIRS, "report"}
    page = (study / "reports/index.html").read_text()
    assert "gaussian_blur" in page and "mixture" not in page.lower().replace("mixtures of them", "")
    assert not list((study / "reports/summary").glob("mixture*"))
    assert "mixture" not in dvc(study, "metrics", "show", "--json")
