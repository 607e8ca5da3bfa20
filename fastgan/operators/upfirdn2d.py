"""Upsample, filter and downsample as an operator: see `operators.adversarial` for the pattern.

    fastgan::upfirdn2d

The operator is linear in x, and its gradient is itself with other settings: derivatives of any order are launches of
the same kernel. The gradient in the filter, which is rarely needed, is a convolution of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas import upfirdn2d as formula
from fastgan.operators.dispatch import applied, backend, needs_operator

_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(
    "upfirdn2d(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor"
)


def _upfirdn2d(x, f, up, down, padding, flip, gain):
    return backend(x.device).upfirdn2d(x, f, up, down, padding, flip, gain)


def _fake(x, f, up, down, padding, flip, gain):
    size = formula.output_size(x.shape[2:], (f.shape[0], f.shape[-1]), up, down, padding)
    layout = torch.channels_last if formula.is_channels_last(x) else torch.contiguous_format
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)


_library.impl("upfirdn2d", _upfirdn2d, "CompositeExplicitAutograd")
torch.library.register_fake("fastgan::upfirdn2d", _fake, lib=_library)


class _Upfirdn2d(Function):
    """settings: (up, down, padding, flip, gain). Forward-mode differentiation raises: there is no jvp."""

    @staticmethod
    def forward(settings, x, f):
        call = torch.ops.fastgan.upfirdn2d if needs_operator((x, f)) else _upfirdn2d
        return call(x, f, *settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings, x, f = inputs
        ctx.size = x.shape[2:]
        ctx.save_for_backward(x if f.requires_grad else None, f)  # the gradient in x does not need x

    @staticmethod
    def backward(ctx, g):
        x, f = ctx.saved_tensors
        up, down, padding, flip, gain = ctx.settings
        of_x = of_f = None
        if ctx.needs_input_grad[1]:
            padding_of = formula.padding_of_gradient(ctx.size, (f.shape[0], f.shape[-1]), up, down, padding)
            settings = (down, up, padding_of, not flip, gain)
            call = _Upfirdn2d.apply if torch.is_grad_enabled() else _Upfirdn2d.forward  # create_graph=True, or not
            of_x = call(settings, g, f)
        if ctx.needs_input_grad[2]:
            of_f = formula.filter_gradient(g, x, f, up, down, padding, flip, gain)
        return None, of_x, of_f

    @staticmethod
    def vmap(info, in_dims, settings, x, f):
        _, of_x, of_f = in_dims
        if of_f is None:  # images with one filter are a batch
            x = x.movedim(of_x, 0)
            y = _Upfirdn2d.apply(settings, x.flatten(0, 1), f)
            return y.unflatten(0, x.shape[:2]), 0
        samples = range(info.batch_size)
        results = [
            _Upfirdn2d.apply(settings, x if of_x is None else x.select(of_x, i), f.select(of_f, i)) for i in samples
        ]
        return torch.stack(results), 0


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """The arguments and the result of `kernels.upfirdn2d`, differentiable in x and f."""
    return applied(_Upfirdn2d, ((up, down, padding, flip, gain),), (x, f))
