"""One program's walk over the tiles of a term: reads logits, writes gradients, adds up values and statistics."""

import triton
import triton.language as tl

from .numerics import negative, widen
from .reduction import in_thread_sum, sum_three


@triton.jit
def _load_tile(x_ptr, b_ptr, base, lane, inside):
    """A tile of logits and one of their partners; without partners the logits again, which costs nothing."""
    other: tl.constexpr = None if inside is None else 0.0
    x = tl.load(x_ptr + base + lane, mask=inside, other=other)  # pointer + scalar first: one addition, not one a lane
    b = tl.load(b_ptr + base + lane, mask=inside, other=other) if b_ptr is not None else x
    return x, b


@triton.jit
def _evaluate_tile(
    x,
    b,
    x_ptr,
    g_ptr,
    b_ptr,
    h_ptr,
    t_ptr,
    m_ptr,
    base,
    lane,
    inside,
    shift,
    y,
    w,
    CRITERION: tl.constexpr,
    GRAD: tl.constexpr,
    ACC: tl.constexpr,
):
    """Write the gradients of a tile from `_load_tile`; return (x, criterion at x). inside: the tail's mask, or None."""
    other: tl.constexpr = None if inside is None else 0.0
    x = widen(x, ACC)
    if b_ptr is not None:
        x -= widen(b, ACC)
    if shift is not None:
        x -= shift
    if t_ptr is not None:
        y = tl.load(t_ptr + base + lane, mask=inside, other=other).to(ACC)
    if m_ptr is not None:
        m = tl.load(m_ptr + base + lane, mask=inside, other=other).to(ACC)
        value, slope = CRITERION(x, y, w * m)
        value *= m
    else:
        value, slope = CRITERION(x, y, w)
    if GRAD:
        if g_ptr is not None:
            tl.store(g_ptr + base + lane, slope.to(x_ptr.dtype.element_ty), mask=inside)
        if h_ptr is not None:
            tl.store(h_ptr + base + lane, (-slope).to(x_ptr.dtype.element_ty), mask=inside)
    return x, value


@triton.jit
def walk_tiles(
    x_ptr,  # logits of one term
    g_ptr,  # where their gradient goes; or None
    b_ptr,  # partners, subtracted from the logits; or None
    h_ptr,  # where the partner's gradient goes; or None
    t_ptr,  # a label for each logit; or None: all are y
    m_ptr,  # a weight for each logit; or None
    n,  # how many logits
    first,  # tiles first, first + stride, ... are this program's
    stride,
    shift,  # subtracted from every logit, ACC; or None
    y,  # label, ACC
    w,  # weight / n, times the gradient's scale, ACC
    CRITERION: tl.constexpr,
    GRAD: tl.constexpr,
    STATISTICS: tl.constexpr,  # whether to compute the last two sums, else 0
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,  # the next tile is read before this one is computed
    ACC: tl.constexpr,  # arithmetic dtype
):
    """Write the gradient tiles; return the float64 sums of values and of logits, and how many logits are < 0."""
    V: tl.constexpr = 128 // x_ptr.dtype.element_ty.primitive_bitwidth
    lane = tl.arange(0, BLOCK)
    values = tl.zeros([BLOCK // V], ACC)
    logits = tl.zeros([BLOCK // V], ACC)
    below = tl.zeros([BLOCK // V], tl.int32)
    full = n // BLOCK
    # The next tile is loaded while this one is computed. Full tiles have no mask: 128-bit accesses whatever n is.
    if AHEAD:
        some = lane < (full - first) * BLOCK  # all lanes or none; the interpreter of triton 3.9 rejects a scalar mask
        x, b = _load_tile(x_ptr, b_ptr, first * BLOCK, lane, some)
    for tile in range(first, full, stride):
        base = tile * BLOCK
        if AHEAD:
            x_next, b_next = _load_tile(x_ptr, b_ptr, tl.minimum(tile + stride, full - 1) * BLOCK, lane, None)
        else:
            x, b = _load_tile(x_ptr, b_ptr, base, lane, None)
        z, v = _evaluate_tile(
            x, b, x_ptr, g_ptr, b_ptr, h_ptr, t_ptr, m_ptr, base, lane, None, shift, y, w, CRITERION, GRAD, ACC
        )
        values += in_thread_sum(v, V)
        if STATISTICS:
            logits += in_thread_sum(z, V)
            below += in_thread_sum(negative(z), V)
        if AHEAD:
            x, b = x_next, b_next
    tail = full * BLOCK
    if (tail < n) & (full % stride == first):  # the ragged tail belongs to one program
        inside = lane < n - tail  # not tail + lane < n: that sum can pass 2^31
        x, b = _load_tile(x_ptr, b_ptr, tail, lane, inside)
        z, v = _evaluate_tile(
            x, b, x_ptr, g_ptr, b_ptr, h_ptr, t_ptr, m_ptr, tail, lane, inside, shift, y, w, CRITERION, GRAD, ACC
        )
        values += in_thread_sum(tl.where(inside, v, 0.0), V)
        if STATISTICS:
            z = tl.where(inside, z, 0.0)
            logits += in_thread_sum(z, V)
            below += in_thread_sum(negative(z), V)
    return sum_three(values, logits, below)


@triton.jit
def write_term(terms, k, is_real, value, logit, below, n, weight):
    """Write one row of statistics; return the term's weighted loss. For an empty side 0 / 0 = NaN, as from `mean`."""
    n = n.to(tl.float64)
    mean = logit / n
    share = tl.where(is_real, n - below, below) / n
    loss = weight * (value / n)
    if terms is not None:
        tl.store(terms + 3 * k, loss.to(terms.dtype.element_ty))
        tl.store(terms + 3 * k + 1, mean.to(terms.dtype.element_ty))
        tl.store(terms + 3 * k + 2, tl.where(mean == mean, share, mean).to(terms.dtype.element_ty))
    return loss
