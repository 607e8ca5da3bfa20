"""The drop-ins that resample: `torch_utils.ops.upfirdn2d` and `filtered_lrelu`, rosinality's `op`, BasicSR's `ops`."""

import math

import pytest
import torch
import torch.nn.functional as F
from parity import check

pytest.importorskip("fastgan.layers.upfirdn2d")

from bench.codebases.stylegan import upfirdn2d as upstream
from fastgan.compat import basicsr_ops, rosinality_op
from fastgan.compat.torch_utils_ops import filtered_lrelu as lrelu
from fastgan.compat.torch_utils_ops import upfirdn2d as ops

TIGHT = dict(rtol=1e-10, grad_rtol=1e-10)


def drawn(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(s, generator=generator, dtype=torch.float64).add_(0.5).to(dtype).requires_grad_() for s in shapes
    ]


FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])


@pytest.mark.parametrize("separable", [True, False])
def test_upfirdn2d(separable):
    f = ops.setup_filter([1, 3, 3, 1], separable=separable)
    assert f.dtype == torch.float32 and f.dim() == (1 if separable else 2) and f.sum().item() == pytest.approx(1)
    (x,) = drawn((2, 3, 6, 5))
    for up, down, padding, flip in (
        (2, 1, (2, 1, 2, 1), False),
        (1, 2, (1, 1, 1, 1), True),
        ((2, 1), 1, (1, -1, 2, 0), False),
    ):
        sizes = [(s, s) if isinstance(s, int) else s for s in (up, down)]
        check(
            lambda x, a=(up, down, list(padding), flip): ops.upfirdn2d(x, f, *a, gain=1.5),
            lambda x, a=(*sizes, padding, flip): upstream(x, f, *a, gain=1.5),
            x, **TIGHT,
        )  # fmt: skip


def test_named_forms():
    f = ops.setup_filter(FILTER)
    (x,) = drawn((2, 3, 6, 6))
    check(lambda x: ops.upsample2d(x, f), lambda x: upstream(x, f, (2, 2), padding=(2, 1, 2, 1), gain=4.0), x, **TIGHT)
    check(
        lambda x: ops.downsample2d(x, f, impl="ref"),
        lambda x: upstream(x, f, down=(2, 2), padding=(1, 1, 1, 1)),
        x,
        **TIGHT,
    )
    check(
        lambda x: ops.filter2d(x, f, flip_filter=True),
        lambda x: upstream(x, f, padding=(2, 1, 2, 1), flip=True),
        x,
        **TIGHT,
    )
    assert ops._parse_padding([1, 2]) == (1, 1, 2, 2) and ops._parse_padding(3) == (3,) * 4
    assert ops._get_filter_size(torch.zeros(2, 5)) == (5, 2) and ops._get_filter_size(None) == (1, 1)
    assert ops._parse_scaling(2) == (2, 2)
    for function in (ops.upfirdn2d, ops.filter2d, ops.upsample2d, ops.downsample2d):
        with pytest.raises(ValueError, match="impl: got 'x'"):
            function(x, f, impl="x")


@pytest.mark.parametrize("clamp", [None, 0.9])
def test_filtered_lrelu(clamp):
    fu, fd = (ops.setup_filter(torch.tensor(taps), separable=True) for taps in ([1.0, 2.0, 1.0, 0.5], [1.0, 1.0]))
    x, b = drawn((2, 3, 5, 5), (3,))
    with torch.no_grad():
        x.sub_(1.6)

    def theirs(x, b):
        y = upstream(x + b[:, None, None], fu, (2, 2), padding=(2, 1, 2, 1), gain=4.0)
        y = F.leaky_relu(y, 0.2) * math.sqrt(2)
        y = y if clamp is None else y.clamp(-clamp, clamp)
        return upstream(y, fd, down=(2, 2))

    def ours(x, b):
        return lrelu.filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=[2, 1, 2, 1], clamp=clamp)

    torch.testing.assert_close(ours(x, b), theirs(x, b), rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(f(x, b).square().sum(), (x, b)) for f in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="impl: got 'x'"):
        lrelu.filtered_lrelu(x, impl="x")


@pytest.mark.parametrize("module", [rosinality_op, basicsr_ops])
def test_upfirdn2d_of_the_others(module):
    kernel = torch.outer(FILTER, FILTER) / 64
    (x,) = drawn((2, 3, 6, 5))
    for pad, up, down in (((2, 1), 2, 1), ((1, 1), 1, 2)):
        check(
            lambda x, a=(up, down, pad): module.upfirdn2d(x, kernel, *a),
            lambda x, a=((up, up), (down, down), pad * 2): upstream(x, kernel, *a),
            x,
            **TIGHT,
        )
    both = rosinality_op.upfirdn2d(x, kernel, up=(2, 1), pad=(2, 1, 1, 1))
    torch.testing.assert_close(both, upstream(x, kernel, (2, 1), padding=(2, 1, 1, 1)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("module", [rosinality_op, basicsr_ops])
def test_fused_leaky_relu(module):
    x, b = drawn((2, 3, 4, 4), (3,))
    with torch.no_grad():
        x.sub_(1.7)

    def theirs(x, b):
        return 1.5 * F.leaky_relu(x + b[:, None, None], 0.3)

    check(lambda x, b: module.fused_leaky_relu(x, b, 0.3, 1.5), theirs, x, b, **TIGHT)
    layer = module.FusedLeakyReLU(3, negative_slope=0.3, scale=1.5).double()
    assert list(layer.state_dict()) == ["bias"] and not layer.bias.any()
    layer.load_state_dict({"bias": b.detach()})
    torch.testing.assert_close(layer(x), theirs(x, b), rtol=1e-12, atol=0)
    torch.testing.assert_close(module.FusedLeakyReLU(3)(torch.tensor([[1.0, -1.0, 0.0]])),
                               torch.tensor([[1.0, -0.2, 0.0]]) * math.sqrt(2))  # fmt: skip


def test_without_a_bias():
    (x,) = drawn((2, 3))
    layer = rosinality_op.FusedLeakyReLU(3, bias=False)
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(-x), -0.2 * math.sqrt(2) * x, rtol=1e-12, atol=0)
    torch.testing.assert_close(rosinality_op.fused_leaky_relu(x), math.sqrt(2) * x, rtol=1e-12, atol=0)
    assert rosinality_op.conv2d_gradfix.conv2d


def test_kernels_and_padding_of_the_others():
    """A kernel that requires a gradient gets one; errors name the arguments as upstream."""
    x, kernel = torch.ones(1, 1, 3, 3), torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    rosinality_op.upfirdn2d(x, kernel).sum().backward()
    assert kernel.grad.tolist() == [[4.0, 4.0], [4.0, 4.0]]
    with pytest.raises(TypeError, match="kernel: got list"):
        rosinality_op.upfirdn2d(x, [[1.0]])
    for pad in (1, (1, 1, 1)):
        with pytest.raises(ValueError, match="pad: got "):
            rosinality_op.upfirdn2d(x, kernel, pad=pad)


def test_what_upstreams_parsers_refuse():
    with pytest.raises(ValueError, match="padding: got 3 numbers"):
        ops._parse_padding([1, 2, 3])
    with pytest.raises(ValueError, match="scaling: got 0, expected at least 1"):
        ops._parse_scaling(0)
