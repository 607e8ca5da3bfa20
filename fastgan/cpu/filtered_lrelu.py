"""A leaky ReLU between two filters: see `kernels.filtered_lrelu`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.cpu.upfirdn2d import upfirdn2d
from fastgan.formulas import filtered_lrelu as formula
from fastgan.formulas.terms import widen
from fastgan.formulas.upfirdn2d import laid_out_as


@torch.no_grad()
def filtered_lrelu(
    x: Tensor, f1: Tensor, f2: Tensor, first: tuple, second: tuple, gain: float, slope: float, clamp: float | None
) -> tuple[Tensor, Tensor]:
    """The arguments and results of `kernels.filtered_lrelu`."""
    u = upfirdn2d(widen(x), f1, *first)
    a = formula.activation(u, gain, slope, clamp).to(x.dtype)
    return upfirdn2d(a, f2, *second), formula.codes_of(u, gain, slope, clamp)


@torch.no_grad()
def filtered_slopes(
    v: Tensor, f1: Tensor, f2: Tensor, codes: Tensor, first: tuple, second: tuple, gain: float, slope: float
) -> Tensor:
    """The arguments and results of `kernels.filtered_slopes`."""
    u = formula.times_slopes(upfirdn2d(widen(v), f1, *first), codes, gain, slope)
    return upfirdn2d(laid_out_as(u.to(v.dtype), v), f2, *second)  # the codes may lie otherwise
