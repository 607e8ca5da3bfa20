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
    x: Tensor, b: Tensor | None, f1: Tensor, f2: Tensor, first: tuple, second: tuple, gain: float, slope: float,
    clamp: float | None,
) -> Tensor:  # fmt: skip
    """The arguments and the result of `kernels.filtered_lrelu`."""
    a = formula.activation(upfirdn2d(_biased(x, b), f1, *first), gain, slope, clamp)
    return laid_out_as(upfirdn2d(a, f2, *second).to(x.dtype), x)


@torch.no_grad()
def filtered_slopes(
    v: Tensor, x: Tensor, b: Tensor | None, f1: Tensor, f2: Tensor, fg: Tensor, first: tuple, second: tuple,
    gate: tuple, gain: float, slope: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    """The arguments and the result of `kernels.filtered_slopes`."""
    u = upfirdn2d(_biased(x, b), fg, *gate)
    a = formula.times_slopes(upfirdn2d(widen(v), f1, *first), u, gain, slope, clamp)
    return laid_out_as(upfirdn2d(a, f2, *second).to(v.dtype), v)


def _biased(x: Tensor, b: Tensor | None) -> Tensor:
    return widen(x) if b is None else widen(x) + widen(b)[:, None, None]
