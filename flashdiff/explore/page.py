"""The page: widgets around an :class:`flashdiff.explore.explorer.Explorer`, for Voila and JupyterLab alike.

A slider that moves replaces a few texts, small PNGs and SVGs; nothing is drawn by matplotlib until a figure is saved.
"""

import html
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from threading import Event, Thread

import ipywidgets as widgets
from ipywidgets import HTML, Box, Button, Dropdown
from torch import Tensor

from flashdiff.explore.charts import LevelChart, StartChart, img
from flashdiff.explore.encoders import words
from flashdiff.explore.explorer import LEVELS, Explorer, Look, Picture, Plan, in_words
from flashdiff.explore.restoring import Stopped, restore, walks, without_walk
from flashdiff.explore.saving import save
from flashdiff.measures import MEASURES

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
LONG_WALK = "every index (the paper's walk)"
BUDGET = 6.0
"""Mean evaluations per image at first, or the nearest that was tuned: as the pipeline restores unless told otherwise."""
SHORTENED = 100
"""Steps of the shorter baseline."""
RULES = {
    "published": "The paper's: where SNR(i) = 1/σ̂², with as much fresh noise added to ẑ as it has error.",
    "consistent": "Where SNR(i) = 1/σ̂²; ẑ's own error passes for the noise, none is added.",
    "inversion": "Where SNR(i) = 1/σ̂²; ẑ is carried up there by the denoiser itself (DDIM inversion).",
    "scaled": "Only a share of the predicted error counts as noise, so the walk starts lower than 1/σ̂² says.",
}
BASELINES = {"in its full length": None, f"in {SHORTENED} steps only (shorter)": SHORTENED, "no baseline": 0}
SHOWN = {"psnr": ".1f", "ssim": ".3f", "perceptual": ".3f"}
"""Measures on the page, and how they are written."""


def field(label: str, *controls: widgets.Widget, about: str = "") -> Box:
    """Controls under their label, and a sentence about them."""
    text = [HTML(_says(about))] if about else []
    head = HTML(f'<div class="fd-label">{label}</div>')
    return _box("fd-field", head, _box("fd-row", *controls), *text)


def _box(name: str, *children: widgets.Widget) -> Box:
    box = Box(children)
    box.add_class(name)
    return box


def _button(text: str, do: Callable[[], None], name: str, tooltip: str = "", style: str = "") -> Button:
    button = Button(description=text, tooltip=tooltip or text, button_style=style)
    button.add_class(name)
    button.on_click(lambda _: do())
    return button


def _options(names: list[str], label: Callable[[str], str]) -> list[tuple[str, str]]:
    return [(label(name), name) for name in names]


def show(folder: str | Path, out: str | Path) -> widgets.Widget:
    """The page of the study in ``folder``, or one sentence on what is missing. What is saved goes below ``out``."""
    try:
        return Page(Explorer(folder), out).widget
    except (FileNotFoundError, ValueError) as error:
        return HTML(f"<style>{STYLE}</style>{_says(str(error), 'problem')}")


@dataclass
class Run:
    """What was restored: from which look, how, from which start index; (method, image, row) of what is finished."""

    look: Look
    plan: Plan
    start: int
    finished: list[tuple[str, Tensor, dict]] = dataclass_field(default_factory=list)


class Page:
    """The widgets, and what they show: ``look`` at the ``picture`` as they stand, and the last ``ran``.

    ``widget`` is what to display.
    """

    def __init__(self, explorer: Explorer, out: str | Path):
        self.explorer, self.out = explorer, Path(out)
        self.start_chart, self.level_chart = StartChart(explorer.prior), LevelChart()
        self.following, self.silent = True, False
        self.thread: Thread | None = None
        self.stop_asked = Event()
        self.ran: Run | None = None
        self._make_controls()
        self._make_shown()
        self.widget = self._arrange()
        self.picture: Picture | None = None
        if len(explorer):
            self.picture = explorer.picture(0)
        self._degradation_changed()

    def _make_controls(self) -> None:
        explorer = self.explorer
        last = max(len(explorer) - 1, 0)
        self.number = widgets.BoundedIntText(0, 0, last, layout={"width": "90px"}, disabled=not len(explorer))
        self.previous = _button("◀ previous", lambda: self._step(-1), "fd-previous")
        self.next = _button("next ▶", lambda: self._step(1), "fd-next")
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your own image")
        self.upload.add_class("fd-upload")
        self.degradation = Dropdown(options=_options(list(explorer.known), words))
        self.level = widgets.FloatSlider(0.5, min=0, max=1, step=0.01, readout_format=".2f")
        self.noise = widgets.FloatSlider(0.02, min=0, max=0.1, step=0.005, readout_format=".3f")
        self.budget, self.solver, self.rule = Dropdown(), Dropdown(), Dropdown()
        self.start = widgets.IntSlider(0, 0, explorer.prior.n_steps - 1)
        self.follow = _button("follow σ̂ again", self._follow, "fd-follow", "let the severity encoder choose the start")
        self.baseline = Dropdown(options=list(BASELINES.items()))
        self.run = _button("Restore", self._run, "fd-run", "walk down from the start", "primary")
        self.stop = _button("Stop", self.stop_asked.set, "fd-stop", "end the walk at its next step")
        self.save = _button("Save", self._save, "fd-save", "figure as PNG and PDF, numbers as CSV")
        self.stop.disabled = True
        self.progress = widgets.FloatProgress(value=0, min=0, max=1, layout={"width": "100%"})
        names = {"level": self.level, "noise": self.noise, "start": self.start, "number": self.number,
                 "degradation": self.degradation, "budget": self.budget, "solver": self.solver, "rule": self.rule,
                 "baseline": self.baseline, "progress": self.progress}  # fmt: skip
        for name, control in names.items():
            control.add_class(f"fd-{name}")
        self._on(self.number, lambda: self._choose(self.explorer.picture(self.number.value)))
        self._on(self.upload, self._uploaded)
        self._on(self.degradation, self._degradation_changed)
        for control in (self.level, self.noise):
            self._on(control, self._look)
        self._on(self.budget, self._budget_changed)
        self._on(self.solver, self._solver_changed)
        self._on(self.rule, self._follow)
        self._on(self.start, self._start_moved)

    def _on(self, control: widgets.Widget, do: Callable[[], None]) -> None:
        """Call ``do`` when a person changes the control's value; changes that the page itself makes are silent."""
        control.observe(lambda _: None if self.silent else do(), "value")

    def _set(self, control: widgets.Widget, **traits) -> None:
        """Change a control without anything following from it."""
        self.silent = True
        try:
            with control.hold_sync():
                for name, value in traits.items():
                    setattr(control, name, value)
        finally:
            self.silent = False

    def _make_shown(self) -> None:
        self.about_image, self.about_degradation, self.about_level, self.about_noise = (HTML() for _ in range(4))
        self.about_walk, self.about_rule, self.about_start, self.status = (HTML() for _ in range(4))
        self.pictures, self.numbers, self.about_numbers, self.start_svg, self.level_svg = (HTML() for _ in range(5))
        self.restored, self.saved = HTML(), HTML()
        for name in ("pictures", "numbers", "restored", "status", "saved", "about_image", "about_start"):
            getattr(self, name).add_class(f"fd-{name.replace('_', '-')}")

    def _arrange(self) -> widgets.Widget:
        self.hidden = HTML("".join(_says(f"Not shown: {text}") for text in self.explorer.hidden.values()))
        controls = _box(
            "fd-controls",
            field(f"Image, 0 to {self.number.max}", self.number, self.previous, self.next, self.upload), self.about_image,
            field("Degradation", self.degradation), self.about_degradation, self.hidden,
            field("Level t, from 0 (mild) to 1 (severe)", self.level), self.about_level,
            field("Noise, standard deviation (images: -1 to 1)", self.noise), self.about_noise,
        )  # fmt: skip
        walk = _box(
            "fd-walk",
            HTML("<h3>Restore it</h3>"),
            field("Denoiser evaluations per image", self.budget, about="On average: hard images may take more than easy ones."),
            field("Solver", self.solver), self.about_walk,
            field("Start rule: from σ̂ to the start", self.rule), self.about_rule,
            field("Start index", self.start, self.follow), self.about_start,
            field("Baseline, from pure noise", self.baseline),
            _box("fd-row", self.run, self.stop, self.save), self.progress, self.status, self.saved,
        )  # fmt: skip
        look = _box("fd-look", self.pictures, self.numbers)
        charts = _box("fd-charts", self.about_numbers, self.level_svg, self.start_svg)
        top = _box("fd-top", look, controls)  # on a phone the pictures stay in sight above the sliders
        return _box("fd-page", HTML(f"<style>{STYLE}</style>"), top, charts, walk, _box("fd-result", self.restored))

    # the image

    def _step(self, by: int) -> None:
        if len(self.explorer):
            number = (self.number.value + by) % len(self.explorer)
            self._set(self.number, value=number)
            self._choose(self.explorer.picture(number))

    def _choose(self, picture: Picture) -> None:
        self.picture = picture
        note = f": {picture.note}" if picture.note else ""
        self.about_image.value = _says(f"{picture.name}{note}.")
        self._look()

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[0]
        try:
            picture = self.explorer.own_picture(bytes(file["content"]), file["name"])
        except ValueError as error:
            self.about_image.value = _says(str(error), "problem")
        else:
            self._choose(picture)
        self._set(self.upload, value=())  # the same file may be chosen again

    # what follows from what

    def _degradation_changed(self) -> None:
        name = self.degradation.value
        known, budgets = self.explorer.known[name], self.explorer.budgets(name)
        highest = max(0.1, known.trained_noise[1], known.noise_std)
        self._set(self.noise, max=highest, value=known.noise_std)
        self.about_degradation.value = _says(f"Its severity encoder: {known.source}. {known.note}")
        nearest = min(budgets, key=lambda budget: abs(float(budget) - BUDGET), default=None)
        chosen = self.budget.options and self.budget.value in (*budgets, None)
        wanted = self.budget.value if chosen else nearest
        self._set(self.budget, options=[*((f"{budget}, tuned", budget) for budget in budgets), (LONG_WALK, None)])
        self._set(self.budget, value=wanted)
        self._budget_changed()

    def _budget_changed(self) -> None:
        solvers = self.explorer.solvers(self.degradation.value, self.budget.value)
        self._set(self.solver, options=_options(solvers, self.explorer.solver_label))
        self._set(self.solver, value=solvers[0])
        self._solver_changed()

    def _solver_changed(self) -> None:
        rules = self.explorer.rules(self.degradation.value, self.budget.value, self.solver.value)
        self._set(self.rule, options=_options(rules, words))
        self._set(self.rule, value=rules[0])
        self.following = True
        if self.picture is None:
            text = "This study has no images yet: bring your own, or run `make study`."
            self.about_image.value = _says(text, "problem")
        else:
            self._choose(self.picture)

    def _follow(self) -> None:
        self.following = True
        self._show_start()

    def _start_moved(self) -> None:
        self.following = False
        self._show_start()

    @property
    def plan(self) -> Plan:
        """How to walk, as the widgets stand."""
        index = None if self.following else self.start.value
        return Plan(self.budget.value, self.solver.value, self.rule.value, index)

    # what is shown

    def _look(self) -> None:
        """Ask the encoder again and show what it says."""
        if self.picture is None:
            return
        name, t = self.degradation.value, self.level.value
        self.look = look = self.explorer.look(name, self.picture, t, self.noise.value)
        known, expected = self.explorer.known[name], self.explorer.expected(name, look.sigma_hat)
        captions = {
            "clean": "clean image",
            "measured": "measurement y, all that the encoder sees",
            "D(ẑ)": f"D(ẑ), its estimate alone: {_decibels(look)}",
        }
        self.pictures.value = _figures([(img(image, key), captions[key]) for key, image in look.images.items()])
        between = ""
        if expected is not None:
            between = f"; where σ̂ is like this, it is {expected[0]:.3f} to {expected[1]:.3f} in 8 of 10 cases"
        self.numbers.value = f"σ̂ = <b>{look.sigma_hat:.3f}</b>"
        self.about_numbers.value = (
            "Predicted severity: the error that the encoder expects of its estimate ẑ, in units of the latent's own spread. "
            f"The true error here is {look.sbar:.3f} (the cross below){between}."
        )
        self.about_level.value = _says(in_words(known.degradation, t, self.picture.x.shape[-1]))
        low, high = known.trained_noise
        only = f"of {low:g} only; with other noise σ̂ may be wrong"
        self.about_noise.value = _says(
            f"The encoder was trained with noise {f'from {low:g} to {high:g}' if high > low else only}."
        )
        path = self.explorer.path(look)
        self.level_svg.value = self.level_chart.svg(LEVELS, path, t, look.sigma_hat, look.sbar, expected)
        self._show_start()

    def _show_start(self) -> None:
        """Where the walk would start, from the look at hand."""
        if self.picture is None:
            return
        plan, look = self.plan, self.look
        flash = self.explorer.flash(look.degradation, plan)
        told = self.explorer.start(flash, look.severity)
        if self.following:
            self._set(self.start, value=told)
        index = self.start.value
        steps = self.explorer.steps(flash, index)
        self.follow.disabled = self.following
        own = "It follows σ̂; move it to choose another." if self.following else f"Moved by hand; σ̂ says {told}."
        self.about_start.value = _says(f"{own} From here the walk takes {steps} step{'s' * (steps != 1)}.")
        self.about_rule.value = _says(RULES.get(plan.rule, ""))
        self.about_walk.value = _says(f"Step sizes: {self.explorer.tuned_on(look.degradation, plan)}.")
        self.start_svg.value = self.start_chart.svg(look.sigma_hat, flash.solver.walk(self.explorer.prior, index))

    # restoring

    def _run(self) -> None:
        if self.picture is None or (self.thread is not None and self.thread.is_alive()):
            return
        self.stop_asked.clear()
        steps = self.baseline.value
        chosen = walks(self.explorer, self.look, self.plan, baseline=steps != 0, baseline_steps=steps or None)
        self.ran = Run(self.look, self.plan, self.start.value)
        self.run.disabled, self.stop.disabled, self.save.disabled = True, False, True
        self.progress.value, self.restored.value, self.saved.value = 0, "", ""
        self.thread = Thread(target=self._walk, args=(chosen,), daemon=True)
        self.thread.start()

    def _walk(self, chosen: list) -> None:
        """In a thread of its own, so that sliders and the stop button go on working."""
        look, finished = self.ran.look, self.ran.finished
        total, done, shown, began = sum(walk.steps for walk in chosen), 0, 0.0, time.monotonic()

        def each_step() -> None:
            nonlocal done, shown
            if self.stop_asked.is_set():
                raise Stopped
            done += 1
            now = time.monotonic()
            if now - shown > 0.2:  # the browser need not draw every step
                shown, self.progress.value = now, done / total
                left = (now - began) / done * (total - done)
                self.status.value = _says(f"Step {done} of {total}; about {left:.0f} s to go.")

        try:
            for images, row in restore(self.explorer, look, chosen, each_step):
                finished.append((row["method"], images, row))
                self._show_restored()
            self.status.value, self.progress.value = _says("Done."), 1
        except Stopped:
            self.status.value = _says(f"Stopped after {done} steps; what was finished is shown.")
        except Exception as error:  # a thread's traceback would reach nobody
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "  # the package's own say it all
            self.status.value = _says(f"{kind}{error}", "problem")
        finally:
            self.run.disabled, self.stop.disabled, self.save.disabled = False, True, False

    def _show_restored(self) -> None:
        look = self.ran.look
        shown = [("measurement", look.measurement.y, None), ("D(ẑ)", look.decoded, without_walk(self.explorer, look))]
        shown += [*self.ran.finished, ("clean image", look.picture.x, None)]
        cells = [(img(image, name), f"<b>{html.escape(name)}</b>{_quality(row)}") for name, image, row in shown]
        of = f"{look.picture.name}, {words(look.degradation)}, t = {look.t:.2f}, noise {look.measurement.noise_std:g}"
        self.restored.value = f"<h3>Restored: {html.escape(of)}</h3>{_figures(cells)}"

    def _save(self) -> None:
        if self.picture is None:
            return
        shown = Run(self.look, self.plan, self.start.value)
        restored = self.ran is not None and self.ran.look is self.look
        ran = self.ran if restored else shown
        left_out = "" if restored or self.ran is None else " What was restored is of another measurement and left out."
        try:
            paths = save(self.explorer, ran.look, ran.plan, ran.start, ran.finished, self.out / "explore")
        except OSError as error:
            self.saved.value = _says(f"{error}; make room there, or start the page elsewhere.", "problem")
            return
        figure, *others = paths
        endings = ", ".join(f"`{path.name.removeprefix(figure.stem)}`" for path in others)
        self.saved.value = _says(f"Saved: `{figure.resolve()}`, and beside it {endings}.{left_out}")


def _says(text: str, kind: str = "help") -> str:
    """A sentence of plain text, its `commands` and `paths` set as such; kind: help, or problem."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
    return f'<div class="fd-{kind}">{marked}</div>'


def _figures(cells: list[tuple[str, str]]) -> str:
    """Pictures in a row, a caption below each."""
    figures = [f"<figure>{picture}<figcaption>{caption}</figcaption></figure>" for picture, caption in cells]
    return f'<div class="fd-figures">{"".join(figures)}</div>'


def _decibels(look: Look) -> str:
    return f"{MEASURES['psnr'].compute(look.decoded, look.picture.x, None)[0]:.1f} dB"


def _quality(row: dict | None) -> str:
    """What it took and how good it is, a line each."""
    if row is None:
        return ""
    seconds = f", {row['seconds']:.2g} s" if row["seconds"] == row["seconds"] else ""
    lines = [f"{row['solver']}, {row['nfe']} NFE{seconds}" if row["nfe"] else "no denoiser evaluation"]
    for name, form in SHOWN.items():
        if name in row:
            lines.append(f"{MEASURES[name].label} {row[name]:{form}} {MEASURES[name].unit}")
    return "".join(f"<br>{line}" for line in lines)
