"""Images, filters, and resampling as sums over taps in float64."""

import itertools

import torch

BLUR = [1.0, 3.0, 3.0, 1.0]  # StyleGAN2's
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.float16: 2.0**-23, torch.bfloat16: 2.0**-23}


def exact(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip=False, gain=1.0):
    """Insert zeros, pad or crop, and sum over taps: in float64, differentiable in x and f."""
    x, f = x.double(), f.double()
    f = torch.outer(f, f) if f.dim() == 1 else f
    n, c, height, width = x.shape
    left, right, top, bottom = padding
    size = height * up[1] + top + bottom, width * up[0] + left + right
    rows = torch.zeros(size[0], height, dtype=torch.float64)  # where each row and column goes
    columns = torch.zeros(size[1], width, dtype=torch.float64)
    for i in range(height):
        if 0 <= i * up[1] + top < size[0]:
            rows[i * up[1] + top, i] = 1
    for j in range(width):
        if 0 <= j * up[0] + left < size[1]:
            columns[j * up[0] + left, j] = 1
    if x.isfinite().all():
        u = rows.to(x.device) @ x @ columns.to(x.device).T
    else:  # a product with 0 would spread NaN and infinity
        u = x.new_zeros(n, c, *size)
        for i, j in itertools.product(range(height), range(width)):
            if rows[:, i].any() and columns[:, j].any():
                u[:, :, rows[:, i].argmax(), columns[:, j].argmax()] = x[:, :, i, j]
    f = f if flip else f.flip((0, 1))
    oh, ow = size[0] - f.shape[0] + 1, size[1] - f.shape[1] + 1
    taps = itertools.product(range(f.shape[0]), range(f.shape[1]))
    return gain * sum(u[:, :, k : k + oh, m : m + ow] * f[k, m] for k, m in taps)[:, :, :: down[1], :: down[0]]


def ulp(x, dtype):
    info = torch.finfo(dtype)
    return torch.exp2(torch.floor(torch.log2(x.abs().clamp(min=info.smallest_normal)))) * info.eps


def assert_near(got, want, size, taps, dtype):
    """Allow, per element, a rounding of `size`, the sum of absolute values, for each term, and one of the output."""
    assert got.dtype == dtype and got.shape == want.shape
    got, want, size = (t.detach().cpu().double() for t in (got, want, size))
    allowed = size * (taps + 4) * EPS[dtype]
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + ulp(want, dtype)
    off = (got - want).abs()
    assert (off <= allowed).all(), f"off by {off.max().item()}, {(off > allowed).sum().item()} elements"


def images(shape, dtype=torch.float64, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def taps_of(shape, device="cpu", seed=1):
    return images(shape, torch.float32, device, seed)


def assert_scaled(got, want, rtol):
    """Compare per element, relative to the largest."""
    assert got.shape == want.shape
    assert ((got.double() - want.double()).abs() <= rtol * want.abs().max()).all()
