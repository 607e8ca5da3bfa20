"""Maximum mean discrepancy in float64, all pairs at once, by differences.

Errors are relative to sums of absolute values: of means of k for the loss, sum_j |c_ij| |x_i - z_j| for the gradient at
x_i. Loss and gradient are differences of such sums, attraction and repulsion, which lose their digits near 0. The bound
relative to the result is tested where nothing cancels.
"""

import math

import torch
from oracle import ulp

import fastgan
from fastgan.formulas.mmd import DIFFERENCES_UP_TO
from fastgan.losses import mmd

KERNELS = mmd.KERNELS
RTOL = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}


def samples(n, m, d, dtype=torch.float32, device="cpu", seed=0, apart=0.5):
    generator = torch.Generator().manual_seed(seed + n)
    x, y = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    return [s.to(dtype).to(device) for s in (x, y + apart / math.sqrt(d))]


def exact(x, y, bandwidths, kernel="gaussian", alpha=1.0, unbiased=False, target=True, products=False):
    """(loss, its size, gradients, their sizes, means) in float64, by differences, all pairs at once."""
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    n, m = len(x), len(y)
    bandwidths = (bandwidths,) if isinstance(bandwidths, float) else bandwidths

    def pairs(a, b, same):
        apart = a[:, None] - b
        D = apart.square().sum(-1)
        if kernel == "energy":
            k, slope = -D.sqrt(), torch.where(D > 0, -0.5 / torch.where(D > 0, D, 1.0).sqrt(), 0.0)
        elif kernel == "gaussian":
            parts = [(torch.exp(-D / (2 * s * s)), 2 * s * s) for s in bandwidths]
            k, slope = sum(p for p, _ in parts), sum(-p / r for p, r in parts)
        else:
            parts = [(1 + D / (2 * alpha * s * s), 2 * s * s) for s in bandwidths]
            k, slope = sum(p**-alpha for p, _ in parts), sum(-(p ** (-alpha - 1)) / r for p, r in parts)
        if same and unbiased:
            k = k - torch.diag(k.diagonal())
        count = len(a) * (len(a) - unbiased) if same else n * m
        weight = (1 if same else -1) * 4 * slope / count
        middle = (x.mean(0) + y.mean(0)) / 2
        length = (a - middle).norm(dim=1)[:, None] + (b - middle).norm(dim=1)
        sizes = length[..., None].expand_as(apart) if products else apart.abs()
        grad, size = weight[..., None] * apart, weight.abs()[..., None] * sizes
        return k.sum() / count, grad.sum(1), size.sum(1)

    xx, xy, yx = pairs(x, x, True), pairs(x, y, False), pairs(y, x, False)
    yy = (
        pairs(y, y, True)
        if target
        else (torch.zeros((), dtype=torch.float64), torch.zeros_like(y), torch.zeros_like(y))
    )
    means = torch.stack((xx[0], xy[0], yy[0]))
    loss = xx[0] + yy[0] - 2 * xy[0]
    size = xx[0].abs() + yy[0].abs() + 2 * xy[0].abs()
    return loss, size, (xx[1] + xy[1], yy[1] + yx[1]), (xx[2] + xy[2], yy[2] + yx[2]), means


def assert_within(got, want, size, dtype, rtol=None):
    """Compare per element, relative to `size`; half precision also gets one ulp for the rounding of the output."""
    got = got.detach().cpu().double()
    allowed = (RTOL[dtype] if rtol is None else rtol) * size
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + ulp(want, dtype)
    bad = ~((got - want).abs() <= allowed)
    assert not bad.any(), f"{int(bad.sum())} off; got {got[bad].flatten()[0]}, want {want[bad].flatten()[0]}"


def check(x, y, bandwidths, rtol=None, scale=1.0, **options):
    """Check loss, means and both gradients, of value_and_grad and of the drop-in."""
    dtype = x.dtype
    out_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    settings = dict(options)
    products = settings.pop("precision", "fp32") != "exact" and x.shape[1] > DIFFERENCES_UP_TO
    target = settings.pop("include_target_term", True)
    loss, size, grads, sizes, means = exact(x, y, bandwidths, target=target, products=products, **settings)
    out = fastgan.mmd_value_and_grad(x, y, bandwidths, target_gradient=True, grad_scale=scale, **options)
    assert out.loss.dtype == out.means.dtype == out_dtype and out.loss.shape == () and out.means.shape == (3,)
    assert_within(out.loss, loss, size, out_dtype, rtol)
    assert_within(out.means, means, means.abs(), out_dtype, rtol)
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    dropped = fastgan.mmd_loss(x, y, bandwidths, **options)
    assert_within(dropped, loss, size, out_dtype, rtol)
    (dropped * scale).backward()
    for got, again, want, each in zip((out.grad, out.grad_target), (x.grad, y.grad), grads, sizes):
        assert got.dtype == dtype and got.shape == want.shape
        assert_within(got, want * scale, each * abs(scale), dtype, rtol)
        assert_within(again, want * scale, each * abs(scale), dtype, rtol)
