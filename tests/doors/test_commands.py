"""The commands: what they print and write, against independent computation; mistakes are sentences, before torch loads."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flashdiff
from flashdiff import cli
from flashdiff.commands import new, pictures, restore
from flashdiff.commands.expected_psnr import TABLE, ExpectedPSNR, table_of
from flashdiff.commands.studies import Place
from flashdiff.degradations import RandomInpainting, measure
from flashdiff.flash import Flash
from flashdiff.pipeline import FlashPipeline
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder
from flashdiff.solvers import LDPS
from flashdiff.starts import PublishedStart, match_snr
from flashdiff.study.schema import StudyError, load
from flashdiff.trust.blind import KnownMasks, level_of, read_off

ROOT = Path(__file__).parents[2]


def write(folder, names, shape=(16, 16), seed=0):
    draw = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    return folder


def loaded(path):
    """A picture as (1, 1, H, W) in [-1, 1]."""
    return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 127.5 - 1)[None, None]


@pytest.fixture
def images(tmp_path):
    return write(tmp_path / "in", ["a.png", "b.png", "deep/c.png"])


@pytest.fixture
def short(tiny_study):
    """The tiny study with walks of three steps."""
    parameters = (tiny_study / "params.yaml").read_text()
    walk = "    kind: ldps\n    walk: {kind: evenly_spaced, steps: 3}\n"
    (tiny_study / "params.yaml").write_text(parameters.replace("    kind: ldps\n", walk))
    return tiny_study


@pytest.fixture
def run(short, images, tmp_path, capsys):
    """Restore the images into tmp_path/out; returns (exit code, stdout, stderr)."""

    def run(*options, degradation="gaussian_blur", out="out"):
        given = [str(images), "--degradation", degradation, "--out", str(tmp_path / out), "--study", str(short)]
        capsys.readouterr()
        return cli.main(["restore", *given, *options]), *capsys.readouterr()

    return run


def report(folder):
    return list(csv.DictReader(io.StringIO((folder / "report.csv").read_text())))


MISTAKES = [
    (["sevrity", "x.png"], "Did you mean 'severity'?"),
    (["severity"], "Missing argument"),
    (
        ["severity", "gone.png", "gone"],
        "gone.png: there is no such file or folder.\ngone: there is no such file or folder.",
    ),
    (
        ["severity", "IMAGE", "--degradation", "gausian_blur"],
        "'gausian_blur' is unknown; did you mean 'gaussian_blur'?",
    ),
    (["severity", "IMAGE", "--study", "smok"], "study: 'smok' is unknown; did you mean 'smoke'?"),
    (["severity", "IMAGE"], "16 x 16 pixels, but the model knows 32 x 32"),
    (["restore", "IMAGE", "--degradation", "gaussian_blur", "--out", "o", "--level", "2"], "--level"),
    (
        ["restore", "IMAGE", "--degradation", "gaussian_blur", "--out", "o", "--budget", "7"],
        "choose one of 1, 3, 6, 12",
    ),
    (["restore", "IMAGE", "--degradation", "gaussian_blur", "--out", "o", "--mask", "m"], "mask: plays no part"),
    (["restore", "IMAGE", "--degradation", "motion_blur", "--out", "o"], "direction of each image's own"),
    (["new", "Mine", "--images", "nowhere"], "images: nowhere: there is no such folder."),
    (["train", "fog"], "params.yaml: there is no study file"),
    (["convert", "a.ckpt", "b.yaml", "c"], "checkpoint: there is no file 'a.ckpt'; give the path"),
]


def test_mistakes_are_sentences_before_torch_loads(tmp_path):
    """All in one process of its own: none has loaded torch (whose lazy stand-in has no torch._C), none prints a traceback."""
    write(tmp_path, ["small.png"])
    script = (
        "import contextlib, io, json, sys\nfrom flashdiff import cli\nanswers = []\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n        code = cli.main(arguments)\n"
        "    answers.append([code, said.getvalue(), 'torch._C' in sys.modules])\nprint(json.dumps(answers))\n"
    )
    given = [[{"IMAGE": "small.png"}.get(word, word) for word in arguments] for arguments, _ in MISTAKES]
    called = [sys.executable, "-c", script, json.dumps(given)]
    done = subprocess.run(called, cwd=tmp_path, capture_output=True, text=True, check=True)
    for (arguments, sentence), (code, said, torch_loaded) in zip(MISTAKES, json.loads(done.stdout), strict=True):
        assert sentence in said, arguments
        assert (code, torch_loaded, "Traceback" in said) == (2, False, False), arguments
    assert not (tmp_path / "o").exists()


def test_version_help_and_completion(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"flashdiff {flashdiff.__version__}\n"
    for command in ("severity", "restore", "new", "train", "reconstruct", "convert"):
        assert cli.main([command, "--help"]) == 0
        assert re.search(rf"^ +flashdiff {command} \S+", capsys.readouterr().out, re.MULTILINE), "an example"
    assert cli.main([]) == 0
    assert "--install-completion" in capsys.readouterr().out
    assert cli._degradations("ga") == ["gaussian_blur"]


def test_models_that_ship_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place.find()
    assert place.folder == ROOT and place.prior == ROOT / "data/prior"
    assert place.encoder(None)[0] == ROOT / "data/encoder"
    assert {"gaussian_blur", "random_inpainting", "super_resolution", "box_inpainting"} <= place.entries.keys()
    assert place.entries["gaussian_blur"]["std_max"] == place.study.degradations["gaussian_blur"].std_max


@pytest.mark.parametrize("style", ["table", "json", "csv"])
def test_severity_is_the_encoders(style, short, images, capsys):
    """Against encoder and start rule, image by image, read without the commands."""
    options = [] if style == "table" else [f"--{style}"]
    assert cli.main(["severity", str(images), "--degradation", "gaussian_blur", "--study", str(short), *options]) == 0
    out = capsys.readouterr().out
    encoder = SeverityEncoder.from_pretrained(short / "data/severity/gaussian_blur")
    prior = Prior.from_pretrained(short / "data/prior")
    found = {"json": json.loads, "csv": lambda text: list(csv.DictReader(io.StringIO(text)))}.get(
        style, lambda text: text
    )(out)
    for k, name in enumerate(["a.png", "b.png", "deep/c.png"]):
        said = encoder.infer(loaded(images / name))
        sigma, start = float(said.sigma_hat), int(match_snr(prior, said.variance))
        if style == "table":
            assert re.search(rf"{name} +{sigma:.3f} +{start} +not measured", found)
            continue
        assert found[k]["file"] == name and int(found[k]["start"]) == start
        assert float(found[k]["sigma_hat"]) == pytest.approx(sigma, rel=1e-4)
        assert not found[k]["expected_psnr"]  # nobody measured that encoder


@pytest.fixture
def promised(short):
    """The tiny study with made-up intervals of its encoder for Gaussian blur, of D(z_hat) and of the walk that restores."""
    walks = {"3": {"adaptive": {o: few_steps(eta) for o, eta in (("psnr", 0.1), ("perceptual", 0.2))}}}
    (short / "data/tuned").mkdir(parents=True, exist_ok=True)
    (short / "data/tuned/budgets-gaussian_blur-ldps.json").write_text(json.dumps({"chosen": walks}))
    intervals = {
        method: {
            "psnr": {
                "sigma_hat": [0.0],
                "centre": [centre],
                "edges": [1e3, 2e3],
                "half_widths": [2.0, None, None],
                "lowest": None,
            }
        }
        for method, centre in (("no_diffusion", 20.0), ("few_step", 99.0), ("few_step_perceptual", 21.0))
    }
    chosen = {"few_step": few_steps(0.1), "few_step_perceptual": few_steps(0.2)}
    shipped = {"coverage": 0.9, "evaluations": 3.0, "walks": chosen, "intervals": intervals}
    (short / "data/confidence").mkdir()
    (short / "data/confidence/gaussian_blur-ldps.json").write_text(json.dumps(shipped))
    return short


def few_steps(eta):
    walk = {"kind": "evenly_spaced", "steps": 3}
    return {
        "solver": {"kind": "ldps", "stochasticity": 0.0, "eta": eta, "walk": walk},
        "start": {"rule": "scaled", "share": 0.5, "lowest": 5},
    }


def test_severity_promises_the_psnr_where_the_degradation_is_calibrated(promised, images, capsys):
    known = ["severity", str(images), "--degradation", "gaussian_blur", "--study", str(promised)]
    assert cli.main([*known, "--json"]) == 0
    out, said = capsys.readouterr()
    for row in json.loads(out):
        assert [row[f"{name}psnr_{end}"] for name in ("", "restored_") for end in ("low", "high")] == [18, 22, 19, 23]
    assert "No promised intervals" not in said
    assert cli.main([*known, "--csv"]) == 0
    assert {row["restored_psnr_low"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"19"}
    assert cli.main(known) == 0
    table = capsys.readouterr().out
    assert "(90% of images)" in table and table.count("18.0 to 22.0") == table.count("19.0 to 23.0") == 3
    other = ["severity", str(images), "--degradation", "random_inpainting", "--study", str(promised), "--json"]
    assert cli.main(other) == 0
    out, said = capsys.readouterr()
    assert {row["psnr_low"] for row in json.loads(out)} == {None} and "none are calibrated for it" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], ("19", "23")), (["--budget", "3"], ("19", "23")), (["--noise-std", "0.3"], ("", ""))],
)
def test_the_report_has_the_promise_of_the_very_walk_that_is_taken(promised, run, tmp_path, options, expected):
    """The study's own noise is another than 0.3, on which nobody calibrated."""
    assert run("--level", "0.4", *options)[0] == 0
    assert {(row["psnr_low"], row["psnr_high"]) for row in report(tmp_path / "out")} == {expected}


def test_restored_images_are_those_of_flash(run, short, images, tmp_path):
    """At a given level, against Flash with the models from disk and the solver written out."""
    assert run("--level", "0.4", "--noise-std", "0.05")[0] == 0
    prior = Prior.from_pretrained(short / "data/prior")
    encoder = SeverityEncoder.from_pretrained(short / "data/severity/gaussian_blur")
    pipe = FlashPipeline.from_study("gaussian_blur", short)
    solver = pipe.flash("ldps").solver
    assert isinstance(solver, LDPS) and solver.eta == 0.05
    rows = report(tmp_path / "out")
    assert [row["file"] for row in rows] == ["a.png", "b.png", "deep/c.png"]
    for row in rows:
        y = loaded(images / row["file"])
        picture = pictures.Picture(row["file"], images / row["file"])
        blur = pipe.degradation
        m = flashdiff.Measurement(y, blur, torch.tensor([0.4]), 0.05, np.array([picture.id]), (1, 16, 16))
        result = Flash(prior, encoder, solver, PublishedStart(1.2), progress=False)(m)
        made = np.asarray(Image.open(tmp_path / "out" / row["result"])).astype(float)
        expected = ((result.images[0, 0].numpy() + 1) * 127.5).round()
        assert np.abs(made - expected).max() <= 1  # a batch rounds differently in the last bits
        assert int(row["start"]) == int(result.start) and int(row["evaluations"]) == int(result.nfe)
        left = (y - blur.A(result.images, m.t)).square().mean().sqrt()
        assert float(row["residual"]) == pytest.approx(float(left), abs=1e-3)
        assert (row["level"], row["level_from"]) == ("0.4000", "given")


def test_a_rerun_does_nothing_twice(run, images, tmp_path, monkeypatch):
    assert run("--level", "0.4")[0] == 0
    before = (tmp_path / "out/a.png").read_bytes()

    def refuse(request):
        raise AssertionError("loaded the models for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_load", refuse)
        code, out, said = run("--level", "0.4")
    assert code == 0 and "3 of 3 images are in" in said and "not done again" in said and "3 images in" in out
    write(images, ["b.png"], seed=7)  # another image under the same name
    assert "2 of 3 images are in" in run("--level", "0.4")[2]
    code, _, said = run()
    assert code == 0 and "not done again" not in said and "Level estimated: " in said
    assert {row["level_from"] for row in report(tmp_path / "out")} == {"estimated"}
    assert (tmp_path / "out/a.png").read_bytes() != before


def test_ctrl_c_keeps_what_is_finished(run, tmp_path, monkeypatch):
    """Interrupted in the second batch of one image; what continues equals what was never interrupted."""
    monkeypatch.setattr(restore, "BATCH", 1)
    real, calls = restore._batch, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_batch", interrupted)
        code, _, said = run("--level", "0.4")
    assert code == 130 and "1 of 3 images are finished and kept" in said
    assert [row["file"] for row in report(tmp_path / "out")] == ["a.png"]
    assert run("--level", "0.4")[0] == 0
    assert run("--level", "0.4", out="whole")[0] == 0
    for name in ("a.png", "b.png", "deep/c.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".part"]


def test_masks_are_files_or_read_off(run, images, tmp_path, monkeypatch):
    """A pixel that is missing does not matter: whatever stands there, the result is the same, with the same noise."""
    monkeypatch.setattr(pictures.Picture, "id", 3)
    hole = np.full((16, 16), 255, np.uint8)
    hole[4:9, 4:9] = 0
    (tmp_path / "masks").mkdir()
    for name in ("a", "b", "deep/c"):
        (tmp_path / "masks" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(hole).save(tmp_path / "masks" / f"{name}.bmp")
    code, _, said = run("--mask", str(tmp_path / "masks"), degradation="random_inpainting", out="of folder")
    assert code == 0 and "Level read off the masks" in said
    picture = np.asarray(Image.open(images / "a.png")).copy()
    picture[4:9, 4:9] = 3
    Image.fromarray(picture).save(images / "a.png")
    code, *_ = run("--mask", str(tmp_path / "masks/a.bmp"), degradation="random_inpainting", out="of file")
    assert code == 0
    assert (tmp_path / "of folder/a.png").read_bytes() == (tmp_path / "of file/a.png").read_bytes()
    degradation = load(ROOT / "studies/smoke/params.yaml").degradations["random_inpainting"]
    level = (25 / 256 / degradation.drop_max) ** (1 / degradation.exponent)
    assert float(report(tmp_path / "of folder")[0]["level"]) == pytest.approx(level, abs=1e-3)
    (tmp_path / "masks/b.bmp").unlink()
    code, _, said = run("--mask", str(tmp_path / "masks"), degradation="random_inpainting", out="none")
    assert code == 2 and "has no mask for 1 of 3 images, b.png the first" in said


def test_mask_read_off_a_measurement_is_the_operators():
    """Random inpainting of an image without mid-grey, in eight bits and with noise: the very mask, and its level."""
    x = torch.from_numpy(np.random.default_rng(0).choice([-0.9, -0.5, 0.5, 0.9], (4, 3, 16, 16)))
    degradation, t = RandomInpainting(0.9, 2.0), torch.tensor([0.0, 0.4, 0.7, 1.0]).double()
    m = measure(x, degradation, t, 0.02, seed=1)
    keep = degradation.prepare(t, (3, 16, 16), m.ids)["keep"]
    eight_bits = ((m.y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(read_off(eight_bits, 0.02), keep.to(x.dtype))
    found = level_of(keep, 0.9, 2.0)
    dropped = 0.9 * t**2  # four standard errors of a share of 256 pixels, carried over to t
    assert ((found - t).abs() <= 4 * (dropped * (1 - dropped) / 256).sqrt() / (1.8 * t).clamp(1e-9)).all()
    own = KnownMasks(dict(zip(m.ids.tolist(), keep.float(), strict=True)))
    assert torch.equal(own.A(x, t), degradation.A(x, t)) and torch.equal(own.AT(x, t), degradation.AT(x, t))


def test_results_never_meet_one_another_or_their_inputs(tmp_path):
    write(tmp_path, ["x/a.png", "y/a.png"])
    found = pictures.find([tmp_path / "x/a.png", tmp_path / "y/a.png"])
    with pytest.raises(StudyError, match="would both be written to"):
        restore._check_results(found, tmp_path / "out")
    with pytest.raises(StudyError, match="would be overwritten by its own result"):
        restore._check_results(found[:1], tmp_path / "x")
    assert [p.name for p in pictures.find([tmp_path, tmp_path / "x/a.png"])] == ["x/a.png", "y/a.png"]


def test_colours_are_said_and_other_sizes_refused(tmp_path):
    write(tmp_path, ["colour.png"], (16, 16, 3))
    write(tmp_path, ["grey.png"], (16, 16))
    found = pictures.find([tmp_path])
    assert pictures.check(found, 16, 1).startswith("1 of 2 images: made grey (luma)")
    assert pictures.check(found, 16, 3).startswith("1 of 2 images: grey, and given to all 3 channels")
    write(tmp_path, ["wide.png"], (16, 24))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(StudyError) as refused:
        pictures.check(pictures.find([tmp_path]), 16, 1)
    assert "broken.png: cannot be read" in str(refused.value)
    assert "wide.png: 24 x 16 pixels, but the model knows 16 x 16" in str(refused.value)


def test_no_command_asks_a_hub_for_the_studys_own_prior(short, images, monkeypatch, capsys):
    import huggingface_hub

    def asked(*arguments, **options):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    monkeypatch.chdir(short)
    shutil.rmtree("data/prior")
    for arguments in (
        ["train", "gaussian_blur"],
        ["reconstruct", "gaussian_blur", "ldps"],
        ["severity", str(images), "--degradation", "gaussian_blur", "--study", "."],
        ["restore", str(images), "--degradation", "gaussian_blur", "--study", ".", "--out", "out"],
    ):
        assert cli.main(arguments) == 2
        assert re.search(
            r"data/prior: no prior there yet; `make (prior|study) STUDY=smoke` puts it there", capsys.readouterr().err
        )
    with pytest.raises(FileNotFoundError, match="data/prior: no prior there; run `make study` first"):
        FlashPipeline.from_study("gaussian_blur")
    with pytest.raises(FileNotFoundError, match="'data/prior' is not there, although the folder data is"):
        FlashPipeline.from_pretrained("data/prior")


def test_expected_psnr_is_a_falling_table():
    """Isotonic regression keeps every mean and no rise; where the means fall by themselves it changes nothing."""
    draw = np.random.default_rng(0)
    sigma = draw.uniform(0.1, 0.8, 600)
    psnr = 30 - 15 * sigma + draw.normal(0, 2, 600)
    rows = table_of(sigma, psnr, bins=6)
    order = np.argsort(sigma).reshape(6, 100)
    np.testing.assert_allclose([row["sigma_hat"] for row in rows], sigma[order].mean(1))
    np.testing.assert_allclose([row["psnr"] for row in rows], psnr[order].mean(1))
    rising = table_of(sigma, -psnr, bins=6)
    np.testing.assert_allclose([row["psnr"] for row in rising], -psnr.mean())
    expected = ExpectedPSNR(rows)
    middle = (rows[2]["sigma_hat"] + rows[3]["sigma_hat"]) / 2
    assert expected(middle)[0] == pytest.approx((rows[2]["psnr"] + rows[3]["psnr"]) / 2)
    assert expected(0.0) == expected(rows[0]["sigma_hat"]) and expected(9.0) == expected(rows[-1]["sigma_hat"])
    assert all(low < mean < high for mean, low, high in map(expected, np.linspace(0, 1, 20)))


def test_shipped_table_agrees_with_the_encoders_card():
    """The card's means were measured separately, by degradation, level and noise; the table pools them all."""
    expected = ExpectedPSNR.of(ROOT / TABLE)
    card = re.findall(r"([\d.]+) +\| +([\d.]+) \|$", (ROOT / "data/encoder/README.md").read_text(), re.MULTILINE)
    assert len(card) > 100
    assert max(abs(expected(float(sigma))[0] - float(psnr)) for sigma, psnr in card) < 2.5
    assert np.mean([abs(expected(float(sigma))[0] - float(psnr)) for sigma, psnr in card]) < 1


@pytest.fixture
def root(tmp_path):
    """A repository with the default study and room for others."""
    (tmp_path / "repository/studies").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / "repository")
    return tmp_path / "repository"


def test_new_study_is_ready_to_run(root, tmp_path, capsys):
    write(tmp_path / "mine", [f"{k:03d}.png" for k in range(60)], (70, 90, 3))
    assert "`make study STUDY=mine-1`" in new.new("mine-1", tmp_path / "mine", root=root)
    folder = root / "studies/mine-1"
    study = load(folder / "params.yaml")
    assert (folder / study.data.images).resolve() == tmp_path / "mine" and (folder / study.root).resolve() == root
    assert (study.data.image_size, study.data.channels, study.data.test, study.data.validation) == (64, 3, 12, 6)
    assert study.severity.init == "data/prior/vae" and study.ablation.steps == [] and study.other_seeds == []
    assert (folder / "dvc.yaml").read_bytes() == (root / "dvc.yaml").read_bytes()
    said, text = capsys.readouterr().err, (folder / "params.yaml").read_text()
    for reason in ("60 of 60 images looked at have colours", "nine of ten images have at least 70 pixels"):
        assert reason in said and reason in text
    before = text
    with pytest.raises(StudyError, match="mine-1 is there already, and stays as it is"):
        new.new("mine-1", tmp_path / "mine", root=root)
    assert (folder / "params.yaml").read_text() == before
    assert [path.name for path in (root / "studies").iterdir()] == ["mine-1"]


@pytest.mark.parametrize(("images", "steps"), [(60, 40), (300, 78), (600, 157), (9600, 2500)])
def test_a_new_study_trains_no_encoder_to_know_its_images_by_heart(tmp_path, images, steps):
    """24 passes of 64 images each over those that are left to train on, 40 to 2500 steps."""
    given = dict.fromkeys(("image_size", "channels", "validation", "test"))
    chosen = new.choices("mine", tmp_path, tmp_path, images, [32], 0, given)
    (said,) = [choice for choice in chosen if choice.field == "severity.steps"]
    assert said.value == steps and "by heart" in said.why


def test_new_study_takes_what_is_given(root, tmp_path):
    write(tmp_path / "mine", [f"{k:03d}.png" for k in range(60)], (20, 20))
    given = {"image_size": 24, "channels": 3, "validation": 5, "test": 15}
    new.new("mine", tmp_path / "mine", root=root, **given)
    data = load(root / "studies/mine/params.yaml").data
    assert {name: getattr(data, name) for name in given} == given


def test_new_study_says_all_that_is_wrong_at_once(root, tmp_path):
    write(tmp_path / "few", ["a.png"])
    with pytest.raises(StudyError) as refused:
        new.new("Mine!", tmp_path / "few", image_size=30, channels=2, validation=1, test=2, root=root)
    message = str(refused.value)
    for field in (
        "study: 'Mine!'",
        "1 images, too few",
        "data.channels: 2",
        "data.image_size: 30",
        "data.validation: 1",
        "data.test: 2",
    ):
        assert field in message
    assert list((root / "studies").iterdir()) == []
