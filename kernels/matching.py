"""Feature matching that saves a byte an element and not the maps: for every 64 pairs a launch forward and one backward.

    forward    L = sum_k  w_k mean_i |a_k[i] - b_k[i]|,    s_k[i] = sign(a_k[i] - b_k[i]), an int8
    backward   dL/da_k[i] = scale w_k / n_k s_k[i] = -dL/db_k[i]

The backward launch reads signs and writes gradients: the maps of both sides may have been freed. The sign of 0 and, as
in PyTorch, of NaN is 0. Programs own pairs as they own terms in `adversarial`, and the last one to finish adds the
partial sums in a fixed order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Plan, launch
from .layout import dense, like, packed
from .numerics import widen
from .reduction import decode_int, encode_int, in_thread_sum, processors, programs_of, split_floats
from .workspace import MAX_PROGRAMS, MAX_TERMS, workspace


@triton.jit
def _compare(a_ptr, b_ptr, s_ptr, offset, inside, ACC: tl.constexpr):
    """Write a tile's signs; return its absolute differences. `inside` is the tail's mask, or None."""
    other: tl.constexpr = None if inside is None else 0.0
    d = widen(tl.load(a_ptr + offset, mask=inside, other=other), ACC)
    d -= widen(tl.load(b_ptr + offset, mask=inside, other=other), ACC)
    sign = tl.where(d > 0, 1, tl.where(d < 0, -1, 0)).to(tl.int8)
    tl.store(s_ptr + offset, sign, mask=inside)
    return tl.abs(d)


@triton.jit
def _write_gradient(s_ptr, g_ptr, h_ptr, offset, inside, w):
    other: tl.constexpr = None if inside is None else 0
    grad = tl.load(s_ptr + offset, mask=inside, other=other).to(w.dtype) * w
    if g_ptr is not None:
        tl.store(g_ptr + offset, grad.to(g_ptr.dtype.element_ty), mask=inside)
    if h_ptr is not None:
        tl.store(h_ptr + offset, (-grad).to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def matching_kernel(
    fakes,  # K pointers, one dtype: generated maps a_k, sizes[k] elements, dense; None in the backward launch
    reals,  # K pointers: real maps b_k; or None likewise
    signs,  # K pointers, int8: written forward, read backward
    grads,  # K pointers of the maps' dtype: where scale * dL/da_k goes; or None
    real_grads,  # K pointers: where scale * dL/db_k goes; or None
    sizes,  # K ints, each from `encode_int`
    ends,  # K ints, each from `encode_int`: programs [ends[k-1], ends[k]) own pair k
    weights,  # K floats, and their rounding errors in float32
    weights_lo,
    scale,  # 0-d, on the device: multiplies the gradients, before they are rounded; or None
    loss,  # 0-d ACC: L; or None in the backward launch
    partials,  # [MAX_PROGRAMS] float64 scratch
    counter,  # int32, zero before and after
    DTYPE: tl.constexpr,  # of the maps
    BLOCK: tl.constexpr,
    MAX_PROGRAMS: tl.constexpr,
):
    K: tl.constexpr = len(signs)
    ACC: tl.constexpr = tl.float64 if tl.float64 == DTYPE else tl.float32
    zero = tl.zeros((), ACC)
    # A chain of selects finds this program's pair, for the reasons given in `adversarial_kernel`.
    pid = tl.program_id(0)
    a_ptr = fakes[0] if fakes is not None else None
    b_ptr = reals[0] if reals is not None else None
    s_ptr = signs[0]
    g_ptr = grads[0] if grads is not None else None
    h_ptr = real_grads[0] if real_grads is not None else None
    n = decode_int(sizes[0])
    begin = pid * 0
    end = decode_int(ends[0])
    weight = tl.zeros((), tl.float64) + weights[0] + weights_lo[0]
    for k in tl.static_range(1, K):
        mine = pid >= decode_int(ends[k - 1])
        if fakes is not None:
            a_ptr = tl.where(mine, fakes[k], a_ptr)
            b_ptr = tl.where(mine, reals[k], b_ptr)
        s_ptr = tl.where(mine, signs[k], s_ptr)
        if grads is not None:
            g_ptr = tl.where(mine, grads[k], g_ptr)
        if real_grads is not None:
            h_ptr = tl.where(mine, real_grads[k], h_ptr)
        n = tl.where(mine, decode_int(sizes[k]), n)
        begin = tl.where(mine, decode_int(ends[k - 1]), begin)
        end = tl.where(mine, decode_int(ends[k]), end)
        weight = tl.where(mine, tl.zeros((), tl.float64) + weights[k] + weights_lo[k], weight)
    first = (pid - begin).to(n.dtype)
    stride = (end - begin).to(n.dtype)
    lane = tl.arange(0, BLOCK)
    full = n // BLOCK
    tail = full * BLOCK
    inside = lane < n - tail
    ragged = (tail < n) & (full % stride == first)  # the tail belongs to one program
    if fakes is None:
        w = weight.to(ACC) * (zero + tl.load(scale).to(ACC)) / n.to(ACC)
        for tile in range(first, full, stride):
            _write_gradient(s_ptr, g_ptr, h_ptr, tile * BLOCK + lane, None, w)
        if ragged:
            _write_gradient(s_ptr, g_ptr, h_ptr, tail + lane, inside, w)
    else:
        V: tl.constexpr = 128 // fakes[0].dtype.element_ty.primitive_bitwidth
        values = tl.zeros([BLOCK // V], ACC)
        for tile in range(first, full, stride):
            values += in_thread_sum(_compare(a_ptr, b_ptr, s_ptr, tile * BLOCK + lane, None, ACC), V)
        if ragged:
            values += in_thread_sum(_compare(a_ptr, b_ptr, s_ptr, tail + lane, inside, ACC), V)
        value = tl.sum(values.to(tl.float64), axis=0)
        tl.store(partials + pid, weight * (value / n.to(tl.float64)))  # 0 / 0 = NaN for an empty map, as from `mean`
        tl.debug_barrier()  # Triton 3.6 inserts none between a store and the atomic
        programs = decode_int(ends[K - 1])
        ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if ticket == programs - 1:  # the last program: every partial sum is visible
            i = tl.arange(0, MAX_PROGRAMS)
            parts = tl.load(partials + i, mask=i < programs, other=0.0, cache_modifier=".cg")
            tl.store(loss, tl.sum(parts, axis=0).to(loss.dtype.element_ty))
            tl.atomic_xchg(counter, 0, sem="relaxed")


_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def blocks(sizes: tuple[int, ...], dtype: torch.dtype, processors: int) -> tuple[int, list[int]]:
    """(BLOCK, ends). A thread has 16 elements of a tile: their signs are one 128-bit store, and for float32 maps it has
    eight 128-bit loads in flight. For float64 these would be twice the bytes and not fit its registers."""
    block = 1024 if dtype == torch.float64 else 2048
    most = max(len(sizes), min(MAX_PROGRAMS, 4 * processors))
    return block, list(itertools.accumulate(programs_of([max(1, -(-n // block)) for n in sizes], most)))


@functools.lru_cache(maxsize=256)
def plan(
    sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device, weights: tuple[float, ...], asked: tuple
) -> Plan:
    """Cached: a training has few lists of shapes, and planning 54 maps takes longer than launching a kernel. asked:
    whether there are maps, gradients, and gradients of the real maps; the dtype of the scale."""
    block, ends = blocks(sizes, dtype, processors(device))
    encoded_sizes, encoded_ends = tuple([encode_int(n) for n in sizes]), tuple([encode_int(end) for end in ends])
    numbers = (encoded_sizes, encoded_ends, *split_floats(weights, dtype == torch.float64))
    constants = dict(DTYPE=_DTYPES[dtype], BLOCK=block, MAX_PROGRAMS=MAX_PROGRAMS)
    key = (len(sizes), dtype, block, *asked, *[n >= 2**31 for n in encoded_sizes])
    return Plan(matching_kernel, ends[-1], device, numbers, constants, dict(num_warps=4, maxnreg=128), key)


def matching_signs(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    """(L, signs): L is 0-d, float32 (float64 for float64 maps); signs are int8, in the maps' shapes and layouts.

    fakes, reals: maps of one floating dtype on one device, pairs of one shape; checked by the caller."""
    fakes = [dense(x) for x in fakes]
    reals = [like(x, b) for x, b in zip(fakes, reals)]
    signs = [torch.empty_like(x, dtype=torch.int8) for x in fakes]
    out = torch.float64 if fakes[0].dtype == torch.float64 else torch.float32
    losses = []
    for i in range(0, len(fakes), MAX_TERMS):
        own = slice(i, i + MAX_TERMS)
        losses.append(torch.empty((), dtype=out, device=fakes[0].device))
        _launch(fakes[own], reals[own], signs[own], [], [], weights[own], fakes[0].dtype, None, losses[-1])
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), signs


def matching_gradient(
    signs: Sequence[Tensor],
    weights: Sequence[float],
    dtype: torch.dtype,
    scale: Tensor,
    of_fakes: bool,
    of_reals: bool,
) -> list[Tensor]:
    """scale times the gradients of L at the generated maps, then at the real ones, if requested, in `dtype`.

    signs: from `matching_signs`. scale: one element, on the device; applied in float32, before rounding."""
    signs, scale = [dense(s) for s in signs], packed(scale)
    grads, real_grads = (
        [torch.empty_like(s, dtype=dtype) for s in signs] if asked else [] for asked in (of_fakes, of_reals)
    )
    for i in range(0, len(signs), MAX_TERMS):
        own = slice(i, i + MAX_TERMS)
        _launch([], [], signs[own], grads[own], real_grads[own], weights[own], dtype, scale, None)
    return grads + real_grads


def _launch(fakes, reals, signs, grads, real_grads, weights, dtype, scale, loss) -> None:
    device = signs[0].device
    asked = (bool(fakes), bool(grads), bool(real_grads), None if scale is None else scale.dtype)
    planned = plan(tuple([s.numel() for s in signs]), dtype, device, tuple(weights), asked)
    scratch = workspace(device) if loss is not None else (None, None)
    lists = [tuple(tensors) if tensors else None for tensors in (fakes, reals, signs, grads, real_grads)]
    given = [*fakes, *reals, *signs, *([] if scale is None else [scale])]
    launch(planned, (*lists, *planned.numbers, scale, loss, *scratch), given)
