"""A leaky ReLU between two filters, in plain PyTorch: bias, upsample, leaky ReLU, gain, clamp, downsample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    """first, second: (up, down, padding, flip, gain) of the two filters, as in `upfirdn2d`. resample: an `upfirdn2d`.
    Differentiable any number of times, in x, b and the filters."""
    x = x if b is None else x + b[:, None, None]
    return resample(activation(resample(x, fu, *first), gain, slope, clamp), fd, *second)


def activation(u: Tensor, gain: float, slope: float, clamp: float | None) -> Tensor:
    a = F.leaky_relu(u, slope) * gain
    return a if clamp is None else a.clamp(-clamp, clamp)


def times_slopes(v: Tensor, u: Tensor, gain: float, slope: float, clamp: float | None) -> Tensor:
    """v times the slopes of `activation` at u: `gain * slope` at 0 and, without a clamp, at NaN. For clamped elements,
    and for NaN with a clamp, 0, whatever v is."""
    found = torch.where(u > 0, v * gain, v * (gain * slope))
    return found if clamp is None else torch.where(activation(u, gain, slope, None).abs() <= clamp, found, 0.0)
