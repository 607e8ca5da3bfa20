"""Losses of a few thousand logits in plain CPU tensors, where the calls cost and not the arithmetic.

Such a loss takes one to five operators of PyTorch, of which each costs a microsecond or two. What is left to win is to
call nothing else: no argument is checked twice, no list of terms made, and no node of Python's in the graph, which
costs autograd more than it takes to compute the gradient. `functional` and `compat` ask here first, for tensors that
`operators.plain` has passed, and take the general way where the answer is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fastgan import closed_form
from fastgan.closed_form import constant, widen

Part = tuple[bool, Tensor]  # (is it to be subtracted?, a mean)


def loss(criterion: str, *sides: tuple[Tensor, float | Tensor], weight: float = 1.0) -> Tensor | None:
    """weight * sum over one or two (x, y) of mean phi(x, y), by operators whose derivatives autograd knows."""
    parts = _parts(criterion, sides)
    if parts is None:
        return None
    negative, total = parts[0]
    if len(parts) == 2:
        other_negative, other = parts[1]
        if negative == other_negative:
            total = total + other
        else:  # one operator for the sum and the sign
            total, negative = (other - total if negative else total - other), False
    if negative:
        weight = -weight
    if weight == 1.0:
        return total
    return -total if weight == -1.0 else total * constant(weight, total.dtype)


def losses(criterion: str, *sides: tuple[Tensor, float | Tensor]) -> list[Tensor] | None:
    """mean phi(x, y) of each (x, y)."""
    parts = _parts(criterion, sides)
    return None if parts is None else [-mean if negative else mean for negative, mean in parts]


def value_and_grad(
    logits: Sequence[Tensor], labels: Sequence[float], weight: float, criterion: str, n_real: int, factor: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]] | None:
    """(L, rows, gradients) as `closed_form.terms` has them, for terms of one weight."""
    form = closed_form.FAST.get(criterion)
    if form is None:
        return None
    rows, grads, total = [], [], 0.0
    for k, x in enumerate(logits):
        n = x.numel()
        mean, logit_sum, non_negative, grad = form(x.detach(), labels[k], weight * factor / n, True, True, True)
        right = non_negative if k < n_real else n - non_negative
        rows.append((weight * mean, logit_sum / n, right / n if logit_sum == logit_sum else math.nan))
        total += weight * mean
        grads.append(grad)
    dtype = np.float64 if logits[0].dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(total, dtype)), torch.from_numpy(np.array(rows, dtype)), tuple(grads)


def _parts(criterion: str, sides: Sequence[tuple[Tensor, float | Tensor]]) -> list[Part] | None:
    form = FORMS.get(criterion)
    if form is None:
        return None
    parts = []
    for x, y in sides:
        part = form(widen(x), y)
        if part is None:
            return None
        parts.append(part)
    return parts


# (x, y) -> Part, or None where the general way has to say what comes out.


def _cross_entropy(x: Tensor, y: float | Tensor) -> Part | None:
    """softplus(-x) is -softplus(x, beta=-1), which saves x and not -x: nothing is saved but the logits. Neither value
    nor slope cancels."""
    if y.__class__ is not float:
        y = _one_label(y)
    if not math.isfinite(np.add.reduce(x.detach().numpy(), axis=None)):
        return None  # infinite logits: what `BCEWithLogitsLoss` says of them
    if y == 1.0:
        return True, torch._C._nn.softplus(x, -1.0, 50.0).mean()
    if y.__class__ is float:
        return (False, torch._C._nn.softplus(x, 1.0, 50.0).mean()) if y == 0.0 else None
    below, above = torch._C._nn.softplus(x, 1.0, 50.0), torch._C._nn.softplus(x, -1.0, 50.0)
    return False, torch.lerp(below, -above, y.to(x.dtype)).mean()


def _one_label(labels: Tensor) -> float | Tensor:
    """The number that all labels are (a tensor of ones, of zeros), or the tensor."""
    values = labels.numpy()
    first = values.item(0)
    return first if np.count_nonzero(values == first) == values.size else labels


def _hinge(x: Tensor, y: float | Tensor) -> Part | None:
    if y.__class__ is not float or y not in (0.0, 1.0):
        return None
    one = constant(1.0, x.dtype)
    return False, torch.relu(torch.sub(one, x) if y else torch.add(x, one)).mean()


def _hinge_min(x: Tensor, y: float | Tensor) -> Part | None:
    if y.__class__ is not float or y not in (0.0, 1.0):
        return None
    gap = torch.sub(x if y else -x, constant(1.0, x.dtype))
    return True, torch.minimum(gap, constant(0.0, x.dtype)).mean()


def _wasserstein(x: Tensor, y: float | Tensor) -> Part | None:
    return None if y.__class__ is not float or y not in (0.0, 1.0) else (y == 1.0, x.mean())


def _least_squares(x: Tensor, y: float | Tensor) -> Part:
    # without the checks of `F.mse_loss`, which are a tenth of the time of a small loss
    y = constant(y, x.dtype).expand_as(x) if y.__class__ is float else y.to(x.dtype)
    return False, torch._C._nn.mse_loss(x, y, 1)


def _probabilities(x: Tensor, y: float | Tensor) -> Part:
    y = constant(y, x.dtype).expand_as(x) if y.__class__ is float else y.to(x.dtype)
    return False, torch._C._nn.binary_cross_entropy(x, y, None, 1)


FORMS: dict[str, Callable[[Tensor, float | Tensor], Part | None]] = {
    "sigmoid_cross_entropy": _cross_entropy,
    "least_squares": _least_squares,
    "hinge": _hinge,
    "hinge_min": _hinge_min,
    "wasserstein": _wasserstein,
    "cross_entropy": _probabilities,
}
