"""StyleGAN's bias and activation: see `kernels.bias_act`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.cpu.blocks import laid_out
from fastgan.formulas import bias_act as formulas
from fastgan.formulas.bias_act import Settings, spread, summed
from fastgan.formulas.terms import widen


@torch.no_grad()
def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    """The arguments and results of `kernels.bias_act`."""
    y = formulas.value(x, b, Settings(dim, act, alpha, gain, clamp))
    return laid_out(y.clone() if y is x else y, x)


@torch.no_grad()
def bias_act_gradient(
    g: Tensor, ref: Tensor | None, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float,
    from_y: bool, of_x: bool, of_b: bool, k: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The arguments and results of `kernels.bias_act_gradient`."""
    like = g if ref is None else ref
    if from_y:
        clamp = torch.tensor(clamp, dtype=like.dtype, device="cpu").item()  # rounded as in y
        if clamp != math.inf and like.numel():
            low, high = like.aminmax()  # one pass that reads may save three that write: mostly nothing is clamped
            clamp = math.inf if low > -clamp and high < clamp else clamp
    found = formulas.gradient(_sum(g, k, dim), like, b, Settings(dim, act, alpha, gain, clamp), from_y)
    sums = summed(found, dim).to(g.dtype) if of_b else None
    return laid_out(found.to(g.dtype), like) if of_x else None, sums


@torch.no_grad()
def bias_act_second(
    h: Tensor, k: Tensor | None, g: Tensor, x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float,
    clamp: float, of_g: bool, of_x: bool, of_b: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The arguments and results of `kernels.bias_act_second`."""
    found, curved = formulas.second(_sum(h, k, dim), widen(g), x, b, Settings(dim, act, alpha, gain, clamp))
    sums = summed(curved, dim).to(x.dtype) if of_b else None
    return (
        laid_out(found.to(x.dtype), x) if of_g else None,
        laid_out(curved.to(x.dtype), x) if of_x else None,
        sums,
    )


def _sum(g: Tensor, k: Tensor | None, dim: int) -> Tensor:
    return widen(g) if k is None else widen(g) + spread(widen(k), g, dim)
