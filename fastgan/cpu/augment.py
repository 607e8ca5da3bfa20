"""Differentiable augmentation of images: see `kernels.augment`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.cpu.blocks import laid_out
from fastgan.formulas import augment as formula


@torch.no_grad()
def augment(x: Tensor, *parameters_and_form) -> Tensor:
    """The arguments and results of `kernels.augment`."""
    *parameters, form = parameters_and_form
    x = formula.images(x)
    return laid_out(formula.augment(x, formula.Augmentation(*parameters), form), x)


@torch.no_grad()
def draw_augmentation(
    u: Tensor, p: Tensor | None, chance: float, policy: int, extents: list[int]
) -> tuple[Tensor, ...]:
    """The arguments and results of `kernels.draw_augmentation`."""
    return tuple(formula.drawn(u, p, chance, policy, extents))
