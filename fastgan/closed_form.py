"""The terms in PyTorch, for tensors no Triton kernel runs on: value and gradient by formula, not by autograd.

On a CPU the cost is in the transcendental functions and in trips to memory, so the work goes block by block, in place,
while a block is in cache, and

* one sigmoid a logit serves the gradient and the loss: p = sigmoid(z), m = min(p, 1 - p), exp(-|z|) = m / (1 - m);
* log1p is taken of one number in 32: (1 + a)(1 + b) - 1 = a + b + ab has no cancellation, so pairs are merged,
  sum_i log1p(e_i) = sum_j log1p(c_j), five times before a single log1p. (32 factors of at most 2 cannot overflow.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 16  # logits: a few float32 buffers of this size stay in a core's second-level cache
_MERGES = 5
_SMALL = 4096  # logits: below, calling more operators costs more than softplus saves


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
    side = _side_on_cpu if logits[0].device.type == "cpu" else _side_anywhere
    if scale is not None:
        factor = factor * (scale.item() if scale.device.type == "cpu" else scale)
    out_dtype = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
    rows, grads = [], []
    for k, (x, label, weight) in enumerate(zip(logits, labels, weights)):
        row, grad = side(x, label, weight, factor, k < n_real, value, statistics, gradient)
        rows.append(row)
        grads.append(grad)
    if not value:
        return None, None, grads
    if torch.is_tensor(rows[0][0]):
        table = torch.stack([torch.stack(row) for row in rows]).to(out_dtype)
        return table[:, 0].sum(), table if statistics else None, grads if gradient else None
    loss = torch.tensor(sum([row[0] for row in rows]), dtype=out_dtype)
    table = torch.tensor(rows, dtype=out_dtype) if statistics else None
    return loss, table, grads if gradient else None


def _side_on_cpu(
    x: Tensor, label: float, weight: float, factor: float, is_real: bool, value: bool, statistics: bool, gradient: bool
) -> tuple[tuple[float, ...] | None, Tensor | None]:
    """((weighted loss, mean logit, share classified rightly), gradient) of one term, each if asked for."""
    if x.is_neg():
        x = x.resolve_neg()
    if not x.is_contiguous():
        x = _dense(x)
    n = x.numel()
    grad = torch.empty_like(x) if gradient else None
    flat_x = _flat(x)
    flat_grad = _flat(grad) if gradient else None
    # phi is softplus(z) - t z with z = x, t = y for a label near 0, and z = -x, t = 1 - y for one near 1: what is left
    # of the label is at most 1/2, so nothing cancels.
    flip = label >= 0.5
    target = 1.0 - label if flip else label
    slope_weight = (-1.0 if flip else 1.0) * weight * factor / n if n else 0.0
    softplus_sum = logit_sum = non_negative = 0.0
    for begin in range(0, n, BLOCK):
        block = flat_x[begin : begin + BLOCK] if n > BLOCK else flat_x
        out = flat_grad[begin : begin + BLOCK] if gradient and n > BLOCK else flat_grad
        wide = block if block.dtype in (torch.float32, torch.float64) else block.float()
        if gradient and out.dtype == wide.dtype:
            p = torch.sigmoid(torch.neg(wide, out=out) if flip else wide, out=out)
        else:
            p = torch.sigmoid_(wide.neg()) if flip else torch.sigmoid(wide)
        if value:
            softplus_sum += _softplus_sum(wide, p, flip)
            logit_sum += wide.sum().item()
            if statistics:
                non_negative += torch.ge(wide, 0.0).sum().item()
        if gradient:
            if target:
                p.sub_(target)
            p.mul_(slope_weight)
            if p is not out:
                out.copy_(p)
    if not value:
        return None, grad
    z_sum = -logit_sum if flip else logit_sum
    mean_loss = (softplus_sum - target * z_sum) / n if n else math.nan
    if not math.isfinite(mean_loss) or not math.isfinite(logit_sum):  # infinite logits: what eager says of them
        mean_loss = F.binary_cross_entropy_with_logits(flat_x.float(), torch.full_like(flat_x, label).float()).item()
    if not statistics:
        return (weight * mean_loss,), grad
    mean = logit_sum / n if n else math.nan
    share = math.nan if math.isnan(mean) else (non_negative if is_real else n - non_negative) / n
    return (weight * mean_loss, mean, share), grad


def _side_anywhere(
    x: Tensor, label: float, weight: float, factor, is_real: bool, value: bool, statistics: bool, gradient: bool
) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
    """`_side_on_cpu` for any other device: whole tensors, and nothing read back to the host."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    grad = row = None
    if gradient:
        slope = (1.0 - label) - torch.sigmoid(-wide) if label >= 0.5 else torch.sigmoid(wide) - label
        grad = (slope * (factor * (weight / max(x.numel(), 1)))).to(x.dtype)
    if value:
        row = (weight * F.binary_cross_entropy_with_logits(wide, torch.full_like(wide, label)),)
        if statistics:
            mean = wide.mean()
            right = wide >= 0 if is_real else wide < 0
            row += (mean, torch.where(mean.isnan(), mean, right.to(wide.dtype).mean()))
    return row, grad


def _softplus_sum(x: Tensor, p: Tensor, flip: bool) -> float:
    """sum softplus(z), z = -x if flip else x, given p = sigmoid(z). Leaves both as they are."""
    n = x.numel()
    if n < _SMALL:
        return F.softplus(-x if flip else x, threshold=50.0).sum().item()
    relu_sum = -x.clamp(max=0.0).sum().item() if flip else x.clamp(min=0.0).sum().item()
    e = torch.sub(1.0, p)
    torch.minimum(e, p, out=e)
    e.div_(1.0 - e)  # exp(-|z|); where p is near 1 its error of 6e-8 is beside a softplus of more than ln 2
    rest = n % (1 << _MERGES)
    log1p_sum = torch.log1p(e[n - rest :]).sum().item() if rest else 0.0
    n -= rest
    for _ in range(_MERGES):
        n //= 2
        a, b = e[:n], e[n : 2 * n]
        e = torch.addcmul(b, a, b).add_(a)
    return relu_sum + log1p_sum + e.log1p_().sum().item()


def _dense(x: Tensor) -> Tensor:
    """x if its elements fill one stretch of memory in some order of dimensions, else a contiguous copy."""
    return x if torch.empty_like(x).stride() == x.stride() else x.contiguous()


def _flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))
