"""A leaky ReLU between two filters in one launch: upsample, activate, downsample; only the result is stored.

    y = R2 a(R1 (x + b)),     R1, R2: `upfirdn2d`, linear;  a: leaky ReLU, gain and clamp
    z = R2 (s * R1 v),        s: the slopes of a at Rg (x + b)

The derivative of y in x is R1^T (s * R2^T g), which has the form of z. z is linear in v, and its transpose has that
form, too. So z serves for every derivative, and computes the slopes again from x. Along one axis, with filters in the
order of a correlation, an element between the filters and a result are

    u[t] = sum_k g1[k] v[i],  k = U i - t + pad1 in [0, taps1)       y[o] = sum_k g2[k] a[D o - pad2 + k]

A lane owns W columns of u, a multiple of P = lcm(U, D), and the W / U columns of v and W / D columns of y that begin
there. It walks down the rows, P rows of u at a time, and keeps a window of rows of v and the sums of incomplete rows of
y. So filters along y need no other lanes. Filters along x read the columns of the next lanes, by `gather` within a
warp. The last lanes of a group have no next ones: the next group computes their results. The compiler knows which tap
meets what, so that no zero is multiplied.
"""

# ruff: noqa: RUF005 (Triton before 3.7 knows no starred tuples, nor `and` of a constant and a pointer)

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Plan, launch
from .layout import packed
from .polyphase import blank, loaded_taps, upsampled, with_next, with_row_added, with_rows, without_first
from .reduction import processors, split_floats
from .upfirdn2d import activated, channels_last, slope_codes, times_slopes, upfirdn2d

LANES = 128  # of a program
MOST_KEPT = 160  # 32-bit numbers that a lane keeps: many more would spill registers
MOST_COLUMNS, MOST_WORK = 12, 1500  # columns a lane, and instructions a step: more compile slowly


@triton.jit
def _activated(u, positive, negative, clamp, CLAMP: tl.constexpr):
    found = ()
    for c in tl.static_range(len(u)):
        a = u[c] * tl.where(u[c] > 0, positive, negative)
        if CLAMP:
            a = tl.maximum(a, -clamp, propagate_nan=tl.PropagateNan.ALL)
            a = tl.minimum(a, clamp, propagate_nan=tl.PropagateNan.ALL)
        found = found + (a,)
    return found


@triton.jit
def _times_slopes(v, u, of_v, positive, negative, clamp, CLAMP: tl.constexpr):
    """v times of_v times the slopes of `_activated` at u."""
    found = ()
    for c in tl.static_range(len(v)):
        s = tl.where(u[c] > 0, positive, negative)
        a = v[c] * (s * of_v)
        if CLAMP:
            a = tl.where(tl.abs(u[c] * s) <= clamp, a, 0.0)  # 0 for NaN, as in PyTorch
        found = found + (a,)
    return found


_SIZES = ("planes", "channels", "groups", "strips", "rows", "steps", "height", "width", "out_height", "out_width")
_SIZES += ("left", "above", "gate_height", "gate_width", "gate_left", "gate_above")
_SIZES += tuple(f"{name}_{of}" for name in ("v", "x", "y") for of in ("image", "channel", "row", "column"))


@triton.jit(do_not_specialize=_SIZES)
def filtered_lrelu_kernel(
    v,  # images, any strides: the source
    x,  # images, any strides: give the slopes; or None: the leaky ReLU of v itself is computed
    b,  # [channels], dense, of any dtype: added to x, or to v if there is no x; or None
    f1,  # float32, dense: taps of the source's filter, for both axes
    f2,  # those of the last filter
    fg,  # those of x's filter; not used if there is no x
    y,  # the result, any strides, of the dtype of v
    planes,  # N * C
    channels,  # plane p begins at (p // channels) * image + (p % channels) * channel
    groups,  # of columns
    strips,  # of rows
    rows,  # of y a strip
    steps,  # a strip, each of PERIOD rows between the filters
    height,  # of v
    width,
    out_height,  # of y
    out_width,
    left,  # the first column and row of v that y reads; negative in the padding
    above,
    gate_height,  # of x, likewise
    gate_width,
    gate_left,
    gate_above,
    v_image,  # strides, in elements
    v_channel,
    v_row,
    v_column,
    x_image,
    x_channel,
    x_row,
    x_column,
    y_image,
    y_channel,
    y_row,
    y_column,
    numbers,  # floats: slopes of positive and other u, times x's gain; clamp; v's gain divided by x's; the last gain
    numbers_lo,  # their rounding errors in float32
    U: tl.constexpr,  # v and x are upsampled by U and UG, and the result downsampled by D
    UG: tl.constexpr,
    D: tl.constexpr,
    TAPS1: tl.constexpr,
    TAPS2: tl.constexpr,
    TAPSG: tl.constexpr,
    FLIP1: tl.constexpr,  # a correlation
    FLIP2: tl.constexpr,
    FLIPG: tl.constexpr,
    PHASE_X: tl.constexpr,  # see `upsampled`
    PHASE_Y: tl.constexpr,
    PHASE_GX: tl.constexpr,
    PHASE_GY: tl.constexpr,
    CLAMP: tl.constexpr,
    DENSE: tl.constexpr,  # columns lie next to each other
    PERIOD: tl.constexpr,  # rows between the filters after which taps repeat
    W: tl.constexpr,  # columns between the filters a lane, a multiple of PERIOD
    LOST: tl.constexpr,  # lanes at the end of a group that have no result
    BP: tl.constexpr,  # planes a program
    BX: tl.constexpr,  # lanes of a group
):
    ACC: tl.constexpr = tl.float64 if v.dtype.element_ty == tl.float64 else tl.float32
    OWN: tl.constexpr = W // U
    OWNG: tl.constexpr = W // UG
    OUT: tl.constexpr = W // D
    pid = tl.program_id(0)
    group = pid % groups
    strip = (pid // groups) % strips
    p = (pid // groups // strips) * BP + tl.arange(0, BP)[:, None]
    lane = tl.arange(0, BX)[None, :]
    real = p < planes
    image = (p // channels).to(tl.int64)
    channel = (p % channels).to(tl.int64)
    zero = tl.zeros((), tl.int64)
    step_v = 1 if DENSE else zero + v_column
    step_x = 1 if DENSE else zero + x_column
    step_y = 1 if DENSE else zero + y_column
    ahead = ()
    for s in tl.static_range(LOST + 1):
        ahead = ahead + (tl.broadcast_to(tl.minimum(lane + s, BX - 1), [BP, BX]),)

    taps1 = loaded_taps(f1, TAPS1, FLIP1, ACC)
    taps2 = loaded_taps(f2, TAPS2, FLIP2, ACC)
    positive = tl.zeros((), ACC) + numbers[0] + numbers_lo[0]
    negative = tl.zeros((), ACC) + numbers[1] + numbers_lo[1]
    clamp = tl.zeros((), ACC) + numbers[2] + numbers_lo[2]
    of_v = tl.zeros((), ACC) + numbers[3] + numbers_lo[3]
    gain = tl.zeros((), ACC) + numbers[4] + numbers_lo[4]
    bias = None
    if b is not None:
        bias = tl.load(b + channel, mask=real, other=0.0).to(ACC)

    block = group * (BX - LOST) + lane
    column = block * OWN + left
    NEW: tl.constexpr = PERIOD // U  # rows of v that a step reads
    KEPT: tl.constexpr = (PERIOD - 1 - PHASE_Y + TAPS1 - 1) // U + 1 - NEW  # rows of v kept from the steps before
    BEFORE: tl.constexpr = (KEPT + NEW - 1) // NEW
    row = strip * rows * D // U + above + KEPT - BEFORE * NEW
    at = v + image * v_image + channel * v_channel + column * step_v
    window = blank(KEPT * OWN, BP, BX, ACC)
    for _ in range(BEFORE):
        window = with_rows(window, at, real, row, column, height, width, v_row, step_v, bias, x is None, NEW, OWN, ACC)
        window = without_first(window, NEW * OWN)
        row += NEW
    gated = ()
    if x is not None:
        tapsg = loaded_taps(fg, TAPSG, FLIPG, ACC)
        columng = block * OWNG + gate_left
        NEWG: tl.constexpr = PERIOD // UG
        KEPTG: tl.constexpr = (PERIOD - 1 - PHASE_GY + TAPSG - 1) // UG + 1 - NEWG
        BEFOREG: tl.constexpr = (KEPTG + NEWG - 1) // NEWG
        rowg = strip * rows * D // UG + gate_above + KEPTG - BEFOREG * NEWG
        atg = x + image * x_image + channel * x_channel + columng * step_x
        gated = blank(KEPTG * OWNG, BP, BX, ACC)
        for _ in range(BEFOREG):
            gated = with_rows(
                gated, atg, real, rowg, columng, gate_height, gate_width, x_row, step_x, bias, True, NEWG, OWNG, ACC
            )
            gated = without_first(gated, NEWG * OWNG)
            rowg += NEWG

    DONE: tl.constexpr = PERIOD // D  # rows of y that a step completes
    OPEN: tl.constexpr = (TAPS2 - 1) // D
    sums = blank(OPEN * OUT, BP, BX, ACC)
    first = strip * rows
    end = tl.minimum(first + rows, out_height)
    o = first - OPEN
    out = y + image * y_image + channel * y_channel + (block * OUT) * step_y
    ours = real & (lane < BX - LOST)
    for _ in range(steps):
        window = with_rows(window, at, real, row, column, height, width, v_row, step_v, bias, x is None, NEW, OWN, ACC)
        if x is not None:
            gated = with_rows(
                gated, atg, real, rowg, columng, gate_height, gate_width, x_row, step_x, bias, True, NEWG, OWNG, ACC
            )
        sums = sums + blank(DONE * OUT, BP, BX, ACC)
        for tau in tl.static_range(PERIOD):
            a = upsampled(window, taps1, ahead, tau, U, PHASE_X, PHASE_Y, W)
            if x is None:
                a = _activated(a, positive, negative, clamp, CLAMP)
            else:
                u = upsampled(gated, tapsg, ahead, tau, UG, PHASE_GX, PHASE_GY, W)
                a = _times_slopes(a, u, of_v, positive, negative, clamp, CLAMP)
            a = with_next(a, ahead, W - D + TAPS2)
            sums = with_row_added(sums, a, taps2, tau, D, W)
        for i in tl.static_range(DONE):
            writes = ours & (o + i >= first) & (o + i < end)
            for c in tl.static_range(OUT):
                to = out + (zero + o + i) * y_row + c * step_y
                found = (sums[i * OUT + c] * gain).to(y.dtype.element_ty)
                tl.store(to, found, mask=writes & (block * OUT + c < out_width))
        window = without_first(window, NEW * OWN)
        sums = without_first(sums, DONE * OUT)
        row += NEW
        if x is not None:
            gated = without_first(gated, NEWG * OWNG)
            rowg += NEWG
        o += DONE


class _Resampled(NamedTuple):
    """How an image is upsampled, with as many taps along both axes, and where a result begins to read it."""

    up: int
    taps: int
    start: tuple[int, int]  # the first column and row that the first result reads
    phase: tuple[int, int]  # the tap that each of them meets

    def reach(self, columns: int, axis: int) -> int:
        """How many of its columns (axis 0) or rows (axis 1) are read by `columns` of the upsampled image."""
        return (columns - 1 - self.phase[axis] + self.taps - 1) // self.up + 1


def _resampled(settings: tuple, taps: int, padding: tuple[int, ...]) -> _Resampled:
    """padding: of the last filter."""
    (up, _), pads = settings[0], (settings[2][0] + padding[0], settings[2][2] + padding[2])
    return _Resampled(up, taps, (-(pads[0] // up), -(pads[1] // up)), (pads[0] % up, pads[1] % up))


def _one_launch(settings: Sequence[tuple], taps: Sequence[tuple[int, ...]]) -> bool:
    """Whether one launch can serve: separable filters, the same along both axes."""
    (up, first_down, *_), (gate_up, gate_down, *_), (last_up, down, *_) = settings
    same = up[0] == up[1] and down[0] == down[1] and gate_up[0] == gate_up[1]
    return same and first_down == last_up == gate_down == (1, 1) and all(len(of) == 1 for of in taps)


def _lost(w: int, down: int, taps: int, images: Sequence[_Resampled]) -> int:
    """How many lanes at the end of a group have no result, with w columns a lane."""
    columns = max(w, w - down + taps)  # a lane computes all its columns, even if no tap of the last filter meets them
    return max((columns - 1) // w, *[(of.reach(columns, 0) - 1) // (w // of.up) for of in images])


def _costs(w: int, period: int, down: int, taps: int, images: Sequence[_Resampled]) -> tuple[float, int]:
    """(instructions a lane and step, 32-bit numbers that a lane keeps)."""
    own = w // down
    work = own * taps * (1 + 1 / down) + 2 * (taps - down) + 6 * w
    kept = own * ((taps - 1) // down + period // down) + taps + w + taps - down
    for of in images:
        work += w * of.taps / of.up * (1 + 1 / of.up) + 2 * (of.reach(w, 0) - w // of.up)
        kept += of.reach(period, 1) * (w // of.up) + of.taps
    return work * period + 20, kept


@functools.lru_cache(maxsize=1024)
def plan(
    sizes: tuple[tuple[int, ...], ...], strides: tuple[tuple[int, ...], ...], types: tuple, device: torch.device,
    taps: tuple[tuple[int, ...], ...], settings: tuple[tuple, ...], activation: tuple[float, float, float | None],
) -> Plan | None:  # fmt: skip
    """Cached by everything but the tensors; None if one launch cannot serve. sizes and strides: of the source, the
    gate and the result; types: dtypes of the source, the gate, or None, and b, or None; taps and settings: of the
    filters of the source, the gate and the last. Without a gate its entries are those of the source."""
    if not _one_launch(settings, taps):
        return None
    (n, c, height, width), (_, _, gate_height, gate_width), (_, _, out_height, out_width) = sizes
    dtype, gate_dtype, _ = types
    (taps1,), (taps_g,), (taps2,) = taps
    (first, gate, (_, (down, _), padding, flip2, gain2)), (gain, slope, clamp) = settings, activation
    source, gated = _resampled(first, taps1, padding), _resampled(gate, taps_g, padding)
    images = (source,) if gate_dtype is None else (source, gated)
    period, double = math.lcm(down, *[of.up for of in images]), dtype == torch.float64
    best: tuple = ()
    for w in range(period, max(period, MOST_COLUMNS) + 1, period):
        (work, kept), lost = _costs(w, period, down, taps2, images), _lost(w, down, taps2, images)
        if work > MOST_WORK or (2 if double else 1) * kept > MOST_KEPT:
            break
        for bx in (4, 8, 16, 32):
            groups = -(-out_width // ((bx - lost) * (w // down))) if bx > lost else math.inf
            best = min(best or (math.inf,), (groups * bx * work, bx, w, lost, groups))
    if not best or best[0] == math.inf:
        return None
    _, bx, w, lost, groups = best
    planes, done, bp = n * c, period // down, min(LANES // bx, triton.next_power_of_2(n * c))
    blocks, at_once = groups * -(-planes // bp), 4 * processors(device)
    before = -(-((taps2 - 1) // down) // done)  # steps until a row is complete
    rows, steps, strips, _ = min(
        [
            (of * done, of + before, n, -(-blocks * n // at_once) * (of + before))
            for k in range(8)
            if (of := -(-out_height // (done << k))) * done >= 8 or k == 0
            for n in [-(-out_height // (of * done))]
        ],
        key=lambda found: found[3],
    )
    constants = dict(
        **dict(U=source.up, UG=gated.up, D=down, TAPS1=taps1, TAPS2=taps2, TAPSG=taps_g),
        **dict(FLIP1=first[3], FLIP2=flip2, FLIPG=gate[3], PHASE_X=source.phase[0], PHASE_Y=source.phase[1]),
        **dict(PHASE_GX=gated.phase[0], PHASE_GY=gated.phase[1], CLAMP=clamp is not None),
        **dict(DENSE=all(of[3] == 1 for of in strides), PERIOD=period, W=w, LOST=lost, BP=bp, BX=bx),
    )
    whole = (planes, c, groups, strips, rows, steps, height, width, out_height, out_width, *source.start)
    whole += (gate_height, gate_width, *gated.start, *[stride for of in strides for stride in of])
    by_gate = gate[4] * gain, gate[4] * gain * slope
    numbers = (*by_gate, 0.0 if clamp is None else clamp, first[4] / gate[4], gain2)
    warps = max(1, bp * bx // (64 if torch.version.hip else 32))
    key = (*types, *constants.values(), *[v >= 2**31 for v in whole], warps)
    arguments = (*whole, *split_floats(numbers, double))
    return Plan(filtered_lrelu_kernel, blocks * strips, device, arguments, constants, dict(num_warps=warps), key)


def filtered_lrelu(
    x: Tensor, b: Tensor | None, f1: Tensor, f2: Tensor, first: tuple, second: tuple, gain: float, slope: float,
    clamp: float | None,
) -> Tensor:  # fmt: skip
    """y. x: (N, C, H, W), read in place whatever its strides; b: (C,) or None; f1, f2: float32, (taps,) for both axes
    or (rows, columns). first, second: (up, down, padding, flip, gain) of R1 and R2, as `upfirdn2d` takes them, with
    gains above 0. One launch, or two if a filter is not separable or has too many taps."""
    found = _launched(x, None, b, f1, f2, f1, first, second, first, (gain, slope, clamp))
    if found is None:
        x = x if b is None else x + b[:, None, None]
        found = upfirdn2d(activated(x, f1, first, gain, slope, clamp), f2, *second)
    return found


def filtered_slopes(
    v: Tensor, x: Tensor, b: Tensor | None, f1: Tensor, f2: Tensor, fg: Tensor, first: tuple, second: tuple,
    gate: tuple, gain: float, slope: float, clamp: float | None,
) -> Tensor:  # fmt: skip
    """z, with the slopes of a at Rg (x + b); fg and gate define Rg. One launch, or three. R1 v must be 0 where Rg
    has no element, as it is for a transpose."""
    found = _launched(v, x, b, f1, f2, fg, first, second, gate, (gain, slope, clamp))
    if found is None:
        x = x if b is None else x + b[:, None, None]
        codes = slope_codes(x, fg, gate, gain, slope, clamp)
        found = upfirdn2d(times_slopes(v, f1, first, codes, gain, slope), f2, *second)
    return found


def _launched(v, x, b, f1, f2, fg, first, second, gate, activation) -> Tensor | None:
    """The result of one launch; None if one launch cannot serve."""
    if f1.dim() > 1 or f2.dim() > 1 or fg.dim() > 1:
        return None
    first, second, gate = (tuple([tuple(s) for s in of[:3]]) + tuple(of[3:]) for of in (first, second, gate))
    v, x = (t if t is None or not t.is_neg() else t.resolve_neg() for t in (v, x))
    f1, f2, fg = packed(f1), packed(f2), packed(fg)
    size = _size(_size(v.shape[2:], f1, first), f2, second)
    layout = torch.channels_last if channels_last(v) else torch.contiguous_format
    y = torch.empty((*v.shape[:2], *size), dtype=v.dtype, device=v.device, memory_format=layout)
    if not y.numel():
        return y
    gating, given = v if x is None else x, [t for t in (v, x, b, f1, f2, fg) if t is not None]
    planned = plan(
        (tuple(v.shape), tuple(gating.shape), tuple(y.shape)), (v.stride(), gating.stride(), y.stride()),
        (v.dtype, None if x is None else x.dtype, None if b is None else b.dtype), v.device,
        (tuple(f1.shape), tuple(fg.shape), tuple(f2.shape)), (first, gate, second), activation,
    )  # fmt: skip
    if planned is None:
        return None
    b = b if b is None else packed(b)
    launch(planned, (v, x, b, f1, f2, fg, y, *planned.numbers), given)
    return y


def _size(size: Sequence[int], f: Tensor, settings: tuple) -> tuple[int, int]:
    """(height, width) of `upfirdn2d` of images of (height, width)."""
    up, down, padding = settings[:3]
    height = (size[0] * up[1] + padding[2] + padding[3] - f.shape[0] + down[1]) // down[1]
    return height, (size[1] * up[0] + padding[0] + padding[1] - f.shape[-1] + down[0]) // down[0]
