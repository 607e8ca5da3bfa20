"""Losses of up to some thousand logits in plain CPU tensors, where the calls cost and not the arithmetic.

Such a loss takes one to five operators of PyTorch, of which each costs a microsecond or two. What is left to win is to
call nothing else: no argument is checked twice, no list of terms made, and no node of Python's in the graph, which
costs autograd more than it takes to compute the gradient. `functional` and `compat` ask here first, for tensors that
`operators.plain` has passed, and take the general way where the answer is None.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgan import closed_form
from fastgan.closed_form import constant, tensor, widen

_FEW = 1 << 12  # logits: the most that a product in float32 adds up as exactly as promised
Part = tuple[Tensor, float]  # losses of the elements, or their mean; and their sign


def loss(criterion: str, x: Tensor, y: float | Tensor, weight: float = 1.0) -> Tensor | None:
    """weight * mean phi(x, y), by operators whose derivatives autograd knows."""
    part = _part(criterion, x, y)
    if part is None:
        return None
    values, sign = part
    return mean(values, weight * sign)


def pair(
    criterion: str, x: Tensor, y: float | Tensor, other: Tensor, other_y: float | Tensor, weight: float = 1.0
) -> Tensor | None:
    """weight * (mean phi(x, y) + mean phi(other, other_y))."""
    part = _part(criterion, x, y)
    other_part = _part(criterion, other, other_y) if part is not None else None
    if other_part is None:
        return None
    total, factor, other_total, other_factor = *_summed(*part, x, weight), *_summed(*other_part, other, weight)
    if factor == other_factor:
        total = total + other_total
    elif factor == -other_factor:  # one operator for the sum and the sign
        total, factor = other_total - total, other_factor
    else:
        return total * constant(factor, total.dtype) + other_total * constant(other_factor, total.dtype)
    return total if factor == 1.0 else total * constant(factor, total.dtype)


def losses(criterion: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor] | None:
    """(mean phi(real, 1), mean phi(fake, 0))."""
    form = FORMS[criterion]
    if criterion not in _MEANS and real.numel() <= _FEW and fake.numel() <= _FEW:
        real, fake = real.view(-1), fake.view(-1)
    of_real = form(real, 1.0)
    of_fake = form(fake, 0.0) if of_real is not None else None
    return None if of_fake is None else (mean(*of_real), mean(*of_fake))


def mean(values: Tensor, factor: float = 1.0) -> Tensor:
    """factor times the mean of losses, or of what is their mean already."""
    n = values.numel()
    if values.dim() == 1 and 0 < n <= _FEW:
        return values.dot(_shares(factor, n, values.dtype))
    if factor == 1.0:
        return values.mean() if values.dim() else values
    if values.dim():  # the division of a mean is one with the factor
        values, factor = values.sum(), factor / n
    return values * constant(factor, values.dtype)


def _part(criterion: str, x: Tensor, y: float | Tensor) -> Part | None:
    form = FORMS.get(criterion)
    if form is None:
        return None
    if x.dim() != 1 and x.numel() <= _FEW and criterion not in _MEANS:
        x = x.view(-1)
        y = y if y.__class__ is float else y.view(-1)
    return form(x, y)


def _summed(values: Tensor, sign: float, x: Tensor, weight: float) -> tuple[Tensor, float]:
    if not values.dim():
        return values, weight * sign
    if values.dim() == 1 and values.numel() <= _FEW:
        return values.dot(_shares(weight * sign, values.numel(), values.dtype)), 1.0
    return values.sum(), weight * sign / x.numel()


@functools.lru_cache(maxsize=64)
def _shares(factor: float, n: int, dtype: torch.dtype) -> Tensor:
    """n times factor / n. The product with it is a mean, sign and weight in one operator."""
    with torch.inference_mode(False):  # autograd may have to save it
        return torch.full((n,), factor / n, dtype=torch.float64, device="cpu").to(dtype)  # or infinite


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
    dtype = logits[0].dtype
    return tensor(total, dtype), tensor(rows, dtype), tuple(grads)


# (x, y) -> Part, or None where the general way has to say what comes out.


def _cross_entropy(x: Tensor, y: float | Tensor) -> Part | None:
    """softplus(-x) is -softplus(x, beta=-1), which saves x and not -x: nothing is saved but the logits. Neither value
    nor slope cancels."""
    x = widen(x)
    if y.__class__ is not float:
        y = _one_label(widen(y))
    if not _finite(x.detach()):
        return None  # infinite logits: what `BCEWithLogitsLoss` says of them
    if y.__class__ is float:
        if y == 1.0:
            return torch._C._nn.softplus(x, -1.0, 50.0), -1.0
        return (torch._C._nn.softplus(x, 1.0, 50.0), 1.0) if y == 0.0 else None
    below, above = torch._C._nn.softplus(x, 1.0, 50.0), torch._C._nn.softplus(x, -1.0, 50.0)
    return torch.lerp(below, -above, y), 1.0


def _softplus(x: Tensor, y: float | Tensor) -> Part | None:
    if y.__class__ is not float or y not in (0.0, 1.0):
        return None
    x = widen(x)
    return (torch._C._nn.softplus(x, -1.0, 50.0), -1.0) if y else (torch._C._nn.softplus(x, 1.0, 50.0), 1.0)


def _finite(x: Tensor) -> bool:
    """False where a number is not, and of a few logits where a square is not: the general way is right as well."""
    return math.isfinite((x.dot(x) if x.dim() == 1 and x.numel() <= _FEW else x.sum()).item())


def _one_label(labels: Tensor) -> float | Tensor:
    """The number that all labels are (a tensor of ones, of zeros), or the tensor."""
    values = labels.numpy().ravel()
    return values.item(0) if values.tobytes() == values[:1].tobytes() * values.size else labels


def _hinge(x: Tensor, y: float | Tensor) -> Part | None:
    if y.__class__ is not float or y not in (0.0, 1.0):
        return None
    x = widen(x)
    one = constant(1.0, x.dtype)
    return (torch.sub(one, x) if y else torch.add(x, one)).relu(), 1.0


def _hinge_min(x: Tensor, y: float | Tensor) -> Part | None:
    if y.__class__ is not float or y not in (0.0, 1.0):
        return None
    x = widen(x)
    gap = torch.sub(x if y else -x, constant(1.0, x.dtype))
    return torch.minimum(gap, constant(0.0, x.dtype)), -1.0


def _wasserstein(x: Tensor, y: float | Tensor) -> Part | None:
    return None if y.__class__ is not float or y not in (0.0, 1.0) else (widen(x).mean(), 1.0 - 2.0 * y)


def _least_squares(x: Tensor, y: float | Tensor) -> Part:
    # without the checks of `F.mse_loss`, which are a tenth of the time of a small loss
    x = widen(x)
    return torch._C._nn.mse_loss(x, constant(y, x.dtype).expand_as(x) if y.__class__ is float else widen(y), 1), 1.0


def _probabilities(x: Tensor, y: float | Tensor) -> Part:
    x = widen(x)
    y = constant(y, x.dtype).expand_as(x) if y.__class__ is float else widen(y)
    return torch._C._nn.binary_cross_entropy(x, y, None, 1), 1.0


_MEANS = ("least_squares", "cross_entropy", "wasserstein")  # whose forms give the mean, in one operator
FORMS: dict[str, Callable[[Tensor, float | Tensor], Part | None]] = {
    "sigmoid_cross_entropy": _cross_entropy,
    "softplus": _softplus,
    "least_squares": _least_squares,
    "hinge": _hinge,
    "hinge_min": _hinge_min,
    "wasserstein": _wasserstein,
    "cross_entropy": _probabilities,
}
