"""A leaky ReLU between two filters, in plain PyTorch: bias, upsample, leaky ReLU, gain, clamp, downsample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.formulas.terms import widen
from fastgan.formulas.upfirdn2d import upfirdn2d


def filtered_lrelu(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    first: tuple,
    second: tuple,
    gain: float,
    slope: float,
    clamp: float | None,
    resample=upfirdn2d,
) -> Tensor:
    """first, second: (up, down, padding, flip, gain) of the two filters, as `upfirdn2d` takes them, which `resample`
    is. Differentiable any number of times, in x, b and the filters."""
    x = x if b is None else x + b[:, None, None]
    return resample(activation(resample(x, fu, *first), gain, slope, clamp), fd, *second)


def activation(u: Tensor, gain: float, slope: float, clamp: float | None) -> Tensor:
    a = F.leaky_relu(u, slope) * gain
    return a if clamp is None else a.clamp(-clamp, clamp)


def codes_of(u: Tensor, gain: float, slope: float, clamp: float | None) -> Tensor:
    """Which slope `activation` has at each element: 0 clamped, 1 positive, 2 not. A clamped NaN has none."""
    codes = torch.where(u > 0, 1, 2)
    if clamp is not None:
        codes = torch.where((F.leaky_relu(u, slope) * gain).abs() <= clamp, codes, 0)
    return codes.to(torch.int8)


def times_slopes(u: Tensor, codes: Tensor, gain: float, slope: float) -> Tensor:
    """u times the slopes that `codes` stand for."""
    u = widen(u)
    return torch.where(codes == 0, 0.0, torch.where(codes == 1, u * gain, u * (gain * slope)))
