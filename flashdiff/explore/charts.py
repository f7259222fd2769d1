"""Pictures and curves as the browser takes them: PNG bytes, and SVG whose frame is written once and whose marks move."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from flashdiff.datasets.splits import to_bytes
from flashdiff.prior import Prior

BLUE, ORANGE, GREEN, GREY = "#0173b2", "#de8f05", "#029e73", "#8c8c8c"
"""Of seaborn's colour-blind palette, as the figures have them; loading seaborn would double the wait for the page."""
WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 50


def png(image: Tensor) -> bytes:
    """An image (1, C, H, W) in [-1, 1], C of 1 or 3, as the bytes of a PNG of its own size."""
    pixels = to_bytes(image[0]).transpose(1, 2, 0)
    out = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def img(image: Tensor, alt: str) -> str:
    """An <img> with the picture within it."""
    data = base64.b64encode(png(image)).decode()
    return f'<img class="fd-picture" alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


@dataclass(frozen=True)
class Axis:
    """From low to high, linear or logarithmic, with ticks at some values, each with its text."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at low and 1 at high; values beyond lie at the ends."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(max(value, 1e-300)) if self.log else value
        return min(max((value - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Chart:
    """Two axes and a title. The frame is written once; :meth:`svg` puts marks into it."""

    x: Axis
    y: Axis
    title: str

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data to pixels of the drawing."""
        across, up = self.x.share(x), self.y.share(y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 2, dashed: bool = False) -> str:
        """A polyline through data points."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'

    def dot(self, x: float, y: float, colour: str, radius: float = 6) -> str:
        """A filled circle."""
        across, down = self.at(x, y)
        return f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius}" fill="{colour}" stroke="white"/>'

    def cross(self, x: float, y: float, size: float = 6) -> str:
        """A black cross."""
        a, b = self.at(x, y)
        path = f"M{a - size:.1f} {b - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
        return f'<path d="{path}" stroke="black" stroke-width="2.5" fill="none"/>'

    @cached_property
    def frame(self) -> str:
        """Title, axes, ticks and labels."""
        left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        parts = [f'<text x="{left}" y="20" font-weight="bold">{escape(self.title)}</text>']
        for value, text in self.x.ticks:
            across = self.at(value, self.y.low)[0]
            parts.append(f'<path d="M{across:.1f} {top}V{bottom}" stroke="#e5e5e5"/>')
            parts.append(f'<text x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
        for value, text in self.y.ticks:
            down = self.at(self.x.low, value)[1]
            parts.append(f'<path d="M{left} {down:.1f}H{right}" stroke="#e5e5e5"/>')
            parts.append(f'<text x="{left - 6}" y="{down + 4:.1f}" text-anchor="end">{text}</text>')
        parts.append(f'<path d="M{left} {top}V{bottom}H{right}" stroke="#444" fill="none"/>')
        middle = (top + bottom) / 2
        parts.append(
            f'<text x="{(left + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        turned = f'transform="rotate(-90 15 {middle})"'
        parts.append(f'<text x="15" y="{middle}" text-anchor="middle" {turned}>{escape(self.y.label)}</text>')
        return "".join(parts)

    def svg(self, marks: Sequence[str], alt: str) -> str:
        """The drawing with marks, made by this chart's own methods, in it."""
        return (
            f'<svg class="fd-chart" role="img" aria-label="{escape(alt, quote=True)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="sans-serif" font-size="13">{self.frame}{"".join(marks)}</svg>'
        )


class StartChart:
    """The signal-to-noise ratio along the diffusion, and where a walk starts on it."""

    def __init__(self, prior: Prior):
        abar = prior.abar[:-1].cpu().numpy()
        self.snr = abar / (1 - abar)
        last = prior.n_steps - 1
        # indices are counted from 1 on the axis's inside, so that its logarithm reaches index 0
        ticks = [i for i in (0, 1, 3, 10, 30, 100, 300) if i < 0.6 * last] + [last]
        self.chart = Chart(
            Axis(
                f"diffusion index i (0: nearly clean, {last}: pure noise)",
                1,
                last + 1,
                [(i + 1, str(i)) for i in ticks],
                log=True,
            ),
            Axis("signal to noise, SNR(i)", 1e-2, 1e3, [(10.0**k, f"{10.0**k:g}") for k in range(-2, 4)], log=True),
            "Where the walk starts",
        )
        shown = np.unique(np.geomspace(1, last + 1, 80).astype(int)) - 1
        self.curve = self.chart.line([(i + 1, self.snr[i]) for i in shown], GREY)

    def svg(self, sigma_hat: float, visited: np.ndarray) -> str:
        """The curve, the severity's level on it, and the indices that the walk visits; the first is the start."""
        start, chart, level = int(visited[0]), self.chart, sigma_hat**-2
        met = int(np.abs(np.log(self.snr) - math.log(level)).argmin())
        marks = [
            self.curve,
            chart.line([(1, level), (met + 1, level)], BLUE, 1.5, dashed=True),
            chart.line([(i + 1, self.snr[i]) for i in visited[:: max(1, len(visited) // 60)]], ORANGE, 4),
            *(chart.dot(i + 1, self.snr[i], ORANGE, 3.5) for i in visited[1:] if len(visited) <= 60),
            chart.dot(start + 1, self.snr[start], ORANGE, 7),
        ]
        x, y = chart.at(start + 1, self.snr[start])
        # the curve falls, so there is room above it on the right and below it on the left
        right = x < 0.8 * WIDTH
        place = f'x="{x + 12:.1f}" y="{y - 8:.1f}"' if right else f'x="{x - 12:.1f}" y="{y + 18:.1f}" text-anchor="end"'
        marks.append(f'<text {place} font-weight="bold">start {start}</text>')
        across, down = chart.at(1, level)
        marks.append(f'<text x="{across + 4:.1f}" y="{down - 5:.1f}" fill="{BLUE}">1/σ̂²</text>')
        alt = f"Signal-to-noise ratio along the diffusion; the walk starts at index {start} and takes {len(visited)} steps."
        return chart.svg(marks, alt)


class LevelChart:
    """Predicted severity of one image along the levels, with the level shown and the true error there."""

    def __init__(self):
        fifths = [(k / 5, f"{k / 5:g}") for k in range(6)]
        x, y = Axis("level t", 0, 1, fifths), Axis("predicted severity σ̂ (latent units)", 0, 1, fifths)
        self.chart = Chart(x, y, "Severity of this image at all levels")

    def svg(
        self, levels: np.ndarray, path: np.ndarray, t: float, sigma_hat: float, sbar: float,
        expected: tuple[float, float] | None,
    ) -> str:  # fmt: skip
        """path (n,): sigma_hat at the levels (n,); the others as :class:`flashdiff.explore.explorer.Look` has them."""
        marks = [self.chart.line(list(zip(levels, path, strict=True)), BLUE)]
        if expected is not None:
            marks.append(self.chart.line([(t, expected[0]), (t, expected[1])], ORANGE, 3))
        marks += [self.chart.dot(t, sigma_hat, ORANGE, 7), self.chart.cross(t, sbar)]
        alt = f"Predicted severity along the levels; at level {t:.2f} it is {sigma_hat:.3f}, the true error is {sbar:.3f}."
        return self.chart.svg(marks, alt)
