"""softplus and sigmoid, from one exponential, without cancellation.

With e = exp(-|x|), which is in [0, 1] for every x:

    softplus(x) = max(x, 0) + log1p(e)        sigmoid(-|x|) = e / (1 + e)

In float32 both come from two special-function instructions, ex2 and rsqrt, and a cubic. Write q = rsqrt(1 + e) and
v = e q. Then sigmoid(-|x|) = v q, and because e / sqrt(1 + e) = 2 sinh(log1p(e) / 2),

    log1p(e) = 2 asinh(v / 2) = v P(v²),   v² in [0, 1/2]

Each term of the series of P is 8 times smaller than the one before: three coefficients reach a relative error of 6e-8
for every e > 0. (A polynomial in e itself needs eight for 1.5e-7, and log(1 + e) loses e altogether below 6e-8.)
"""

import triton
import triton.language as tl


@triton.jit
def widen(x, ACC: tl.constexpr):
    """Convert to the arithmetic dtype, exactly. bfloat16 is the upper half of a float32. With integers, the compiler
    masks the odd lanes of a 32-bit register in place; its conversion instruction would extract and shift each lane."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(ACC)


@triton.jit
def negative(x):
    """1 where x < 0, else 0; either for NaN. It is the sign bit, which one instruction shifts and adds to a sum."""
    x = tl.where(x >= 0, 0.0, x)  # -0.0 is not below 0
    if x.dtype == tl.float64:  # noqa: SIM108 (a ternary would compile both)
        sign = x.to(tl.uint64, bitcast=True) >> 63
    else:
        sign = x.to(tl.uint32, bitcast=True) >> 31
    return sign.to(tl.int32)


@triton.jit
def exp_minus_abs(x):
    """exp(-|x|) to 2 ulp; NaN for NaN. Exactly 0 for |x| >= 104, like float32 in eager PyTorch; on
    NVIDIA, whose ex2.approx.ftz has no result below 2^-126, for |x| > 87.3."""
    if x.dtype == tl.float64:
        return tl.exp(-tl.abs(x))
    a = tl.minimum(tl.abs(x), 104.0, propagate_nan=tl.PropagateNan.ALL)  # keeps inf - inf out of the residual
    t = a * -1.4426950408889634
    e = tl.exp2(t)
    # t is rounded, which alone is an error of up to |x| 2^-24 in e: put the residual -(a + t ln 2) back.
    return e - e * tl.fma(t, 0.6931471805599453, a)


@triton.jit
def exp_minus_abs_of_half(x):
    """exp(-|x|) to |x| 2^-23. Rounding the logit changed it by more: 2^-9 |x| (bfloat16) or 2^-12 |x| (float16). Three
    instructions fewer, which saves time: in half precision arithmetic, not memory, is the limit."""
    return tl.exp2(tl.abs(x) * -1.4426950408889634)


@triton.jit
def log1p_and_sigmoid(e):
    """e = exp(-|x|) -> (log1p(e), sigmoid(-|x|))."""
    w = 1.0 + e
    if e.dtype == tl.float64:
        d = w - 1.0  # Kahan's log1p: the rounding error of 1 + e cancels in log(w) / (w - 1)
        log1p = tl.where(d == 0.0, e, tl.log(w) * (e / tl.where(d == 0.0, 1.0, d)))
        return log1p, e / w
    q = tl.rsqrt(w)
    v = e * q
    u = v * v
    p = tl.fma(u, -0.00059656653, 0.00465945958)
    p = tl.fma(p, u, -0.04166440675)
    return v * tl.fma(p, u, 1.0), v * q
