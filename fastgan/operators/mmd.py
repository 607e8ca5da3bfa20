"""MMD^2 of two samples as operators, differentiable twice and more: see `operators.adversarial` for the pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas.mmd import MMDSettings, second_order
from fastgan.formulas.terms import wide_dtype, widen
from fastgan.operators.dispatch import applied, backend, needs_operator

_SETTINGS = "str kernel, float[] bandwidths, float alpha, bool unbiased, bool target, float weight, str precision"
_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(f"mmd_value(Tensor x, Tensor y, {_SETTINGS}) -> (Tensor, Tensor)")
_library.define(
    f"mmd_gradient(Tensor x, Tensor y, {_SETTINGS}, Tensor scale, bool of_x, bool of_y) -> (Tensor, Tensor)"
)
_library.define(
    f"mmd_value_and_gradient(Tensor x, Tensor y, {_SETTINGS}, Tensor? scale, float factor, bool of_y) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def _run(x: Tensor, y: Tensor, settings: MMDSettings, *, value: bool, of_x: bool, of_y: bool, scale=None, factor=1.0):
    """(loss, means, gradient at x, gradient at y), an empty tensor for a gradient that is not requested."""
    loss, means, *grads = backend(x.device).mmd(
        *(x, y, settings.bandwidths, settings.kernel),
        alpha=settings.alpha,
        powers=settings.powers(),
        unbiased=settings.unbiased,
        target=settings.target,
        weight=settings.weight,
        precision="exact" if settings.differences(x.shape[1]) else settings.precision,
        **dict(value=value, of_x=of_x, of_y=of_y, scale=scale, factor=factor),
    )
    return loss, means, *[x.new_empty(0) if g is None else g for g in grads]


def _value(x, y, *settings):
    return _run(x, y, MMDSettings(*settings), value=True, of_x=False, of_y=False)[:2]


def _gradient(x, y, *rest):
    *settings, scale, of_x, of_y = rest
    return _run(x, y, MMDSettings(*settings), value=False, of_x=of_x, of_y=of_y, scale=scale)[2:]


def _value_and_gradient(x, y, *rest):
    *settings, scale, factor, of_y = rest
    return _run(x, y, MMDSettings(*settings), value=True, of_x=True, of_y=of_y, scale=scale, factor=factor)


def _fake_value(x, y, *settings):
    dtype = wide_dtype(x.dtype)
    return x.new_empty((), dtype=dtype), x.new_empty(3, dtype=dtype)


def _fake_gradient(x, y, *rest):
    *_, of_x, of_y = rest
    return tuple(s.new_empty(s.shape if asked else 0) for s, asked in ((x, of_x), (y, of_y)))


def _fake_value_and_gradient(x, y, *rest):
    return *_fake_value(x, y), *_fake_gradient(x, y, True, rest[-1])


for _name, _implementation, _fake in (
    ("mmd_value", _value, _fake_value),
    ("mmd_gradient", _gradient, _fake_gradient),
    ("mmd_value_and_gradient", _value_and_gradient, _fake_value_and_gradient),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


class _Value(Function):
    """(L, means); L is differentiable. Forward-mode differentiation raises: there is no jvp."""

    @staticmethod
    def forward(settings, x, y):
        call = torch.ops.fastgan.mmd_value if needs_operator((x, y)) else _value
        return call(x, y, *settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings, x, y = inputs
        ctx.save_for_backward(x, y)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, scale, _):
        _, of_x, of_y = ctx.needs_input_grad
        if scale is None or not (of_x or of_y):
            return None, None, None
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            grads = _Gradient.apply(ctx.settings, of_x, of_y, scale, x, y)
        else:
            call = torch.ops.fastgan.mmd_gradient if needs_operator((x, y, scale)) else _gradient
            grads = call(x, y, *ctx.settings, scale, of_x, of_y)
        return None, *[grad if asked else None for grad, asked in zip(grads, (of_x, of_y))]

    @staticmethod
    def vmap(info, in_dims, settings, x, y):
        samples = _samples(info, in_dims[1:], (x, y))
        losses, means = zip(*[_Value.apply(settings, *sample) for sample in samples])  # one launch a sample
        return (torch.stack(losses), torch.stack(means)), (0, 0)


class _Gradient(Function):
    """The gradients of L at x and y, times scale; differentiable by a formula in blocks of rows."""

    @staticmethod
    def forward(settings, of_x, of_y, scale, x, y):
        call = torch.ops.fastgan.mmd_gradient if needs_operator((x, y, scale)) else _gradient
        return tuple(call(x, y, *settings, scale, of_x, of_y))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings, ctx.of_x, ctx.of_y, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, v, u):
        scale, x, y = ctx.saved_tensors
        v = v if ctx.of_x else torch.zeros_like(x)
        u = u if ctx.of_y else torch.zeros_like(y)
        settings = MMDSettings(*ctx.settings)
        along, grad_x, grad_y = second_order(widen(x), widen(y), widen(v), widen(u), settings)
        return None, None, None, along.to(scale.dtype), (scale * grad_x).to(x.dtype), (scale * grad_y).to(y.dtype)

    @staticmethod
    def vmap(info, in_dims, settings, of_x, of_y, scale, x, y):
        samples = _samples(info, in_dims[3:], (scale, x, y))
        grads = [_Gradient.apply(settings, of_x, of_y, *sample) for sample in samples]
        return tuple(torch.stack(g) for g in zip(*grads)), (0, 0)


def _samples(info, dims, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    for i in range(info.batch_size):
        yield [t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims)]


def value(x: Tensor, y: Tensor, settings: MMDSettings) -> Tensor:
    """L, differentiable in x and y."""
    return applied(_Value, (tuple(settings),), (x, y))[0]


def value_and_gradient(
    x: Tensor, y: Tensor, settings: MMDSettings, scale: Tensor | None, factor: float, of_y: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(L, means, gradient at x, gradient at y, empty unless `of_y`): no autograd, one launch."""
    x, y = x.detach(), y.detach()
    call = torch.ops.fastgan.mmd_value_and_gradient if needs_operator((x, y)) else _value_and_gradient
    return call(x, y, *settings, scale, factor, of_y)
