"""Upsample, filter and downsample images in one launch: only the result is stored.

Along one axis, with t = down o - pad0 and the filter in the order of a correlation (g = f, or f reversed):

    out[o] = gain sum_k g[k] u[t + k],    u[up i] = x[i], 0 elsewhere

Only the taps k = up i - t meet a sample: ceil(taps / up) of them. A program owns planes x columns of lanes and walks
down the rows of the result, four at a time. An input row of these four is read once and added to each that it meets. So
a blur of 4 x 4 taps reads 7 rows for 4. For the 16 rows of a program it reads 19 different rows; other reads hit the
cache. A separable filter sums a row along x first and adds that sum to the four. One launch serves both axes: two would
write, round and read an image between them.

Input rows are unrolled if each four rows of output begin at the same phase of `up` and the code stays short; else the
kernel loops over them. In channels_last a row of an image is width * channels adjacent elements, and the next column is
`channels` elements away. So one kernel serves both layouts, and any strides.

The gradient in x is this kernel with up and down exchanged, the filter reversed, and other padding.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Plan, launch
from .layout import packed
from .numerics import widen
from .reduction import processors, split_floats

GROUP = 4  # rows of output at a time; the kernel has as many accumulators
MOST_UNROLLED = 320  # elements that a thread reads for one group: many more would spill registers


@triton.jit
def _column_tap(
    f_row, k0, M: tl.constexpr, UP: tl.constexpr, TAPS: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr
):
    """The tap that meets a lane's sample M: a number if it is the same for all lanes, else one a lane."""
    if UP == 1:
        INDEX: tl.constexpr = M if FLIP else TAPS - 1 - M
        w = tl.load(f_row + INDEX)
    else:
        k = k0 + M * UP
        index = k if FLIP else TAPS - 1 - k
        w = tl.load(f_row + index) if (M + 1) * UP <= TAPS else tl.load(f_row + index, mask=k < TAPS, other=0.0)
    return w.to(ACC)


@triton.jit
def _sample(
    at,  # [BP, BX] pointers: each lane's first sample in an input row
    inside,  # [BP, BX]: whether the lane and the row exist
    first,  # [BP, BX]: the column of that sample
    k0,  # [BP, BX]: the tap that it meets
    width,
    step,  # elements between columns
    M: tl.constexpr,
    UP: tl.constexpr,
    TAPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sample M of each lane; 0 outside of the image, and if the lane has no tap for it."""
    column = first + M
    used = (column >= 0) & (column < width)
    if (M + 1) * UP > TAPS:
        used &= k0 + M * UP < TAPS
    return widen(tl.load(at + M * step, mask=inside & used, other=0.0), ACC)


@triton.jit
def _add(
    a,
    v,
    f,
    k0,
    k,  # the filter's row; not used if STATIC
    K: tl.constexpr,  # the same if STATIC
    M: tl.constexpr,
    STATIC: tl.constexpr,
    UPX: tl.constexpr,
    FW: tl.constexpr,
    FH: tl.constexpr,
    FLIP: tl.constexpr,
    SEPARABLE: tl.constexpr,
    ACC: tl.constexpr,
):
    """`a` plus v times the tap in row k; only `a`, whatever v is, if the filter has no such row."""
    if STATIC:
        if K >= 0 and K < FH:
            ROW: tl.constexpr = K if FLIP else FH - 1 - K
            if SEPARABLE:
                a += v * tl.load(f + ROW).to(ACC)
            else:
                a += v * _column_tap(f + ROW * FW, k0, M, UPX, FW, FLIP, ACC)
    else:
        found = tl.minimum(tl.maximum(k, 0), FH - 1)
        row = found if FLIP else FH - 1 - found
        w = tl.load(f + row).to(ACC) if SEPARABLE else _column_tap(f + row * FW, k0, M, UPX, FW, FLIP, ACC)
        a = tl.where(found == k, a + v * w, a)
    return a


@triton.jit
def _input_row(
    a0,
    a1,
    a2,
    a3,
    at,
    inside,
    first,
    k0,
    width,
    step,
    f,
    k,  # the filter's row that meets this input row for the first row of output; unless STATIC
    K: tl.constexpr,  # the same if STATIC
    STATIC: tl.constexpr,
    UPX: tl.constexpr,
    DOWNY: tl.constexpr,
    FW: tl.constexpr,
    FH: tl.constexpr,
    FLIP: tl.constexpr,
    SEPARABLE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Add an input row to the four rows of output."""
    D: tl.constexpr = DOWNY
    SAMPLES: tl.constexpr = (FW + UPX - 1) // UPX
    v = tl.zeros(a0.shape, ACC)
    for m in tl.static_range(SAMPLES):
        x = _sample(at, inside, first, k0, width, step, m, UPX, FW, ACC)
        if SEPARABLE:
            v += x * _column_tap(f, k0, m, UPX, FW, FLIP, ACC)
        else:
            a0 = _add(a0, x, f, k0, k, K, m, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
            a1 = _add(a1, x, f, k0, k - D, K - D, m, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
            a2 = _add(a2, x, f, k0, k - 2 * D, K - 2 * D, m, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
            a3 = _add(a3, x, f, k0, k - 3 * D, K - 3 * D, m, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
    if SEPARABLE:
        a0 = _add(a0, v, f, k0, k, K, 0, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
        a1 = _add(a1, v, f, k0, k - D, K - D, 0, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
        a2 = _add(a2, v, f, k0, k - 2 * D, K - 2 * D, 0, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
        a3 = _add(a3, v, f, k0, k - 3 * D, K - 3 * D, 0, STATIC, UPX, FW, FH, FLIP, SEPARABLE, ACC)
    return a0, a1, a2, a3


@triton.jit
def _store(
    y,
    codes,
    at,  # [BP, BX]: where in y, and in codes
    a,
    inside,
    gain,
    positive,  # what the activation multiplies positive numbers by; negative: all others
    negative,
    clamp,
    MODE: tl.constexpr,
):
    """Write a row of the result. MODE: "plain", the row itself; "activate", its leaky ReLU; "clamp", that one clamped;
    "code" and "code clamped", a code of the slope of these two: 0 clamped, 1 positive, 2 not positive; "slopes", the
    row times the slopes that its codes stand for."""
    a *= gain
    if MODE == "slopes":
        code = tl.load(codes + at, mask=inside, other=0)
        a = tl.where(code == 0, 0.0, a * tl.where(code == 1, positive, negative))
    elif MODE != "plain":
        above = a > 0
        code = tl.where(above, 1, 2)
        a *= tl.where(above, positive, negative)
        if MODE == "code clamped":
            code = tl.where(tl.abs(a) <= clamp, code, 0)  # NaN has no slope there, as in PyTorch
        if MODE == "clamp":
            a = tl.where(a > clamp, clamp, tl.where(a < -clamp, -clamp, a))
    if MODE == "code" or MODE == "code clamped":
        tl.store(codes + at, code.to(tl.int8), mask=inside)
    else:
        tl.store(y + at, a.to(y.dtype.element_ty), mask=inside)


_COUNTS = ("planes", "height", "width", "out_height", "column_blocks", "row_blocks")


@triton.jit(do_not_specialize=_COUNTS)
def upfirdn2d_kernel(
    x,  # images, any strides
    f,  # float32, dense: FH x FW taps, or FW = FH of them if SEPARABLE
    y,  # result, dense: planes x out_height x row, of the dtype of x; or None if codes are written
    codes,  # int8, as y: written or read; or None
    planes,  # N * C; N in channels_last
    height,  # of x
    width,
    out_height,
    column_blocks,  # programs along a row of y
    row_blocks,
    channels,  # plane p of x begins at (p // channels) * x_image + (p % channels) * x_channel
    row,  # elements of a row of y: the width; times the channels in channels_last
    inner,  # 1; the channels in channels_last
    x_image,  # strides of x, in elements
    x_channel,
    x_row,
    x_column,
    gain,  # float, and its rounding error in float32
    gain_lo,
    activation,  # factors of positive and of other numbers, clamp; and their rounding errors in float32
    activation_lo,
    MODE: tl.constexpr,  # see `_store`
    UPX: tl.constexpr,
    UPY: tl.constexpr,
    DOWNX: tl.constexpr,
    DOWNY: tl.constexpr,
    PADX: tl.constexpr,  # padding in front; the size of y tells the padding behind
    PADY: tl.constexpr,
    FW: tl.constexpr,
    FH: tl.constexpr,
    FLIP: tl.constexpr,  # a correlation
    SEPARABLE: tl.constexpr,
    STATIC: tl.constexpr,  # input rows [FIRST, LAST] of a group are unrolled
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    LEFT: tl.constexpr,  # padding in front, in columns and rows of x, rounded up
    ABOVE: tl.constexpr,
    WIDE: tl.constexpr,  # offsets within a row, or planes, pass 2^31
    GROUPS: tl.constexpr,  # groups of four rows of y a program
    BP: tl.constexpr,  # planes a program
    BX: tl.constexpr,  # elements of a row of y
):
    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    pid = tl.program_id(0)
    block = pid // column_blocks
    p = (block // row_blocks).to(INT) * BP + tl.arange(0, BP)
    j = (pid % column_blocks).to(INT) * BX + tl.arange(0, BX)
    inside = (p < planes)[:, None] & (j < row)[None, :]

    # Each lane's first sample, and its tap. Integers are made positive before a division, which rounds as in C.
    t = (j // inner) * DOWNX - PADX
    first = (t + (LEFT * UPX + UPX - 1)) // UPX - LEFT
    k0 = first * UPX - t
    samples, phases = tl.broadcast_to(first[None, :], [BP, BX]), tl.broadcast_to(k0[None, :], [BP, BX])
    step = tl.zeros((), INT) + x_column
    lanes = first * step + (j % inner) * x_channel
    begin = (p // channels).to(tl.int64) * x_image + (p % channels).to(tl.int64) * x_channel
    at = x + begin[:, None] + lanes[None, :]
    out = (p.to(tl.int64) * out_height)[:, None] * row + j[None, :]

    g = tl.zeros((), ACC) + gain[0] + gain_lo[0]
    positive = tl.zeros((), ACC) + activation[0] + activation_lo[0]
    negative = tl.zeros((), ACC) + activation[1] + activation_lo[1]
    clamp = tl.zeros((), ACC) + activation[2] + activation_lo[2]
    zero = tl.zeros((), tl.int64)
    group = (block % row_blocks) * GROUPS
    for o in range(group * 4, tl.minimum(group * 4 + GROUPS * 4, out_height), 4):
        a0 = tl.zeros([BP, BX], ACC)
        a1 = a0
        a2 = a0
        a3 = a0
        if STATIC:
            for i in tl.static_range(FIRST, LAST + 1):
                r = o * DOWNY // UPY + i
                there = inside & ((r >= 0) & (r < height))
                a0, a1, a2, a3 = _input_row(
                    a0, a1, a2, a3, at + (zero + r) * x_row, there, samples, phases, width, step, f,
                    0, i * UPY + PADY, STATIC, UPX, DOWNY, FW, FH, FLIP, SEPARABLE, ACC,
                )  # fmt: skip
        else:
            u = o * DOWNY - PADY + ABOVE * UPY
            low = (u + (UPY - 1)) // UPY - ABOVE
            high = (u + (3 * DOWNY + FH - 1)) // UPY - ABOVE
            for r in range(tl.maximum(low, 0), tl.minimum(high + 1, height)):
                a0, a1, a2, a3 = _input_row(
                    a0, a1, a2, a3, at + (zero + r) * x_row, inside, samples, phases, width, step, f,
                    r * UPY - o * DOWNY + PADY, 0, STATIC, UPX, DOWNY, FW, FH, FLIP, SEPARABLE, ACC,
                )  # fmt: skip
        to = out + (zero + o) * row
        _store(y, codes, to, a0, inside & (o < out_height), g, positive, negative, clamp, MODE)
        _store(y, codes, to + row, a1, inside & (o + 1 < out_height), g, positive, negative, clamp, MODE)
        _store(y, codes, to + (zero + 2) * row, a2, inside & (o + 2 < out_height), g, positive, negative, clamp, MODE)
        _store(y, codes, to + (zero + 3) * row, a3, inside & (o + 3 < out_height), g, positive, negative, clamp, MODE)


def channels_last(x: Tensor) -> bool:
    """Whether the result for `x` is in channels_last."""
    return x.stride(1) == 1 and x.shape[1] > 1 and not x.is_contiguous()


def threads_of(last: bool) -> int:
    """Threads of a program with the most lanes. With 128 in channels_last, the compiler of Triton 3.9 would give a
    thread 96 registers, to fit one more program, and spill two. With 256 its next step is 127, which suffices."""
    return 256 if last else 128


def lanes(planes: int, row: int, last: bool, size: int) -> tuple[int, int]:
    """(BP, BX): with as few lanes outside of the image as possible, then with as many columns. In channels_last the
    elements of a thread are one access of 16 bytes. Else columns are not aligned with one another, and two a thread
    leave registers for more threads. size: bytes of an element."""
    most = 16 // size * threads_of(last) if last else 128 if size == 8 else 256

    def wasted(bx: int) -> tuple[int, int]:
        bp = min(most // bx, triton.next_power_of_2(planes))
        return -(-row // bx) * bx * -(-planes // bp) * bp, -bx

    bx = min([bx for bx in (32, 64, 128, 256, 512, 1024, 2048) if bx <= most and bx < 2 * max(row, 32)], key=wasted)
    if row < 32:
        bx = triton.next_power_of_2(row)
    return min(most // bx, triton.next_power_of_2(planes)), bx


@functools.lru_cache(maxsize=1024)
def plan(
    shape: tuple[int, ...], strides: tuple[int, ...], last: bool, dtype: torch.dtype, device: torch.device,
    taps: tuple[int, ...], up: tuple[int, int], down: tuple[int, int], padding: tuple[int, ...], flip: bool,
    gain: float, size: tuple[int, int], mode: str, activation: tuple[float, float, float],
) -> Plan:  # fmt: skip
    """Cached by everything but the tensors. last: channels_last; size: height and width of the result."""
    (n, c, height, width), (out_height, out_width) = shape, size
    x_image, x_channel, x_row, x_column = strides
    planes, channels, inner = (n, 1, c) if last else (n * c, c, 1)
    if not last and (n == 1 or x_image == c * x_channel):  # one stride from plane to plane
        channels, x_image = 1, x_channel
    (up_x, up_y), (down_x, down_y), pad_y, (fw, fh) = up, down, padding[2], (taps[-1], taps[0])
    row = out_width * inner
    bp, bx = lanes(planes, row, last, dtype.itemsize)
    groups = -(-out_height // GROUP)
    column_blocks, plane_blocks, of_program = -(-row // bx), -(-planes // bp), min(4, groups)
    while of_program > 1 and column_blocks * plane_blocks * -(-groups // of_program) < 4 * processors(device):
        of_program //= 2
    row_blocks = -(-groups // of_program)
    first, end = -(pad_y // up_y), (3 * down_y - pad_y + fh - 1) // up_y
    reads = (end - first + 1) * -(-fw // up_x) * max(1, bp * bx // threads_of(last))
    static = GROUP * down_y % up_y == 0 and reads <= MOST_UNROLLED
    reach = max(0, width - 1) * x_column + (c - 1) * x_channel, (out_width + fw) * down_x * inner, planes
    constants = dict(
        MODE=mode,
        **dict(UPX=up_x, UPY=up_y, DOWNX=down_x, DOWNY=down_y, PADX=padding[0], PADY=pad_y, FW=fw, FH=fh, FLIP=flip),
        **dict(SEPARABLE=len(taps) == 1, STATIC=static, FIRST=first if static else 0, LAST=end if static else 0),
        **dict(LEFT=max(0, -(-padding[0] // up_x)), ABOVE=max(0, -(-pad_y // up_y))),
        **dict(WIDE=max(reach) >= 2**31, GROUPS=of_program, BP=bp, BX=bx),
    )
    counts = (planes, height, width, out_height, column_blocks, row_blocks)
    specialised = (channels, row, inner, x_image, x_channel, x_row, x_column)
    key = (dtype, *constants.values(), *[v >= 2**31 for v in counts])
    key += tuple([(v == 1, v % 16 == 0, v >= 2**31) for v in specialised])
    double = dtype == torch.float64
    numbers = (*counts, *specialised, *split_floats((gain,), double), *split_floats(activation, double))
    warps = max(1, min(threads_of(last) // 32, bp * bx // 64))
    programs = column_blocks * row_blocks * plane_blocks
    return Plan(upfirdn2d_kernel, programs, device, numbers, constants, dict(num_warps=warps), (*key, warps))


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip: bool,
    gain: float,
) -> Tensor:
    """`x` upsampled, padded, filtered and downsampled, in the dtype and the layout of `x`: one launch.

    x: (N, C, H, W), read in place whatever its strides. f: float32, (taps,) for both axes or (rows, columns), on the
    device of x. up, down: (x, y). padding: (left, right, top, bottom), negative to crop. Checked by the caller."""
    return _run(x, f, (up, down, padding, flip, gain), "plain")


def activated(x: Tensor, f: Tensor, settings: tuple, gain: float, slope: float, clamp: float | None) -> Tensor:
    """The leaky ReLU of `upfirdn2d(x, f, *settings)`, times gain, clamped: one launch."""
    return _run(x, f, settings, "activate" if clamp is None else "clamp", (gain, gain * slope, clamp or 0.0))


def slope_codes(x: Tensor, f: Tensor, settings: tuple, gain: float, slope: float, clamp: float | None) -> Tensor:
    """The code of the slope of `activated` at each element, int8: see `_store`. One launch."""
    mode = "code" if clamp is None else "code clamped"
    return _run(x, f, settings, mode, (gain, gain * slope, clamp or 0.0))


def times_slopes(x: Tensor, f: Tensor, settings: tuple, codes: Tensor, gain: float, slope: float) -> Tensor:
    """`upfirdn2d(x, f, *settings)`, each element times the slope that its code stands for: one launch."""
    return _run(x, f, settings, "slopes", (gain, gain * slope, 0.0), codes)


def _run(
    x: Tensor, f: Tensor, settings: tuple, mode: str, activation=(0.0, 0.0, 0.0), codes: Tensor | None = None
) -> Tensor:
    up, down, padding, flip, gain = settings
    x, f = x.resolve_neg() if x.is_neg() else x, packed(f)
    n, c, height, width = x.shape
    out_width = (width * up[0] + padding[0] + padding[1] - f.shape[-1] + down[0]) // down[0]
    out_height = (height * up[1] + padding[2] + padding[3] - f.shape[0] + down[1]) // down[1]
    last, encoded = channels_last(x), mode.startswith("code")
    layout = torch.channels_last if last else torch.contiguous_format
    dtype = torch.int8 if encoded else x.dtype
    found = torch.empty((n, c, out_height, out_width), dtype=dtype, device=x.device, memory_format=layout)
    given = [x, f]
    if codes is not None:
        codes = codes.contiguous(memory_format=layout)
        given.append(codes)
    if found.numel():
        planned = plan(
            *(tuple(x.shape), x.stride(), last, x.dtype, x.device, tuple(f.shape), tuple(up), tuple(down)),
            *(tuple(padding), flip, gain, (out_height, out_width), mode, activation),
        )
        launch(
            planned, (x, f, None, found, *planned.numbers) if encoded else (x, f, found, codes, *planned.numbers), given
        )
    return found
