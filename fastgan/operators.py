"""Where a loss becomes an operator: CUDA tensors to Triton, others to the closed form; autograd; `torch.compile`.

Three opaque operators, each over K terms (logits, label, weight; see `Terms`):

    fastgan::value              -> L, and a row a term: weighted loss, mean logit, share classified rightly
    fastgan::gradient           -> scale * dL/dx_k
    fastgan::value_and_gradient -> both, in one launch

None saves anything or knows autograd. `_Value` and `_Gradient` are the differentiable pair above them: value forward,
gradient backward (recomputed from the logits, the only thing saved), and for `create_graph=True` the gradient is itself
differentiable, by the criterion's curvature. Forward-mode differentiation raises: neither has a jvp.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastgan import closed_form, small
from fastgan.criteria import CRITERIA

NOTHING, LOSSES, EVERYTHING = range(3)  # what `value` is to leave a row of for each term
BACKENDS = ("triton", "torch")
_FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PLAIN_BELOW = 1 << 18  # elements: above, blocks that stay in cache win
chosen = os.environ.get("FASTGAN_BACKEND") or None  # read once: a look into the environment costs 2 us a call


@functools.cache
def _kernels():
    """`fastgan.kernels`, imported when first needed: Triton takes longer to import than the rest of this package. None
    where there is no Triton: the closed form runs everywhere."""
    try:
        from fastgan import kernels
    except ModuleNotFoundError as missing:
        if missing.name != "triton":
            raise
        return None
    return kernels


_compiling = torch.compiler.is_compiling
_dispatch_modes, _transforms = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active


def backend_for(device: torch.device) -> str:
    """'triton' or 'torch' (the closed form): which one runs for tensors on `device`.

    CUDA tensors go to Triton and others to the closed form, unless the environment variable FASTGAN_BACKEND said
    otherwise when fastgan was imported. Triton runs on CPU tensors only where TRITON_INTERPRET=1 was set before Triton
    was imported.
    """
    backend = chosen or ("triton" if device.type == "cuda" and _kernels() else "torch")
    if backend not in BACKENDS:
        raise ValueError(f"FASTGAN_BACKEND: got {backend!r}, expected 'triton' or 'torch'")
    if backend == "triton":
        if _kernels() is None:
            raise RuntimeError("FASTGAN_BACKEND: got 'triton', but Triton is not installed")
        if device.type != "cuda" and not _kernels().INTERPRETED:
            raise RuntimeError(
                f"FASTGAN_BACKEND: got 'triton' for tensors on {device.type}, expected CUDA tensors, "
                "or TRITON_INTERPRET=1 in the environment of a new process"
            )
    return backend


class Terms(NamedTuple):
    """L = sum_k weights[k] mean_i m phi(x, y) over K terms, what its logits have to be measured against, and nothing
    else: no autograd, no launch. `kernels.adversarial` says what each field is.

        x = logits[k][i] - partners[k][i] - shift[k],  y = targets[k][i] or labels[k],  m = masks[k][i] or 1
    """

    logits: Sequence[Tensor]
    labels: tuple[float, ...]
    weights: tuple[float, ...]
    criterion: str
    n_real: int = 0
    partners: Sequence[Tensor] = ()
    targets: Sequence[Tensor] = ()
    masks: Sequence[Tensor] = ()
    shift: Tensor | None = None
    split: int = 0

    def tensors(self) -> list[Tensor]:
        return [*self.logits, *self.partners, *self.targets, *self.masks, *([] if self.shift is None else [self.shift])]

    def layout(self) -> tuple:
        """All but the tensors, and how many there are of each kind: what `of` needs to put them back."""
        counts = (len(self.logits), len(self.partners), len(self.targets), len(self.masks))
        return counts, self.labels, self.weights, self.criterion, self.n_real, self.split

    @classmethod
    def of(cls, layout: tuple, tensors: Sequence[Tensor]) -> Terms:
        counts, labels, weights, criterion, n_real, split = layout
        lists, begin = [], 0
        for count in counts:
            lists.append(tensors[begin : begin + count])
            begin += count
        shift = tensors[begin] if begin < len(tensors) else None
        return cls(lists[0], labels, weights, criterion, n_real, *lists[1:], shift, split)


# The operators. `Library.define` rather than `custom_op`: a quarter of the dispatch cost, and opaque all the same.

_TERMS = (
    "Tensor[] logits, float[] labels, float[] weights, str criterion, int n_real, Tensor[] partners, Tensor[] targets, "
    "Tensor[] masks, Tensor? shift, int split"
)
_library = torch.library.Library("fastgan", "DEF")
_library.define(f"value({_TERMS}, int statistics) -> (Tensor, Tensor)")
_library.define(f"gradient({_TERMS}, Tensor scale, bool of_logits, bool of_partners) -> Tensor[]")
_library.define(f"value_and_gradient({_TERMS}, Tensor? scale, float factor) -> (Tensor, Tensor, Tensor[])")


def _run(terms: Terms, **asked):
    """(loss, rows, grads), by whichever backend serves the logits' device. See `kernels.adversarial`."""
    logits, labels, weights, criterion, n_real, partners, targets, masks, shift, split = terms
    backend = _kernels().adversarial if backend_for(logits[0].device) == "triton" else closed_form.terms
    if not (partners or targets or masks or split) and shift is None:
        return backend(logits, labels, weights, criterion, n_real, **asked)
    return backend(
        *(logits, labels, weights, criterion, n_real),
        **(asked | dict(partners=partners, targets=targets, masks=masks, shift=shift, split=split)),
    )


def _value(*arguments):
    *terms, statistics = arguments
    loss, rows, _ = _run(Terms(*terms), value=True, statistics=statistics)
    return loss, loss.new_empty(0) if rows is None else rows


def _gradient(*arguments):
    *terms, scale, of_logits, of_partners = arguments
    return _run(Terms(*terms), value=False, gradient=of_logits, partner_gradient=of_partners, scale=scale)[2]


def _value_and_gradient(*arguments):
    *terms, scale, factor = arguments
    terms = Terms(*terms)
    return _run(
        terms,
        value=True,
        statistics=EVERYTHING,
        gradient=True,
        partner_gradient=_of_partners(terms),
        scale=scale,
        factor=factor,
    )


def _of_partners(terms: Terms) -> bool:
    return bool(terms.partners) and terms.n_real > 0  # the generator's pairs: real data gets no gradient


def _out(terms: Terms, shape):
    dtype = torch.float64 if terms.logits[0].dtype == torch.float64 else torch.float32
    return terms.logits[0].new_empty(shape, dtype=dtype)


def _rows(terms: Terms):
    return _out(terms, (len(terms.labels), 3))


def _fake_value(*arguments):
    *terms, statistics = arguments
    terms = Terms(*terms)
    return _out(terms, ()), _rows(terms) if statistics else _out(terms, (0,))


def _fake_gradient(*arguments):
    *terms, _, of_logits, of_partners = arguments
    logits = Terms(*terms).logits
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


def _traced(tensors: Sequence[Tensor]) -> bool:
    """Whether somebody must see an operator here: a compiler, a dispatch mode, a transform, a tensor subclass; or there
    is nothing but shapes. Otherwise the implementation is called directly, which saves the dispatcher's time."""
    if _compiling() or _dispatch_modes():
        return True
    for x in tensors:
        if (type(x) is not Tensor and type(x) is not torch.nn.Parameter) or x.is_meta:
            return True
    return _transforms()


def applied(function: type[Function], settings: tuple, tensors: Sequence[Tensor]):
    """`function.apply(*settings, *tensors)`, also where that refuses the tensors: none that asks for a gradient, or one
    of them twice, under `torch.compile`; some of inference mode, which it could not save."""
    if _compiling():
        if _transforms():
            raise NotImplementedError("torch.func inside torch.compile: fastgan's losses have no derivative there")
        if not torch.is_grad_enabled() or not any(x.requires_grad for x in tensors):
            return function.forward(*settings, *tensors)
        once: list[Tensor] = []
        for x in tensors:
            once.append(x.view_as(x) if any(x is other for other in once) else x)
        return function.apply(*settings, *once)
    if _transforms():
        return function.apply(*settings, *tensors)
    if torch.is_grad_enabled() and any(x.is_inference() for x in tensors):
        tensors = [x.clone() if x.is_inference() else x for x in tensors]
    # What `Function.apply` does when no transform is active, less its 12 us of signature binding.
    return super(Function, function).apply(*settings, *tensors)


class _Value(Function):
    """(L, rows) of the terms. Differentiable: L, and the first column of the rows, each term's weighted loss."""

    @staticmethod
    def forward(layout, statistics, *tensors):
        call = torch.ops.fastgan.value if _traced(tensors) else _value
        return call(*Terms.of(layout, tensors), statistics)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layout, _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_loss, grad_rows):
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if grad_rows is None or not grad_rows.numel():
            scale = grad_loss
        else:
            scale = grad_rows[:, 0] if grad_loss is None else grad_loss + grad_rows[:, 0]
        if scale is None:
            return (None,) * (2 + len(tensors))
        terms = Terms.of(ctx.layout, tensors)
        k = len(terms.logits)
        grads = [None] * len(tensors)
        if terms.split and torch.is_grad_enabled():  # the halves are differentiable slices
            halves = terms._replace(logits=closed_form.split_sides(terms.logits, terms.split), split=0)
            found = _Gradient.apply(halves.layout(), True, False, scale, *halves.tensors())
            return None, None, *closed_form.join_sides(found, terms.split)
        if all(needed[:k]) or terms.partners or terms.split or terms.shift is not None:
            which, some = range(k), terms
        else:  # one side asks for gradients
            which = [i for i in range(k) if needed[i]]
            some = Terms(
                *[tuple(values[i] for i in which) for values in (terms.logits, terms.labels, terms.weights)],
                terms.criterion,
                targets=[terms.targets[i] for i in which] if terms.targets else (),
                masks=[terms.masks[i] for i in which] if terms.masks else (),
            )
            scale = scale[which] if scale.dim() else scale
        of_shift = terms.shift is not None and needed[-1]
        of_logits = any(needed[:k]) or of_shift
        of_partners = any(needed[k : k + len(terms.partners)])
        if torch.is_grad_enabled():  # create_graph=True
            found = _Gradient.apply(some.layout(), of_logits, of_partners, scale, *some.tensors())
        else:
            call = torch.ops.fastgan.gradient if _traced(tensors) else _gradient
            found = call(*some, scale, of_logits, of_partners)
        if of_logits:
            for i, grad in zip(which, found):
                grads[i] = grad if needed[i] else None
        if of_partners:
            for i, grad in enumerate(found[-len(terms.partners) :]):
                grads[k + i] = grad if needed[k + i] else None
        if of_shift:
            sums = [-closed_form.widen(grad).sum() for grad in found[:k]]
            grads[-1] = torch.stack(sums).to(terms.shift.dtype)
        return None, None, *grads

    @staticmethod
    def vmap(info, in_dims, layout, statistics, *tensors):
        if statistics:
            raise NotImplementedError("statistics: not under torch.func.vmap; ask for the loss alone there")
        terms = Terms.of(layout, _batched(info, in_dims[2:], tensors))
        loss = 0.0
        for x, y, m, weight in _by_term(terms):
            values = CRITERIA[terms.criterion].value(x, y)
            values = values if m is None else values * m
            loss = loss + weight * (values.flatten(1) if values.dim() > 1 else values[:, None]).mean(1)
        return (loss, loss.new_empty(0)), (0, None)


class _Part(_Value):
    """The loss of some terms, computed before: a graph of its own, for losses of one launch that go backward apart."""

    @staticmethod
    def forward(layout, value, *tensors):
        return value.data  # a version of its own: it may be written in place while others are saved for backward

    @staticmethod
    def backward(ctx, grad):
        return _Value.backward(ctx, grad, None)


def apart(terms: Terms, groups: Sequence[slice]) -> list[Tensor]:
    """The loss of each group of terms, which are neighbours; terms without partners, masks or a shift.

    One launch forward for all of them. Each has a graph of its own and a launch backward of its own, so that each can
    go backward by itself, and frees only what it came from. A group that asks for no gradient has no graph.
    `torch.compile` makes one graph of whatever it compiles: there they share one."""
    compiling = _compiling()
    with torch.set_grad_enabled(compiling and torch.is_grad_enabled()):
        loss, rows = value(terms, LOSSES)
        own = rows[:, 0].unbind()
        losses = [loss if part == slice(None) else functools.reduce(torch.add, own[part]) for part in groups]
    if compiling:
        return [
            x if any(y.requires_grad for y in terms.logits[part]) else x.detach() for x, part in zip(losses, groups)
        ]
    found = []
    for x, part in zip(losses, groups):
        logits, targets = terms.logits[part], terms.targets[part]
        some = Terms(logits, terms.labels[part], terms.weights[part], terms.criterion, targets=targets)
        found.append(applied(_Part, (some.layout(), x), some.tensors()))
    return found


def elementwise(terms: Terms, k: int) -> Tensor:
    """phi of every logit of term k, masked; by PyTorch's own operators, which autograd follows."""
    x, y, mask = list(_by_term(terms))[k][:3]
    if terms.criterion == "sigmoid_cross_entropy" and y.__class__ is float and y in (0.0, 1.0):
        values = F.softplus(-x if y else x)  # one operator, and what code that reduces by itself calls
    else:
        values = CRITERIA[terms.criterion].value(x, y)
    return values if mask is None else values * mask


def _by_term(terms: Terms):
    """(x, label, mask, weight) of each term, differentiable in what it is made of. One dimension may be mapped."""
    if terms.split:
        raise NotImplementedError("split: not under torch.func.vmap; pass the sides apart")
    for k, x in enumerate(terms.logits):
        x = closed_form.widen(x)
        if terms.partners:
            x = x - closed_form.widen(terms.partners[k])
        if terms.shift is not None:
            shift = terms.shift[..., k]
            x = x - (shift.reshape(-1, *[1] * (x.dim() - 1)) if shift.dim() else shift)
        y = terms.targets[k].to(x.dtype) if terms.targets else terms.labels[k]
        yield x, y, terms.masks[k] if terms.masks else None, terms.weights[k]


class _Held(Function):
    """`_Value` on a CPU, of large terms: the gradient at the logits is made in the forward pass, which has them in
    cache, and held for the backward pass. The first backward pass gets it; another makes its own."""

    @staticmethod
    def forward(ctx, layout, *tensors):
        loss, _, ctx.held = _run(Terms.of(layout, tensors), value=True, statistics=NOTHING, gradient=True)
        ctx.layout = layout
        ctx.save_for_backward(*tensors)
        return loss

    @staticmethod
    def backward(ctx, scale):
        tensors, held, ctx.held = ctx.saved_tensors, ctx.held, None
        if torch.is_grad_enabled():  # create_graph=True
            found = _Gradient.apply(ctx.layout, True, False, scale, *tensors)
        elif held is None:
            found = _gradient(*Terms.of(ctx.layout, tensors), scale, True, False)
        else:
            found = held
            if scale.item() != 1.0:
                torch._foreach_mul_(found, scale)
        return None, *found, *[None] * (len(tensors) - len(found))


def held_value(terms: Terms) -> Tensor:
    """L of terms with partners, differentiable as that of `value`; on a CPU with the gradient made at once."""
    if _may_hold(terms):
        return applied(_Held, (terms.layout(),), terms.tensors())
    return value(terms)[0]


def _may_hold(terms: Terms) -> bool:
    """Gradients of half precision are not held: `scale` must come before they are rounded."""
    logits, tensors = terms.logits, terms.tensors()
    if not torch.is_grad_enabled() or _traced(tensors) or torch.autograd.forward_ad._current_level >= 0:
        return False
    if not logits[0].is_cpu or logits[0].dtype not in (torch.float32, torch.float64):
        return False
    if sum([x.numel() for x in logits]) < PLAIN_BELOW or backend_for(logits[0].device) != "torch":
        return False
    return all(x.requires_grad for x in logits) and not any(x.requires_grad for x in terms.partners)


class _Gradient(Function):
    """The gradients of `_Value`'s result at the logits, then at the partners, times `scale`; differentiable."""

    @staticmethod
    def forward(layout, of_logits, of_partners, scale, *tensors):
        call = torch.ops.fastgan.gradient if _traced([scale, *tensors]) else _gradient
        return tuple(call(*Terms.of(layout, tensors), scale, of_logits, of_partners))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layout, ctx.of_logits, ctx.of_partners, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        scale, *tensors = ctx.saved_tensors
        terms = Terms.of(ctx.layout, tensors)
        k, of_scale = len(terms.logits), []
        grads = [None] * len(tensors)
        of_shift = []
        for i, (x, y, m, weight) in enumerate(_by_term(terms)):
            upstream = 0.0  # at the gradient of x, which reaches the logits as it is and the partners negated
            if ctx.of_logits:
                upstream = upstream + closed_form.widen(grads_of_grads[i])
            if ctx.of_partners:
                upstream = upstream - closed_form.widen(grads_of_grads[(k if ctx.of_logits else 0) + i])
            upstream = upstream * (weight / max(x.numel(), 1))
            if m is not None:
                upstream = upstream * m
            phi = CRITERIA[terms.criterion]
            of_scale.append((upstream * phi.slope(x, y)).sum())
            grad = (scale[i] if scale.dim() else scale) * upstream * phi.curvature(x, y)
            grads[i] = grad.to(terms.logits[i].dtype)
            if terms.partners:
                grads[k + i] = -grads[i]
            of_shift.append(-grad.sum())
        if terms.shift is not None:
            grads[-1] = torch.stack(of_shift).to(terms.shift.dtype)
        of_scale = torch.stack(of_scale) if scale.dim() else sum(of_scale)
        return None, None, None, of_scale.to(scale.dtype), *grads

    @staticmethod
    def vmap(info, in_dims, layout, of_logits, of_partners, scale, *tensors):
        if in_dims[3] is not None:
            scale = scale.movedim(in_dims[3], 0)
        terms = Terms.of(layout, _batched(info, in_dims[4:], tensors))
        grads = []
        for i, (x, y, m, weight) in enumerate(_by_term(terms)):
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


def plain(*tensors: Tensor) -> bool:
    """Whether `fastgan.small` may take them: contiguous CPU tensors of one floating dtype, not too large, and nobody
    who has to see our operators. Forward-mode differentiation does: it raises there."""
    if _compiling() or (chosen is not None and chosen != "torch"):
        return False
    if _dispatch_modes() or _transforms() or torch.autograd.forward_ad._current_level >= 0:
        return False
    dtype = tensors[0].dtype if tensors[0].__class__ is Tensor else None
    if dtype not in _FLOATING:
        return False
    for x in tensors:
        if x.__class__ is not Tensor:
            return False
        if not x.is_cpu or x.dtype is not dtype or not 0 < x.numel() < PLAIN_BELOW:
            return False
        if not x.is_contiguous() or x.is_neg():
            return False
    return True


def _small_loss(terms: Terms) -> Tensor | None:
    """The loss of one or two small terms of one weight."""
    logits, labels, weights, criterion, _, partners, targets, masks, shift, split = terms
    if len(logits) > 2 or masks or split or weights[0] != weights[-1] or not plain(*logits, *partners, *targets):
        return None
    sides = []
    for k, x in enumerate(logits):
        x = closed_form.widen(x)
        if partners:
            x = x - partners[k]
        if shift is not None:
            x = x - shift[k]
        sides.append((x, targets[k] if targets else labels[k]))
    (x, y), *other = sides
    return small.pair(criterion, x, y, *other[0], weights[0]) if other else small.loss(criterion, x, y, weights[0])


def value(terms: Terms, statistics: int = NOTHING) -> tuple[Tensor, Tensor | None]:
    """(L, rows), differentiable in logits, partners and shift. rows: (K, 3) weighted loss, mean logit, share classified
    rightly; of no meaning for NOTHING, and the last two of no meaning for LOSSES."""
    if not statistics and not _compiling() and not _transforms():
        loss = _small_loss(terms)
        if loss is not None:
            return loss, None
    return applied(_Value, (terms.layout(), statistics), terms.tensors())


def value_and_gradient(terms: Terms, scale: Tensor | None, factor: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(L, rows, grads): no autograd, one launch."""
    tensors = terms.tensors()
    if _traced(tensors):
        terms = Terms.of(terms.layout(), [x.detach() for x in tensors])
        return torch.ops.fastgan.value_and_gradient(*terms, scale, factor)
    return _value_and_gradient(*terms, scale, factor)
