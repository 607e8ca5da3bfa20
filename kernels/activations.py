"""The activations of `bias_act`: value, first and second derivative, as device functions of v = x + b.

The functions for derivatives multiply them by the incoming gradient. So a piecewise linear activation selects, as in
eager PyTorch, and 0 times infinity cannot arise. Near a zero of the result these forms avoid cancellation:

    tanh'(v) = sech^2 v, not 1 - tanh^2 v        elu(v) = expm1(v), not e^v - 1        1 - sigmoid(v) = sigmoid(-v)
"""

import triton
import triton.language as tl

from .numerics import exp_minus_abs, log1p_and_sigmoid

ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
SELU_ALPHA = tl.constexpr(1.6732632423543772848170429916717)
SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
SELU_BOTH = tl.constexpr(1.6732632423543772848170429916717 * 1.0507009873554804934193349852946)


@triton.jit
def expm1_of_minus_abs(v):
    """exp(-|v|) - 1, which is expm1(v) for v <= 0, to a few ulp."""
    u = -tl.abs(v)
    e = exp_minus_abs(v)
    d = e - 1.0
    if v.dtype == tl.float64:  # Kahan's expm1: the rounding error of e cancels in (e - 1) / log(e)
        usual = (d > -1.0) & (d < 0.0)
        found = d * (u / tl.log(tl.where(usual, e, 0.5)))
        found = tl.where(usual, found, tl.where(d == 0.0, u, d))
    else:
        p = tl.fma(u, 2.4801587e-05, 1.9841270e-04)  # u P(u): eight terms of the series, to 1e-8 for |u| < 1/2
        p = tl.fma(p, u, 1.3888889e-03)
        p = tl.fma(p, u, 8.3333333e-03)
        p = tl.fma(p, u, 4.1666668e-02)
        p = tl.fma(p, u, 1.6666667e-01)
        p = tl.fma(p, u, 0.5)
        found = tl.where(u > -0.5, u * tl.fma(p, u, 1.0), d)
    return found


@triton.jit
def sigmoids(v):
    """(sigmoid(v), sigmoid(-v), softplus(v))."""
    log1p, small = log1p_and_sigmoid(exp_minus_abs(v))
    large = 1.0 - small
    # max(v, 0) by a comparison that keeps NaN
    return tl.where(v >= 0, large, small), tl.where(v >= 0, small, large), tl.where(v <= 0, 0.0, v) + log1p


@triton.jit
def activation(v, alpha, ACT: tl.constexpr):
    """act(v)."""
    if ACT == "relu":
        z = tl.where(v <= 0, 0.0, v)  # NaN is kept
    elif ACT == "lrelu":
        z = tl.where(v > 0, v, v * alpha)
    elif ACT == "tanh":
        m = expm1_of_minus_abs(2.0 * v)
        t = -m / (2.0 + m)
        z = tl.where(v < 0, -t, t)
    elif ACT == "sigmoid":
        z, _, _ = sigmoids(v)
    elif ACT == "elu":
        z = tl.where(v > 0, v, expm1_of_minus_abs(v))
    elif ACT == "selu":
        z = tl.where(v > 0, v * SELU_SCALE, expm1_of_minus_abs(v) * SELU_BOTH)
    elif ACT == "softplus":
        _, _, z = sigmoids(v)
    elif ACT == "swish":
        s, _, _ = sigmoids(v)
        z = v * s
    else:
        tl.static_assert(ACT == "linear")
        z = v
    return z


@triton.jit
def times_slope(g, v, alpha, ACT: tl.constexpr):
    """g act'(v). For linear, relu and lrelu only the sign of v counts."""
    if ACT == "relu":
        found = tl.where(v <= 0, 0.0, g)
    elif ACT == "lrelu":
        found = tl.where(v > 0, g, g * alpha)
    elif ACT == "tanh":
        s, c, _ = sigmoids(2.0 * v)
        found = g * (4.0 * (s * c))
    elif ACT == "sigmoid":
        s, c, _ = sigmoids(v)
        found = g * (s * c)
    elif ACT == "elu":
        found = tl.where(v <= 0, g * exp_minus_abs(v), g)
    elif ACT == "selu":
        found = tl.where(v <= 0, g * (exp_minus_abs(v) * SELU_BOTH), g * SELU_SCALE)
    elif ACT == "softplus":
        s, _, _ = sigmoids(v)
        found = g * s
    elif ACT == "swish":
        s, c, _ = sigmoids(v)
        found = g * (s * tl.fma(v, c, 1.0))
    else:
        tl.static_assert(ACT == "linear")
        found = g
    return found


@triton.jit
def times_curvature(g, v, ACT: tl.constexpr):
    """g act''(v), for the activations with a curvature."""
    if ACT == "elu":
        found = tl.where(v < 0, g * exp_minus_abs(v), 0.0)
    elif ACT == "selu":
        found = tl.where(v < 0, g * (exp_minus_abs(v) * SELU_BOTH), 0.0)
    elif ACT == "tanh":
        s, c, _ = sigmoids(2.0 * v)
        found = g * ((8.0 * (s * c)) * (c - s))  # c - s = -tanh(v)
    else:
        s, c, _ = sigmoids(v)
        if ACT == "sigmoid":
            found = g * ((s * c) * (c - s))
        elif ACT == "softplus":
            found = g * (s * c)
        else:
            tl.static_assert(ACT == "swish")
            found = g * ((s * c) * tl.fma(v, c - s, 2.0))
    return found
