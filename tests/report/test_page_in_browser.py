"""The report page as a browser shows and prints it; skipped where there is no Chromium."""

import shutil

import pytest
from page_cases import DEGRADATIONS, PAIRS, STUDY, write_study

from flashdiff.report import page as report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MOST_SCREENS, MOST_PAGES = 12, 12
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install -e .[dev]")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The page of a study of two pairs."""
    folder = tmp_path_factory.mktemp("small")
    write_study(folder)
    return report.assemble(folder, STUDY, DEGRADATIONS, PAIRS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of a study of seven degradations with six solvers each."""
    folder, solvers = tmp_path_factory.mktemp("large"), ["ldps", "gml_dps", "psld", "resample", "latent_daps", "own"]
    degradations = [*DEGRADATIONS, *(f"degradation_{number}" for number in range(5))]
    write_study(folder, DEGRADATIONS[:1], solvers[:1])
    pairs = [(degradation, solver) for degradation in degradations for solver in solvers]
    reports, first = folder / "reports", ("gaussian_blur", "gaussian_blur-ldps")
    for degradation in degradations[1:]:
        _copy(reports, first[0], degradation)
    for degradation, solver in pairs[1:]:
        _copy(reports, first[1], f"{degradation}-{solver}")
    return report.assemble(folder, STUDY, degradations, pairs)


def _copy(reports, item, other):
    """What the stages left of one item, once more for another."""
    for path in [*reports.glob(f"*/*-{item}"), *reports.glob(f"*/*-{item}.*")]:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, path.with_name(path.name.replace(item, other)))


def opened(browser, path, size):
    tab, said = browser.new_page(viewport=size), []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(path.as_uri())
    return tab, said


def width_and_height(tab):
    return tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("folds", ["closed", "open"])
def test_a_phone_does_not_scroll_sideways_and_a_desktop_neither(browser, request, name, folds):
    for size in (PHONE, DESKTOP):
        tab, said = opened(browser, request.getfixturevalue(name), size)
        if folds == "open":
            tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        assert width_and_height(tab)[0] == size["width"] and said == []
        tab.close()


def test_tables_scroll_in_a_box_of_their_own_on_a_phone_and_show_the_verdict(browser, small):
    tab, _ = opened(browser, small, PHONE)
    box = tab.locator(".verdicts .scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    right = box.locator("td.verdict").first.evaluate("cell => cell.getBoundingClientRect().right")
    assert 0 < right < PHONE["width"]
    tab.close()


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_page_has_few_screens_before_it_is_unfolded(browser, request, name):
    tab, _ = opened(browser, request.getfixturevalue(name), DESKTOP)
    assert width_and_height(tab)[1] <= MOST_SCREENS * DESKTOP["height"]
    tab.close()


def test_cards_pictures_and_the_frontier_are_on_the_first_screen(browser, small):
    tab, _ = opened(browser, small, DESKTOP)
    places = [".card >> nth=2", ".strip >> nth=1", "img[src$='frontier.png'] >> nth=0", ".result >> nth=1"]
    for place in places:
        box = tab.locator(place).bounding_box()
        assert box["y"] + box["height"] <= DESKTOP["height"], place
    tab.close()


def test_images_far_below_are_loaded_when_a_reader_comes_near(browser, large):
    tab, _ = opened(browser, large, DESKTOP)
    far = tab.locator("details img").last
    loaded = "image => image.complete && image.naturalWidth > 0"
    assert not far.evaluate(loaded)
    tab.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    far.scroll_into_view_if_needed()
    tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=far.element_handle())
    tab.close()


def test_contents_stay_in_sight(browser, small):
    tab, _ = opened(browser, small, DESKTOP)
    tab.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert tab.locator("nav").bounding_box()["y"] == pytest.approx(0, abs=1)
    tab.close()


def printed(tab, path):
    """How many pages of A4 the page is on paper; each is an object of the PDF."""
    return tab.pdf(path=path, prefer_css_page_size=True).count(b"/Type /Page\n")


def test_on_paper_the_folds_are_open_and_nothing_is_cut(browser, small, tmp_path):
    tab, _ = opened(browser, small, DESKTOP)
    assert 3 <= printed(tab, tmp_path / "page.pdf") <= MOST_PAGES
    assert width_and_height(tab)[0] == DESKTOP["width"]
    a4 = {"width": round(190 / 25.4 * 96), "height": 1050}  # what the margins leave of a page
    tab.set_viewport_size(a4)
    tab.emulate_media(media="print")
    assert tab.locator("details:not([open])").count() > 0
    shown = tab.locator("details:not(.online) figure").last.bounding_box()
    assert shown is not None and shown["height"] > 50
    assert width_and_height(tab)[0] <= a4["width"]
    inside = "cell => cell.getBoundingClientRect().right"
    assert max(cell.evaluate(inside) for cell in tab.locator("tr:first-child th:last-child").all()) <= a4["width"] + 1
    tab.close()
