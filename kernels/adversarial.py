"""A weighted sum of means of a criterion over several tensors of logits, and its gradients, in one launch.

    L = sum_k  w_k mean_i phi(x_k[i], y_k)          dL/dx_k[i] = w_k / n_k  phi'(x_k[i], y_k)

A term is (logits x_k, label y_k, weight w_k). Programs [ends[k-1], ends[k]) own term k. Each walks its tiles with a
stride, float32 in the lanes, float64 across them; the last program to finish (a ticket) adds the partial sums in a
fixed order, so that a result is bit-identical from run to run. Small problems run as a single program with no atomics.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .criteria import CRITERIA
from .launch import launch
from .numerics import widen
from .workspace import MAX_PROGRAMS, workspace


@triton.jit
def _in_thread_sum(v, V: tl.constexpr):
    """[BLOCK] -> [BLOCK // V]: adds what one thread loaded at once, so a tile costs BLOCK // V accumulators."""
    return tl.sum(tl.reshape(v, [v.shape[0] // V, V]), axis=1)


@triton.jit
def _tiles(
    x_ptr,  # logits of one term
    g_ptr,  # where their gradient goes, if GRAD
    n,  # how many
    first,  # tiles first, first + stride, ... are this program's
    stride,
    y,  # label, ACC
    w,  # weight / n, times the gradient's scale, ACC
    CRITERION: tl.constexpr,
    GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,  # arithmetic dtype
):
    """Writes the gradient tiles; returns the float64 sums of values, of logits, and of logits >= 0."""
    V: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth
    lane = tl.arange(0, BLOCK)
    values = tl.zeros([BLOCK // V], ACC)
    logits = tl.zeros([BLOCK // V], ACC)
    count = tl.zeros([BLOCK // V], tl.int32)
    full = n // BLOCK
    for tile in range(first, full, stride):  # no mask: 128-bit accesses whatever n is
        offset = tile * BLOCK + lane
        x = widen(tl.load(x_ptr + offset), ACC)
        logits += _in_thread_sum(x, V)
        count += _in_thread_sum((x >= 0).to(tl.int32), V)
        value, slope = CRITERION(x, y, w)
        values += _in_thread_sum(value, V)
        if GRAD:
            tl.store(g_ptr + offset, slope.to(g_ptr.dtype.element_ty))
    tail = full * BLOCK
    if (tail < n) & (full % stride == first):  # the ragged tail belongs to one program
        inside = lane < n - tail  # not tail + lane < n: that sum can pass 2^31
        x = widen(tl.load(x_ptr + tail + lane, mask=inside, other=0.0), ACC)
        value, slope = CRITERION(x, y, w)
        if GRAD:
            tl.store(g_ptr + tail + lane, slope.to(g_ptr.dtype.element_ty), mask=inside)
        values += _in_thread_sum(tl.where(inside, value, 0.0), V)
        logits += _in_thread_sum(x, V)
        count += _in_thread_sum((inside & (x >= 0)).to(tl.int32), V)
    return (
        tl.sum(values.to(tl.float64), axis=0),
        tl.sum(logits.to(tl.float64), axis=0),
        tl.sum(count.to(tl.float64), axis=0),
    )


@triton.jit
def _write_term(terms, k, is_real: tl.constexpr, value, logit, count, n, weight):
    """One row of statistics; returns the term's weighted loss. 0 / 0 = NaN for an empty side, as `mean` has it."""
    n = n.to(tl.float64)
    mean = logit / n
    share = count / n if is_real else (n - count) / n
    loss = weight * (value / n)
    if terms is not None:
        tl.store(terms + 3 * k, loss.to(terms.dtype.element_ty))
        tl.store(terms + 3 * k + 1, mean.to(terms.dtype.element_ty))
        tl.store(terms + 3 * k + 2, tl.where(mean == mean, share, mean).to(terms.dtype.element_ty))
    return loss


@triton.jit
def _plain(v):
    """Undoes `_odd`."""
    return (v - 3) >> 1


def _odd(v: int) -> int:
    """An integer as the kernel takes it in a tuple, whose items Triton always specialises: a 1 would become a constant
    of the compiled kernel and a multiple of 16 a kernel of its own. 2 v + 3 is neither, for any v >= 0."""
    return 2 * v + 3


@triton.jit
def adversarial_kernel(
    logits,  # K pointers, one dtype: x_k, sizes[k] of them, dense
    grads,  # K pointers of the logits' dtype: where scale * dL/dx_k goes; or None
    sizes,  # K ints, each through `_odd`
    ends,  # K ints, each through `_odd`: programs [ends[k-1], ends[k]) own term k
    labels,  # K floats, and what float32 dropped of them
    labels_lo,
    weights,  # K floats, and what float32 dropped of them
    weights_lo,
    factor,  # float and what float32 dropped of it: multiplies the gradients only
    scale,  # 0-d on the device: multiplies the gradients only, before they are rounded; or None
    loss,  # 0-d ACC: L; or None, then nothing is summed
    terms,  # [K, 3] ACC: weighted loss, mean logit, share D classifies rightly; or None
    partials,  # [3, MAX_PROGRAMS] float64 scratch
    counter,  # int32, zero before and after
    CRITERION: tl.constexpr,
    N_REAL: tl.constexpr,  # the first N_REAL terms are real data, the others generated
    SINGLE: tl.constexpr,  # one program does it all
    BLOCK: tl.constexpr,
    MAX_PROGRAMS: tl.constexpr,
):
    K: tl.constexpr = len(logits)
    GRAD: tl.constexpr = grads is not None
    ACC: tl.constexpr = tl.float64 if logits[0].dtype.element_ty == tl.float64 else tl.float32
    zero = tl.zeros((), ACC)
    s = zero + factor[0] + factor[1]
    if scale is not None:
        s *= tl.load(scale).to(ACC)
    if SINGLE:
        total = tl.zeros((), tl.float64)
        for k in tl.static_range(K):
            y = zero + labels[k] + labels_lo[k]
            n = _plain(sizes[k])
            w = s * (zero + weights[k] + weights_lo[k]) / n.to(ACC)
            value, logit, count = _tiles(
                logits[k], grads[k] if GRAD else logits[k], n, 0, 1, y, w, CRITERION, GRAD, BLOCK, ACC
            )
            if loss is not None:
                weight = tl.zeros((), tl.float64) + weights[k] + weights_lo[k]
                total += _write_term(terms, k, k < N_REAL, value, logit, count, n, weight)
        if loss is not None:
            tl.store(loss, total.to(loss.dtype.element_ty))
    else:
        # Which term is this program's: a chain of selects, so that there is one copy of the tile code and the pointers
        # stay kernel parameters (16-byte aligned, baked into a graph's node).
        pid = tl.program_id(0)
        x_ptr = logits[0]
        g_ptr = grads[0] if GRAD else logits[0]
        n = _plain(sizes[0])
        begin = pid * 0
        end = _plain(ends[0])
        y = zero + labels[0] + labels_lo[0]
        w = zero + weights[0] + weights_lo[0]
        for k in tl.static_range(1, K):
            mine = pid >= _plain(ends[k - 1])
            x_ptr = tl.where(mine, logits[k], x_ptr)
            if GRAD:
                g_ptr = tl.where(mine, grads[k], g_ptr)
            n = tl.where(mine, _plain(sizes[k]), n)
            begin = tl.where(mine, _plain(ends[k - 1]), begin)
            end = tl.where(mine, _plain(ends[k]), end)
            y = tl.where(mine, zero + labels[k] + labels_lo[k], y)
            w = tl.where(mine, zero + weights[k] + weights_lo[k], w)
        first = (pid - begin).to(n.dtype)
        stride = (end - begin).to(n.dtype)
        value, logit, count = _tiles(x_ptr, g_ptr, n, first, stride, y, s * w / n.to(ACC), CRITERION, GRAD, BLOCK, ACC)
        if loss is not None:
            tl.store(partials + pid, value)  # scalar stores: by the thread that takes the ticket below
            tl.store(partials + MAX_PROGRAMS + pid, logit)
            tl.store(partials + 2 * MAX_PROGRAMS + pid, count)
            tl.debug_barrier()  # Triton 3.6 puts none between a store and the atomic; needed if the stores are widened
            ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
            if ticket == _plain(ends[K - 1]) - 1:  # the last program: every partial sum is visible
                i = tl.arange(0, MAX_PROGRAMS)
                used = i < _plain(ends[K - 1])
                values = tl.load(partials + i, mask=used, other=0.0, cache_modifier=".cg")
                logit_sums = tl.load(partials + MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
                counts = tl.load(partials + 2 * MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
                total = tl.zeros((), tl.float64)
                for k in tl.static_range(K):
                    own = i < _plain(ends[k])
                    if k > 0:
                        own = own & (i >= _plain(ends[k - 1]))
                    weight = tl.zeros((), tl.float64) + weights[k] + weights_lo[k]
                    total += _write_term(
                        terms,
                        k,
                        k < N_REAL,
                        tl.sum(tl.where(own, values, 0.0), axis=0),
                        tl.sum(tl.where(own, logit_sums, 0.0), axis=0),
                        tl.sum(tl.where(own, counts, 0.0), axis=0),
                        _plain(sizes[k]),
                        weight,
                    )
                tl.store(loss, total.to(loss.dtype.element_ty))
                tl.atomic_xchg(counter, 0, sem="relaxed")  # the next launch, or graph replay, finds it clean


SINGLE_BELOW = 8192  # logits in all; below, one program is done before a ticket would be drawn


def plan(sizes: Sequence[int], dtype: torch.dtype, processors: int) -> tuple[dict, dict, tuple[int, ...]]:
    """(SINGLE and BLOCK, compiler options, ends): how many programs each term gets, in proportion to its tiles.

    A large problem gets as many programs as run at once: 5 of 128 threads on a multiprocessor at 96 registers a thread
    (4 at 128 for float64), the least at which no supported architecture spills. Each thread then has two 128-bit loads
    of a half-precision tile, or four of a float32 one, under way.
    """
    double = dtype == torch.float64
    max_programs = min(MAX_PROGRAMS, (4 if double else 5) * processors)
    if sum(sizes) <= SINGLE_BELOW or max_programs < len(sizes):
        small = max(sizes) <= 1024
        block = 512 if double else 1024 if small else 2048
        return dict(SINGLE=True, BLOCK=block), dict(num_warps=4 if small else 8), (1,) * len(sizes)
    block = 512 if double else 2048
    tiles = [max(1, -(-n // block)) for n in sizes]
    if sum(tiles) > max_programs:
        spare, all_tiles = max_programs - len(sizes), sum(tiles)
        tiles = [min(t, 1 + spare * t // all_tiles) for t in tiles]
    options = dict(num_warps=4, maxnreg=128 if double else 96)
    return dict(SINGLE=False, BLOCK=block), options, tuple(itertools.accumulate(tiles))


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2  # the interpreter runs programs one after the other
    return torch.cuda.get_device_properties(device).multi_processor_count


def _dense(x: Tensor) -> Tensor:
    """x, if its elements fill one stretch of memory in any order of dimensions (channels_last); else a copy."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size != 1:
            if stride != expected:
                return x.contiguous()
            expected *= size
    return x


def _split(values: Sequence[float], double: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each value as a sum of two float32, since a float argument of a kernel is one; exact to 48 bits for float64."""
    if not double:
        return tuple(values), (0.0,) * len(values)
    high = struct.unpack(f"{len(values)}f", struct.pack(f"{len(values)}f", *values))
    return high, tuple([v - h for v, h in zip(values, high)])


def adversarial(
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
    """(loss, terms, grads) of the terms (logits[k], labels[k], weights[k]), each None unless asked for: one launch.

    logits: tensors of one floating dtype on one device, of any shapes; checked by the caller. loss is 0-d and terms is
    (K, 3), float32 (float64 for float64 logits); grads have the shapes and dtype of the logits, times `factor` and
    `scale` (one element, on the device), both applied in float32 before rounding.
    """
    logits = [_dense(x) for x in logits]
    first = logits[0]
    device, dtype = first.device, first.dtype
    double = dtype == torch.float64
    out_dtype = torch.float64 if double else torch.float32
    sizes = tuple([x.numel() for x in logits])
    shape, options, ends = plan(sizes, dtype, _processors(device))

    grads = [torch.empty_like(x) for x in logits] if gradient else None
    loss = torch.empty((), dtype=out_dtype, device=device) if value else None
    terms = torch.empty((len(logits), 3), dtype=out_dtype, device=device) if value and statistics else None
    partials, counter = workspace(device) if value and not shape["SINGLE"] else (None, None)

    (labels, labels_lo), (weights, weights_lo) = _split(labels, double), _split(weights, double)
    odd_sizes, odd_ends = tuple([_odd(n) for n in sizes]), tuple([_odd(end) for end in ends])
    launch(
        adversarial_kernel,
        ends[-1],
        device,
        (
            *(tuple(logits), tuple(grads) if gradient else None, odd_sizes, odd_ends),
            *(labels, labels_lo, weights, weights_lo, tuple([part for (part,) in _split((factor,), double)]), scale),
            *(loss, terms, partials, counter),
        ),
        dict(CRITERION=CRITERIA[criterion], N_REAL=n_real, **shape, MAX_PROGRAMS=MAX_PROGRAMS),
        options,
        key=(
            *(criterion, n_real, dtype, None if scale is None else scale.dtype, value, statistics, gradient),
            *(shape["SINGLE"], shape["BLOCK"], options["num_warps"], *[n >= 2**31 for n in odd_sizes]),
        ),
        given=tuple(logits) if scale is None else (*logits, scale),
    )
    return loss, terms, grads
