"""Every criterion and every objective against float64 autograd of its own formula, per element, atol=0.

A gradient that is a difference (x - y, or one with an average taken off) is measured against its larger part, where the
difference itself has lost digits that no float32 logit had.
"""

import importlib

import pytest
import torch
import torch.nn.functional as F
from checkout import ROOT
from oracle import DTYPES, LOSS_RTOL, assert_close

import fastgan
from fastgan import kernels, reference
from fastgan.formulas import criteria, objectives

pytestmark = pytest.mark.usefixtures("poisoned")

INF, NAN = float("inf"), float("nan")
# Written here again, as PyTorch code has them: {criterion: phi(x, y)} for a label of 1 or 0 and s = 2 y - 1.
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
    x[: n // 8] = x[: n // 8].round() / 1  # whole numbers among them: knees, and x = y
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
    if criterion in ("sigmoid_cross_entropy", "absolute_error") and y:  # sigmoid(x) - 1 has lost its digits
        loss = F.softplus(-leaf).mean() if criterion == "sigmoid_cross_entropy" else torch.sigmoid(-leaf).mean()
        grad = torch.sigmoid(-leaf) * (1 if criterion == "sigmoid_cross_entropy" else torch.sigmoid(leaf)) / -x.numel()
    return loss.detach(), grad.detach()


def test_every_criterion_is_in_both_rooms():
    assert set(criteria.CRITERIA) == set(kernels.CRITERIA) == set(FORMULAS)


@pytest.mark.parametrize("name", kernels.CRITERIA)
def test_the_kernel_is_the_formula(kernel_device, name):
    """Value and slope of every criterion in Triton are those in PyTorch, whose slope is the derivative of its value."""
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
    """Between the knees: at one the numerical derivative is of neither side."""
    x = draw(criterion, 6, torch.float64, "cpu", magnitude=2.0).add_(0.013).to(device).requires_grad_()
    for label in (1.0, 0.0):

        def loss(x, label=label):
            return fastgan.criterion_loss(x, label, criterion, weight=0.7)

        assert torch.autograd.gradcheck(loss, (x,))
        assert torch.autograd.gradgradcheck(loss, (x,), atol=1e-4 if criterion == "cross_entropy" else 1e-5)


def clamp_slope():
    """That of `clamp(min=0)` at its knee: 1 up to torch 2.13, 0 from 2.14 on."""
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
    """Large tensors go block by block: here two blocks and a rest."""
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
    for shape in ((2, 3, 5, 6), (2, 3, 13, 14)):  # a block, and several
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
def test_special_values_travel_as_in_eager(device, criterion, value):
    for label in (1.0, 0.0):
        x = draw(criterion, 40, torch.float32, device)
        x[7] = value
        got_leaf, leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
        got, want = fastgan.criterion_loss(got_leaf, label, criterion), FORMULAS[criterion](leaf, label)
        torch.testing.assert_close(got, want, rtol=3e-6, atol=2e-7, equal_nan=True)
        (got_grad,), (grad,) = torch.autograd.grad(got, got_leaf), torch.autograd.grad(want, leaf)
        if value == value or criterion != "tanh_hinge":  # of NaN, at the loss: eager's own operators do not agree
            torch.testing.assert_close(got_grad, grad, rtol=2e-5, atol=1e-7, equal_nan=True)


def test_probabilities_near_0_and_1(device):
    """log(1 - p) of a small p is -p, which 1 - p has lost."""
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


def sides(shapes, dtype, device, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [(spread * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype).to(device) for s in shapes]
        for _ in range(2)
    ]


SHAPES = {
    "tensor": [(9,)],
    "three": [(3, 4), (5, 1, 3), (2, 2, 2)],
    "six": [(3, 4), (700,), (7, 1), (1,), (2000,), (5,)],
}


def close_to(got, want, dtype, size):
    """|got - want| <= 5e-6 of `size`, and an ulp of a half-precision output."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    eps = torch.finfo(dtype).eps
    allowed = size.cpu() * (1e-11 if dtype == torch.float64 else 1e-5)
    if dtype in (torch.float16, torch.bfloat16):
        allowed = allowed + 2 * eps * size.cpu()
    assert got.shape == want.shape and ((got - want).abs() <= allowed).all(), (got - want).abs().max()


DTYPES_OF_LISTS = (torch.float32, torch.float64, torch.bfloat16)
CASES = [(o, "tensor", d) for o in reference.LOSSES for d in DTYPES_OF_LISTS]
CASES += [(o, "three", torch.float32) for o in reference.LOSSES]
CASES += [
    pytest.param(o, "six", torch.float32, marks=pytest.mark.thorough)
    for o in ("minimax", "least_squares", "hinge", "relativistic_average")
]


@pytest.mark.parametrize(("objective", "shapes", "dtype"), CASES, ids=str)
def test_objective(device, objective, dtype, shapes):
    """D's and G's loss over a tensor and over lists, both ways, against the reference in float64."""
    found = fastgan.objectives()[objective]
    real, fake = sides(SHAPES[shapes], dtype, device)
    exact_real, exact_fake = ([x.double().requires_grad_() for x in xs] for xs in (real, fake))
    leaves = [x.clone().requires_grad_() for x in (*real, *fake)]
    k = len(real)
    listed = shapes != "tensor"
    pack = (lambda xs: list(xs)) if listed else (lambda xs: xs[0])
    compare = dict(real_logits=pack(leaves[:k])) if found.relation else {}
    compare64 = dict(real_logits=exact_real) if found.relation else {}
    for got, want, out in (
        (
            fastgan.discriminator_loss(pack(leaves[:k]), pack(leaves[k:]), objective, weight=0.7),
            reference.discriminator_loss(exact_real, exact_fake, objective, weight=0.7),
            fastgan.discriminator_value_and_grad(pack(real), pack(fake), objective, weight=0.7),
        ),
        (
            fastgan.generator_loss(pack(leaves[k:]), objective, weight=0.7, **compare),
            reference.generator_loss(exact_fake, objective, weight=0.7, **compare64),
            fastgan.generator_value_and_grad(pack(fake), objective, weight=0.7, **compare),
        ),
    ):
        total = 1 + sum(x.double().abs().mean() for x in (*real, *fake))
        close_to(got, want, torch.float32 if dtype == torch.bfloat16 else dtype, total)
        close_to(out.loss, want, torch.float32 if dtype == torch.bfloat16 else dtype, total)
        wanted = torch.autograd.grad(want, [*exact_real, *exact_fake], allow_unused=True)
        found_grads = torch.autograd.grad(got, leaves, allow_unused=True)
        for g, w, x in zip(found_grads, wanted, leaves):
            assert (g is None) == (w is None)
            if g is not None:
                close_to(g, w, dtype, w.abs() + (1 + x.detach().double().abs()) * bool(found.relation) / x.numel())
        mine = wanted if len(out.grads) == 2 * k else wanted[k:]
        for g, w, x in zip(out.grads, mine, leaves[-len(out.grads) :]):
            close_to(g, w, dtype, w.abs() + (1 + x.detach().double().abs()) * bool(found.relation) / x.numel())


@pytest.mark.parametrize("objective", reference.LOSSES)
def test_gradgradcheck_of_every_objective(objective):
    real, fake = sides([(5,), (2, 2)], torch.float64, "cpu", spread=0.9)
    inputs = [x.add_(0.0137).requires_grad_() for x in (*real, *fake)]

    def loss(*x):
        return fastgan.discriminator_loss(list(x[:2]), list(x[2:]), objective, weight=0.7)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("objective", ["hinge", "relativistic", "relativistic_average", "dual_contrastive"])
def test_compiled(device, objective):
    torch._dynamo.reset()
    found = fastgan.objectives()[objective]

    def train(real, fake):
        compare = dict(real_logits=[x.detach() for x in real]) if found.relation else {}
        loss = fastgan.discriminator_loss(real, fake, objective)
        return loss + fastgan.generator_loss(fake, found and objective, **compare)

    compiled = torch.compile(train, fullgraph=True, dynamic=True, backend="aot_eager")
    real, fake = sides([(3, 4), (7,)], torch.float32, device)
    results = []
    for function in (train, compiled):
        leaves = [[x.clone().requires_grad_() for x in xs] for xs in (real, fake)]
        loss = function(*leaves)
        results.append((loss, *torch.autograd.grad(loss, [*leaves[0], *leaves[1]])))
    for eager, other in zip(*results):
        torch.testing.assert_close(other, eager, rtol=1e-6, atol=1e-8)


def test_detached_averages_are_constants(device):
    """ESRGAN takes the other side's mean out of the graph; PyTorch-GAN's mean is over the batch alone."""
    (real,), (fake,) = sides([(6, 1, 2, 3)], torch.float64, device)
    for over in ("all", "batch"):
        leaves = [x.clone().requires_grad_() for x in (real, fake)]
        mean = (lambda x: x.mean()) if over == "all" else (lambda x: x.mean(0, keepdim=True))
        for detach in (False, True):
            off = (lambda x: x.detach()) if detach else (lambda x: x)
            r, f = leaves
            want = F.softplus(off(mean(f)) - r).mean() + F.softplus(f - off(mean(r))).mean()
            got = fastgan.discriminator_loss(r, f, "relativistic_average", average_over=over, detach_average=detach)
            torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
            for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves)):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    # one side detached by the caller
    r, f = real.clone(), fake.clone().requires_grad_()
    got = fastgan.generator_loss(f, "relativistic_average", real_logits=r)
    want = F.softplus(r - f.mean()).mean() + F.softplus(r.mean() - f).mean()
    for a, b in zip(torch.autograd.grad(got, f), torch.autograd.grad(want, f)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("objective", ["minimax", "least_squares"])
def test_label_tensors(device, objective):
    """Soft, noisy and blurred labels: one for every logit, or one for each sample."""
    for dtype in (torch.float32, torch.bfloat16):
        real, fake = ([x] for x in (xs[0] for xs in sides([(4, 1, 5, 6)], dtype, device)))
        label = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(1)).to(device)
        exact_real, exact_fake = (x[0].double().requires_grad_() for x in (real, fake))
        want = reference.discriminator_loss(exact_real, exact_fake, objective, real_label=label.double())
        leaves = [x[0].clone().requires_grad_() for x in (real, fake)]
        got = fastgan.discriminator_loss(*leaves, objective, real_label=label)
        torch.testing.assert_close(got.double(), want, rtol=3e-6, atol=0)
        out = fastgan.discriminator_value_and_grad(*leaves, objective, real_label=label)
        wanted = torch.autograd.grad(want, (exact_real, exact_fake))
        for g, v, w, x in zip(torch.autograd.grad(got, leaves), out.grads, wanted, leaves):
            size = (1 + x.detach().double().abs()) / x.numel()
            close_to(g, w, dtype, size), close_to(v, w, dtype, size)
        torch.testing.assert_close(out.loss, got.detach(), rtol=1e-6, atol=0)


def test_label_tensors_of_one_number(device):
    """Ones and zeros, as most code makes them, give what the numbers give; a half is no side, whatever it is."""
    (x,), _ = sides([(4, 5)], torch.float32, device)
    x.requires_grad_()
    for criterion in ("sigmoid_cross_entropy", "least_squares", "hinge", "hinge_min", "wasserstein", "squared_hinge"):
        for y in (1.0, 0.0, 0.5):
            got = fastgan.criterion_loss(x, torch.full((4, 1), y, device=device), criterion)
            want = criteria.CRITERIA[criterion].value(x, y).mean()
            torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-7)
            (g,), (w,) = torch.autograd.grad(got, x), torch.autograd.grad(want, x)
            torch.testing.assert_close(g, w, rtol=2e-5, atol=1e-7)


def test_a_loss_of_inference_mode_leaves_nothing_that_training_trips_over():
    (x,), _ = sides([(4, 5)], torch.float32, "cpu")
    for criterion in ("least_squares", "hinge", "hinge_min"):
        with torch.inference_mode():
            fastgan.criterion_loss([x, x, x], 1, criterion, weight=0.123)
            fastgan.criterion_loss(x, 1, criterion, weight=0.123)
        leaf = x.clone().requires_grad_()
        (
            fastgan.criterion_loss([leaf] * 3, 1, criterion) + fastgan.criterion_loss(leaf, 1, criterion, weight=0.123)
        ).backward()
        assert leaf.grad.isfinite().all()


def test_weights_and_masks(device):
    """sum m phi / sum m, with a weight a logit or a sample, and a mask of truth values."""
    (real,), (fake,) = sides([(4, 1, 40, 60)], torch.float32, device)
    generator = torch.Generator().manual_seed(2)
    for m in (torch.rand(4, 1, 1, 1, generator=generator), torch.rand(4, 1, 40, 60, generator=generator) > 0.4):
        m = m.to(device)
        leaf, leaf64 = fake.clone().requires_grad_(), fake.double().requires_grad_()
        got = fastgan.discriminator_loss(real, leaf, "hinge", fake_weights=m)
        values = F.relu(1 + leaf64) * m
        want = F.relu(1 - real.double()).mean() + values.sum() / m.double().expand_as(values).sum()
        torch.testing.assert_close(got.double(), want, rtol=3e-6, atol=0)
        (g,), (w,) = torch.autograd.grad(got, leaf), torch.autograd.grad(want, leaf64)
        torch.testing.assert_close(g.double(), w, rtol=5e-6, atol=0)
        one = fastgan.criterion_loss(fake, 0, "hinge", weights=m)
        torch.testing.assert_close(one.double(), want - F.relu(1 - real.double()).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "none", "sample"])
def test_masks_of_what_is_no_mean(device, reduction):
    """Sum m phi is no mean: nothing is divided. A sample's mean is sum m phi / sum m of its own."""
    (real,), (fake,) = sides([(4, 30)], torch.float32, device)
    m = torch.rand(4, 30, generator=torch.Generator().manual_seed(2)).to(device) + 0.1
    products = F.relu(1 + fake.double()) * m.double()
    wanted = {"sum": products.sum(), "none": products, "sample": products.sum(1) / m.double().sum(1)}
    plain = {"sum": 1.0, "none": 1.0, "sample": 1.0 / 30}
    other = F.relu(1 - real.double()) * plain[reduction]
    other = {"sum": other.sum(), "none": other, "sample": other.sum(1)}[reduction]
    got = fastgan.discriminator_loss(real, fake, "hinge", fake_weights=m, reduction=reduction)
    assert_close(got, wanted[reduction] + other, torch.float32)
    for got in (
        fastgan.criterion_loss(fake, 0, "hinge", weights=m, reduction=reduction),
        fastgan.generator_loss(-F.relu(1 + fake), "wasserstein", fake_weights=m, reduction=reduction),
    ):
        assert_close(got, wanted[reduction], torch.float32)


@pytest.mark.parametrize("label", [0.9, 0.25])
def test_absolute_error_of_a_soft_label_is_expected(device, label):
    """Labels that are 1 with probability y: y |sigmoid(x) - 1| + (1 - y) |sigmoid(x)|, as the cross-entropy takes y."""
    (real,), (fake,) = sides([(300,)], torch.float32, device)
    leaf = real.clone().requires_grad_()
    leaf64 = real.double().requires_grad_()
    want = 0.5 * (label * torch.sigmoid(-leaf64) + (1 - label) * torch.sigmoid(leaf64)).mean()
    want = want + 0.5 * torch.sigmoid(fake.double()).mean()
    got = fastgan.discriminator_loss(leaf, fake, "absolute_error", real_label=label)
    assert_close(got, want, torch.float32)
    assert_close(torch.autograd.grad(got, leaf)[0], torch.autograd.grad(want, leaf64)[0], torch.float32)
    same = reference.discriminator_loss(real.double(), fake.double(), "absolute_error", real_label=label)
    assert_close(same, want, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("average_over", ["all", "batch"])
@pytest.mark.parametrize("objective", [name for name, o in fastgan.objectives().items() if o.relation == "average"])
def test_half_precision_rounds_both_gradients_of_a_logit_at_once(device, objective, average_over, dtype):
    """Its own, and the one through the average: they cancel, and under a loss scale one alone would overflow."""
    if average_over == "batch" and objective == "dual_contrastive":
        pytest.skip("it has no average over a batch")
    generator = torch.Generator().manual_seed(5)
    real, fake = (
        (torch.randn(16, 9, generator=generator, dtype=torch.float64) + c).to(dtype).to(device) for c in (0.3, -0.3)
    )
    scale = 65536.0 if dtype == torch.float16 else 1.0
    leaves = [x.clone().requires_grad_() for x in (real, fake)]
    wide = [x.double().requires_grad_() for x in (real, fake)]
    loss = scale * fastgan.discriminator_loss(*leaves, objective, average_over=average_over)
    exact = scale * fastgan.discriminator_loss(*wide, objective, average_over=average_over)
    of_average = torch.stack([x.abs().max() for x in torch.autograd.grad(exact, wide, retain_graph=True)]).max()
    for got, want in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(exact, wide)):
        step = 2.0 ** torch.floor(torch.log2(want.abs())) * torch.finfo(dtype).eps
        assert got.dtype == dtype
        assert ((got.double() - want).abs() <= 0.5 * step + 2e-6 * of_average).all()


def test_reductions(device):
    (real,), (fake,) = sides([(4, 1, 5, 6)], torch.float32, device)
    leaf = fake.clone().requires_grad_()
    for objective in ("nonsaturating", "least_squares", "hinge", "wasserstein"):
        loss = {r: fastgan.generator_loss(leaf, objective, reduction=r) for r in ("mean", "sum", "none", "sample")}
        assert loss["none"].shape == leaf.shape and loss["sample"].shape == (4,)
        torch.testing.assert_close(loss["none"].mean(), loss["mean"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(loss["none"].sum(), loss["sum"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loss["sample"].mean(), loss["mean"], rtol=1e-5, atol=1e-7)
        want = torch.autograd.grad(loss["sum"], leaf)[0]
        for r, scale in (("none", 1.0), ("sample", 30.0)):
            got = torch.autograd.grad(loss[r].sum() * scale, leaf)[0]
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    both = fastgan.discriminator_loss(real, fake, reduction="none", weight=0.5)
    torch.testing.assert_close(both, 0.5 * (F.softplus(-real) + F.softplus(fake)), rtol=1e-6, atol=0)
    per_image = fastgan.discriminator_loss(real, fake, patch_mean=True)
    r, f = real.flatten(1).mean(1), fake.flatten(1).mean(1)
    torch.testing.assert_close(per_image, F.softplus(-r).mean() + F.softplus(f).mean(), rtol=2e-6, atol=0)
    nothing = fastgan.discriminator_loss(torch.zeros(0, 3, device=device), fake, "least_squares", reduction="sum")
    torch.testing.assert_close(nothing, (fake**2).sum(), rtol=2e-6, atol=0)
    with pytest.raises(ValueError, match=r"reduction.*\(4, 1, 5, 6\), \(2, 1, 5, 6\)"):
        fastgan.discriminator_loss(real, fake[:2], reduction="none")


HIFIGAN = [(4, 102), (4, 102), (4, 105), (4, 105), (4, 110), (4, 128), (4, 65), (4, 33)]  # a quarter of the batch


def test_a_list_takes_one_launch(kernel_device):
    real, fake = sides(HIFIGAN, torch.float32, kernel_device)
    real, fake = ([x.requires_grad_() for x in xs] for xs in (real, fake))
    count = kernels.launch_count
    before = count()
    out = fastgan.discriminator_value_and_grad(real, fake, "least_squares")
    assert count() == before + 1 and len(out.grads) == 16
    loss = fastgan.discriminator_loss(real, fake, "least_squares")
    assert count() == before + 2
    loss.backward()
    assert count() == before + 3
    torch.testing.assert_close(loss.detach(), out.loss, rtol=1e-6, atol=0)
    for x, g in zip((*real, *fake), out.grads):
        assert torch.equal(x.grad, g)
    before = count()
    fastgan.generator_value_and_grad(fake, "least_squares")
    fastgan.generator_value_and_grad(fake, "hinge")
    fastgan.discriminator_value_and_grad(real, fake, "relativistic")
    assert count() == before + 3


def test_a_long_list_takes_a_launch_for_every_64_tensors(kernel_device, monkeypatch):
    adversarial = importlib.import_module("fastgan.kernels.adversarial")
    assert adversarial.MAX_TERMS == 64
    if kernel_device.type == "cpu":  # 64 take the interpreter half a minute
        monkeypatch.setattr(adversarial, "MAX_TERMS", 6)
    tensors = adversarial.MAX_TERMS * 2 + 1
    many = [torch.randn(3, device=kernel_device).requires_grad_() for _ in range(tensors)]
    before = kernels.launch_count()
    out = fastgan.discriminator_value_and_grad(many[: tensors // 2], many[: tensors // 2], "hinge")
    assert kernels.launch_count() == before + 2
    assert len(out.grads) == tensors - 1 and out.stats.real_mean.shape == (tensors // 2,)
    before = kernels.launch_count()
    loss, losses = fastgan.adversarial_losses([(many, 1.0)], "least_squares")
    assert kernels.launch_count() == before + 3
    torch.testing.assert_close(losses, torch.stack([((x - 1) ** 2).mean() for x in many]), rtol=2e-6, atol=0)
    torch.testing.assert_close(loss, losses.sum(), rtol=1e-5, atol=0)
    (losses * torch.arange(tensors, device=kernel_device)).sum().backward()  # each tensor its own scale
    for k, x in enumerate(many):
        torch.testing.assert_close(x.grad, k * 2 * (x.detach() - 1) / 3, rtol=5e-6, atol=0)


def test_parts_and_statistics_of_a_list(device):
    real, fake = sides(HIFIGAN[:3], torch.float32, device)
    out = fastgan.discriminator_value_and_grad(real, fake, "hinge", reduce_discriminators="mean")
    for k in range(3):
        torch.testing.assert_close(out.losses_real[k], F.relu(1 - real[k]).mean() / 3, rtol=2e-6, atol=0)
        torch.testing.assert_close(out.stats.fake_mean[k], fake[k].mean(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.stats.real_accuracy[k], (real[k] >= 0).float().mean())
        torch.testing.assert_close(out.stats.real_sign[k], real[k].sign().mean(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.stats.fake_sign[k], fake[k].sign().mean(), rtol=1e-5, atol=1e-6)
        assert torch.equal(out.grad_fake[k], out.grads[3 + k])
    torch.testing.assert_close(out.loss_real + out.loss_fake, out.loss, rtol=2e-6, atol=0)
    assert out.stats.error.shape == ()
    features = [[torch.zeros(2), x] for x in real], [[torch.zeros(3), torch.zeros(1), x] for x in fake]
    nested = fastgan.discriminator_value_and_grad(*features, "hinge", reduce_discriminators="mean")
    assert torch.equal(nested.loss, out.loss) and torch.equal(nested.grads[4], out.grads[4])


def test_each_part_of_a_list_can_be_differentiated(device):
    real, fake = ([x.requires_grad_() for x in xs] for xs in sides(HIFIGAN[:3], torch.float32, device))
    loss, losses = fastgan.adversarial_losses([(real, 1.0), (fake, 0.0)], "least_squares")
    assert loss.shape == () and losses.shape == (6,)
    torch.testing.assert_close(losses.sum(), loss, rtol=1e-6, atol=0)
    (2 * loss + 3 * losses[1] + losses[5]).backward()
    for k, (x, y) in enumerate([*[(x, 1.0) for x in real], *[(x, 0.0) for x in fake]]):
        factor = 2 + 3 * (k == 1) + (k == 5)
        torch.testing.assert_close(x.grad, factor * 2 * (x.detach() - y) / x.numel(), rtol=5e-6, atol=0)
    _, losses = fastgan.adversarial_losses([(real, 1.0), (fake, 0.0)], "least_squares")  # the parts without the sum
    grads = torch.autograd.grad(losses[:3].sum() - 2 * losses[3:].sum(), [*real, *fake])
    for x, y, factor, grad in zip((*real, *fake), (1.0,) * 3 + (0.0,) * 3, (1,) * 3 + (-2,) * 3, grads):
        torch.testing.assert_close(grad, factor * 2 * (x.detach() - y) / x.numel(), rtol=5e-6, atol=0)


@pytest.mark.parametrize("fake_first", [True, False])
def test_one_batch_of_both_sides(device, fake_first):
    """SPADE's: nothing is sliced, and the gradient of the batch is one tensor."""
    for memory in (torch.contiguous_format, torch.channels_last):
        batches, _ = sides([(7, 2, 9, 8), (7, 2, 3, 3)], torch.float32, device)
        batches = [x.contiguous(memory_format=memory).requires_grad_() for x in batches]
        halves = [(x[:3], x[3:])[:: -1 if fake_first else 1] for x in batches]
        want = fastgan.discriminator_loss([r for r, _ in halves], [f for _, f in halves], "hinge")
        grads = torch.autograd.grad(want, batches)
        got = fastgan.concatenated_discriminator_loss(batches, "hinge", fake_first=fake_first, split=3)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        out = fastgan.concatenated_discriminator_value_and_grad(batches, "hinge", fake_first=fake_first, split=3)
        assert torch.equal(out.loss, got.detach()) and len(out.grads) == 2
        for g, v, w in zip(torch.autograd.grad(got, batches), out.grads, grads):
            torch.testing.assert_close(g, w, rtol=1e-6, atol=0)
            assert torch.equal(v, g)
    (x,), _ = sides([(4, 3)], torch.float64, device)
    x.requires_grad_()
    assert torch.autograd.gradcheck(fastgan.concatenated_discriminator_loss, (x,))
    assert torch.autograd.gradgradcheck(fastgan.concatenated_discriminator_loss, (x,))


def test_one_batch_takes_one_launch_and_no_slices(kernel_device):
    x = torch.randn(6, 1, 8, 8, device=kernel_device, requires_grad=True)
    before = kernels.launch_count()
    loss = fastgan.concatenated_discriminator_loss(x, "hinge")
    assert "Slice" not in str(loss.grad_fn.next_functions)
    loss.backward()
    assert kernels.launch_count() == before + 2


def test_lecam(device):
    (real,), (fake,) = sides([(8, 1, 5, 5)], torch.float32, device)
    real.requires_grad_(), fake.requires_grad_()
    module = fastgan.losses.LeCamEMA(decay=0.9, weight=0.3).to(device)
    stats = fastgan.discriminator_value_and_grad(real, fake).stats
    module.update(stats.real_mean, stats.fake_mean)
    torch.testing.assert_close(module.real_anchor, 0.1 * real.mean().detach(), rtol=1e-5, atol=1e-7)
    got = module(real, fake)
    want = 0.3 * (F.relu(real - module.fake_anchor) ** 2).mean() + 0.3 * (F.relu(module.real_anchor - fake) ** 2).mean()
    torch.testing.assert_close(got, want, rtol=3e-6, atol=0)
    for g, w in zip(torch.autograd.grad(got, (real, fake)), torch.autograd.grad(want, (real, fake))):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=0)
    torch.testing.assert_close(fastgan.drift_penalty(real, weight=0.1), 0.1 * (real**2).mean(), rtol=2e-6, atol=0)
    assert set(module.state_dict()) == {"real_anchor", "fake_anchor"}


A, B = torch.zeros(4), torch.zeros(3, 2)
BAD = {
    "an empty list": (ValueError, "real_logits: got an empty list", lambda: fastgan.discriminator_loss([], [])),
    "an empty inner list": (ValueError, r"fake_logits\[1\]: got an empty", lambda: fastgan.generator_loss([[A], []])),
    "unequal lists": (
        ValueError,
        "fake_logits: got 1 tensors, expected 2",
        lambda: fastgan.discriminator_loss([A, B], [A]),
    ),
    "two dtypes in a list": (
        *(ValueError, r"real_logits\[1\].*float64.*float32.*real_logits\[0\]"),
        lambda: fastgan.discriminator_loss([A, B.double()], [A, B]),
    ),
    "two devices in a list": (
        *(ValueError, r"fake_logits\[0\].*meta.*cpu"),
        lambda: fastgan.discriminator_loss([A, B], [A.to("meta"), B]),
    ),
    "integers in a list": (TypeError, r"fake_logits\[2\].*int64", lambda: fastgan.generator_loss([A, B, A.long()])),
    "no tensor in a list": (TypeError, r"fake_logits\[1\].*str", lambda: fastgan.generator_loss([A, "B"])),
    "a reduction": (ValueError, "reduction.*'avg'.*'mean'", lambda: fastgan.generator_loss(A, reduction="avg")),
    "a reduction of lists": (
        *(ValueError, "reduce_discriminators.*'max'"),
        lambda: fastgan.generator_loss([A, B], reduce_discriminators="max"),
    ),
    "an objective": (ValueError, "objective.*'lsgan'.*'least_squares'", lambda: fastgan.generator_loss(A, "lsgan")),
    "a criterion": (ValueError, "criterion.*'bce'", lambda: fastgan.criterion_loss(A, 1, "bce")),
    "weights of the wrong length": (
        *(ValueError, "weight: got 3 numbers, expected 2"),
        lambda: fastgan.criterion_loss([A, B], 1, weight=[1.0, 2.0, 3.0]),
    ),
    "weights of another shape": (
        *(ValueError, r"fake_weights: got shape \(5,\), expected one that expands to \(4,\)"),
        lambda: fastgan.discriminator_loss(A, A, fake_weights=torch.ones(5)),
    ),
    "too few label tensors": (
        *(ValueError, "real_label: got 1 tensors, expected 2"),
        lambda: fastgan.discriminator_loss([A, B], [A, B], real_label=[A]),
    ),
    "a negative label for a hinge": (
        *(ValueError, "real_label: got -1.*1 .real. or 0"),
        lambda: fastgan.discriminator_loss(A, A, "hinge", real_label=-1),
    ),
    "a negative probability": (
        ValueError,
        "fake_label.*-0.2",
        lambda: fastgan.discriminator_loss(A, A, fake_label=-0.2),
    ),
    "no real logits to compare with": (
        *(ValueError, "real_logits: got none.*'relativistic'"),
        lambda: fastgan.generator_loss(A, "relativistic"),
    ),
    "pairs of two shapes": (
        *(ValueError, r"fake_logits\[1\].*\(2, 3\).*\(3, 2\)"),
        lambda: fastgan.discriminator_loss([A, B], [A, B.T], "relativistic"),
    ),
    "weights on a comparison": (
        *(ValueError, "real_weights.*'relativistic'"),
        lambda: fastgan.discriminator_loss(A, A, "relativistic", real_weights=A),
    ),
    "an average over nothing known": (
        *(ValueError, "average_over.*'rows'"),
        lambda: fastgan.discriminator_loss(A, A, "relativistic_average", average_over="rows"),
    ),
    "an odd batch of both": (ValueError, "logits: got 3 rows", lambda: fastgan.concatenated_discriminator_loss(B)),
    "a split outside": (ValueError, "logits: got shape", lambda: fastgan.concatenated_discriminator_loss(A, split=4)),
    "a comparison of a batch": (
        *(ValueError, "objective.*'relativistic'"),
        lambda: fastgan.concatenated_discriminator_loss(A, "relativistic"),
    ),
    "a decay": (ValueError, "decay: got 2", lambda: fastgan.losses.LeCamEMA(decay=2)),
    "a module's setting": (TypeError, "wieght", lambda: fastgan.losses.GeneratorLoss("hinge", wieght=2)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    error, message, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and kernels.launch_count() == launches


@pytest.mark.parametrize("objective", fastgan.objectives())
def test_one_call_serves_every_objective(objective):
    """Of one that does not compare, the real logits change nothing: not even a NaN in them."""
    random = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 5, generator=random)
    options = {"real_logits": real if fastgan.objectives()[objective].relation else torch.full((3,), torch.nan)}
    loss, out = (f(fake, objective, **options) for f in (fastgan.generator_loss, fastgan.generator_value_and_grad))
    exact = reference.generator_loss(fake.double(), objective, real_logits=real.double())
    for found in (loss, out.loss):
        assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    assert fastgan.losses.GeneratorLoss(objective)(fake, options["real_logits"]).item() == loss.item()


MEANT = {
    "least_squares": ("lsgan", "ls", "mse", "LSGAN", "least-squares", "least squares", "leastsquare"),
    "wasserstein": ("wgan", "wgan-gp", "WGAN_GP", "wassertein"), "minimax": ("bce", "vanilla", "gan", "min-max"),
    "nonsaturating": ("ns", "NSGAN", "non-saturating", "non_saturating", "logistic"), "hinge": ("Hinge", "hing"),
    "relativistic": ("rpgan", "rsgan", "r3gan", "relativistc"), "relativistic_average": ("ra", "ragan", "esrgan"),
    "relativistic_average_least_squares": ("ralsgan", "RaLS"), "relativistic_average_hinge": ("ra-hinge",),
    "clamped_hinge": ("hinge2",), "dual_contrastive": ("dual", "contrastive"), "absolute_error": ("mae",),
}  # fmt: skip


@pytest.mark.parametrize("meant", MEANT)
def test_the_fields_names_are_understood(meant):
    takes = (
        lambda name: fastgan.discriminator_loss(A, A, name),
        lambda name: fastgan.generator_value_and_grad(A, name),
        lambda name: fastgan.losses.GeneratorLoss(name),
        lambda name: reference.generator_loss(A, name),
        lambda name: fastgan.GANTrainer(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1), objective=name),
    )
    for name in MEANT[meant]:
        for call in takes:
            with pytest.raises(ValueError, match=f"objective: got {name!r}, did you mean {meant!r}\\? expected one of"):
                call(name)


def test_a_name_of_nothing_is_not_guessed_at():
    for name in ("ganeral", "", "xyz", 3, None):
        with pytest.raises(ValueError, match=r"objective: got .*, expected one of 'minimax'"):
            fastgan.generator_loss(A, name)
    with pytest.raises(ValueError, match=r"did you mean 'mmd'.*'mmd'"):
        fastgan.GANTrainer(torch.nn.Linear(2, 2), None, objective="MMD")
    with pytest.raises(ValueError, match=r"did you mean 'minimax'. expected one of 'absolute_error', 'minimax'"):
        fastgan.game.game_value(torch.randn(9), torch.randn(9), "bce")


def test_every_alias_names_one_objective():
    aliases = [alias for names in objectives.ALIASES.values() for alias in names]
    assert len(aliases) == len(set(aliases)) and set(objectives.ALIASES) == set(fastgan.objectives())


def test_the_list_of_objectives_is_complete():
    found = fastgan.objectives()
    assert set(found) == set(reference.LOSSES)
    page = (ROOT / "docs" / "objectives.md").read_text()
    for name, objective in found.items():
        assert f"| `{name}` | {objective.discriminator} | {objective.generator} | {objective.source} |" in page
    for objective in found.values():
        assert objective.discriminator and objective.generator and objective.source
    found.clear()
    assert fastgan.objectives(), "a copy"
