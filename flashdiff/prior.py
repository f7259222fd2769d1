"""The pretrained latent diffusion model that every solver uses as its prior: encode, decode, predict, step.

On disk it is a diffusers folder in the layout of ``LDMPipeline`` (``vqvae/`` or ``vae/``, ``unet/``, ``scheduler/``).
Weights and noise schedule come from diffusers; the steps are ours, because diffusers' schedulers take one timestep for
the whole batch and samples here stand at different steps.
"""

import json
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashdiff.assumptions import check_class, check_fields, check_signal
from flashdiff.batch import per_sample, slice_size
from flashdiff.devices import as_normal_tensors, outside_inference_mode
from flashdiff.diffusers_folder import AUTOENCODERS, is_checkpoint, locate, name_scaling_factor, read_parts


class Prior(nn.Module):
    """A frozen latent diffusion model with a per-sample noise schedule.

    autoencoder: diffusers ``AutoencoderKL`` or ``VQModel``; unet: diffusers ``UNet2DModel``, eps-prediction;
    alphas_cumprod: (N,) of the diffusion, decreasing; pixel_unshuffle: the autoencoder sees images folded by this
    factor (r^2 times the channels at 1/r of the resolution), 1 for published models.

    Shapes: images x (B, C, H, W) in [-1, 1]; latents z (B, c, h, w), scaled to about unit variance; i (B,) int64
    diffusion indices 0..N-1, and -1 for clean. Raises ValueError for a model that is not what the method assumes
    (:mod:`flashdiff.assumptions`). A VQ autoencoder that names no scaling_factor has 1.
    """

    def __init__(self, autoencoder: nn.Module, unet: nn.Module, alphas_cumprod: Tensor, pixel_unshuffle: int = 1):
        super().__init__()
        name_scaling_factor(autoencoder)
        check_class("autoencoder", type(autoencoder).__name__, "prior: the autoencoder")
        check_class("denoiser", type(unet).__name__, "prior: the denoiser")
        model = {"autoencoder": autoencoder.config, "denoiser": unet.config}
        steps = {"scheduler": {"num_train_timesteps": len(alphas_cumprod)}}
        index = {"index": {"pixel_unshuffle": pixel_unshuffle}}
        check_fields(model | steps | index, {part: f"prior: the {part}" for part in (*model, *steps)})
        check_signal(alphas_cumprod, "prior: the scheduler")
        self.autoencoder, self.unet, self.pixel_unshuffle = autoencoder, unet, pixel_unshuffle
        self.quantised = hasattr(autoencoder, "quantize")
        self.scaling_factor = float(autoencoder.config.scaling_factor)
        with outside_inference_mode():
            # abar of "clean" is appended, so that index -1 means clean; in the bare table it would mean the noisiest step.
            table = torch.cat([alphas_cumprod.double(), torch.ones(1, dtype=torch.float64)])
            self.register_buffer("abar", table, persistent=False)
            as_normal_tensors(self)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    @outside_inference_mode()
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load a diffusers folder or a hub id; original checkpoints: :mod:`flashdiff.weights.compvis`.

        Weights in half precision are read where there are no others. Raises FileNotFoundError or ValueError with one
        sentence: what is missing, or which field is not what the method assumes (:mod:`flashdiff.assumptions`).
        """
        if is_checkpoint(path):
            raise ValueError(
                f"prior: {path} is an original checkpoint; give it to flashdiff.weights.compvis.load_compvis_prior, or make a "
                "folder of it with `flashdiff convert`."
            )
        return cls(*read_parts(locate(path)))

    def save_pretrained(self, path: str | Path, scheduler_config: dict) -> None:
        """Write the ``LDMPipeline`` layout; scheduler_config are the keyword arguments of diffusers' DDPMScheduler."""
        import diffusers

        path = Path(path)
        name = AUTOENCODERS[0] if self.quantised else AUTOENCODERS[1]
        self.autoencoder.save_pretrained(path / name)
        self.unet.save_pretrained(path / "unet")
        diffusers.DDPMScheduler(**scheduler_config).save_pretrained(path / "scheduler")
        index = {
            "_class_name": "LDMPipeline",
            "_diffusers_version": diffusers.__version__,
            name: ["diffusers", type(self.autoencoder).__name__],
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
            "pixel_unshuffle": self.pixel_unshuffle,
        }
        (path / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    @property
    def n_steps(self) -> int:
        """N, the length of the diffusion."""
        return len(self.abar) - 1

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c, h, w) of the latent of an image (C, H, W)."""
        factor = self.pixel_unshuffle * 2 ** (len(self.autoencoder.config.block_out_channels) - 1)
        return self.autoencoder.config.latent_channels, image_shape[1] // factor, image_shape[2] // factor

    def encode(self, x: Tensor) -> Tensor:
        """E0: image x -> scaled latent; the mean of a KL posterior, and before quantisation for a VQ autoencoder."""
        encoded = self.autoencoder.encode(F.pixel_unshuffle(x, self.pixel_unshuffle))
        z = encoded.latents if self.quantised else encoded.latent_dist.mode()
        return z * self.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """D0: scaled latent -> image, not clipped; quantisation is part of decoding for a VQ autoencoder."""
        return F.pixel_shuffle(self.autoencoder.decode(z / self.scaling_factor).sample, self.pixel_unshuffle)

    @torch.no_grad()
    def encode_in_slices(self, x: Tensor) -> Tensor:
        """Clean latents (n, c, h, w) of any number of images; computed where the prior is, returned on the CPU."""
        return torch.cat([self.encode(part.to(self.abar.device)).cpu() for part in x.split(slice_size(x))])

    @torch.no_grad()
    def decode_in_slices(self, z: Tensor, batch_size: int) -> Tensor:
        """Images (n, C, H, W), clipped to [-1, 1], of any number of latents; computed where the prior is, returned on the CPU."""
        parts = [self.decode(part.to(self.abar.device)).clamp(-1, 1).cpu() for part in z.split(batch_size)]
        return torch.cat(parts)

    def signal(self, i: Tensor) -> Tensor:
        """abar_i (B,) in the table's float64; 1 at i = -1."""
        return self.abar[i.to(self.abar.device)]

    def predict_eps(self, z: Tensor, i: Tensor) -> Tensor:
        """The denoiser: the noise in z (B, c, h, w), every sample at its own index i (B,)."""
        return self.unet(z, i.to(z.device)).sample

    def predict_z0(self, z: Tensor, i: Tensor) -> Tensor:
        """Posterior-mean estimate of the clean latent: (z - sqrt(1 - abar_i) eps) / sqrt(abar_i) (method, baselines)."""
        abar = per_sample(self.signal(i), z).to(z.dtype)
        return (z - (1 - abar).sqrt() * self.predict_eps(z, i)) / abar.sqrt()

    def reverse(
        self, z: Tensor, z0: Tensor, i: Tensor, i_prev: Tensor, noise: Tensor, stochasticity: float = 1.0
    ) -> Tensor:
        """One unconditional step z_i -> z_{i_prev}, given the clean estimate z0; i > i_prev >= -1 per sample.

        stochasticity 1 is the ancestral (DDPM) step with the posterior's variance, 0 deterministic DDIM (their eta); both
        for any stride. Source: Song et al. 2021 (DDIM), Eq. 12 and 16.
        """
        abar, abar_prev = per_sample(self.signal(i), z), per_sample(self.signal(i_prev), z)
        variance = stochasticity**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
        eps_weight = ((1 - abar_prev - variance).clamp(min=0) / (1 - abar)).sqrt()
        # z_prev = sqrt(abar_prev) z0 + sqrt(1 - abar_prev - variance) eps + sqrt(variance) noise, eps read off z and z0
        z_weight, z0_weight = eps_weight, abar_prev.sqrt() - eps_weight * abar.sqrt()
        to = z.dtype
        return z_weight.to(to) * z + z0_weight.to(to) * z0 + variance.sqrt().to(to) * noise
