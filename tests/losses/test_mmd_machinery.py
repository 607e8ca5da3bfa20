"""Maximum mean discrepancy in use: derivatives, layouts, launches, memory, the compiler, and bad input."""

import importlib
import inspect
import math

import pytest
import torch
from mmd_float64 import KERNELS, assert_within, exact, samples

import fastgan
from fastgan import kernels, reference
from fastgan.losses import mmd
from fastgan.operators.dispatch import backend_for


def kernels_are_fast(device):
    """False under the interpreter."""
    return device.type != "cpu" or backend_for(device) == "torch"


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck_and_gradgradcheck(device, kernel):
    """Of the real kernel, in float64: every partial derivative for the Gaussian, one direction for the others."""
    x, y = (s.requires_grad_() for s in samples(3, 2, 2, torch.float64, device))
    bandwidths = None if kernel == "energy" else (0.8, 1.6)
    for unbiased in (False, True) if kernels_are_fast(device) else (kernel != "gaussian",):

        def loss(x, y, unbiased=unbiased):
            return fastgan.mmd_loss(x, y, bandwidths, kernel=kernel, unbiased=unbiased, alpha=1.5, weight=0.7)

        assert torch.autograd.gradcheck(loss, (x, y), fast_mode=kernel != "gaussian")
        assert torch.autograd.gradgradcheck(loss, (x, y), fast_mode=True)


def test_create_graph(closed_form):
    """A penalty on the gradient, and a third derivative, against autograd through the formula."""
    x, y = (s.requires_grad_() for s in samples(6, 5, 7, torch.float64))

    def formula(x, y, _):
        def k(a, b):
            D = (a[:, None] - b).square().sum(-1)
            return torch.exp(-D / 8).mean() + torch.exp(-D / 2).mean()

        return k(x, x) + k(y, y) - 2 * k(x, y)

    found = []
    for loss in (fastgan.mmd_loss, formula):
        grads = torch.autograd.grad(loss(x, y, (1.0, 2.0)), (x, y), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), (x, y), create_graph=True)
        found.append([*second, *torch.autograd.grad(sum((g**3).sum() for g in second), (x, y))])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)


def test_only_x_requires_grad(device):
    x, y = samples(9, 8, 2, device=device)
    x.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        loss = fastgan.mmd_loss(x, y)
    assert saved == [x.data_ptr(), y.data_ptr()]
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 3 * first, rtol=1e-6, atol=0)
    assert y.grad is None
    torch.testing.assert_close(first, fastgan.mmd_value_and_grad(x, y).grad, rtol=1e-5, atol=1e-8)


def test_layouts(device):
    x, y = samples(12, 14, 3, device=device)
    want = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    wide = torch.randn(14, 6, device=device)
    wide[:, ::2] = y
    for a, b in ((x.T.contiguous().T, wide[:, ::2]), (x.flip(0).flip(0), y)):
        got = fastgan.mmd_value_and_grad(a, b, target_gradient=True)
        assert all(torch.equal(g, w) for g, w in zip(got, want))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity(device, value):
    for d in (2, 6):
        x, y = samples(6, 5, d, device=device)
        x[2, 1] = value
        out = fastgan.mmd_value_and_grad(x, y)
        assert out.loss.isnan() and fastgan.mmd_loss(x, y).isnan() and reference.mmd_loss(x, y).isnan()
        assert out.grad.isnan().any()


def test_reruns_are_bit_identical(device):
    x, y = samples(40, 20, 2, device=device)
    first = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    for _ in range(2):
        other = fastgan.mmd_loss(x[:5], y)  # fewer programs: a counter that was not reset would not reach the end
        assert_within(other, *exact(x[:5], y, mmd.BANDWIDTHS)[:2], torch.float32)
        again = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_launches_and_allocations(kernel_device, monkeypatch):
    """One launch for loss and gradient; one forward and one backward for the drop-in; only results are allocated."""
    x, y = samples(40, 30, 2, device=kernel_device)
    fastgan.mmd_value_and_grad(x, y)
    before, made = kernels.launch_count(), []
    for name in ("empty", "empty_like", "zeros"):
        function = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=function, **k: made.append(f(*a, **k)) or made[-1])
    out = fastgan.mmd_value_and_grad(x, y)
    assert kernels.launch_count() == before + 1
    assert {t.data_ptr() for t in made} == {out.loss.data_ptr(), out.means.data_ptr(), out.grad.data_ptr()}
    x.requires_grad_()
    loss = fastgan.mmd_loss(x, y)
    assert kernels.launch_count() == before + 2
    loss.backward()
    assert kernels.launch_count() == before + 3


def test_launch_arguments_are_in_the_order_of_the_signature(kernel_device, monkeypatch):
    recorded = []
    module = importlib.import_module("fastgan.kernels.mmd")
    monkeypatch.setattr(module, "launch", lambda *arguments: recorded.append(arguments))
    fastgan.mmd_value_and_grad(*samples(200, 300, 2, device=kernel_device), (1.0, 2.0))
    plan, args, given = recorded[0]
    kernel, programs, constants = plan.kernel, plan.programs, plan.constants
    names = [*inspect.signature(kernel.fn).parameters]
    assert len(args) + len(constants) == len(names) and list(constants) == names[len(args) :]
    assert args[names.index("programs")] == programs == -(-200 // 32) + -(-300 // 32)
    assert constants["POWERS"] == 0b10 and len(given) == 2


def test_samples_of_many_rows_share_the_programs(kernel_device, monkeypatch):
    """With more blocks of rows than programs, each program takes several."""
    x, y = samples(40, 33, 2, device=kernel_device)
    want = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    module = importlib.import_module("fastgan.kernels.mmd")
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    module.plan.cache_clear()
    got = fastgan.mmd_value_and_grad(x, y, target_gradient=True)
    module.plan.cache_clear()
    assert torch.equal(got.grad, want.grad) and torch.equal(got.grad_target, want.grad_target)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-6, atol=0)


def test_memory_is_linear(closed_form):
    from bench.harness.clock import Cpu

    x, y = samples(4000, 3900, 8)
    x.requires_grad_()
    matrix, machine = 4000 * 4000 * 4, Cpu(quick=True)
    ours = machine.peak_bytes(lambda _: fastgan.mmd_value_and_grad(x, y))  # blocks of 256 x 512, whatever the samples
    assert ours < 0.15 * matrix
    assert machine.peak_bytes(lambda _: fastgan.mmd_loss(x, y).backward()) < 0.15 * matrix
    assert machine.peak_bytes(lambda _: reference.mmd_loss(x, y).backward()) > 3 * matrix, "what is measured"


@pytest.mark.slow
def test_32768_points_in_megabytes(closed_form):
    """One matrix of these pairs takes 4 GiB; eager holds several."""
    from bench.harness.clock import Cpu

    for d in (2, 64):
        x, y = samples(2**15, 2**15, d)
        out, s = [], math.sqrt(d)
        peak = Cpu(quick=True).peak_bytes(
            lambda _, x=x, y=y, s=s, out=out: out.append(fastgan.mmd_value_and_grad(x, y, s))
        )
        assert peak < 16 * x.nbytes + 2**23 < 2**32 / 16
        rows = slice(0, 2**15, 4096)
        grad = (
            4
            / 2**30
            * sum(
                sign * ((-torch.exp(-D / (2 * d)) / (2 * d))[..., None] * apart).sum(1)
                for sign, apart in ((1, x[rows, None].double() - x), (-1, x[rows, None].double() - y))
                for D in (apart.square().sum(-1),)
            )
        )
        torch.testing.assert_close(out[0].grad[rows].double(), grad, rtol=1e-4, atol=2e-6 / 2**15)


def test_opcheck(device):
    x, y = samples(5, 6, 2, device=device)
    settings = ("gaussian", (2.0, 1.0), 1.0, False, True, 1.0, "fp32")
    scale, ops = torch.tensor(2.0, device=device), torch.ops.fastgan
    if kernels_are_fast(device):
        torch.library.opcheck(ops.mmd_value, (x, y, *settings))
        torch.library.opcheck(ops.mmd_gradient, (x, y, *settings, scale, True, False))
        torch.library.opcheck(ops.mmd_value_and_gradient, (x, y, *settings, None, 3.0, True))
    else:
        torch.library.opcheck(ops.mmd_value_and_gradient, (x, y, *settings, scale, 3.0, False))


def test_compile_fullgraph(closed_form):
    torch._dynamo.reset()

    device = "cpu"

    def train(x, y):
        return fastgan.mmd_loss(2 * x, y, (1.0, 2.0), unbiased=True)

    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, m in ((5, 7), (9, 4)):
        x, y = samples(n, m, 2, device=device)
        results = []
        for function in (train, compiled):
            leaf = x.clone().requires_grad_()
            loss = function(leaf, y)
            loss.backward()
            results.append((loss.detach(), leaf.grad))
        for eager, other in zip(*results):
            torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-8)

    def direct(x, y):
        out = fastgan.mmd_value_and_grad(x, y, (1.0, 2.0))
        return out.loss, out.grad

    assert all(
        torch.equal(a, b) for a, b in zip(direct(x, y), torch.compile(direct, fullgraph=True, backend="eager")(x, y))
    )


def test_func_grad_and_vmap(device):
    x, y = samples(2 * 4, 3, 2, torch.float64, device)
    batches = x.reshape(2, 4, 2)

    def loss(x, y):
        return fastgan.mmd_loss(x, y, (1.0, 2.0))

    grads = torch.func.vmap(torch.func.grad(loss), (0, None))(batches, y)
    values = torch.func.vmap(loss, (0, None))(batches, y)
    for k in range(2):
        want = fastgan.mmd_value_and_grad(batches[k], y, (1.0, 2.0))
        torch.testing.assert_close(values[k], want.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(grads[k], want.grad, rtol=1e-10, atol=1e-16)
    hessian = torch.func.jacrev(torch.func.grad(loss))(batches[0][:2], y)
    torch.testing.assert_close(hessian.reshape(4, 4), hessian.reshape(4, 4).T, rtol=1e-10, atol=1e-14)


def test_forward_mode_raises_rather_than_return_zero(closed_form):
    x, y = samples(5, 6, 2)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda x: fastgan.mmd_loss(x, y), (x,), (x,))
    with pytest.raises(RuntimeError, match="mmd_value_and_grad"):
        torch.func.vmap(lambda x: fastgan.mmd_value_and_grad(x, y).loss)(x[None])


GOOD = torch.zeros(4, 2)
BAD = {
    "a list": (TypeError, "x: got list", lambda f: f([[1.0]], GOOD)),
    "integers": (TypeError, "y: got torch.int64", lambda f: f(GOOD, GOOD.long())),
    "sparse": (ValueError, "x: got a torch.sparse_coo tensor", lambda f: f(GOOD.to_sparse(), GOOD)),
    "one dimension": (
        ValueError,
        r"x: got shape \(4,\), expected \(points, dimensions\): `\[:, None\]`",
        lambda f: f(GOOD[:, 0], GOOD),
    ),
    "images": (ValueError, r"y: got shape \(4, 1, 2\).*flatten", lambda f: f(GOOD, GOOD[:, None])),
    "no points": (ValueError, r"y: got shape \(0, 2\)", lambda f: f(GOOD, GOOD[:0])),
    "no dimensions": (ValueError, r"x: got shape \(4, 0\)", lambda f: f(GOOD[:, :0], GOOD[:, :0])),
    "two dtypes": (ValueError, "y: got torch.float64, expected torch.float32", lambda f: f(GOOD, GOOD.double())),
    "two devices": (ValueError, "y: got a tensor on meta, expected cpu", lambda f: f(GOOD, GOOD.to("meta"))),
    "other dimensions": (ValueError, "y: got points of 1 dimensions, expected 2", lambda f: f(GOOD, GOOD[:, :1])),
    "a bandwidth of 0": (ValueError, r"bandwidths\[1\]: got 0", lambda f: f(GOOD, GOOD, (1, 0))),
    "a negative bandwidth": (ValueError, "bandwidths: got -1.0", lambda f: f(GOOD, GOOD, -1.0)),
    "a bandwidth of NaN": (ValueError, "bandwidths: got nan", lambda f: f(GOOD, GOOD, math.nan)),
    "no bandwidths": (ValueError, "bandwidths: got none", lambda f: f(GOOD, GOOD, [])),
    "text": (TypeError, "bandwidths: got str", lambda f: f(GOOD, GOOD, "1")),
    "a tensor of bandwidths": (TypeError, "bandwidths: got Tensor", lambda f: f(GOOD, GOOD, torch.ones(2))),
    "an energy bandwidth": (ValueError, "bandwidths: got 1.0.*None", lambda f: f(GOOD, GOOD, 1.0, kernel="energy")),
    "an unknown kernel": (ValueError, "kernel: got 'rbf'.*'gaussian'", lambda f: f(GOOD, GOOD, kernel="rbf")),
    "an unknown precision": (ValueError, "precision: got 'bf16'", lambda f: f(GOOD, GOOD, precision="bf16")),
    "alpha": (ValueError, "alpha: got 0", lambda f: f(GOOD, GOOD, kernel="rational_quadratic", alpha=0)),
    "weight": (TypeError, "weight: got str", lambda f: f(GOOD, GOOD, weight="1")),
    "one point, unbiased": (
        ValueError,
        "x: got 1 point, expected at least 2",
        lambda f: f(GOOD[:1], GOOD, unbiased=True),
    ),
    "one target, unbiased": (ValueError, "y: got 1 point", lambda f: f(GOOD, GOOD[:1], unbiased=True)),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", ["mmd_loss", "mmd_value_and_grad"])
def test_bad_input(case, function):
    error, message, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=message) as caught:
        call(getattr(fastgan, function))
    assert "\n" not in str(caught.value) and kernels.launch_count() == launches


def test_one_target_is_enough_without_the_target_term():
    fastgan.mmd_loss(GOOD, GOOD[:1], unbiased=True, include_target_term=False)
    with pytest.raises(ValueError, match="grad_scale"):
        fastgan.mmd_value_and_grad(GOOD, GOOD, grad_scale=torch.ones(2))


def test_second_derivative_of_a_sample_and_itself():
    """One tensor as both samples: both parts of the derivative count."""
    found = []
    for other in (lambda x: x, lambda x: x.clone()):
        x = samples(5, 5, 2, torch.float64)[0].requires_grad_()
        loss = fastgan.mmd_loss(x, other(x), 1.0, include_target_term=False)
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
