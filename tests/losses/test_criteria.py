"""Every criterion against float64 autograd of its own formula, per element, atol=0."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES, LOSS_RTOL, assert_close

import fastgan
from fastgan import kernels
from fastgan.formulas import criteria

pytestmark = pytest.mark.usefixtures("poisoned")
INF, NAN = float("inf"), float("nan")
# {criterion: mean of phi(x, y)} in eager PyTorch, for a label y of 1 or 0.
FORMULAS = {
    "sigmoid_cross_entropy": lambda x, y: F.binary_cross_entropy_with_logits(x, x.new_full((), y).expand_as(x)),
    "softplus": lambda x, y: F.softplus(-x if y else x).mean(),
    "absolute_error": lambda x, y: (1 - torch.sigmoid(x) if y else torch.sigmoid(x)).mean(),
    "least_squares": lambda x, y: F.mse_loss(x, torch.full_like(x, y)),
    "hinge": lambda x, y: F.relu(1 - x if y else 1 + x).mean(),
    "hinge_clamp": lambda x, y: torch.clamp(1 - x if y else 1 + x, min=0).mean(),
    "hinge_min": lambda x, y: -torch.min((x if y else -x) - 1, torch.zeros_like(x)).mean(),
    "wasserstein": lambda x, y: -x.mean() if y else x.mean(),
    "squared_hinge": lambda x, y: (F.relu(-x if y else x) ** 2).mean(),
    "absolute": lambda x, y: F.l1_loss(x, torch.full_like(x, y)),
    "leaky_least_squares": lambda x, y: F.mse_loss(F.leaky_relu(x, 0.05), torch.full_like(x, y)),
    "tanh_hinge": lambda x, y: -torch.min(torch.tanh(x if y else -x) - 1, torch.zeros_like(x)).mean(),
    "log_sigmoid_with_eps": lambda x, y: -torch.log(torch.sigmoid(x) + 1e-8).mean(),
    "cross_entropy": lambda x, y: F.binary_cross_entropy(x, torch.full_like(x, y)),
}


def draw(criterion, n, dtype, device, seed=0, magnitude=6.0):
    generator = torch.Generator().manual_seed(seed + n)
    x = (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1) * magnitude
    if criterion == "cross_entropy":
        x = 0.02 + 0.96 * torch.sigmoid(x / 2)
    x[: n // 8] = x[: n // 8].round() / 1  # some whole numbers, for knees and x = y
    return x.clamp(1e-3, 1 - 1e-3).to(dtype).to(device) if criterion == "cross_entropy" else x.to(dtype).to(device)


def exact(criterion, x, y):
    """(mean phi, its gradient) by float64 autograd; 1 - tanh from a form that does not cancel."""
    leaf = x.detach().double().requires_grad_()
    loss = FORMULAS[criterion](leaf, y)
    (grad,) = torch.autograd.grad(loss, leaf)
    if criterion == "tanh_hinge":
        s = 2 * y - 1
        loss = 2 * torch.sigmoid(-2 * s * leaf).mean()
        grad = -4 * s * torch.sigmoid(2 * leaf) * torch.sigmoid(-2 * leaf) / x.numel()
    if criterion in ("sigmoid_cross_entropy", "absolute_error") and y:  # sigmoid(x) - 1 loses its digits
        loss = F.softplus(-leaf).mean() if criterion == "sigmoid_cross_entropy" else torch.sigmoid(-leaf).mean()
        grad = torch.sigmoid(-leaf) * (1 if criterion == "sigmoid_cross_entropy" else torch.sigmoid(leaf)) / -x.numel()
    return loss.detach(), grad.detach()


def test_every_criterion_is_in_both_rooms():
    assert set(criteria.CRITERIA) == set(kernels.CRITERIA) == set(FORMULAS)


@pytest.mark.parametrize("name", kernels.CRITERIA)
def test_the_kernel_is_the_formula(kernel_device, name):
    """Value and slope in Triton equal those in PyTorch, whose slope is the derivative of its value."""
    phi = criteria.CRITERIA[name]
    labels = {"probability": (0.0, 0.3, 1.0), "side": (0.0, 1.0), "number": (-1.0, 0.0, 2.5)}[phi.labels]
    for label in labels:
        x = draw(name, 600, torch.float64, kernel_device).requires_grad_()
        loss = fastgan.criterion_loss(x, label, name, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x)
        value = phi.value(x, label).sum()
        (derivative,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(loss, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, phi.slope(x.detach(), label), rtol=1e-12, atol=0)
        torch.testing.assert_close(slope, derivative, rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [7, 1030, pytest.param(9001, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("criterion", FORMULAS)
def test_criterion(device, criterion, label, n):
    for dtype in DTYPES if n != 1030 else [torch.float32]:
        x = draw(criterion, n, dtype, device)
        loss, grad = exact(criterion, x, label)
        leaf = x.clone().requires_grad_()
        got = fastgan.criterion_loss(leaf, label, criterion)
        (got_grad,) = torch.autograd.grad(got, leaf, torch.full_like(got, 2.0))
        out = torch.float64 if dtype == torch.float64 else torch.float32
        size = x.double().abs().mean() if criterion == "wasserstein" else loss.abs()  # -mean x cancels
        assert (got.detach().double() - loss).abs() <= LOSS_RTOL[dtype] * size and got.dtype == out
        assert_close(got_grad, 2 * grad, dtype)


@pytest.mark.parametrize("criterion", FORMULAS)
def test_gradcheck_and_gradgradcheck(device, criterion):
    """Away from the knees, where a numerical derivative is wrong."""
    x = draw(criterion, 6, torch.float64, "cpu", magnitude=2.0).add_(0.013).to(device).requires_grad_()
    for label in (1.0, 0.0):

        def loss(x, label=label):
            return fastgan.criterion_loss(x, label, criterion, weight=0.7)

        assert torch.autograd.gradcheck(loss, (x,))
        assert torch.autograd.gradgradcheck(loss, (x,), atol=1e-4 if criterion == "cross_entropy" else 1e-5)


def clamp_slope():
    """The slope of `clamp(min=0)` at its knee: 1 up to torch 2.13, 0 from 2.14 on."""
    x = torch.zeros((), requires_grad=True)
    return torch.autograd.grad(torch.clamp(x, min=0), x)[0].item()


def test_nan_has_the_slope_that_clamp_gives_it(device):
    for n in (3, 9000):
        x = torch.full((n,), NAN, device=device, requires_grad=True)
        (grad,) = torch.autograd.grad(fastgan.criterion_loss(x, 1.0, "hinge_clamp", reduction="sum"), x)
        assert torch.equal(grad, torch.autograd.grad(torch.clamp(1 - x, min=0).sum(), x)[0])


@pytest.mark.parametrize("criterion", ["hinge", "hinge_clamp", "hinge_min"])
def test_the_knee_is_that_of_the_operator(device, criterion):
    knee = {"hinge": 0.0, "hinge_clamp": clamp_slope(), "hinge_min": 0.5}[criterion]
    for label, at in ((1.0, 1.0), (0.0, -1.0)):
        for n in (3, 9000):
            x = torch.full((n,), at, device=device, requires_grad=True)
            (grad,) = torch.autograd.grad(fastgan.criterion_loss(x, label, criterion, reduction="sum"), x)
            (eager,) = torch.autograd.grad(FORMULAS[criterion](x, label) * n, x)
            assert torch.equal(grad, torch.full_like(x, -at * knee))
            torch.testing.assert_close(grad, eager, rtol=1e-6, atol=0)


@pytest.mark.parametrize("criterion", FORMULAS)
def test_several_blocks_on_a_cpu(monkeypatch, criterion):
    """Large tensors are computed in blocks: here two blocks and a tail."""
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")
    monkeypatch.setattr("fastgan.cpu.blocks.BLOCK", 512)
    cpu = importlib.import_module("fastgan.cpu.adversarial")
    monkeypatch.setattr(cpu, "AUTOGRAD_BELOW", 0)
    monkeypatch.setattr(cpu, "AUTOGRAD_ALWAYS", ())
    x, mask = draw(criterion, 1030, torch.float64, "cpu").requires_grad_(), torch.rand(1030, dtype=torch.float64)
    got = fastgan.criterion_loss(x, 1.0, criterion, weights=mask, reduction="sum")
    want = (mask * criteria.CRITERIA[criterion].value(x, 1.0)).sum()
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (got, want)), rtol=1e-6, atol=0)
    for label in (1.0, 0.0):
        for n in (7, 1030):
            test_criterion(torch.device("cpu"), criterion, label, n)
    if criterion in ("hinge", "hinge_clamp", "hinge_min"):
        test_the_knee_is_that_of_the_operator(torch.device("cpu"), criterion)
    for shape in ((2, 3, 5, 6), (2, 3, 13, 14)):  # one block; several
        for layout in (torch.contiguous_format, torch.channels_last):
            real, fake = (torch.randn(shape).to(memory_format=layout) for _ in range(2))
            out = fastgan.discriminator_value_and_grad(real, fake, "least_squares")
            assert_close(out.grad_real, (real.double() - 1) * 2 / real.numel(), torch.float32)
            assert_close(out.grad_fake, fake.double() * 2 / fake.numel(), torch.float32)
            torch.testing.assert_close(out.stats.real_accuracy, (real >= 0).float().mean(), rtol=1e-6, atol=0)
            torch.testing.assert_close(out.stats.fake_accuracy, (fake < 0).float().mean(), rtol=1e-6, atol=0)
    real, fake = torch.randn(1030).to(torch.bfloat16), torch.randn(1030).to(torch.bfloat16)
    out = fastgan.discriminator_value_and_grad(real, fake, "least_squares")
    assert_close(out.grad_fake, fake.double() * 2 / 1030, torch.bfloat16)
    torch.testing.assert_close(out.stats.fake_accuracy, (fake < 0).float().mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(out.stats.real_mean, real.float().mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [INF, -INF, NAN, 1e30, -1e30, 0.0, -0.0])
@pytest.mark.parametrize("criterion", sorted(set(FORMULAS) - {"cross_entropy"}))
def test_special_values_propagate_as_in_eager(device, criterion, value):
    for label in (1.0, 0.0):
        x = draw(criterion, 40, torch.float32, device)
        x[7] = value
        got_leaf, leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
        got, want = fastgan.criterion_loss(got_leaf, label, criterion), FORMULAS[criterion](leaf, label)
        torch.testing.assert_close(got, want, rtol=3e-6, atol=2e-7, equal_nan=True)
        (got_grad,), (grad,) = torch.autograd.grad(got, got_leaf), torch.autograd.grad(want, leaf)
        if value == value or criterion != "tanh_hinge":  # eager's own operators disagree about NaN
            torch.testing.assert_close(got_grad, grad, rtol=2e-5, atol=1e-7, equal_nan=True)


def test_probabilities_near_0_and_1(device):
    """log(1 - p) of a small p is -p, whose digits 1 - p loses."""
    p = torch.logspace(-30, -1, 40, dtype=torch.float64).float().to(device)
    for label, x in ((0.0, p), (1.0, 1 - p[p > 1e-6])):
        leaf = x.double().requires_grad_()
        want = F.binary_cross_entropy(leaf, torch.full_like(leaf, label), reduction="none")
        for i in range(0, len(x), 5):
            got = fastgan.criterion_loss(x[i], label, "cross_entropy")
            torch.testing.assert_close(got.double(), want[i].detach(), rtol=1e-6, atol=0)


def test_probabilities_of_0_and_1(device):
    """`nn.BCELoss` bounds its logarithms at -100 and its slope's denominator at 1e-12; so do we."""
    for label in (1.0, 0.0):
        p = torch.tensor([0.0, 1.0, 0.5, 1e-30, NAN], device=device)
        mine, eager = p.clone().requires_grad_(), p.clone().requires_grad_()
        got = fastgan.criterion_loss(mine[:4], label, "cross_entropy")
        want = F.binary_cross_entropy(eager[:4], torch.full_like(eager[:4], label))
        torch.testing.assert_close(got, want, rtol=2e-6, atol=0)
        (g,), (w,) = torch.autograd.grad(got, mine), torch.autograd.grad(want, eager)
        torch.testing.assert_close(g, w, rtol=1e-5, atol=0)
