"""Upsample, filter, downsample: launches and memory, under PyTorch's machinery, filters, sizes, and bad input."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from resampling import BLUR, assert_scaled, images, taps_of

from fastgan import kernels, layers

pytestmark = pytest.mark.usefixtures("poisoned")
thorough = pytest.mark.thorough


def test_reruns_are_bit_identical(device):
    x, f = images((3, 5, 33, 31), torch.float32, device), taps_of((4, 4), device)
    first = layers.upfirdn2d(x, f, padding=2)
    assert all(torch.equal(layers.upfirdn2d(x, f, padding=2), first) for _ in range(3))


def test_launches(kernel_device):
    """One for the result and one for each derivative in x, for every filter."""
    for taps in ((3, 2), (3,)):
        x, f = images((1, 1, 2, 2), torch.float32, kernel_device).requires_grad_(), taps_of(taps, kernel_device)
        before = kernels.launch_count()
        y = layers.upsample2d(x, f)
        assert kernels.launch_count() - before == 1
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert kernels.launch_count() - before == 2
        g.square().sum().backward()
        assert kernels.launch_count() - before == 4  # back through the gradient, and through the result


@pytest.mark.parametrize("size", [512, 513, 1025])
def test_a_blur_reads_little_more_than_once(monkeypatch, size):
    """A program reads at most 1.3 elements of x for each element that it writes."""
    module = importlib.import_module("fastgan.kernels.upfirdn2d")
    monkeypatch.setattr(module, "processors", lambda device: 132)
    shape, strides = (8, 64, size, size), (64 * size**2, size**2, size, 1)
    planned = module.plan.__wrapped__(
        *(shape, strides, False, torch.float32, torch.device("cuda", 0), (4, 4), (1, 1), (1, 1), (2, 1, 2, 1), False),
        *(1.0, (size, size), "plain", (0.0, 0.0, 0.0)),
    )
    rows, columns = 4 * planned.constants["GROUPS"], planned.constants["BX"]
    assert rows == 16 and (rows + 3) * (columns + 3) / (rows * columns) <= 1.3


def test_only_what_a_derivative_needs_is_saved(device):
    f = taps_of((4, 4), device)
    leaf = images((1, 2, 5, 6), torch.float32, device).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        layers.upfirdn2d(2 * leaf, f)
        assert saved == [f.shape]
        layers.upfirdn2d(2 * leaf, f.clone().requires_grad_())
    assert leaf.shape in saved


@pytest.mark.parametrize("along", ["planes", "columns", "rows"])
def test_offsets_beyond_two_to_the_31(kernel_device, monkeypatch, along):
    monkeypatch.undo()  # do not fill so much memory with NaN
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "triton")
    stride = 2**30 + 16
    strides = {"planes": (0, stride, 8, 1), "columns": (0, 40, 8, stride), "rows": (0, 1024, stride, 1)}[along]
    memory = torch.empty(3 * stride + 4096, dtype=torch.float16, device=kernel_device)  # pages that are never touched
    x = memory.as_strided((1, 4, 4, 4), strides)
    x.copy_(images((1, 4, 4, 4)))
    f = taps_of((3, 3), kernel_device)
    assert torch.equal(layers.upfirdn2d(x, f, padding=1), layers.upfirdn2d(x.contiguous(), f, padding=1))


def test_opcheck(device):
    op, dtype = torch.ops.fastgan.upfirdn2d, torch.float32
    x = images((1, 2, 5, 4), dtype, device)
    torch.library.opcheck(op, (x, taps_of((3, 4), device), (2, 1), (1, 1), (2, 1, 0, 3), False, 2.0))
    x = x.contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(op, (x, taps_of((3,), device), (1, 1), (2, 2), (2, 1, 0, 3), True, 2.0))


def compare_compiled(network, inputs, **options):
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, **options)
    for x in inputs:
        results = []
        for function in (network, compiled):
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            results.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
        for got, want in zip(results[1], results[0]):
            assert_scaled(got, want, 1e-6)
        with torch.no_grad():
            assert_scaled(compiled(x), y, 1e-6)


def test_compile_fullgraph(device):
    f = layers.setup_filter(BLUR, device=device)
    x = images((1, 2, 4, 5), torch.float32, device)
    compare_compiled(lambda x: layers.upsample2d(2 * x, f), [x], backend="aot_eager")


@thorough
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_fullgraph_with_dynamic_shapes(device, compiler):
    f = layers.setup_filter(BLUR, device=device)
    inputs = [images((1, 2, size, size + 1), torch.float32, device) for size in (4, 5)]
    compare_compiled(
        lambda x: layers.downsample2d(layers.upsample2d(2 * x, f).tanh(), f), inputs, backend=compiler, dynamic=True
    )


def test_transforms(device):
    x, f = images((2, 2, 3, 2), device=device), taps_of((2, 3, 2), device)

    def one(x, f):
        return layers.upsample2d(x[None], f)[0]

    for dims in ((0, None), (None, 0), (0, 0)):
        got = torch.func.vmap(one, in_dims=dims)(x if dims[0] is not None else x[0], f if dims[1] is not None else f[0])
        for i in range(2):
            want = one(x[i if dims[0] is not None else 0], f[i if dims[1] is not None else 0])
            assert torch.allclose(got[i], want, rtol=1e-12, atol=1e-14)
    grads = torch.func.vmap(torch.func.grad(lambda x: one(x, f[0]).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    one_by_one = sum(one(v, f[0]).square().sum() for v in leaf)
    assert_scaled(grads, torch.autograd.grad(one_by_one, leaf)[0], 1e-12)
    of_filter = torch.func.grad(lambda f: one(x[0], f).square().sum())(f[0])
    leaf = f[0].clone().requires_grad_()
    assert_scaled(of_filter, torch.autograd.grad(one(x[0], leaf).square().sum(), leaf)[0], 1e-6)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: one(x, f[0]), (x[0],), (x[0],))


def test_autocast(device):
    """As PyTorch's convolution: float32 is cast to the dtype of autocast, float64 is not."""
    f = layers.setup_filter(BLUR, device=device)
    x = images((1, 2, 5, 5), torch.float32, device).requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = layers.upfirdn2d(x, f)
        assert y.dtype == F.conv2d(x, f.expand(1, 2, 4, 4)).dtype == torch.bfloat16
        assert layers.upfirdn2d(x.double(), f).dtype == torch.float64
    assert torch.equal(y, layers.upfirdn2d(x.bfloat16(), f))
    y.sum().backward()
    assert x.grad.dtype == torch.float32


def test_setup_filter():
    f = layers.setup_filter(BLUR)
    assert torch.equal(f, torch.outer(torch.tensor(BLUR), torch.tensor(BLUR)) / 64) and f.dtype == torch.float32
    assert torch.equal(layers.setup_filter(None), torch.ones(1, 1))
    assert torch.equal(layers.setup_filter(3.0, normalize=False), torch.full((1, 1), 9.0))
    taps = torch.arange(1.0, 9.0)
    assert torch.equal(layers.setup_filter(taps), taps / 36) and torch.equal(taps, torch.arange(1.0, 9.0))
    torch.testing.assert_close(layers.setup_filter(taps, gain=4), taps / 18)
    torch.testing.assert_close(layers.setup_filter(taps, gain=4, separable=False), 4 * torch.outer(taps, taps) / 36**2)
    assert layers.setup_filter(BLUR, separable=True).shape == (4,)
    assert torch.equal(layers.setup_filter([1, 2], flip_filter=True, normalize=False, separable=True), taps[:2].flip(0))
    assert layers.setup_filter([[1, 2, 3]]).shape == (1, 3)
    with pytest.raises(ValueError, match=r"f: got shape \(1, 1, 2\)"):
        layers.setup_filter([[[1, 2]]])
    with pytest.raises(ValueError, match=r"f: got shape \(0,\)"):
        layers.setup_filter([])
    with pytest.raises(TypeError, match="f: got str"):
        layers.setup_filter("blur")
    with pytest.raises(ValueError, match="separable: got True for a 2-D f"):
        layers.setup_filter([[1, 2]], separable=True)
    with pytest.raises(TypeError, match="gain: got str"):
        layers.setup_filter(BLUR, gain="2")
    with pytest.raises(ValueError, match=r"gain: got -2\.0"):
        layers.setup_filter(taps, gain=-2)


def test_sizes_and_gains(device):
    """Padding keeps or scales the size, and a constant image stays constant: the gain makes up for the zeros."""
    x, f = torch.full((1, 1, 8, 6), 3.0, device=device), layers.setup_filter(BLUR, device=device)
    for y, shape in (
        (layers.filter2d(x, f), (8, 6)),
        (layers.upsample2d(x, f), (16, 12)),
        (layers.downsample2d(x, f), (4, 3)),
        (layers.filter2d(x, f, gain=2) / 2, (8, 6)),
        (layers.upfirdn2d(x, None, gain=0.5) * 2, (8, 6)),
    ):
        assert y.shape[2:] == shape
        torch.testing.assert_close(y[0, 0, shape[0] // 2, shape[1] // 2].item(), 3.0, rtol=1e-6, atol=0)


def test_padding_of_each_kind():
    """The position of a pixel, for even and odd filters, is as in StyleGAN's functions."""
    x, f, g = images((1, 1, 8, 6), torch.float32), taps_of((4, 3)), taps_of((12,))
    for got, want in (
        (layers.filter2d(x, f, padding=(1, 2)), layers.upfirdn2d(x, f, padding=(2, 2, 4, 3))),
        (layers.filter2d(x, g), layers.upfirdn2d(x, g, padding=(6, 5, 6, 5))),
        (layers.upsample2d(x, f), layers.upfirdn2d(x, f, up=2, padding=(2, 0, 2, 1), gain=4)),
        (layers.upsample2d(x, g, (3, 1), 1), layers.upfirdn2d(x, g, (3, 1), padding=(8, 5, 7, 6), gain=3)),
        (layers.downsample2d(x, f), layers.upfirdn2d(x, f, down=2, padding=(1, 0, 1, 1))),
        (layers.downsample2d(x, g, (1, 3), (2, 0)), layers.upfirdn2d(x, g, down=(1, 3), padding=(8, 7, 5, 4))),
    ):
        assert torch.equal(got, want)


def test_bad_input(kernel_device):
    x, f = torch.zeros(1, 2, 4, 5, device=kernel_device), torch.ones(3, 3, device=kernel_device)
    before = kernels.launch_count()
    for error, message, call in (
        (TypeError, "x: got list", lambda: layers.upfirdn2d([x], f)),
        (TypeError, "x: got torch.int64", lambda: layers.upfirdn2d(x.long(), f)),
        (ValueError, r"x: got a torch.strided tensor of shape \(2, 4, 5\)", lambda: layers.upfirdn2d(x[0], f)),
        (TypeError, "f: got list", lambda: layers.filter2d(x, BLUR)),
        (TypeError, "f: got torch.float64, expected float32", lambda: layers.filter2d(x, f.double())),
        (ValueError, r"f: got shape \(1, 3, 3\)", lambda: layers.upfirdn2d(x, f[None])),
        (ValueError, r"f: got shape \(0, 3\)", lambda: layers.upfirdn2d(x, f[:0])),
        (ValueError, "f: got a tensor on meta", lambda: layers.upfirdn2d(x, f.to("meta"))),
        (ValueError, "up: got 0, expected at least 1", lambda: layers.upfirdn2d(x, f, up=0)),
        (TypeError, "up: got 2.0, expected an integer", lambda: layers.upsample2d(x, f, up=2.0)),
        (TypeError, "down: got True", lambda: layers.downsample2d(x, f, down=True)),
        (ValueError, "down: got 3 numbers", lambda: layers.downsample2d(x, f, down=(1, 2, 3))),
        (ValueError, "padding: got 3 numbers", lambda: layers.upfirdn2d(x, f, padding=(1, 2, 3))),
        (TypeError, "padding: got '1'", lambda: layers.upfirdn2d(x, f, padding="1")),
        (ValueError, "padding: got .* leaves no pixels", lambda: layers.upfirdn2d(x, f, padding=(0, 0, -1, -1))),
        (
            ValueError,
            "padding: got .* leaves no pixels",
            lambda: layers.upfirdn2d(x, torch.ones(6, 6, device=x.device)),
        ),
        (TypeError, "gain: got str", lambda: layers.upfirdn2d(x, f, gain="1")),
        (TypeError, "flip_filter: got int", lambda: layers.upfirdn2d(x, f, flip_filter=1)),
    ):
        with pytest.raises(error, match=message):
            call()
    assert kernels.launch_count() == before


def test_gradient_in_a_filter_of_no_images(device):
    for shape, taps in (((0, 3, 4, 4), (3, 3)), ((2, 0, 4, 4), (3,))):
        f = taps_of(taps, device).requires_grad_()
        layers.upfirdn2d(torch.zeros(shape, device=device), f).sum().backward()
        assert torch.equal(f.grad, torch.zeros_like(f))


def test_gradient_at_images_without_rows(device):
    """Padding alone makes the result; the images and the filter have gradients of 0."""
    x, f = torch.zeros(2, 1, 0, 5, device=device, requires_grad=True), taps_of((1,), device).requires_grad_()
    y = layers.upfirdn2d(x, f, padding=(0, 0, 2, 1))
    y.sum().backward()
    assert y.shape == (2, 1, 3, 5) and not y.any() and x.grad.shape == x.shape and not f.grad.any()
