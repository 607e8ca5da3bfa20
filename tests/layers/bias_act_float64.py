"""The nine activations in float64: value, slope and curvature, and the allowed error of a result."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracle import GRAD_RTOL, ulp

from fastgan.layers import bias_act

ROOT = math.sqrt(2)
WIDE = pytest.param(torch.float64, marks=pytest.mark.thorough)  # other tests are in float64
HALF = pytest.param(torch.float16, marks=pytest.mark.thorough)
DTYPES = [torch.float32, torch.bfloat16, HALF, WIDE]
GAINS = {"relu": ROOT, "lrelu": ROOT, "swish": ROOT}
CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
A, S = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def sigmoid_slope(v):
    e = torch.exp(-v.abs())
    return e / (1 + e) ** 2


def softplus(v):
    return v.clamp(min=0) + torch.log1p(torch.exp(-v.abs()))


def swish_curvature(v):
    return sigmoid_slope(v) * (2 - v * torch.tanh(v / 2))


# name: value, slope, curvature of float64 v
ZERO, ONE = torch.zeros_like, torch.ones_like
FORMULAS = {
    "linear": (lambda v, a: v, lambda v, a: ONE(v), lambda v: ZERO(v)),
    "relu": (lambda v, a: v.clamp(min=0), lambda v, a: (v > 0).double(), lambda v: ZERO(v)),
    "lrelu": (lambda v, a: torch.where(v > 0, v, a * v), lambda v, a: torch.where(v > 0, ONE(v), a), ZERO),
    "tanh": (lambda v, a: torch.tanh(v), lambda v, a: torch.cosh(v) ** -2, lambda v: -2 * v.sinh() / v.cosh() ** 3),
    "sigmoid": (
        lambda v, a: 1 / (1 + torch.exp(-v)),
        lambda v, a: sigmoid_slope(v),
        lambda v: -sigmoid_slope(v) * torch.tanh(v / 2),
    ),
    "elu": (
        lambda v, a: torch.where(v > 0, v, torch.expm1(v)),
        lambda v, a: torch.where(v > 0, 1.0, torch.exp(v)),
        lambda v: torch.where(v < 0, torch.exp(v), 0.0),
    ),
    "selu": (
        lambda v, a: S * torch.where(v > 0, v, A * torch.expm1(v)),
        lambda v, a: S * torch.where(v > 0, 1.0, A * torch.exp(v)),
        lambda v: S * A * torch.where(v < 0, torch.exp(v), 0.0),
    ),
    "softplus": (
        lambda v, a: softplus(v), lambda v, a: 1 / (1 + torch.exp(-v)), lambda v: sigmoid_slope(v)
    ),
    "swish": (
        lambda v, a: v / (1 + torch.exp(-v)),
        lambda v, a: 1 / (1 + torch.exp(-v)) + v * sigmoid_slope(v),
        swish_curvature,
    ),
}  # fmt: skip
LARGEST = {  # largest term of slope and curvature, to which errors are relative if terms cancel
    "tanh": (lambda v: torch.cosh(v) ** -2, lambda v: 2 * torch.cosh(v) ** -2),
    "sigmoid": (sigmoid_slope, sigmoid_slope),
    "swish": (
        lambda v: 1 / (1 + torch.exp(-v)) + v.abs() * sigmoid_slope(v),
        lambda v: sigmoid_slope(v) * (2 + v.abs()),
    ),
}


def drawn(shape, dtype, device, seed):
    """Multiples of 1/16, exact in every dtype; sums of two are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-64, 65, shape, generator=generator) / 16 * (1 + (torch.rand(shape, generator=generator) < 0.05))
    return x.double().to(dtype).to(device)


def spread(vector, x, dim):
    return vector.reshape([-1 if i == dim % x.dim() else 1 for i in range(x.dim())])


def over(x, dim):
    return x.movedim(dim, 0).reshape(x.shape[dim], -1).sum(1)


def close(got, want, dtype, magnitude=None, skip=None):
    assert got.dtype == dtype and got.shape == want.shape
    got, want = got.detach().cpu().double(), want.detach().cpu()
    allowed = (want.abs() if magnitude is None else magnitude.cpu().abs()) * GRAD_RTOL[dtype]
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + ulp(want, dtype)
    bad = ~((got - want).abs() <= allowed)
    if skip is not None:
        assert skip.double().mean() < 0.2
        bad &= ~skip.cpu()
    first = [(got[bad][i].item(), want[bad][i].item()) for i in range(min(3, int(bad.sum())))]
    assert not first, f"{int(bad.sum())} of {bad.numel()} off; (got, want): {first}"


def check(shape, dtype, device, act, dim=1, biased=True, layout=lambda x: x, **options):
    """Check the value and both derivatives."""
    x = layout(drawn(shape, dtype, device, 0)).requires_grad_()
    b = drawn((shape[dim],), dtype, device, 1).requires_grad_() if biased else None
    g, h = (layout(drawn(shape, dtype, device, seed)).requires_grad_() for seed in (2, 3))
    k = drawn((shape[dim],), dtype, device, 4) if biased else None
    y = bias_act(x, b, dim, act, **options)
    inputs = [x, b] if biased else [x]
    grads = torch.autograd.grad(y, inputs, g, create_graph=True)
    product = (h * grads[0]).sum(dtype=torch.float64) + ((k * grads[1]).sum(dtype=torch.float64) if biased else 0)
    second = torch.autograd.grad(product, [g, *inputs], allow_unused=True)

    alpha, gain, clamp = options.get("alpha", 0.2), options.get("gain", GAINS.get(act, 1.0)), options.get("clamp")
    X, G, H = (t.detach().double().cpu() for t in (x, g, h))
    v = X + spread(b.detach().double().cpu(), X, dim) if biased else X
    value, slope, curvature = FORMULAS[act]
    z, slope, curved = gain * value(v, alpha), gain * slope(v, alpha), gain * curvature(v)
    of_slope, of_curved = (gain * f(v) for f in LARGEST.get(act, (lambda v: slope, lambda v: curved)))
    within, skip = torch.ones_like(v, dtype=torch.bool), None
    if clamp is not None:
        within = z.abs() < clamp
        skip = (z.abs() - clamp).abs() <= ulp(torch.tensor(clamp).double(), dtype)  # y may be the clamp there
        slope, curved, of_slope, of_curved = (t * within for t in (slope, curved, of_slope, of_curved))
        z = z.clamp(-clamp, clamp)
    close(y, z, dtype)
    close(grads[0], G * slope, dtype, G * of_slope, skip)
    some = skip is None or not skip.any() or not biased
    if biased and some:
        close(grads[1], over(G * slope, dim), dtype, over((G * of_slope).abs(), dim))
    U = H + spread(k.double().cpu(), H, dim) if biased else H
    close(second[0], U * slope, dtype, (H.abs() + (U - H).abs()) * of_slope, skip)
    if act not in CURVED:
        assert all(t is None or not t.any() for t in second[1:])
        return
    largest = (H.abs() + (U - H).abs()) * (G * of_curved).abs()
    close(second[1], U * G * curved, dtype, largest, skip)
    if biased and some:
        close(second[2], over(U * G * curved, dim), dtype, over(largest, dim))


def eager(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    """The layer in eager PyTorch, as an author writes it."""
    v = x if b is None else x + spread(b, x, dim)
    functions = {
        "linear": lambda v: v, "lrelu": lambda v: F.leaky_relu(v, 0.2 if alpha is None else alpha),
        "swish": lambda v: torch.sigmoid(v) * v,
    }  # fmt: skip
    y = functions[act](v) if act in functions else getattr(F, act)(v)
    y = y * (GAINS.get(act, 1.0) if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)
