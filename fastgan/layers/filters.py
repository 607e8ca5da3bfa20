"""Checks of the layers' arguments. Errors name the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from fastgan import checks

Scale = int | Sequence[int]  # one for both axes, or (x, y)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST = 3.4e38  # kernels hold a number as one float32, or two


def taps_of(name: str, f: Tensor | None, x: Tensor) -> tuple[int, int]:
    """(rows, columns) of the filter f, which errors call `name`. Raise unless x is images and f is a filter or None."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: got {x.dtype}, expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided or x.dim() != 4:
        raise ValueError(f"x: got a {x.layout} tensor of shape {tuple(x.shape)}, expected a dense one, (N, C, H, W)")
    if f is None:
        return 1, 1
    if not isinstance(f, Tensor):
        raise TypeError(f"{name}: got {type(f).__name__}, expected a torch.Tensor, as setup_filter makes it, or None")
    if f.dtype != torch.float32:
        raise TypeError(f"{name}: got {f.dtype}, expected float32, whatever x is")
    if f.layout is not torch.strided or f.dim() not in (1, 2) or not f.numel():
        raise ValueError(f"{name}: got shape {tuple(f.shape)}, expected (taps,) or (rows, columns), at least one tap")
    if f.device != x.device:
        raise ValueError(f"{name}: got a tensor on {f.device}, expected {x.device}, the device of x")
    return f.shape[0], f.shape[-1]


def scale_of(name: str, value: Scale) -> tuple[int, int]:
    """(x, y) of `up` or `down`."""
    scales = _integers(name, value, (1, 2), "an integer or two, (x, y)")
    if min(scales) < 1:
        raise ValueError(f"{name}: got {value!r}, expected at least 1")
    return scales[0], scales[-1]


def sides_of(padding: Scale) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    sides = _integers("padding", padding, (1, 2, 4), "an integer, two, (x, y), or four, (left, right, top, bottom)")
    if len(sides) == 4:
        return sides[0], sides[1], sides[2], sides[3]
    return sides[0], sides[0], sides[-1], sides[-1]


def number(name: str, value: float) -> float:
    """A finite number."""
    checks.number(name, value)
    if not abs(value) < MOST:
        raise ValueError(f"{name}: got {value}, expected a finite number")
    return float(value)


def clamp_of(value: float | None) -> float:
    """The clamp; infinity for None, and for a clamp that no result reaches."""
    if value is None:
        return math.inf
    checks.number("clamp", value)
    if not value >= 0:
        raise ValueError(f"clamp: got {float(value)}, expected a number of at least 0, or None for no limit")
    return float(value) if value < MOST else math.inf


def boolean(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")


def autocast(x: Tensor) -> Tensor:
    """`x`, cast as autocast casts the input of a convolution."""
    kind = x.device.type
    if x.is_meta:  # PyTorch has no autocast for meta tensors
        return x
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


def _integers(name: str, value: Scale, lengths: tuple[int, ...], expected: str) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    for v in values:
        if isinstance(v, bool) or not isinstance(v, Integral):
            raise TypeError(f"{name}: got {value!r}, expected {expected}")
    if len(values) not in lengths:
        raise ValueError(f"{name}: got {len(values)} numbers, expected {expected}")
    return tuple([int(v) for v in values])
