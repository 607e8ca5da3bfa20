"""Upsample, filter, downsample: against sums over taps in float64, per element; derivatives, layouts, NaN."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from resampling import BLUR, assert_near, assert_scaled, exact, images, taps_of

from fastgan import layers
from fastgan.formulas.upfirdn2d import output_size

pytestmark = pytest.mark.usefixtures("poisoned")
INF, NAN = float("inf"), float("nan")


def check(device, dtype, shape, taps, up, down, padding, flip, gain=1.5):
    x, f = images(shape, dtype, device).requires_grad_(), taps_of(taps, device)
    y = layers.upfirdn2d(x, f, up, down, padding, flip, gain)
    leaf = x.detach().double().requires_grad_()
    want = exact(leaf, f, up, down, padding, flip, gain)
    size = exact(x.detach().abs(), f.abs(), up, down, padding, flip, gain)
    count = f.numel() if f.dim() == 2 else 2 * f.numel()
    assert_near(y, want, size, count, dtype)
    g = images(y.shape, dtype, device, 2)
    (grad,) = torch.autograd.grad(y, x, g)
    (want_grad,) = torch.autograd.grad(want, leaf, g.double())
    leaf = x.detach().double().requires_grad_()
    (size,) = torch.autograd.grad(exact(leaf, f.abs(), up, down, padding, flip, gain), leaf, g.double().abs())
    assert_near(grad, want_grad, size, count, dtype)


CASES = [  # shape, taps, up, down, padding, flip
    ((2, 3, 9, 7), (4, 4), (1, 1), (1, 1), (2, 1, 2, 1), False),
    ((1, 2, 5, 6), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False),
    ((1, 2, 9, 8), (4, 4), (1, 1), (2, 2), (1, 1, 1, 1), True),
    ((2, 1, 6, 5), (5, 2), (3, 2), (2, 3), (-1, 3, 4, -2), False),  # loops over rows
    ((1, 2, 6, 7), (3,), (1, 3), (2, 1), (-2, 0, 7, -3), True),
    ((1, 1, 1, 1), (1, 1), (2, 4), (1, 1), (0, 0, 0, 0), False),
]
LONG = [  # filters as in StyleGAN3
    ((1, 2, 5, 6), (12,), (2, 2), (1, 1), (6, 5, 6, 5), False),
    ((1, 1, 13, 16), (12,), (1, 1), (2, 2), (5, 5, 5, 5), True),
    ((1, 1, 3, 4), (24,), (4, 4), (1, 1), (13, 10, 13, 10), False),
    ((1, 1, 9, 3), (12, 12), (2, 2), (2, 2), (8, 9, 7, 4), False),
]
thorough = pytest.mark.thorough


@pytest.mark.parametrize("case", [*CASES, *[pytest.param(case, marks=thorough) for case in LONG]], ids=str)
def test_values_and_gradients(device, case):
    check(device, torch.float64, *case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(device, dtype):
    check(device, dtype, (1, 2, 4, 3), (4, 4), (1, 1), (1, 1), (2, 1, 2, 1), False)


@thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_of_every_case(device, dtype):
    for case in (*CASES, *LONG):
        check(device, dtype, *case)


@thorough
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed > 0 else ()) for seed in range(24)])
def test_any_settings(device, seed):
    """Up and down from 1 to 4 in each dimension, paddings from -3 to 7, both kinds of filter, up to 32 taps."""
    rng = random.Random(seed)
    found = 0
    while found < 12:
        up, down = ((rng.randint(1, 4), rng.randint(1, 4)) for _ in range(2))
        padding = tuple(rng.randint(-3, 7) for _ in range(4))
        most = 32 if rng.random() < 0.1 else 7
        taps = tuple(rng.randint(1, most) for _ in range(rng.choice((1, 2))))
        shape = (rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 11), rng.randint(1, 11))
        if min(output_size(shape[2:], (taps[0], taps[-1]), up, down, padding)) >= 1:
            check(device, torch.float64, shape, taps, up, down, padding, rng.random() < 0.5)
            found += 1


@thorough
def test_every_up_down_and_kind(device):
    for up, down, taps, flip in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), ((4, 3), (5,)), (False, True)):
        check(device, torch.float64, (1, 2, 5, 6), taps, (up, up), (down, down), (3, 2, -1, 4), flip)


@thorough
@pytest.mark.slow
def test_many_planes_and_columns(device):
    for shape in ((70, 5, 4, 4), (1, 3, 40, 300), (3, 20, 33, 17), (2, 1, 129, 3)):
        for x in (images(shape), images(shape).contiguous(memory_format=torch.channels_last)):
            f = taps_of((4, 4))
            y = layers.upfirdn2d(x.to(device), f.to(device), padding=(2, 1, 2, 1))
            assert_near(
                y, exact(x, f, padding=(2, 1, 2, 1)), exact(x.abs(), f.abs(), padding=(2, 1, 2, 1)), 16, x.dtype
            )


def test_gradients_in_the_filter(device):
    for taps, up, down, padding, flip in (
        ((3, 4), (2, 1), (1, 2), (2, 1, -1, 3), False),
        ((5,), (1, 2), (2, 1), (3, 2, 1, 2), True),
    ):
        x, f = images((2, 3, 5, 6), device=device).requires_grad_(), taps_of(taps, device).requires_grad_()
        leaf, f64 = x.detach().requires_grad_(), f.detach().double().requires_grad_()
        results = []
        for y, a, b in (
            (layers.upfirdn2d(x, f, up, down, padding, flip, 1.5), x, f),
            (exact(leaf, f64, up, down, padding, flip, 1.5), leaf, f64),
        ):
            first = torch.autograd.grad((y**2).sum(), (a, b), create_graph=True)
            second = torch.autograd.grad(sum((g**2).sum() for g in first), (a, b))
            results.append((*first, *second))
        for got, want in zip(*results):
            assert_scaled(got, want, 1e-5)  # the filter's own gradient is float32


def test_gradcheck_and_gradgradcheck(device):
    for taps, up, down, padding in (((3, 4), (2, 1), (1, 2), (1, 2, 0, 3)), ((4,), (1, 3), (2, 2), (2, 1, 3, -1))):
        x, f = images((1, 2, 3, 3), device=device).requires_grad_(), taps_of(taps, device)

        def function(x, f=f, up=up, down=down, padding=padding):
            return layers.upfirdn2d(x, f, up, down, padding, False, 0.7)

        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def test_r1_through_a_blur(device):
    """The penalty's gradient: a second derivative through a nonlinear network around the operator."""
    f = layers.setup_filter(BLUR, device=device)
    x, w = images((2, 2, 5, 5), device=device).requires_grad_(), images((2, 2, 3, 3), device=device, seed=4)
    results = []
    for blur in (
        lambda h: layers.downsample2d(h, f),
        lambda h: exact(h, f, down=(2, 2), padding=(1, 1, 1, 1)),
    ):
        leaf = w.clone().requires_grad_()
        logits = blur(F.softplus(F.conv2d(x, leaf, padding=1))).square().sum()
        (g,) = torch.autograd.grad(logits, x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), leaf)[0])
    assert_scaled(*results, 1e-10)


def views(shape):
    """The same images in every memory layout."""
    x = images(shape, torch.float32)
    n, c, h, w = shape
    yield "contiguous", x
    yield "channels_last", x.contiguous(memory_format=torch.channels_last)
    base = torch.full((n, c + 1, h + 2, 2 * w + 3), NAN)
    view = base[:, 1:, 1:-1, 2 : 2 + 2 * w : 2]
    yield "strided, with an offset", view.copy_(x)
    base = torch.full((n, h + 1, w + 1, c + 3), NAN).permute(0, 3, 1, 2)
    view = base[:, 1 : c + 1, 1:, :-1]
    yield "channels_last, a part", view.copy_(x)
    yield "transposed", x.transpose(2, 3).contiguous().transpose(2, 3)
    yield "batch inside", x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    yield "negative", torch._neg_view(-x)


@pytest.mark.parametrize(
    "shapes", [[(2, 2, 3, 4)], pytest.param([(2, 3, 6, 5), (1, 1, 3, 4)], marks=thorough)], ids=["few", "more"]
)
def test_layouts(device, shapes):
    f = taps_of((3, 2), device)
    for shape in shapes:
        x = images(shape, torch.float32, device)
        want = layers.upfirdn2d(x, f, (2, 1), (1, 2), (0, 1, 2, -1))
        for name, view in views(shape):
            view = view.to(device) if device.type == "cpu" else _moved(view, device)
            leaf = view.detach().requires_grad_()
            y = layers.upfirdn2d(leaf, f, (2, 1), (1, 2), (0, 1, 2, -1))
            assert torch.equal(y, want) or (device.type == "cpu" and torch.allclose(y, want, rtol=1e-5)), name
            if name.startswith("channels_last") and shape[1] > 1:
                assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous(), name
            else:
                assert y.is_contiguous(), name
            (grad,) = torch.autograd.grad(y, leaf, y.detach())
            leaf = x.clone().requires_grad_()
            (other,) = torch.autograd.grad(layers.upfirdn2d(leaf, f, (2, 1), (1, 2), (0, 1, 2, -1)), leaf, y.detach())
            assert torch.allclose(grad, other, rtol=1e-5, atol=0) and torch.equal(view, x), name
    expanded = images((1, 1, 4, 5), torch.float32, device).expand(2, 3, 4, 5)
    want = layers.upfirdn2d(expanded.contiguous(), f, padding=2)
    assert torch.equal(layers.upfirdn2d(expanded, f, padding=2), want)


def _moved(view, device):
    return torch.empty_strided(view.shape, view.stride(), device=device).copy_(view)


def test_filters_of_other_layouts(kernel_device):
    x, f = images((1, 2, 5, 5), torch.float32, kernel_device), taps_of((4, 3), kernel_device)
    want = layers.upfirdn2d(x, f, padding=2)
    assert torch.equal(layers.upfirdn2d(x, f.T.contiguous().T, padding=2), want)
    assert torch.equal(layers.upfirdn2d(x, torch._neg_view(-f), padding=2), want)
    assert torch.equal(layers.upfirdn2d(x, f.flip((0, 1)), padding=2, flip_filter=True), want)


def test_not_finite(device):
    """NaN and infinite pixels reach only the results of their taps, as in the sum over taps."""
    for shape, taps, up, down in (
        ((1, 1, 7, 9), (4, 4), (1, 1), (1, 1)),
        ((1, 1, 7, 9), (3, 3), (2, 2), (1, 1)),
        ((1, 1, 9, 9), (5,), (2, 2), (3, 3)),
        ((1, 1, 9, 9), (3, 5), (3, 3), (1, 1)),
    ):
        x, f = images(shape, torch.float32, device), taps_of(taps, device).abs() + 0.1
        x[0, 0, 2, 3], x[0, 0, 5, 6], x[0, 0, 6, 0] = NAN, INF, -INF
        got = layers.upfirdn2d(x, f, up, down, 2)
        want = exact(x, f, up, down, (2, 2, 2, 2))
        for kind in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(kind(got), kind(want)) and (kind(want).any() or kind is not torch.isnan)


def test_empty(device):
    f = taps_of((4, 4), device)
    for shape in ((0, 3, 5, 5), (2, 0, 5, 5)):
        x = images(shape, torch.float32, device).requires_grad_()
        y = layers.upsample2d(x, f)
        assert y.shape == (*shape[:2], 10, 10)
        y.sum().backward()
        assert x.grad.shape == shape
    flat = torch.zeros(1, 1, 0, 3, device=device)
    assert torch.equal(layers.upfirdn2d(flat, f, padding=4), torch.zeros(1, 1, 5, 8, device=device))


def test_shapes_on_the_meta_device():
    x, f = torch.empty(1, 2, 4, 4, device="meta"), torch.empty(4, 4, device="meta")
    assert layers.upsample2d(x, f).shape == (1, 2, 8, 8)
    assert layers.filtered_lrelu(x, f, f, up=2, down=3, padding=4).shape == (1, 2, 4, 4)
