"""Squared maximum mean discrepancy of two samples and its gradients, in one launch; the N x M matrix never exists.

    L = w ( mean k(x, x') + mean k(y, y') - 2 mean k(x, y) ),    k a function of D = |a - b|^2, summed over bandwidths

With K' = dk/dD, the gradient at row x_i is a sum over all rows z_j of both samples,

    dL/dx_i = sum_j c_ij (x_i - z_j),    c_ij = 4 w K'(D_ij) / N^2 for z = x,  -4 w K'(D_ij) / (N M) for z = y

so a program that owns a block of rows and walks over tiles of columns computes everything itself: distances, kernel
values, weights, and their sum. No two programs add to the same gradient. Sums are float32 in the tiles and float64
across them. The last program to finish, known by a ticket, adds the partial sums in a fixed order: a result is
bit-identical from run to run.

Distances are computed in two ways:
  differences  D = sum_k (a_k - b_k)^2, and the gradient as sum_j c_ij (a_k - b_k): exact to a few units in the last
               place of each term however close two points are. Four instructions a pair and dimension.
  products     D = |a|^2 + |b|^2 - 2 a.b and sum_j c_ij a_k - sum_j c_ij b_k by `tl.dot`, both samples shifted by the
               mean of the block's rows. The error of D is a few eps (|a| + |b|)^2 after that shift, whatever D is.
               A block of rows for which that is too much (see `_fit`) is computed again, by differences.

Up to 4 dimensions for differences and 64 for products, a row block and its gradient stay in registers. Beyond, each
tile of columns is read twice, CHUNK dimensions at a time. The program that owns a gradient then adds it up in memory:
in the gradient itself if that is float32 or float64, else in a float32 scratch of its shape.
"""

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
from .pairs import block_of_rows, energy, gaussian, rational_quadratic
from .reduction import partial_sums, processors, split_floats, sum_three
from .workspace import MAX_PROGRAMS, workspace


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
    programs,  # how many there are
    rates,  # B floats, what the kernel multiplies D by, and their rounding errors in float32
    rates_lo,
    exponent,  # float and its rounding error in float32: of the rational quadratic kernel
    exponent_lo,
    weight,  # float and its rounding error in float32: w
    factor,  # float and its rounding error in float32: multiplies the gradients only; includes w
    scale,  # 0-d on the device: multiplies the gradients only, before they are rounded; or None
    narrowest,  # (s,), the smallest bandwidth; 0 for the energy distance
    loss,  # 0-d ACC: L; or None: no value is computed
    means,  # [3] ACC: mean k(x, x'), mean k(x, y), mean k(y, y')
    partials,  # [3, MAX_PROGRAMS] float64 scratch
    counter,  # [1] int32, zero before and after
    KERNEL: tl.constexpr,
    POWERS: tl.constexpr,  # bit b: exponential b is a power of the one before; Triton 3.3 cannot index a constant tuple
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
            same, cross = block_of_rows(
                block, x, y, grad_x, sum_x, n, m, d, ratio, f, rates, rates_lo, exponent, exponent_lo, narrowest,
                KERNEL, POWERS, True, True, VALUE, OF_X, UNBIASED, DOT, CHUNKS, EVEN, CHUNK, UNIT, BI, BJ, ACC,
            )  # fmt: skip
            xx += same
            xy += cross
    if (VALUE and TARGET) or OF_Y:
        ratio = one * n.to(ACC) / (m - less).to(ACC)
        before = x_blocks if VALUE or OF_X else 0
        for block in range((pid - before % programs + programs) % programs, tl.cdiv(m, BI), programs):
            same, cross = block_of_rows(
                block, y, x, grad_y, sum_y, m, n, d, ratio, f, rates, rates_lo, exponent, exponent_lo, narrowest,
                KERNEL, POWERS, TARGET, OF_Y, VALUE, OF_Y, UNBIASED, DOT, CHUNKS, EVEN, CHUNK, UNIT, BI, BJ, ACC,
            )  # fmt: skip
            yy += same
    if VALUE:
        tl.store(partials + pid, xx)  # scalar stores: made by the thread that takes the ticket below
        tl.store(partials + MAX_PROGRAMS + pid, xy)
        tl.store(partials + 2 * MAX_PROGRAMS + pid, yy)
        tl.debug_barrier()  # Triton 3.6 inserts none between a store and the atomic
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

    Products: the largest tiles whose loops do not spill on sm_80, sm_90 and sm_100 with Triton 3.6, 3.7 and 3.9."""
    if differences:
        chunk = min(d, DIFFERENCES_UP_TO)
        block, columns = 32, 32 if dtype == torch.float64 else 64
    else:
        chunk = max(16, triton.next_power_of_2(d)) if d <= PRODUCTS_UP_TO else 32
        block, columns = 64 if chunk <= 32 else 32, 32
    # more threads have more registers, but too few bytes each for 128-bit loads of a chunk of 32 in half precision
    wide = not differences and (chunk > 32 or (d > chunk and dtype == torch.float32))
    rows = n + m
    while block > 16 and -(-rows // block) < 2 * processors:
        block //= 2
    shape = dict(CHUNKS=d > chunk, EVEN=d % chunk == 0, CHUNK=chunk, BI=block, BJ=columns)
    return shape, dict(num_warps=8 if wide else 4)


@functools.lru_cache(maxsize=256)
def plan(
    n: int, m: int, d: int, dtype: torch.dtype, device: torch.device, kernel: str, bandwidths: tuple[float, ...],
    alpha: float, powers: tuple[bool, ...], unbiased: bool, target: bool, weight: float, factor: float, precision: str,
    value: bool, of_x: bool, of_y: bool, scale: torch.dtype | None,
) -> Plan:  # fmt: skip
    """Cached: every training step needs the same plan. scale: its dtype, if there is one."""
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
    """The `input_precision` of `tl.dot`. "fp32" on NVIDIA is three passes of tf32, which lose 2^-22 of a product; AMD's
    matrix units multiply float32."""
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
    """(L, means, gradient at x, gradient at y), each None unless requested: one launch.

    x: (N, d), y: (M, d), of one floating dtype on one device; checked by the caller. L is 0-d, means is (3,): mean
    k(x, x'), k(x, y), k(y, y'), of which the last is 0 without `target`; float32 (float64 for float64 samples). The
    gradients have the shape and dtype of the samples, times `factor` and `scale` (0-d, on the device), both applied in
    float32 before rounding.
    powers: for each bandwidth, whether it is half of the one before and its Gaussian is taken as a power of that one's.
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
