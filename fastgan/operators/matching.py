"""Feature matching by |x| as operators that save a sign, one byte an element, and not the maps.

    fastgan::matching_signs     -> L = sum_k w_k mean |fake_k - real_k|, and the signs of the differences
    fastgan::matching_gradient  -> scale w_k / n_k sign_k for the generated maps, its negative for the real ones

`operators.adversarial` explains how an operator is dispatched, and why there is a second Function: it makes the first
one's gradient differentiable. L has no curvature, so that only `scale` gets a gradient there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas.terms import wide_dtype, widen
from fastgan.operators.dispatch import applied, backend, needs_operator

_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define("matching_signs(Tensor[] fakes, Tensor[] reals, float[] weights) -> (Tensor, Tensor[])")
_library.define(
    "matching_gradient(Tensor[] signs, float[] weights, ScalarType dtype, Tensor scale, bool of_fakes, bool of_reals) "
    "-> Tensor[]"
)


def _signs(fakes, reals, weights):
    return backend(fakes[0].device).matching_signs(fakes, reals, weights)


def _gradient(signs, *arguments):
    return backend(signs[0].device).matching_gradient(signs, *arguments)


def _fake_signs(fakes, reals, weights):
    signs = [torch.empty_like(x, dtype=torch.int8) for x in fakes]
    return fakes[0].new_empty((), dtype=wide_dtype(fakes[0].dtype)), signs


def _fake_gradient(signs, weights, dtype, scale, of_fakes, of_reals):
    return [torch.empty_like(s, dtype=dtype) for _ in range(of_fakes + of_reals) for s in signs]


for _name, _implementation, _fake in (
    ("matching_signs", _signs, _fake_signs),
    ("matching_gradient", _gradient, _fake_gradient),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


class _Matching(Function):
    """(L, *signs) of the maps, the generated ones first. No map is saved."""

    @staticmethod
    def forward(weights, *maps):
        call = torch.ops.fastgan.matching_signs if needs_operator(maps) else _signs
        k = len(weights)
        loss, signs = call(maps[:k], maps[k:], weights)
        return loss, *signs

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weights, ctx.dtype = inputs[0], inputs[1].dtype
        _, *signs = output
        ctx.mark_non_differentiable(*signs)
        ctx.save_for_backward(*signs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, scale, *_):
        k, needed = len(ctx.weights), ctx.needs_input_grad[1:]
        if scale is None:
            return (None,) * (1 + 2 * k)
        which = [i for i in range(k) if needed[i] or needed[k + i]]
        weights = tuple([ctx.weights[i] for i in which])
        signs = [ctx.saved_tensors[i] for i in which]
        sides = any(needed[:k]), any(needed[k:])
        if torch.is_grad_enabled():  # create_graph=True
            found = _Gradient.apply(weights, ctx.dtype, *sides, scale, *signs)
        else:
            call = torch.ops.fastgan.matching_gradient if needs_operator([scale, *signs]) else _gradient
            found = call(signs, weights, ctx.dtype, scale, *sides)
        grads, found = [None] * (2 * k), iter(found)
        for begin, asked in zip((0, k), sides):
            for i in which if asked else ():
                grad = next(found)
                grads[begin + i] = grad if needed[begin + i] else None
        return None, *grads


class _Gradient(Function):
    """The gradients of `_Matching` for the incoming gradient `scale`; linear in it."""

    @staticmethod
    def forward(weights, dtype, of_fakes, of_reals, scale, *signs):
        call = torch.ops.fastgan.matching_gradient if needs_operator([scale, *signs]) else _gradient
        return tuple(call(signs, weights, dtype, scale, of_fakes, of_reals))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weights, _, ctx.of_fakes, ctx.of_reals, scale, *signs = inputs
        ctx.save_for_backward(scale, *signs)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        scale, *signs = ctx.saved_tensors
        k = len(signs)
        of_scale: Any = 0.0
        for i, (sign, weight) in enumerate(zip(signs, ctx.weights)):
            upstream: Any = 0.0
            if ctx.of_fakes:
                upstream = upstream + widen(grads_of_grads[i])
            if ctx.of_reals:
                upstream = upstream - widen(grads_of_grads[(k if ctx.of_fakes else 0) + i])
            of_scale = of_scale + (upstream * sign).sum() * (weight / max(sign.numel(), 1))
        return None, None, None, None, of_scale.to(scale.dtype), *[None] * k


def value(fakes: Sequence[Tensor], reals: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """L, differentiable in the maps."""
    return applied(_Matching, (weights,), (*fakes, *reals))[0]
