"""The criteria: a scalar loss phi(x, y) of a logit x and its label y, with its slope d phi / dx.

A criterion is one device function, (logits, label) -> (value, slope), in the dtype of `logits`. NaN must come out of
both as NaN, and an infinite logit must give what eager PyTorch gives.
"""

import triton
import triton.language as tl

from .numerics import exp_minus_abs, log1p_and_sigmoid


@triton.jit
def sigmoid_cross_entropy(x, y, w):
    """phi = softplus(x) - y x = (1 - y) x + softplus(-x), phi' = sigmoid(x) - y (Goodfellow et al. 2014, eq. 1).

    The second form is the one `BCEWithLogitsLoss` evaluates, so that infinite logits give its NaN and inf; with
    labels 0 and 1 it is exact in every term, and the slope is sigmoid(x) or -sigmoid(-x) without cancellation.
    """
    log1p, s = log1p_and_sigmoid(exp_minus_abs(x))
    value = log1p + ((1.0 - y) * x - tl.minimum(x, 0.0))
    return value, tl.where(x >= 0, tl.fma(s, -w, (1.0 - y) * w), tl.fma(s, w, -y * w))


CRITERIA = {"sigmoid_cross_entropy": sigmoid_cross_entropy}
