"""A leaky ReLU between two filters as operators: see `operators.upfirdn2d`, and `kernels.filtered_lrelu` for why two
functions make every derivative.

    fastgan::filtered_lrelu    -> (R2 a(R1 x), codes)
    fastgan::filtered_slopes   -> R2 (s * R1 v), with the slopes s that the codes stand for
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas import filtered_lrelu as formula
from fastgan.formulas.upfirdn2d import is_channels_last, output_size, padding_of_gradient
from fastgan.operators.dispatch import applied, backend, needs_operator
from fastgan.operators.upfirdn2d import upfirdn2d

_FILTERS = ", ".join(f"int[] up{i}, int[] down{i}, SymInt[] padding{i}, bool flip{i}, float gain{i}" for i in (1, 2))
_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(
    f"filtered_lrelu(Tensor x, Tensor f1, Tensor f2, {_FILTERS}, float gain, float slope, float? clamp) "
    "-> (Tensor, Tensor)"
)
_library.define(
    f"filtered_slopes(Tensor v, Tensor f1, Tensor f2, Tensor codes, {_FILTERS}, float gain, float slope) -> Tensor"
)


def _lrelu(x, f1, f2, *settings):
    return backend(x.device).filtered_lrelu(x, f1, f2, settings[:5], settings[5:10], *settings[10:])


def _slopes(v, f1, f2, codes, *settings):
    return backend(v.device).filtered_slopes(v, f1, f2, codes, settings[:5], settings[5:10], *settings[10:])


def _resampled(x, f, settings):
    """What `upfirdn2d` returns for x, without its values."""
    size = output_size(x.shape[2:], (f.shape[0], f.shape[-1]), *settings[:3])
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)


def _fake_lrelu(x, f1, f2, *settings):
    a = _resampled(x, f1, settings[:5])
    return _resampled(a, f2, settings[5:10]), torch.empty_like(a, dtype=torch.int8)


def _fake_slopes(v, f1, f2, codes, *settings):
    return _resampled(_resampled(v, f1, settings[:5]), f2, settings[5:10])


for _name, _implementation, _fake in (
    ("filtered_lrelu", _lrelu, _fake_lrelu),
    ("filtered_slopes", _slopes, _fake_slopes),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


def _transposed(settings: tuple, size: tuple, f: Tensor) -> tuple:
    """The settings of the transpose of `upfirdn2d` of images of `size`."""
    up, down, padding, flip, gain = settings
    return down, up, padding_of_gradient(size, (f.shape[0], f.shape[-1]), up, down, padding), not flip, gain


def _gradient(ctx, g, f1, f2, codes):
    """R1^T (s * R2^T g)."""
    first, second = _transposed(ctx.second, codes.shape[2:], f2), _transposed(ctx.first, ctx.size, f1)
    call = _Slopes.apply if torch.is_grad_enabled() else _Slopes.forward  # create_graph=True, or not
    return call(first, second, ctx.slopes, g, f2, f1, codes)


class _Lrelu(Function):
    """(y, codes). Nothing is saved but the codes."""

    @staticmethod
    def forward(first, second, activation, x, f1, f2):
        call = torch.ops.fastgan.filtered_lrelu if needs_operator((x, f1, f2)) else _lrelu
        return call(x, f1, f2, *first, *second, *activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.first, ctx.second, activation, x, f1, f2 = inputs
        ctx.slopes, ctx.size = activation[:2], x.shape[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(f1, f2, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, g, _):
        of_x = None if g is None else _gradient(ctx, g, *ctx.saved_tensors)
        return None, None, None, of_x, None, None

    @staticmethod
    def vmap(info, in_dims, first, second, activation, x, f1, f2):
        (x,), n = _images(info, in_dims[3:4], (x,), in_dims[4:])
        made = _Lrelu.apply(first, second, activation, x, f1, f2)
        return tuple([t.unflatten(0, n) for t in made]), (0, 0)


class _Slopes(Function):
    """R2 (s * R1 v), linear in v."""

    @staticmethod
    def forward(first, second, slopes, v, f1, f2, codes):
        call = torch.ops.fastgan.filtered_slopes if needs_operator((v, f1, f2, codes)) else _slopes
        return call(v, f1, f2, codes, *first, *second, *slopes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.first, ctx.second, ctx.slopes, v, f1, f2, codes = inputs
        ctx.size = v.shape[2:]
        ctx.save_for_backward(f1, f2, codes)

    @staticmethod
    def backward(ctx, g):
        return None, None, None, _gradient(ctx, g, *ctx.saved_tensors), None, None, None

    @staticmethod
    def vmap(info, in_dims, first, second, slopes, v, f1, f2, codes):
        dims = (in_dims[3], in_dims[6])
        (v, codes), n = _images(info, dims, (v, codes), in_dims[4:6])
        return _Slopes.apply(first, second, slopes, v, f1, f2, codes).unflatten(0, n), 0


def _images(info, dims, tensors, filters):
    """Batches of batches as one, and the two sizes that it was made of."""
    if any(dim is not None for dim in filters):
        raise NotImplementedError("filtered_lrelu: no vmap over filters; call upfirdn2d, which has one, and leaky_relu")
    moved = [t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0) for dim, t in zip(dims, tensors)]
    return [t.flatten(0, 1) for t in moved], moved[0].shape[:2]


def filtered_lrelu(x: Tensor, fu: Tensor, fd: Tensor, first: tuple, second: tuple, activation: tuple) -> Tensor:
    """The arguments and the result of `formulas.filtered_lrelu` without a bias, differentiable in x and the filters."""
    if fu.requires_grad or fd.requires_grad:
        return formula.filtered_lrelu(x, fu, fd, None, first, second, *activation, resample=upfirdn2d)
    return applied(_Lrelu, (first, second, activation), (x, fu, fd))[0]
