"""From predicted severity to the PSNR that D(z_hat) can be expected to have: measured once, on validation images.

The table of the shipped encoder is data/expected_psnr.csv. `python -m flashdiff.commands.expected_psnr` measures it anew.
"""

import csv
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

TABLE = "data/expected_psnr.csv"
COLUMNS = ("sigma_hat", "psnr", "psnr_low", "psnr_high", "images")
BINS = 24
N_IMAGES = 4000


class ExpectedPSNR:
    """A measured table: sigma_hat -> mean PSNR of D(z_hat) in dB, and the 10th and 90th percentile of the images there."""

    def __init__(self, rows: Sequence[Mapping[str, str | float]]):
        self.rows = sorted(([float(row[name]) for name in COLUMNS[:4]] for row in rows), key=lambda row: row[0])

    @classmethod
    def of(cls, path: Path) -> "ExpectedPSNR | None":
        """The table of a file; None where there is none, because nobody measured it for that encoder."""
        if not path.is_file():
            return None
        with open(path, newline="", encoding="utf-8") as file:
            return cls(list(csv.DictReader(file)))

    def __call__(self, sigma_hat: float) -> tuple[float, float, float]:
        """(mean, low, high) in dB at a severity, linear between the rows; beyond the first or last row, that row's."""
        at = bisect_left([row[0] for row in self.rows], sigma_hat)
        if at in (0, len(self.rows)):
            return tuple(self.rows[min(at, len(self.rows) - 1)][1:])
        below, above = self.rows[at - 1], self.rows[at]
        share = (sigma_hat - below[0]) / (above[0] - below[0])
        return tuple(low + share * (high - low) for low, high in zip(below[1:], above[1:], strict=True))


def table_of(sigma_hat: "Sequence[float]", psnr: "Sequence[float]", bins: int = BINS) -> list[dict[str, float]]:
    """Rows of COLUMNS: images (n,) in bins of equal count by sigma_hat; sigma_hat and PSNR are means of the bin.

    psnr_low and psnr_high are the bin's 10th and 90th percentile. All three are made non-increasing in sigma_hat by
    weighted isotonic regression, because a larger error cannot promise a better picture.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    order = np.argsort(sigma_hat, kind="stable")
    parts = [(np.asarray(sigma_hat)[at], np.asarray(psnr)[at]) for at in np.array_split(order, bins)]
    weights = [len(s) for s, _ in parts]
    raw = {
        "psnr": [p.mean() for _, p in parts],
        "psnr_low": [np.quantile(p, 0.1) for _, p in parts],
        "psnr_high": [np.quantile(p, 0.9) for _, p in parts],
    }
    fitted = {name: isotonic_regression(v, weights=weights, increasing=False).x for name, v in raw.items()}
    return [
        {"sigma_hat": float(s.mean()), **{name: float(v[k]) for name, v in fitted.items()}, "images": len(s)}
        for k, (s, _) in enumerate(parts)
    ]


def measured(prior, encoder, images, degradation, noise: Sequence[float], seed: int = 0):
    """(sigma_hat (n,), PSNR of D(z_hat) in dB (n,)) of clean images x (n, C, H, W) in [-1, 1], each measured once.

    Level t uniform in [0, 1] and noise_std uniform between the two of ``noise``, keyed by seed and image as in training,
    but on draws of their own; a mixture gives every image its member.
    """
    import numpy as np
    import torch

    from flashdiff.batch import Stream, normal, uniform
    from flashdiff.datasets.splits import split_ids
    from flashdiff.measures.quality import psnr

    ids = split_ids("validation", len(images))
    draw = {"seed": seed, "step": 0, "like": images}
    t, share = (uniform(ids, stream=stream, **draw) for stream in (Stream.LEVEL, Stream.NOISE_LEVEL))
    std = (noise[0] + share * (noise[1] - noise[0])).reshape(-1, 1, 1, 1)
    y = degradation.A(images, t, ids) + std * normal(images.shape[1:], ids, stream=Stream.MEASUREMENT, **draw)
    with torch.no_grad():
        severity = encoder.infer(y, 64)
        decoded = prior.decode_in_slices(severity.z_hat, 64)
    return severity.sigma_hat.numpy(), np.asarray(psnr(decoded, images))


def main() -> None:
    """Measure the shipped encoder on its own study's mixture, noise and validation images, and write the table."""
    from flashdiff.commands.studies import PRETRAINING, repository
    from flashdiff.datasets.splits import open_split, to_float
    from flashdiff.degradations import build
    from flashdiff.prior import Prior
    from flashdiff.severity import SeverityEncoder
    from flashdiff.study.schema import load

    root = repository()
    study = load(root / PRETRAINING / "params.yaml")
    (entry,) = study.degradations.values()
    images = to_float(open_split(root / "data/splits", "validation").images[:N_IMAGES])
    models = Prior.from_pretrained(root / "data/prior"), SeverityEncoder.from_pretrained(root / "data/encoder")
    degradation, _ = build(entry.model_dump(exclude_none=True))
    rows = table_of(*measured(*models, images, degradation, study.severity.noise))
    with open(root / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


if __name__ == "__main__":
    main()
