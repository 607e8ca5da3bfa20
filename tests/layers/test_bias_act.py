"""`fastgan.layers.bias_act` against float64 formulas, per element, atol=0: values, derivatives, tiles, layouts, NaN."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from bias_act_float64 import DTYPES, FORMULAS, LARGEST, ROOT, channels_last, check, close, drawn, eager, over

import fastgan
from fastgan.layers import activations, bias_act

launcher = importlib.import_module("fastgan.kernels.bias_act")
pytestmark = pytest.mark.usefixtures("poisoned")
NAN, INF = float("nan"), float("inf")


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
    """Force small tiles: many tiles and programs for each channel, and tails, at sizes fast in the interpreter."""

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
    """Run the code for more than 2^31 elements on fewer; check that it is chosen for more."""
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
            torch.testing.assert_close(a, b, rtol=5e-6, atol=2e-37, equal_nan=True)  # eager underflows to 0


@pytest.mark.parametrize("act", FORMULAS)
def test_small_and_large_arguments(device, act):
    """Plain code for expm1(v), 1 - tanh(v)^2 and log(1 + exp(v)) loses digits there."""
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
def test_empty_tensors(device, shape, dim):
    x, b = (torch.zeros(s, device=device, requires_grad=True) for s in (shape, shape[dim]))
    y = bias_act(x, b, dim, "swish")
    grads = torch.autograd.grad(y.sum(), [x, b], create_graph=True)
    assert y.shape == shape and grads[0].shape == shape and torch.equal(grads[1], torch.zeros_like(b))


def test_a_scalar_tensor(device):
    x = torch.tensor(-2.0, dtype=torch.float64, device=device, requires_grad=True)
    y = bias_act(x, act="lrelu", gain=1.0)
    (first,) = torch.autograd.grad(y, x)
    assert y.shape == () and y.item() == pytest.approx(-0.4) and first.item() == 0.2


def test_reruns_are_bit_identical(kernel_device, small_tiles):
    x, g = (torch.randn(5, 3, 4, 3, device=kernel_device) for _ in range(2))
    b, found = torch.randn(3, device=kernel_device, requires_grad=True), []
    for _ in range(3):
        found.append(torch.autograd.grad(bias_act(x, b, act="swish"), b, g)[0])
    assert all(torch.equal(found[0], other) for other in found[1:])
    sums = over(torch.autograd.grad(bias_act(x.clone().requires_grad_(), b, act="swish"), b, g)[0][:, None], 0)
    assert torch.equal(sums, found[0])
