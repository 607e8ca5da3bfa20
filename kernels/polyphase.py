"""Up- and downsampling of the columns that a lane owns, while it walks down the rows: see `filtered_lrelu`.

The columns are a tuple of tensors, each with one number a lane. A filter is a tuple of taps, in the order of a
correlation. The compiler knows which tap meets which column or row: taps that meet no pixel cost nothing. Sums use
`fma`, one operation instead of two: the time of Triton's compiler is quadratic in their number.
"""

# ruff: noqa: RUF005, SIM102 (Triton before 3.7 knows no starred tuples, nor `and` of a constant and a pointer)

import triton
import triton.language as tl

from .numerics import widen


@triton.jit
def loaded_taps(f, TAPS: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr):
    """Load the filter as a tuple of taps, in the order of a correlation."""
    found = ()
    for k in tl.static_range(TAPS):
        found = found + (tl.load(f + (k if FLIP else TAPS - 1 - k)).to(ACC),)
    return found


@triton.jit
def blank(COUNT: tl.constexpr, BP: tl.constexpr, BX: tl.constexpr, ACC: tl.constexpr):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (tl.zeros([BP, BX], ACC),)
    return found


@triton.jit
def with_rows(
    window,
    at,  # [BP, BX] pointers: each lane's first column in row 0
    real,  # [BP, 1]: whether the plane exists
    row,  # the first of NEW rows
    column,  # [1, BX]: the first of COUNT columns
    height,
    width,
    row_step,
    step,
    bias,  # [BP, 1] or None
    BIASED: tl.constexpr,
    NEW: tl.constexpr,
    COUNT: tl.constexpr,
    ACC: tl.constexpr,
):
    """`window` with NEW more rows, COUNT columns each, plus the bias; 0 outside of the image."""
    for i in tl.static_range(NEW):
        there = real & (row + i >= 0) & (row + i < height)
        to = at + (tl.zeros((), tl.int64) + row + i) * row_step
        for c in tl.static_range(COUNT):
            inside = there & (column + c >= 0) & (column + c < width)
            value = widen(tl.load(to + c * step, mask=inside, other=0.0), ACC)
            if BIASED:
                if bias is not None:
                    value = tl.where(inside, value + bias, 0.0)
            window = window + (value,)
    return window


@triton.jit
def with_next(columns, ahead, COUNT: tl.constexpr):
    """Each lane's columns, followed by those of the next lanes, COUNT in all."""
    OWN: tl.constexpr = len(columns)
    found = columns
    for c in tl.static_range(OWN, COUNT):
        found = found + (tl.gather(columns[c % OWN], ahead[c // OWN], 1),)
    return found


@triton.jit
def upsampled(
    window,  # rows of the image, OWN columns each
    taps,
    ahead,
    TAU: tl.constexpr,  # which of the rows that begin in this window
    U: tl.constexpr,
    PHASE_X: tl.constexpr,  # the tap of the first column that meets the first sample
    PHASE_Y: tl.constexpr,
    W: tl.constexpr,
):
    """A row of the upsampled image: W columns a lane."""
    OWN: tl.constexpr = W // U
    TAPS: tl.constexpr = len(taps)
    columns = ()
    for c in tl.static_range(OWN):
        total = tl.zeros(window[0].shape, window[0].dtype)
        for i in tl.static_range(len(window) // OWN):
            if PHASE_Y + U * i - TAU >= 0 and PHASE_Y + U * i - TAU < TAPS:
                total = tl.fma(window[i * OWN + c], taps[PHASE_Y + U * i - TAU], total)
        columns = columns + (total,)
    REACH: tl.constexpr = (W - 1 - PHASE_X + TAPS - 1) // U + 1
    columns = with_next(columns, ahead, REACH)
    found = ()
    for t in tl.static_range(W):
        total = tl.zeros(window[0].shape, window[0].dtype)
        for i in tl.static_range(REACH):
            if PHASE_X + U * i - t >= 0 and PHASE_X + U * i - t < TAPS:
                total = tl.fma(columns[i], taps[PHASE_X + U * i - t], total)
        found = found + (total,)
    return found


@triton.jit
def with_row_added(sums, a, taps, TAU: tl.constexpr, D: tl.constexpr, W: tl.constexpr):
    """`sums`, the incomplete rows of the result, with one more row added: a, W columns and those ahead."""
    TAPS: tl.constexpr = len(taps)
    OWN: tl.constexpr = W // D
    row = ()
    for c in tl.static_range(OWN):
        total = tl.zeros(a[0].shape, a[0].dtype)
        for k in tl.static_range(TAPS):
            total = tl.fma(a[c * D + k], taps[k], total)
        row = row + (total,)
    FIRST: tl.constexpr = -((TAPS - 1) // D)
    found = ()
    for i in tl.static_range(len(sums)):
        if TAU - D * (i // OWN + FIRST) >= 0 and TAU - D * (i // OWN + FIRST) < TAPS:
            found = found + (tl.fma(row[i % OWN], taps[TAU - D * (i // OWN + FIRST)], sums[i]),)
        else:
            found = found + (sums[i],)
    return found


@triton.jit
def without_first(values, COUNT: tl.constexpr):
    found = ()
    for i in tl.static_range(COUNT, len(values)):
        found = found + (values[i],)
    return found
