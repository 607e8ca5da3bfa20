"""Where a loss becomes an operator: CUDA tensors to Triton, others to the closed form; autograd; `torch.compile`.

Three opaque operators, each over K terms (logits, label, weight):

    fastgan::value              -> L
    fastgan::gradient           -> scale * dL/dx_k
    fastgan::value_and_gradient -> both, and the statistics, in one launch

None saves anything or knows autograd. `_Value` and `_Gradient` are the differentiable pair above them: value forward,
gradient backward (recomputed from the logits, the only thing saved), and for `create_graph=True` the gradient is itself
differentiable, by the criterion's curvature. Forward-mode differentiation raises: neither has a jvp.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastgan import closed_form

BACKENDS = ("triton", "torch")
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


def run(logits: Sequence[Tensor], labels, weights, criterion: str, n_real: int = 0, **kwargs):
    """(loss, terms, grads), by whichever backend serves the logits' device. See `kernels.adversarial`."""
    backend = _kernels().adversarial if backend_for(logits[0].device) == "triton" else closed_form.terms
    return backend(logits, labels, weights, criterion, n_real, **kwargs)


# The operators. `Library.define` rather than `custom_op`: a quarter of the dispatch cost, and opaque all the same.

_library = torch.library.Library("fastgan", "DEF")
_library.define("value(Tensor[] logits, float[] labels, float[] weights, str criterion) -> Tensor")
_library.define("gradient(Tensor[] logits, float[] labels, float[] weights, str criterion, Tensor scale) -> Tensor[]")
_library.define(
    "value_and_gradient(Tensor[] logits, float[] labels, float[] weights, str criterion, int n_real, Tensor? scale, "
    "float factor) -> (Tensor, Tensor, Tensor[])"
)


def _value(logits, labels, weights, criterion):
    return run(logits, labels, weights, criterion, value=True)[0]


def _gradient(logits, labels, weights, criterion, scale):
    return run(logits, labels, weights, criterion, value=False, gradient=True, scale=scale)[2]


def _value_and_gradient(logits, labels, weights, criterion, n_real, scale, factor):
    return run(
        *(logits, labels, weights, criterion, n_real),
        value=True,
        statistics=True,
        gradient=True,
        scale=scale,
        factor=factor,
    )


def _out(logits, shape):
    dtype = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
    return logits[0].new_empty(shape, dtype=dtype)


for _name, _implementation, _fake in (
    ("value", _value, lambda logits, *_: _out(logits, ())),
    ("gradient", _gradient, lambda logits, *_: [torch.empty_like(x) for x in logits]),
    (
        "value_and_gradient",
        _value_and_gradient,
        lambda logits, *_: (_out(logits, ()), _out(logits, (len(logits), 3)), [torch.empty_like(x) for x in logits]),
    ),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


def _traced(tensors: Sequence[Tensor]) -> bool:
    """Whether somebody must see an operator here: a compiler, a dispatch mode, a transform, a tensor subclass.
    Otherwise the implementation is called directly, which saves the dispatcher's time."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return True
    for x in tensors:
        if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return True
    return torch._C._are_functorch_transforms_active()


class _Value(Function):
    @staticmethod
    def forward(labels, weights, criterion, *logits):
        call = torch.ops.fastgan.value if _traced(logits) else _value
        return call(logits, labels, weights, criterion)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.labels, ctx.weights, ctx.criterion, *logits = inputs
        ctx.save_for_backward(*logits)

    @staticmethod
    def backward(ctx, grad_output):
        needed, logits, labels, weights = ctx.needs_input_grad[3:], ctx.saved_tensors, ctx.labels, ctx.weights
        if not all(needed):
            logits, labels, weights = ([v for v, n in zip(vs, needed) if n] for vs in (logits, labels, weights))
        if torch.is_grad_enabled():  # create_graph=True
            grads = _Gradient.apply(labels, weights, ctx.criterion, grad_output, *logits)
        else:
            call = torch.ops.fastgan.gradient if _traced(logits) else _gradient
            grads = call(logits, labels, weights, ctx.criterion, grad_output)
        grads = iter(grads)
        return None, None, None, *[next(grads) if n else None for n in needed]

    @staticmethod
    def vmap(info, in_dims, labels, weights, criterion, *logits):
        logits = _batched(info, in_dims[3:], logits)
        return sum(w * _per_sample_value(x, y) for x, y, w in zip(logits, labels, weights)), 0


class _Gradient(Function):
    @staticmethod
    def forward(labels, weights, criterion, grad_output, *logits):
        call = torch.ops.fastgan.gradient if _traced([grad_output, *logits]) else _gradient
        return tuple(call(logits, labels, weights, criterion, grad_output))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.labels, ctx.weights, ctx.criterion, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads_of_grads):
        grad_output, *logits = ctx.saved_tensors
        of_output, of_logits = 0.0, []
        for x, y, w, upstream in zip(logits, ctx.labels, ctx.weights, grads_of_grads):
            wide, upstream = closed_form.widen(x), closed_form.widen(upstream) * (w / x.numel())
            p = torch.sigmoid(wide)
            of_output = of_output + (upstream * closed_form.slope(wide, y)).sum()
            of_logits.append((grad_output * upstream * p * torch.sigmoid(-wide)).to(x.dtype))
        return None, None, None, of_output, *of_logits

    @staticmethod
    def vmap(info, in_dims, labels, weights, criterion, grad_output, *logits):
        if in_dims[3] is not None:
            grad_output = grad_output.movedim(in_dims[3], 0)
        logits = _batched(info, in_dims[4:], logits)
        grads = []
        for x, y, w in zip(logits, labels, weights):
            scale = grad_output * (w / max(x[0].numel(), 1))
            if scale.dim():
                scale = scale.reshape(-1, *[1] * (x.dim() - 1))
            grads.append((closed_form.slope(closed_form.widen(x), y) * scale).to(x.dtype))
        return tuple(grads), (0,) * len(grads)


def _per_sample_value(x: Tensor, y: float) -> Tensor:
    x = closed_form.widen(x).flatten(1) if x.dim() > 1 else closed_form.widen(x)[:, None]
    return F.binary_cross_entropy_with_logits(x, torch.full_like(x, y), reduction="none").mean(1)


def _batched(info, dims, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor with the mapped dimension first."""
    return [x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(tensors, dims)]


def value(logits: Sequence[Tensor], labels, weights, criterion: str) -> Tensor:
    """L, differentiable in the logits."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _Value.apply(labels, weights, criterion, *logits)
    # What `Function.apply` does when no transform is active, less its 12 us of signature binding.
    return super(Function, _Value).apply(labels, weights, criterion, *logits)


def value_and_gradient(logits: Sequence[Tensor], labels, weights, criterion: str, n_real: int, scale, factor):
    """(L, terms, grads): no autograd, one launch."""
    if _traced(logits):
        logits = [x.detach() for x in logits]
        return torch.ops.fastgan.value_and_gradient(logits, labels, weights, criterion, n_real, scale, factor)
    return _value_and_gradient(logits, labels, weights, criterion, n_real, scale, factor)
