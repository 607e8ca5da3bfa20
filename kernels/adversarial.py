"""A weighted sum of means of a criterion over several tensors of logits, and its gradients, in one launch.

    L = sum_k  w_k mean_i phi(x_k[i], y_k)          dL/dx_k[i] = w_k / n_k  phi'(x_k[i], y_k)

A term is (logits x_k, label y_k, weight w_k). Programs [ends[k-1], ends[k]) own term k. Each walks over its tiles with
a stride, and sums in float32 within lanes and in float64 across them. The last program to finish, known by a ticket,
adds the partial sums in a fixed order: a result is bit-identical from run to run. Small problems run as a single
program with no atomics.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .criteria import criterion_of
from .launch import Plan, launch
from .layout import dense, dense_rows, like, packed
from .reduction import decode_int, encode_int, partial_sums, processors, programs_of, split_floats, sum_three
from .tiles import walk_tiles, write_term
from .workspace import MAX_PROGRAMS, MAX_TERMS, workspace


@triton.jit
def adversarial_kernel(
    logits,  # K pointers, one dtype: x_k, sizes[k] of them, dense
    grads,  # K pointers of the logits' dtype: where scale * dL/dx_k goes; or None
    partners,  # K pointers: subtracted from the logits, element by element; or None
    partner_grads,  # K pointers: where the negative of the gradient goes; or None
    targets,  # K pointers: a label for every logit; or None: `labels`
    masks,  # K pointers: a weight for every logit; or None
    sizes,  # K ints, each from `encode_int`
    ends,  # K ints, each from `encode_int`: programs [ends[k-1], ends[k]) own term k
    labels,  # K floats, and their rounding errors in float32
    labels_lo,
    weights,  # K floats, and their rounding errors in float32
    weights_lo,
    factor,  # float and its rounding error in float32: multiplies the gradients only
    scale,  # 0-d, or [K], on the device: multiplies the gradients only, before they are rounded; or None
    shift,  # [K] on the device: subtracted from the logits of each term; or None
    loss,  # 0-d ACC: L; or None: no value is computed
    terms,  # [K, 3] ACC: weighted loss, mean logit, share D classifies rightly; or None
    partials,  # [3, MAX_PROGRAMS] float64 scratch
    counter,  # [MAX_TERMS + 1] int32 or more, zero before and after
    CRITERION: tl.constexpr,
    N_REAL: tl.constexpr,  # the first N_REAL terms are real data, the others generated
    SCALE_PER_TERM: tl.constexpr,
    SINGLE: tl.constexpr,  # one program does all the work
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
    MAX_PROGRAMS: tl.constexpr,
    MAX_TERMS: tl.constexpr,
    FEW: tl.constexpr,  # one program adds up at most FEW terms; of more, the last program of each term adds it up
):
    K: tl.constexpr = len(logits)
    GRAD: tl.constexpr = (grads is not None) or (partner_grads is not None)
    ACC: tl.constexpr = tl.float64 if logits[0].dtype.element_ty == tl.float64 else tl.float32
    zero = tl.zeros((), ACC)
    s = zero + factor[0] + factor[1]
    if scale is not None and not SCALE_PER_TERM:
        s *= tl.load(scale).to(ACC)
    if SINGLE:
        total = tl.zeros((), tl.float64)
        for k in tl.static_range(K):
            y = zero + labels[k] + labels_lo[k]
            n = decode_int(sizes[k])
            w = s * (zero + weights[k] + weights_lo[k]) / n.to(ACC)
            if SCALE_PER_TERM:
                w *= tl.load(scale + k).to(ACC)
            x0 = tl.load(shift + k).to(ACC) if shift is not None else None
            value, logit, below = walk_tiles(
                logits[k],
                grads[k] if grads is not None else None,
                partners[k] if partners is not None else None,
                partner_grads[k] if partner_grads is not None else None,
                targets[k] if targets is not None else None,
                masks[k] if masks is not None else None,
                n,
                0,
                1,
                x0,
                y,
                w,
                CRITERION,
                GRAD,
                terms is not None,
                BLOCK,
                AHEAD,
                ACC,
            )
            if loss is not None:
                weight = tl.zeros((), tl.float64) + weights[k] + weights_lo[k]
                total += write_term(terms, k, k < N_REAL, value, logit, below, n, weight)
        if loss is not None:
            tl.store(loss, total.to(loss.dtype.element_ty))
    else:
        # A chain of selects finds this program's term. So there is one copy of the tile code, and the pointers stay
        # kernel parameters (16-byte aligned, stored in a graph's node).
        pid = tl.program_id(0)
        x_ptr = logits[0]
        g_ptr = grads[0] if grads is not None else None
        b_ptr = partners[0] if partners is not None else None
        h_ptr = partner_grads[0] if partner_grads is not None else None
        t_ptr = targets[0] if targets is not None else None
        m_ptr = masks[0] if masks is not None else None
        n = decode_int(sizes[0])
        term = pid * 0
        begin = pid * 0
        end = decode_int(ends[0])
        y = zero + labels[0] + labels_lo[0]
        w = zero + weights[0] + weights_lo[0]
        weight = tl.zeros((), tl.float64) + weights[0] + weights_lo[0]
        for k in tl.static_range(1, K):
            mine = pid >= decode_int(ends[k - 1])
            x_ptr = tl.where(mine, logits[k], x_ptr)
            if grads is not None:
                g_ptr = tl.where(mine, grads[k], g_ptr)
            if partners is not None:
                b_ptr = tl.where(mine, partners[k], b_ptr)
            if partner_grads is not None:
                h_ptr = tl.where(mine, partner_grads[k], h_ptr)
            if targets is not None:
                t_ptr = tl.where(mine, targets[k], t_ptr)
            if masks is not None:
                m_ptr = tl.where(mine, masks[k], m_ptr)
            n = tl.where(mine, decode_int(sizes[k]), n)
            term = tl.where(mine, k, term)
            begin = tl.where(mine, decode_int(ends[k - 1]), begin)
            end = tl.where(mine, decode_int(ends[k]), end)
            y = tl.where(mine, zero + labels[k] + labels_lo[k], y)
            w = tl.where(mine, zero + weights[k] + weights_lo[k], w)
            if K > FEW:
                weight = tl.where(mine, tl.zeros((), tl.float64) + weights[k] + weights_lo[k], weight)
        first = (pid - begin).to(n.dtype)
        stride = (end - begin).to(n.dtype)
        if SCALE_PER_TERM:
            w *= tl.load(scale + term).to(ACC)
        x0 = tl.load(shift + term).to(ACC) if shift is not None else None
        w = s * w / n.to(ACC)
        value, logit, below = walk_tiles(
            x_ptr, g_ptr, b_ptr, h_ptr, t_ptr, m_ptr, n, first, stride, x0, y, w,
            CRITERION, GRAD, terms is not None, BLOCK, AHEAD, ACC,
        )  # fmt: skip
        if loss is not None:
            tl.store(partials + pid, value)  # scalar stores: made by the thread that takes the ticket below
            tl.store(partials + MAX_PROGRAMS + pid, logit)
            tl.store(partials + 2 * MAX_PROGRAMS + pid, below)
            tl.debug_barrier()  # Triton 3.6 inserts none between a store and the atomic; vector stores would need it
            if K <= FEW:
                ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
                if ticket == decode_int(ends[K - 1]) - 1:  # the last program: every partial sum is visible
                    i = tl.arange(0, MAX_PROGRAMS)
                    values, logit_sums, belows = partial_sums(partials, i, i < decode_int(ends[K - 1]), MAX_PROGRAMS)
                    total = tl.zeros((), tl.float64)
                    for k in tl.static_range(K):
                        own = i < decode_int(ends[k])
                        if k > 0:
                            own = own & (i >= decode_int(ends[k - 1]))
                        weight = tl.zeros((), tl.float64) + weights[k] + weights_lo[k]
                        value, logit, below = sum_three(
                            tl.where(own, values, 0.0), tl.where(own, logit_sums, 0.0), tl.where(own, belows, 0.0)
                        )
                        total += write_term(terms, k, k < N_REAL, value, logit, below, decode_int(sizes[k]), weight)
                    tl.store(loss, total.to(loss.dtype.element_ty))
                    tl.atomic_xchg(counter, 0, sem="relaxed")  # the next launch, or graph replay, finds it clean
            else:
                # Two tickets: the last program of a term adds up the term, the last of those adds up the terms.
                ticket = tl.atomic_add(counter + 1 + term, 1, sem="acq_rel", scope="gpu")
                if ticket == end - begin - 1:
                    i = tl.arange(0, MAX_PROGRAMS)
                    values, logits_, belows = partial_sums(partials, i, (i >= begin) & (i < end), MAX_PROGRAMS)
                    value, logit, below = sum_three(values, logits_, belows)
                    part = write_term(terms, term, term < N_REAL, value, logit, below, n, weight)
                    tl.atomic_xchg(counter + 1 + term, 0, sem="relaxed")
                    tl.store(partials + begin, part)  # over this term's first partial sum, which is no longer needed
                    tl.debug_barrier()
                    ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
                    if ticket == K - 1:
                        total = tl.zeros((), tl.float64)
                        for k in tl.static_range(K):
                            at = partials + (decode_int(ends[k - 1]) if k > 0 else 0)
                            total += tl.load(at, cache_modifier=".cg")
                        tl.store(loss, total.to(loss.dtype.element_ty))
                        tl.atomic_xchg(counter, 0, sem="relaxed")


SINGLE_BELOW = 8192  # logits in all; below, one program finishes before several would draw tickets
FEW = 4  # terms; a single program has a copy of the tile code for each term: for more it would be too long
LONG = 24  # terms; for more, the selects among the terms' arguments need extra registers


@functools.lru_cache(maxsize=1024)  # planning 54 maps takes longer than launching
def blocks(
    sizes: Sequence[int], dtype: torch.dtype, processors: int, streams: int = 1
) -> tuple[dict, dict, tuple[int, ...]]:
    """({SINGLE, BLOCK, AHEAD}, compiler options, ends). Each term gets programs in proportion to its tiles.
    streams: how many tensors are read for each logit.

    A large problem gets as many programs as fit on the multiprocessors at once, given the registers of 128 threads.
    `python -m bench tune` chose the sizes on an H200, among those whose tile loop spills on no supported architecture:
    in float32 many programs of small tiles; in half precision, where arithmetic is the limit, larger tiles. Each
    program reads a tile ahead.
    """
    total, double = sum(sizes), dtype == torch.float64
    least = 128 * 16 // dtype.itemsize  # a thread reads 16 bytes at once
    if total <= SINGLE_BELOW and len(sizes) <= FEW:
        block = 512 if double else 4096 if max(sizes) > 1024 else least if max(sizes) <= least else 1024
        return dict(SINGLE=True, BLOCK=block, AHEAD=False), dict(num_warps=8 if block > 1024 else 4), (1,) * len(sizes)
    if len(sizes) > LONG:
        block, registers, resident = 1024 if streams > 1 else 2048, 160, 3
    elif double:
        block, registers, resident = 512, 128, 4
    elif streams > 1 or dtype == torch.float32:
        block, registers, resident = 1024, 72, 7
    else:
        block, registers, resident = 2048, 96, 5
    while block > least and total < 2 * processors * block:
        block //= 2
    most = max(len(sizes), min(MAX_PROGRAMS, resident * processors))
    programs = programs_of([max(1, -(-n // block)) for n in sizes], most)
    options = dict(num_warps=4, maxnreg=registers)
    return dict(SINGLE=False, BLOCK=block, AHEAD=True), options, tuple(itertools.accumulate(programs))


@functools.lru_cache(maxsize=1024)
def plan(
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    labels: tuple[float, ...],
    weights: tuple[float, ...],
    factor: float,
    criterion: str,
    n_real: int,
    value: bool,
    statistics: bool,
    gradient: bool,
    partners: bool,
    partner_gradient: bool,
    targets: torch.dtype | None,
    masks: torch.dtype | None,
    scale: torch.dtype | None,
    shift: torch.dtype | None,
    scale_per_term: bool,
) -> Plan:
    """Cached: the steps of a training repeat a few plans, and making one takes longer than launching."""
    double = dtype == torch.float64
    streams = 1 + partners + (targets is not None) + (masks is not None)
    shape, options, ends = blocks(sizes, dtype, processors(device), streams)
    encoded_sizes, encoded_ends = tuple([encode_int(n) for n in sizes]), tuple([encode_int(end) for end in ends])
    factors = tuple([part for (part,) in split_floats((factor,), double)])
    constants = dict(
        CRITERION=criterion_of(criterion, dtype),
        N_REAL=n_real,
        SCALE_PER_TERM=scale_per_term,
        **shape,
        MAX_PROGRAMS=MAX_PROGRAMS,
        MAX_TERMS=MAX_TERMS,
        FEW=FEW,
    )
    numbers = (encoded_sizes, encoded_ends, *split_floats(labels, double), *split_floats(weights, double), factors)
    key = (criterion, n_real, value, statistics, gradient, partners, partner_gradient, targets, masks, scale, shift)
    key += (scale_per_term, dtype, len(sizes), *shape.values(), *options.values())
    key += tuple([n >= 2**31 for n in encoded_sizes])
    return Plan(adversarial_kernel, ends[-1], device, numbers, constants, options, key)


def _terms_of(batches: Sequence[Tensor], split: int) -> list[Tensor]:
    """The real rows of each batch of both sides, then the generated rows of each. split > 0: a batch has its real rows
    first; split < 0: its generated rows."""
    order = 1 if split > 0 else -1
    halves = [(x[: abs(split)], x[abs(split) :])[::order] for x in batches]
    return [real for real, _ in halves] + [fake for _, fake in halves]


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
    statistics: bool = False,
    gradient: bool = False,
    partner_gradient: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
    """(loss, terms, grads) of the terms (logits[k], labels[k], weights[k]), each None unless requested: one launch for
    every MAX_TERMS terms.

    logits: tensors of one floating dtype on one device, of any shapes; checked by the caller. loss is 0-d and terms is
    (K, 3), float32 (float64 for float64 logits); grads have the shapes and dtype of the logits, times `factor` and
    `scale` (one element, or one a term, on the device), both applied in float32 before rounding.
    partners: subtracted from the logits; of the same shapes and dtype. With `partner_gradient`, their gradients follow
    those of the logits in `grads`.
    targets, masks: a label and a weight for every logit, of one floating dtype each; they expand to the logits' shape.
    shift: one number a term, on the device; subtracted from its logits.
    split: if not 0, each of `logits` is a batch of both sides. It begins with `split` real rows or, if `split` is
    negative, with -split generated rows. The terms are the real parts, then the generated parts; the gradients are
    those of whole batches.
    """
    if len(weights) > MAX_TERMS:
        terms = (logits, labels, weights, criterion, n_real, partners, targets, masks, shift, split)
        asked = dict(value=value, statistics=statistics, gradient=gradient, partner_gradient=partner_gradient)
        return _several_launches(terms, **asked, scale=scale, factor=factor)
    batches, first = logits, logits[0]
    if split:
        logits = [dense_rows(x) for x in logits]
    else:
        logits = [x if x.is_contiguous() and not x.is_neg() else dense(x) for x in logits]
    if partners or targets or masks:
        partners, targets, masks = [[like(x, y) for x, y in zip(logits, ys)] for ys in (partners, targets, masks)]
    grads = [torch.empty_like(x) for x in logits] if gradient else []
    partner_grads = [torch.empty_like(x) for x in logits] if partner_gradient else []
    found = grads + partner_grads
    if split:
        logits, grads = _terms_of(logits, split), _terms_of(grads, split)
    given = [*logits, *partners, *targets, *masks]
    if split:
        given += grads  # the second half of a batch may be misaligned
    if scale is not None:
        scale = packed(scale)
        given.append(scale)
    if shift is not None:
        shift = packed(shift)
        given.append(shift)
    planned = plan(
        *(tuple([x.numel() for x in logits]), first.dtype, first.device, tuple(labels), tuple(weights), factor),
        *(criterion, n_real, value, bool(value and statistics), gradient, bool(partners), partner_gradient),
        *(targets[0].dtype if targets else None, masks[0].dtype if masks else None),
        *(None if scale is None else scale.dtype, None if shift is None else shift.dtype),
        scale is not None and scale.numel() > 1,
    )
    loss = terms = partials = counter = None
    if value:
        out = torch.float64 if first.dtype == torch.float64 else torch.float32
        loss = torch.empty((), dtype=out, device=first.device)
        terms = torch.empty((len(logits), 3), dtype=out, device=first.device) if statistics else None
        if not planned.constants["SINGLE"]:
            partials, counter = workspace(first.device)
    lists = [tuple(tensors) if tensors else None for tensors in (grads, partners, partner_grads, targets, masks)]
    args = (tuple(logits), *lists, *planned.numbers, scale, shift, loss, terms, partials, counter)
    launch(planned, args, given)
    if split:
        found = [g if g.stride() == x.stride() else torch.empty_like(x).copy_(g) for x, g in zip(batches, found)]
    return loss, terms, found if gradient or partner_gradient else None


def _several_launches(terms: tuple, *, scale: Tensor | None, **asked):
    """`adversarial` of more than MAX_TERMS terms."""
    logits, labels, weights, criterion, n_real, partners, targets, masks, shift, split = terms
    step = MAX_TERMS // 2 if split else MAX_TERMS
    found = []
    for i in range(0, len(logits), step):
        own = slice(i, i + step)
        if split:  # the terms are all real parts, then all generated ones
            numbers = [values[own] + values[len(logits) :][own] for values in (labels, weights)]
            numbers += [criterion, len(logits[own])]
        else:
            numbers = [labels[own], weights[own], criterion, max(0, n_real - i)]
        part = scale if scale is None or not scale.dim() else scale[own]
        found.append(
            adversarial(
                *(logits[own], *numbers, partners[own], targets[own], masks[own]),
                *(None if shift is None else shift[own], split),
                scale=part,
                **asked,
            )
        )
    losses, rows, grads = zip(*found)
    loss = torch.stack(losses).sum() if asked["value"] else None
    if rows[0] is None:
        rows = None
    elif split:
        rows = torch.cat([half for k in (0, 1) for half in [part.chunk(2)[k] for part in rows]])
    else:
        rows = torch.cat(rows)
    if grads[0] is None:
        return loss, rows, None
    halves = 2 if asked["gradient"] and asked["partner_gradient"] else 1  # first those of the logits
    sides = [
        [g for part in grads for g in part[k * len(part) // halves : (k + 1) * len(part) // halves]]
        for k in range(halves)
    ]
    return loss, rows, [g for side in sides for g in side]
