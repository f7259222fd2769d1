"""deepinv (https://deepinv.org): its physics as degradations, and Flash where it expects a reconstructor.

Ranges. deepinv's users keep images u in [0, 1], flashdiff keeps x = 2 u - 1 in [-1, 1]. With ``unit_range`` (the
default) this adapter translates, and y is the measurement in deepinv's units:

- linear A: A takes x as it stands, and the measurement becomes 2 y - A(1), which is A x + 2 n. Nothing is approximated,
  A^T remains the adjoint, and what A does not measure is 0, mid-grey, as in flashdiff's own degradations. (2 y - 1
  would make the operator affine, without an adjoint, wherever A does not preserve constants.)
- nonlinear A: the operator becomes 2 A((x + 1) / 2) - 1, and the measurement 2 y - 1.

Noise doubles in both cases. ``unit_range=False`` is for a physics whose images lie in [-1, 1] already: x and y stay as
they are.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from flashdiff.degradations import Degradation, Measurement, State
from flashdiff.devices import outside_inference_mode
from flashdiff.flash import Flash, FullLength

try:
    import deepinv  # noqa: F401  (first, so that a missing deepinv is noticed as such)
    from deepinv.models import Reconstructor
    from deepinv.physics import GaussianNoise, LinearPhysics, Physics, ZeroNoise
except ModuleNotFoundError as error:
    raise ImportError(
        f'flashdiff.deepinv_adapter: {error.name} is not installed; run `pip install "flashdiff[deepinv]"`.'
    ) from error

Parameters = Callable[[Tensor, tuple[int, int, int], np.ndarray], State]


class _Method(nn.Module):
    """A method of a physics as a module's forward, so that functional_call can exchange buffers for one call of it."""

    def __init__(self, physics: Physics, name: str):
        super().__init__()
        self.physics, self.name = physics, name

    def forward(self, x: Tensor, **parameters: Tensor) -> Tensor:
        return getattr(self.physics, self.name)(x, **parameters)


@dataclass(frozen=True, eq=False)
class DeepinvDegradation(Degradation):
    """A deepinv physics as a degradation: the deterministic A, without its noise and sensor model.

    physics: a copy is taken, so that neither a later ``physics.update`` nor a reconstruction reaches the other side.
    parameters: None takes the physics as it is at every severity t; a function (t (B,), image_shape (C, H, W), ids
    (B,)) -> {name: tensor (B, ...)} makes the operator depend on t, and A gets these as keyword arguments (``filter``,
    ``mask``, ...). unit_range: the physics expects images in [0, 1], see the module's text. ids (n,): needed where the
    physics holds a batch of n parameters (its buffers (n, C, H, W), n > 1): the image that each of these belongs to.

    Linear when the physics is a ``LinearPhysics``. Raises TypeError for anything but a physics, ValueError for a batch
    of parameters that does not fit ``ids``.
    """

    physics: Physics
    parameters: Parameters | None = None
    unit_range: bool = True
    ids: np.ndarray | None = None
    _batch: State = field(init=False, repr=False)

    @outside_inference_mode()  # so that the copy's tensors admit gradients
    def __post_init__(self):
        if not isinstance(self.physics, Physics):
            raise TypeError(f"physics: {type(self.physics).__name__}; give a deepinv.physics.Physics.")
        # A draws nothing, so generators are shared: older versions of torch cannot copy them.
        modules = [vars(module) for module in self.physics.modules()]
        shared = {id(v): v for attributes in modules for v in attributes.values() if isinstance(v, torch.Generator)}
        object.__setattr__(self, "physics", copy.deepcopy(self.physics, shared))
        # Image-shaped buffers only: the angles of a tomography, say, are as many as they are, whatever the batch.
        operator = [(k, v) for k, v in self.physics.named_buffers() if "noise_model" not in k.split(".")]
        batch = {name: buffer for name, buffer in operator if buffer.ndim >= 4 and len(buffer) > 1}
        object.__setattr__(self, "_batch", batch)
        for name, buffer in batch.items():
            if self.ids is None:
                raise ValueError(
                    f"ids: None, but {name} of {self._name} holds a batch of {len(buffer)}; give the id of every row's "
                    "image, or a physics without a batch."
                )
            if len(buffer) != len(self.ids):
                raise ValueError(
                    f"physics: {name} of {self._name} holds a batch of {len(buffer)} for {len(self.ids)} images; "
                    "give one for all or one per image."
                )
            if len(np.unique(self.ids)) < len(self.ids):
                raise ValueError(
                    f"ids: {np.asarray(self.ids).tolist()} has an image twice; give every image its own id."
                )

    @property
    def linear(self) -> bool:
        return isinstance(self.physics, LinearPhysics)

    @property
    def _name(self) -> str:
        return type(self.physics).__name__

    def prepare(self, t, image_shape, ids):
        state = {}
        if self._batch:
            row_of = {int(image): row for row, image in enumerate(self.ids)}
            missing = [int(image) for image in ids if int(image) not in row_of]
            if missing:
                raise ValueError(
                    f"ids: {missing[0]} is not among the degradation's own ids; use the images named there."
                )
            rows = [row_of[int(image)] for image in ids]
            state |= {f"physics.{name}": buffer[rows].to(t.device) for name, buffer in self._batch.items()}
        if self.parameters is not None:
            for name, value in self.parameters(t, image_shape, ids).items():
                if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != len(t):
                    raise ValueError(
                        f"parameters: {name} is {_shape(value)} for {len(t)} images; give a tensor, one row each."
                    )
                state[f"argument/{name}"] = value
        return state

    def apply(self, x, state):
        if not self.unit_range or self.linear:
            return self._call("A", x, state)
        return 2 * self._call("A", (x + 1) / 2, state) - 1

    def adjoint(self, y, state):
        return self._call("A_adjoint", y, state) if self.linear else super().adjoint(y, state)

    def _call(self, method: str, x: Tensor, state: State) -> Tensor:
        buffers = {key: value for key, value in state.items() if key.startswith("physics.")}
        arguments = {k.removeprefix("argument/"): v for k, v in state.items() if k.startswith("argument/")}
        self.physics.to(x.device)
        # Outside autocast: Fourier transforms do not know bfloat16, and in it convolutions would keep three digits.
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            out = functional_call(_Method(self.physics, method), buffers, (x,), arguments)
        if not isinstance(out, Tensor):
            raise TypeError(
                f"physics: {self._name} gives a {type(out).__name__}; give one whose A and A^T give one tensor."
            )
        return out


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


@outside_inference_mode()
def measurement_from_deepinv(
    y: Tensor,
    physics: Physics,
    *,
    noise_std: float | None = None,
    ids: np.ndarray | None = None,
    image_shape: tuple[int, int, int] | None = None,
    unit_range: bool = True,
) -> Measurement:
    """A measurement y (B, ...) that deepinv made with ``physics``, ready for Flash; the physics as it is now is copied.

    noise_std: standard deviation of the noise in y, in y's units; None takes the physics' own (``GaussianNoise``, or
    ``ZeroNoise`` for none). ids (B,) integers >= 0 key the randomness, by default 0..B-1. image_shape (C, H, W) of the
    clean image: by default that of A^T y, or of y where A is not linear. unit_range: see the module's text; y becomes
    the measurement of an image in [-1, 1]. t is 0 throughout: a physics as it is has no levels of severity.

    The physics may hold a batch of B parameters. Raises TypeError for anything but a physics; ValueError for a y that
    is not the physics', for noise that is not Gaussian or differs within the batch while noise_std is None, and for a
    physics whose samples depend on each other or on their place in the batch.
    """
    if not isinstance(y, Tensor) or y.ndim < 2 or not len(y):
        raise ValueError(f"y: {_shape(y)}; give one tensor (B, ...) with B >= 1 measurements.")
    ids = np.arange(len(y)) if ids is None else np.asarray(ids)
    if ids.shape != (len(y),):
        raise ValueError(f"ids: shape {ids.shape} for {len(y)} measurements; give one id per measurement.")
    degradation = DeepinvDegradation(physics, unit_range=unit_range, ids=ids)
    noise_std = _gaussian_std(physics) if noise_std is None else float(noise_std)
    if not noise_std >= 0:
        raise ValueError(f"noise_std: {noise_std:g}; give a standard deviation >= 0.")
    t = y.real.new_zeros(len(y))
    with torch.no_grad():
        state = degradation.prepare(t, image_shape, ids)
        image_shape = _check(degradation, y, state, image_shape)
        if unit_range:
            ones = torch.ones(len(y), *image_shape, dtype=y.real.dtype, device=y.device)
            constant = degradation.apply(ones, state) if degradation.linear else 1
            y, noise_std = 2 * y - constant, 2 * noise_std
    return Measurement(y, degradation, t, noise_std, ids, image_shape)


def _gaussian_std(physics: Physics) -> float:
    """sigma of the physics' noise, in the units of its measurements; ValueError where there is no single one."""
    noise = physics.noise_model
    if isinstance(noise, ZeroNoise):
        return 0.0
    if not isinstance(noise, GaussianNoise):
        raise ValueError(
            f"noise_std: None, but the noise of the physics is {type(noise).__name__}, not GaussianNoise; give the "
            "standard deviation of the noise in y."
        )
    low, high = float(noise.sigma.min()), float(noise.sigma.max())
    if low != high:
        raise ValueError(
            f"noise_std: None, but the physics' sigma goes from {low:g} to {high:g} within the batch; give one "
            "noise_std, or the samples of one sigma at a time."
        )
    return low


def _check(
    degradation: DeepinvDegradation, y: Tensor, state: State, image_shape: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    """The image's shape; ValueError unless y is a measurement of such images, each by itself.

    The engine cuts and reorders a batch. What the physics keeps for a batch outside its buffers, in a closure say,
    would then meet the wrong images in silence; so two samples are measured in reverse order and compared with the
    whole batch.
    """
    name = type(degradation.physics).__name__
    try:
        if image_shape is None:
            image_shape = tuple((degradation.adjoint(y, state) if degradation.linear else y).shape[1:])
        probe = torch.rand(image_shape, generator=torch.Generator().manual_seed(0)).to(y.device, y.real.dtype)
        x = torch.stack([probe.roll(k) for k in range(len(y))])
        whole = degradation.apply(x, state)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"y: {tuple(y.shape)} does not fit {name} ({reason}); give the y that this physics measured, and "
            "image_shape where A^T y does not have it."
        ) from error
    if whole.shape != y.shape:
        raise ValueError(
            f"y: {tuple(y.shape)}, but {name} makes {tuple(whole.shape)} of images {image_shape}; give the y that this "
            "physics measured, and the image_shape."
        )
    if len(y) > 1:
        pair = np.array([len(y) - 1, 0])
        cut = {key: value[pair] for key, value in state.items()}
        try:
            part = degradation.apply(x[pair], cut)
            same = torch.allclose(part, whole[pair], rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
        except (RuntimeError, ValueError):  # shapes: a batch of parameters that did not follow
            same = False
        if not same:
            raise ValueError(
                f"physics: {name} measures an image differently in another batch; give a physics that is "
                "deterministic, with what belongs to single images in buffers (B, C, H, W)."
            )
    return image_shape


class DeepinvReconstructor(Reconstructor):
    """Flash or FullLength as a deepinv reconstructor: ``model(y, physics)`` -> images (B, C, H, W).

    y in the physics' own units, images in [0, 1] (with ``unit_range=False`` in [-1, 1]), on y's device. noise_std and
    image_shape as in :func:`measurement_from_deepinv`, which also says what a physics must be. The randomness of an
    image is keyed by the method's seed and the image's id; ids count from ``next_id`` on, over all calls, so that an
    evaluation does not depend on its batch size. Reconstructions carry no gradient.
    """

    def __init__(
        self,
        method: Flash | FullLength,
        *,
        unit_range: bool = True,
        noise_std: float | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        if not isinstance(method, Flash | FullLength):
            raise TypeError(f"method: {type(method).__name__}; give a flashdiff Flash or FullLength.")
        super().__init__()
        self.method, self.unit_range, self.noise_std, self.image_shape = method, unit_range, noise_std, image_shape
        self.next_id = 0
        # as submodules, so that `.to(device)` moves the networks of the method
        self.prior, self.encoder = method.prior, getattr(method, "encoder", None)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Nothing here is trained: deepinv's loops switch modes, and the networks stay in the evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, y: Tensor, physics: Physics, ids: np.ndarray | None = None) -> Tensor:
        """Reconstruct y (B, ...); ids (B,) instead of counted ones, to repeat or to pair reconstructions.

        Raises what :func:`measurement_from_deepinv` raises, and ValueError where Flash gets a y that is not shaped like
        the image: the severity encoder reads images.
        """
        counted = ids is None and isinstance(y, Tensor) and y.ndim > 0
        if counted:
            ids = np.arange(self.next_id, self.next_id + len(y))
        measurement = measurement_from_deepinv(
            y, physics, noise_std=self.noise_std, ids=ids, image_shape=self.image_shape, unit_range=self.unit_range
        )
        if isinstance(self.method, Flash) and measurement.y.shape[1:] != measurement.image_shape:
            raise ValueError(
                f"y: {tuple(y.shape[1:])} differs from the image's {measurement.image_shape}, and the severity encoder "
                "reads measurements of the image's shape; use FullLength."
            )
        images = self.method(measurement).images.to(y.device)
        if counted:
            self.next_id += len(y)
        return (images + 1) / 2 if self.unit_range else images
