"""The study's experiments on severity: models and images in, data frames with one row per image (and level) out."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flashdiff.batch import Stream, slice_size, uniform
from flashdiff.datasets.splits import split_ids
from flashdiff.degradations import Degradation, measure
from flashdiff.measures import MEASURES
from flashdiff.measures.features import Distances
from flashdiff.measures.quality import psnr
from flashdiff.prior import Prior
from flashdiff.severity import SeverityEncoder, latent_error_variance, severity_at_levels
from flashdiff.starts import match_snr


def uniform_levels(ids: np.ndarray, seed: int, like: Tensor) -> Tensor:
    """The severity level t ~ U[0, 1] of every image (n,): the test set's levels, keyed by (seed, image id)."""
    return uniform(ids, seed=seed, step=0, stream=Stream.LEVEL, like=like)


def ordering_rows(
    encoder: SeverityEncoder, x: Tensor, degradation: Degradation, noise_std: float, n_levels: int, seed: int
) -> pd.DataFrame:
    """sigma_hat of every clean test image, the first of the split, at n_levels evenly spaced levels: columns image, t, sigma_hat."""
    levels, ids = torch.linspace(0, 1, n_levels), split_ids("test", len(x))
    sigma = severity_at_levels(encoder, x, degradation, noise_std, levels, seed=seed, ids=ids)
    return pd.DataFrame(
        {
            "image": np.repeat(np.arange(len(x)), n_levels),
            "t": np.tile(levels.double().numpy(), len(x)),
            "sigma_hat": sigma.double().flatten().cpu().numpy(),
        }
    )


def severity_rows(
    prior: Prior,
    encoder: SeverityEncoder,
    distances: Distances,
    x: Tensor,
    labels: np.ndarray,
    degradation: Degradation,
    noise_std: float,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Predicted against true severity, one row per test image, the first of the split, at its own level t ~ U[0, 1].

    Beside the rows: what was seen and what was made of it, measurement and no_diffusion (n, C, H, W), float16 in [-1, 1].

    Columns: image, label, t, sigma_hat, sbar (true standard deviation of the latent error), a column per measure (of
    D(z_hat)), start (index matched to sigma_hat), kurtosis (excess) and neighbour_correlation of the latent error,
    clean_sbar and clean_psnr (sbar, and PSNR of D(z_hat) in dB, of the clean image itself, without noise), encoder_cost
    (what asking the encoder costs, :func:`encoder_cost`; the same for every image).
    """
    ids = split_ids("test", len(x))
    t = uniform_levels(ids, seed, x)
    measurement = measure(x, degradation, t, noise_std, seed=seed, ids=ids)
    severity = encoder.infer(measurement.y).to("cpu")
    z0 = prior.encode_in_slices(x)
    error = severity.z_hat - z0
    images = prior.decode_in_slices(severity.z_hat, slice_size(x))
    centred = error - error.flatten(1).mean(1)[:, None, None, None]
    variance = centred.square().flatten(1).mean(1)
    clean = encoder.infer(x).z_hat.cpu()
    vertical = (centred[:, :, 1:] * centred[:, :, :-1]).flatten(1).mean(1)
    horizontal = (centred[..., 1:] * centred[..., :-1]).flatten(1).mean(1)
    columns = {
        "image": np.arange(len(x)),
        "label": labels,
        "t": t,
        "sigma_hat": severity.sigma_hat,
        "sbar": error.flatten(1).std(1),
        **{name: measure.compute(images, x, distances) for name, measure in MEASURES.items()},
        "start": match_snr(prior, severity.variance).cpu(),
        "kurtosis": centred.pow(4).flatten(1).mean(1) / variance**2 - 3,
        "neighbour_correlation": (vertical + horizontal) / (2 * variance),
        "clean_sbar": latent_error_variance(clean, z0).sqrt(),
        "clean_psnr": psnr(prior.decode_in_slices(clean, slice_size(x)), x),
        "encoder_cost": torch.full((len(x),), encoder_cost(prior, encoder, measurement.y[:1])),
    }
    seen = {"measurement": measurement.y.clamp(-1, 1), "no_diffusion": images}
    rows = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})
    return rows, {name: shown.numpy().astype(np.float16) for name, shown in seen.items()}


def encoder_cost(prior: Prior, encoder: SeverityEncoder, y: Tensor) -> float:
    """Operations of the severity encoder for one measurement y (1, C, H, W), in units of a guided evaluation.

    Counted are the multiplications and additions of convolutions, products and attention. A guided evaluation is denoiser
    and decoder, forward and backward to the latent, as a step of LDPS has it; the degradation is left out.
    """
    with FlopCounterMode(display=False) as asked:
        z_hat = encoder.infer(y).z_hat
    with torch.enable_grad(), FlopCounterMode(display=False) as guided:
        z = z_hat.to(prior.abar.device).detach().requires_grad_()
        i = torch.full((1,), prior.n_steps // 2, device=z.device)
        # the counter's hooks cannot be on a leaf of the graph
        torch.autograd.grad(prior.decode(prior.predict_z0(z.clone(), i)).sum(), z)
    return asked.get_total_flops() / guided.get_total_flops()
