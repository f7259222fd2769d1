"""What is on the page, as files: the figure as PNG and PDF, the numbers behind it as CSV."""

import re
from pathlib import Path
from textwrap import fill

import pandas as pd
from torch import Tensor

from flashdiff.explore.explorer import LEVELS, Explorer, Look, Plan
from flashdiff.explore.restoring import without_walk

WRAP = 22
"""Characters of a title that fit above an image of the figure."""


def save(
    explorer: Explorer, look: Look, plan: Plan, start: int, finished: list[tuple[str, Tensor, dict]], folder: Path
) -> list[Path]:
    """Write the figure (.png, .pdf), a row per method (.csv) and the severity along the levels (-levels.csv).

    finished: (method, image (1, C, H, W), row) of what was restored. Returns the paths; the name says picture, degradation,
    level and noise, so that saving the same again replaces it. OSError where ``folder`` cannot be written.
    """
    from flashdiff.report import image_figures, style  # with matplotlib and seaborn: nobody waits for them before

    rows = pd.DataFrame([without_walk(explorer, look), *(row for _, _, row in finished)])
    about = {"picture": look.picture.name, "degradation": look.degradation, "t": look.t}
    about |= {"noise_std": look.measurement.noise_std, "sigma_hat": look.sigma_hat, "true_error": look.sbar}
    about |= {"budget": plan.budget, "rule": plan.rule, "chosen_start": start}
    rows = pd.DataFrame([about] * len(rows)).join(rows)
    path = pd.DataFrame({"t": LEVELS, "sigma_hat": explorer.path(look)})
    images = look.images | {name: image for name, image, _ in finished}
    captions = dict.fromkeys(images, "") | {
        row.method if row.nfe else "D(ẑ)": f"{row.psnr:.1f} dB, {row.nfe} NFE" for row in rows.itertuples()
    }
    figure = image_figures.one_image(
        {fill(name, WRAP): image[0].numpy() for name, image in images.items()},
        {fill(name, WRAP): caption for name, caption in captions.items()},
        path,
        look.t,
        look.sigma_hat,
        look.sbar,
        start,
    )
    name = f"{look.picture.name} {look.degradation} t{look.t:.2f} noise{look.measurement.noise_std:g}"
    name = re.sub(r"[^\w.]+", "-", name)
    style.save(figure, folder, name, rows)
    path.to_csv(folder / f"{name}-levels.csv", index=False, float_format="%.6g")
    return [folder / f"{name}{suffix}" for suffix in (".png", ".pdf", ".csv", "-levels.csv")]
