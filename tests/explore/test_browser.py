"""The page in a browser, served by the command of `make explore`: sliders, uploads and runs of a person who has just cloned it.

Needs Chromium (Debian's package chromium). Screenshots are kept in .build/screenshots.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image
from repositories import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = ROOT / ".build/screenshots"
WAIT = 120_000
"""Milliseconds that a busy machine may take for a page or a walk."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium (any Chrome will do)"),
]


def command(port: int) -> tuple[dict[str, str], list[str]]:
    """(environment, command) of `make explore`, as make itself says it, with this Python's programs."""
    options = f"--no-browser --port={port} --Voila.port_retries=0"
    dry_run = ["make", "-n", "-s", "-o", ".venv/installed", "explore", f"BIN={Path(sys.executable).parent}"]
    said = subprocess.run([*dry_run, f"OPTIONS={options}"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in said.splitlines() if "voila" in line]
    words = shlex.split(line)
    given = [word for word in words if re.match(r"[A-Z_]+=", word)]
    return dict(word.split("=", 1) for word in given), words[len(given) :]


@pytest.fixture
def address(fresh_clone, tmp_path):
    """Where the page of a fresh clone is served, with the notebook in the clone, too, so that a run changes nothing here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (fresh_clone / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/explore_severity.ipynb", fresh_clone / "notebooks")
    given, words = command(port)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = (
        os.environ | given | {"FLASHDIFF_STUDY": str(fresh_clone), "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    )
    with open(tmp_path / "voila.log", "w+") as log:
        server = subprocess.Popen(words, cwd=fresh_clone, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/voila/static/", server, tmp_path / "voila.log")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(30)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers, with whatever status."""
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            urlopen(url, timeout=5).close()
            return
        except URLError as error:
            if hasattr(error, "code"):
                error.close()
                return
        time.sleep(0.2)
    pytest.fail(f"no answer within a minute: {log.read_text()}")


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # as root, as in a container, Chromium runs only without its sandbox; it opens nothing but this page
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser, address, width, height):
    """The page, ready to use, and the list of errors that its console will collect."""
    page, errors = browser.new_page(viewport={"width": width, "height": height}), []
    page.set_default_timeout(WAIT)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"{request.url}: {request.failure}"))
    page.goto(address)
    page.locator(".fd-numbers b").wait_for()
    return page, errors


def changed(page, selector: str, do) -> str:
    """The text of an element once it is another than before ``do``."""
    before = page.locator(selector).inner_text()
    do()
    page.wait_for_function("([s, old]) => document.querySelector(s).innerText !== old", arg=[selector, before])
    return page.locator(selector).inner_text()


def picture(page, number: int) -> str:
    return page.locator(".fd-pictures img").nth(number).get_attribute("src")


def test_a_person_explores(browser, address, tmp_path, fresh_clone):
    page, errors = opened(browser, address, 1280, 1500)
    assert "Traceback" not in page.inner_text("body") and "import" not in page.inner_text("body")  # no code
    slider = page.locator(".fd-level .noUi-handle")

    def sigma_hat() -> float:
        return float(page.locator(".fd-numbers b").inner_text())

    # a level: by keys, as people without a mouse do, and by dragging
    before, measured = sigma_hat(), picture(page, 1)
    slider.focus()
    changed(page, ".fd-numbers", lambda: page.keyboard.press("End"))
    page.wait_for_function("document.querySelector('.fd-level .widget-readout').innerText === '1.00'")
    assert sigma_hat() > before and picture(page, 1) != measured
    box = page.locator(".fd-level .noUi-target").bounding_box()
    slider.hover()
    page.mouse.down()

    def drag() -> None:
        for share in (0.8, 0.5, 0.2, 0.05):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    hardest = sigma_hat()
    changed(page, ".fd-numbers", drag)
    page.mouse.up()
    page.wait_for_function(f"parseFloat(document.querySelector('.fd-numbers b').innerText) < {hardest} / 2")

    # the start is moved by hand, and follows again
    def says(words: str) -> None:  # in the end: an answer to the level before may still be on its way
        page.wait_for_function("w => document.querySelector('.fd-about-start').innerText.includes(w)", arg=words)

    page.locator(".fd-start .noUi-handle").focus()
    page.keyboard.press("PageUp")
    says("Moved by hand")
    page.click(".fd-follow")
    says("It follows")

    # own pictures: a wrong one is a sentence, a right one is shown
    wrong, right = tmp_path / "notes.txt", tmp_path / "photo.png"
    wrong.write_text("no picture")
    Image.effect_noise((3000, 2000), 90).convert("RGB").save(right)
    assert right.stat().st_size > 10_485_760  # more than a websocket takes unless told otherwise

    def brought(path: Path) -> str:
        with page.expect_file_chooser() as chooser:
            page.click(".fd-upload")
        return changed(page, ".fd-about-image", lambda: chooser.value.set_files(path))

    assert "notes.txt is no picture" in brought(wrong)
    clean = picture(page, 0)
    assert "resized to 32 x 32, made grey" in brought(right)
    page.wait_for_function("old => document.querySelector('.fd-pictures img').src !== old", arg=clean)
    page.screenshot(path=SCREENSHOTS / "own-picture-1280.png")

    # another image, restored; stopped once on the way
    page.click(".fd-next")
    page.wait_for_function("document.querySelector('.fd-about-image').innerText.includes('test image 1')")
    page.click(".fd-run")
    page.wait_for_function("document.querySelector('.fd-status').innerText.includes('Step')")
    page.click(".fd-stop")
    page.wait_for_function("document.querySelector('.fd-status').innerText.includes('Stopped')")
    page.locator(".fd-baseline select").select_option(index=1)  # the shorter one
    page.click(".fd-run")
    page.wait_for_function("document.querySelector('.fd-status').innerText.includes('Done')")
    assert page.locator(".fd-result img").count() == 5
    widths = page.evaluate("[...document.querySelectorAll('.fd-result img')].map(image => image.naturalWidth)")
    assert widths == [32] * 5  # decoded, not only there
    assert "NFE" in page.inner_text(".fd-result") and "dB" in page.inner_text(".fd-result")
    page.click(".fd-save")
    page.wait_for_function("document.querySelector('.fd-saved').innerText.includes('Saved: ')")
    saved = fresh_clone / ".build/by_hand/explore"
    assert {path.suffix for path in saved.iterdir()} == {".png", ".pdf", ".csv"}
    page.screenshot(path=SCREENSHOTS / "restored-1280.png")
    assert errors == []


def test_it_fits_a_phone(browser, address):
    page, errors = opened(browser, address, 390, 844)
    page.screenshot(path=SCREENSHOTS / "first-390.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        "[...document.querySelectorAll('.fd-page *')].filter(e => e.offsetParent && e.getBoundingClientRect().right > 391)"
        ".map(e => e.className)"
    )
    assert wide == []
    page.locator(".fd-noise").evaluate("slider => slider.scrollIntoView({block: 'center'})")
    assert 0 <= page.locator(".fd-pictures").bounding_box()["y"] < 100  # in sight while the slider moves
    page.screenshot(path=SCREENSHOTS / "level-390.png")
    page.locator(".fd-run").scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / "restore-390.png")
    assert errors == []
