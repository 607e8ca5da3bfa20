"""Augmentation by DiffAugment's steps in float64, and the allowed error of a result."""

import math

import torch
import torch.nn.functional as F
from oracle import ulp

from fastgan.formulas.augment import Augmentation
from fastgan.layers.augment import POLICIES, augment, draw_augmentation

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def seeded(device="cpu", seed=0):
    return torch.Generator(device).manual_seed(seed)


def drawn(shape, device, policy=POLICIES, seed=0, **options):
    """Draw from a CPU generator, so that every backend has the same parameters."""
    return Augmentation(
        *(p.to(device) for p in draw_augmentation(shape[0], shape, policy, generator=seeded(seed=seed), **options))
    )


def images(shape, dtype=torch.float32, device="cpu", seed=1):
    return torch.randn(shape, generator=seeded(seed=seed), dtype=torch.float64).to(dtype).to(device)


def moved(y, parameters, n):
    """Flip, translation and cutout of one image, by padding and slices."""
    height, width = y.shape[1:]
    y = y.flip(-1) if parameters.flip[n] else y
    rows, columns = parameters.translation[n].tolist()
    y = F.pad(y, (width, width, height, height))[:, height + rows :][:, :height, width + columns :][..., :width]
    (i, j), (h, w) = parameters.cutout_centre[n].tolist(), parameters.cutout_size[n].tolist()
    kept = torch.ones(height, width, dtype=torch.bool)
    kept[max(0, i - h // 2) : max(0, i - h // 2 + h), max(0, j - w // 2) : max(0, j - w // 2 + w)] = False
    return torch.where(kept, y, 0.0)


def reference(x, parameters):
    """As in DiffAugment: brightness, saturation, contrast, one after the other."""
    parameters, found = Augmentation(*(p.cpu() for p in parameters)), []
    for n, y in enumerate(x):
        b, s, c = (p[n].double() for p in parameters[:3])
        y = y + b
        grey = y.mean(0, keepdim=True)
        y = (y - grey) * s + grey
        y = (y - y.mean()) * c + y.mean()
        found.append(moved(y, parameters, n))
    return torch.stack(found)


def sizes(x, parameters, double):
    """The sum of the absolute values of an output's terms, to which rounding errors are relative. In float64 it has
    the terms that cancel in the reference, which rounds as well."""
    parameters, found = Augmentation(*(p.cpu() for p in parameters)), []
    for n, y in enumerate(x):
        b, s, c = (p[n].double() for p in parameters[:3])
        size = (c * s).abs() * y + (c * (1 - s)).abs() * y.mean(0) + (1 - c).abs() * y.mean() + b.abs()
        found.append(moved(size + y + y.mean(0) + y.mean() + b.abs() if double else size, parameters, n))
    return torch.stack(found)


def assert_right(got, want, size, dtype, elements):
    """Allow twelve roundings of numbers up to `size`, and those of the mean. Half precision also rounds the result
    (Triton's interpreter truncates bfloat16: a whole unit in the last place)."""
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    allowed = (12 + elements / 512) * eps * size
    if dtype in (torch.bfloat16, torch.float16):
        allowed = allowed + ulp(want, dtype)
    off = (got.detach().cpu().double() - want).abs()
    bad = ~(off <= allowed)
    assert got.dtype == dtype and not bad.any(), (
        f"{int(bad.sum())} of {bad.numel()}: {got[bad.to(got.device)][:3]}, want {want[bad][:3]}"
    )


def check(x, parameters):
    """Check values and gradient of the augmentation at x."""
    exact, dtype = x.detach().cpu().double().requires_grad_(), x.dtype
    want = reference(exact, parameters)
    size_of = x.detach().cpu().double().abs().requires_grad_()
    size = sizes(size_of, parameters, dtype == torch.float64)
    elements = math.prod(x.shape[1:])
    x = x.detach().requires_grad_()
    got = augment(x, parameters)
    assert_right(got, want.detach(), size.detach(), dtype, elements)
    assert got.stride() == x.stride() or not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
    upstream = images(x.shape, dtype, x.device, seed=2)
    (grad,) = torch.autograd.grad(got, x, upstream)
    upstream = upstream.cpu().double()
    (want,) = torch.autograd.grad(want, exact, upstream)
    (size,) = torch.autograd.grad(size, size_of, upstream.abs())
    assert_right(grad, want, size, dtype, elements)
