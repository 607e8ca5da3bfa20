"""`torch_utils.ops.upfirdn2d`: see `fastgan.compat.torch_utils_ops` for the imports to change."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.compat.torch_utils_ops.bias_act import check_impl
from fastgan.layers.filters import Scale, scale_of, sides_of
from fastgan.layers.upfirdn2d import downsample2d as _downsample2d
from fastgan.layers.upfirdn2d import filter2d as _filter2d
from fastgan.layers.upfirdn2d import setup_filter as _setup_filter
from fastgan.layers.upfirdn2d import upfirdn2d as _upfirdn2d
from fastgan.layers.upfirdn2d import upsample2d as _upsample2d


def setup_filter(
    f,
    device: torch.device | str = torch.device("cpu"),  # noqa: B008 (upstream's default)
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter of numbers, a list, an array or a tensor: `fastgan.layers.setup_filter`."""
    return _setup_filter(f, device, normalize, flip_filter, gain, separable)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Scale = 1,
    down: Scale = 1,
    padding: Scale = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Upsample, pad, filter, downsample: `fastgan.layers.upfirdn2d`. impl has no effect."""
    check_impl(impl)
    return _upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def filter2d(
    x: Tensor, f: Tensor | None, padding: Scale = 0, flip_filter: bool = False, gain: float = 1, impl: str = "cuda"
) -> Tensor:
    """Filter without a change of size: `fastgan.layers.filter2d`. impl has no effect."""
    check_impl(impl)
    return _filter2d(x, f, padding, flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Scale = 2,
    padding: Scale = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Upsample by `up`: `fastgan.layers.upsample2d`. impl has no effect."""
    check_impl(impl)
    return _upsample2d(x, f, up, padding, flip_filter, gain)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Scale = 2,
    padding: Scale = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """Downsample by `down`: `fastgan.layers.downsample2d`. impl has no effect."""
    check_impl(impl)
    return _downsample2d(x, f, down, padding, flip_filter, gain)


# Upstream's conv2d_resample imports the following from here.


def _parse_padding(padding: Scale) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    return sides_of(padding)


def _parse_scaling(scaling: Scale) -> tuple[int, int]:
    """(x, y)."""
    return scale_of("scaling", scaling)


def _get_filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height)."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])
