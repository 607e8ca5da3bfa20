"""The terms of a loss as three operators, each over K terms (logits, label, weight; see `Terms`):

    fastgan::value              -> L, and a row a term: weighted loss, mean logit, share classified rightly
    fastgan::gradient           -> scale * dL/dx_k
    fastgan::value_and_gradient -> both, in one launch

The operators save nothing and have no autograd formula. `_Value` and `_Gradient` make them differentiable. `_Value`
saves only its input tensors, and its backward pass recomputes the gradient from them. With `create_graph=True` the
gradient is `_Gradient`, which is differentiable by the criterion's curvature. Forward-mode differentiation raises:
neither has a jvp.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastgan.cpu.adversarial import differentiable_value
from fastgan.formulas.criteria import CRITERIA
from fastgan.formulas.terms import Terms, join_sides, split_sides, wide_dtype, widen
from fastgan.operators.dispatch import (
    applied,
    backend,
    derivative_expected,
    is_compiling,
    needs_operator,
    on_cpu,
)

NOTHING, LOSSES, EVERYTHING = range(3)  # what `value` writes into the row of each term

_TERMS = (
    "Tensor[] logits, float[] labels, float[] weights, str criterion, int n_real, Tensor[] partners, Tensor[] targets, "
    "Tensor[] masks, Tensor? shift, int split"
)
_library = torch.library.Library("fastgan", "DEF")
_library.define(f"value({_TERMS}, int statistics) -> (Tensor, Tensor)")
_library.define(f"gradient({_TERMS}, Tensor scale, bool of_logits, bool of_partners) -> Tensor[]")
_library.define(f"value_and_gradient({_TERMS}, Tensor? scale, float factor) -> (Tensor, Tensor, Tensor[])")


def _run_value(terms: Terms, statistics: int) -> tuple[Tensor, Tensor | None]:
    return backend(terms.logits[0].device).adversarial(*terms, value=True, statistics=statistics)[:2]


def _run_gradient(terms: Terms, scale: Tensor, of_logits: bool, of_partners: bool) -> list[Tensor]:
    run = backend(terms.logits[0].device).adversarial
    return run(*terms, value=False, gradient=of_logits, partner_gradient=of_partners, scale=scale)[2]


def _run_value_and_gradient(terms: Terms, scale: Tensor | None, factor: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    return backend(terms.logits[0].device).adversarial(
        *terms,
        value=True,
        statistics=EVERYTHING,
        gradient=True,
        partner_gradient=_of_partners(terms),
        scale=scale,
        factor=factor,
    )


def _value(*arguments):
    *fields, statistics = arguments
    loss, rows = _run_value(Terms(*fields), statistics)
    return loss, loss.new_empty(0) if rows is None else rows


def _gradient(*arguments):
    *fields, scale, of_logits, of_partners = arguments
    return _run_gradient(Terms(*fields), scale, of_logits, of_partners)


def _value_and_gradient(*arguments):
    *fields, scale, factor = arguments
    return _run_value_and_gradient(Terms(*fields), scale, factor)


def _of_partners(terms: Terms) -> bool:
    return bool(terms.partners) and terms.n_real > 0  # the generator's pairs: real data gets no gradient


def _out(terms: Terms, shape):
    return terms.logits[0].new_empty(shape, dtype=wide_dtype(terms.logits[0].dtype))


def _rows(terms: Terms):
    return _out(terms, (len(terms.labels), 3))


def _fake_value(*arguments):
    *fields, statistics = arguments
    terms = Terms(*fields)
    return _out(terms, ()), _rows(terms) if statistics else _out(terms, (0,))


def _fake_gradient(*arguments):
    *fields, _, of_logits, of_partners = arguments
    logits = Terms(*fields).logits
    return [torch.empty_like(x) for _ in range(of_logits + of_partners) for x in logits]


def _fake_value_and_gradient(*arguments):
    terms = Terms(*arguments[:-2])
    grads = [torch.empty_like(x) for _ in range(1 + _of_partners(terms)) for x in terms.logits]
    return _out(terms, ()), _rows(terms), grads


for _name, _implementation, _fake in (
    ("value", _value, _fake_value),
    ("gradient", _gradient, _fake_gradient),
    ("value_and_gradient", _value_and_gradient, _fake_value_and_gradient),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


def _gradient_of(
    terms: Terms, seen: Sequence[Tensor], scale: Tensor, of_logits: bool, of_partners: bool, differentiable: bool
) -> Sequence[Tensor]:
    if differentiable:
        return _Gradient.apply(terms.layout(), of_logits, of_partners, scale, *terms.tensors())
    if needs_operator(seen):
        return torch.ops.fastgan.gradient(*terms, scale, of_logits, of_partners)
    return _run_gradient(terms, scale, of_logits, of_partners)


class _Value(Function):
    """L of the terms, and their rows if statistics are requested. Differentiable: L, and the first column of the rows,
    each term's weighted loss."""

    @staticmethod
    def forward(layout, statistics, *tensors):
        terms = Terms.of(layout, tensors)
        found = (
            torch.ops.fastgan.value(*terms, statistics) if needs_operator(tensors) else _run_value(terms, statistics)
        )
        return found if statistics else found[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layout, _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_loss, grad_rows=None):
        if grad_rows is None:
            scale = grad_loss
        else:
            scale = grad_rows[:, 0] if grad_loss is None else grad_loss + grad_rows[:, 0]
        if scale is None:
            return (None,) * len(ctx.needs_input_grad)
        tensors = ctx.saved_tensors
        return None, None, *_gradients(Terms.of(ctx.layout, tensors), tensors, ctx.needs_input_grad[2:], scale)

    @staticmethod
    def vmap(info, in_dims, layout, statistics, *tensors):
        if statistics:
            raise NotImplementedError("statistics: not under torch.func.vmap; ask for the loss alone there")
        terms = Terms.of(layout, _batched(info, in_dims[2:], tensors))
        loss: Any = 0.0
        for x, y, m, weight in terms.each():
            values = CRITERIA[terms.criterion].value(x, y)
            values = values if m is None else values * m
            loss = loss + weight * (values.flatten(1) if values.dim() > 1 else values[:, None]).mean(1)
        return loss, 0


def _gradients(
    terms: Terms, tensors: Sequence[Tensor], needed: Sequence[bool], scale: Tensor
) -> Sequence[Tensor | None]:
    """scale times the gradient of L at each tensor of the terms that needs one; None for the others."""
    k, differentiable = len(terms.logits), torch.is_grad_enabled()  # create_graph=True
    if terms.split and differentiable:  # the halves are differentiable slices
        halves = terms.having(logits=split_sides(terms.logits, terms.split), split=0)
        found = _Gradient.apply(halves.layout(), True, False, scale, *halves.tensors())
        return join_sides(found, terms.split)
    if len(tensors) == k and all(needed):
        return _gradient_of(terms, tensors, scale, True, False, differentiable)
    which: Sequence[int] = range(k)
    some = terms
    if not (all(needed[:k]) or terms.partners or terms.split or terms.shift is not None):
        which = [i for i in range(k) if needed[i]]  # only some logits need gradients
        some = Terms(
            tuple([terms.logits[i] for i in which]),
            tuple([terms.labels[i] for i in which]),
            tuple([terms.weights[i] for i in which]),
            terms.criterion,
            targets=[terms.targets[i] for i in which] if terms.targets else (),
            masks=[terms.masks[i] for i in which] if terms.masks else (),
        )
        scale = scale[which] if scale.dim() else scale
    shift = terms.shift if needed[-1] else None
    of_logits = any(needed[:k]) or shift is not None
    of_partners = any(needed[k : k + len(terms.partners)])
    found = _gradient_of(some, tensors, scale, of_logits, of_partners, differentiable)
    grads: list[Tensor | None] = [None] * len(tensors)
    if of_logits:
        for i, grad in zip(which, found):
            grads[i] = grad if needed[i] else None
    if of_partners:
        for i, grad in enumerate(found[-len(terms.partners) :]):
            grads[k + i] = grad if needed[k + i] else None
    if shift is not None:
        sums = [-widen(grad).sum() for grad in found[:k]]
        grads[-1] = torch.stack(sums).to(shift.dtype)
    return grads


class _Part(_Value):
    """The loss of some terms, computed before. With its own graph each loss of a launch can go backward separately."""

    @staticmethod
    def forward(layout, value, *tensors):
        return value.data  # with its own version counter: writing it in place leaves the others valid for backward


def apart(terms: Terms, groups: Sequence[slice]) -> list[Tensor]:
    """The loss of each group of neighbouring terms. The terms have no partners, masks or shift.

    One forward launch computes all of them. Each loss has its own graph and its own backward launch, so that each can
    go backward separately, and frees only its own inputs. A group without a tensor that requires a gradient has no
    graph. Under `torch.compile` all losses share one graph. On a CPU, where there are no launches to save, each loss is
    computed separately."""
    each = [
        Terms(terms.logits[part], terms.labels[part], terms.weights[part], terms.criterion, targets=terms.targets[part])
        for part in groups
    ]
    if on_cpu(terms.logits[0].device):
        return [value(some)[0] for some in each]
    compiling = is_compiling()
    with torch.set_grad_enabled(compiling and torch.is_grad_enabled()):
        loss, rows = value(terms, LOSSES)
        own = rows[:, 0].unbind()
        losses = [loss if part == slice(None) else functools.reduce(torch.add, own[part]) for part in groups]
    if compiling:
        return [
            x if any(y.requires_grad for y in terms.logits[part]) else x.detach() for x, part in zip(losses, groups)
        ]
    return [applied(_Part, (some.layout(), x), some.tensors()) for x, some in zip(losses, each)]


def elementwise(terms: Terms, k: int) -> Tensor:
    """phi of every logit of term k, masked; with PyTorch's own operators, which autograd differentiates."""
    x, y, mask = list(terms.each())[k][:3]
    if terms.criterion == "sigmoid_cross_entropy" and y.__class__ is float and y in (0.0, 1.0):
        # The gradient of PyTorch's BCE cancels; softplus with its default threshold loses digits in float64.
        values = F.softplus(-x if y else x, 1.0, 50.0)
        values = values + 0.0 * (x if y else x.clamp(max=0.0)).detach()  # BCE is NaN at these infinities
    else:
        values = CRITERIA[terms.criterion].value(x, y)
    return values if mask is None else values * mask


class _Gradient(Function):
    """The gradients of `_Value`'s result at the logits, then at the partners, times `scale`; differentiable."""

    @staticmethod
    def forward(layout, of_logits, of_partners, scale, *tensors):
        return tuple(_gradient_of(Terms.of(layout, tensors), [scale, *tensors], scale, of_logits, of_partners, False))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layout, ctx.of_logits, ctx.of_partners, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        scale, *tensors = ctx.saved_tensors
        terms = Terms.of(ctx.layout, tensors)
        k, slopes, of_shift = len(terms.logits), [], []
        grads: list[Tensor | None] = [None] * len(tensors)
        for i, (x, y, m, weight) in enumerate(terms.each()):
            upstream: Any = 0.0  # the incoming gradient at that of x, which the partners get negated
            if ctx.of_logits:
                upstream = upstream + widen(grads_of_grads[i])
            if ctx.of_partners:
                upstream = upstream - widen(grads_of_grads[(k if ctx.of_logits else 0) + i])
            upstream = upstream * (weight / max(x.numel(), 1))
            if m is not None:
                upstream = upstream * m
            phi = CRITERIA[terms.criterion]
            slopes.append((upstream * phi.slope(x, y)).sum())
            grad = (scale[i] if scale.dim() else scale) * upstream * phi.curvature(x, y)
            grads[i] = rounded = grad.to(terms.logits[i].dtype)
            if terms.partners:
                grads[k + i] = -rounded
            of_shift.append(-grad.sum())
        if terms.shift is not None:
            grads[-1] = torch.stack(of_shift).to(terms.shift.dtype)
        of_scale: Any = torch.stack(slopes) if scale.dim() else sum(slopes)
        return None, None, None, of_scale.to(scale.dtype), *grads

    @staticmethod
    def vmap(info, in_dims, layout, of_logits, of_partners, scale, *tensors):
        if in_dims[3] is not None:
            scale = scale.movedim(in_dims[3], 0)
        terms = Terms.of(layout, _batched(info, in_dims[4:], tensors))
        grads = []
        for i, (x, y, m, weight) in enumerate(terms.each()):
            own = (scale[..., i] if scale.dim() > (in_dims[3] is not None) else scale) * (weight / max(x[0].numel(), 1))
            if own.dim():
                own = own.reshape(-1, *[1] * (x.dim() - 1))
            slope = CRITERIA[terms.criterion].slope(x, y)
            grads.append(((slope if m is None else slope * m) * own).to(terms.logits[i].dtype))
        grads = (grads if of_logits else []) + ([-g for g in grads] if of_partners else [])
        return tuple(grads), (0,) * len(grads)


def _batched(info, dims, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor with the mapped dimension first."""
    return [x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims)]


def value(terms: Terms, statistics: int = NOTHING) -> tuple[Tensor, Any]:
    """(L, rows), differentiable in logits, partners and shift. rows: (K, 3) weighted loss, mean logit, share classified
    rightly; None for NOTHING; for LOSSES the last two are undefined."""
    tensors = terms.tensors()
    plain = not statistics and on_cpu(tensors[0].device) and not needs_operator(tensors)
    if plain and not derivative_expected():  # forward-mode differentiation raises, whatever the size
        loss = differentiable_value(terms)
        if loss is not None:
            return loss, None
    found = applied(_Value, (terms.layout(), statistics), tensors)
    return found if statistics else (found, None)


def value_and_gradient(terms: Terms, scale: Tensor | None, factor: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(L, rows, grads): no autograd, one launch."""
    tensors = terms.tensors()
    if needs_operator(tensors):
        terms = Terms.of(terms.layout(), [x.detach() for x in tensors])
        return torch.ops.fastgan.value_and_gradient(*terms, scale, factor)
    return _run_value_and_gradient(terms, scale, factor)
