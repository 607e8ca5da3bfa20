"""stylegan2-pytorch (rosinality): the folder `op`, copied to at least a hundred repositories, without nvcc.

    from op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d
        ->  from fastgan.compat.rosinality_op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d

Importing `op` compiles CUDA C++. To prevent that, before the import:

    import sys, fastgan.compat.rosinality_op
    sys.modules["op"] = fastgan.compat.rosinality_op

`op.conv2d_gradfix` is `fastgan.compat.torch_utils_ops.conv2d_gradfix`, also available here. If `op` is already
imported: `fastgan.patch("rosinality_op")`.

Signatures are from commit bef283a (November 2021). Differences: `negative_slope` also has an effect on a CPU (upstream:
always 0.2). Derivatives of any order (upstream: two). The filter of upfirdn2d is rounded to float32, and gets a
gradient if it requires one (upstream: only on a CPU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastgan.compat.torch_utils_ops import conv2d_gradfix as conv2d_gradfix
from fastgan.layers.bias_act import bias_act
from fastgan.layers.upfirdn2d import upfirdn2d as _upfirdn2d

UPSTREAM = {"op.fused_act": ("FusedLeakyReLU", "fused_leaky_relu"), "op.upfirdn2d": ("upfirdn2d",)}
Pair = int | Sequence[int]


def fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """scale leaky_relu(input + bias): `fastgan.layers.bias_act`, in one launch.

    input: (batch, channels, ...). bias: (channels,), of its dtype and device; or None.

    Raises:
        TypeError, ValueError: as in `fastgan.layers.bias_act`.
    """
    return bias_act(input, bias, 1, "lrelu", negative_slope, scale)


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` as a module. The bias is a parameter, initially zero; bias=False leaves it out."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def upfirdn2d(input: Tensor, kernel: Tensor, up: Pair = 1, down: Pair = 1, pad: Sequence[int] = (0, 0)) -> Tensor:
    """Add up - 1 zeros after each pixel, pad, apply `kernel`, keep every down-th pixel: `fastgan.layers.upfirdn2d`.

    input: (batch, channels, height, width). kernel: (rows, columns). up, down: a number, or (x, y). pad: before and
    after, on both axes; or (left, right, top, bottom).

    Raises:
        TypeError, ValueError: as in `fastgan.layers.upfirdn2d`; a kernel that is not a tensor, a pad that is not two or
            four numbers.
    """
    if not isinstance(kernel, Tensor):
        raise TypeError(f"kernel: got {type(kernel).__name__}, expected a torch.Tensor")
    sides = tuple(pad) if isinstance(pad, Iterable) else ()
    if len(sides) not in (2, 4):
        raise ValueError(f"pad: got {pad!r}, expected (before, after) or (left, right, top, bottom)")
    return _upfirdn2d(input, kernel.to(torch.float32), up, down, (*sides, *sides)[:4])
