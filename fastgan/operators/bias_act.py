"""StyleGAN's bias and activation as operators, differentiable any number of times:

    fastgan::bias_act            -> y = clamp(gain act(x + b))
    fastgan::bias_act_gradient   -> its gradients at x and b, for a gradient at y
    fastgan::bias_act_second     -> the gradients of <h, dx> + <k, db> at g, x and b, for curved activations

Each is one launch. For linear, relu and lrelu the gradient is linear in g, so that its own gradient is
`bias_act_gradient` again. For the others the kernel differentiates the gradient once, and the formulas beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas import bias_act as formulas
from fastgan.formulas.bias_act import Settings, spread, summed
from fastgan.formulas.terms import widen
from fastgan.operators.dispatch import applied, backend, needs_operator

_SETTINGS = "int dim, str act, float alpha, float gain, float clamp"
_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(f"bias_act(Tensor x, Tensor? b, {_SETTINGS}) -> Tensor")
_library.define(
    f"bias_act_gradient(Tensor g, Tensor? ref, Tensor? b, {_SETTINGS}, bool from_y, bool of_x, bool of_b, Tensor? k) "
    "-> (Tensor, Tensor)"
)
_library.define(
    f"bias_act_second(Tensor h, Tensor? k, Tensor g, Tensor x, Tensor? b, {_SETTINGS}, bool of_g, bool of_x, "
    "bool of_b) -> (Tensor, Tensor, Tensor)"
)


def _value(x, *rest):
    return backend(x.device).bias_act(x, *rest)


def _gradient(g, *rest):
    return _present(g, backend(g.device).bias_act_gradient(g, *rest))


def _second(h, *rest):
    return _present(h, backend(h.device).bias_act_second(h, *rest))


def _present(like: Tensor, found: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """`found` with an empty tensor for each None."""
    return tuple([like.new_empty(0) if t is None else t for t in found])


def _fake_value(x, *_):
    return torch.empty_like(x)


def _fake_gradient(g, ref, b, dim, *rest):
    *_, of_x, of_b, _ = rest
    x = g if ref is None else ref
    return _present(g, (torch.empty_like(x) if of_x else None, x.new_empty(x.shape[dim]) if of_b else None))


def _fake_second(h, k, g, x, b, dim, *rest):
    of_g, of_x, of_b = rest[-3:]
    maps = [torch.empty_like(x) if asked else None for asked in (of_g, of_x)]
    return _present(h, (*maps, x.new_empty(x.shape[dim]) if of_b else None))


for _name, _implementation, _fake in (
    ("bias_act", _value, _fake_value),
    ("bias_act_gradient", _gradient, _fake_gradient),
    ("bias_act_second", _second, _fake_second),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


class _BiasAct(Function):
    """y. Forward-mode differentiation raises: there is no jvp."""

    @staticmethod
    def forward(settings, x, *bias):
        call = torch.ops.fastgan.bias_act if needs_operator((x, *bias)) else _value
        return call(x, bias[0] if bias else None, *settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        settings, x, *bias = inputs
        ctx.settings, ctx.biased = Settings(*settings), bool(bias)
        ctx.set_materialize_grads(False)
        saved = ctx.settings.saved()
        ctx.save_for_backward(*((x, *bias) if saved == "x" else (output,) if saved == "y" else ()))

    @staticmethod
    def backward(ctx, g):
        of_x, of_b = ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]
        if g is None or not (of_x or of_b):
            return (None,) * len(ctx.needs_input_grad)
        grads = list(_gradients(ctx.settings, of_x, of_b, g, ctx.saved_tensors))
        return None, grads.pop(0) if of_x else None, *([grads.pop(0) if of_b else None] if ctx.biased else [])

    @staticmethod
    def vmap(info, in_dims, settings, *tensors):
        y = _BiasAct.apply(settings, *_merged(info, settings[0], in_dims[1:], tensors))
        return _parted(info, settings[0], y)


def _gradients(settings: Settings, of_x: bool, of_b: bool, g: Tensor, saved: Sequence[Tensor]) -> Sequence[Tensor]:
    """The requested gradients at x and b. saved: what `_BiasAct` saved."""
    if torch.is_grad_enabled():  # create_graph=True
        return _Gradient.apply(tuple(settings), of_x, of_b, g, *saved)
    return _gradients_of(settings, of_x, of_b, g, saved)


def _gradients_of(settings: Settings, of_x: bool, of_b: bool, g: Tensor, saved: Sequence[Tensor], k=None):
    ref, b = (*saved, None, None)[:2]
    call = torch.ops.fastgan.bias_act_gradient if needs_operator((g, *saved)) else _gradient
    found = call(g, ref, b, *settings, settings.saved() == "y", of_x, of_b, k)
    return tuple([grad for grad, asked in zip(found, (of_x, of_b)) if asked])


class _Gradient(Function):
    """`_gradients`, differentiable in g, x and b."""

    @staticmethod
    def forward(settings, of_x, of_b, g, *saved):
        return _gradients_of(Settings(*settings), of_x, of_b, g, saved)

    @staticmethod
    def setup_context(ctx, inputs, output):
        settings, ctx.of_x, ctx.of_b, g, *saved = inputs
        ctx.settings = Settings(*settings)
        ctx.shape, ctx.saved = g.shape, len(saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved, *([g] if ctx.settings.curved() else []))

    @staticmethod
    def backward(ctx, *upstream):
        settings, dim = ctx.settings, ctx.settings.dim
        h = upstream[0] if ctx.of_x else None
        k = upstream[-1] if ctx.of_b else None
        nothing = (None,) * len(ctx.needs_input_grad)
        if h is None:
            if k is None:
                return nothing
            shape = [1] * len(ctx.shape)
            shape[dim] = -1
            h, k = k.reshape(shape).expand(ctx.shape), None
        saved = ctx.saved_tensors
        if not settings.curved():
            if not ctx.needs_input_grad[3]:
                return nothing
            if torch.is_grad_enabled():
                h = h if k is None else h + spread(k, h, dim)
                (of_g,) = _Gradient.apply(tuple(settings), True, False, h, *saved)
            else:
                (of_g,) = _gradients_of(settings, True, False, h, saved, k)
            return None, None, None, of_g, *[None] * ctx.saved
        x, b, g = saved if ctx.saved == 2 else (saved[0], None, saved[1])
        asked = [*ctx.needs_input_grad[3:], False][:3]  # of g, x and b
        if torch.is_grad_enabled():
            u = widen(h) if k is None else widen(h) + spread(widen(k), h, dim)
            of_g, of_x = formulas.second(u, widen(g), x, b, settings)
            found = of_g.to(g.dtype), of_x.to(x.dtype), summed(of_x, dim).to(x.dtype) if asked[2] else None
        else:
            call = torch.ops.fastgan.bias_act_second if needs_operator([h, *saved]) else _second
            found = call(h, k, g, x, b, *settings, *asked)
        grads = [grad if own else None for grad, own in zip(found, asked)]
        return None, None, None, *grads[: 1 + ctx.saved]

    @staticmethod
    def vmap(info, in_dims, settings, of_x, of_b, *tensors):
        found = _Gradient.apply(settings, of_x, of_b, *_merged(info, settings[0], in_dims[3:], tensors))
        parted = [_parted(info, settings[0] if of_x and i == 0 else 0, grad) for i, grad in enumerate(found)]
        return tuple([grad for grad, _ in parted]), tuple([dim for _, dim in parted])


def _merged(info, dim: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Merge the mapped dimension into the channels: each sample has its own."""
    found = []
    for x, at in zip(tensors, dims):
        x = x.expand(info.batch_size, *x.shape) if at is None else x.movedim(at, 0)
        place = 0 if x.dim() == 2 else dim  # a bias
        found.append(x.movedim(0, place).flatten(place, place + 1))
    return found


def _parted(info, dim: int, x: Tensor) -> tuple[Tensor, int]:
    """Undo `_merged`."""
    return x.unflatten(dim, (info.batch_size, -1)), dim


def value(x: Tensor, b: Tensor | None, settings: Settings) -> Tensor:
    """y, differentiable in x and b any number of times."""
    if not x.dim():
        return value(x.reshape(1), b, settings).reshape(())
    return applied(_BiasAct, (tuple(settings),), (x,) if b is None else (x, b))
