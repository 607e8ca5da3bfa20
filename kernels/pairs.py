"""One program's block of rows against all rows of both samples: distances, kernel values, gradient. See `mmd`."""

# ruff: noqa: RUF005, SIM102, SIM108 (Triton knows neither starred tuples nor `and` of a constant and a scalar of the device)

import triton
import triton.language as tl


@triton.jit
def gaussian(D, rates, rates_lo, exponent, exponent_lo, POWERS: tl.constexpr, SLOPE: tl.constexpr):
    """(sum_b exp(-D / 2 s_b^2), its derivative by D); rates are -log2(e) / 2 s^2. If s_b is half of the one before, its
    exponential is the fourth power of that one's."""
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
    """(-sqrt D, its derivative by D, which is defined as 0 at D = 0)."""
    r = tl.sqrt(D)
    slope = tl.zeros(D.shape, D.dtype)
    if SLOPE:
        slope = tl.where(r == 0, 0.0, -0.5 / r)  # not D == 0: a subnormal D reads as 0 on some devices
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
    g_ptr,  # [n, d]: where the gradient at a goes; unused unless GRAD
    h_ptr,  # [n, d] of ACC: where it is added up, beyond CHUNK dimensions; may be g_ptr
    n,
    m,
    d,
    ratio,  # weight of a pair within a sample, relative to a pair of both samples; ACC
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
    EVEN: tl.constexpr,  # CHUNK divides d
    CHUNK: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    ACC: tl.constexpr,
    floor=0.0,  # products: if above 0, the smallest D is compared with this; ACC
):
    """Float64 sums of k over the pairs of this block's rows with a, and with z; and whether no D is below `floor`.
    Write the gradient at these rows.

    Without a gradient each pair within a sample is computed once and counts twice. Rows and columns beyond the last one
    repeat it with weight 0."""
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
        total = tl.zeros([BI], ACC)  # sum_j w_ij
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
        if SAME and DOT is not None:  # a point's distance to itself is 0
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
    """(whether products may serve a block of rows, the smallest D that they may then have).

    Let r be the largest distance from the block's middle. For points within 3 r of it, the error of D is up to
    8 eps (4 r)^2 = 2^-17 r^2; for others it is some eps of D. A kernel of bandwidth s changes by that error divided by
    2 s^2 + D, which is at most 2^-7 if D >= 2^-10 r^2 - 2 s^2. For the energy distance take s = 0."""
    i0 = block * BI
    row = tl.minimum(tl.arange(0, BI), n - 1 - i0)
    own = a_ptr + i0.to(tl.int64) * d
    squares = tl.zeros([BI], ACC)
    for k0 in range(0, d, CHUNK):
        a = _chunk(own, row, k0, d, CHUNK, EVEN, ACC)
        a -= (tl.sum(a, axis=0) / BI)[None, :]
        squares += tl.sum(a * a, axis=1)
    largest = tl.max(squares, axis=0)
    small = largest <= 1e36  # its square, and products with it, are finite
    return small, largest * 0.0009765625 - 2.0 * narrowest[0] * narrowest[0]


@triton.jit
def block_of_rows(
    block, a_ptr, z_ptr, g_ptr, h_ptr, n, m, d, ratio, factor, rates, rates_lo, exponent, exponent_lo, narrowest,
    KERNEL: tl.constexpr, POWERS: tl.constexpr, SAME: tl.constexpr, CROSS: tl.constexpr, VALUE: tl.constexpr,
    GRAD: tl.constexpr, UNBIASED: tl.constexpr, DOT: tl.constexpr, CHUNKS: tl.constexpr, EVEN: tl.constexpr,
    CHUNK: tl.constexpr, UNIT: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """`_rows`, by products if they are accurate enough, else by differences."""
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
