"""The terms in PyTorch, for tensors no Triton kernel runs on: value and gradient by formula, not by autograd.

On a CPU the cost is in the calls of operators, in the transcendental functions and in trips to memory. Small tensors
take as few operators as can be; large ones go block by block, in place, while a block is in cache, and

* one sigmoid a logit, p, serves the gradient and the loss: softplus(z) = max(z, 0) - log max(p, 1 - p);
* a logarithm is taken of one number in sixteen, a product.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import memory
from fastgan.criteria import CRITERIA

BLOCK = 1 << 19  # logits: a few float32 buffers of this size stay in cache, and calls cost little beside a block
_SMALL = 1 << 17  # logits: below, calling more operators costs more than softplus
_FRESH = 1 << 18  # logits: below, criteria of few operators are faster in fresh memory than in blocks
_SHORT = 1 << 13  # logits: the most that a norm in float32 adds up as exactly as promised
_SURE = 0.1  # nats: with a mean loss below, how sure D is has to be kept as a distance from 1
_UNSURE = -1.6  # mean z: from here on softplus, which is convex, is _SURE of softplus(z) - z or more; nothing cancels
_TINY = 1 << 12  # logits: below, the operator that is slower an element is faster a call
_WIDE = (torch.float32, torch.float64)
_ZERO = np.zeros((), np.float32)  # NumPy takes it as it is, where a number of Python's costs it 3 us
_kept = threading.local()


def terms(
    logits: Sequence[Tensor],
    labels: Sequence[float],
    weights: Sequence[float],
    criterion: str,
    n_real: int,
    *,
    value: bool,
    statistics: int = 0,
    gradient: bool = False,
    partner_gradient: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
    partners: Sequence[Tensor] = (),
    targets: Sequence[Tensor] = (),
    masks: Sequence[Tensor] = (),
    shift: Tensor | None = None,
    split: int = 0,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
    """The contract of `kernels.adversarial`. Its last two columns cost operators here: `statistics` 1 leaves 0 in them,
    2 fills them."""
    batches = logits
    if split:
        logits = split_sides(batches, split)
    on_cpu, double = logits[0].is_cpu, logits[0].dtype == torch.float64
    term = _term_on_cpu if on_cpu else _term_anywhere
    factors = _per_term(scale, len(logits), on_cpu, factor)
    slopes = gradient or partner_gradient
    alone = on_cpu and shift is None and not (targets or masks or split)
    if alone and not partners and len(logits) > 2 and criterion in _LISTS:
        many = _short_list(logits, labels, weights, factors, criterion, n_real, value, statistics, slopes)
        if many is not None:
            return many
    if alone and partners and not any(labels) and criterion in _MATCHING:
        return _matching(logits, partners, weights, factors, criterion, value, statistics, gradient, partner_gradient)
    shifts = None if shift is None else _per_term(shift, len(logits), on_cpu, 1.0)
    rows, grads = [], []
    for k, x in enumerate(logits):
        if partners:
            x = widen(x) - widen(partners[k])
        if shifts is not None:
            x = widen(x) - shifts[k]
        y = targets[k] if targets else labels[k]
        row, grad = term(
            x,
            y,
            masks[k] if masks else None,
            weights[k],
            factors[k],
            criterion,
            k < n_real,
            value,
            statistics > 1,
            slopes,
        )
        rows.append(row)
        grads.append(grad if grad is None or grad.dtype == logits[k].dtype else grad.to(logits[k].dtype))
    if not slopes:
        grads = None
    else:
        grads = [_laid_out(grad, x) for grad, x in zip(join_sides(grads, split) if split else grads, batches)]
        if partner_gradient:
            grads = (grads if gradient else []) + [grad.neg() for grad in grads]
    if not value:
        return None, None, grads
    if on_cpu:
        if statistics == 1:
            rows = [(*row, 0.0, 0.0) for row in rows]
        return *_results(rows, statistics, double), grads
    if statistics == 1:
        rows = [(*row, torch.zeros_like(row[0]), torch.zeros_like(row[0])) for row in rows]
    table = torch.stack([torch.stack(row) for row in rows]).to(torch.float64 if double else torch.float32)
    return table[:, 0].sum(), table if statistics else None, grads


def split_sides(batches: Sequence[Tensor], split: int) -> list[Tensor]:
    """The real parts of batches of both sides, then the generated ones; `split` as in `kernels.adversarial`."""
    order = 1 if split > 0 else -1
    halves = [(x[: abs(split)], x[abs(split) :])[::order] for x in batches]
    return [real for real, _ in halves] + [fake for _, fake in halves]


def join_sides(parts: Sequence[Tensor], split: int) -> list[Tensor]:
    """Undoes `split_sides`."""
    order, half = 1 if split > 0 else -1, len(parts) // 2
    return [torch.cat((real, fake)[::order]) for real, fake in zip(parts[:half], parts[half:])]


def _results(rows: list[tuple[float, ...]], statistics: int, double: bool) -> tuple[Tensor, Tensor | None]:
    """(loss, terms) of numbers."""
    dtype = torch.float64 if double else torch.float32
    return tensor(sum([row[0] for row in rows]), dtype), tensor(rows, dtype) if statistics else None


def tensor(numbers: float | Sequence, dtype: torch.dtype) -> Tensor:
    """Of float32, or of float64 for that; through NumPy: torch.tensor of a list takes several times as long. Numbers
    that float32 does not hold become infinite."""
    return torch.from_numpy(np.array(numbers, np.float64)).to(_wide_dtype(dtype))


def _short_list(
    logits: Sequence[Tensor],
    labels,
    weights,
    factors,
    criterion: str,
    n_real: int,
    value: bool,
    statistics: int,
    slopes: bool,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None] | None:
    """`terms` of several small tensors: an operator call costs more than its arithmetic, and one over a list costs a
    third of as many calls from Python. None where the tensors are not that small."""
    sizes = [x.numel() for x in logits]
    if max(sizes) > _SHORT or min(sizes) < 1:
        return None
    with torch.no_grad():
        dense = [_dense(x) for x in logits]
        wide = [widen(x) for x in dense]
        form = _LISTS[criterion]
        gaps = form.gap(wide, labels)
        loss = rows = grads = None
        if value:
            norms = torch.stack(torch._foreach_norm(form.positive(gaps), form.power)).tolist()
            means = [norm**form.power / n for norm, n in zip(norms, sizes)]
            rows = [(weight * mean, 0.0, 0.0) for weight, mean in zip(weights, means)]
            if statistics > 1:
                for k, (x, n) in enumerate(zip(wide, sizes)):
                    logit_sum, non_negative = _side_statistics(x)
                    share = (non_negative if k < n_real else n - non_negative) / n
                    rows[k] = (rows[k][0], logit_sum / n, share if logit_sum == logit_sum else math.nan)
            loss, rows = _results(rows, statistics, wide[0].dtype == torch.float64)
        if slopes:
            slopes = [form.factor(y) * w * f / n for y, w, f, n in zip(labels, weights, factors, sizes)]
            grads = list(torch._foreach_mul(form.slope(gaps), tensor(slopes, wide[0].dtype).unbind()))
            if wide[0] is not dense[0]:
                grads = [grad.to(x.dtype) for grad, x in zip(grads, dense)]
    return loss, rows, grads


class _List(NamedTuple):
    """A criterion over a list: phi is positive(gap)^power, its slope the factor of the label times slope(gap)."""

    gap: Callable
    positive: Callable
    power: int
    slope: Callable
    factor: Callable


@functools.lru_cache(maxsize=256)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """0-d: an operator takes it as it is, where a number of Python's costs it 2 us to wrap. A number that `dtype` does
    not hold becomes infinite, as in any product; `torch.full` would raise."""
    with torch.inference_mode(False):  # autograd may have to save it
        return torch.full((), value, dtype=torch.float64, device="cpu").to(dtype)


def _list_differences(wide, labels):
    if not any(labels):
        return wide
    if len(set(labels)) == 1:
        return torch._foreach_add(wide, constant(-labels[0], wide[0].dtype))
    return [x - constant(y, x.dtype) if y else x for x, y in zip(wide, labels)]


def _list_hinge_gaps(wide, labels):
    gaps = torch._foreach_mul(wide, [constant(1.0 - 2.0 * y, wide[0].dtype) for y in labels])
    torch._foreach_add_(gaps, constant(1.0, wide[0].dtype))
    return gaps


def _positive(gaps):
    return torch._foreach_clamp_min(gaps, 0.0)


def _nan_inside(gaps):
    """NaN has the slope of a logit on the wrong side, as `relu` and `min` have it."""
    return [torch.nan_to_num(gap, nan=1.0) for gap in gaps]


def _list_hinge_slope(gaps):
    inside = _positive(_nan_inside(gaps))
    torch._foreach_sign_(inside)
    return inside


def _list_hinge_min_slope(gaps):
    twice = torch._foreach_sign(_nan_inside(gaps))
    torch._foreach_add_(twice, constant(1.0, gaps[0].dtype))
    return twice


_LISTS = {
    "least_squares": _List(_list_differences, lambda gaps: gaps, 2, lambda gaps: gaps, lambda y: 2.0),
    "hinge": _List(_list_hinge_gaps, _positive, 1, _list_hinge_slope, lambda y: 1.0 - 2.0 * y),
    "hinge_min": _List(_list_hinge_gaps, _positive, 1, _list_hinge_min_slope, lambda y: 0.5 - y),
}


_softplus_backward = torch.ops.aten.softplus_backward.grad_input

# Of a difference d: phi in its place, and its slope times `scale`, less the factor that follows, into `out`.
_MATCHING = {
    "absolute": (Tensor.abs_, lambda d, scale, out: torch.sign(d, out=out).mul_(scale), 1.0),
    "least_squares": (Tensor.square_, lambda d, scale, out: torch.mul(d, scale, out=out), 2.0),
}


def _matching(
    maps: Sequence[Tensor],
    partners,
    weights,
    factors,
    criterion: str,
    value: bool,
    statistics: int,
    gradient: bool,
    of_partners: bool,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
    """`terms` of differences, block by block: no difference is ever as large as a map."""
    dtype = _wide_dtype(maps[0].dtype)
    phi, slope, multiple = _MATCHING[criterion]
    sizes = [x.numel() for x in maps]
    scales = [multiple * weight * factor / max(n, 1) for weight, factor, n in zip(weights, factors, sizes)]
    scales = tensor(scales, dtype).unbind()
    rows, grads, partner_grads = [], [], []
    with torch.no_grad():
        for x, other, n, weight, scale in zip(maps, partners, sizes, weights, scales):
            x, other = _pair(x, other)
            grad = memory.empty_like(x) if gradient or of_partners else None
            total = 0.0
            for (a, b, out), (one, two, three) in _stretches(dtype, x, other, grad):
                d = _difference(a, b, one, two)
                if out is not None:
                    g = out if out.dtype == dtype else three
                    slope(d, scale, g)
                    if g is not out:
                        out.copy_(g)
                if value:
                    total += phi(d).sum().item()
            rows.append((weight * (total / n if n else math.nan), 0.0, 0.0))
            if gradient:
                grads.append(grad)
            if of_partners:
                partner_grads.append(torch.neg(grad, out=memory.empty_like(grad)))
    loss, table = _results(rows, statistics, dtype == torch.float64) if value else (None, None)
    return loss, table, grads + partner_grads if gradient or of_partners else None


@torch.no_grad()
def matching_signs(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    """The contract of `kernels.matching_signs`."""
    dtype = _wide_dtype(fakes[0].dtype)
    if not fakes[0].is_cpu:
        gaps = [widen(x.detach()) - widen(other.detach()) for x, other in zip(fakes, reals)]
        losses = [weight * gap.abs().mean() for gap, weight in zip(gaps, weights)]
        signs = [_laid_out(gap.sign().to(torch.int8), x) for gap, x in zip(gaps, fakes)]
        return torch.stack(losses).sum(), signs
    loss, signs = 0.0, []
    for x, other, weight in zip(fakes, reals, weights):
        x, other = _pair(x, other)
        signs.append(memory.empty_like(x, torch.int8))
        total, n = 0.0, x.numel()
        for (a, b, out), (one, two, three) in _stretches(dtype, x, other, signs[-1]):
            d = _difference(a, b, one, three)
            out.copy_(torch.sign(d, out=two))
            total += d.abs_().sum().item()
        loss += weight * (total / n if n else math.nan)
    return tensor(loss, dtype), signs


def matching_gradient(
    signs: Sequence[Tensor],
    weights: Sequence[float],
    dtype: torch.dtype,
    scale: Tensor,
    of_fakes: bool,
    of_reals: bool,
) -> list[Tensor]:
    """The contract of `kernels.matching_gradient`."""
    wide, grads = _wide_dtype(dtype), []
    factors = _per_term(scale, len(signs), signs[0].is_cpu, 1.0)
    for sign, weight, factor in zip(signs, weights, factors):
        slope = weight * factor / max(sign.numel(), 1)
        if not sign.is_cpu:
            grads.append((sign.to(wide) * slope).to(dtype))
            continue
        sign = _dense(sign)
        grads.append(memory.empty_like(sign, dtype))
        for (s, out), (one, *_) in _stretches(wide, sign, grads[-1]):
            g = out if dtype == wide else one
            g.copy_(s).mul_(slope)
            if g is not out:
                out.copy_(g)
    real_grads = [torch.neg(grad, out=memory.empty_like(grad)) for grad in grads] if of_reals else []
    return (grads if of_fakes else []) + real_grads


def _pair(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both dense, the elements of `other` in the order in which those of x lie in memory."""
    x = _dense(x)
    if other.stride() != x.stride() or other.is_neg():
        other = torch.empty_like(x).copy_(other)
    return x, other


def _stretches(dtype: torch.dtype, *tensors: Tensor | None) -> Iterator[tuple[Sequence[Tensor | None], list[Tensor]]]:
    """(the same stretch of each dense tensor, scratch memory of its shape in `dtype`), stretch by stretch."""
    n = tensors[0].numel()
    if n > BLOCK or not tensors[0].is_contiguous():
        tensors = [None if t is None else _flat(t) for t in tensors]
    if n <= BLOCK:
        if n:
            yield tensors, _scratch_of(tensors[0].shape, dtype)
        return
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        yield [None if t is None else t[begin:end] for t in tensors], _scratch_of((end - begin,), dtype)


def _difference(a: Tensor, b: Tensor, out: Tensor, spare: Tensor) -> Tensor:
    """a - b in the dtype of `out`."""
    return torch.sub(a, b, out=out) if a.dtype == out.dtype else out.copy_(a).sub_(spare.copy_(b))


def _per_term(of: Tensor | None, terms: int, on_cpu: bool, factor: float) -> Sequence[float | Tensor]:
    """factor times `of`, which holds one number or one a term."""
    if of is None:
        return (factor,) * terms
    if of.numel() == 1:
        return (factor * (of.item() if on_cpu else of.reshape(())),) * terms
    return [factor * v for v in (of.tolist() if on_cpu else of.unbind())]


def _term_on_cpu(
    x: Tensor,
    y: float | Tensor,
    mask: Tensor | None,
    weight: float,
    factor: float,
    criterion: str,
    is_real: bool,
    value: bool,
    statistics: bool,
    gradient: bool,
) -> tuple[tuple[float, ...] | None, Tensor | None]:
    """((weighted loss, mean logit, share classified rightly), gradient) of one term, each if asked for."""
    x = _dense(x.detach())
    n = x.numel()
    fast = FAST.get(criterion) if mask is None and y.__class__ is float else None
    slope_weight = weight * factor / n if n else 0.0
    if fast is not None:
        mean_loss, logit_sum, non_negative, grad = fast(x, y, slope_weight, value, statistics, gradient)
    else:
        mean_loss, grad = _by_formula(x, y, mask, criterion, slope_weight, value, gradient)
        mean_loss = mean_loss.item() if value else 0.0
        logit_sum = non_negative = None
    if not value:
        return None, grad
    if not statistics:
        return (weight * mean_loss,), grad
    if logit_sum is None:
        logit_sum, non_negative = _side_statistics(widen(x))
    mean = logit_sum / n if n else math.nan
    share = math.nan if math.isnan(mean) else (non_negative if is_real else n - non_negative) / n
    return (weight * mean_loss, mean, share), grad


def _by_formula(
    x: Tensor, y: float | Tensor, mask: Tensor | None, criterion: str, slope_weight, value: bool, gradient: bool
) -> tuple[Tensor | None, Tensor | None]:
    """(mean of mask times phi, gradient), whole tensors at a time."""
    wide, phi = widen(x), CRITERIA[criterion]
    if isinstance(y, Tensor):
        y = y.to(wide.dtype)
    mean_loss = grad = None
    if value:
        values = phi.value(wide, y)
        mean_loss = (values if mask is None else values * mask).mean()
    if gradient:
        grad = phi.slope(wide, y)
        grad = (grad if mask is None else grad * mask) * slope_weight
        grad = grad.to(x.dtype)
    return mean_loss, grad


def _term_anywhere(
    x: Tensor,
    y: float | Tensor,
    mask: Tensor | None,
    weight: float,
    factor: float | Tensor,
    criterion: str,
    is_real: bool,
    value: bool,
    statistics: bool,
    gradient: bool,
) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
    """`_term_on_cpu` for any other device: nothing read back to the host."""
    x = x.detach()
    slope_weight = factor * (weight / max(x.numel(), 1))
    mean_loss, grad = _by_formula(x, y, mask, criterion, slope_weight, value, gradient)
    if not value:
        return None, grad
    row = (weight * mean_loss,)
    if statistics:
        wide = widen(x)
        mean = wide.mean()
        right = wide >= 0 if is_real else wide < 0
        row += (mean, torch.where(mean.isnan(), mean, right.to(wide.dtype).mean()))
    return row, grad


def _by_blocks(x: Tensor, losses: Callable, slopes: Callable, value: bool, statistics: bool, gradient: bool):
    """`FAST` for large tensors. losses(x, out) and slopes(x, out) fill `out` with phi, and with its slope times the
    weight."""
    dtype, n, grad = _wide_dtype(x.dtype), x.numel(), memory.empty_like(x) if gradient else None
    total, logit_sum, non_negative = 0.0, 0.0 if statistics else None, 0
    for (block, out), (one, two, three) in _stretches(dtype, x, grad):
        wide = block if block.dtype == dtype else three.copy_(block)
        if value:
            losses(wide, one)
            total += one.sum().item()
        if statistics:
            logit_sum += wide.sum().item()
            non_negative += _count_non_negative(wide, one)
        if gradient and out.dtype == dtype:
            slopes(wide, out)
        elif gradient:
            slopes(wide, two)
            out.copy_(two)
    return total / n, logit_sum, non_negative, grad


def _least_squares(x: Tensor, y: float, slope_weight: float, value: bool, statistics: bool, gradient: bool):
    if x.numel() >= _FRESH:
        dtype = _wide_dtype(x.dtype)
        label, slope = constant(y, dtype), torch.tensor(2.0 * slope_weight, dtype=dtype, device="cpu")
        return _by_blocks(
            x,
            lambda x, out: torch.sub(x, label, out=out).square_(),
            lambda x, out: torch.sub(x, label, out=out).mul_(slope) if y else torch.mul(x, slope, out=out),
            *(value, statistics, gradient),
        )
    wide = widen(x)
    d = wide - y if y or wide is x else wide
    n, total, grad = x.numel(), 0.0, None
    logit_sum, non_negative = _side_statistics(wide) if statistics else (None, 0)
    if value:
        flat = _flat(d)
        total = (torch.dot(flat, flat) if n <= _TINY else flat.square().sum()).item()
    if gradient:
        grad = _rounded(d.mul_(2.0 * slope_weight), x)
    return total / n if n else math.nan, logit_sum, non_negative, grad


def _hinge(x: Tensor, y: float, slope_weight: float, value: bool, statistics: bool, gradient: bool, knee: float = 0.0):
    s = 2.0 * y - 1.0
    if x.numel() >= _FRESH:
        return _hinge_by_blocks(x, s, slope_weight, value, statistics, gradient, knee)
    wide = widen(x)
    gap = torch.add(constant(1.0, wide.dtype), wide, alpha=-s)
    n, total, grad = x.numel(), 0.0, None
    logit_sum, non_negative = _side_statistics(wide) if statistics else (None, 0)
    if value:
        total = gap.relu().sum().item()
    if gradient and knee:  # 1/2 there
        gap.nan_to_num_(nan=1.0).sign_()
        grad = _rounded(gap.add_(constant(1.0, wide.dtype)).mul_(-0.5 * s * slope_weight), x)
    elif gradient:
        slope = torch.tensor(-s * slope_weight, dtype=wide.dtype, device="cpu").expand_as(gap)
        grad = _rounded(torch.ops.aten.threshold_backward(slope, gap, 0.0), x)
    return total / n if n else math.nan, logit_sum, non_negative, grad


def _hinge_by_blocks(x: Tensor, s: float, slope_weight: float, value: bool, statistics: bool, gradient: bool, knee):
    dtype = _wide_dtype(x.dtype)
    one, slope = constant(1.0, dtype), torch.tensor(-s * slope_weight, dtype=dtype, device="cpu")

    def losses(x, out):
        torch.add(one, x, alpha=-s, out=out).relu_()

    def slopes(x, out):
        gap = torch.add(one, x, alpha=-s, out=out)
        if knee:  # 1/2 there
            gap.nan_to_num_(nan=1.0).sign_().add_(one).mul_(slope * 0.5)
        else:
            torch.ops.aten.threshold_backward.grad_input(slope.expand_as(gap), gap, 0.0, grad_input=gap)

    return _by_blocks(x, losses, slopes, value, statistics, gradient)


def _wasserstein(x: Tensor, y: float, slope_weight: float, value: bool, statistics: bool, gradient: bool):
    s, n, logit_sum, non_negative = 2.0 * y - 1.0, x.numel(), 0.0, 0
    if value:
        wide = widen(x)
        logit_sum = wide.sum().item()
        if statistics:
            non_negative = np.count_nonzero(wide.numpy() >= _ZERO)
    grad = memory.empty_like(x).copy_(constant(-s * slope_weight, torch.float64)) if gradient else None
    return -s * logit_sum / n if n else math.nan, logit_sum, non_negative, grad


def _side_statistics(wide: Tensor) -> tuple[float, int]:
    return wide.sum().item(), np.count_nonzero(wide.numpy() >= _ZERO)


def _rounded(grad: Tensor, x: Tensor) -> Tensor:
    return grad if grad.dtype == x.dtype else grad.to(x.dtype)


def _cross_entropy_of(x: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, torch.full_like(x, label))


def _softplus_of(x: Tensor, label: float) -> Tensor:
    return F.softplus(-x if label else x).mean()


def _sigmoid_cross_entropy(
    x: Tensor, label: float, slope_weight: float, value: bool, statistics: bool, gradient: bool, eager=_cross_entropy_of
):
    # phi is softplus(z) - t z with z = x, t = y for a label near 0, and z = -x, t = 1 - y for one near 1: what is left
    # of the label is at most 1/2, so nothing cancels.
    n = x.numel()
    flip = label >= 0.5
    target = 1.0 - label if flip else label
    if flip:
        slope_weight = -slope_weight
    softplus_sum = logit_sum = 0.0
    non_negative, grad = 0, None
    if n >= _SMALL:
        grad = memory.empty_like(x) if gradient else None
        softplus_sum, logit_sum, non_negative = _blocks(x, grad, flip, target, slope_weight, value, statistics)
    else:  # as few operators as can be: a call costs more than its arithmetic
        wide = widen(x)
        z = wide.neg() if flip else wide
        if value:
            if n < _TINY:
                softplus_sum = torch._C._nn.softplus(z, 1.0, 50.0).sum().item()
            else:  # faster than softplus by a third, but for its cost a call
                softplus_sum = -F.logsigmoid(wide if flip else wide.neg()).sum().item()
            logit_sum = wide.sum().item()
        if statistics:
            non_negative = np.count_nonzero(wide.numpy() >= _ZERO)
        if gradient:
            grad = z.sigmoid_() if flip else z.sigmoid()
            if target:
                grad.sub_(target)
            grad = _rounded(grad.mul_(constant(slope_weight, grad.dtype)), x)
    if not value:
        return 0.0, 0.0, 0, grad
    z_sum = -logit_sum if flip else logit_sum
    mean_loss = (softplus_sum - target * z_sum) / n if n else math.nan
    if not math.isfinite(mean_loss) or not math.isfinite(logit_sum):  # infinite logits: what eager says of them
        mean_loss = eager(widen(_flat(x)), label).item()
    return mean_loss, logit_sum, non_negative, grad


# (x, label, slope weight, value?, statistics?, gradient?) -> (mean of phi, sum of x, how many x are >= 0, gradient)
FAST = {
    "sigmoid_cross_entropy": _sigmoid_cross_entropy,
    "softplus": functools.partial(_sigmoid_cross_entropy, eager=_softplus_of),
    "least_squares": _least_squares,
    "hinge": _hinge,
    "hinge_min": functools.partial(_hinge, knee=0.5),
    "wasserstein": _wasserstein,
}


def _blocks(
    x: Tensor, grad: Tensor | None, flip: bool, target: float, slope_weight: float, value: bool, statistics: bool
) -> tuple[float, float, int]:
    """Fills `grad`, if there is one; returns the sums of softplus(z) and of x, and how many x are >= 0."""
    n, dtype = x.numel(), x.dtype if x.dtype in _WIDE else torch.float32
    in_place = grad is not None and grad.dtype == dtype
    scratch = _scratch_of((min(n, BLOCK),), dtype)
    slope = None if grad is None else torch.tensor(slope_weight, dtype=dtype, device="cpu")
    flat_x, flat_grad = _flat(x), None if grad is None else _flat(grad)
    softplus_sum = logit_sum = 0.0
    non_negative = 0
    for begin in range(0, n, BLOCK):
        block, out = flat_x, flat_grad
        if n > BLOCK:
            block = flat_x[begin : begin + BLOCK]
            out = None if grad is None else flat_grad[begin : begin + BLOCK]
            if begin > n - BLOCK:
                scratch = _scratch_of((n - begin,), dtype)
        wide = block if block.dtype == dtype else block.to(dtype)
        p = out if in_place else scratch[2]
        if grad is not None and not value and not target:  # nothing but slope sigmoid(z): one operator
            _softplus_backward(slope.expand_as(wide), wide, -1.0 if flip else 1.0, 50.0, grad_input=p)
            if not in_place:
                out.copy_(p)
            continue
        if grad is not None:
            torch.sigmoid(torch.neg(wide, out=p) if flip else wide, out=p)
        if value:
            block_sum = wide.sum().item()
            logit_sum += block_sum
            if statistics:
                non_negative += _count_non_negative(wide, scratch[0])
            softplus_sum += _softplus_sum(wide, block_sum, None if grad is None else p, flip, *scratch[:2])
        if grad is not None:
            if target:
                p.sub_(target)
            p.mul_(slope)
            if not in_place:
                out.copy_(p)
    return softplus_sum, logit_sum, non_negative


def _count_non_negative(x: Tensor, scratch: Tensor) -> int:
    """How many are >= 0. Few cores: NumPy, whose comparison writes a byte an element, on one of them."""
    if torch.get_num_threads() <= 4:
        right = scratch.view(-1).numpy().view(np.bool_)[: x.numel()].reshape(x.shape)
        return np.count_nonzero(np.greater_equal(x.numpy(), _ZERO, out=right))
    return int(torch.ge(x, constant(0.0, x.dtype), out=scratch).sum().item())


def _scratch_of(shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """The first elements of each, in `shape`; kept, since the shapes of a network's maps come back every step."""
    kept = _kept.__dict__.setdefault("views", {})
    found = kept.get((shape, dtype))
    if found is None:
        if len(kept) >= 256:
            kept.clear()
        with torch.inference_mode(False):
            n = math.prod(shape)
            found = kept[shape, dtype] = [buffer[:n].view(shape) for buffer in _scratch(dtype)]
    return found


def _scratch(dtype: torch.dtype) -> list[Tensor]:
    """Three blocks of this thread's own, kept: fresh memory of this size costs more in page faults than the arithmetic
    that is done in it."""
    kept = _kept.__dict__
    if dtype not in kept:
        with torch.inference_mode(False):  # made in inference mode, it could not be written to outside of it
            kept[dtype] = [torch.empty(BLOCK, dtype=dtype, device="cpu") for _ in range(3)]
    return kept[dtype]


def _softplus_sum(x: Tensor, x_sum: float, p: Tensor | None, flip: bool, one: Tensor, two: Tensor) -> float:
    """sum softplus(z), where z = -x if flip else x, x_sum is the sum of x, and p, if it is there, sigmoid(z). `one` and
    `two` are scratch of the size of x.

    It is sum z - sum log sigmoid(z), or -sum log sigmoid(-z): the first where p is there, or where it takes no sign
    changed first. The logarithm is taken of products of 16, unless they underflow. Of a sigmoid near 1 the distance
    from 1 is lost, 6e-8 a logit, and the difference cancels where D is sure and right: that counts only where there is
    no larger loss beside it."""
    if p is None and not flip and x_sum >= _UNSURE * x.numel():
        p = torch.sigmoid(x, out=one)
    if p is None:
        size = total = -_log_sum(torch.sigmoid(x if flip else torch.neg(x, out=one), out=one), two)
    else:
        size = -_log_sum(p, two)
        total = size - x_sum if flip else size + x_sum
    if size < math.inf and total >= _SURE * max(x.numel(), size):
        return total
    return _softplus_sum_of_sizes(x, flip, one, two)


def _softplus_sum_of_sizes(x: Tensor, flip: bool, one: Tensor, two: Tensor) -> float:
    """`_softplus_sum` that neither underflows nor cancels: sum max(z, 0) - sum log sigmoid(|z|)."""
    positive = _positive_sum(x, flip, one)
    total = positive - _log_sum(torch.abs(x, out=one).sigmoid_(), two)
    return total if not total < _SURE * x.numel() else positive + _sure_sum(x, one)


def _log_sum(p: Tensor, scratch: Tensor) -> float:
    """sum log p of probabilities; -inf where products of 16 underflow."""
    n, rest = p.numel(), p.numel() % 16
    products = torch.prod((p[: n - rest] if rest else p).view(16, -1), 0, out=scratch[: n // 16])
    if n >= 16 and products.amin().item() < torch.finfo(p.dtype).tiny:
        return -math.inf
    total = products.log_().sum().item()
    return total + p[n - rest :].log().sum().item() if rest else total


def _sure_sum(x: Tensor, scratch: Tensor) -> float:
    """-sum log sigmoid(|x|), from 1 - sigmoid(|x|), where that is small."""
    return -torch.abs(x, out=scratch).neg_().sigmoid_().neg_().log1p_().sum().item()


def _positive_sum(x: Tensor, flip: bool, scratch: Tensor) -> float:
    """sum max(z, 0)."""
    if flip:
        return -torch.clamp(x, max=0.0, out=scratch).sum().item()
    return torch.clamp(x, min=0.0, out=scratch).sum().item()


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in _WIDE else torch.float32


def widen(x: Tensor) -> Tensor:
    """To the arithmetic dtype: half precision to float32."""
    return x if x.dtype in _WIDE else x.float()


def _dense(x: Tensor) -> Tensor:
    """x if its elements fill one stretch of memory in some order of dimensions, else a copy, as `empty_like` lays it
    out."""
    x = x.resolve_neg() if x.is_neg() else x
    if x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride():
        return x
    return torch.empty_like(x).copy_(x)


def _laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient at x, or its signs, in the layout that `empty_like` gives x."""
    if grad.stride() == x.stride() or grad.stride() == torch.empty_like(x, device="meta").stride():
        return grad
    return torch.empty_like(x, dtype=grad.dtype).copy_(grad)


def _flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))
