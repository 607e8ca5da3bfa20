"""Resampling of images by FIR filters: upsample, pad or crop, filter, downsample, in one launch.

The functions of StyleGAN's `torch_utils.ops.upfirdn2d` (Karras et al. 2020, section 5.1 and appendix B of 2021, for the
filters), with nothing to compile: CUDA tensors run on a Triton kernel, others on PyTorch's convolutions. They are
differentiable any number of times, in x and, unlike there, in the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from fastgan.formulas.upfirdn2d import output_size
from fastgan.operators import upfirdn2d as operators

Scale = int | Sequence[int]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        f: a number or a list or tensor of them, for both axes; one of (rows, columns); or None for one tap of 1.
        normalize: divide by the sum, so that an image keeps its mean.
        flip_filter: turn the taps round.
        gain: what a filtered image is multiplied by; each of the two filters of a separable one by its square root.
        separable: keep a 1-D filter as it is, to be used along each axis in turn, or make it a 2-D one, the product of
            its taps. By default it is kept from 8 taps on.

    Raises:
        TypeError, ValueError: f is not of numbers, has no taps or more than two dimensions; a 2-D f with
            separable=True; a flag or gain of another type.
    """
    for name, flag in (("normalize", normalize), ("flip_filter", flip_filter)):
        _boolean(name, flag)
    gain = _number("gain", gain)
    try:
        taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu" if device is None else device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"f: got {type(f).__name__}, expected a number, a list of numbers, a tensor or None") from error
    if taps.dim() > 2 or not taps.numel():
        raise ValueError(f"f: got shape {tuple(taps.shape)}, expected (taps,) or (rows, columns), at least one tap")
    taps = taps.reshape(1) if taps.dim() == 0 else taps
    if separable is None:
        separable = taps.dim() == 1 and taps.numel() >= 8
    _boolean("separable", separable)
    if separable and taps.dim() == 2:
        raise ValueError("separable: got True for a 2-D f, expected False or None")
    if taps.dim() == 1 and not separable:
        taps = torch.outer(taps, taps)
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
        up, down: integers from 1 on, or (x, y).
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
    return _run(x, f, _scale("up", up), _scale("down", down), _sides(padding), flip_filter, _number("gain", gain))


def filter2d(x: Tensor, f: Tensor | None, padding: Scale = 0, flip_filter: bool = False, gain: float = 1) -> Tensor:
    """`upfirdn2d` with up = down = 1 and padding that keeps the size of x; `padding` comes on top of that."""
    left, right, top, bottom = _sides(padding)
    rows, columns = _taps(x, f)
    padded = (left + columns // 2, right + (columns - 1) // 2, top + rows // 2, bottom + (rows - 1) // 2)
    return _run(x, f, (1, 1), (1, 1), padded, flip_filter, _number("gain", gain))


def upsample2d(
    x: Tensor, f: Tensor | None, up: Scale = 2, padding: Scale = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """`upfirdn2d` to `up` times the size of x; `padding`, in pixels of the result, comes on top of that.

    gain: of the image, which the zeros between its pixels do not darken: multiplied by up_x up_y."""
    (up_x, up_y), (left, right, top, bottom) = _scale("up", up), _sides(padding)
    rows, columns = _taps(x, f)
    across = left + (columns + up_x - 1) // 2, right + (columns - up_x) // 2
    along = top + (rows + up_y - 1) // 2, bottom + (rows - up_y) // 2
    return _run(x, f, (up_x, up_y), (1, 1), (*across, *along), flip_filter, _number("gain", gain) * up_x * up_y)


def downsample2d(
    x: Tensor, f: Tensor | None, down: Scale = 2, padding: Scale = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """`upfirdn2d` to a `down`-th of the size of x; `padding`, in pixels of x, comes on top of that."""
    (down_x, down_y), (left, right, top, bottom) = _scale("down", down), _sides(padding)
    rows, columns = _taps(x, f)
    across = left + (columns - down_x + 1) // 2, right + (columns - down_x) // 2
    along = top + (rows - down_y + 1) // 2, bottom + (rows - down_y) // 2
    return _run(x, f, (1, 1), (down_x, down_y), (*across, *along), flip_filter, _number("gain", gain))


def _run(x, f, up, down, padding, flip_filter, gain) -> Tensor:
    taps = _taps(x, f)
    _boolean("flip_filter", flip_filter)
    size = output_size(tuple(x.shape[2:]), taps, up, down, padding)
    if min(size) < 1:
        raise ValueError(
            f"padding: got {padding} for x of {x.shape[2]} x {x.shape[3]} pixels, up {up}, down {down} and a filter of "
            f"{taps[0]} x {taps[1]} taps, which leaves no pixels"
        )
    if f is None:
        f = torch.ones(1, 1, dtype=torch.float32, device=x.device)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(kind))
    return operators.upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def _taps(x: Tensor, f: Tensor | None) -> tuple[int, int]:
    """(rows, columns) of a filter; errors unless both are tensors that `upfirdn2d` takes."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: got {x.dtype}, expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided or x.dim() != 4:
        raise ValueError(f"x: got a {x.layout} tensor of shape {tuple(x.shape)}, expected a dense one, (N, C, H, W)")
    if f is None:
        return 1, 1
    if not isinstance(f, Tensor):
        raise TypeError(f"f: got {type(f).__name__}, expected a torch.Tensor, as setup_filter makes it, or None")
    if f.dtype != torch.float32:
        raise TypeError(f"f: got {f.dtype}, expected float32, whatever x is")
    if f.dim() not in (1, 2) or not f.numel():
        raise ValueError(f"f: got shape {tuple(f.shape)}, expected (taps,) or (rows, columns), at least one tap")
    if f.device != x.device:
        raise ValueError(f"f: got a tensor on {f.device}, expected {x.device}, the device of x")
    return f.shape[0], f.shape[-1]


def _integers(name: str, value: Scale, lengths: tuple[int, ...], expected: str) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) else (value,)
    for v in values:
        if isinstance(v, bool) or not isinstance(v, Integral):
            raise TypeError(f"{name}: got {value!r}, expected {expected}")
    if len(values) not in lengths:
        raise ValueError(f"{name}: got {len(values)} numbers, expected {expected}")
    return tuple([int(v) for v in values])


def _scale(name: str, value: Scale) -> tuple[int, int]:
    found = _integers(name, value, (1, 2), "an integer or two, (x, y)")
    if min(found) < 1:
        raise ValueError(f"{name}: got {value!r}, expected at least 1")
    return found[0], found[-1]


def _sides(padding: Scale) -> tuple[int, int, int, int]:
    found = _integers("padding", padding, (1, 2, 4), "an integer, two, (x, y), or four, (left, right, top, bottom)")
    if len(found) == 4:
        return found[0], found[1], found[2], found[3]
    return found[0], found[0], found[-1], found[-1]


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
    return float(value)


def _boolean(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")
