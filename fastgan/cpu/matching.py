"""Feature matching that saves a byte an element and not the maps: see `kernels.matching`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.cpu.blocks import blocks, dense, laid_out, like, per_term
from fastgan.formulas.terms import wide_dtype, widen


@torch.no_grad()
def matching_signs(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    """The arguments and results of `kernels.matching_signs`."""
    losses, host_losses, signs = [], [], []  # of maps on a CPU a loss is a number
    for x, other, weight in zip(fakes, reals, weights):
        if not x.is_cpu:
            gap = widen(x) - widen(other)
            losses.append(weight * gap.abs().mean())
            signs.append(laid_out(gap.sign().to(torch.int8), x))
            continue
        x = dense(x)
        signs.append(torch.empty_like(x, dtype=torch.int8))
        total = 0.0
        for a, (b, out) in blocks(x, like(x, other), signs[-1]):
            gap = widen(a) - widen(b)
            out.copy_(gap.sign())
            total += gap.abs_().sum().item()
        host_losses.append(weight * (total / x.numel() if x.numel() else math.nan))
    if fakes[0].is_cpu:
        loss = torch.tensor(sum(host_losses), dtype=torch.float64, device="cpu")
        return loss.to(wide_dtype(fakes[0].dtype)), signs
    return torch.stack(losses).sum(), signs


@torch.no_grad()
def matching_gradient(
    signs: Sequence[Tensor],
    weights: Sequence[float],
    dtype: torch.dtype,
    scale: Tensor,
    of_fakes: bool,
    of_reals: bool,
) -> list[Tensor]:
    """The arguments and results of `kernels.matching_gradient`."""
    grads = []
    for sign, weight, factor in zip(signs, weights, per_term(scale, len(signs), 1.0)):
        sign = dense(sign)
        slope = weight * factor / max(sign.numel(), 1)
        if not sign.is_cpu:
            grads.append((sign.to(wide_dtype(dtype)) * slope).to(dtype))
            continue
        grads.append(torch.empty_like(sign, dtype=dtype))
        for s, (out,) in blocks(sign, grads[-1]):
            torch.mul(s.to(wide_dtype(dtype)), slope, out=out)
    return (grads if of_fakes else []) + ([grad.neg() for grad in grads] if of_reals else [])
