"""Blur by the learned operator of Tran et al. 2021, which papers on diffusion solvers call nonlinear blur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from flashdiff.batch import Stream, normal
from flashdiff.degradations.base import Degradation
from flashdiff.fields import check_fields

CODE_CHANNELS = 512
STRIDE = 128
"""Pixels of the image per entry of the code along each axis: two halvings before the adapter, five within."""
CODE_STD = 1.2
"""Standard deviation of the codes with which diffusion solvers use F (Chung et al. 2023, DPS, and Fabian et al. 2024)."""


@dataclass(frozen=True)
class EncodedBlur(Degradation):
    """y = F(x, k), clipped to [-1, 1], with a code of its own for every image: k = 1.2 t N(0, I), keyed by (code_seed, id).

    The published operator has no severity: it is t = 1, and t = 0 is not the identity. RGB images, sides in multiples of
    128, published 256; codes (B, 512, H / 128, W / 128). Differentiable, without adjoint. weights: a file, or an https
    URL with its ``sha256``. Source: Tran, Tran, Phung, Hoai, "Explore Image Deblurring via Encoded Blur Kernel Space",
    CVPR 2021; the network is in :mod:`flashdiff.degradations.encoded_blur_network`.
    """

    weights: Annotated[str, Field(min_length=1, description="file or https URL of the published network")]
    sha256: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", description="of the weights, hexadecimal; needed with a URL")
    ] = None
    code_seed: Annotated[int, Field(ge=0, description="of the images' codes")] = 0

    def __post_init__(self):
        check_fields(self)
        if "://" in self.weights:
            if not self.weights.startswith("https://"):
                raise ValueError(
                    f"EncodedBlur: weights is {self.weights!r}, neither a file nor an https URL; download it by hand."
                )
            if self.sha256 is None:
                raise ValueError(
                    f"EncodedBlur: sha256 is missing for {self.weights!r}; a download is only used with its checksum."
                )

    def check_image(self, image_shape):
        channels, height, width = image_shape
        if channels != 3 or height % STRIDE or width % STRIDE:
            raise ValueError(
                f"EncodedBlur: the published network takes RGB images with sides in multiples of {STRIDE} pixels, not "
                f"{channels} x {height} x {width}; NonlinearBlur takes any."
            )

    def prepare(self, t, image_shape, ids):
        self.check_image(image_shape)
        _, height, width = image_shape
        shape = (CODE_CHANNELS, height // STRIDE, width // STRIDE)
        code = CODE_STD * normal(shape, ids, seed=self.code_seed, step=0, stream=Stream.DEGRADATION, like=t)
        return {"code": t[:, None, None, None] * code}

    def apply(self, x, state):
        from flashdiff.degradations.encoded_blur_network import apply_network

        return apply_network(x, state["code"], self.weights, self.sha256)
