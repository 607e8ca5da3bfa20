"""Squared maximum mean discrepancy of two samples and its gradients, in one launch; the N x M matrix never exists.

    L = w ( mean k(x, x') + mean k(y, y') - 2 mean k(x, y) ),    k a function of D = |a - b|^2, summed over bandwidths

With K' = dk/dD, the gradient at row x_i is a sum over all rows z_j of both samples,

    dL/dx_i = sum_j c_ij (x_i - z_j),    c_ij = 4 w K'(D_ij) / N^2 for z = x,  -4 w K'(D_ij) / (N M) for z = y

so a program that owns a block of rows and walks over tiles of columns has everything it needs: distances, kernel,
weights, and the sum, which stays with it. No gradient is added to by two programs. Float32 in the tiles, float64 across
them; the last program to finish (a ticket) adds the partial sums in a fixed order, so that a result is bit-identical
from run to run.

Distances come in two ways:
  differences  D = sum_k (a_k - b_k)^2, and the gradient as sum_j c_ij (a_k - b_k): exact to a few units in the last
               place of each term however close two points are. Four instructions a pair and dimension.
  products     D = |a|^2 + |b|^2 - 2 a.b and sum_j c_ij a_k - sum_j c_ij b_k by `tl.dot`, both samples shifted by the
               mean of the block's own rows. D is off by a few eps (|a| + |b|)^2 after that shift, whatever D is.
               A block of rows for which that is too much (see `_fit`) is walked again, by differences.

Up to 4 dimensions for differences and 64 for products, a row block and its gradient stay in registers. Beyond, each
tile of columns is read twice, CHUNK dimensions at a time, and the gradient is added up in memory, by the one program
that owns it: in the gradient itself where that is float32 or float64, else in a float32 scratch of its shape.
"""

# ruff: noqa: RUF005, SIM102, SIM108 (Triton knows neither starred tuples nor `and` of a constant and a scalar of the device)

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Plan, launch
from .layout import packed
from .reduction import partial_sums, processors, split_floats, sum_three
from .workspace import MAX_PROGRAMS, workspace


@triton.jit
def gaussian(D, rates, rates_lo, exponent, exponent_lo, POWERS: tl.constexpr, SLOPE: tl.constexpr):
    """(sum_b exp(-D / 2 s_b^2), its derivative by D); rates are -log2(e) / 2 s^2. Where s_b is half of the one before,
    its exponential is the fourth power of the other."""
    value = tl.zeros(D.shape, D.dtype)
    slope = tl.zeros(D.shape, D.dtype)
    k = value
    for b in tl.static_range(len(rates)):
        rate = tl.zeros((), D.dtype) + rates[b] + rates_lo[b]
        if (POWERS >> b) & 1:  # never the first
            k = (k * k) * (k * k)
        else:
            k = tl.exp2(D * rate)
        value += k
        if SLOPE:
            slope += k * (rate * 0.6931471824645996 - rate * 1.9046542e-09)  # ln 2; a literal alone is float32
    return value, slope


@triton.jit
def rational_quadratic(D, rates, rates_lo, exponent, exponent_lo, POWERS: tl.constexpr, SLOPE: tl.constexpr):
    """(sum_b (1 + D / 2 a s_b^2)^-a, its derivative by D); rates are 1 / 2 a s^2, exponent is a."""
    value = tl.zeros(D.shape, D.dtype)
    slope = tl.zeros(D.shape, D.dtype)
    a = tl.zeros((), D.dtype) + exponent[0] + exponent_lo[0]
    for b in tl.static_range(len(rates)):
        rate = tl.zeros((), D.dtype) + rates[b] + rates_lo[b]
        base = 1.0 + D * rate
        k = tl.exp2(-a * tl.log2(base))
        value += k
        if SLOPE:
            slope -= (a * rate) * (k / base)
    return value, slope


@triton.jit
def energy(D, rates, rates_lo, exponent, exponent_lo, POWERS: tl.constexpr, SLOPE: tl.constexpr):
    """(-sqrt D, its derivative by D, which is taken to be 0 at D = 0)."""
    r = tl.sqrt(D)
    slope = tl.zeros(D.shape, D.dtype)
    if SLOPE:
        slope = tl.where(r == 0, 0.0, -0.5 / r)  # not D: a subnormal number reads as 0 on some devices
    return -r, slope


@triton.jit
def _chunk(ptr, row, first, d, CHUNK: tl.constexpr, EVEN: tl.constexpr, ACC: tl.constexpr):
    """[rows, CHUNK]: dimensions first, first + 1, ... of the rows at ptr; 0 beyond the last one."""
    k = first + tl.arange(0, CHUNK)
    at = ptr + row[:, None] * d + k[None, :]
    if EVEN:
        return tl.load(at).to(ACC)
    return tl.load(at, mask=k[None, :] < d, other=0.0).to(ACC)


@triton.jit
def _rows(
    block,  # which block of rows of a
    a_ptr,  # [n, d] dense: the sample whose rows these are
    z_ptr,  # [m, d] dense: the other sample
    g_ptr,  # [n, d]: where the gradient at a goes; of no meaning unless GRAD
    h_ptr,  # [n, d] of ACC: where it is added up, beyond CHUNK dimensions; may be g_ptr
    n,
    m,
    d,
    ratio,  # weight of a pair of one sample, in units of that of a pair of two; ACC
    factor,  # of the gradient, ACC
    rates,
    rates_lo,
    exponent,
    exponent_lo,
    KERNEL: tl.constexpr,
    POWERS: tl.constexpr,
    SAME: tl.constexpr,  # pairs of a and a
    CROSS: tl.constexpr,  # pairs of a and z
    VALUE: tl.constexpr,
    GRAD: tl.constexpr,
    UNBIASED: tl.constexpr,
    DOT: tl.constexpr,  # input_precision of products; None: differences
    CHUNKS: tl.constexpr,  # more than one chunk of dimensions
    EVEN: tl.constexpr,  # no chunk is a part of one
    CHUNK: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    ACC: tl.constexpr,
    floor=0.0,  # products: above 0, the smallest D is looked for, which is to be no less than this; ACC
):
    """Float64 sums of k over the pairs of this block's rows with a, and with z; and the smallest D, or what it may be.
    Writes the gradient at these rows.

    Without a gradient each pair of one sample is met once and counts twice. Rows and columns beyond the last one are
    the last one again, with weight 0."""
    TRIANGLE: tl.constexpr = not GRAD
    i0 = block * BI
    i = i0 + tl.arange(0, BI)
    row = tl.minimum(tl.arange(0, BI), n - 1 - i0)
    start = i0.to(tl.int64) * d
    own = a_ptr + start
    same = tl.zeros([BI], tl.float64)
    cross = tl.zeros([BI], tl.float64)
    nearest = tl.zeros((), ACC) + floor
    if DOT is None:
        sums = ()
        mine = ()
        if not CHUNKS:
            for q in tl.static_range(CHUNK):
                sums = sums + (tl.zeros([BI], ACC),)
                mine = mine + (tl.load(own + row * CHUNK + q).to(ACC),)
    else:
        total = tl.zeros([BI], ACC)  # of the weights
        if not CHUNKS:
            a = _chunk(own, row, 0, d, CHUNK, EVEN, ACC)
            centre = tl.sum(a, axis=0) / BI
            a -= centre[None, :]
            a2 = tl.sum(a * a, axis=1)
            weighted = tl.zeros([BI, CHUNK], ACC)  # sum_j w_ij b_j

    same_tiles = tl.cdiv(n, BJ) if SAME else 0
    WHOLE: tl.constexpr = BI if BI > BJ else BJ  # rows whose tiles on the diagonal hold both orders of a pair
    first = i0 // WHOLE * (WHOLE // BJ) if TRIANGLE and SAME else i0 * 0
    last = same_tiles + tl.cdiv(m, BJ) if CROSS else same_tiles
    for tile in range(first, last):
        of_same = tile < same_tiles
        j0 = tl.where(of_same, tile, tile - same_tiles) * BJ
        columns = tl.where(of_same, n, m)
        column = tl.minimum(tl.arange(0, BJ), columns - 1 - j0)
        other = tl.where(of_same, a_ptr, z_ptr) + j0.to(tl.int64) * d

        if DOT is None:
            D = tl.zeros([BI, BJ], ACC)
            apart = ()
            if not CHUNKS:
                for q in tl.static_range(CHUNK):
                    t = mine[q][:, None] - tl.load(other + column * CHUNK + q).to(ACC)[None, :]
                    D += t * t
                    apart = apart + (t,)
            else:
                for k0 in range(0, d, CHUNK):
                    for q in tl.static_range(CHUNK):
                        k = k0 + q if EVEN else tl.minimum(k0 + q, d - 1)
                        t = (
                            tl.load(own + row * d + k).to(ACC)[:, None]
                            - tl.load(other + column * d + k).to(ACC)[None, :]
                        )
                        if not EVEN:
                            t = tl.where(k0 + q < d, t, 0.0)
                        D += t * t
        else:
            if CHUNKS:
                a2 = tl.zeros([BI], ACC)
                b2 = tl.zeros([BJ], ACC)
                products = tl.zeros([BI, BJ], ACC)
                for k0 in range(0, d, CHUNK):
                    a = _chunk(own, row, k0, d, CHUNK, EVEN, ACC)
                    centre = tl.sum(a, axis=0) / BI
                    a -= centre[None, :]
                    b = _chunk(other, column, k0, d, CHUNK, EVEN, ACC) - centre[None, :]
                    a2 += tl.sum(a * a, axis=1)
                    b2 += tl.sum(b * b, axis=1)
                    products = tl.dot(a, tl.trans(b), products, input_precision=DOT)
            else:
                b = _chunk(other, column, 0, d, CHUNK, EVEN, ACC) - centre[None, :]
                b2 = tl.sum(b * b, axis=1)
                products = tl.dot(a, tl.trans(b), input_precision=DOT)
            D = tl.maximum(a2[:, None] + b2[None, :] - 2.0 * products, 0.0, propagate_nan=tl.PropagateNan.ALL)

        j = j0 + tl.arange(0, BJ)
        diagonal = of_same & (j0 < i0 + BI) & (i0 < j0 + BJ)
        if SAME and DOT is not None:  # a point's distance to itself is known
            if diagonal:
                D = tl.where(i[:, None] == j[None, :], 0.0, D)
        if DOT is not None:
            if floor > 0:
                apart = tl.where(of_same & (i[:, None] == j[None, :]), floor, D)
                nearest = tl.minimum(nearest, tl.min(tl.where(apart >= floor, floor, -1.0)))  # -1: too near, or NaN
        value, slope = KERNEL(D, rates, rates_lo, exponent, exponent_lo, POWERS, GRAD)
        inside = j < columns
        if VALUE:
            if SAME and UNBIASED:
                if diagonal:
                    value = tl.where(i[:, None] == j[None, :], 0.0, value)
            times = tl.where(of_same & (tile >= first + WHOLE // BJ), 2.0, 1.0) if TRIANGLE else 1.0
            counted = tl.sum(value * tl.where(inside, times, 0.0).to(ACC)[None, :], axis=1).to(tl.float64)
            same += tl.where(of_same, counted, 0.0)
            cross += tl.where(of_same, 0.0, counted)
        if GRAD:
            begun = tl.where(tile > first, n, 0)  # rows that have a sum from the tiles before
            w = slope * tl.where(inside, tl.where(of_same, ratio, -1.0), 0.0).to(ACC)[None, :]
            if DOT is None:
                if not CHUNKS:
                    added = ()
                    for q in tl.static_range(CHUNK):
                        added = added + (sums[q] + tl.sum(w * apart[q], axis=1),)
                    sums = added
                else:
                    for k0 in range(0, d, CHUNK):
                        for q in tl.static_range(CHUNK):
                            k = tl.minimum(k0 + q, d - 1)
                            t = (
                                tl.load(own + row * d + k).to(ACC)[:, None]
                                - tl.load(other + column * d + k).to(ACC)[None, :]
                            )
                            at = h_ptr + start + tl.arange(0, BI) * d + k0 + q
                            inner = i < tl.where(k0 + q < d, n, 0)
                            sofar = tl.load(at, mask=inner & (i < begun), other=0.0)
                            tl.store(at, sofar + tl.sum(w * t, axis=1), mask=inner)
                    tl.debug_barrier()  # another thread may read what this one wrote
            else:
                total += tl.sum(w, axis=1)
                if not CHUNKS:
                    weighted = tl.dot(w, b, weighted, input_precision=DOT)
                else:
                    for k0 in range(0, d, CHUNK):
                        a = _chunk(own, row, k0, d, CHUNK, EVEN, ACC)
                        b = _chunk(other, column, k0, d, CHUNK, EVEN, ACC) - (tl.sum(a, axis=0) / BI)[None, :]
                        k = k0 + tl.arange(0, CHUNK)
                        at = h_ptr + start + tl.arange(0, BI)[:, None] * d + k[None, :]
                        inner = (i < n)[:, None] & (k < d)[None, :]
                        sofar = tl.load(at, mask=inner & (i < begun)[:, None], other=0.0)
                        tl.store(at, tl.dot(w, b, sofar, input_precision=DOT), mask=inner)
                    tl.debug_barrier()

    if GRAD:
        out = g_ptr + start
        dtype: tl.constexpr = g_ptr.dtype.element_ty
        if CHUNKS:
            WIDE: tl.constexpr = CHUNK if DOT is not None else 16
            for k0 in range(0, d, WIDE):
                k = k0 + tl.arange(0, WIDE)
                at = tl.arange(0, BI)[:, None] * d + k[None, :]
                inner = (i < n)[:, None] & (k < d)[None, :]
                grad = tl.load(h_ptr + start + at, mask=inner, other=0.0)
                if DOT is not None:
                    a = _chunk(own, row, k0, d, CHUNK, EVEN, ACC)
                    grad = total[:, None] * (a - (tl.sum(a, axis=0) / BI)[None, :]) - grad
                tl.store(out + at, (factor * grad).to(dtype), mask=inner)
        elif DOT is None:
            for q in tl.static_range(CHUNK):
                tl.store(out + tl.arange(0, BI) * d + q, (factor * sums[q]).to(dtype), mask=i < n)
        else:
            k = tl.arange(0, CHUNK)
            at = out + tl.arange(0, BI)[:, None] * d + k[None, :]
            a = _chunk(own, row, 0, d, CHUNK, EVEN, ACC) - centre[None, :]  # read again: registers are short
            grad = (factor * (total[:, None] * a - weighted)).to(dtype)
            if EVEN:
                tl.store(at, grad, mask=(i < n)[:, None])
            else:
                tl.store(at, grad, mask=(i < n)[:, None] & (k < d)[None, :])
    return tl.sum(tl.where(i < n, same, 0.0), axis=0), tl.sum(tl.where(i < n, cross, 0.0), axis=0), nearest >= floor


@triton.jit
def _fit(block, a_ptr, n, d, narrowest, EVEN: tl.constexpr, CHUNK: tl.constexpr, BI: tl.constexpr, ACC: tl.constexpr):
    """(whether products may serve a block of rows, what no D may be less than if they do).

    Let r be the largest distance from the block's middle. Points within 3 r of it have a D that is off by up to
    8 eps (4 r)^2 = 2^-17 r^2; others have one that is right to some eps of itself. A kernel of bandwidth s changes by
    that over 2 s^2 + D, which 2^-7 bounds where D >= 2^-10 r^2 - 2 s^2; the energy distance as if s were 0."""
    i0 = block * BI
    row = tl.minimum(tl.arange(0, BI), n - 1 - i0)
    own = a_ptr + i0.to(tl.int64) * d
    squares = tl.zeros([BI], ACC)
    for k0 in range(0, d, CHUNK):
        a = _chunk(own, row, k0, d, CHUNK, EVEN, ACC)
        a -= (tl.sum(a, axis=0) / BI)[None, :]
        squares += tl.sum(a * a, axis=1)
    largest = tl.max(squares, axis=0)
    small = largest <= 1e36  # its square, and products with it, are no infinity
    return small, largest * 0.0009765625 - 2.0 * narrowest[0] * narrowest[0]


@triton.jit
def _block(
    block, a_ptr, z_ptr, g_ptr, h_ptr, n, m, d, ratio, factor, rates, rates_lo, exponent, exponent_lo, narrowest,
    KERNEL: tl.constexpr, POWERS: tl.constexpr, SAME: tl.constexpr, CROSS: tl.constexpr, VALUE: tl.constexpr,
    GRAD: tl.constexpr, UNBIASED: tl.constexpr, DOT: tl.constexpr, CHUNKS: tl.constexpr, EVEN: tl.constexpr,
    CHUNK: tl.constexpr, UNIT: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """`_rows`, by products if they are right enough, else by differences."""
    if DOT is None:
        same, cross, right = _rows(
            block, a_ptr, z_ptr, g_ptr, h_ptr, n, m, d, ratio, factor, rates, rates_lo, exponent, exponent_lo,
            KERNEL, POWERS, SAME, CROSS, VALUE, GRAD, UNBIASED, None, CHUNKS, EVEN, CHUNK, BI, BJ, ACC,
        )  # fmt: skip
    else:
        same = tl.zeros((), tl.float64)
        cross = tl.zeros((), tl.float64)
        right, floor = _fit(block, a_ptr, n, d, narrowest, EVEN, CHUNK, BI, ACC)
        if right:
            same, cross, right = _rows(
                block, a_ptr, z_ptr, g_ptr, h_ptr, n, m, d, ratio, factor, rates, rates_lo, exponent, exponent_lo,
                KERNEL, POWERS, SAME, CROSS, VALUE, GRAD, UNBIASED, DOT, CHUNKS, EVEN, CHUNK, BI, BJ, ACC, floor,
            )  # fmt: skip
        if not right:
            tl.debug_barrier()  # another thread may write what this one wrote
            same, cross, right = _rows(
                block, a_ptr, z_ptr, g_ptr, h_ptr, n, m, d, ratio, factor, rates, rates_lo, exponent, exponent_lo,
                KERNEL, POWERS, SAME, CROSS, VALUE, GRAD, UNBIASED, None, True, UNIT % 4 == 0, 4, BI, BJ, ACC,
            )  # fmt: skip
    return same, cross


@triton.jit(do_not_specialize=["n", "m", "units", "programs"])
def mmd_kernel(
    x,  # [n, d] dense
    y,  # [m, d] dense, of the dtype of x
    grad_x,  # [n, d] of that dtype: scale * factor * dL/dx; or None
    grad_y,  # [m, d]: scale * factor * dL/dy; or None
    sum_x,  # [n, d] of ACC, scratch of grad_x; or None
    sum_y,  # [m, d] of ACC, scratch of grad_y; or None
    n,
    m,
    units,  # d / UNIT
    programs,  # how many run
    rates,  # B floats, what the kernel multiplies D by, and what float32 dropped of them
    rates_lo,
    exponent,  # float and what float32 dropped of it: of the rational quadratic kernel
    exponent_lo,
    weight,  # float and what float32 dropped of it: w
    factor,  # float and what float32 dropped of it: multiplies the gradients only; w is in it
    scale,  # 0-d on the device: multiplies the gradients only, before they are rounded; or None
    narrowest,  # (s,), the smallest bandwidth; 0 of the energy distance
    loss,  # 0-d ACC: L; or None, then nothing is summed
    means,  # [3] ACC: mean k(x, x'), mean k(x, y), mean k(y, y')
    partials,  # [3, MAX_PROGRAMS] float64 scratch
    counter,  # [1] int32, zero before and after
    KERNEL: tl.constexpr,
    POWERS: tl.constexpr,  # bit b: is exponential b a power of the one before; Triton 3.3 cannot index a constant tuple
    TARGET: tl.constexpr,  # k(y, y') counts
    UNBIASED: tl.constexpr,
    DOT: tl.constexpr,
    CHUNKS: tl.constexpr,
    EVEN: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,  # divides d: how wide a load may be
    BI: tl.constexpr,
    BJ: tl.constexpr,
    MAX_PROGRAMS: tl.constexpr,
):
    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    VALUE: tl.constexpr = loss is not None
    OF_X: tl.constexpr = grad_x is not None
    OF_Y: tl.constexpr = grad_y is not None
    d = units * UNIT
    one = tl.full((), 1.0, ACC)
    f = 4.0 * (tl.zeros((), ACC) + factor[0] + factor[1]) / n.to(ACC) / m.to(ACC)
    if scale is not None:
        f *= tl.load(scale).to(ACC)
    less: tl.constexpr = 1 if UNBIASED else 0
    pid = tl.program_id(0)
    x_blocks = tl.cdiv(n, BI)
    xx = tl.zeros((), tl.float64)
    xy = tl.zeros((), tl.float64)
    yy = tl.zeros((), tl.float64)
    if VALUE or OF_X:
        ratio = one * m.to(ACC) / (n - less).to(ACC)
        for block in range(pid, x_blocks, programs):
            same, cross = _block(
                block, x, y, grad_x, sum_x, n, m, d, ratio, f, rates, rates_lo, exponent, exponent_lo, narrowest,
                KERNEL, POWERS, True, True, VALUE, OF_X, UNBIASED, DOT, CHUNKS, EVEN, CHUNK, UNIT, BI, BJ, ACC,
            )  # fmt: skip
            xx += same
            xy += cross
    if (VALUE and TARGET) or OF_Y:
        ratio = one * n.to(ACC) / (m - less).to(ACC)
        before = x_blocks if VALUE or OF_X else 0
        for block in range((pid - before % programs + programs) % programs, tl.cdiv(m, BI), programs):
            same, cross = _block(
                block, y, x, grad_y, sum_y, m, n, d, ratio, f, rates, rates_lo, exponent, exponent_lo, narrowest,
                KERNEL, POWERS, TARGET, OF_Y, VALUE, OF_Y, UNBIASED, DOT, CHUNKS, EVEN, CHUNK, UNIT, BI, BJ, ACC,
            )  # fmt: skip
            yy += same
    if VALUE:
        tl.store(partials + pid, xx)  # scalar stores: by the thread that takes the ticket below
        tl.store(partials + MAX_PROGRAMS + pid, xy)
        tl.store(partials + 2 * MAX_PROGRAMS + pid, yy)
        tl.debug_barrier()  # Triton 3.6 puts none between a store and the atomic
        ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if ticket == programs - 1:  # the last program: every partial sum is visible
            p = tl.arange(0, MAX_PROGRAMS)
            xx, xy, yy = partial_sums(partials, p, p < programs, MAX_PROGRAMS)
            xx, xy, yy = sum_three(xx, xy, yy)
            big, small = n.to(tl.float64), m.to(tl.float64)
            xx = xx / (big * (big - less))
            xy = xy / (big * small)
            total = xx - 2.0 * xy
            if TARGET:
                yy = yy / (small * (small - less))
                total += yy
            total *= tl.zeros((), tl.float64) + weight[0] + weight[1]
            tl.store(loss, total.to(loss.dtype.element_ty))
            tl.store(means, xx.to(means.dtype.element_ty))
            tl.store(means + 1, xy.to(means.dtype.element_ty))
            tl.store(means + 2, yy.to(means.dtype.element_ty))
            tl.atomic_xchg(counter, 0, sem="relaxed")  # the next launch, or graph replay, finds it clean


KERNELS = {function.__name__: function for function in (gaussian, rational_quadratic, energy)}
PRODUCTS_UP_TO = 64  # dimensions that registers hold
DIFFERENCES_UP_TO = 4
MOST_PROGRAMS = MAX_PROGRAMS


def blocks(n: int, m: int, d: int, differences: bool, dtype: torch.dtype, processors: int) -> tuple[dict, dict]:
    """(block sizes, compiler options). Small samples get small row blocks, so that every processor has one.

    Products: the largest tiles of which no loop spills on sm_80, sm_90 and sm_100 with Triton 3.6, 3.7 and 3.9."""
    if differences:
        chunk = min(d, DIFFERENCES_UP_TO)
        block, columns = 32, 32 if dtype == torch.float64 else 64
    else:
        chunk = max(16, triton.next_power_of_2(d)) if d <= PRODUCTS_UP_TO else 32
        block, columns = 64 if chunk <= 32 else 32, 32
    rows = n + m
    while block > 16 and -(-rows // block) < 2 * processors:
        block //= 2
    shape = dict(CHUNKS=d > chunk, EVEN=d % chunk == 0, CHUNK=chunk, BI=block, BJ=columns)
    return shape, dict(num_warps=4)


@functools.lru_cache(maxsize=256)
def plan(
    n: int, m: int, d: int, dtype: torch.dtype, device: torch.device, kernel: str, bandwidths: tuple[float, ...],
    alpha: float, powers: tuple[bool, ...], unbiased: bool, target: bool, weight: float, factor: float, precision: str,
    value: bool, of_x: bool, of_y: bool, scale: torch.dtype | None,
) -> Plan:  # fmt: skip
    """Kept: every step of a training has the same. scale: its dtype, if there is one."""
    double = dtype == torch.float64
    differences = double or precision == "exact"
    shape, options = blocks(n, m, d, differences, dtype, processors(device))
    count = -(-n // shape["BI"]) if value or of_x else 0
    count += -(-m // shape["BI"]) if (value and target) or of_y else 0
    programs = min(MOST_PROGRAMS, count)
    dot = None if differences else dot_precision(precision)
    unit = 16 if d % 16 == 0 else 4 if d % 4 == 0 else 1
    pairs = [tuple([part for (part,) in split_floats((v,), double)]) for v in (weight, weight * factor)]
    numbers = (n, m, d // unit, programs, *split_floats(_rates(kernel, bandwidths, alpha), double))
    numbers += (*split_floats((alpha,), double), *pairs)
    constants = dict(
        KERNEL=KERNELS[kernel],
        POWERS=sum(power << b for b, power in enumerate(powers)),
        TARGET=target,
        UNBIASED=unbiased,
        DOT=dot,
        **{name: shape[name] for name in ("CHUNKS", "EVEN", "CHUNK")},
        UNIT=unit,
        BI=shape["BI"],
        BJ=shape["BJ"],
        MAX_PROGRAMS=MAX_PROGRAMS,
    )
    key = (kernel, powers, len(bandwidths), dtype, value, of_x, of_y, target, unbiased, dot, unit, *shape.values())
    return Plan(mmd_kernel, programs, device, numbers, constants, options, (*key, *options.values(), scale))


def dot_precision(precision: str) -> str:
    """What `tl.dot` is asked for. "fp32" on NVIDIA is three passes of tf32, which lose 2^-22 of a product; AMD's matrix
    units multiply float32."""
    if precision == "tf32":
        return "tf32"
    return "ieee" if torch.version.hip else "tf32x3"


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float],
    kernel: str,
    *,
    alpha: float = 1.0,
    powers: tuple[bool, ...] = (),
    unbiased: bool = False,
    target: bool = True,
    weight: float = 1.0,
    precision: str = "exact",
    value: bool = True,
    of_x: bool = False,
    of_y: bool = False,
    scale: Tensor | None = None,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(L, means, gradient at x, gradient at y), each None unless asked for: one launch.

    x: (N, d), y: (M, d), of one floating dtype on one device; checked by the caller. L is 0-d, means is (3,): mean
    k(x, x'), k(x, y), k(y, y'), of which the last is 0 without `target`; float32 (float64 for float64 samples). The
    gradients have the shape and dtype of the samples, times `factor` and `scale` (0-d, on the device), both applied in
    float32 before rounding.
    powers: for each bandwidth, whether it is half of the one before and its Gaussian a power of that one's.
    precision: "exact" differences; "fp32" or "tf32" products. float64 samples are always compared by differences.
    """
    x, y = packed(x), packed(y)
    (n, d), m = x.shape, len(y)
    scale = None if scale is None else packed(scale)
    planned = plan(
        *(n, m, d, x.dtype, x.device, kernel, tuple(bandwidths), alpha, powers, unbiased, target, weight, factor),
        *(precision, value, of_x, of_y, None if scale is None else scale.dtype),
    )
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    grads = [torch.empty_like(s) if asked else None for s, asked in ((x, of_x), (y, of_y))]
    sums = [None, None]
    if planned.constants["CHUNKS"] or planned.constants["DOT"] is not None:
        sums = [g if g is None or g.dtype == acc else torch.empty_like(g, dtype=acc) for g in grads]
    loss = torch.empty((), dtype=acc, device=x.device) if value else None
    means = torch.empty(3, dtype=acc, device=x.device) if value else None
    scratch = workspace(x.device) if value else (None, None)
    narrowest = (float(min(bandwidths, default=0.0)),)
    args = (x, y, *grads, *sums, *planned.numbers, scale, narrowest, loss, means, *scratch)
    launch(planned, args, (x, y) if scale is None else (x, y, scale))
    return loss, means, *grads


def _rates(kernel: str, bandwidths: Sequence[float], alpha: float) -> list[float]:
    if kernel == "energy":
        return []
    if kernel == "gaussian":
        return [-1.0 / (2.0 * s * s * math.log(2.0)) for s in bandwidths]
    return [1.0 / (2.0 * alpha * s * s) for s in bandwidths]
