"""The page without a browser: what a change of a widget changes, and that whatever goes wrong is a sentence."""

import html
import io
import re
import shutil
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flashdiff.explore.explorer import Explorer
from flashdiff.explore.page import LONG_WALK, Page, show

SHOWN = ("pictures", "numbers", "about_numbers", "about_level", "level_svg", "start_svg", "about_start")


@pytest.fixture
def page(tiny_study):
    """The page of a small study, which has no walks of few steps: Flash walks as published, from an index of 0 to 39."""
    return Page(Explorer(tiny_study), tiny_study / "saved")


@pytest.fixture
def few_step_page(fresh_clone):
    """The page of a fresh clone, with walks of few steps."""
    return Page(Explorer(fresh_clone), fresh_clone / "saved")


def shown(page):
    return {name: getattr(page, name).value for name in SHOWN}


def changed(page, do) -> set[str]:
    """What of the shown changes when ``do`` is done."""
    before = shown(page)
    do()
    return {name for name, value in shown(page).items() if value != before[name]}


def text(widget) -> str:
    return html.unescape(re.sub(r"<style>.*</style>|<[^>]*>", "", widget.value, flags=re.DOTALL))


def brought(page, name: str, content: bytes) -> None:
    """As the browser hands a file over."""
    page.upload.value = (
        {
            "name": name,
            "type": "",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime.now(UTC),
        },
    )


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)).save(out, "PNG")
    return out.getvalue()


def test_the_level_changes_everything_that_is_shown(few_step_page):
    page = few_step_page
    before = page.look.sigma_hat
    assert changed(page, lambda: setattr(page.level, "value", 0.9)) >= set(SHOWN) - {"about_start"}
    assert page.look.t == 0.9 and page.look.sigma_hat > before
    assert text(page.numbers) == f"σ̂ = {page.look.sigma_hat:.3f}"
    assert page.start.value == page.explorer.start(page.explorer.flash("gaussian_blur", page.plan), page.look.severity)


def test_the_noise_changes_the_measurement(page):
    assert {"pictures", "numbers", "level_svg"} <= changed(page, lambda: setattr(page.noise, "value", 0.0))
    assert page.look.measurement.noise_std == 0.0


def test_a_move_asks_the_encoder_once(page, monkeypatch):
    asked = []
    real = Explorer.look
    monkeypatch.setattr(Explorer, "look", lambda self, *given: asked.append(given) or real(self, *given))
    page.level.value = 0.8
    assert [given[2] for given in asked] == [0.8]
    page.start.value = 3
    page.rule.value = "consistent"
    assert len(asked) == 1  # where a walk starts is no question to the encoder


def test_nothing_is_drawn_by_matplotlib_before_something_is_saved(page, monkeypatch):
    from matplotlib.figure import Figure

    def refused(*_, **__):
        raise AssertionError("a figure was drawn")

    monkeypatch.setattr(Figure, "__init__", refused)
    page.level.value, page.noise.value, page.number.value = 0.1, 0.05, 2


def test_the_start_follows_until_it_is_moved_and_again_when_asked(few_step_page):
    page = few_step_page
    assert page.following and page.follow.disabled
    page.level.value = 0.9
    told = page.start.value
    page.start.value = told + 30
    assert not page.following and not page.follow.disabled and page.plan.index == told + 30
    assert f"σ̂ says {told}" in text(page.about_start)
    page.level.value = 0.1
    assert page.start.value == told + 30  # no longer σ̂'s business
    page.follow.click()
    assert page.following and page.plan.index is None and page.start.value < told


def test_another_rule_follows_again(page):
    page.start.value = 5
    page.rule.value = "consistent"
    assert page.following and page.plan.index is None


def test_previous_and_next_go_round(page):
    page.previous.click()
    assert page.number.value == page.number.max and page.look.picture.id == page.explorer.picture(page.number.max).id
    page.next.click()
    assert page.number.value == 0
    page.number.value = 4
    assert "test image 4" in text(page.about_image) and page.look.picture.id == page.explorer.picture(4).id


def test_a_degradation_brings_its_noise_and_its_solvers(few_step_page):
    page = few_step_page
    page.budget.value = None
    assert "psld" in [name for _, name in page.solver.options]
    page.noise.value = 0.07
    page.degradation.value = "nonlinear_blur"
    assert page.budget.value is None  # what one has chosen stays
    assert "psld" not in [name for _, name in page.solver.options]
    assert page.noise.value == page.explorer.known["nonlinear_blur"].noise_std
    assert page.look.degradation == "nonlinear_blur"


def test_the_budget_is_what_was_tuned_or_the_long_walk(few_step_page):
    page = few_step_page
    budgets = page.explorer.budgets("gaussian_blur")
    assert [value for _, value in page.budget.options] == [*budgets, None]
    assert page.budget.options[-1][0] == LONG_WALK
    assert page.budget.value == min(budgets, key=lambda budget: abs(float(budget) - 6))
    page.level.value = 1.0
    steps = {}
    for budget in (budgets[0], budgets[-1], None):
        page.budget.value = budget
        (steps[budget],) = map(int, re.findall(r"takes (\d+) step", text(page.about_start)))
    assert steps[budgets[0]] < steps[budgets[-1]] < steps[None] == page.start.value + 1


def test_what_cannot_be_shown_is_said(tiny_study):
    shutil.rmtree(tiny_study / "data/severity/mixture")
    page = Page(Explorer(tiny_study), tiny_study)
    assert "mixture" not in [name for _, name in page.degradation.options]
    assert re.search(r"Not shown: mixture: .*make study", text(page.hidden))


def test_a_study_without_anything_to_show_is_a_sentence(tiny_study):
    shutil.rmtree(tiny_study / "data/severity")
    assert "make study" in text(show(tiny_study, tiny_study))
    shutil.rmtree(tiny_study / "data/prior")
    assert "there is no folder" in text(show(tiny_study, tiny_study))


def test_a_study_without_images_asks_for_one(tiny_study):
    shutil.rmtree(tiny_study / "data/splits")
    page = Page(Explorer(tiny_study), tiny_study)
    assert "no images" in text(page.about_image)
    for button in (page.next, page.run, page.save):
        button.click()
    page.level.value = 0.2
    brought(page, "mine.png", png(16, 16))
    assert page.look.picture.name == "mine.png" and "σ̂" in text(page.numbers)


def test_an_own_picture_is_shown_and_what_was_done_to_it_is_said(page):
    assert {"pictures", "numbers", "level_svg"} <= changed(page, lambda: brought(page, "shoe.png", png(30, 20)))
    assert (
        text(page.about_image)
        == "shoe.png: 30 x 20 pixels, the largest square in the middle taken, resized to 16 x 16."
    )
    assert page.upload.value == ()  # so that the same file can be chosen again
    page.level.value = 0.9
    assert page.look.picture.name == "shoe.png"


@pytest.mark.parametrize("content", [b"", b"<script>alert(1)</script>", png(30, 20)[:60]])
def test_a_wrong_file_is_a_sentence_and_changes_nothing_else(page, content):
    assert changed(page, lambda: brought(page, "<b>notes.txt", content)) == set()
    said = text(page.about_image)
    assert "notes.txt" in said and said.endswith(".") and "Traceback" not in said
    assert "<b>" not in page.about_image.value.removeprefix("<div").replace("&lt;b&gt;", "")
    brought(page, "shoe.png", png(16, 16))
    assert page.look.picture.name == "shoe.png"


def finish(page) -> None:
    page.run.click()
    page.thread.join(60)
    assert not page.thread.is_alive()


def test_a_run_shows_both_walks_with_what_they_took(page):
    finish(page)
    said = text(page.restored)
    assert page.progress.value == 1 and text(page.status) == "Done."
    assert [row["method"] for _, _, row in page.ran.finished] == ["Flash", "full-length baseline"]
    for _, _, row in page.ran.finished:
        assert f"{row['nfe']} NFE" in said and f"{row['psnr']:.1f} dB" in said
    assert page.restored.value.count("<img") == 5  # measurement, D(z_hat), both walks, clean
    assert not page.run.disabled and page.stop.disabled


def test_a_run_without_baseline(page):
    page.baseline.value = 0
    finish(page)
    assert len(page.ran.finished) == 1


def test_a_run_can_be_stopped(page, monkeypatch):
    page.stop_asked.set()
    monkeypatch.setattr(page.stop_asked, "clear", lambda: None)  # as if Stop were pressed at once
    finish(page)
    assert text(page.status).startswith("Stopped after 0 steps") and page.ran.finished == []
    assert not page.run.disabled and not page.save.disabled


def test_what_fails_in_a_run_is_said(page, monkeypatch):
    monkeypatch.setattr("flashdiff.explore.restoring.quality", lambda *_: 1 / 0)
    finish(page)
    assert text(page.status) == "ZeroDivisionError: division by zero" and not page.run.disabled


def test_what_a_solver_refuses_is_its_own_sentence(page):
    page.solver.value = "latent_daps"  # which takes the noise for its likelihood in this study
    page.noise.value = 0.0
    finish(page)
    assert re.match(r"solver.tau: .*; give a number > 0\.$", text(page.status)) and page.ran.finished == []


def test_what_is_saved_is_what_is_shown(page, tiny_study):
    page.start.value = 6
    finish(page)
    page.save.click()
    (figure,) = re.findall(r"Saved: (.*?), and beside it", text(page.saved))
    files = {path.suffix: path for path in (tiny_study / "saved/explore").iterdir() if "levels" not in path.name}
    assert files.keys() == {".png", ".pdf", ".csv"}
    assert figure == str(files[".png"].resolve()) and re.search(r"\.pdf, \.csv, -levels\.csv\.$", text(page.saved))
    rows = pd.read_csv(files[".csv"])
    assert rows.method.tolist()[1:] == ["Flash", "full-length baseline"]
    assert rows.sigma_hat[0] == pytest.approx(page.look.sigma_hat, rel=1e-5)
    assert rows.chosen_start.eq(6).all() and rows.start[1] == 6 and rows.nfe[1] == 7
    with Image.open(files[".png"]) as figure:
        assert figure.width > 1000
    assert files[".pdf"].read_bytes().startswith(b"%PDF")


def test_what_was_restored_from_another_measurement_is_not_saved_with_this(page, tiny_study):
    finish(page)
    page.level.value = 0.9
    page.save.click()
    (path,) = [p for p in (tiny_study / "saved/explore").glob("*.csv") if "levels" not in p.name]
    assert len(pd.read_csv(path)) == 1 and "t0.90" in path.name
    assert "of another measurement" in text(page.saved)


def test_a_folder_that_cannot_be_written_is_a_sentence(page, tiny_study):
    (tiny_study / "saved").write_text("a file, no folder")
    page.save.click()
    assert "saved" in text(page.saved) and "fd-problem" in page.saved.value
