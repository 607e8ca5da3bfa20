"""Upsample, filter and downsample in plain PyTorch: zeros inserted, padded or cropped, convolved, strided.

    y = gain * (pad(zeros between the pixels of x) conv f)[::down]

What `kernels.upfirdn2d` computes, as an author writes it; differentiable, any number of times, in x and in f."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.formulas.terms import wide_dtype, widen


def output_size(
    size: Sequence[int], taps: tuple[int, int], up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of the result for (height, width) of x and of the filter."""
    height = (size[0] * up[1] + padding[2] + padding[3] - taps[0] + down[1]) // down[1]
    width = (size[1] * up[0] + padding[0] + padding[1] - taps[1] + down[0]) // down[0]
    return height, width


def padding_of_gradient(
    size: Sequence[int], taps: tuple[int, int], up: Sequence[int], down: Sequence[int], padding: Sequence[int]
) -> tuple[int, int, int, int]:
    """The padding with which the gradient in x is again `upfirdn2d`, of the incoming gradient, with up and down
    exchanged and the filter reversed. size, taps: (height, width) of x and of the filter."""
    height, width = output_size(size, taps, up, down, padding)
    left, top = taps[1] - 1 - padding[0], taps[0] - 1 - padding[2]
    right = size[1] * up[0] - width * down[0] + padding[0] - up[0] + 1
    bottom = size[0] * up[1] - height * down[1] + padding[2] - up[1] + 1
    return left, right, top, bottom


def is_channels_last(x: Tensor) -> bool:
    """Whether the result for `x` is in channels_last."""
    return x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()


def laid_out_as(y: Tensor, x: Tensor) -> Tensor:
    return y.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)


def upsampled(x: Tensor, up: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """`x` with up - 1 zeros after each pixel, padded by zeros or, if negative, cropped."""
    n, c, height, width = x.shape
    if up != (1, 1):
        x = F.pad(x.reshape(n, c, height, 1, width, 1), (0, up[0] - 1, 0, 0, 0, up[1] - 1))
        x = x.reshape(n, c, height * up[1], width * up[0])
    if not any(padding):
        return x
    x = F.pad(x, [max(p, 0) for p in padding])
    left, right, top, bottom = [max(-p, 0) for p in padding]  # F.pad would crop first, which may leave nothing to pad
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, ...] = (1, 1),
    down: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """The arguments and the result of `kernels.upfirdn2d`, by PyTorch's convolutions."""
    dtype, layout_of = x.dtype, x
    f = f.to(wide_dtype(dtype))
    if not flip:
        f = f.flip(tuple(range(f.dim())))  # PyTorch's convolution is a correlation
    with torch.autocast(x.device.type, enabled=False):
        x = upsampled(widen(x), up, padding)
        c = x.shape[1]  # groups: 4 to 12 times as fast on a CPU as one image for each channel
        if f.dim() == 1:
            x = F.conv2d(x, f.expand(c, 1, 1, -1), stride=(1, down[0]), groups=c)
            x = F.conv2d(x, gain * f[:, None].expand(c, 1, -1, 1), stride=(down[1], 1), groups=c)
        else:
            x = F.conv2d(x, gain * f.expand(c, 1, -1, -1), stride=down[::-1], groups=c)
        return laid_out_as(x.to(dtype), layout_of)


def filter_gradient(
    g: Tensor,
    x: Tensor,
    f: Tensor,
    up: tuple[int, ...],
    down: tuple[int, ...],
    padding: tuple[int, ...],
    flip: bool,
    gain: float,
) -> Tensor:
    """The gradient in f of sum g * upfirdn2d(x, f, ...): the correlation of the upsampled x with g, whose pixels are
    `down` apart, over all images; for a separable filter, the products of that with f along each axis."""
    taps = f.shape[0], f.shape[-1]
    if not g.numel():
        return torch.zeros_like(f)
    with torch.autocast(x.device.type, enabled=False):
        u, g = upsampled(widen(x), up, padding), widen(g)
        both = F.conv2d(u.reshape(1, -1, *u.shape[2:]), g.reshape(1, -1, *g.shape[2:]), dilation=down[::-1])[
            0, 0, : taps[0], : taps[1]
        ]
        both = gain * (both if flip else both.flip((0, 1)))
        if f.dim() == 1:
            wide = f.to(both.dtype)
            both = both @ wide + wide @ both
        return both.to(f.dtype)
