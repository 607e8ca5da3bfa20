"""Differentiable augmentation as an operator: fastgan::augment, the map, its linear part or the transpose of that.

The map is linear in x but for the brightness, so the derivative of each form is another one: the map's gradient is the
transpose, the transpose's is the linear part, and so on without end. See `operators.adversarial` for the pattern.
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


def _augment(x, *rest):
    return backend(x.device).augment(x, *rest)


def _fake_augment(x, *_):
    return torch.empty_like(images(x))


_library.impl("augment", _augment, "CompositeExplicitAutograd")
torch.library.register_fake("fastgan::augment", _fake_augment, lib=_library)


class _Augment(Function):
    """A form of the map at x; no derivative by the parameters. Nothing of the size of x is saved. Forward-mode
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
        """What is mapped joins the batch: one launch."""
        size, joined = info.batch_size, []
        for t, dim in zip(tensors, in_dims[1:]):
            t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
            joined.append(t.flatten(0, 1))
        return _Augment.apply(form, *joined).unflatten(0, (size, -1)), 0


def value(x: Tensor, parameters: Augmentation) -> Tensor:
    """The augmented images, differentiable in x as often as asked."""
    return applied(_Augment, ("map",), (x, *parameters))
