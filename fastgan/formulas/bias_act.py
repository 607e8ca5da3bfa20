"""StyleGAN's bias and activation in plain PyTorch, y = clamp(gain act(x + b)): value, and derivatives of any order.

Half precision is computed in float32 and rounded once. At |gain act(x + b)| = clamp the derivative is 0, as in
NVIDIA's kernel, and not 1, as in `torch.clamp`: so y tells where the clamp is active.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.formulas.terms import widen

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


class Activation(NamedTuple):
    """value(v, alpha) is act(v), slope(u, v, alpha) is u act'(v) and curvature(u, v) is u act''(v), each with operators
    that autograd differentiates at any v. curvature: None if it is 0 everywhere. alpha, gain: the defaults."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, Tensor, float], Tensor]
    curvature: Callable[[Tensor, Tensor], Tensor] | None = None
    alpha: float = 0.0
    gain: float = 1.0


def _exp(v: Tensor) -> Tensor:
    return v.clamp(max=0.0).exp()  # v > 0 is never used, but would make infinity times 0 in a derivative


def _both(v: Tensor) -> Tensor:
    return torch.sigmoid(v) * torch.sigmoid(-v)


def _difference(v: Tensor) -> Tensor:
    return torch.sigmoid(-v) - torch.sigmoid(v)


def _slope_of_lrelu(u: Tensor, v: Tensor, alpha: float) -> Tensor:
    if 0.0 <= alpha <= 1.0:  # 3 times as fast on a CPU as `where`, whose branches are often mispredicted
        return u * v.detach().sign().clamp(min=alpha)
    return torch.where(v > 0, u, u * alpha)


ACTIVATIONS = {
    "linear": Activation(lambda v, _: v, lambda u, v, _: u),
    "relu": Activation(
        lambda v, _: torch.relu(v), lambda u, v, _: torch.where(v <= 0, 0.0, u), gain=math.sqrt(2)
    ),  # u at NaN, as in PyTorch
    "lrelu": Activation(F.leaky_relu, _slope_of_lrelu, None, 0.2, math.sqrt(2)),
    "tanh": Activation(
        lambda v, _: torch.tanh(v),
        lambda u, v, _: u * (4.0 * _both(2.0 * v)),
        lambda u, v: u * (8.0 * _both(2.0 * v) * _difference(2.0 * v)),
    ),
    "sigmoid": Activation(
        lambda v, _: torch.sigmoid(v), lambda u, v, _: u * _both(v), lambda u, v: u * (_both(v) * _difference(v))
    ),
    "elu": Activation(
        lambda v, _: F.elu(v),
        lambda u, v, _: torch.where(v <= 0, u * _exp(v), u),
        lambda u, v: torch.where(v < 0, u * _exp(v), 0.0),
    ),
    "selu": Activation(
        lambda v, _: F.selu(v),
        lambda u, v, _: torch.where(v <= 0, u * (_SELU_SCALE * _SELU_ALPHA * _exp(v)), u * _SELU_SCALE),
        lambda u, v: torch.where(v < 0, u * (_SELU_SCALE * _SELU_ALPHA * _exp(v)), 0.0),
    ),
    "softplus": Activation(  # exact beyond PyTorch's threshold of 20, too
        lambda v, _: F.softplus(v, 1.0, 50.0), lambda u, v, _: u * torch.sigmoid(v), lambda u, v: u * _both(v)
    ),
    "swish": Activation(
        lambda v, _: torch.sigmoid(v) * v,
        lambda u, v, _: u * (torch.sigmoid(v) * (1.0 + v * torch.sigmoid(-v))),
        lambda u, v: u * (_both(v) * (2.0 + v * _difference(v))),
        gain=math.sqrt(2),
    ),
}


class Settings(NamedTuple):
    """All arguments of `bias_act` except its tensors. dim: 0 or more. clamp: inf for none."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float = math.inf

    def saved(self) -> str:
        """What the gradient needs beside g: "y", "x" (and b), or "".

        For linear, relu and lrelu y suffices: it tells the sign of v, and whether the clamp is active. The next layer
        saves y anyway, as its input. A gain of at most 1/2 could round a v > 0 to 0."""
        if self.act == "linear":
            return "" if self.clamp == math.inf else "y"
        if self.act in ("relu", "lrelu") and self.gain > 0.5 and self.alpha >= 0.0:
            return "y"
        return "x"

    def curved(self) -> bool:
        return ACTIVATIONS[self.act].curvature is not None


def spread(vector: Tensor, x: Tensor, dim: int) -> Tensor:
    """`vector`, a number a channel, in a shape that broadcasts over x."""
    return vector.reshape([-1 if i == dim else 1 for i in range(x.dim())])


def summed(x: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but that of the channels."""
    return x.sum([i for i in range(x.dim()) if i != dim]) if x.dim() > 1 else x


def pre_activation(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    """v = x + b, in the arithmetic dtype."""
    return widen(x) if b is None else widen(x) + spread(widen(b), x, dim)


def value(x: Tensor, b: Tensor | None, settings: Settings) -> Tensor:
    """y = clamp(gain act(x + b)), of the dtype of x, with PyTorch's own operators."""
    y = ACTIVATIONS[settings.act].value(pre_activation(x, b, settings.dim), settings.alpha)
    if settings.gain != 1.0:
        y = y * settings.gain
    if settings.clamp != math.inf:
        clamped = y.detach().clamp(-settings.clamp, settings.clamp)  # enough if no gradient is needed
        y = torch.where(y.abs() < settings.clamp, y, clamped) if torch.is_grad_enabled() else clamped
    return y.to(x.dtype)


def gradient(u: Tensor, ref: Tensor, b: Tensor | None, settings: Settings, from_y: bool = False) -> Tensor:
    """u gain act'(v), but 0 where the clamp is active; arithmetic dtype, differentiable in u, x and b. ref: x, or y."""
    v = widen(ref) if from_y else pre_activation(ref, b, settings.dim)
    return ACTIVATIONS[settings.act].slope(_clamped(u, v, settings, from_y), v, settings.alpha) * settings.gain


def second(u: Tensor, g: Tensor, x: Tensor, b: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """(u gain act'(v), u g gain act''(v)): `gradient`, and its derivative in v along u; differentiable."""
    phi, v = ACTIVATIONS[settings.act], pre_activation(x, b, settings.dim)
    assert phi.curvature is not None
    u = _clamped(u, v, settings, False)
    return phi.slope(u, v, settings.alpha) * settings.gain, phi.curvature(u * g, v) * settings.gain


def _clamped(u: Tensor, v: Tensor, settings: Settings, from_y: bool) -> Tensor:
    """u, but 0 where the clamp is active. v: y if `from_y`."""
    if settings.clamp == math.inf:
        return u
    y = v if from_y else ACTIVATIONS[settings.act].value(v, settings.alpha) * settings.gain
    return torch.where(y.abs() < settings.clamp, u, 0.0)
