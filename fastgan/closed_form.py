"""The terms in PyTorch, for tensors no Triton kernel runs on: value and gradient by formula, not by autograd.

On a CPU the cost is in the calls of operators, in the transcendental functions and in trips to memory. Small tensors
take as few operators as can be; large ones go block by block, in place, while a block is in cache, and

* one sigmoid a logit, p, serves the gradient and the loss: softplus(z) = max(z, 0) - log(1 - m), m = min(p, 1 - p);
* a logarithm is taken of one number in four, the product of four 1 - m kept as its distance from 1.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 18  # logits: a few float32 buffers of this size stay in cache
_SMALL = 1 << 17  # logits: below, calling more operators costs more than softplus
_TINY = 1 << 12  # logits: below, the operator that is slower an element is faster a call
_WIDE = (torch.float32, torch.float64)
_ONE = torch.ones((), device="cpu")
_kept = threading.local()


def terms(
    logits: Sequence[Tensor],
    labels: Sequence[float],
    weights: Sequence[float],
    criterion: str,
    n_real: int,
    *,
    value: bool,
    statistics: bool = False,
    gradient: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
    """The contract of `kernels.adversarial`."""
    if criterion != "sigmoid_cross_entropy":
        raise NotImplementedError(criterion)
    on_cpu = logits[0].is_cpu
    side = _side_on_cpu if on_cpu else _side_anywhere
    if scale is not None:
        factor = factor * (scale.item() if on_cpu else scale)
    double = logits[0].dtype == torch.float64
    rows, grads = [], []
    for k, x in enumerate(logits):
        row, grad = side(x, labels[k], weights[k], factor, k < n_real, value, statistics, gradient)
        rows.append(row)
        grads.append(grad)
    if not gradient:
        grads = None
    if not value:
        return None, None, grads
    if on_cpu:  # through NumPy: torch.tensor of a list takes several times as long
        dtype = np.float64 if double else np.float32
        loss = torch.from_numpy(np.array(sum([row[0] for row in rows]), dtype))
        return loss, torch.from_numpy(np.array(rows, dtype)) if statistics else None, grads
    table = torch.stack([torch.stack(row) for row in rows]).to(torch.float64 if double else torch.float32)
    return table[:, 0].sum(), table if statistics else None, grads


def _side_on_cpu(
    x: Tensor, label: float, weight: float, factor: float, is_real: bool, value: bool, statistics: bool, gradient: bool
) -> tuple[tuple[float, ...] | None, Tensor | None]:
    """((weighted loss, mean logit, share classified rightly), gradient) of one term, each if asked for."""
    x = x.detach()
    if not x.is_contiguous() or x.is_neg():
        x = _dense(x)
    n = x.numel()
    # phi is softplus(z) - t z with z = x, t = y for a label near 0, and z = -x, t = 1 - y for one near 1: what is left
    # of the label is at most 1/2, so nothing cancels.
    flip = label >= 0.5
    target = 1.0 - label if flip else label
    slope_weight = (-weight if flip else weight) * factor / n if n else 0.0
    softplus_sum = logit_sum = 0.0
    non_negative, grad = 0, None
    if n >= _SMALL:
        grad = torch.empty_like(x) if gradient else None
        softplus_sum, logit_sum, non_negative = _blocks(x, grad, flip, target, slope_weight, value, statistics)
    else:  # as few operators as can be: a call costs more than its arithmetic
        wide = widen(x)
        z = wide.neg() if flip else wide
        if value:
            if n < _TINY:
                softplus_sum = F.softplus(z, 1.0, 50.0).sum().item()
            else:  # faster than softplus by a third, but for its cost a call
                softplus_sum = -F.logsigmoid(wide if flip else wide.neg()).sum().item()
            logit_sum = wide.sum().item()
        if statistics:
            non_negative = np.count_nonzero(wide.numpy() >= 0)
        if gradient:
            grad = z.sigmoid_() if flip else z.sigmoid()
            if target:
                grad.sub_(target)
            grad.mul_(slope_weight)
            if wide is not x:
                grad = grad.to(x.dtype)
    if not value:
        return None, grad
    z_sum = -logit_sum if flip else logit_sum
    mean_loss = (softplus_sum - target * z_sum) / n if n else math.nan
    if not math.isfinite(mean_loss) or not math.isfinite(logit_sum):  # infinite logits: what eager says of them
        wide = widen(_flat(x))
        mean_loss = F.binary_cross_entropy_with_logits(wide, torch.full_like(wide, label)).item()
    if not statistics:
        return (weight * mean_loss,), grad
    mean = logit_sum / n if n else math.nan
    share = math.nan if math.isnan(mean) else (non_negative if is_real else n - non_negative) / n
    return (weight * mean_loss, mean, share), grad


def _blocks(
    x: Tensor, grad: Tensor | None, flip: bool, target: float, slope_weight: float, value: bool, statistics: bool
) -> tuple[float, float, int]:
    """Fills `grad`, if there is one; returns the sums of softplus(z) and of x, and how many x are >= 0."""
    n, dtype = x.numel(), x.dtype if x.dtype in _WIDE else torch.float32
    in_place = grad is not None and grad.dtype == dtype
    scratch = _scratch(dtype)
    if n < BLOCK:
        scratch = [buffer[:n] for buffer in scratch]
    flat_x, flat_grad = _flat(x), None if grad is None else _flat(grad)
    softplus_sum = logit_sum = 0.0
    non_negative = 0
    for begin in range(0, n, BLOCK):
        block, out = flat_x, flat_grad
        if n > BLOCK:
            block = flat_x[begin : begin + BLOCK]
            out = None if grad is None else flat_grad[begin : begin + BLOCK]
            if begin > n - BLOCK:
                scratch = [buffer[: n - begin] for buffer in scratch]
        wide = block if block.dtype == dtype else block.to(dtype)
        p = out if in_place else scratch[2]
        torch.sigmoid(torch.neg(wide, out=p) if flip else wide, out=p)
        if value:
            softplus_sum += _softplus_sum(wide, p, flip, *scratch[:2])
            logit_sum += wide.sum().item()
        if statistics:
            non_negative += int(torch.ge(wide, 0.0, out=scratch[0]).sum().item())  # ones and zeros
        if grad is not None:
            if target:
                p.sub_(target)
            p.mul_(slope_weight)
            if not in_place:
                out.copy_(p)
    return softplus_sum, logit_sum, non_negative


def _scratch(dtype: torch.dtype) -> list[Tensor]:
    """Three blocks of this thread's own, kept: fresh memory of this size costs more in page faults than the arithmetic
    that is done in it."""
    kept = _kept.__dict__
    if dtype not in kept:
        with torch.inference_mode(False):  # made in inference mode, it could not be written to outside of it
            kept[dtype] = [torch.empty(BLOCK, dtype=dtype, device="cpu") for _ in range(3)]
    return kept[dtype]


def _softplus_sum(x: Tensor, p: Tensor, flip: bool, one: Tensor, two: Tensor) -> float:
    """sum softplus(z) = sum max(z, 0) - sum log(1 - m), m = min(p, 1 - p), where z = -x if flip else x and
    p = sigmoid(z). Where p is near 1 the error of 1 - p, 6e-8, stands beside a softplus of more than ln 2.

    `one` and `two` are scratch of the size of x. The logarithms are taken of products of four: with
    1 - (1 - a)(1 - b) = a + b - ab, from m up to 15/16, nothing is lost where m is tiny, and little where it is not."""
    limit = torch.clamp(x, max=0.0, out=one) if flip else torch.clamp(x, min=0.0, out=one)
    total = -limit.sum().item() if flip else limit.sum().item()
    m = torch.minimum(torch.sub(_ONE, p, out=one), p, out=one)
    left = m.numel() % 4
    if left:
        total -= torch.log1p(-m[-left:]).sum().item()
        m = m[:-left]
    a, b = m.chunk(2)
    m = torch.add(a, b, out=two[: a.numel()]).addcmul_(a, b, value=-1.0)
    a, b = m.chunk(2)
    m = torch.add(a, b, out=one[: a.numel()]).addcmul_(a, b, value=-1.0)
    return total - m.neg_().log1p_().sum().item()


def _side_anywhere(
    x: Tensor, label: float, weight: float, factor, is_real: bool, value: bool, statistics: bool, gradient: bool
) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
    """`_side_on_cpu` for any other device: whole tensors, and nothing read back to the host."""
    wide = widen(x)
    grad = row = None
    if gradient:
        grad = (slope(wide, label) * (factor * (weight / max(x.numel(), 1)))).to(x.dtype)
    if value:
        row = (weight * F.binary_cross_entropy_with_logits(wide, torch.full_like(wide, label)),)
        if statistics:
            mean = wide.mean()
            right = wide >= 0 if is_real else wide < 0
            row += (mean, torch.where(mean.isnan(), mean, right.to(wide.dtype).mean()))
    return row, grad


def widen(x: Tensor) -> Tensor:
    """To the arithmetic dtype: half precision to float32."""
    return x if x.dtype in _WIDE else x.float()


def slope(x: Tensor, y: float) -> Tensor:
    """sigmoid(x) - y, without cancellation for labels 0 and 1."""
    return (1.0 - y) - torch.sigmoid(-x) if y >= 0.5 else torch.sigmoid(x) - y


def _dense(x: Tensor) -> Tensor:
    """x if its elements fill one stretch of memory in some order of dimensions, else a contiguous copy."""
    x = x.resolve_neg()
    return x if torch.empty_like(x).stride() == x.stride() else x.contiguous()


def _flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))
