"""Differentiable augmentation in plain PyTorch: colour, flip, translation and cutout of images, one draw a sample.

With b, s, c the brightness, saturation and contrast of a sample, m the mean over the channels of a pixel of x and M the
mean of the sample, the three colour changes of DiffAugment, one after the other, are

    K x + b,    K x = c s x + c (1 - s) m + (1 - c) M

since brightness moves m and M by b, and saturation leaves M. K is symmetric. Then G moves pixels and zeroes some: flip,
translation, cutout. So the map is G (K x + b); at fixed parameters its derivative is G K, and the transpose of that is
K G'. Both read one pixel for each that they write, since G uses each pixel at most once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.formulas.terms import widen

# The form of each form's gradient.
TRANSPOSED = {"map": "transpose", "linear": "transpose", "transpose": "linear"}
MOST = 1 << 30  # elements of one sample: their offsets are 32-bit integers


class Augmentation(NamedTuple):
    """The parameters for N images, on their device. float32: `brightness` (N,) is added; `saturation` (N,) multiplies
    the distance from a pixel's mean, `contrast` (N,) that from the image's. int32, (rows, columns): `translation`
    (N, 2), out[i, j] = x[i + rows, j + columns]; `cutout_centre` and `cutout_size` (N, 2), the result is zero in the
    rectangle of rows [centre - size // 2, centre - size // 2 + size) and likewise columns; a size of 0 cuts nothing.
    bool: `flip` (N,) exchanges left and right, before the translation."""

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    translation: Tensor
    cutout_centre: Tensor
    cutout_size: Tensor
    flip: Tensor


def images(x: Tensor) -> Tensor:
    """`x` if it is contiguous or channels_last, which the kernel reads directly; else a contiguous copy."""
    x = x.resolve_neg() if x.is_neg() else x
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def augment(x: Tensor, parameters: Augmentation, form: str = "map") -> Tensor:
    """G (K x + b) of (N, C, H, W) images; "linear": G K x; "transpose": K G' x. Differentiable by autograd.

    A step that changes nothing is not computed: with a contrast of 1 an image stays the same even if its mean is NaN.
    """
    n, _, h, w = x.shape
    if not x.numel():
        return torch.empty_like(x)
    brightness, s, c = (v.to(widen(x).dtype).reshape(-1, 1, 1, 1) for v in parameters[:3])
    source, inside = _places(parameters, h, w, x.device, form == "transpose")
    moved = x.flatten(2).gather(2, source.reshape(n, 1, h * w).expand(-1, x.shape[1], -1))
    moved = widen(moved.reshape(x.shape))
    inside = inside.unsqueeze(1)
    if form == "transpose":
        moved = torch.where(inside, moved, 0.0)
    mean = (moved if form == "transpose" else widen(x)).mean((1, 2, 3), keepdim=True)
    # Adding -0.0 changes no bit of any number, 0.0 and -0.0 included.
    # mean - mean: NaN for an infinite mean, as from the separate steps, which subtract the mean.
    shift = torch.where(c != 1, (1 - c) * mean + (mean - mean), -0.0)
    if form == "map":
        shift = torch.where(brightness != 0, shift + brightness, shift)
    grey = moved.mean(1, keepdim=True)
    grey = torch.where(s != 1, c * (1 - s) * grey + (grey - grey), -0.0)
    out = torch.addcmul(grey + shift, moved, c * s)
    return (out if form == "transpose" else torch.where(inside, out, 0.0)).to(x.dtype)


def drawn(u: Tensor, p: Tensor | None, chance: float, policy: int, extents: list[int]) -> Augmentation:
    """The parameters, from (N, 12) uniform numbers u: the arguments of `kernels.draw_augmentation`."""
    applied = u[:, 8:] < (chance if p is None else p)
    coloured, moved, cut, flipped = [a if policy >> k & 1 else a & False for k, a in enumerate(applied.unbind(1))]
    b, s, c = [torch.where(coloured, v - 0.5, 0.0) for v in u[:, :3].unbind(1)]
    down, right, rows, columns, row_places, column_places = extents
    steps = (_below(u[:, 3], 2 * down + 1) - down, _below(u[:, 4], 2 * right + 1) - right)
    translation = torch.where(moved[:, None], torch.stack(steps, 1), 0)
    centre = torch.stack((_below(u[:, 5], row_places), _below(u[:, 6], column_places)), 1)
    cut = cut.to(torch.int32)
    size = torch.stack((cut * rows, cut * columns), 1)
    return Augmentation(b, 1 + 2 * s, 1 + c, translation, centre, size, flipped & (u[:, 7] < 0.5))


def _below(u: Tensor, count: int) -> Tensor:
    """A whole number from 0 to count - 1. u is a multiple of 2^-24 below 1; u * count, even rounded, is below count."""
    return (u * count).to(torch.int32)


def _places(parameters: Augmentation, h: int, w: int, device: torch.device, transpose: bool) -> tuple[Tensor, Tensor]:
    """(index of the pixel that each pixel comes from, whether there is one), both (N, H, W)."""
    rows, columns = (torch.arange(side, dtype=torch.int32, device=device).expand(1, -1) for side in (h, w))
    down, right = (parameters.translation[:, axis, None] for axis in (0, 1))
    flip = parameters.flip[:, None]
    if transpose:
        i, j = rows - down, torch.where(flip, w - 1 - columns, columns) - right
        i_from, j_from = i, j
    else:
        i, j = rows, columns
        i_from, j_from = rows + down, columns + right
    inside_i, inside_j = (i_from >= 0) & (i_from < h), (j_from >= 0) & (j_from < w)
    begin = parameters.cutout_centre - parameters.cutout_size // 2
    end = begin + parameters.cutout_size
    cut_i = (i >= begin[:, :1]) & (i < end[:, :1])
    cut_j = (j >= begin[:, 1:]) & (j < end[:, 1:])
    inside = (inside_i[:, :, None] & inside_j[:, None]) & ~(cut_i[:, :, None] & cut_j[:, None])
    if not transpose:
        j_from = torch.where(flip, w - 1 - j_from, j_from)
    source = i_from.clamp(0, h - 1).long()[:, :, None] * w + j_from.clamp(0, w - 1)[:, None]
    return source, inside
