"""Maximum mean discrepancy: the distance between two samples, and its gradient.

Training without a discriminator (generative moment matching networks), domain adaptation, kernel inception distance:
all use the mean of a kernel over all pairs of rows. The matrix of pairs is never stored: a GPU computes it by tiles in
one launch (`kernels/mmd.py`), a CPU by blocks that fit the cache. Memory is O(N + M).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

from torch import Tensor

from fastgan.checks import number
from fastgan.formulas.mmd import MMDSettings
from fastgan.losses.arguments import choice, derivative_refused, floating, grad_scale_of
from fastgan.operators import mmd as operators

KERNELS = ("gaussian", "rational_quadratic", "energy")
PRECISIONS = ("fp32", "tf32", "exact")
BANDWIDTHS = (4.0, 2.0, 1.0, 0.5)  # for samples of zero mean and unit scale


def mmd_loss(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | float | None = None,
    *,
    kernel: str = "gaussian",
    alpha: float = 1.0,
    unbiased: bool = False,
    include_target_term: bool = True,
    weight: float = 1.0,
    precision: str = "fp32",
) -> Tensor:
    """MMD^2 of two samples: one launch forward, one backward; only the samples are saved.

        L = weight ( mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j) )

    By default it is biased: the first two means include the pairs of a point with itself (Gretton et al. 2012, eq. 5: a
    V-statistic, never negative). `unbiased` leaves them out and divides by N (N - 1) (eq. 3: a U-statistic, whose
    expectation is 0 if the distributions agree). k is summed over the bandwidths s:

        gaussian            exp(-|x - y|^2 / 2 s^2)
        rational_quadratic  (1 + |x - y|^2 / 2 alpha s^2)^-alpha
        energy              -|x - y|: L is the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely and Rizzo
                            2013); it has no bandwidth. Its gradient at two points that coincide is 0

    As a generator's loss it needs no discriminator (Li et al. 2015, eq. 3, and Dziugaite et al. 2015, generative moment
    matching networks). Applied to features it is the loss of domain adaptation (Long et al. 2015) and, for Inception
    features and a cubic kernel, KID (Bińkowski et al. 2018).

    Args:
        x, y: (N, d) and (M, d), one dtype of float16, bfloat16, float32 and float64, one device. Rows are points:
            `images.flatten(1)`. Float32 arithmetic (float64 for float64), sums in float64.
        bandwidths: s, in units of the data, a number or several. By default 0.5, 1, 2, 4, for data of unit scale.
        alpha: of the rational quadratic kernel.
        include_target_term: False skips mean k(y, y'), which no gradient at x depends on, and saves its time.
        weight: multiplies the loss.
        precision: how squared distances D are computed. eps is 2^-24, |x| and |y| are distances from the samples'
            middle. "fp32": in up to 4 dimensions by differences, (x_k - y_k)^2, with an error of a few eps however
            close two points are. In more, by |x|^2 + |y|^2 - 2 x.y on matrix units in float32 accuracy (three passes of
            tf32 on NVIDIA): the error of D is at most 8 eps (|x| + |y|)^2, and the relative error of exp(-D / 2 s^2) at
            most 2^-22 (|x| + |y|)^2 / s^2: 1e-3 for bandwidths of 1/30 of the spread. Blocks where that would exceed
            2^-7 (samples far apart, a point far from all others) use differences if their pairs are close enough to
            count. "tf32": one pass, an error of up to 2^-10 (|x| + |y|)^2. "exact": differences in any dimension, at
            several times the cost. On a GPU, float64 samples always use differences.

    Returns:
        0-d tensor, float32 (float64 for float64 samples); differentiable in x and y, and more than once. It is a
        difference of means: its error is 2e-6 of (mean k(x, x') + mean k(y, y') + 2 mean k(x, y)), even near 0.

    Raises:
        TypeError: not floating tensors, bandwidths that are not numbers.
        ValueError: not two dimensions, dimensions that differ, an empty sample, two dtypes or devices, a bandwidth or
            alpha that is not above 0, bandwidths for the energy distance, `unbiased` with a sample of one point.
    """
    settings = _settings(x, y, bandwidths, kernel, alpha, unbiased, include_target_term, weight, precision)
    return operators.value(x, y, settings)


class MMDValueAndGrad(NamedTuple):
    """loss: 0-d. grad: the gradient at x, of its shape and dtype. grad_target: the gradient at y, or None.
    means: (3,), mean k(x, x'), mean k(x, y), mean k(y, y') (0 if it was left out). No graph is attached."""

    loss: Tensor
    grad: Tensor
    grad_target: Tensor | None
    means: Tensor


def mmd_value_and_grad(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | float | None = None,
    *,
    kernel: str = "gaussian",
    alpha: float = 1.0,
    unbiased: bool = False,
    include_target_term: bool = True,
    weight: float = 1.0,
    precision: str = "fp32",
    grad_scale: Tensor | float | None = None,
    target_gradient: bool = False,
) -> MMDValueAndGrad:
    """`mmd_loss` and its gradient at the generated samples x in one launch, without an autograd graph. Continue with

        fake.backward(out.grad.view_as(fake))

    `grad_scale`, a number or a floating tensor of one element on the device, multiplies the gradients in float32 before
    they are rounded. `target_gradient=True` computes the gradient at y too. Other arguments and errors are those of
    `mmd_loss`."""
    settings = _settings(x, y, bandwidths, kernel, alpha, unbiased, include_target_term, weight, precision)
    derivative_refused("mmd_value_and_grad", "mmd_loss")
    scale, factor = grad_scale_of(grad_scale, x)
    loss, means, grad, grad_target = operators.value_and_gradient(x, y, settings, scale, factor, target_gradient)
    return MMDValueAndGrad(loss, grad, grad_target if target_gradient else None, means)


def _settings(x, y, bandwidths, kernel, alpha, unbiased, target, weight, precision) -> MMDSettings:
    for name, sample in (("x", x), ("y", y)):
        floating(name, sample)
        if sample.dim() != 2:
            hint = ": `[:, None]` for points on a line" if sample.dim() == 1 else ": `flatten(1)`"
            raise ValueError(f"{name}: got shape {tuple(sample.shape)}, expected (points, dimensions){hint}")
        if not sample.numel():
            raise ValueError(f"{name}: got shape {tuple(sample.shape)}, expected at least one point and one dimension")
    if x.dtype != y.dtype:
        raise ValueError(f"y: got {y.dtype}, expected {x.dtype}, the dtype of x")
    if x.device != y.device:
        raise ValueError(f"y: got a tensor on {y.device}, expected {x.device}, the device of x")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y: got points of {y.shape[1]} dimensions, expected {x.shape[1]}, as x has")
    choice("kernel", kernel, KERNELS)
    choice("precision", precision, PRECISIONS)
    weight = number("weight", weight)
    alpha = number("alpha", alpha)
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha: got {alpha}, expected a number above 0")
    for name, sample, counts in (("x", x, True), ("y", y, target)):
        if unbiased and counts and len(sample) < 2:
            raise ValueError(f"{name}: got 1 point, expected at least 2: unbiased pairs have two points")
    bandwidths = _bandwidths(kernel, bandwidths)
    return MMDSettings(kernel, bandwidths, alpha, bool(unbiased), bool(target), weight, precision)


def _bandwidths(kernel: str, given) -> tuple[float, ...]:
    if kernel == "energy":
        if given is not None:
            raise ValueError(f"bandwidths: got {given!r}, expected None: the energy distance has no bandwidth")
        return ()
    if given is None:
        return BANDWIDTHS
    single = isinstance(given, Real)
    if not single and (isinstance(given, (str, Tensor)) or not hasattr(given, "__len__")):
        raise TypeError(f"bandwidths: got {type(given).__name__}, expected numbers")
    given = [given] if single else list(given)
    if not given:
        raise ValueError("bandwidths: got none, expected at least one")
    for i, s in enumerate(given):
        name = "bandwidths" if single else f"bandwidths[{i}]"
        number(name, s)
        if not 0 < s < math.inf:
            raise ValueError(f"{name}: got {s}, expected a number above 0")
    descending: list[float] = []
    for s in given:  # not `sorted`: `torch.compile` does not support it for dynamic numbers
        descending.insert(sum([other >= s for other in descending]), float(s))
    return tuple(descending)
