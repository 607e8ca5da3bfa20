"""A leaky ReLU between two filters as operators: see `operators.upfirdn2d`, and `kernels.filtered_lrelu` for why two
functions suffice for every derivative.

    fastgan::filtered_lrelu    -> R2 a(R1 (x + b))
    fastgan::filtered_slopes   -> R2 (s * R1 v), with the slopes s of a at Rg (x + b)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas import filtered_lrelu as formula
from fastgan.formulas.upfirdn2d import is_channels_last, output_size, padding_of_gradient
from fastgan.operators.dispatch import applied, backend, needs_operator
from fastgan.operators.upfirdn2d import upfirdn2d

_OF_FILTER = "int[] up{0}, int[] down{0}, SymInt[] padding{0}, bool flip{0}, float gain{0}"
_ACTIVATION = "float gain, float slope, float? clamp"
_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(
    f"filtered_lrelu(Tensor x, Tensor? b, Tensor f1, Tensor f2, {_OF_FILTER.format(1)}, {_OF_FILTER.format(2)}, "
    f"{_ACTIVATION}) -> Tensor"
)
_library.define(
    "filtered_slopes(Tensor v, Tensor x, Tensor? b, Tensor f1, Tensor f2, Tensor fg, "
    f"{', '.join(map(_OF_FILTER.format, (1, 2, 'g')))}, {_ACTIVATION}) -> Tensor"
)


def _lrelu(x, b, f1, f2, *settings):
    return backend(x.device).filtered_lrelu(x, b, f1, f2, settings[:5], settings[5:10], *settings[10:])


def _slopes(v, x, b, f1, f2, fg, *settings):
    filters = settings[:5], settings[5:10], settings[10:15]
    return backend(v.device).filtered_slopes(v, x, b, f1, f2, fg, *filters, *settings[15:])


def _resampled(x, f, settings):
    """An empty tensor of the shape and layout that `upfirdn2d` returns for x."""
    size = output_size(x.shape[2:], (f.shape[0], f.shape[-1]), *settings[:3])
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_lrelu(x, b, f1, f2, *settings):
    return _resampled(_resampled(x, f1, settings[:5]), f2, settings[5:10])


def _fake_slopes(v, x, b, f1, f2, fg, *settings):
    return _resampled(_resampled(v, f1, settings[:5]), f2, settings[5:10])


for _name, _implementation, _fake in (
    ("filtered_lrelu", _lrelu, _fake_lrelu),
    ("filtered_slopes", _slopes, _fake_slopes),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


def _size(size: Sequence[int], f: Tensor, settings: tuple) -> tuple[int, int]:
    return output_size(size, (f.shape[0], f.shape[-1]), *settings[:3])


def _transposed(settings: tuple, size: Sequence[int], f: Tensor) -> tuple:
    """The settings of the transpose of `upfirdn2d` of images of `size`."""
    up, down, padding, flip, gain = settings
    return down, up, padding_of_gradient(size, (f.shape[0], f.shape[-1]), up, down, padding), not flip, gain


def _gradient(first, second, gate, activation, size, g, x, f1, f2, fg, bias):
    """R1^T (s * R2^T g). size: of the images that R1 gets."""
    between = _size(size, f1, first)
    settings = _transposed(second, between, f2), _transposed(first, size, f1), gate, activation
    call = _Slopes.apply if torch.is_grad_enabled() else _Slopes.forward  # create_graph=True, or not
    return call(*settings, g, x, f2, f1, fg, *bias)


class _Lrelu(Function):
    """y; `bias` is one tensor or none. Only the inputs are saved."""

    @staticmethod
    def forward(first, second, activation, x, f1, f2, *bias):
        call = torch.ops.fastgan.filtered_lrelu if needs_operator((x, f1, f2, *bias)) else _lrelu
        return call(x, bias[0] if bias else None, f1, f2, *first, *second, *activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.first, ctx.second, ctx.activation, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, g):
        x, f1, f2, *bias = ctx.saved_tensors
        of_x = _gradient(ctx.first, ctx.second, ctx.first, ctx.activation, x.shape[2:], g, x, f1, f2, f1, bias)
        of_b = [of_x.sum((0, 2, 3)) for _ in bias]
        return None, None, None, of_x, None, None, *of_b

    @staticmethod
    def vmap(info, in_dims, first, second, activation, x, f1, f2, *bias):
        (x,), bias, n = _images(info, in_dims[3:4], (x,), in_dims[4:6], in_dims[6:], bias)
        return _Lrelu.apply(first, second, activation, x, f1, f2, *bias).unflatten(0, n), 0


class _Slopes(Function):
    """R2 (s * R1 v), linear in v. s, from x and its bias, has derivative 0."""

    @staticmethod
    def forward(first, second, gate, activation, v, x, f1, f2, fg, *bias):
        call = torch.ops.fastgan.filtered_slopes if needs_operator((v, x, f1, f2, fg, *bias)) else _slopes
        return call(v, x, bias[0] if bias else None, f1, f2, fg, *first, *second, *gate, *activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *ctx.settings, v, x, f1, f2, fg = inputs[:9]
        ctx.size = v.shape[2:]
        ctx.save_for_backward(x, f1, f2, fg, *inputs[9:])

    @staticmethod
    def backward(ctx, g):
        x, f1, f2, fg, *bias = ctx.saved_tensors
        first, second, gate, activation = ctx.settings
        of_v = _gradient(first, second, gate, activation, ctx.size, g, x, f1, f2, fg, bias)
        return None, None, None, None, of_v, None, None, None, None, *[None] * len(bias)

    @staticmethod
    def vmap(info, in_dims, first, second, gate, activation, v, x, f1, f2, fg, *bias):
        (x, v), bias, n = _images(info, in_dims[5:3:-1], (x, v), in_dims[6:9], in_dims[9:], bias)
        return _Slopes.apply(first, second, gate, activation, v, x, f1, f2, fg, *bias).unflatten(0, n), 0


def _images(info, dims, tensors, of_filters, of_bias, bias):
    """Merge the mapped dimension into the batch: (tensors, bias of the first one or none, the two merged sizes)."""
    if any(dim is not None for dim in of_filters):
        raise NotImplementedError("filtered_lrelu: no vmap over filters; call upfirdn2d, which has one, and leaky_relu")
    moved = [t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0) for dim, t in zip(dims, tensors)]
    if any(dim is not None for dim in of_bias):  # one a sample
        moved[0], bias = moved[0] + bias[0].movedim(of_bias[0], 0)[:, None, :, None, None], ()
    return [t.flatten(0, 1) for t in moved], bias, moved[0].shape[:2]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    first: tuple,
    second: tuple,
    activation: tuple[float, float, float | None],
) -> Tensor:
    """The arguments and the result of `formulas.filtered_lrelu`, differentiable in x, b and the filters."""
    if fu.requires_grad or fd.requires_grad:
        return formula.filtered_lrelu(x, fu, fd, b, first, second, *activation, resample=upfirdn2d)
    return applied(_Lrelu, (first, second, activation), (x, fu, fd) if b is None else (x, fu, fd, b))
