"""A leaky ReLU between two filters: against float64, per element; derivatives, launches, machinery, errors."""

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from resampling import assert_near, assert_scaled, exact, images, taps_of

from fastgan import kernels, layers
from fastgan.formulas import filtered_lrelu as formula
from fastgan.formulas.upfirdn2d import output_size

pytestmark = pytest.mark.usefixtures("poisoned")

thorough = pytest.mark.thorough
INF, NAN = float("inf"), float("nan")
GAIN = math.sqrt(2)


def reference(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip):
    """One step after the other, in float64."""
    x = x.double() if b is None else x.double() + b.double()[:, None, None]
    u = exact(x, fu, (up, up), (1, 1), padding, flip, up**2)
    a = gain * torch.where(u > 0, u, slope * u)
    a = a if clamp is None else a.clamp(-clamp, clamp)
    return exact(a, fd, (1, 1), (down, down), (0, 0, 0, 0), flip)


CASES = [  # shape, taps up, taps down, up, down, padding, clamp, flip
    ((1, 2, 4, 5), (4,), (4,), 2, 2, (5, 4, 5, 4), 0.7, False),
    ((2, 1, 3, 4), (3, 2), (2, 3), 2, 1, (3, 2, 1, 4), None, True),
    ((1, 2, 5, 4), (1, 1), (4, 4), 1, 2, (1, 1, 2, 2), 0.7, False),
    ((1, 3, 5, 6), (3,), (5,), 3, 2, (2, -3, 4, 0), 0.5, True),
]
LONG = [  # filters as in StyleGAN3
    ((1, 2, 6, 6), (12,), (12,), 2, 2, (10, 9, 10, 9), 2.0, False),
    ((1, 1, 6, 5), (24,), (12,), 4, 2, (16, 17, 16, 17), 256.0, False),
    ((1, 1, 7, 7), (12,), (12, 12), 2, 2, (10, 9, 10, 9), 2.0, False),
    ((1, 1, 7, 5), (5,), (3, 4), 3, 3, (-2, 9, 5, 4), 0.5, True),
    ((3, 3, 50, 5), (4,), (3,), 2, 1, (2, 1, 2, 1), None, False),  # several programs of rows, and planes
    ((1, 1, 4, 150), (4,), (6,), 2, 2, (2, 1, 2, 1), 0.7, False),  # several programs of columns
]


def check(device, dtype, shape, up_taps, down_taps, up, down, padding, clamp, flip, slope=0.2):
    x, b = images(shape, dtype, device).requires_grad_(), images(shape[1:2], dtype, device, 3).requires_grad_()
    fu, fd = taps_of(up_taps, device), taps_of(down_taps, device, 5)
    y = layers.filtered_lrelu(x, fu, fd, b, up, down, padding, GAIN, slope, clamp, flip)
    shifted = x.detach().double() + b.detach().double()[:, None, None]
    settings = (None, up, down, padding, GAIN, slope, clamp, flip)
    leaf = shifted.clone().requires_grad_()
    want = reference(leaf, fu, fd, *settings)
    # Errors are relative to the sum of absolute values. In half precision two launches also round x + b and the image
    # between the filters; one launch only rounds its result.
    size = reference(shifted.abs(), fu.abs(), fd.abs(), None, up, down, padding, GAIN, 1.0, None, flip)
    count = 2 * sum(f.numel() if f.dim() == 2 else 2 * f.numel() for f in (fu, fd))
    rounded = dtype in (torch.float16, torch.bfloat16) and not fu.dim() == fd.dim() == 1
    assert_near(y, want, size, count + (2.0**24 * torch.finfo(dtype).eps if rounded else 0), dtype)
    g = images(y.shape, dtype, device, 2)
    grad, of_b = torch.autograd.grad(y, (x, b), g)
    (want_grad,) = torch.autograd.grad(want, leaf, g.double())
    if rounded:  # an element near 0 or the clamp may have another slope
        assert (grad.double() - want_grad).abs().mean() < 0.02 * want_grad.abs().mean()
        assert of_b.dtype == dtype
    else:
        ones = torch.ones_like(leaf).requires_grad_()
        size = reference(ones, fu.abs(), fd.abs(), None, up, down, padding, GAIN, 1.0, None, flip)
        (size,) = torch.autograd.grad(size, ones, g.double().abs())
        assert_near(grad, want_grad, size, count, dtype)
        assert_scaled(of_b, grad.double().sum((0, 2, 3)), {4: 1e-5, 8: 1e-12}.get(dtype.itemsize, 1e-2))


@pytest.mark.parametrize("case", [*CASES, *[pytest.param(case, marks=thorough) for case in LONG]], ids=str)
def test_values_and_gradients(device, case):
    check(device, torch.float64, *case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(device, dtype):
    check(device, dtype, (1, 2, 3, 2), (3,), (2, 2), 2, 1, (3, 3, 3, 3), None, False)
    check(device, dtype, (1, 2, 3, 2), (3,), (4,), 2, 1, (3, 3, 3, 3), 0.7, False)


@thorough
@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, *[pytest.param(t, marks=pytest.mark.slow) for t in (torch.float32, torch.float16)]],
    ids=str,
)
def test_dtypes_of_every_case(device, dtype):
    for case in (*CASES, *LONG):
        check(device, dtype, *case)


@thorough
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed > 0 else ()) for seed in range(10)])
def test_any_settings(device, seed):
    rng, found = random.Random(seed), 0
    while found < 6:
        up, down, padding = rng.randint(1, 4), rng.randint(1, 4), tuple(rng.randint(-2, 9) for _ in range(4))
        up_taps, down_taps = (tuple(rng.randint(1, 6) for _ in range(rng.choice((1, 2)))) for _ in range(2))
        shape = tuple(rng.randint(1, 6) for _ in range(4))
        between = output_size(shape[2:], (up_taps[0], up_taps[-1]), (up, up), (1, 1), padding)
        size = output_size(between, (down_taps[0], down_taps[-1]), (1, 1), (down, down), (0, 0, 0, 0))
        if min(*between, *size) >= 1:
            clamp, slope = rng.choice((None, 0.3, 2.0)), rng.choice((0.2, 0.0, 1.0, 1.5))
            check(device, torch.float64, shape, up_taps, down_taps, up, down, padding, clamp, rng.random() < 0.5, slope)
            found += 1


@thorough
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.slow if seed > 0 else ()) for seed in range(10)])
def test_any_settings_of_one_launch(kernel_device, seed):
    rng, found = random.Random(seed), 0
    while found < 5:
        up, down, padding = rng.randint(1, 4), rng.randint(1, 4), tuple(rng.randint(-3, 7) for _ in range(4))
        up_taps, down_taps = (rng.randint(1, 7),), (rng.randint(1, 7),)
        shape = tuple(rng.randint(1, 8) for _ in range(4))
        between = output_size(shape[2:], up_taps * 2, (up, up), (1, 1), padding)
        size = output_size(between, down_taps * 2, (1, 1), (down, down), (0, 0, 0, 0))
        if min(*between, *size) >= 1 and math.lcm(up, down) < 12:  # with an lcm of 12: two launches
            clamp, slope, before = rng.choice((None, 0.3)), rng.choice((0.2, 0.0, 1.5)), kernels.launch_count()
            case = (shape, up_taps, down_taps, up, down, padding, clamp, rng.random() < 0.5, slope)
            check(kernel_device, torch.float64, *case)
            assert kernels.launch_count() - before == 2
            found += 1


def not_separable(device):
    """Settings that take two launches."""
    return dict(fu=taps_of((3,), device), fd=taps_of((2, 2), device, 5), up=2, down=2, padding=(2, 2, 1, 3))


def separable(device):
    """Settings that take one launch."""
    return dict(fu=taps_of((3,), device), fd=taps_of((4,), device, 5), up=2, down=2, padding=(3, 2, 1, 4))


BOTH = pytest.mark.parametrize("settings_of", [separable, pytest.param(not_separable, marks=pytest.mark.slow)])


@pytest.mark.parametrize("clamp", [pytest.param(None, marks=pytest.mark.slow), 0.8])
@BOTH
def test_gradcheck_and_gradgradcheck(device, settings_of, clamp):
    x, b = images((1, 2, 1, 2), device=device).requires_grad_(), images((2,), device=device, seed=3).requires_grad_()

    def function(x, b):
        return layers.filtered_lrelu(x, b=b, clamp=clamp, **settings_of(device))

    assert torch.autograd.gradcheck(function, (x, b))
    assert torch.autograd.gradgradcheck(function, (x, b))


@BOTH
def test_second_and_third_derivatives(device, settings_of):
    """As in R1 and the path length: through products with the result, whose own curvature is 0."""
    settings, results = settings_of(device), []
    x = images((1, 2, 3, 3), device=device)
    w = images((2, 2, 1, 1), device=device, seed=4)
    for function in (
        lambda h: layers.filtered_lrelu(h, clamp=1.5, **settings),
        lambda h: reference(h, settings["fu"], settings["fd"], None, 2, 2, settings["padding"], GAIN, 0.2, 1.5, False),
    ):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = function(F.conv2d(a, b)).pow(3).sum()
        found = [y]
        for _ in range(3):
            grads = torch.autograd.grad(found[-1], (a, b), create_graph=True)
            found += [*grads, sum(g.square().sum() for g in grads)]
        results.append(found)
    for got, want in zip(*results):
        assert_scaled(got, want, 1e-9)


def test_gradients_in_the_filters(device):
    x, results = images((1, 2, 4, 4), device=device), []
    fu, fd = taps_of((3,), device), taps_of((2, 3), device, 5)
    for function, dtype in ((layers.filtered_lrelu, torch.float32), (reference, torch.float64)):
        leaves = [f.to(dtype).requires_grad_() for f in (fu, fd)]
        y = function(x, *leaves, None, 2, 1, (2, 2, 2, 2), GAIN, 0.2, 0.9, False)
        results.append(torch.autograd.grad(y.square().sum(), leaves))
    for got, want in zip(*results):
        assert_scaled(got, want, 1e-5)


def test_the_slope_at_zero_and_beyond(device):
    """As in PyTorch: `slope` at 0 and, without a clamp, at NaN; 1 at the clamp; 0 beyond it and at NaN."""
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, 2.5, -12.0, INF, -INF, NAN], device=device)
    for clamp in (None, 2.0):
        results = []
        for function in (
            lambda x, clamp=clamp: layers.filtered_lrelu(x[None, None, None], gain=1.0, clamp=clamp)[0, 0, 0],
            lambda x, clamp=clamp: formula.activation(x, 1.0, 0.2, clamp),
        ):
            x = values.clone().requires_grad_()
            y = function(x)
            results.append((y, *torch.autograd.grad(y, x, torch.ones_like(y))))
        for got, want in zip(*results):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=0, equal_nan=True)


def test_what_is_not_finite(device):
    """NaN and infinity reach only the results of their taps; a clamp bounds infinity."""
    settings = dict(up=2, down=2, padding=(3, 2, 1, 4))
    fu, fd = taps_of((3,), device), taps_of((4,), device, 5)
    for value, clamp in ((INF, None), (-INF, 0.8), (NAN, 0.8)):
        x = images((1, 1, 6, 5), device=device)
        x[0, 0, 2, 3] = value
        want = reference(x, fu, fd, None, 2, 2, settings["padding"], GAIN, 0.2, clamp, False)
        got = layers.filtered_lrelu(x, fu, fd, clamp=clamp, **settings)
        torch.testing.assert_close(got, want.to(got.device), rtol=1e-9, atol=1e-12, equal_nan=True)


def test_launches_memory_and_saved_tensors(kernel_device, monkeypatch):
    """Separable filters: one launch forward and one backward, and no allocation but tensors of the shapes of x and y.
    Others: two and three. Only arguments are saved."""
    leaf, made, empty = images((1, 2, 6, 6), torch.float32, kernel_device).requires_grad_(), [], torch.empty
    b = images((2,), torch.float32, kernel_device, 3).requires_grad_()

    def keep(saved):
        return lambda t: saved.append(t) or t

    for settings, forward, backward in ((separable(kernel_device), 1, 1), (not_separable(kernel_device), 2, 3)):
        x, saved, before = 2 * leaf, [], kernels.launch_count()
        with monkeypatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(keep(saved), lambda t: t):
            patch.setattr(torch, "empty", lambda *args, **kwargs: made.append(empty(*args, **kwargs)) or made[-1])
            y = layers.filtered_lrelu(x, b=b, **settings)
            given = (x, b, settings["fu"], settings["fd"])
            assert len(saved) == 4 and all(any(t.data_ptr() == of.data_ptr() for of in given) for t in saved)
            assert kernels.launch_count() - before == forward
            y.backward(torch.ones_like(y))
            assert kernels.launch_count() - before == forward + backward
        if forward == 1:
            assert {t.shape for t in made} == {x.shape, y.shape}


@BOTH
def test_layouts(device, settings_of):
    """channels_last images stay so; gradients of another layout; views."""
    settings = settings_of(device)
    x = images((1, 2, 3, 3), torch.float32, device)
    leaf = x.clone().requires_grad_()
    want = layers.filtered_lrelu(leaf, **settings)
    g = images(want.shape, torch.float32, device, 2)
    (want_grad,) = torch.autograd.grad(want, leaf, g)
    last = x.contiguous(memory_format=torch.channels_last)
    wide = torch.full((1, 3, 4, 7), NAN, device=device)[:, 1:, :-1, 1::2].copy_(x)
    for view, arrives in itertools.product((last, wide), (g, g.contiguous(memory_format=torch.channels_last))):
        leaf = view.detach().requires_grad_()
        y = layers.filtered_lrelu(leaf, **settings)
        assert y.is_contiguous(memory_format=torch.channels_last) == (view is last)
        assert torch.allclose(y, want, rtol=1e-5, atol=1e-6)
        assert torch.allclose(torch.autograd.grad(y, leaf, arrives)[0], want_grad, rtol=1e-5, atol=1e-6)


def test_empty_and_no_filters(device):
    for settings in (not_separable(device), separable(device)):
        x, b = torch.zeros(0, 3, 4, 4, device=device, requires_grad=True), torch.ones(3, device=device).requires_grad_()
        y = layers.filtered_lrelu(x, b=b, **settings)
        y.sum().backward()
        assert y.shape[:2] == (0, 3) and x.grad.shape == x.shape and torch.equal(b.grad, torch.zeros_like(b))
    x = images((1, 2, 3, 3), torch.float32, device)
    torch.testing.assert_close(layers.filtered_lrelu(x), GAIN * F.leaky_relu(x, 0.2), rtol=1e-6, atol=0)


@BOTH
def test_reruns_are_bit_identical(device, settings_of):
    x = images((2, 3, 17, 15), torch.float32, device)
    first = layers.filtered_lrelu(x, **settings_of(device))
    assert all(torch.equal(layers.filtered_lrelu(x, **settings_of(device)), first) for _ in range(3))


def test_opcheck(device):
    x, b = images((1, 2, 3, 4), torch.float32, device), images((2,), torch.float32, device, 3)
    fu, fd = taps_of((3,), device), taps_of((4,), device, 5)
    first, second = ((2, 2), (1, 1), (3, 2, 1, 4), False, 4.0), ((1, 1), (2, 2), (0, 0, 0, 0), False, 1.0)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.fastgan.filtered_lrelu, (x, b, fu, fd, *first, *second, GAIN, 0.2, 0.5))
    given = (x, x + 1, None, fu, fd, fu, *first, *second, *first, GAIN, 0.2, None)
    torch.library.opcheck(torch.ops.fastgan.filtered_slopes, given)


@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=thorough)])
@BOTH
def test_compile_fullgraph(device, dynamic, settings_of):
    torch._dynamo.reset()
    settings = settings_of(device)

    def network(x, b):
        return layers.filtered_lrelu(2 * x, b=b, clamp=1.5, **settings)

    compiled = torch.compile(network, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    b = images((2,), torch.float32, device, 3)
    for size in (3, 4) if dynamic else (3,):
        results = []
        for function in (network, compiled):
            x = images((1, 2, size, 4), torch.float32, device).requires_grad_()
            y = function(x, b)
            results.append((y, *torch.autograd.grad(y.square().sum(), x)))
        for got, want in zip(*results):
            assert_scaled(got, want, 1e-6)


@BOTH
def test_transforms(device, settings_of):
    settings = settings_of(device)
    x = images((2, 1, 1, 2, 3), device=device)

    def loss(x):
        return layers.filtered_lrelu(x, **settings).square().sum()

    values, grads = torch.func.vmap(loss)(x), torch.func.vmap(torch.func.grad(loss))(x)
    directions = images(x.shape, device=device, seed=6)

    def along(x, v):
        return (torch.func.grad(loss)(x) * v).sum()

    second = torch.func.vmap(torch.func.grad(along))(x, directions)
    for i in range(2):
        leaf = x[i].clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        assert_scaled(values[i], loss(leaf), 1e-12)
        assert_scaled(grads[i], grad, 1e-12)
        assert_scaled(second[i], torch.autograd.grad((grad * directions[i]).sum(), leaf)[0], 1e-12)


@thorough
def test_a_bias_for_each_sample(device):
    settings, x, b = separable(device), images((2, 1, 2, 3, 3), device=device), images((2, 2), device=device, seed=3)

    def loss(x, b):
        return layers.filtered_lrelu(x, b=b, **settings).square().sum()

    for function, dims in (
        (loss, 0),
        (torch.func.grad(loss, argnums=(0, 1)), 0),
        (torch.func.grad(loss, 1), (None, 0)),
    ):
        of_x = x if dims == 0 else x[0]
        found = torch.func.vmap(function, in_dims=dims)(of_x, b)
        one = [function(of_x[i] if dims == 0 else of_x, b[i]) for i in range(2)]
        wanted = [torch.stack(each) for each in (zip(*one) if isinstance(one[0], tuple) else [one])]
        for got, want in zip(found if isinstance(found, tuple) else (found,), wanted):
            assert_scaled(got, want, 1e-12)


def test_autocast(device):
    x, b = (images(shape, torch.float32, device).requires_grad_() for shape in ((1, 2, 4, 4), (2,)))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = layers.filtered_lrelu(x, b=b, **separable(device))
    assert torch.equal(y, layers.filtered_lrelu(x.bfloat16(), b=b.bfloat16(), **separable(device)))
    y.sum().backward()
    assert x.grad.dtype == b.grad.dtype == torch.float32


def test_bad_input(kernel_device):
    x, f = torch.zeros(1, 2, 4, 5, device=kernel_device), torch.ones(3, device=kernel_device)
    call, before = layers.filtered_lrelu, kernels.launch_count()
    for error, message, options in (
        (TypeError, "fu: got list", dict(fu=[1.0])),
        (TypeError, "fd: got torch.float64", dict(fd=f.double())),
        (TypeError, "b: got list", dict(b=[0.0, 0.0])),
        (ValueError, r"b: got shape \(3,\), expected \(2,\)", dict(b=f)),
        (ValueError, "b: got torch.float64", dict(b=f[:2].double())),
        (TypeError, r"up: got \(2, 2\), expected an integer", dict(up=(2, 2))),
        (ValueError, "down: got 0", dict(down=0)),
        (TypeError, "padding: got 1.5", dict(padding=1.5)),
        (ValueError, "padding: got -2 .* leaves no pixels", dict(padding=-2)),
        (ValueError, "padding: got 0 .* leaves no pixels", dict(fu=f, fd=f, up=1)),
        (ValueError, "gain: got 0", dict(gain=0)),
        (ValueError, "slope: got -0.1", dict(slope=-0.1)),
        (ValueError, "clamp: got nan", dict(clamp=NAN)),
        (TypeError, "clamp: got str", dict(clamp="1")),
        (TypeError, "flip_filter: got int", dict(flip_filter=1)),
    ):
        with pytest.raises(error, match=message):
            call(x, **options)
    with pytest.raises(TypeError, match="x: got list"):
        call([x])
    assert kernels.launch_count() == before


def test_an_infinite_clamp(device):
    """A kernel's numbers are float32: an infinite clamp, or one beyond float32, is no limit, also in float64."""
    for dtype in (torch.float64, torch.float32):
        x = images((1, 1, 2, 3), dtype, device)
        want = layers.filtered_lrelu(x)
        for clamp in (INF, 1e39):
            assert torch.equal(layers.filtered_lrelu(x, clamp=clamp), want)
    for name in ("gain", "slope"):
        with pytest.raises(ValueError, match=f"{name}: got inf, expected a finite number"):
            layers.filtered_lrelu(x, **{name: INF})
    with pytest.raises(ValueError, match="gain: got nan, expected a finite number"):
        layers.upfirdn2d(x, None, gain=NAN)


def test_autocast_of_a_wide_bias(device):
    """A float32 parameter, and the result of a convolution under autocast."""
    x, b = images((1, 2, 3, 3), torch.bfloat16, device), images((2,), torch.float32, device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = layers.filtered_lrelu(x, b=b)
        with pytest.raises(ValueError, match=r"b: got torch\.int64"):
            layers.filtered_lrelu(x, b=b.long())
    assert torch.equal(y, layers.filtered_lrelu(x, b=b.bfloat16()))
    with pytest.raises(ValueError, match=r"b: got torch\.float32"):
        layers.filtered_lrelu(x, b=b)


@pytest.mark.parametrize("up_taps, down_taps, up, down, padding", [
    ((2,), (1,), 2, 2, (0, 0, 0, 0)),
    ((1,), (2,), 2, 1, (0, 0, 0, 0)),
    ((2,), (2,), 3, 1, (0, 0, 0, 0)),
], ids=str)  # fmt: skip
def test_fewer_taps_than_up_or_down(device, up_taps, down_taps, up, down, padding):
    """Some columns between the filters have no influence on a result, or on a gradient."""
    check(device, torch.float64, (1, 2, 3, 4), up_taps, down_taps, up, down, padding, 0.7, False)
