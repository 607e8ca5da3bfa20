"""Bias, activation, gain and clamp of StyleGAN's layers, in one launch forward and one backward."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from fastgan.formulas.bias_act import ACTIVATIONS, Settings
from fastgan.layers.filters import DTYPES, clamp_of, number
from fastgan.operators import bias_act as operators


def activations() -> list[str]:
    """The names that `act` may have."""
    return list(ACTIVATIONS)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """y = clamp(gain act(x + b)), the pointwise part of StyleGAN2's layers (Karras et al. 2020, arXiv:1912.04958).

        linear    v                              sigmoid    1 / (1 + exp(-v))
        relu      max(v, 0)                      elu        v, or exp(v) - 1 below 0
        lrelu     v, or alpha v below 0          selu       1.0507 v, or 1.7581 (exp(v) - 1) below 0
        tanh      tanh(v)                        softplus   log(1 + exp(v))
                                                 swish      v sigmoid(v)

    Args:
        x: of any shape and layout; float16, bfloat16, float32 or float64. Half precision is computed in float32 and
            rounded once.
        b: (x.shape[dim],), of the dtype and on the device of x; or None. Under autocast it may be of another dtype:
            then both become the wider one, as in `x + b`.
        dim: the dimension of x that b belongs to; may be negative. Ignored without b.
        act: one of these nine.
        alpha: the slope of lrelu below 0; 0.2 by default. Others ignore it.
        gain: multiplies the result; by default the square root of 2 for relu, lrelu and swish, else 1.
        clamp: results are kept within [-clamp, clamp]; None for no limit.

    Returns:
        A tensor of the shape, dtype and layout of x; x itself if there is nothing to do. Differentiable in x and b any
        number of times; one launch forward and one backward, which also sums the gradient of b. For linear, relu and
        lrelu the backward pass reads y, so x can be freed; for the others, and for relu and lrelu with gain <= 1/2 or
        alpha < 0, it reads x. The gradient is 0 where |y| = clamp. NaN and infinities are as in PyTorch.

    Raises:
        TypeError, ValueError: x not a floating tensor; b not a vector of its dtype and device, of the length of
            dimension dim; no such dimension; an unknown activation; alpha, gain or clamp not numbers; clamp below 0.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: got {x.dtype}, expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided:
        raise ValueError(f"x: got a {x.layout} tensor, expected a dense one")
    settings = _settings(act, alpha, gain, clamp)
    if b is None:
        if settings == Settings(0, "linear", settings.alpha, 1.0):
            return x
        return operators.value(x, None, settings)
    x, b, dim = _with_bias(x, b, dim)
    return operators.value(x, b, Settings(dim, settings.act, settings.alpha, settings.gain, settings.clamp))


class BiasAct(nn.Module):
    """`bias_act` as a module. Its bias is a parameter, initially zero, and is cast to the dtype of x.

    Args:
        channels: the length of dimension `dim` of the input.
        act, dim, alpha, gain, clamp: as for `bias_act`; lrelu by default.
        bias: whether there is a bias.
    """

    def __init__(
        self,
        channels: int,
        act: str = "lrelu",
        *,
        bias: bool = True,
        dim: int = 1,
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _settings(act, alpha, gain, clamp)
        self.act, self.dim, self.alpha, self.gain, self.clamp = act, dim, alpha, gain, clamp
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        b = self.bias.to(x.dtype) if self.bias is not None and isinstance(x, Tensor) else None
        return bias_act(x, b, self.dim, self.act, self.alpha, self.gain, self.clamp)

    def extra_repr(self) -> str:
        given = {name: getattr(self, name) for name in ("alpha", "gain", "clamp")}
        shown = [repr(self.act), *(f"{name}={value}" for name, value in given.items() if value is not None)]
        return ", ".join(shown if self.bias is not None else [*shown, "bias=False"])


def _settings(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> Settings:
    if act not in ACTIVATIONS:
        close = difflib.get_close_matches(str(act).lower(), [*ACTIVATIONS, *_SYNONYMS], 1, 0.6)
        hint = f"did you mean {_SYNONYMS.get(close[0], close[0])!r}? " if close else ""
        raise ValueError(f"act: got {act!r}, {hint}expected one of {', '.join(map(repr, ACTIVATIONS))}")
    phi = ACTIVATIONS[act]
    alpha = phi.alpha if alpha is None else number("alpha", alpha)
    gain = phi.gain if gain is None else number("gain", gain)
    return Settings(0, act, alpha, gain, clamp_of(clamp))


_SYNONYMS = {"leaky_relu": "lrelu", "leakyrelu": "lrelu", "silu": "swish", "none": "linear", "identity": "linear"}


def _with_bias(x: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor, int]:
    """(x, b, dim): x and b of one dtype, dim >= 0."""
    if not isinstance(b, Tensor):
        raise TypeError(f"b: got {type(b).__name__}, expected a torch.Tensor or None")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim: got {type(dim).__name__}, expected an integer")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim: got {dim}, expected a dimension of x, whose shape is {tuple(x.shape)}")
    if b.dim() != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(
            f"b: got shape {tuple(b.shape)}, expected ({x.shape[dim]},), dimension {dim} of x {tuple(x.shape)}"
        )
    if b.device != x.device:
        raise ValueError(f"b: got a tensor on {b.device}, expected {x.device}, the device of x")
    if b.dtype != x.dtype:
        if b.dtype not in DTYPES or not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"b: got {b.dtype}, expected {x.dtype}, the dtype of x")
        wide = torch.promote_types(x.dtype, b.dtype)
        x, b = x.to(wide), b.to(wide)
    if b.layout is not torch.strided:
        raise ValueError(f"b: got a {b.layout} tensor, expected a dense one")
    return x, b, dim % x.dim()
