"""A leaky ReLU between two filters, in two launches: upsample and activate, downsample. See `upfirdn2d`.

    y = R2 a(R1 x),    R1, R2: `upfirdn2d`, linear;  a: leaky ReLU, gain and clamp

The first launch writes a(R1 x) and the code of each slope, a byte; nothing else is kept for the derivative, which is
R1^T (s * R2^T g): again two launches, the first of which multiplies by the slopes s. That map is linear in g, and its
own transpose has the same form, R2 (s * R1 v): so every derivative is one of these two functions.
"""

from __future__ import annotations

from torch import Tensor

from .upfirdn2d import activated, times_slopes, upfirdn2d


def filtered_lrelu(
    x: Tensor, f1: Tensor, f2: Tensor, first: tuple, second: tuple, gain: float, slope: float, clamp: float | None
) -> tuple[Tensor, Tensor]:
    """(y, codes). first, second: (up, down, padding, flip, gain) of R1 and R2, as `upfirdn2d` takes them; f1, f2: their
    filters. codes: int8, of the size between the two: which slope each element had."""
    a, codes = activated(x, f1, first, gain, slope, clamp)
    return upfirdn2d(a, f2, *second), codes


def filtered_slopes(
    v: Tensor, f1: Tensor, f2: Tensor, codes: Tensor, first: tuple, second: tuple, gain: float, slope: float
) -> Tensor:
    """R2 (s * R1 v), with the slopes s that `codes` stand for."""
    return upfirdn2d(times_slopes(v, f1, first, codes, gain, slope), f2, *second)
