"""Resampling of images by FIR filters: upsample, pad or crop, filter, downsample, in one launch.

The functions of StyleGAN's `torch_utils.ops.upfirdn2d` (Karras et al. 2020, section 5.1 and appendix B of 2021, for the
filters), without a compiler: CUDA tensors run on a Triton kernel, others on PyTorch's convolutions. They are
differentiable any number of times, in x and, unlike StyleGAN's, in the filter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.formulas.upfirdn2d import output_size
from fastgan.layers.filters import Scale, autocast, boolean, number, scale_of, sides_of, taps_of
from fastgan.operators import upfirdn2d as operators


def setup_filter(
    f: Tensor | Sequence | float | None,
    device: torch.device | str | None = None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A filter as the other functions expect it: float32, on `device` (the CPU by default).

    Args:
        f: a number, or a list or tensor of taps for both axes or of (rows, columns); or None for one tap of 1.
        normalize: divide by the sum, so that an image keeps its mean.
        flip_filter: reverse the taps.
        gain: multiplies a filtered image. A separable filter is applied twice, so its taps get the square root.
        separable: True keeps a 1-D filter, to be applied along each axis in turn; False makes it 2-D, the outer product
            of its taps. By default True for a 1-D filter from 8 taps on.

    Raises:
        TypeError, ValueError: f is not of numbers, has no taps or more than two dimensions; a 2-D f with
            separable=True; a flag or gain of another type; a negative gain of a separable filter.
    """
    for name, flag in (("normalize", normalize), ("flip_filter", flip_filter)):
        boolean(name, flag)
    gain = number("gain", gain)
    try:
        taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu" if device is None else device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"f: got {type(f).__name__}, expected a number, a list of numbers, a tensor or None") from error
    if taps.dim() > 2 or not taps.numel():
        raise ValueError(f"f: got shape {tuple(taps.shape)}, expected (taps,) or (rows, columns), at least one tap")
    taps = taps.reshape(1) if taps.dim() == 0 else taps
    if separable is None:
        separable = taps.dim() == 1 and taps.numel() >= 8
    boolean("separable", separable)
    if separable and taps.dim() == 2:
        raise ValueError("separable: got True for a 2-D f, expected False or None")
    if taps.dim() == 1 and not separable:
        taps = torch.outer(taps, taps)
    if gain < 0 and taps.dim() == 1:
        raise ValueError(
            f"gain: got {gain}, expected at least 0 for a separable filter, whose taps get its square root"
        )
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(tuple(range(taps.dim())))
    return taps * gain ** (taps.dim() / 2)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Scale = 1,
    down: Scale = 1,
    padding: Scale = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Each channel of x, upsampled, padded or cropped, filtered and downsampled:

        u = x with up - 1 zeros after each pixel, then `padding` zeros around it
        y[i, j] = gain * sum_kl f[taps - 1 - k, taps - 1 - l] u[i down + k, j down + l]

    Args:
        x: (N, C, H, W); float16, bfloat16, float32 or float64. Half precision is computed in float32. Any strides are
            read in place.
        f: float32 filter on the device of x: (rows, columns), (taps,) for both axes, or None for a tap of 1.
        up, down: integers >= 1, or (x, y).
        padding: zeros around the upsampled image, negative to crop: a number, (x, y) or (left, right, top, bottom).
        flip_filter: False: a convolution, as above; True: a correlation, f[k, l] in place of f[taps - 1 - k, ...].
        gain: multiplies the result.

    Returns:
        (N, C, (H up + top + bottom - rows) // down + 1, and likewise the width), in the dtype of x, laid out in
        channels_last if x is. Differentiable any number of times in x and f. Under autocast x is cast as for
        `torch.nn.functional.conv2d`.

    Raises:
        TypeError, ValueError: x or f of another rank, dtype or device; up, down or padding out of range; a result
            without pixels.
    """
    return _run(x, f, scale_of("up", up), scale_of("down", down), sides_of(padding), flip_filter, number("gain", gain))


def filter2d(x: Tensor, f: Tensor | None, padding: Scale = 0, flip_filter: bool = False, gain: float = 1) -> Tensor:
    """`upfirdn2d` with up = down = 1 and padding that keeps the size of x; `padding` is added to that."""
    left, right, top, bottom = sides_of(padding)
    rows, columns = taps_of("f", f, x)
    padded = (left + columns // 2, right + (columns - 1) // 2, top + rows // 2, bottom + (rows - 1) // 2)
    return _run(x, f, (1, 1), (1, 1), padded, flip_filter, number("gain", gain))


def upsample2d(
    x: Tensor, f: Tensor | None, up: Scale = 2, padding: Scale = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """`upfirdn2d` to `up` times the size of x; `padding`, in pixels of the result, is added to that.

    gain: is multiplied by up_x up_y, so that the zeros between pixels do not darken the image."""
    (up_x, up_y), (left, right, top, bottom) = scale_of("up", up), sides_of(padding)
    rows, columns = taps_of("f", f, x)
    across = left + (columns + up_x - 1) // 2, right + (columns - up_x) // 2
    along = top + (rows + up_y - 1) // 2, bottom + (rows - up_y) // 2
    return _run(x, f, (up_x, up_y), (1, 1), (*across, *along), flip_filter, number("gain", gain) * up_x * up_y)


def downsample2d(
    x: Tensor, f: Tensor | None, down: Scale = 2, padding: Scale = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """`upfirdn2d` to 1 / `down` of the size of x; `padding`, in pixels of x, is added to that."""
    (down_x, down_y), (left, right, top, bottom) = scale_of("down", down), sides_of(padding)
    rows, columns = taps_of("f", f, x)
    across = left + (columns - down_x + 1) // 2, right + (columns - down_x) // 2
    along = top + (rows - down_y + 1) // 2, bottom + (rows - down_y) // 2
    return _run(x, f, (1, 1), (down_x, down_y), (*across, *along), flip_filter, number("gain", gain))


def _run(x, f, up, down, padding, flip_filter, gain) -> Tensor:
    taps = taps_of("f", f, x)
    boolean("flip_filter", flip_filter)
    size = output_size(tuple(x.shape[2:]), taps, up, down, padding)
    if min(size) < 1:
        raise ValueError(
            f"padding: got {padding} for x of {x.shape[2]} x {x.shape[3]} pixels, up {up}, down {down} and a filter of "
            f"{taps[0]} x {taps[1]} taps, which leaves no pixels"
        )
    if f is None:
        f = torch.ones(1, 1, dtype=torch.float32, device=x.device)
    return operators.upfirdn2d(autocast(x), f, up, down, padding, flip_filter, gain)
