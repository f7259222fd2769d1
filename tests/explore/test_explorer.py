"""What the page asks: encoders that fit, images, what is said of a measurement, walks from anywhere, own pictures."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from repositories import ROOT

from flashdiff.datasets.fetch import fetch, installed_copy
from flashdiff.datasets.mnist import FASHION_MNIST, idx_parts
from flashdiff.datasets.splits import split_ids
from flashdiff.degradations import DEGRADATIONS, GaussianBlur, build, measure
from flashdiff.explore.encoders import find, fits
from flashdiff.explore.explorer import LEVELS, Explorer, Plan, in_words
from flashdiff.explore.restoring import Stopped, restore, walks, without_walk
from flashdiff.flash import Flash
from flashdiff.measures.quality import psnr
from flashdiff.severity import Severity, SeverityEncoder
from flashdiff.solvers import LDPS, SOLVERS
from flashdiff.starts import STARTS, ConsistentStart, PublishedStart, ScaledStart
from flashdiff.study.records import read_json
from flashdiff.study.schema import load
from flashdiff.walks import EvenlySpaced

BLUR = GaussianBlur(0.3, 3.0, 8)  # the smoke study's
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
LONG = Plan(None, "ldps", "published")


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


# encoders


def test_a_fresh_clone_shows_all_that_the_shipped_encoder_was_trained_on(fresh_clone):
    explorer = Explorer(fresh_clone)
    trained = load(ROOT / "studies/fashion-mnist-pretraining/params.yaml")
    members = trained.degradations["mixture"].model_dump()["members"]
    assert explorer.known.keys() == members.keys() and explorer.hidden == {}
    for name, entry in members.items():
        assert (explorer.known[name].degradation, explorer.known[name].noise_std) == build(entry)
        assert explorer.known[name].trained_noise == tuple(trained.severity.noise)
    assert "`make study`" in explorer.known["gaussian_blur"].note  # the study blurs more than the shipped encoder knows


def test_what_the_study_trained_takes_the_place_of_the_shipped_encoder(fresh_clone):
    explorer = Explorer(fresh_clone)
    own = fresh_clone / "data/severity/gaussian_blur"
    shutil.copytree(ROOT / "data/encoder", own)
    after = Explorer(fresh_clone)
    assert after.known.keys() == explorer.known.keys()
    study = load(fresh_clone / "params.yaml")
    blur = after.known["gaussian_blur"]
    assert (blur.degradation, blur.noise_std) == build(study.degradations["gaussian_blur"].model_dump())
    assert "data/severity/gaussian_blur" in blur.source and blur.trained_noise == (blur.noise_std, blur.noise_std)
    assert "data/encoder" in after.known["random_inpainting"].source


def test_a_study_shows_what_it_trained_and_hides_the_rest_in_a_sentence(tiny_study):
    shutil.rmtree(tiny_study / "data/severity/random_inpainting")
    explorer = Explorer(tiny_study)
    assert list(explorer.known) == ["gaussian_blur", "mixture"]
    assert list(explorer.hidden) == ["random_inpainting"]
    assert re.fullmatch(
        r"random inpainting: no severity .*`make study` trains one \(.*\)\.", explorer.hidden["random_inpainting"]
    )


def test_an_encoder_of_another_prior_is_not_asked(tiny_study, tiny_prior):
    another = SeverityEncoder.from_prior(tiny_prior.float())
    another.register_to_config(scaling_factor=2 * tiny_prior.scaling_factor)
    another.save_pretrained(tiny_study / "data/severity/mixture")
    explorer = Explorer(tiny_study)
    assert "mixture" not in explorer.known and "another prior" in explorer.hidden["mixture"]


def test_an_encoder_that_corrects_has_to_hold_the_priors_own(tiny_prior):
    prior = tiny_prior.float()
    encoder = SeverityEncoder.from_prior(prior, correction_channels=(8, 16))
    assert fits(encoder, prior)
    with torch.no_grad():
        prior.autoencoder.encoder.conv_in.weight.add_(0.1)
    assert not fits(encoder, prior)


def test_nothing_to_show_is_a_sentence(tiny_study):
    shutil.rmtree(tiny_study / "data/severity")
    with pytest.raises(FileNotFoundError, match=r"gaussian blur: no severity encoder .* `make study` trains one"):
        Explorer(tiny_study)


def test_a_missing_shipped_encoder_says_how_to_get_it(fresh_clone):
    (fresh_clone / "data/encoder").unlink()
    shutil.copytree(ROOT / "data/encoder", fresh_clone / "data/severity/gaussian_blur")
    explorer = Explorer(fresh_clone)
    assert list(explorer.known) == ["gaussian_blur"]
    assert "motion_blur" in explorer.hidden and "gaussian_blur" not in explorer.hidden
    assert all("`make pretrain`" in text for text in explorer.hidden.values())


def test_the_shipped_encoder_is_not_offered_to_another_prior(tiny_study, tiny_prior):
    (tiny_study / "studies").symlink_to(ROOT / "studies")
    (tiny_study / "data/encoder").symlink_to(ROOT / "data/encoder")
    params = (tiny_study / "params.yaml").read_text().replace("root: ../..", "root: .")
    (tiny_study / "params.yaml").write_text(params)
    known, _ = find(tiny_study, load(tiny_study / "params.yaml"), tiny_prior.float())
    assert list(known) == ["gaussian_blur", "random_inpainting", "mixture"]


# images


def test_the_examples_are_the_first_test_images(fresh_clone, tmp_path):
    if not INSTALLED.is_dir():
        pytest.skip(f"{INSTALLED} is not there; install Debian's package dataset-fashion-mnist to compare with it")
    fetch(tmp_path, FASHION_MNIST, {"the copy": installed_copy(INSTALLED)}, progress=False)
    parts = idx_parts(tmp_path, 32, 1, 5000)
    explorer = Explorer(fresh_clone)
    assert len(explorer) == 32
    classes = {}
    for k, (image, label) in zip(range(32), parts["test"], strict=False):
        picture = explorer.picture(k)
        np.testing.assert_array_equal(((picture.x[0].numpy() + 1) * 127.5).round(), image)
        assert picture.id == split_ids("test", k + 1)[-1]
        classes.setdefault(int(label), set()).add(picture.name.partition(", ")[2])
    assert len(classes) == len({*map(min, classes.values())}) == 10 and all(
        len(names) == 1 for names in classes.values()
    )


def test_the_studys_own_test_images_come_first(tiny_study):
    explorer = Explorer(tiny_study)
    assert len(explorer) == 8
    np.testing.assert_allclose(
        (explorer.picture(5).x.numpy() + 1) * 127.5, np.load(tiny_study / "data/splits/test.npy")[5:6], atol=1e-4
    )


@pytest.mark.parametrize(
    ("pixels", "kind", "notes"),
    [
        (np.zeros((16, 16), np.uint8), "PNG", ["16 x 16 pixels"]),
        (np.zeros((16, 40), np.uint8), "PNG", ["40 x 16 pixels", "largest square", "resized to 16 x 16"]),
        (np.zeros((50, 50, 3), np.uint8), "JPEG", ["50 x 50 pixels", "resized to 16 x 16", "made grey"]),
        (np.zeros((20, 20, 4), np.uint8), "WEBP", ["20 x 20 pixels", "resized to 16 x 16", "made grey"]),
    ],
)
def test_an_own_picture_is_made_to_fit_and_it_is_said_how(tiny_study, pixels, kind, notes):
    picture = Explorer(tiny_study).own_picture(file_of(pixels, kind), "shoe")
    assert picture.x.shape == (1, 1, 16, 16) and picture.name == "shoe"
    assert len(picture.note.split(", ")) == len(notes)
    for note in notes:
        assert note in picture.note


@pytest.mark.parametrize("content", [b"", b"no picture", file_of(np.zeros((40, 40), np.uint8))[:-40]])
def test_what_is_no_picture_is_refused_in_a_sentence(tiny_study, content):
    with pytest.raises(ValueError, match=r"^notes.txt .*; (choose|repair) [^;]*\.$") as error:
        Explorer(tiny_study).own_picture(content, "notes.txt")
    assert "BytesIO" not in str(error.value) and "\n" not in str(error.value)


def test_an_own_picture_has_noise_of_its_own(tiny_study):
    explorer = Explorer(tiny_study)
    own = explorer.own_picture(file_of(np.zeros((16, 16), np.uint8)), "black")
    noise = explorer.look("gaussian_blur", own, 0.0, 0.1).measurement
    assert noise.ids[0] not in np.concatenate([split_ids(name, 10**6) for name in ("train", "validation", "test")])


# what is said of a measurement


def test_a_look_is_what_the_studys_own_functions_say(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(2), t=0.4)
    measurement = measure(explorer.picture(2).x, BLUR, 0.4, 0.1, seed=0, ids=split_ids("test", 3)[-1:])
    torch.testing.assert_close(look.measurement.y, measurement.y)
    severity = explorer.known["gaussian_blur"].encoder.infer(measurement.y)
    assert look.sigma_hat == pytest.approx(float(severity.sigma_hat), rel=1e-6)
    error = severity.z_hat - explorer.prior.encode(explorer.picture(2).x)
    assert look.sbar == pytest.approx(float(error.std()), rel=1e-5)
    torch.testing.assert_close(look.decoded, explorer.prior.decode(severity.z_hat).clamp(-1, 1))


def test_the_path_goes_through_the_looks_at_its_levels(tiny_study):
    explorer = Explorer(tiny_study)
    picture = explorer.picture(1)
    looks = [explorer.look("random_inpainting", picture, float(t)) for t in LEVELS]
    np.testing.assert_allclose(explorer.path(looks[3]), [look.sigma_hat for look in looks], rtol=1e-5)


def test_noise_is_the_studys_unless_one_asks_for_other(tiny_study):
    explorer = Explorer(tiny_study)
    picture = explorer.picture(0)
    assert explorer.look("gaussian_blur", picture, 0.5).measurement.noise_std == 0.1
    clean = explorer.look("gaussian_blur", picture, 0.5, 0.0).measurement
    torch.testing.assert_close(clean.y, BLUR.A(picture.x, torch.tensor([0.5])))


def test_the_expected_error_holds_on_other_noise(fresh_clone):
    """8 of 10 is what it says; on 64 fresh measurements 0.8 has a standard error of 0.05, and the images are the same."""
    explorer = Explorer(fresh_clone)
    x = torch.cat([explorer.picture(k).x for k in range(32)])
    known, within = explorer.known["gaussian_blur"], []
    truth = explorer.prior.encode(x)
    for draw in (7, 8):
        t = torch.from_numpy(np.random.default_rng(draw).uniform(0, 1, 32))
        y = measure(x, known.degradation, t, 0.05, ids=split_ids("test", 32), draw=draw).y
        severity = known.encoder.infer(y)
        true = (severity.z_hat - truth).flatten(1).std(1).numpy()
        for sigma_hat, sbar in zip(severity.sigma_hat.tolist(), true, strict=True):
            low, high = explorer.expected("gaussian_blur", sigma_hat)
            within.append(low <= sbar <= high)
    assert 0.6 < np.mean(within) < 0.97


# walks


def test_the_long_walk_is_the_studys_own_flash(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(0), 0.7)
    encoder = explorer.known["gaussian_blur"].encoder
    expected = Flash(explorer.prior, encoder, LDPS(eta=0.05), PublishedStart(1.2), progress=False)(look.measurement)
    ours = explorer.flash("gaussian_blur", LONG)(look.measurement)
    torch.testing.assert_close(ours.images, expected.images)
    assert ours.start.tolist() == expected.start.tolist()
    assert explorer.start(explorer.flash("gaussian_blur", LONG), look.severity) == int(expected.start)


def test_few_steps_are_what_was_tuned(fresh_clone):
    explorer = Explorer(fresh_clone)
    record = read_json(ROOT / "data/tuned/budgets-random_inpainting-ldps.json")["chosen"]
    assert explorer.budgets("random_inpainting") == list(record)
    for budget, methods in record.items():
        choice = methods["adaptive"]["perceptual"]
        (first, *_) = explorer.solvers("random_inpainting", budget)
        assert first == choice["solver"]["kind"]
        (rule, *_) = explorer.rules("random_inpainting", budget, first)
        flash = explorer.flash("random_inpainting", Plan(budget, first, rule))
        assert rule == choice["start"]["rule"]
        assert {"rule": rule, **vars(flash.start)} == choice["start"]
        assert flash.solver.eta == choice["solver"]["eta"] and flash.solver.lam == choice["solver"]["lam"]


def test_walks_tuned_elsewhere_are_said_to_be(fresh_clone):
    explorer = Explorer(fresh_clone)
    budget = explorer.budgets("motion_blur")[0]
    plan = Plan(budget, explorer.solvers("motion_blur", budget)[0], "scaled")
    assert "gaussian blur" in explorer.tuned_on("motion_blur", plan)
    assert "random inpainting" in explorer.tuned_on("random_inpainting", plan)
    assert "not tuned" in explorer.tuned_on("motion_blur", LONG)


def test_solvers_that_need_an_adjoint_are_not_offered_where_there_is_none(fresh_clone):
    explorer = Explorer(fresh_clone)
    assert set(explorer.solvers("gaussian_blur", None)) == set(SOLVERS)
    assert set(SOLVERS) - set(explorer.solvers("nonlinear_blur", None)) == {"psld"}


@pytest.mark.parametrize(
    "start",
    [PublishedStart(1.2), ConsistentStart(1.0), ConsistentStart(2.0), ScaledStart(0.3, 20), STARTS["inversion"]()],
)
def test_a_walk_can_be_moved_to_any_index(fine_prior, tiny_study, start):
    """For every rule: what the moved rule makes of the moved severity is the index that was asked for."""
    explorer = Explorer(tiny_study)
    explorer.prior = fine_prior
    flash = Flash(fine_prior, None, LDPS(), start)
    said = Severity(torch.zeros(1, 4, 4, 4), torch.tensor([0.09]))
    for index in range(fine_prior.n_steps):
        moved, severity = explorer.moved(flash, said, index)
        assert int(moved.start.index(fine_prior, severity.variance)) == index
        assert severity.z_hat is said.z_hat


def test_a_walk_that_is_not_moved_far_is_the_same_walk(tiny_study):
    """Moved to the index that the rule says itself, a consistent start does what it did."""
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(0), 0.7)
    plan = Plan(None, "ldps", "consistent")
    index = explorer.start(explorer.flash("gaussian_blur", plan), look.severity)
    results = []
    for chosen in (None, index):
        (walk,) = walks(explorer, look, Plan(None, "ldps", "consistent", chosen), baseline=False)
        results.append(next(restore(explorer, look, [walk], lambda: None)))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1]["nfe"] == results[1][1]["nfe"] == index + 1


def test_restoring_reports_every_step_and_measures_what_came_out(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(3), 0.9)
    chosen, steps = walks(explorer, look, Plan(None, "ldps", "published", 7)), []
    (flash, ours), (full, theirs) = restore(explorer, look, chosen, lambda: steps.append(1))
    assert len(steps) == sum(walk.steps for walk in chosen) == 8 + explorer.prior.n_steps
    assert (ours["start"], ours["nfe"]) == (7, 8)
    assert (theirs["method"], theirs["nfe"]) == ("full-length baseline", explorer.prior.n_steps)
    expected = explorer.baseline("gaussian_blur", LONG)(look.measurement)
    torch.testing.assert_close(full, expected.images)
    assert ours["psnr"] == pytest.approx(float(psnr(flash, look.picture.x)[0]))
    assert ours.keys() == theirs.keys() == without_walk(explorer, look).keys()


def test_a_shorter_baseline_says_that_it_is_shorter(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(3), 0.9)
    _, short = walks(explorer, look, LONG, baseline_steps=10)
    assert short.steps == 10 and short.method.solver.walk == EvenlySpaced(10)
    assert "10 of 20 steps" in short.name or f"10 of {explorer.prior.n_steps} steps" in short.name
    _, full = walks(explorer, look, LONG, baseline_steps=10_000)
    assert full.name == "full-length baseline"


def test_a_walk_ends_where_its_watcher_says(tiny_study):
    explorer = Explorer(tiny_study)
    look = explorer.look("gaussian_blur", explorer.picture(3), 0.9)
    steps = []

    def three() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        list(restore(explorer, look, walks(explorer, look, Plan(None, "ldps", "published", 9)), three))
    assert len(steps) == 3


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name not in ("mixture", "encoded_blur")])
def test_a_level_is_said_with_its_unit(name):
    said = [in_words(DEGRADATIONS[name](), t, 32) for t in (0.1, 0.9)]
    assert all(re.search(r"\d", text) and "pixel" in text for text in said) and said[0] != said[1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_that_is_offered_walks_from_a_start_moved_by_hand(tiny_study, solver):
    explorer = Explorer(tiny_study)
    assert solver in explorer.solvers("random_inpainting", None)
    look = explorer.look("random_inpainting", explorer.picture(1), 0.5, noise_std=0.01)
    (walk,) = walks(explorer, look, Plan(None, solver, "published", 4), baseline=False)
    ((image, row),) = restore(explorer, look, [walk], lambda: None)
    assert torch.isfinite(image).all() and row["start"] == 4 and row["nfe"] >= 1
