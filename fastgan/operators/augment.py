"""Differentiable augmentation as operators.

    fastgan::augment            the map, its linear part or the transpose of that
    fastgan::draw_augmentation  its parameters, from uniform numbers

Apart from the brightness the map is linear in x, so the gradient of each form is another form: that of the map is the
transpose, that of the transpose is the linear part, and so on. See `operators.adversarial` for the pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.formulas.augment import TRANSPOSED, Augmentation, images
from fastgan.operators.dispatch import applied, backend, needs_operator

_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(
    "augment(Tensor x, Tensor brightness, Tensor saturation, Tensor contrast, Tensor translation, "
    "Tensor cutout_centre, Tensor cutout_size, Tensor flip, str form) -> Tensor"
)
_library.define(
    "draw_augmentation(Tensor u, Tensor? p, float chance, int policy, int[] extents) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _augment(x, *rest):
    return backend(x.device).augment(x, *rest)


def _fake_augment(x, *_):
    return torch.empty_like(images(x))


def _draw(u, *rest):
    return backend(u.device).draw_augmentation(u, *rest)


def _fake_draw(u, *_):
    n = u.shape[0]
    whole = [u.new_empty((n, 2), dtype=torch.int32) for _ in range(3)]
    return *[u.new_empty(n) for _ in range(3)], *whole, u.new_empty(n, dtype=torch.bool)


for _name, _implementation, _fake in (
    ("augment", _augment, _fake_augment),
    ("draw_augmentation", _draw, _fake_draw),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


class _Augment(Function):
    """A form of the map at x; no derivative by the parameters. It saves nothing as large as x. Forward-mode
    differentiation raises: a Function with a jvp does not compile."""

    @staticmethod
    def forward(form, x, *parameters):
        call = torch.ops.fastgan.augment if needs_operator((x, *parameters)) else _augment
        return call(x, *parameters, form)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.form, _, *parameters = inputs
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad):
        none = (None,) * 7
        if grad is None:
            return None, None, *none
        return None, applied(_Augment, (TRANSPOSED[ctx.form],), (grad, *ctx.saved_tensors)), *none

    @staticmethod
    def vmap(info, in_dims, form, *tensors):
        """Merge the mapped dimension into the batch: one launch."""
        size, joined = info.batch_size, []
        for t, dim in zip(tensors, in_dims[1:]):
            t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
            joined.append(t.flatten(0, 1))
        return _Augment.apply(form, *joined).unflatten(0, (size, -1)), 0


def value(x: Tensor, parameters: Augmentation) -> Tensor:
    """The augmented images, differentiable in x any number of times."""
    return applied(_Augment, ("map",), (x, *parameters))


def drawn(u: Tensor, p: Tensor | None, chance: float, policy: int, extents: list[int]) -> Augmentation:
    """The parameters, from uniform numbers."""
    call = torch.ops.fastgan.draw_augmentation if needs_operator([u] if p is None else [u, p]) else _draw
    return Augmentation(*call(u, p, chance, policy, extents))
