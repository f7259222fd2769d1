"""Rows, timings and metrics files as a study writes them, made up: several test files check what is made of them."""

import functools
import itertools

import numpy as np
import pandas as pd

from flashdiff.report import frontier, summaries
from flashdiff.study import records as files

UNKNOWN = {"value": None, "low": None, "high": None}
"""An interval that was not measured."""


def ordering_rows(n=12, levels=5):
    """Rows of experiments.ordering_rows; some pairs are in the wrong order, and image 0 has a tie."""
    noise = np.random.default_rng(0).normal(0, 0.15, (n, levels))
    sigma = 0.3 + np.linspace(0, 1, levels) / 2 + noise
    sigma[0, 1] = sigma[0, 2]
    t = np.tile(np.linspace(0, 1, levels), n)
    return pd.DataFrame({"image": np.repeat(np.arange(n), levels), "t": t, "sigma_hat": sigma.ravel()})


def severity_rows(n=120):
    """Rows of experiments.severity_rows."""
    rng = np.random.default_rng(1)
    t = rng.uniform(size=n)
    sigma = 0.3 + t / 2 + rng.normal(0, 0.1, n)
    columns = {
        "image": np.arange(n),
        "label": rng.integers(0, 10, n),
        "t": t,
        "sigma_hat": sigma,
        "sbar": sigma + rng.normal(0, 0.05, n),
        "psnr": 30 - 10 * sigma,
        "frame_psnr": 29 - 10 * sigma,
        "ssim": 1 - sigma / 2,
        "perceptual": sigma / 3,
        "start": (100 * sigma).astype(int),
        "kurtosis": rng.normal(1, 0.3, n),
        "neighbour_correlation": rng.normal(0.2, 0.1, n),
        "clean_sbar": rng.uniform(0.05, 0.1, n),
        "clean_psnr": rng.normal(30, 1, n),
        "encoder_cost": 0.5,
    }
    return pd.DataFrame(columns)


def reconstruction_rows(n=10):
    """Rows of comparison.tabulate: every method on the same n images; a walk from index i costs i + 1 evaluations."""
    rng = np.random.default_rng(2)
    t, sigma, base = rng.uniform(size=n), rng.uniform(0.3, 0.9, n), rng.normal(22, 1, n)
    adaptive = (100 * sigma).astype(int)
    methods = {
        "no_diffusion": (-1, -1.0),
        "flash_published": (adaptive, 1.0),
        "flash_consistent": (adaptive + 20, 1.5),
        "flash_inversion": (adaptive, 1.2),
        "fixed_mean": (int(adaptive.mean()), 0.5),
        "fixed_fresh": (int(adaptive.mean()), 0.2),
        "shuffled_published": (np.roll(adaptive, 1), 0.1),
        "shuffled_consistent": (np.roll(adaptive, 1), 0.2),
        "shuffled_inversion": (np.roll(adaptive, 1), 0.15),
        "random_published": (rng.integers(0, 120, n), -0.2),
        "random_consistent": (rng.integers(0, 120, n), -0.1),
        "random_inversion": (rng.integers(0, 120, n), -0.15),
        "fixed_150": (150, 0.4),
        "fixed_20": (20, -0.5),
        "full_length": (999, 0.0),
    }
    parts = []
    for method, (start, gain) in methods.items():
        columns = {
            "image": np.arange(n),
            "method": method,
            "t": t,
            "sigma_hat": sigma,
            "sbar": sigma * 1.1,
            "start": start,
            "nfe": np.asarray(start) + 1,
            "decodes": np.asarray(start) + 2,
            "psnr": base + gain + rng.normal(0, 0.1, n),
            "frame_psnr": base - 1 + gain,
            "ssim": 0.5 + gain / 10 + rng.normal(0, 0.01, n),
            "perceptual": 0.4 - gain / 10 + rng.normal(0, 0.01, n),
            "residual": 0.1 + rng.uniform(0, 0.01, n),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def timings(rows=None):
    """What comparison.tabulate says beside its rows: 10 ms per evaluation and 5 ms per image."""
    rows = reconstruction_rows() if rows is None else rows
    found = {}
    for method, part in rows.groupby("method", sort=False):
        nfe, images = int(part.nfe.sum()), len(part)
        found[method] = {"seconds": 0.01 * nfe + 0.005 * images, "images": images, "nfe": nfe, "engine_calls": nfe}
    return found | {"severity_encoder": {"seconds": 0.1, "images": 10, "nfe": 0, "engine_calls": 0}}


def exact_rows(n=12):
    """Reconstruction rows whose gains are exact: the same for every image."""
    rng = np.random.default_rng(0)
    base = rng.normal(22, 2, n)
    parts = []
    for method, gain, nfe in (("full_length", 0, 1000), ("flash_published", 1, 100), ("flash_consistent", 2, 125),
                              ("no_diffusion", -1, 0), ("fixed_mean", 0.5, 100), ("fixed_fresh", 0.25, 100),
                              ("shuffled_published", 0, 100), ("random_published", 0, 90),
                              ("shuffled_consistent", 0, 100), ("random_consistent", 0, 90)):  # fmt: skip
        parts.append(pd.DataFrame({"image": range(n), "method": method, "psnr": base + gain, "frame_psnr": base - 1 + gain, "ssim": 0.5 + gain / 10,
                                   "perceptual": 0.4 - gain / 10, "start": nfe - 1, "nfe": nfe, "decodes": nfe + 1, "residual": 0.1}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


EXAMPLE_STARTS = (3, 9, 27, 81, 243)


def example_rows():
    """What examples.walk says of an easy image, best from start 9, and a hard one, best from start 81; four draws of each."""
    shared = {"kind": ["easy", "hard"], "image": [4, 7], "t": [0.2, 0.8], "sigma_hat": [0.1, 0.5], "sbar": [0.12, 0.45]}
    walks = [("no_diffusion", 0, (-1, -1), 24.0), ("full_length", 0, (999, 999), 25.0)]
    walks += [("flash_published", 0, (6, 112), 25.5), ("flash_consistent", 0, (6, 112), 26.0)]
    walks += [(f"fixed_{start}", draw, (start, start), None) for start in EXAMPLE_STARTS for draw in range(4)]
    walks += [("6/adaptive/psnr", 0, (20, 60), 26.5), ("6/adaptive/perceptual", 0, (20, 60), 26.4)]
    parts = []
    for walk, draw, start, psnr in walks:
        quality = [
            30 - abs(np.log(start[k] / best)) + draw / 10 if psnr is None else psnr for k, best in ((0, 9), (1, 81))
        ]
        columns = {"walk": walk, "draw": draw, "start": start, "nfe": np.asarray(start) + 1, "psnr": quality}
        parts.append(pd.DataFrame(shared | columns | {"perceptual": 0.1, "ssim": 0.9, "frame_psnr": 25.0}))
    return pd.concat(parts, ignore_index=True)


def example_arrays():
    """The arrays beside :func:`example_rows`: pictures of 16 x 16 pixels, every one another."""
    rng = np.random.default_rng(5)
    rows = example_rows()
    arrays = {name: rng.uniform(-1, 1, (2, 1, 16, 16)) for name in ("truth", "measurement", *rows.walk.unique())}
    for name in ("full_length", "flash_published", "flash_consistent"):
        first = rows[(rows.walk == name)].start.to_numpy()
        arrays[f"index/{name}"] = np.stack([np.linspace(start, 0, 7).round().astype(int) for start in first])
        arrays[f"path/{name}"] = rng.uniform(-1, 1, (2, 7, 1, 16, 16))
    return arrays | {"z_hat": rng.normal(size=(2, 4, 8, 8)), "abar": np.linspace(0.999, 0.01, 1000)}


GAINS = {"adaptive": 1.2, "fixed": 0.8, "forward": -0.3, "psld": 0.4, "shuffled": 0.2, "oracle": 1.3}
"""Few-step method -> what it gains over the full-length baseline, about: dB of PSNR, and ten times the perceptual distance."""


def few_step_rows(budgets=(3.0, 6.0), gains=GAINS):
    """Rows of budgets.walk beside reconstruction_rows: every method at every budget, tuned for either measure."""
    full = reconstruction_rows().query("method == 'full_length'").reset_index(drop=True)
    rng, parts = np.random.default_rng(3), []
    for budget in budgets:
        for method, gain in gains.items():
            for tuned_for in ("psnr", "perceptual"):
                own = 0.1 if tuned_for == "psnr" else -0.1
                start = (30 * full.sigma_hat).astype(int) if method != "fixed" else 20
                nfe = np.full(len(full), int(budget)) + (np.arange(len(full)) % 2 if method != "fixed" else 0)
                columns = {
                    "budget": budget,
                    "tuned_for": tuned_for,
                    "method": method,
                    "start": start,
                    "nfe": nfe,
                    "decodes": nfe + 1,
                    "psnr": full.psnr + gain + own + rng.normal(0, 0.05, len(full)),
                    "perceptual": full.perceptual - (gain - own) / 10 + rng.normal(0, 0.005, len(full)),
                }
                parts.append(full.assign(**columns))
    return pd.concat(parts, ignore_index=True)


def frechet_rows(budgets=(1.0, 3.0, 6.0)):
    """The record of Frechet distances, cells that are missing left out: steps help, Flash a little more than fixed starts."""

    def held(column, value):
        return {column: value, f"{column}_low": value - 0.01, f"{column}_high": value + 0.02}

    level = 0.9
    rows = [{"method": "no_diffusion", "tuned_for": "", "images": 1000, "nfe": 0.0, "frechet_distance": level}]
    for budget in budgets:
        of_fixed = level - 0.1 * np.log1p(budget)
        for method, own in (("adaptive", of_fixed - 0.03), ("fixed", of_fixed)):
            row = {"budget": budget, "method": method, "tuned_for": "perceptual", "images": 1000, "nfe": budget - 0.1}
            row |= {"frechet_distance": own} | held("minus_no_diffusion", own - level)
            rows.append(row | (held("minus_fixed", own - of_fixed) if method == "adaptive" else {}))
    return rows


def ablation_rows():
    """The record of an ablation: two losses, two architectures and two lengths at all levels; each training has its own errors."""
    rows = []
    choices = itertools.product(("squared", "likelihood"), ("published", "own_network"), (300, 1000))
    for number, (loss, architecture, steps) in enumerate(choices):
        for t in (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0):
            error = (0.1 + t) * (1 + number / 10)
            told = {"error": error, "sigma_hat": 0.9 * error, "error_e0": 0.05 + 2 * t, "psnr": 30 - 10 * t}
            rows.append({"loss": loss, "architecture": architecture, "steps": steps, "t": t, **told})
    return pd.DataFrame(rows)


def robustness_rows(n=10):
    """The record of robustness: every experiment on n images, of which the last third are of unseen classes."""
    rng, image, levels, parts = np.random.default_rng(4), np.arange(n), np.array([0.0, 0.25, 0.5, 0.75, 1.0]), []
    difficulty = rng.uniform(0.8, 1.2, n)

    def walk(experiment, variant, factor, gain):
        sbar = 0.3 * factor * difficulty
        shared = {
            "experiment": experiment,
            "variant": variant,
            "unseen": False,
            "image": image,
            "t": rng.uniform(size=n),
        }
        shared |= {"sigma_hat": 0.3 * np.sqrt(factor) * difficulty, "sbar": sbar, "start": (100 * sbar).astype(int)}
        psnr = 25 - 3 * sbar + rng.normal(0, 0.1, n)
        if experiment == "noise":
            parts.append(pd.DataFrame(shared | {"method": "no_diffusion", "start": -1, "nfe": 0, "psnr": psnr}))
        parts.append(pd.DataFrame(shared | {"method": "few_step", "nfe": 6, "psnr": psnr + gain}))

    def encoder(experiment, variant, factor, unseen):
        for draw in levels:
            sbar = (0.1 + draw) * difficulty * np.where(unseen, factor, 1)
            told = {"sbar": sbar, "sigma_hat": 0.9 * sbar + rng.normal(0, 0.02, n), "psnr": 30 - 10 * sbar}
            head = {"experiment": experiment, "variant": variant, "unseen": unseen, "image": image, "t": draw}
            parts.append(pd.DataFrame(head | told | {"method": "no_diffusion", "start": -1, "nfe": 0}))

    for ratio in (0.5, 1, 2, 4):
        walk("noise", f"{ratio:g}", max(1, ratio / 2), 1.0)
    for number, rule in enumerate(("published", "consistent", "scaled", "fixed")):
        walk("start", rule, 1, number / 4)
    for c in (1, 1.2):
        walk("correction", f"{c:g}", 1, 1 / c)
    for variant, factor in (("all", 1.0), ("without", 1.5)):
        encoder("classes", variant, factor, image >= n - n // 3)
    for weight in (0.1, 1, 10):
        encoder("lambda_sigma", f"{weight:g}", 1, False)
    for variant in ("for_all", "own"):
        encoder("encoder", variant, 1, False)
    return pd.concat(parts, ignore_index=True)


def promised_points(n=40):
    """Test images and what was promised of them: two degradations and three methods; a tenth of the images lies outside."""
    rng, parts = np.random.default_rng(5), []
    for degradation in ("gaussian_blur", "random_inpainting"):
        for method in ("no_diffusion", "few_step", "few_step_perceptual"):
            sigma_hat = np.sort(rng.uniform(0.1, 0.9, n))
            third, outside = 1 + np.minimum(3 * np.arange(n) // n, 2), np.arange(n) % 10 == 3
            part = {"degradation": degradation, "method": method, "sigma_hat": sigma_hat, "third": third}
            for measure, centre, width in (
                ("psnr", 30 - 8 * sigma_hat, 4 / third),
                ("perceptual", sigma_hat / 9, 0.03),
            ):
                part |= {measure: centre + np.where(outside, 1.5, 0.5) * width}
                part |= {f"{measure}_low": centre - width, f"{measure}_high": centre + width}
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def calibrated_rows(n=12, seed=5):
    """The record of the calibrated start: every method on n images, at two budgets."""
    rng, image, parts = np.random.default_rng(seed), np.arange(n), []
    sigma = np.sort(rng.uniform(0.1, 0.9, n))
    shared = {"image": image, "t": sigma, "sigma_hat": sigma, "sbar": sigma * 1.1, "correlation": 0.5}
    gains = {"adaptive": 0.0, "fixed": -0.02, "published": -0.4, "consistent": -0.1, "correlation": -0.05, "calibrated": 0.06,
             "told_truth": 0.07, "hindsight": 0.1}  # fmt: skip
    for budget in (3.0, 6.0):
        base = 28 - 6 * sigma + rng.normal(0, 0.1, n)
        for method, gain in gains.items():
            own = {
                "start": (5 + 40 * sigma).astype(int),
                "nfe": int(budget),
                "perceptual": 0.1 - gain / 100 + 0.01 * sigma,
            }
            own |= {"psnr": base + gain * (1 + rng.normal(0, 0.1, n)), "budget": budget, "method": method}
            parts.append(pd.DataFrame(shared | own))
    return pd.concat(parts, ignore_index=True)


def spread_rows(n=10, seed=6):
    """The record of the spread: three samplers on n images, the published walk on half of them."""
    from flashdiff.study.spread import FRACTIONS, LEVELS, record

    rng, parts = np.random.default_rng(seed), []
    sigma, fractions = rng.uniform(0.1, 0.9, n), np.array(FRACTIONS)
    for number, (sampler, count) in enumerate((("few_start", n), ("few_fresh", n), ("full", n // 2))):
        rows = pd.DataFrame({"image": np.arange(count), "t": sigma[:count], "sigma_hat": sigma[:count]})
        rows = rows.assign(sampler=sampler, samples=8, nfe=6.0 if number < 2 else 48.0)
        rows["psnr_one"] = 28 - 5 * rows.sigma_hat + rng.normal(0, 0.1, count)
        rows = rows.assign(psnr_mean=rows.psnr_one + 0.3, rmse=0.2 * rows.sigma_hat, scale=1.5, nfe_walk=48.0)
        rows["psnr_walk"] = rows.psnr_one + 0.1 * rng.normal(size=count)
        rows["spread"] = rows.rmse / (1 + 0.1 * rng.uniform(size=count))
        rows["ause"], rows["ause_random"] = rng.uniform(0.1, 0.2, count), rng.uniform(0.5, 0.6, count)
        for level in LEVELS:
            for kind, factor in (("object", 0.6 + 0.1 * number), ("scaled", 0.95), ("all", 0.9)):
                rows[f"{kind}_{100 * level:g}"] = factor * level + 0.01 * rng.uniform(size=count)
        for fraction in fractions:
            rows[f"left_{100 * fraction:g}"] = 1 - 0.6 * fraction + 0.01 * rng.uniform(size=count)
            rows[f"oracle_{100 * fraction:g}"] = 1 - 0.9 * fraction
        parts.append(rows)
    return record(parts)


def allocation_rows(n=24, seed=8):
    """The record of a budget for a set: evaluations are worth the more the higher the severity is."""
    rng, parts = np.random.default_rng(seed), []
    for split in ("validation", "test"):
        sigma = np.sort(rng.uniform(0.1, 0.9, n))
        base, worth = 30 - 8 * sigma + rng.normal(0, 0.2, n), 3 * sigma**2 * rng.uniform(0.2, 1.8, n)
        head = {"split": split, "image": np.arange(n), "t": sigma, "sigma_hat": sigma}
        runs = [("same", number) for number in (0, 1, 3, 6, 12)] + [("tuned", budget) for budget in (3, 6)]
        for method, number in runs if split == "test" else runs[:5]:
            gain = worth * np.log1p(number) + 0.05 * (method == "tuned")
            own = {"method": method, "number": float(number), "nfe": number, "psnr": base + gain}
            parts.append(pd.DataFrame(head | own | {"perceptual": 0.1 + 0.05 * sigma - gain / 100}))
    return pd.concat(parts, ignore_index=True)


def blind_rows(masks=False, n=12):
    """The record of blind walks: known, fitted a little worse, refined, fixed far off, and for masks the mask; and two kinds."""
    rng, image, parts = np.random.default_rng(6), np.arange(n), []
    t, psnr = rng.uniform(0.2, 0.8, n), rng.normal(25, 1, n)
    losses = {"known": 0, "fitted": 0.1, "refined": 0.2, "fixed": 5} | ({"mask": 0.5} if masks else {})
    for variant, loss in losses.items():
        own = {
            "told": t + loss / 10,
            "after": t + loss / 20,
            "psnr": psnr - loss,
            "perceptual": 0.05 * (1 + loss),
            "nfe": 6,
        }
        parts.append(
            pd.DataFrame({"experiment": "level", "variant": variant, "found": "", "image": image, "t": t} | own)
        )
    for kind, wrong in (("blur", 3), ("masks", 0)):
        found = np.where(image < wrong, "masks", kind)
        own = {"told": t + 0.01, "after": t, "psnr": 20.0, "perceptual": 0.1, "nfe": 0}
        parts.append(
            pd.DataFrame({"experiment": "kind", "variant": kind, "found": found, "image": image, "t": t} | own)
        )
    return pd.concat(parts, ignore_index=True)


def shift_rows(n=40):
    """The record of shifts: misfits of 1 to 2 where nothing is shifted, 1 higher under noise, 5 higher under another degradation."""
    rng, image, parts = np.random.default_rng(7), np.arange(n), []
    sigma_hat, misfit = rng.uniform(0.1, 0.9, n), rng.uniform(1, 2, n)
    shared = {"encoder": "own", "image": image, "t": 0.5, "level": 0.5, "sigma_hat": sigma_hat, "sbar": sigma_hat}
    for shift, split, more in (
        ("none", "validation", 0.01),
        ("none", "test", 0),
        ("noise x 2", "test", 1),
        ("masks", "test", 5),
    ):
        head = shared | {"shift": shift, "split": split, "misfit": misfit + more}
        parts.append(pd.DataFrame(head | {"method": "none", "psnr": 20.0, "nfe": 0}))
        if split == "test":
            for method, gain, nfe in (("ignored", 0, 6), ("told", more, 6), ("fallback", more / 4, 24)):
                own = pd.DataFrame(head | {"method": method, "psnr": 24 + 0.1 * image + gain, "nfe": nfe})
                parts.append(own[: n // 2])
    return pd.concat(parts, ignore_index=True)


def seed_rows(seeds=(1, 2)):
    """Rows of other training seeds of the encoder: what the study keeps of its few-step walks and of the long ones."""
    few, long = few_step_rows(), reconstruction_rows()
    few = few[few.method.isin(["adaptive", "fixed"])]
    long = long[long.method.isin(["no_diffusion", "flash_published", "flash_consistent"])]
    parts = [part.assign(seed=s, psnr=part.psnr + 0.02 * s) for s in seeds for part in (few, long)]
    return pd.concat(parts, ignore_index=True)


@functools.cache
def study_metrics(first=0):
    """{file name without the item: content} as the stages that measure write them, from synthetic rows of the images
    from number ``first`` on."""

    def part(rows):
        return rows[rows.image >= first]

    return {
        "metrics/ordering": summaries.ordering_metrics(part(ordering_rows()), n_resamples=100),
        "metrics/severity": summaries.severity_metrics(part(severity_rows()), n_resamples=100),
        "metrics/reconstruction": summaries.reconstruction_metrics(part(reconstruction_rows()), n_resamples=100),
        "metrics/budgets": frontier.metrics(
            frontier.runs(part(few_step_rows()), part(reconstruction_rows()), part(seed_rows())), n_resamples=100
        ),
        "timings/speedup": summaries.speed_metrics(timings()),
    }


def write_metrics(folder, degradations=("gaussian_blur",), solvers=("ldps",)):
    """The metrics files of a study below folder/reports; no two degradations have the same numbers."""
    for number, degradation in enumerate(degradations):
        for kind, content in study_metrics(number).items():
            per_encoder = kind in ("metrics/ordering", "metrics/severity")
            for item in [degradation] if per_encoder else [f"{degradation}-{solver}" for solver in solvers]:
                files.write_json(folder / f"reports/{kind}-{item}.json", content)


def interval(value, low=None, high=None, n=32):
    return {"value": value, "low": low, "high": high, "n": n}
