"""Sample-adaptive image reconstruction with latent diffusion: severity encoding and Flash-Diffusion.

A measurement comes in, the severity encoder says how hard it is, the solver starts exactly that far up the diffusion
and walks down, an image comes out - and a study measures all of it. Source: Fabian, Tinaz, Soltanolkotabi, "Adapt and
Diffuse: Sample-adaptive Reconstruction via Latent Diffusion Models", ICML 2024.
"""

import importlib

__version__ = "0.1.0"

# Loaded on first use: `import flashdiff` stays light, neither torch nor diffusers nor matplotlib comes with it.
_HOME = {
    "Prior": "prior",
    "FlashPipeline": "pipeline",
    "SeverityEncoder": "severity",
    "GaussianBlur": "degradations",
    "RandomInpainting": "degradations",
    "BoxInpainting": "degradations",
    "MotionBlur": "degradations",
    "SuperResolution": "degradations",
    "NonlinearBlur": "degradations",
    "EncodedBlur": "degradations",
    "Mixture": "degradations",
    "Measurement": "degradations",
    "measure": "degradations",
    "LDPS": "solvers",
    "GMLDPS": "solvers",
    "PSLD": "solvers",
    "ReSample": "solvers",
    "LatentDAPS": "solvers",
    "LatentDiffPIR": "solvers",
    "LDPSDiffPIR": "solvers",
    "Flash": "flash",
    "FullLength": "flash",
    "FixedStart": "starts",
    "PublishedStart": "starts",
    "ConsistentStart": "starts",
    "InversionStart": "starts",
    "ScaledStart": "starts",
    "Strided": "walks",
    "EvenlySpaced": "walks",
    "Growing": "walks",
    "NoiseLevels": "walks",
}
__all__ = [*_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"flashdiff.{_HOME[name]}"), name)
    raise AttributeError(f"module 'flashdiff' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME])
