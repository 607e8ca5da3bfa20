"""`fastgan.layers.bias_act`: derivatives up to the third, launches, memory, PyTorch's machinery, and bad input."""

import pytest
import torch
from bias_act_float64 import FORMULAS, channels_last, drawn, eager

from fastgan import kernels
from fastgan.layers import BiasAct, bias_act

pytestmark = pytest.mark.usefixtures("poisoned")
NAN, INF = float("nan"), float("inf")


def numbers(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


@pytest.mark.parametrize("act", FORMULAS)
def test_gradcheck_and_gradgradcheck(device, act):
    """Under the interpreter this checks the kernel itself."""
    x, b = (t.detach().to(device).requires_grad_() for t in numbers((2, 2), (2,)))
    for options in ({"clamp": 0.8},) if act in ("lrelu", "swish") else ({},):

        def function(x, b, options=options):
            return bias_act(x, b, act=act, **options)

        assert torch.autograd.gradcheck(function, (x, b))
        assert torch.autograd.gradgradcheck(function, (x, b))


@pytest.mark.parametrize("act", FORMULAS)
def test_third_derivative(device, act):
    x, b, g, h, q = (t.detach().to(device) for t in numbers((2, 3, 4), (3,), (2, 3, 4), (2, 3, 4), (2, 3, 4)))
    results = []
    for function in (bias_act, eager):
        leaves = [x.clone().requires_grad_(), b.clone().requires_grad_(), g.clone().requires_grad_()]
        y = function(*leaves[:2], act=act, gain=1.7)
        first = torch.autograd.grad(y, leaves[:2], leaves[2], create_graph=True)
        inner = (first[0] * h).sum() + first[1].square().sum()
        second = torch.autograd.grad(inner, leaves, create_graph=True, allow_unused=True)
        product = sum((t * w).sum() for t, w in zip(second, (q, b, q)) if t is not None)
        third = torch.autograd.grad(product, leaves, allow_unused=True)
        results.append([torch.zeros_like(t) if w is None else w for t, w in zip(leaves, third)])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_r1_as_in_stylegan(device):
    """A discriminator's gradient penalty, and its gradient in weights and biases."""
    results = []
    images, weight, out, *biases = numbers((2, 3, 4), (3, 3), (12,), (3,), (3,))
    for function in (bias_act, eager):
        leaves = [t.detach().to(device).requires_grad_() for t in (images, weight, out, *biases)]
        img, w, last, b0, b1 = leaves
        x = function(img, b0, act="lrelu", clamp=256)
        x = function(torch.einsum("oc,bcl->bol", w, x), b1, act="swish")
        (grad,) = torch.autograd.grad((x.flatten(1) @ last).sum(), img, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), leaves, allow_unused=True))
    for got, want in zip(*results):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_launches(kernel_device):
    for act in ("lrelu", "tanh"):
        x = torch.randn(2, 3, 4, device=kernel_device, requires_grad=True)
        b = torch.zeros(3, device=kernel_device, requires_grad=True)
        before = kernels.launch_count()
        y = bias_act(x, b, act=act)
        assert kernels.launch_count() == before + 1
        grads = torch.autograd.grad(y, [x, b], torch.ones_like(y), create_graph=True)
        assert kernels.launch_count() == before + 2
        torch.autograd.grad([*grads], [x, b], [torch.ones_like(x), torch.ones_like(b)], allow_unused=True)
        assert kernels.launch_count() == before + 2 + (act == "tanh")  # the second derivative of lrelu is 0
    x = torch.randn(2, 3, 4, device=kernel_device)
    before = kernels.launch_count()
    assert bias_act(x) is x and kernels.launch_count() == before


@pytest.mark.parametrize("act, kept", [("lrelu", "y"), ("linear", ""), ("tanh", "x")])
def test_what_is_kept_for_backward(device, act, kept):
    leaf = torch.randn(2, 3, device=device, requires_grad=True)
    made = leaf * 1.0
    y = bias_act(made, act=act, gain=1.5)
    storages = {s.data_ptr() for s in map(torch.Tensor.untyped_storage, y.grad_fn.saved_tensors)}
    assert storages == {{"y": y, "x": made}[kept].data_ptr()} if kept else not storages
    small = bias_act(leaf, act="relu", gain=0.25)
    assert small.grad_fn.saved_tensors[0].data_ptr() == leaf.data_ptr(), "a gain that rounds to 0"
    tiny = torch.full((1,), 2.0**-24, dtype=torch.float16, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(bias_act(tiny, act="relu", gain=0.5), tiny)
    assert grad.item() == 0.5


def test_a_clamp_that_half_precision_cannot_represent(device):
    """0.3 is 0.30005 in float16 and 0.2998 in bfloat16: clamped values have no gradient in either."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.tensor([0.1, 0.25, 0.35, 4.0, -0.35], dtype=dtype, device=device, requires_grad=True)
        (grad,) = torch.autograd.grad(bias_act(x, act="linear", clamp=0.3).sum(), x)
        assert grad.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.thorough)], ids=str)
def test_opcheck(device, dtype):
    ops, check = torch.ops.fastgan, torch.library.opcheck
    bias_act(torch.zeros(1, device=device), act="relu")
    x, g, h = (channels_last(torch.randn(2, 3, 2, 2, device=device).to(dtype)) for _ in range(3))
    b, k = (torch.randn(3, device=device).to(dtype) for _ in range(2))
    check(ops.bias_act, (x, b, 1, "lrelu", 0.2, 1.5, 2.0))
    check(ops.bias_act_gradient, (g, x, None, 1, "lrelu", 0.2, 1.5, 2.0, True, True, True, None))
    check(ops.bias_act_second, (h, k, g, x, b, 1, "swish", 0.0, 1.5, 2.0, True, True, True))
    if dtype == torch.bfloat16:
        check(ops.bias_act_gradient, (g, x, b, 1, "tanh", 0.0, 1.0, INF, False, False, True, k))
        check(ops.bias_act_gradient, (g, None, None, 1, "linear", 0.0, 1.5, INF, False, True, False, None))
        check(ops.bias_act_second, (h, None, g, x, None, 1, "elu", 0.0, 1.5, INF, False, True, False))


@pytest.mark.parametrize("act", ["lrelu", pytest.param("swish", marks=pytest.mark.thorough)])
def test_compile_fullgraph_with_dynamic_shapes(device, act):
    torch._dynamo.reset()

    def layer(x, b):
        return bias_act(2 * x, b, act=act, clamp=3.0)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 3, 4), (3, 3, 5), (2, 6, 7)):
        results = []
        for function in (layer, compiled):
            x = drawn(shape, torch.float32, device, 0).requires_grad_()
            b = drawn(shape[1:2], torch.float32, device, 1).requires_grad_()
            y = function(x, b)
            results.append([y, *torch.autograd.grad(y, [x, b], torch.ones_like(y))])
        for got, want in zip(*results):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("act", ["tanh", pytest.param("lrelu", marks=pytest.mark.thorough)])
def test_vmap_and_func_grad(device, act):
    x, b = drawn((2, 2, 3, 4), torch.float64, device, 0), drawn((2, 3), torch.float64, device, 1)
    g = drawn((2, 2, 3, 4), torch.float64, device, 2)

    def gradient_of(function):
        def run(x, b, g):
            def loss(x, b):
                return (function(x, b, act=act) * g).sum()

            return function(x, b, act=act), *torch.func.grad(loss, (0, 1))(x, b)

        return run

    for in_dims, arguments in (
        ((0, 0, 0), (x, b, g)),
        ((0, None, 0), (x, b[0], g)),
        ((2, 0, 0), (x.movedim(0, 2), b, g)),
        ((None, 0, None), (x[0], b, g[0])),
    ):
        got = torch.func.vmap(gradient_of(bias_act), in_dims)(*arguments)
        want = torch.func.vmap(gradient_of(eager), in_dims)(*arguments)
        for a, w in zip(got, want):
            torch.testing.assert_close(a, w, rtol=1e-9, atol=1e-12)
    alone = torch.func.vmap(lambda x: bias_act(x, act=act))(x)
    torch.testing.assert_close(alone, eager(x, act=act), rtol=1e-12, atol=0)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: bias_act(x, act=act), (x,), (x,))


def test_autocast(device):
    x, b = torch.randn(2, 3, 4, device=device), torch.randn(3, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(bias_act(x, b, act="softplus"), bias_act(x.float(), b, act="softplus"))
        mixed = bias_act(x.bfloat16(), b, act="lrelu")
        assert mixed.dtype == eager(x.bfloat16(), b, act="lrelu").dtype == torch.float32
        torch.testing.assert_close(mixed, eager(x.bfloat16(), b, act="lrelu"), rtol=1e-6, atol=0)
        assert bias_act(x.bfloat16(), b.bfloat16(), act="tanh").dtype == torch.bfloat16


def test_the_module(device):
    layer = BiasAct(3, "lrelu", clamp=2.0).to(device)
    assert (
        repr(layer) == "BiasAct('lrelu', clamp=2.0)" and repr(BiasAct(3, bias=False)) == "BiasAct('lrelu', bias=False)"
    )
    assert list(layer.state_dict()) == ["bias"] and not layer.bias.any()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 4, device=device)
    assert torch.equal(layer(x), bias_act(x, layer.bias, act="lrelu", clamp=2.0))
    layer(x.half()).sum().backward()
    assert layer(x.half()).dtype == torch.float16 and layer.bias.grad.dtype == torch.float32
    with pytest.raises(ValueError, match="act: got 'gelu'"):
        BiasAct(3, "gelu")


X, B = torch.zeros(2, 3, 4), torch.zeros(3)


@pytest.mark.parametrize("error, message, arguments, options", [
    (TypeError, "x: got list, expected a torch.Tensor", ([0.0],), {}),
    (TypeError, "x: got torch.int64, expected float16", (X.long(),), {}),
    (ValueError, "x: got a torch.sparse_coo tensor", (X.to_sparse(),), {}),
    (TypeError, "b: got float, expected a torch.Tensor or None", (X, 1.0), {}),
    (TypeError, "b: got torch.float16, expected torch.float32, the dtype of x", (X, B.half()), {}),
    (ValueError, r"b: got shape \(4,\), expected \(3,\), dimension 1 of x \(2, 3, 4\)", (X, torch.zeros(4)), {}),
    (ValueError, r"b: got shape \(3, 1\), expected \(3,\)", (X, B[:, None]), {}),
    (ValueError, "b: got a tensor on meta, expected cpu", (X, B.to("meta")), {}),
    (ValueError, r"dim: got 3, expected a dimension of x, whose shape is \(2, 3, 4\)", (X, B, 3), {}),
    (TypeError, "dim: got str, expected an integer", (X, B, "1"), {}),
    (ValueError, "act: got 'LReLU', did you mean 'lrelu'", (X, B, 1, "LReLU"), {}),
    (ValueError, "act: got 'leaky_relu', did you mean 'lrelu'", (X, B, 1, "leaky_relu"), {}),
    (ValueError, "act: got None, ", (X, B, 1, None), {}),
    (ValueError, "act: got 'qqqq', expected one of 'linear', 'relu'", (X,), {"act": "qqqq"}),
    (TypeError, "alpha: got str, expected a number", (X,), {"alpha": "0.2"}),
    (TypeError, "gain: got bool, expected a number", (X,), {"gain": True}),
    (ValueError, "gain: got inf, expected a finite number", (X,), {"gain": INF}),
    (TypeError, "gain: got Tensor, expected a number", (X,), {"gain": torch.ones(())}),
    (ValueError, "clamp: got -1.0, expected a number of at least 0", (X,), {"clamp": -1}),
    (ValueError, "clamp: got nan", (X,), {"clamp": NAN}),
])  # fmt: skip
def test_bad_input(error, message, arguments, options):
    before = kernels.launch_count()
    with pytest.raises(error, match=message):
        bias_act(*arguments, **options)
    assert kernels.launch_count() == before


def test_a_clamp_beyond_half_precision_has_no_effect(device):
    """It is infinity there: a result that overflows is not clamped, and keeps its gradient."""
    x = torch.tensor([6e4, 1.0], dtype=torch.float16, device=device, requires_grad=True)
    y = bias_act(x, act="relu", gain=2.0, clamp=1e5)
    assert y.tolist() == [INF, 2.0]
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].tolist() == [2.0, 2.0]


def test_a_module_names_its_wrong_argument():
    with pytest.raises(TypeError, match="x: got list"):
        BiasAct(3)([1.0])
