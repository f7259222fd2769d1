"""How long a slider of the explorer's page takes to answer, against the widget that it replaced, in the same run.

`python -m benchmarks.explore`: about half a minute, on one thread; prints the table and writes benchmarks/results/NAME-explore.md.
With `--first` it also clones the repository (what is committed), runs `make explore` there with this environment, and says
after how many seconds a slider has moved in Chromium.

The replaced widget asked the encoder about eleven levels one after the other and had matplotlib draw everything anew. Both
sides answer the same moves alternately, and medians count: of the wall clock, and of the CPU time, which is what the wall
clock is on a machine without other work. The browser's own time, some milliseconds for both, is not in them.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from IPython.core.pylabtools import print_figure

from benchmarks.engine import machine
from flashdiff.explore.explorer import Explorer, Picture
from flashdiff.explore.page import Page
from flashdiff.measures.quality import psnr
from flashdiff.report.image_figures import one_image
from flashdiff.severity import latent_error_variance, severity_at_levels
from flashdiff.starts import match_snr

LEVELS_BEFORE = 11
LIMIT = 0.15
"""Seconds in which a slider should answer."""


@torch.no_grad()
def redrawn(explorer: Explorer, degradation: str, picture: Picture, t: float, noise_std: float) -> bytes:
    """What the replaced widget did at every move (commit 7b9205a): the PNG of a figure that is drawn anew."""
    look, known = explorer.look(degradation, picture, t, noise_std), explorer.known[degradation]
    levels = torch.linspace(0, 1, LEVELS_BEFORE)
    ids = look.measurement.ids
    path = severity_at_levels(known.encoder, picture.x, known.degradation, noise_std, levels, ids=ids)
    figure = one_image(
        images={name: image[0].numpy() for name, image in look.images.items()},
        captions=dict.fromkeys(look.images, "") | {"D(ẑ)": f"{psnr(look.decoded, picture.x)[0]:.1f} dB"},
        path=pd.DataFrame({"t": levels.double().numpy(), "sigma_hat": path[0].double().numpy()}),
        t=t,
        sigma_hat=look.sigma_hat,
        sbar=float(latent_error_variance(look.severity.z_hat, explorer.prior.encode(picture.x))[0].sqrt()),
        start=int(match_snr(explorer.prior, look.severity.variance)[0]),
    )
    return print_figure(figure, base64=True)  # as a notebook does


def seconds(do: Callable[[], object]) -> tuple[float, float]:
    """Wall clock and CPU time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - wall, time.process_time() - cpu


def moves(page: Page, rounds: int) -> pd.DataFrame:
    """A row per slider: median seconds per move before and now."""
    explorer, rows = page.explorer, []
    for name, slider, values in (
        ("level", page.level, np.linspace(0.05, 0.95, rounds)),
        ("noise", page.noise, np.linspace(0.005, 0.095, rounds)),
        ("start index (new)", page.start, np.linspace(3, 200, rounds).astype(int)),
    ):
        before, now = [], []
        for value in values:
            now.append(seconds(lambda slider=slider, value=value: setattr(slider, "value", value)))
            shown = page.degradation.value, page.picture, page.level.value, page.noise.value
            if slider is not page.start:
                before.append(seconds(lambda shown=shown: redrawn(explorer, *shown)))
        row = {"slider": name}
        for kind, column in (("wall", 0), ("CPU", 1)):
            row[f"before, {kind} s"] = np.median([one[column] for one in before]) if before else None
            row[f"now, {kind} s"] = np.median([one[column] for one in now])
        rows.append(row | {"CPU ratio": row["before, CPU s"] / row["now, CPU s"] if before else None})
    return pd.DataFrame(rows).astype(object).where(lambda table: table.notna(), "")


def first_move(port: int = 8899) -> dict[str, float]:
    """Seconds from `make explore` in a fresh clone: until the page can be asked for, stands in Chromium, and answered a slider."""
    from playwright.sync_api import sync_playwright

    root, marks = Path(__file__).parents[1], {}
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        subprocess.run(["git", "clone", "--quiet", root, folder], check=True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        # the environment is there and up to date: -o says so to make
        command = ["make", "-o", ".venv/installed", "explore", f"BIN={Path(sys.executable).parent}"]
        began = time.perf_counter()
        server = subprocess.Popen(
            [*command, f"OPTIONS=--no-browser --port={port} --Voila.port_retries=0"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            while True:
                try:
                    page.goto(f"http://localhost:{port}/", wait_until="commit")
                    break
                except Exception:  # not listening yet
                    assert server.poll() is None, f"make explore ended; is port {port} free?"
                    time.sleep(0.1)
            marks["answers, s"] = time.perf_counter() - began
            shown = page.locator(".fd-numbers b")
            shown.wait_for()
            marks["page stands, s"], before = time.perf_counter() - began, shown.inner_text()
            page.locator(".fd-level .noUi-handle").focus()
            page.keyboard.press("End")
            page.wait_for_function("old => document.querySelector('.fd-numbers b').innerText !== old", arg=before)
            marks["slider moved, s"] = time.perf_counter() - began
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
            browser.close()
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default=platform.node() or "machine", help="of the results file")
    parser.add_argument("--rounds", type=int, default=15, help="moves of each slider")
    parser.add_argument(
        "--first", action="store_true", help="from `make explore` to the first move, too; needs Chromium"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    page = Page(Explorer(), ".build/by_hand")
    moves(page, 3)  # the first moves load what the later ones have
    tables = [moves(page, given.rounds)]
    if given.first:
        tables.append(pd.DataFrame([first_move()]))
    load = f"{os.getloadavg()[0]:.1f} processes were running" if hasattr(os, "getloadavg") else "load unknown"
    head = f"# A slider's answer: {given.name}\n\n{machine()} {given.rounds} moves of each, wanted under {LIMIT} s; {load}."
    text = "\n\n".join([head, *(table.to_markdown(index=False, floatfmt=".3g") for table in tables)]) + "\n"
    print(text)
    path = Path(__file__).parent / "results" / f"{given.name}-explore.md"
    path.write_text(text)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
