"""The criteria: a scalar loss phi(x, y) of a logit x and its label y, with its slope d phi / dx.

A criterion is one device function, (logits, label, w) -> (value, w * slope), in the dtype of `logits`; label and w are
scalars or as large as the logits. For a NaN the value is NaN; for an infinite logit it is that of eager PyTorch. The
same formulas in PyTorch, with the curvature, are in `fastgan/formulas/criteria.py`.

If a criterion distinguishes only real and generated data, s = 2 y - 1: 1 for the label 1, -1 for the label 0.
"""

import torch
import triton
import triton.language as tl

from .numerics import exp_minus_abs, exp_minus_abs_of_half, log1p_and_sigmoid


@triton.jit
def sigmoid_cross_entropy(x, y, w):
    """phi = softplus(x) - y x = (1 - y) x + softplus(-x), phi' = sigmoid(x) - y (Goodfellow et al. 2014, eq. 1).

    The second form is the one `BCEWithLogitsLoss` evaluates, so that infinite logits give its NaN and inf; with
    labels 0 and 1 it is exact in every term, and the slope is sigmoid(x) or -sigmoid(-x) without cancellation.
    """
    return _sigmoid_cross_entropy(x, y, w, exp_minus_abs(x))


@triton.jit
def _sigmoid_cross_entropy_of_half(x, y, w):
    """The same for logits of half precision, by a shorter exponential."""
    return _sigmoid_cross_entropy(x, y, w, exp_minus_abs_of_half(x))


@triton.jit
def _sigmoid_cross_entropy(x, y, w, e):
    log1p, s = log1p_and_sigmoid(e)
    value = log1p + ((1.0 - y) * x - tl.where(x >= 0, 0.0, x))
    return value, _sigmoid_minus(x, s, y, w)


@triton.jit
def _sigmoid_minus(x, s, y, w):
    """w (sigmoid(x) - y), from s = sigmoid(-|x|)."""
    return tl.where(x >= 0, tl.fma(s, -w, (1.0 - y) * w), tl.fma(s, w, -y * w))


@triton.jit
def softplus(x, y, w):
    """phi = softplus(-s x): `sigmoid_cross_entropy` for the labels 1 and 0. But an infinite logit on the right side
    gives 0, not the NaN of `BCEWithLogitsLoss`."""
    return _softplus(x, y, w, exp_minus_abs(x))


@triton.jit
def _softplus_of_half(x, y, w):
    """The same for logits of half precision."""
    return _softplus(x, y, w, exp_minus_abs_of_half(x))


@triton.jit
def _softplus(x, y, w, e):
    log1p, s = log1p_and_sigmoid(e)
    value = log1p + tl.maximum((1.0 - 2.0 * y) * x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return value, _sigmoid_minus(x, s, y, w)


@triton.jit
def absolute_error(x, y, w):
    """phi = (1 - y) sigmoid(x) + y sigmoid(-x): |sigmoid(x) - y| for the labels 0 and 1; for y between them the mean of
    that over random labels, which are 1 with probability y, as with the cross-entropy."""
    _, s = log1p_and_sigmoid(exp_minus_abs(x))
    other = 1.0 - s
    value = (1.0 - y) * tl.where(x >= 0, other, s) + y * tl.where(x >= 0, s, other)
    return value, (1.0 - 2.0 * y) * w * (s * other)


@triton.jit
def least_squares(x, y, w):
    """phi = (x - y)^2 (Mao et al. 2017, eq. 2)."""
    d = x - y
    return d * d, (2.0 * w) * d


@triton.jit
def hinge(x, y, w):
    """phi = relu(1 - s x) (Lim and Ye 2017; Miyato et al. 2018, eq. 16). Slope at the knee: that of `F.relu`, 0."""
    s = 2.0 * y - 1.0
    t = 1.0 - s * x
    return tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL), tl.where(t <= 0, 0.0, -s * w)


@triton.jit
def _hinge_clamp_to_2_13(x, y, w):
    """`hinge`, written with `clamp(min=0)`: the slope is -s at the knee and 0 for NaN."""
    s = 2.0 * y - 1.0
    t = 1.0 - s * x
    return tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL), tl.where(t >= 0, -s * w, 0.0)


@triton.jit
def _hinge_clamp_from_2_14(x, y, w):
    """The same with the `clamp` of later versions of PyTorch: the slope at the knee is 0."""
    s = 2.0 * y - 1.0
    t = 1.0 - s * x
    return tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL), tl.where(t > 0, -s * w, 0.0)


def _hinge_clamp():
    """The variant with the knee of the installed PyTorch, determined as in `fastgan/formulas/criteria.py`."""
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.zeros((), device="cpu", requires_grad=True)
        slope = x.clamp(min=0).grad_fn(torch.ones((), device="cpu"))
    return _hinge_clamp_to_2_13 if slope.item() else _hinge_clamp_from_2_14


@triton.jit
def hinge_min(x, y, w):
    """`hinge`, written as -min(s x - 1, 0): the slope at the knee is -s / 2."""
    s = 2.0 * y - 1.0
    t = 1.0 - s * x
    slope = tl.where(t < 0, 0.0, tl.where(t == 0, -0.5 * s * w, -s * w))
    return tl.maximum(t, 0.0, propagate_nan=tl.PropagateNan.ALL), slope


@triton.jit
def wasserstein(x, y, w):
    """phi = -s x (Arjovsky et al. 2017, eq. 2)."""
    s = 2.0 * y - 1.0
    return -s * x, tl.zeros(x.shape, x.dtype) - s * w


@triton.jit
def squared_hinge(x, y, w):
    """phi = relu(-s x)^2: LeCam regularisation, with x = logit - anchor (Tseng et al. 2021, eq. 5)."""
    s = 2.0 * y - 1.0
    r = tl.maximum(-s * x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return r * r, (-2.0 * s * w) * r


@triton.jit
def absolute(x, y, w):
    """phi = |x - y|, slope 0 if they are equal: feature matching, with x the difference of two maps."""
    d = x - y
    return tl.abs(d), tl.where(d > 0, w, tl.where(d < 0, -w, 0.0 * w))


@triton.jit
def leaky_least_squares(x, y, w):
    """phi = (leaky_relu(x, 0.05) - y)^2: MONAI's activation before the least squares."""
    if x.dtype == tl.float64:  # a literal is float32: compute 1/20 by a division
        low = x / 20.0
        slope = tl.where(x > 0, 1.0, tl.full(x.shape, 1.0, tl.float64) / 20.0)
    else:
        low = x * 0.05
        slope = tl.where(x > 0, 1.0, 0.05)
    d = tl.where(x > 0, x, low) - y
    return d * d, (2.0 * w) * d * slope


@triton.jit
def tanh_hinge(x, y, w):
    """phi = relu(1 - s tanh(x)) = 2 sigmoid(-2 s x): MONAI's activation before the hinge."""
    s = 2.0 * y - 1.0
    _, p = log1p_and_sigmoid(exp_minus_abs(2.0 * x))
    return 2.0 * tl.where(s * x >= 0, p, 1.0 - p), (-4.0 * s * w) * (p * (1.0 - p))


@triton.jit
def log_sigmoid_with_eps(x, y, w):
    """phi = -log(sigmoid(x) + 1e-8), for any label: mimicry's non-saturating loss. Its slope vanishes for x << 0."""
    one = tl.full(x.shape, 1.0, x.dtype)
    eps = one / 100000000.0
    _, s = log1p_and_sigmoid(exp_minus_abs(x))
    p = tl.where(x >= 0, 1.0 - s, s) + eps
    return -tl.log(p), -w * (s * (1.0 - s) / p)


@triton.jit
def cross_entropy(x, y, w):
    """phi = -(y log x + (1 - y) log(1 - x)) of a probability x, with logarithms of at least -100: `nn.BCELoss`."""
    log = tl.maximum(tl.log(x), -100.0, propagate_nan=tl.PropagateNan.ALL)
    u = 1.0 - x  # Kahan's log1p: the rounding error of 1 - x cancels in log(u) / (u - 1)
    d = tl.where(u == 1.0, 1.0, u - 1.0)
    log_other = tl.where(u == 1.0, -x, tl.log(u) * (-x / d))
    log_other = tl.maximum(log_other, -100.0, propagate_nan=tl.PropagateNan.ALL)
    value = (y - 1.0) * log_other - y * log
    floor = tl.full(x.shape, 1.0, x.dtype) / 1000000000000.0
    return value, w * (x - y) / tl.maximum((1.0 - x) * x, floor, propagate_nan=tl.PropagateNan.ALL)


CRITERIA = {
    function.__name__: function
    for function in (
        *(sigmoid_cross_entropy, softplus, absolute_error, least_squares, hinge, hinge_min, wasserstein),
        *(squared_hinge, absolute, leaky_least_squares, tanh_hinge, log_sigmoid_with_eps, cross_entropy),
    )
} | {"hinge_clamp": _hinge_clamp()}


OF_HALF = {  # in half precision arithmetic, not memory, is the limit
    "sigmoid_cross_entropy": _sigmoid_cross_entropy_of_half,
    "softplus": _softplus_of_half,
}


def criterion_of(name: str, dtype: torch.dtype):
    """The device function of a criterion, for logits of that dtype."""
    return OF_HALF.get(name, CRITERIA[name]) if dtype.itemsize == 2 else CRITERIA[name]
