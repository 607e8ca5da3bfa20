"""`torch_utils.ops.filtered_lrelu`: see `fastgan.compat.torch_utils_ops` for the imports to change."""

from __future__ import annotations

import math

from torch import Tensor

from fastgan.compat.torch_utils_ops.bias_act import check_impl
from fastgan.layers.filtered_lrelu import filtered_lrelu as _filtered_lrelu
from fastgan.layers.filters import Scale


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
    impl: str = "cuda",
) -> Tensor:
    """StyleGAN3's leaky ReLU between an upsampling and a downsampling filter: `fastgan.layers.filtered_lrelu`. impl
    has no effect."""
    check_impl(impl)
    return _filtered_lrelu(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
