"""One image at a time: what the severity encoder makes of it at any level, and what Flash makes of that.

For people in JupyterLab (``notebooks/explore_severity.ipynb``); no stage runs this. Widgets need the extra ``lab``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flashdiff.datasets.splits import open_split, split_ids, to_float
from flashdiff.degradations import Measurement, build, measure
from flashdiff.flash import Flash
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.report import image_figures
from flashdiff.severity import SeverityEncoder, latent_error_variance, severity_at_levels
from flashdiff.starts import match_snr
from flashdiff.study.records import read_json
from flashdiff.study.schema import load
from flashdiff.study.tuned import flash_of

LEVELS = 11


@dataclass(frozen=True)
class Look:
    """One test image at one level: images (C, H, W) in [-1, 1] by name, in the order in which they are shown, each with
    a caption; ``path``: sigma_hat of this image at evenly spaced levels (columns t, sigma_hat); the true error sbar."""

    images: dict[str, np.ndarray]
    captions: dict[str, str]
    t: float
    sigma_hat: float
    sbar: float
    start: int
    path: pd.DataFrame


class Explorer:
    """A study's models and test images, loaded once; raises FileNotFoundError naming what `make study` has yet to make."""

    def __init__(self, folder: str | Path = "."):
        folder = Path(folder)
        self.folder, self.study = folder, load(folder / "params.yaml")
        self.prior = Prior.from_pretrained(folder / "data/prior")
        self.test = open_split(folder / "data/splits", "test")
        self.encoders = {}
        for name in self.study.degradations:
            if not (folder / "data/severity" / name).is_dir():
                raise FileNotFoundError(f"{folder / 'data/severity' / name}: not there; run `make study` first.")
            self.encoders[name] = SeverityEncoder.from_pretrained(folder / "data/severity" / name)

    def measurement(self, degradation: str, image: int, t: float) -> tuple[torch.Tensor, Measurement]:
        """The clean test image (1, C, H, W) and its measurement at level t in [0, 1]."""
        x = to_float(self.test[[image]])
        operator, noise_std = build(self.study.degradations[degradation].model_dump())
        return x, measure(x, operator, t, noise_std, seed=self.study.seed, ids=split_ids("test", image + 1)[-1:])

    @torch.no_grad()
    def look(self, degradation: str, image: int, t: float, restore: bool = False) -> Look:
        """What the encoder says of one test image at level t in [0, 1]; ``restore`` adds Flash with the tuned step size."""
        x, measured = self.measurement(degradation, image, t)
        encoder = self.encoders[degradation]
        severity = encoder.infer(measured.y)
        decoded = self.prior.decode(severity.z_hat).clamp(-1, 1)
        levels = torch.linspace(0, 1, LEVELS)
        path = severity_at_levels(
            encoder, x, measured.degradation, measured.noise_std, levels, seed=self.study.seed, ids=measured.ids
        )
        shown = {"clean": x, f"measured, t = {t:.2f}": measured.y, "D(ẑ), no diffusion": decoded}
        captions = dict.fromkeys(shown, "") | {"D(ẑ), no diffusion": f"{psnr(decoded, x)[0]:.1f} dB"}
        if restore:
            result = self.flash(degradation)(measured)
            shown["Flash"] = result.images
            captions["Flash"] = f"{psnr(result.images, x)[0]:.1f} dB, {int(result.nfe[0])} NFE"
        return Look(
            images={name: picture[0].numpy() for name, picture in shown.items()},
            captions=captions,
            t=t,
            sigma_hat=float(severity.sigma_hat[0]),
            sbar=float(latent_error_variance(severity.z_hat, self.prior.encode(x))[0].sqrt()),
            start=int(match_snr(self.prior, severity.variance)[0]),
            path=pd.DataFrame({"t": levels.double().numpy(), "sigma_hat": path[0].double().numpy()}),
        )

    def flash(self, degradation: str) -> Flash:
        """Flash as the study runs it: the first solver, the published start, the tuned step size."""
        solvers = [pair.solver for pair in self.study.pairs.values() if pair.degradation == degradation]
        if not solvers:
            raise ValueError(
                f"degradation: {degradation!r} is in no pair of the study; add one to reconstruct from it."
            )
        name = solvers[0]
        choice = read_json(self.folder / f"data/tuned/{degradation}-{name}.json")["chosen"]["flash_published"]
        entry, options = self.study.solvers[name].model_dump(), {"seed": self.study.seed, "progress": False}
        return flash_of(self.prior, self.encoders[degradation], entry, choice, "published", **options)

    def widget(self):
        """Sliders for the image and the level, a menu of degradations, a switch for Flash, and the figure below them."""
        import ipywidgets as widgets
        from IPython.display import display

        controls = {
            "degradation": widgets.Dropdown(options=list(self.encoders), description="degradation"),
            "image": widgets.IntSlider(0, 0, len(self.test) - 1, description="test image", continuous_update=False),
            "t": widgets.FloatSlider(0.5, min=0, max=1, step=0.02, description="level t", continuous_update=False),
            "restore": widgets.Checkbox(False, description="reconstruct with Flash (a few seconds)"),
        }

        def show(**values) -> None:
            display(image_figures.one_image(**vars(self.look(**values))))

        return widgets.VBox([*controls.values(), widgets.interactive_output(show, controls)])
