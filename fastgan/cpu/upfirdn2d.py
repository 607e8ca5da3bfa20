"""Upsample, filter and downsample by PyTorch's convolutions: see `kernels.upfirdn2d`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.formulas import upfirdn2d as formula


@torch.no_grad()
def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """The arguments and results of `kernels.upfirdn2d`."""
    size = formula.output_size(x.shape[2:], (f.shape[0], f.shape[-1]), up, down, padding)
    if not x.numel() or 0 in size:  # the gradient at an image of no pixels
        layout = torch.channels_last if formula.is_channels_last(x) else torch.contiguous_format
        return x.new_zeros((*x.shape[:2], *size)).contiguous(memory_format=layout)
    return formula.upfirdn2d(x, f, tuple(up), tuple(down), tuple(padding), flip, gain)
