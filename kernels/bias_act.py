"""StyleGAN's bias and activation, y = clamp(gain act(x + b)), and its first and second derivatives: a launch each.

    value       y = clamp(gain act(v), -c, c),  v = x + b[channel]
    gradient    dx = g gain act'(v) [|gain act(v)| < c],          db[j] = sum of dx over channel j
    second      of <h, dx> + <k, db>, with u = h + k[channel]:
                at g: u gain act'(v) [...],    at x: u g gain act''(v) [...],    at b: the sum of that over a channel

A dense tensor is [outer, channels, inner] in memory, whatever the order of its dimensions: NCHW, channels_last, a
matrix. A program walks over tiles that have one channel (inner > 1), or a channel a column (inner = 1): no lane divides
to find its bias. For sums over channels each program stores float64 partial sums; the last one to finish adds them in a
fixed order.

Beside g, the gradient reads x, or y if y suffices (`Settings.saved` in `fastgan.formulas.bias_act`): the sign of y
tells the slope of relu and lrelu, and |y| = c tells that the clamp is active.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activations import activation, times_curvature, times_slope
from .launch import Plan, launch
from .layout import dense, like, packed
from .numerics import widen
from .reduction import processors, split_floats
from .workspace import workspace


@triton.jit
def _tile(
    x,
    g,
    d,
    out,
    curved,
    offset,
    inside,  # the mask of a tile that crosses an edge; or None
    bias,
    more,
    alpha,
    gain,
    limit,
    ACT: tl.constexpr,
    ORDER: tl.constexpr,
    FROM_Y: tl.constexpr,
    CLAMP: tl.constexpr,
    ACC: tl.constexpr,
):
    """Read and write one tile; return what is summed over channels."""
    other: tl.constexpr = None if inside is None else 0.0
    if g is not None:
        u = widen(tl.load(g + offset, mask=inside, other=other), ACC)
        if more is not None:
            u += more
    if x is not None:
        v = widen(tl.load(x + offset, mask=inside, other=other), ACC)
        if bias is not None:
            v += bias
    else:
        v = u  # linear: not used
    if ORDER == 0:
        found = activation(v, alpha, ACT) * gain
        if CLAMP:
            found = tl.where(found > limit, limit, tl.where(found < -limit, -limit, found))  # NaN is kept
        tl.store(out + offset, found.to(out.dtype.element_ty), mask=inside)
    else:
        if CLAMP:
            u = tl.where(tl.abs(v if FROM_Y else activation(v, alpha, ACT) * gain) < limit, u, 0.0)
        found = times_slope(u, v, alpha, ACT) * gain
        if out is not None:
            tl.store(out + offset, found.to(out.dtype.element_ty), mask=inside)
        if ORDER == 2:
            u *= widen(tl.load(d + offset, mask=inside, other=other), ACC)
            found = times_curvature(u, v, ACT) * gain
            if curved is not None:
                tl.store(curved + offset, found.to(curved.dtype.element_ty), mask=inside)
        if inside is not None:
            found = tl.where(inside, found, 0.0)
    return found


@triton.jit(do_not_specialize=["outer", "channels", "units", "across", "tiles", "splits", "programs"])
def bias_act_kernel(
    x,  # [outer, channels, inner] dense: x, or y if FROM_Y; or None if the slope depends on neither
    b,  # [channels] of its dtype, added to x; or None
    g,  # like x: the incoming gradient; or None for the value
    k,  # [channels], added to g; or None
    d,  # like x: the incoming gradient of the gradient that is differentiated; or None
    out,  # like x: y, or the gradient at x, or at d; or None
    curved,  # like x: the gradient at x of the gradient; or None
    sums,  # [channels]: of `curved` if there is a d, else of `out`; or None
    partials,  # [splits, channels] float64 scratch; or None if splits is 1
    counter,  # int32, zero before and after; or None likewise
    outer,
    channels,
    units,  # inner / UNIT; with COLUMNS channels / UNIT
    across,  # tiles side by side: inner / BI, rounded up; with COLUMNS 1
    tiles,  # of all programs that share the same channels
    splits,  # how many programs share the same channels
    programs,
    numbers,  # alpha, gain, clamp, and their rounding errors in float32
    numbers_lo,
    DTYPE: tl.constexpr,  # of all but the scratch
    ACT: tl.constexpr,
    ORDER: tl.constexpr,
    FROM_Y: tl.constexpr,
    CLAMP: tl.constexpr,
    COLUMNS: tl.constexpr,  # each column of a tile is a channel
    FLAT: tl.constexpr,  # one row of one channel
    UNIT: tl.constexpr,  # divides the width of a row: how wide an access may be
    LONG: tl.constexpr,  # offsets need 64 bits
    SPLIT: tl.constexpr,
    BR: tl.constexpr,
    BI: tl.constexpr,
):
    ACC: tl.constexpr = tl.float64 if tl.float64 == DTYPE else tl.float32
    alpha = tl.zeros((), ACC) + numbers[0] + numbers_lo[0]
    gain = tl.zeros((), ACC) + numbers[1] + numbers_lo[1]
    limit = tl.zeros((), ACC) + numbers[2] + numbers_lo[2]
    pid = tl.program_id(0)
    block = pid // splits  # a channel, or a block of them
    split = pid % splits
    first = block
    width = units * UNIT
    step = width if COLUMNS else channels * width
    if LONG:
        first = first.to(tl.int64)
        width = width.to(tl.int64)
        step = (channels.to(tl.int64) * units) * UNIT if not COLUMNS else width
    rows = tl.arange(0, BR)[:, None]
    lanes = tl.arange(0, BI)[None, :]
    bias = None
    more = None
    if COLUMNS:
        first *= BI
        real = first + lanes < width
        begin = first
        if b is not None:
            bias = widen(tl.load(b + first + lanes, mask=real, other=0.0), ACC)
        if k is not None:
            more = widen(tl.load(k + first + lanes, mask=real, other=0.0), ACC)
    else:
        begin = first * units * UNIT
        if b is not None:
            bias = widen(tl.load(b + first), ACC)
        if k is not None:
            more = widen(tl.load(k + first), ACC)
    if sums is not None:
        total = tl.zeros([BR, BI], ACC)
    for tile in range(split, tiles, splits):
        row = tile // across
        column = tile % across
        if LONG:
            row = row.to(tl.int64)
            column = column.to(tl.int64)
        row *= BR
        column = column * BI + (first if COLUMNS else 0)
        base = column if FLAT else begin + row * step + (0 if COLUMNS else column)
        offset = base + (rows * step + lanes)
        if (row + BR <= outer) & (column + BI <= width):  # no mask: 128-bit accesses whatever the sizes
            found = _tile(
                x, g, d, out, curved, offset, None, bias, more, alpha, gain, limit, ACT, ORDER, FROM_Y, CLAMP, ACC
            )
            if sums is not None:
                total += found
        else:
            inside = (rows + row < outer) & (lanes + column < width)
            found = _tile(
                x, g, d, out, curved, offset, inside, bias, more, alpha, gain, limit, ACT, ORDER, FROM_Y, CLAMP, ACC
            )
            if sums is not None:
                total += found
    if sums is not None:
        if COLUMNS:
            of_channel = tl.sum(total.to(tl.float64), axis=0)
            j = first + tl.arange(0, BI)
            own = j < width
        else:
            of_channel = tl.sum(tl.sum(total.to(tl.float64), axis=1), axis=0)
            j = first
            own = None
        if SPLIT:
            tl.store(partials + split * channels + j, of_channel, mask=own)
            tl.debug_barrier()  # Triton 3.6 inserts none between a store and the atomic
            ticket = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
            if ticket == programs - 1:  # the last program: every partial sum is visible
                for channel in range(0, channels, 64):
                    i = channel + tl.arange(0, 64)[None, :]
                    whole = tl.zeros([64], tl.float64)
                    for part in range(0, splits, 16):
                        s = part + tl.arange(0, 16)[:, None]
                        there = (s < splits) & (i < channels)
                        parts = tl.load(partials + s * channels + i, mask=there, other=0.0, cache_modifier=".cg")
                        whole += tl.sum(parts, axis=0)
                    i = channel + tl.arange(0, 64)
                    tl.store(sums + i, whole.to(ACC).to(sums.dtype.element_ty), mask=i < channels)
                tl.atomic_xchg(counter, 0, sem="relaxed")
        else:
            tl.store(sums + j, of_channel.to(ACC).to(sums.dtype.element_ty), mask=own)


_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def blocks(outer: int, channels: int, inner: int, dtype: torch.dtype, order: int) -> tuple[int, int]:
    """(BR, BI): a thread has 32 bytes of each tensor, two 128-bit accesses. For a second derivative it has one
    access of each of the five tensors; two would not fit the registers on every target."""
    most = (2048 if order == 2 else 4096) // dtype.itemsize
    columns = inner == 1 and channels > 1
    wide = min(triton.next_power_of_2(channels if columns else inner), 128 if columns else most)
    return min(triton.next_power_of_2(outer), most // wide), wide


@functools.lru_cache(maxsize=1024)
def plan(
    sizes: tuple[int, int, int], dtype: torch.dtype, device: torch.device, act: str, order: int, numbers: tuple,
    from_y: bool, asked: tuple[bool, ...],
) -> Plan:  # fmt: skip
    """sizes: outer, channels, inner. numbers: alpha, gain, and clamp, or inf. asked: whether there is
    each of the tensors; the last one tells whether channels are summed."""
    outer, channels, inner = sizes
    columns = inner == 1 and channels > 1
    rows, wide = blocks(*sizes, dtype, order)
    width = channels if columns else inner
    across = 1 if columns else -(-inner // wide)
    together = -(-channels // wide) if columns else channels  # channels, or blocks of them
    tiles = -(-outer // rows) * across
    most = 8 * processors(device) if asked[-1] else 2**30  # programs: few for a sum; else each walks one tile
    splits = max(1, min(tiles, -(-most // together)))
    unit = math.gcd(width, 16)
    *rest, clamp = numbers
    if from_y or order == 0:
        clamp = torch.tensor(clamp, dtype=dtype, device="cpu").item()  # rounded as in y
    clamped = clamp != math.inf
    scalars = split_floats((*rest, clamp if clamped else 0.0), dtype == torch.float64)
    integers = (outer, channels, width // unit, across, tiles, splits, together * splits)
    constants = dict(
        DTYPE=_DTYPES[dtype], ACT=act, ORDER=order, FROM_Y=from_y, CLAMP=clamped, COLUMNS=columns,
        FLAT=outer == channels == 1, UNIT=unit,
        LONG=outer * channels * inner + rows * wide >= 2**31, SPLIT=asked[-1] and splits > 1, BR=rows, BI=wide,
    )  # fmt: skip
    key = (*constants.values(), *asked, *[n >= 2**31 for n in integers])
    return Plan(bias_act_kernel, together * splits, device, (*integers, *scalars), constants, dict(num_warps=4), key)


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    """clamp(gain act(x + b), -clamp, clamp), of the dtype and the layout of x.

    x: of any rank and dtype float16, bfloat16, float32 or float64. b: (x.shape[dim],) of its dtype, or None. dim: 0 or
    more. clamp: inf for none. Checked by the caller."""
    x = dense(x)
    y = torch.empty_like(x)
    _launch(x, b, None, None, None, y, None, None, dim, act, 0, (alpha, gain, clamp), False)
    return y


def bias_act_gradient(
    g: Tensor, ref: Tensor | None, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float,
    from_y: bool, of_x: bool, of_b: bool, k: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of `bias_act` at x and b, for a gradient g at its result. k, (channels,), is added to g.

    ref: x; y if `from_y`, and then b is None; or None for linear without a clamp."""
    x = dense(g if ref is None else ref)
    g = like(x, g)
    out = torch.empty_like(x) if of_x else None
    sums = x.new_empty(x.shape[dim]) if of_b else None
    x = None if ref is None else x
    _launch(x, b, g, k, None, out, None, sums, dim, act, 1, (alpha, gain, clamp), from_y)
    return out, sums


def bias_act_second(
    h: Tensor, k: Tensor | None, g: Tensor, x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float,
    clamp: float, of_g: bool, of_x: bool, of_b: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of <h, dx> + <k, db> at g, x and b, where (dx, db) is `bias_act_gradient(g, x, b, ...)`, for an
    activation with a curvature."""
    x = dense(x)
    h, g = like(x, h), like(x, g)
    of_gradient = torch.empty_like(x) if of_g else None
    curved = torch.empty_like(x) if of_x else None
    sums = x.new_empty(x.shape[dim]) if of_b else None
    _launch(x, b, h, k, g, of_gradient, curved, sums, dim, act, 2, (alpha, gain, clamp), False)
    return of_gradient, curved, sums


def _launch(x, b, g, k, d, out, curved, sums, dim, act, order, numbers, from_y) -> None:
    whole = g if x is None else x
    if not whole.numel():
        if sums is not None:
            sums.zero_()
        return
    b, k = (None if vector is None else packed(vector) for vector in (b, k))
    outer, channels, inner = 1, 1, whole.numel()
    if not (b is None and k is None and sums is None) and whole.shape[dim] > 1:
        channels, inner = whole.shape[dim], whole.stride(dim)
        outer = whole.numel() // (channels * inner)
    tensors = (x, b, g, k, d, out, curved, sums)
    asked = tuple([t is not None for t in tensors])
    planned = plan((outer, channels, inner), whole.dtype, whole.device, act, order, numbers, from_y, asked)
    partials = counter = None
    if planned.constants["SPLIT"]:
        partials = torch.empty(planned.numbers[5] * channels, dtype=torch.float64, device=whole.device)
        counter = workspace(whole.device)[1]
    given = [t for t in (x, b, g, k, d) if t is not None]
    launch(planned, (*tensors, partials, counter, *planned.numbers), given)
