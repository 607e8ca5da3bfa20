"""A leaky ReLU without aliasing: at a higher resolution, between an upsampling and a downsampling filter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.formulas.upfirdn2d import output_size
from fastgan.layers.filters import Scale, autocast, boolean, clamp_of, number, scale_of, sides_of, taps_of
from fastgan.operators import filtered_lrelu as operators


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Scale = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """The nonlinearity of StyleGAN3 (Karras et al. 2021, section 3.2, and appendix D for its derivatives):

        u = upfirdn2d(x + b, fu, up=up, padding=padding, gain=up^2)
        a = clamp(gain * leaky_relu(u, slope), -clamp, clamp)
        y = upfirdn2d(a, fd, down=down)

    One launch forward and one for each derivative in x. No tensor of the size of u is allocated: x is saved, and the
    slopes are recomputed. Two launches forward and three for a derivative if a filter is a matrix, or if very many taps
    or a period of up and down of 12 need more registers than there are. If a filter requires a gradient, `upfirdn2d`
    and PyTorch's leaky ReLU run instead.

    Args:
        x: (N, C, H, W); float16, bfloat16, float32 or float64. Half precision is computed in float32, and rounded once
            (twice by two launches).
        fu, fd: float32 filters on the device of x, as for `upfirdn2d`; None for a tap of 1.
        b: (C,), of the dtype of x, added to each channel; or None. It is not added to the padding, which is 0.
        up, down: integers >= 1.
        padding: of the upsampled image, negative to crop: a number, (x, y) or (left, right, top, bottom).
        gain: > 0. slope: >= 0. Both finite. clamp: >= 0, or None.
        flip_filter: as for `upfirdn2d`, for both filters.

    Returns:
        (N, C, height, width) in the dtype and layout of x. Differentiable any number of times, in x, b and the filters;
        the slope at 0 is `slope`, and 0 where clamped, as in PyTorch. Under autocast x and b are cast as
        for `torch.nn.functional.conv2d`.

    Raises:
        TypeError, ValueError: x, a filter or b of another rank, shape, dtype or device; a number out of range; a result
            without pixels.
    """
    taps_up, taps_down = taps_of("fu", fu, x), taps_of("fd", fd, x)
    for name, value in (("up", up), ("down", down)):
        if isinstance(value, (list, tuple)):
            raise TypeError(f"{name}: got {value!r}, expected an integer")
    first = (scale_of("up", up), (1, 1), sides_of(padding), flip_filter, float(up * up))
    second = ((1, 1), scale_of("down", down), (0, 0, 0, 0), flip_filter, 1.0)
    boolean("flip_filter", flip_filter)
    gain, slope, limit = number("gain", gain), number("slope", slope), clamp_of(clamp)
    if not gain > 0:
        raise ValueError(f"gain: got {gain}, expected a number above 0")
    if not slope >= 0:
        raise ValueError(f"slope: got {slope}, expected at least 0")
    activation = gain, slope, None if limit == math.inf else limit
    between = output_size((x.shape[2], x.shape[3]), taps_up, *first[:3])
    if min(between) < 1 or min(output_size(between, taps_down, *second[:3])) < 1:
        raise ValueError(
            f"padding: got {padding!r} for x of {x.shape[2]} x {x.shape[3]} pixels, up {up}, down {down} and filters "
            f"of {taps_up[0]} x {taps_up[1]} and {taps_down[0]} x {taps_down[1]} taps, which leaves no pixels"
        )
    if b is not None:
        if not isinstance(b, Tensor):
            raise TypeError(f"b: got {type(b).__name__}, expected a torch.Tensor or None")
        if b.shape != x.shape[1:2]:
            raise ValueError(f"b: got shape {tuple(b.shape)}, expected ({x.shape[1]},), one a channel of x")
        if b.device != x.device or autocast(b).dtype != autocast(x).dtype:
            raise ValueError(f"b: got {b.dtype} on {b.device}, expected {x.dtype} on {x.device}, as x is")
        b = autocast(b)
    fu = torch.ones(1, dtype=torch.float32, device=x.device) if fu is None else fu
    fd = torch.ones(1, dtype=torch.float32, device=x.device) if fd is None else fd
    return operators.filtered_lrelu(autocast(x), fu, fd, b, first, second, activation)
