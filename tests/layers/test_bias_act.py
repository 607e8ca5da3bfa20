"""`fastgan.layers.bias_act` against float64 formulas, per element, atol=0: value and derivatives up to the third."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from oracle import GRAD_RTOL, ulp

import fastgan
from fastgan import kernels
from fastgan.layers import BiasAct, activations, bias_act

launcher = importlib.import_module("fastgan.kernels.bias_act")
pytestmark = pytest.mark.usefixtures("poisoned")
NAN, INF, ROOT = float("nan"), float("inf"), math.sqrt(2)
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


# name: value, slope, curvature of float64 v, and what they may be off relative to, if terms cancel
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
LARGEST = {  # of the terms that add up to slope and curvature: an error of one shows in the sum
    "tanh": (lambda v: torch.cosh(v) ** -2, lambda v: 2 * torch.cosh(v) ** -2),
    "sigmoid": (sigmoid_slope, sigmoid_slope),
    "swish": (
        lambda v: 1 / (1 + torch.exp(-v)) + v.abs() * sigmoid_slope(v),
        lambda v: sigmoid_slope(v) * (2 + v.abs()),
    ),
}


def drawn(shape, dtype, device, seed):
    """Multiples of 1/16 up to 8 and few larger ones: exact in every dtype, and so are sums of two in float32."""
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
    """Everything up to the second derivative, at once."""
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
    """As an author writes it."""
    v = x if b is None else x + spread(b, x, dim)
    functions = {
        "linear": lambda v: v, "lrelu": lambda v: F.leaky_relu(v, 0.2 if alpha is None else alpha),
        "swish": lambda v: torch.sigmoid(v) * v,
    }  # fmt: skip
    y = functions[act](v) if act in functions else getattr(F, act)(v)
    y = y * (GAINS.get(act, 1.0) if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def test_the_nine_activations():
    assert activations() == list(FORMULAS)
    from fastgan.kernels.activations import ACTIVATIONS

    assert list(ACTIVATIONS) == list(FORMULAS)
    assert fastgan.layers.bias_act is bias_act and "layers" in dir(fastgan)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", FORMULAS)
def test_value_and_two_derivatives(device, act, dtype):
    check((2, 3, 5, 7), dtype, device, act, clamp=None if dtype == torch.float64 else 3.7)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", [{}, {"clamp": 0.7}, {"gain": 0.3, "alpha": 0.1}, {"gain": -1.5, "clamp": 2.1}], ids=str
)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", FORMULAS)
def test_every_option(device, act, dtype, biased, options):
    check((3, 2, 9), dtype, device, act, biased=biased, **options)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


SHAPES = [
    ((7,), 0), ((4, 6), 1), ((4, 6), -2), ((2, 16), -1), ((2, 3, 33), 1), ((1, 5, 4, 4), 1), ((2, 3, 2, 3, 5), 1),
    ((2, 3, 2, 3, 5), -1), ((5, 1, 6), 1), ((1, 1, 1), 2), ((33, 3, 2), 2),
]  # fmt: skip


@pytest.mark.parametrize("shape, dim", SHAPES, ids=str)
def test_ranks_and_dimensions(device, shape, dim):
    check(shape, torch.float32, device, "lrelu", dim)
    check(shape, torch.float64, device, "swish", dim)


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles, many programs a channel, and ragged ends, at sizes that the interpreter can afford."""

    def blocks(outer, channels, inner, dtype, order):
        return (2, 4)

    monkeypatch.setattr(launcher, "blocks", blocks)
    plan = launcher.plan
    plan.cache_clear()
    yield
    plan.cache_clear()


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("act", ["lrelu", pytest.param("sigmoid", marks=pytest.mark.thorough)])
def test_many_tiles_and_programs(kernel_device, small_tiles, act, layout):
    check((3, 5, 3, 3), torch.float64, kernel_device, act, layout=layout)
    plans = launcher.plan.cache_info()
    assert plans.currsize >= 3
    check((3, 5, 3, 3), torch.float64, kernel_device, act, biased=False, layout=layout)


def test_offsets_of_64_bits(kernel_device, small_tiles, monkeypatch):
    """The code for more than 2^31 elements, on fewer; and that it is chosen for more."""
    cpu = torch.device("cpu")
    for sizes, long in (((1, 1, 2**31 - 2**10), False), ((1, 1, 2**31), True), ((2**16, 3, 2**14), True),
                        ((2**26, 64, 1), True)):  # fmt: skip
        planned = launcher.plan(sizes, torch.float16, cpu, "lrelu", 0, (0.2, ROOT, INF), False, (True,) * 8)
        assert planned.constants["LONG"] == long and planned.programs < 2**31
    made = launcher.plan.__wrapped__

    def plan(*arguments):
        planned = made(*arguments)
        assert not planned.constants["LONG"]
        planned.constants["LONG"] = True
        return planned

    monkeypatch.setattr(launcher, "plan", plan)
    for layout in (torch.Tensor.contiguous, channels_last):
        check((2, 5, 3, 2), torch.float64, kernel_device, "tanh", layout=layout)
    x = drawn((37,), torch.float64, kernel_device, 0)
    torch.testing.assert_close(bias_act(x, act="elu"), F.elu(x), rtol=1e-12, atol=0)


def negative(x):
    return torch.complex(torch.zeros_like(x), -x).conj().imag


LAYOUTS = {
    "channels last": channels_last,
    "batch innermost": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every other column": lambda x: torch.stack([x, x + 1], -1).flatten(3)[..., ::2],
    "from an odd offset": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "expanded": lambda x: x[:1].expand(x.shape),
    "negative": negative,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(device, name):
    x, g = (drawn((2, 3, 4, 5), torch.float64, device, seed) for seed in (0, 1))
    b = drawn((3,), torch.float64, device, 2)
    results = []
    for change in (LAYOUTS[name], lambda x: x):
        leaf, bias = change(x).detach().requires_grad_(), (negative(b) if name == "negative" else b).requires_grad_()
        y = bias_act(leaf, bias, act="lrelu", clamp=2.2)
        results.append([y, *torch.autograd.grad(y, [leaf, bias], change(g))])
        if name in ("channels last", "batch innermost", "transposed"):
            assert y.stride() == leaf.stride() == results[-1][1].stride()
        bias.requires_grad_(False)
    same = LAYOUTS[name](x).clone().contiguous().requires_grad_()
    other = b.clone().requires_grad_()
    y = eager(same, other, act="lrelu", clamp=2.2)
    want = [y, *torch.autograd.grad(y, [same, other], LAYOUTS[name](g).clone().contiguous())]
    for got, right in zip(results[0], want):
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("act", FORMULAS)
def test_nan_and_infinity_are_those_of_eager(device, act):
    x = torch.tensor([[NAN, INF, -INF, 0.0, -0.0, 1.0, -90.0, 90.0, -104.5, 2e38]], device=device)
    results = []
    for function in (bias_act, eager):
        for clamp in (None, 1.5):
            leaf = x.clone().requires_grad_()
            y = function(leaf, act=act, clamp=clamp)
            results.append((y, *torch.autograd.grad(y.sum(), leaf)))
    for got, want in zip(results[:2], results[2:]):
        for a, b in zip(got, want):
            torch.testing.assert_close(a, b, rtol=5e-6, atol=2e-37, equal_nan=True)  # eager has 0 for the smallest


@pytest.mark.parametrize("act", FORMULAS)
def test_small_and_large_arguments(device, act):
    """What expm1(v), 1 - tanh(v)^2 and log(1 + exp(v)) lose, if they are written so."""
    x = torch.logspace(-30, 1.6, 101)
    x = torch.cat([x, -x, torch.linspace(-1, 1, 54)]).to(device).requires_grad_()
    y = bias_act(x, act=act, gain=1.0)
    (grad,) = torch.autograd.grad(y.sum(), x)
    v = x.detach().double().cpu()
    value, slope, _ = FORMULAS[act]
    slope = slope(v, 0.2)
    close(y, value(v, 0.2), torch.float32)
    close(grad, slope, torch.float32, LARGEST.get(act, (lambda v: slope,))[0](v))


@pytest.mark.parametrize("act", ["lrelu", "tanh", "swish"])
def test_a_nan_stays_in_its_channel(device, act):
    x, b = torch.randn(2, 3, 8, device=device), torch.zeros(3, device=device, requires_grad=True)
    x[1, 1, 3] = NAN
    bias_act(x, b, act=act).sum().backward()
    assert b.grad.isnan().tolist() == [False, act != "lrelu", False] and not b.grad[0].isnan()


@pytest.mark.parametrize("shape, dim", [((0, 3, 4), 1), ((2, 0, 4), 1), ((2, 3, 0), -2), ((0,), 0)], ids=str)
def test_nothing_in_nothing_out(device, shape, dim):
    x, b = (torch.zeros(s, device=device, requires_grad=True) for s in (shape, shape[dim]))
    y = bias_act(x, b, dim, "swish")
    grads = torch.autograd.grad(y.sum(), [x, b], create_graph=True)
    assert y.shape == shape and grads[0].shape == shape and torch.equal(grads[1], torch.zeros_like(b))


def test_a_number(device):
    x = torch.tensor(-2.0, dtype=torch.float64, device=device, requires_grad=True)
    y = bias_act(x, act="lrelu", gain=1.0)
    (first,) = torch.autograd.grad(y, x)
    assert y.shape == () and y.item() == pytest.approx(-0.4) and first.item() == 0.2


def numbers(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


@pytest.mark.parametrize("act", FORMULAS)
def test_gradcheck_and_gradgradcheck(device, act):
    """Of the kernel itself, under the interpreter."""
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


def test_r1_as_stylegan_has_it(device):
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
        assert kernels.launch_count() == before + 2 + (act == "tanh")  # the others' is 0
    x = torch.randn(2, 3, 4, device=kernel_device)
    before = kernels.launch_count()
    assert bias_act(x) is x and kernels.launch_count() == before


def test_reruns_are_bit_identical(kernel_device, small_tiles):
    x, g = (torch.randn(5, 3, 4, 3, device=kernel_device) for _ in range(2))
    b, found = torch.randn(3, device=kernel_device, requires_grad=True), []
    for _ in range(3):
        found.append(torch.autograd.grad(bias_act(x, b, act="swish"), b, g)[0])
    assert all(torch.equal(found[0], other) for other in found[1:])
    sums = over(torch.autograd.grad(bias_act(x.clone().requires_grad_(), b, act="swish"), b, g)[0][:, None], 0)
    assert torch.equal(sums, found[0])


@pytest.mark.parametrize("act, kept", [("lrelu", "y"), ("linear", ""), ("tanh", "x")])
def test_what_is_kept_for_backward(device, act, kept):
    x = torch.randn(2, 3, device=device)
    leaf = torch.randn(2, 3, device=device, requires_grad=True)
    made = leaf * 1.0
    y = bias_act(made, act=act, gain=1.5)
    storages = {s.data_ptr() for s in map(torch.Tensor.untyped_storage, y.grad_fn.saved_tensors)}
    assert storages == {{"y": y, "x": made}[kept].data_ptr()} if kept else not storages
    small = bias_act(leaf, act="relu", gain=0.25)
    assert small.grad_fn.saved_tensors[0].data_ptr() == leaf.data_ptr(), "a gain that rounds to 0"
    tiny = torch.full((1,), 2.0**-24, dtype=torch.float16, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(bias_act(tiny, act="relu", gain=0.5), tiny)
    assert grad.item() == 0.5 and x.shape == (2, 3)


def test_half_precision_where_the_clamp_is_not_of_the_dtype(device):
    """0.3 is 0.30005 in float16 and 0.2998 in bfloat16: values that the clamp holds have no gradient in either."""
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
