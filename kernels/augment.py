"""Differentiable augmentation of images, colour and geometry, and its derivatives of any order, each in one launch.

    map        out = G (K x + b)        K x = c s x + c (1 - s) m + (1 - c) M,  m: mean of a pixel's channels,
    linear     out = G K x                                                     M: mean of the sample
    transpose  out = K G' x             G: flip, translation, cutout

`fastgan.formulas.augment` derives these forms. Each written pixel comes from one read pixel. So a launch reads x once
for M, and once more, mostly from cache, to write the result. With a contrast of 1, M is not needed and not computed.

If there are many samples, a program owns one. If there are few, several programs share one and add up parts of M. They
take tickets: the first half computes sums; the second half waits until all sums are stored, and writes. A program waits
only for earlier tickets, whose programs run already and do not wait. So the launch ends, however few programs a GPU
runs at once. Sums are added in a fixed order: a result is bit-identical from run to run.
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
from .reduction import in_thread_sum, processors
from .workspace import MAX_PROGRAMS, workspace


@triton.jit
def _place(p, W: tl.constexpr, flipped, TRANSPOSE: tl.constexpr):
    """Row and column of pixels; for the transpose, the column before the flip."""
    row = p // W
    column = p - row * W
    if TRANSPOSE:
        column = tl.where(flipped, W - 1 - column, column)
    return row, column


@triton.jit
def _written(row, column, place, H: tl.constexpr, W: tl.constexpr):
    """Whether pixels of the map's result come from x: they are not cut out and not moved in from outside."""
    down, right, top, left, bottom, end = place
    from_row, from_column = row + down, column + right
    inside = (from_row >= 0) & (from_row < H) & (from_column >= 0) & (from_column < W)
    return inside & ~((row >= top) & (row < bottom) & (column >= left) & (column < end))


@triton.jit
def _tile_sum(
    x, at, inside, place, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TRANSPOSE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """[LANES // V]: sums over a tile of a sample; for the transpose, only of elements that the map writes. Only the
    tail's loads have a mask, so that the others stay wide."""
    V: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    other: tl.constexpr = None if inside is None else 0.0
    v = widen(tl.load(x + at, mask=inside, other=other), ACC)
    if TRANSPOSE:
        row, column = _place(at // C if CHANNELS_LAST else at % (H * W), W, False, False)
        v = tl.where(_written(row, column, place, H, W), v, 0.0)
    return in_thread_sum(v, V)


@triton.jit
def _sum(
    x, first, stride, place, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TRANSPOSE: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The float64 sum of tiles first, first + stride, ... of a sample."""
    V: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    FULL: tl.constexpr = C * H * W // LANES
    lane = tl.arange(0, LANES)
    sums = tl.zeros([LANES // V], ACC)
    for tile in range(first, FULL, stride):
        sums += _tile_sum(x, tile * LANES + lane, None, place, C, H, W, CHANNELS_LAST, TRANSPOSE, ACC)
    if C * H * W % LANES != 0:  # noqa: SIM102 (known when it is compiled)
        if FULL % stride == first:  # the tail belongs to one program
            at = FULL * LANES + lane
            sums += _tile_sum(x, at, at < C * H * W, place, C, H, W, CHANNELS_LAST, TRANSPOSE, ACC)
    return tl.sum(sums.to(tl.float64), axis=0)


@triton.jit
def _write(
    x,  # a sample
    out,
    first,  # tiles first, first + stride, ... of BLOCK pixels are written
    stride,
    total,  # sum of the sample, float64
    s,
    c,
    brightness,  # pointer to this sample's; or None
    flipped,
    place,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ACC: tl.constexpr = s.dtype
    SC: tl.constexpr = 1 if CHANNELS_LAST else H * W
    SP: tl.constexpr = C if CHANNELS_LAST else 1
    minus_zero = tl.zeros((), ACC) * -1.0  # -0.0 + v is v, to the bit; Triton reads a constant -0.0 as 0.0
    # mean - mean: NaN for an infinite mean, as in eager PyTorch, which subtracts the mean.
    mean = (total / (C * H * W)).to(ACC)
    shift = tl.where(c != 1.0, (1.0 - c) * mean + (mean - mean), minus_zero)
    if brightness is not None:
        b = tl.load(brightness).to(ACC)
        shift = tl.where(b != 0.0, shift + b, shift)
    grey = c * (1.0 - s) / C
    scale = c * s
    coloured = s != 1.0
    down, right, _top, _left, _bottom, _end = place
    lane = tl.arange(0, BLOCK)
    channel = tl.arange(0, CHANNELS)[:, None]
    for tile in range(first, tl.cdiv(H * W, BLOCK), stride):
        p = tile * BLOCK + lane
        here = p < H * W
        row, column = _place(p, W, flipped, TRANSPOSE)
        if TRANSPOSE:
            row, column = row - down, column - right
            inside = here & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            inside &= _written(row, column, place, H, W)
        else:
            inside = here & _written(row, column, place, H, W)
            row, column = row + down, column + right
            column = tl.where(flipped, W - 1 - column, column)
        q = row * W + column
        if C <= CHANNELS:  # a pixel's channels stay in registers
            v = tl.load(x + (channel * SC + q * SP), mask=(channel < C) & inside, other=0.0)
            v = widen(v, ACC)
            sums = tl.sum(v, axis=0)
            added = tl.where(coloured, grey * sums + (sums - sums), minus_zero) + shift
            v = v * scale + added
            if not TRANSPOSE:
                v = tl.where(inside, v, 0.0)
            tl.store(out + (channel * SC + p * SP), v.to(out.dtype.element_ty), mask=(channel < C) & here)
        else:
            sums = tl.zeros([BLOCK], ACC)
            if coloured:
                for k in range(0, C, CHANNELS):
                    at = k + channel
                    v = tl.load(x + (at * SC + q * SP), mask=(at < C) & inside, other=0.0)
                    sums += tl.sum(widen(v, ACC), axis=0)
            added = tl.where(coloured, grey * sums + (sums - sums), minus_zero) + shift
            for k in range(0, C, CHANNELS):
                at = k + channel
                v = tl.load(x + (at * SC + q * SP), mask=(at < C) & inside, other=0.0)
                v = widen(v, ACC) * scale + added
                if not TRANSPOSE:
                    v = tl.where(inside, v, 0.0)
                tl.store(out + (at * SC + p * SP), v.to(out.dtype.element_ty), mask=(at < C) & here)


@triton.jit(do_not_specialize=["samples", "parts"])
def augment_kernel(
    x,  # N samples of C H W elements each, one after the other, NCHW or channels_last
    out,  # likewise
    brightness,  # [N] float32: b; or None for a linear form
    saturation,  # [N] float32: s
    contrast,  # [N] float32: c
    translation,  # [N, 2] int32: rows, columns
    centre,  # [N, 2] int32: of the cutout
    size,  # [N, 2] int32: of the cutout; 0: none
    flip,  # [N] bool
    samples,  # N
    parts,  # programs that share a sample's sum, and as many that share its writing; 1: one program does both
    partials,  # [MAX_PROGRAMS] float64 scratch; or None for one part
    counters,  # int32, zero before and after: tickets, and how many programs have stored a sum or stopped waiting
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    CHANNELS: tl.constexpr,  # of a tile
    BLOCK: tl.constexpr,  # pixels of a tile
    LANES: tl.constexpr,  # elements of a tile of the sum
    PARTS: tl.constexpr,  # a power of 2, at least `parts`
):
    ACC: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    half = samples * parts
    unit = tl.program_id(0)
    ticket = unit
    if PARTS > 1:
        ticket = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
        # What was read last is written first: it is still in cache.
        unit = tl.where(ticket < half, ticket, 2 * half - 1 - ticket)
    n = unit // parts
    part = unit - n * parts
    rows = tl.load(size + 2 * n)
    columns = tl.load(size + 2 * n + 1)
    top = tl.load(centre + 2 * n) - (rows >> 1)
    left = tl.load(centre + 2 * n + 1) - (columns >> 1)
    place = (tl.load(translation + 2 * n), tl.load(translation + 2 * n + 1), top, left, top + rows, left + columns)
    flipped = tl.load(flip + n) != 0
    s = tl.load(saturation + n).to(ACC)
    c = tl.load(contrast + n).to(ACC)
    b = None if brightness is None else brightness + n
    x += n.to(tl.int64) * (C * H * W)
    out += n.to(tl.int64) * (C * H * W)
    total = tl.zeros((), tl.float64)
    if (c != 1.0) & (ticket < half):
        total = _sum(x, part, parts, place, C, H, W, CHANNELS_LAST, TRANSPOSE, LANES, ACC)
    if PARTS == 1:
        _write(x, out, 0, 1, total, s, c, b, flipped, place, C, H, W, CHANNELS_LAST, TRANSPOSE, CHANNELS, BLOCK)
    elif ticket < half:
        tl.store(partials + unit, total)
        tl.debug_barrier()  # Triton 3.6 inserts none between a store and the atomic
        tl.atomic_add(counters + 1, 1, sem="acq_rel", scope="gpu")
    else:
        while tl.atomic_add(counters + 1, 0, sem="acquire", scope="gpu") < half:
            pass
        i = tl.arange(0, PARTS)
        sums = tl.load(partials + n * parts + i, mask=i < parts, other=0.0, cache_modifier=".cg")
        total = tl.sum(sums, axis=0)
        tl.debug_barrier()  # until every thread has read
        done = tl.atomic_add(counters + 1, 1, sem="acq_rel", scope="gpu")
        if done == 2 * half - 1:  # the last one: every ticket is taken, and no program waits any more
            tl.atomic_xchg(counters, 0, sem="relaxed")
            tl.atomic_xchg(counters + 1, 0, sem="relaxed")
        _write(x, out, part, parts, total, s, c, b, flipped, place, C, H, W, CHANNELS_LAST, TRANSPOSE, CHANNELS, BLOCK)


@triton.jit
def _below(u, count):
    """A whole number from 0 to count - 1. u is a multiple of 2^-24 below 1; u * count, even rounded, is below count."""
    return (u * count.to(tl.float32)).to(tl.int32)


@triton.jit(
    do_not_specialize=["n", "policy", "down", "right", "rows", "columns", "row_places", "column_places"],
)
def draw_kernel(
    u,  # [n, 12] float32, uniform in [0, 1)
    p,  # 0-d, floating; or None: `chance` is used
    chance,  # float
    brightness,  # the seven results, as `augment_kernel` reads them
    saturation,
    contrast,
    translation,
    centre,
    size,
    flip,
    n,
    policy,  # bits: color, translation, cutout, flip
    down,  # the largest translation
    right,
    rows,  # of a cutout
    columns,
    row_places,  # where its centre may be
    column_places,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    u += 12 * i
    if p is not None:
        chance = tl.load(p).to(tl.float32)
    coloured = (tl.load(u + 8, mask=inside, other=1.0) < chance) & ((policy & 1) != 0)
    moved = (tl.load(u + 9, mask=inside, other=1.0) < chance) & ((policy & 2) != 0)
    cut = (tl.load(u + 10, mask=inside, other=1.0) < chance) & ((policy & 4) != 0)
    flipped = (tl.load(u + 11, mask=inside, other=1.0) < chance) & ((policy & 8) != 0)
    b = tl.where(coloured, tl.load(u, mask=inside, other=0.0) - 0.5, 0.0)
    s = tl.where(coloured, tl.load(u + 1, mask=inside, other=0.0) - 0.5, 0.0)
    c = tl.where(coloured, tl.load(u + 2, mask=inside, other=0.0) - 0.5, 0.0)
    tl.store(brightness + i, b, mask=inside)
    tl.store(saturation + i, 1.0 + 2.0 * s, mask=inside)
    tl.store(contrast + i, 1.0 + c, mask=inside)
    r = tl.where(moved, _below(tl.load(u + 3, mask=inside, other=0.0), 2 * down + 1) - down, 0)
    tl.store(translation + 2 * i, r, mask=inside)
    r = tl.where(moved, _below(tl.load(u + 4, mask=inside, other=0.0), 2 * right + 1) - right, 0)
    tl.store(translation + 2 * i + 1, r, mask=inside)
    tl.store(centre + 2 * i, _below(tl.load(u + 5, mask=inside, other=0.0), row_places), mask=inside)
    tl.store(centre + 2 * i + 1, _below(tl.load(u + 6, mask=inside, other=0.0), column_places), mask=inside)
    tl.store(size + 2 * i, tl.where(cut, rows, 0), mask=inside)
    tl.store(size + 2 * i + 1, tl.where(cut, columns, 0), mask=inside)
    tl.store(flip + i, flipped & (tl.load(u + 7, mask=inside, other=1.0) < 0.5), mask=inside)


MOST_CHANNELS = 64  # of a tile; a pixel with more channels is read in several tiles


def blocks(n: int, c: int, pixels: int, dtype: torch.dtype, processors: int) -> tuple[dict, int, int]:
    """(block sizes, programs that share a sample, warps). A thread writes four times 128 bits of a tile. It
    has all channels of a pixel if there are up to four, so that their mean needs no other thread. For a sum it adds up
    at most 16 elements of a tile: the transpose computes the source of each, and 32 do not fit the registers."""
    wide = 16 // dtype.itemsize
    channels = min(triton.next_power_of_2(c), MOST_CHANNELS)
    tile = 4 * 128 * wide
    tiles = -(-pixels * channels // tile)
    # With two samples a multiprocessor, each program owns one; else there are four programs of each kind.
    parts = 1 if n >= 2 * processors else min(tiles, -(-4 * processors // n), MAX_PROGRAMS // n)
    warps = 4
    if parts == 1 and tiles >= 8:  # few programs, much work: twice the threads
        warps, tile = 8, 2 * tile
    sizes = dict(
        CHANNELS=channels,
        BLOCK=min(triton.next_power_of_2(pixels), tile // channels),
        LANES=max(wide, min(triton.next_power_of_2(c * pixels), tile, 512 * warps)),
        PARTS=triton.next_power_of_2(parts),
    )
    return sizes, parts, warps


@functools.lru_cache(maxsize=256)
def plan(shape: torch.Size, channels_last: bool, dtype: torch.dtype, device: torch.device, form: str) -> Plan:
    """Cached: every step of a training needs the same plan."""
    n, c, h, w = shape
    sizes, parts, warps = blocks(n, c, h * w, dtype, processors(device))
    programs = n if parts == 1 else 2 * n * parts
    constants = dict(C=c, H=h, W=w, CHANNELS_LAST=channels_last, TRANSPOSE=form == "transpose", **sizes)
    key = (dtype, form, warps, *constants.values())
    return Plan(augment_kernel, programs, device, (n, parts), constants, dict(num_warps=warps), key)


def images(x: Tensor) -> Tensor:
    """`x` if it is contiguous or channels_last, which the kernel reads directly; else a contiguous copy."""
    x = x.resolve_neg() if x.is_neg() else x
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def augment(
    x: Tensor,
    brightness: Tensor,
    saturation: Tensor,
    contrast: Tensor,
    translation: Tensor,
    centre: Tensor,
    size: Tensor,
    flip: Tensor,
    form: str,
) -> Tensor:
    """The augmented images, or one of the linear forms of the map, of x's dtype and layout: one launch.

    x: (N, C, H, W), floating, at most 2^30 elements a sample. brightness, saturation, contrast: (N,) float32.
    translation, centre, size: (N, 2) int32. flip: (N,) bool. form: "map", "linear" or "transpose"; only the map
    uses the brightness. All on one device; checked by the caller."""
    x = images(x)
    out = torch.empty_like(x)
    if not x.numel():
        return out
    parameters = [packed(p) for p in (brightness, saturation, contrast, translation, centre, size, flip)]
    if form != "map":
        parameters[0] = None
    planned = plan(x.shape, not x.is_contiguous(), x.dtype, x.device, form)
    scratch = workspace(x.device) if planned.numbers[1] > 1 else (None, None)
    given = [x, *parameters[form != "map" :]]
    launch(planned, (x, out, *parameters, *planned.numbers, *scratch), given)
    return out


def draw_augmentation(
    u: Tensor, p: Tensor | None, chance: float, policy: int, extents: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The parameters of `augment`, from u (n, 12), float32, uniform in [0, 1): one launch.

    p: 0-d on the device, the probability of each entry of the policy; or None for `chance`. policy: bits, 1
    color, 2 translation, 4 cutout, 8 flip. extents: the largest translation, a cutout's size, the number of places for
    its centre, each for rows and columns."""
    n, device = u.shape[0], u.device
    floats = [torch.empty(n, dtype=torch.float32, device=device) for _ in range(3)]
    whole = [torch.empty(n, 2, dtype=torch.int32, device=device) for _ in range(3)]
    found = (*floats, *whole, torch.empty(n, dtype=torch.bool, device=device))
    if n:
        u, p = packed(u), None if p is None else packed(p)
        numbers = (n, policy, *extents)
        key = ("draw", None if p is None else p.dtype)
        planned = Plan(draw_kernel, -(-n // 128), device, numbers, dict(BLOCK=128), dict(num_warps=4), key)
        launch(planned, (u, p, chance, *found, *numbers), [u] if p is None else [u, p])
    return found
