"""A weighted sum of means of a criterion over several tensors of logits, and its gradients: see `kernels.adversarial`.

The sigmoid cross-entropy has special code. For large tensors its cost is in the transcendental functions:

* one sigmoid a logit, p, serves the gradient and the loss: softplus(z) = max(z, 0) - log max(p, 1 - p);
* one logarithm serves sixteen numbers: it is computed of their product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.cpu.blocks import blocks, dense, flat, laid_out, like, one_block, per_term
from fastgan.formulas.criteria import CRITERIA
from fastgan.formulas.terms import Terms, join_sides, split_sides, wide_dtype, widen

AUTOGRAD_BELOW = 1 << 17  # logits: below, PyTorch's own operators and autograd are faster
AUTOGRAD_ALWAYS = ("hinge", "hinge_clamp", "hinge_min", "wasserstein")  # at any size: a slope needs more operators
DOT_UP_TO = 1 << 13  # logits of a tensor: above, a dot product loses digits that a mean keeps
_PRODUCTS_FROM = 1 << 17  # logits: below, calling more operators costs more than softplus
_SURE = 0.1  # nats: with a mean loss below, the distance of sigmoids from 1 must not be lost
_CROSS_ENTROPIES = ("sigmoid_cross_entropy", "softplus")
_EXACT_SLOPES = {  # criteria whose value autograd differentiates as exactly as the slope is written
    *("absolute", "cross_entropy", "hinge", "hinge_clamp", "hinge_min", "least_squares", "squared_hinge"),
    *("wasserstein", *_CROSS_ENTROPIES),
}


def adversarial(
    logits: Sequence[Tensor],
    labels: Sequence[float],
    weights: Sequence[float],
    criterion: str,
    n_real: int,
    partners: Sequence[Tensor] = (),
    targets: Sequence[Tensor] = (),
    masks: Sequence[Tensor] = (),
    shift: Tensor | None = None,
    split: int = 0,
    *,
    value: bool,
    statistics: int = 0,
    gradient: bool = False,
    partner_gradient: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
    """(loss, terms, grads); the arguments and results of `kernels.adversarial`. The last two columns of `terms` need
    more operators here: with `statistics` 1 they are 0, with 2 they are computed."""
    dtype, slopes = wide_dtype(logits[0].dtype), gradient or partner_gradient
    # So that no graph is recorded: entering `torch.no_grad` would cost more than these calls.
    batches, partners, masks = [[x.detach() for x in given] for given in (logits, partners, masks)]
    shift = None if shift is None else shift.detach()
    logits = split_sides(batches, split) if split else batches
    factors = per_term(scale, len(logits), factor)
    terms = Terms(logits, labels, weights, criterion, n_real, partners, targets, masks, shift)
    loss: Tensor | None = None
    rows: Tensor | None = None
    if logits[0].is_cpu:
        found, grads = _on_host(terms, factors, value, statistics > 1, slopes)
        if value:
            loss = torch.scalar_tensor(sum([row[0] for row in found]), dtype=dtype, device="cpu")
            rows = torch.from_numpy(np.array(found, np.float64 if dtype == torch.float64 else np.float32))
    else:
        rows, grads = _on_device(terms, factors, value, statistics > 1, slopes)
        loss = None if rows is None else rows[:, 0].sum()
    if slopes:
        grads = join_sides(grads, split) if split else grads
        grads = [laid_out(grad, x) for grad, x in zip(grads, batches)]
        if partner_gradient:
            grads = (grads if gradient else []) + [grad.neg() for grad in grads]
    return loss, rows if statistics else None, grads if slopes else None


def differentiable_value(terms: Terms) -> Tensor | None:
    """L with PyTorch's own operators, which autograd differentiates; None if `adversarial` is faster or more accurate.

    For few logits calls take the time, not arithmetic: an autograd node in Python costs more than the whole loss."""
    criterion = terms.criterion
    if criterion not in _EXACT_SLOPES or terms.split:
        return None
    if criterion not in AUTOGRAD_ALWAYS and max([x.numel() for x in terms.logits]) >= AUTOGRAD_BELOW:
        return None
    of_logits = criterion in _CROSS_ENTROPIES
    if of_logits and terms.targets:
        labels = [_constant(y) for y in terms.targets]
        if None in labels:
            return None
        terms = terms.having(labels=tuple(labels), targets=())
    if of_logits and not {0.0, 1.0}.issuperset(terms.labels):
        return None  # sigmoid(x) - y would cancel
    phi, total = CRITERIA[criterion].value, None
    for x, y, mask, weight in terms.each():
        n = x.numel()
        dotted = 0 < n <= DOT_UP_TO and criterion != "wasserstein"  # one operator; a mean and its weight are two
        if dotted and criterion == "least_squares" and mask is None and y.__class__ is float:
            part = F.mse_loss(x, _filled(y, x.shape, x.dtype))  # a gradient in one operator
            part = part if weight == 1.0 else part * weight
            total = part if total is None else total + part
            continue
        if dotted and x.dim() != 1:
            x, y = x.reshape(-1), y.reshape(-1) if y.__class__ is Tensor else y
        if of_logits and (criterion == "softplus" or math.isfinite(x.detach().sum().item())):
            sign = -1.0 if y else 1.0
            values, weight = F.softplus(x, sign, 50.0), sign * weight  # -softplus(-x), which saves x and not -x
        else:
            values = phi(x, y)
        if dotted:
            rates = _filled(weight / n, (n,), x.dtype)
            part = torch.dot(values, rates if mask is None else rates * mask.reshape(-1))
        else:
            part = (values if mask is None else values * mask).mean() * weight
        total = part if total is None else total + part
    return total


def _constant(labels: Tensor) -> float | None:
    """The number that all elements of a tensor of labels are equal to; None if they differ."""
    low, high = torch.aminmax(labels) if labels.numel() else (labels.new_zeros(()),) * 2
    return low.item() if low == high else None


@functools.lru_cache(maxsize=64)
def _filled(value: float, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # autograd saves it
        return torch.full(shape, value, dtype=dtype, device="cpu")


def _on_host(
    terms: Terms, factors: Sequence[float], value: bool, statistics: bool, gradient: bool
) -> tuple[list[tuple[float, float, float]], list[Tensor]]:
    """([(weighted loss, mean logit, share classified rightly)], gradients) of CPU tensors, as far as requested."""
    rows, grads = [], []
    shifts = None if terms.shift is None else terms.shift.tolist()
    of_logits = terms.criterion in _CROSS_ENTROPIES
    others: Sequence[Tensor | None] = (None, None, None)
    for k, x in enumerate(terms.logits):
        x = dense(x)
        n, weight, label = x.numel(), terms.weights[k], terms.labels[k]
        if terms.partners or terms.targets or terms.masks:
            others = [like(x, given[k]) if given else None for given in (terms.partners, terms.targets, terms.masks)]
        grad = torch.empty_like(x) if gradient and not one_block(x) else None
        total, logit_sum, below, slope = 0.0, 0.0, 0, weight * factors[k] / max(n, 1)
        for z, (partner, y, mask, out) in blocks(x, *others, grad):
            z = widen(z)
            if partner is not None:
                z = z - widen(partner)
            if shifts is not None:
                z = z - shifts[k]
            z_sum = z.sum().item() if value and (statistics or of_logits) else 0.0
            if of_logits and mask is None and y is None:
                found, of_block = _cross_entropy(terms.criterion, z, z_sum, label, slope, value, gradient, out)
            else:
                target = label if y is None else y.to(z.dtype)
                found, of_block = _by_formula(terms.criterion, z, target, mask, slope, value, gradient, out)
            total += found
            if grad is None:
                grad = of_block
            if statistics:
                logit_sum += z_sum
                below += int(np.count_nonzero(z.numpy() < 0))
        mean = logit_sum / n if n else math.nan
        share = (n - below if k < terms.n_real else below) / n if mean == mean else math.nan
        rows.append((weight * (total / n if n else math.nan), mean, share))
        if grad is not None:
            grads.append(grad if grad.dtype == x.dtype else grad.to(x.dtype))
    return rows, grads


def _by_formula(
    criterion: str,
    x: Tensor,
    y: float | Tensor,
    mask: Tensor | None,
    slope: float,
    value: bool,
    gradient: bool,
    out: Tensor | None,
) -> tuple[float, Tensor | None]:
    """(sum of phi, slope times phi', written into `out` if there is one), as far as requested."""
    phi, total, grad = CRITERIA[criterion], 0.0, None
    if gradient:
        grad = phi.slope(x, y)
        grad = grad if mask is None else grad * mask
        grad = grad * slope if out is None else torch.mul(grad, slope, out=out)
    if value:
        values = phi.value(x, y)
        total = (values if mask is None else values * mask).sum().item()
    return total, grad


def _cross_entropy(
    criterion: str,
    x: Tensor,
    x_sum: float,
    label: float,
    slope: float,
    value: bool,
    gradient: bool,
    out: Tensor | None,
) -> tuple[float, Tensor | None]:
    """`_by_formula` for the cross-entropy with logits. x_sum: the sum of x."""
    # phi is softplus(z) - t z with z = x, t = y for a label near 0, and z = -x, t = 1 - y for one near 1: t is at most
    # 1/2, so nothing cancels.
    flip = label >= 0.5
    target, z = (1.0 - label, x.neg()) if flip else (label, x)
    total, large = 0.0, x.numel() >= _PRODUCTS_FROM
    if gradient or large:
        p = torch.sigmoid(z)
    if value:
        z_sum = -x_sum if flip else x_sum
        total = _softplus_sum(flat(z), z_sum, flat(p)) if large else F.softplus(z, 1.0, 50.0).sum().item()
        total -= target * z_sum
        if not math.isfinite(total) or not math.isfinite(z_sum):  # infinite logits: as in eager PyTorch
            total = CRITERIA[criterion].value(x, label).sum().item()
    if not gradient:
        return total, None
    p = p.sub_(target) if target else p
    rate = _filled(-slope if flip else slope, (), torch.float64)  # converting a number costs more than the product
    return total, p.mul_(rate) if out is None else torch.mul(p, rate, out=out)


def _softplus_sum(z: Tensor, z_sum: float, p: Tensor) -> float:
    """sum softplus(z), where p = sigmoid(z): sum z - sum log p. A sigmoid near 1 loses its distance from 1, 6e-8 a
    logit, and the difference cancels if D is sure and right: then another form is used."""
    size = -_log_sum(p)
    total = size + z_sum
    if size < math.inf and total >= _SURE * max(z.numel(), size):
        return total
    # neither underflows nor cancels: sum max(z, 0) - sum log sigmoid(|z|)
    positive, q = z.clamp(min=0.0).sum().item(), z.abs().sigmoid_()
    total = positive - _log_sum(q)
    return total if not total < _SURE * z.numel() else positive + z.abs().neg_().exp_().log1p_().sum().item()


def _log_sum(p: Tensor) -> float:
    """sum log p of probabilities, by products of 16; -inf if those underflow."""
    n, rest = p.numel(), p.numel() % 16
    products = torch.prod((p[: n - rest] if rest else p).view(16, -1), 0)
    if products.amin().item() < torch.finfo(p.dtype).tiny:
        return -math.inf
    total = products.log_().sum().item()
    return total + p[n - rest :].log().sum().item() if rest else total


def _on_device(
    terms: Terms, factors: Sequence[float | Tensor], value: bool, statistics: bool, gradient: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """`_on_host` for any other device: nothing is read back to the host."""
    rows, grads, phi = [], [], CRITERIA[terms.criterion]
    for k, (x, y, mask, weight) in enumerate(terms.each()):
        if gradient:
            grad = phi.slope(x, y)
            grad = (grad if mask is None else grad * mask) * (factors[k] * (weight / max(x.numel(), 1)))
            grads.append(grad.to(terms.logits[k].dtype))
        if value:
            values = phi.value(x, y)
            mean = x.mean() if statistics else torch.zeros_like(x.sum())
            right = (x >= 0 if k < terms.n_real else x < 0).to(x.dtype).mean() if statistics else mean
            values = weight * (values if mask is None else values * mask).mean()
            rows.append(torch.stack((values, mean, torch.where(mean.isnan(), mean, right))))
    return torch.stack(rows) if value else None, grads
