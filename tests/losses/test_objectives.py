"""Every objective against float64 autograd of its own formula, per element, atol=0: labels, weights, reductions.

The error of a gradient that is a difference (x - y, or minus an average) is relative to its larger part, because the
difference of float32 logits has lost digits.
"""

import pytest
import torch
import torch.nn.functional as F
from logits import sides
from oracle import assert_close

import fastgan
from fastgan import reference
from fastgan.formulas import criteria

pytestmark = pytest.mark.usefixtures("poisoned")
SHAPES = {
    "tensor": [(9,)],
    "three": [(3, 4), (5, 1, 3), (2, 2, 2)],
    "six": [(3, 4), (700,), (7, 1), (1,), (2000,), (5,)],
}


def close_to(got, want, dtype, size):
    """Compare relative to `size`; half precision also gets the rounding of the output."""
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
    """D's and G's loss of a tensor and of lists, as drop-in and value_and_grad, against the reference in float64."""
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
        return loss + fastgan.generator_loss(fake, objective, **compare)

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
    """ESRGAN detaches the other side's mean; PyTorch-GAN's mean is over the batch only."""
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
    """Soft, noisy and blurred labels: here one for each sample."""
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
    """Tensors of ones, zeros or halves, as most code makes them, give what the numbers give."""
    (x,), _ = sides([(4, 5)], torch.float32, device)
    x.requires_grad_()
    for criterion in ("sigmoid_cross_entropy", "least_squares", "hinge", "hinge_min", "wasserstein", "squared_hinge"):
        for y in (1.0, 0.0, 0.5):
            got = fastgan.criterion_loss(x, torch.full((4, 1), y, device=device), criterion)
            want = criteria.CRITERIA[criterion].value(x, y).mean()
            torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-7)
            (g,), (w,) = torch.autograd.grad(got, x), torch.autograd.grad(want, x)
            torch.testing.assert_close(g, w, rtol=2e-5, atol=1e-7)


def test_training_works_after_a_loss_in_inference_mode():
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
    """sum m phi / sum m, with a weight for each sample, and with a boolean mask."""
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
def test_masks_with_other_reductions(device, reduction):
    """sum m phi is not divided; the mean of a sample is its sum m phi / sum m."""
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
    """A label is 1 with probability y: y |sigmoid(x) - 1| + (1 - y) |sigmoid(x)|, as in the cross-entropy."""
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
    """The direct one and the one through the average cancel; under a loss scale each alone would overflow."""
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


def test_losses_of_every_logit_are_right_in_float64(device):
    """At logits where PyTorch's softplus, by its default threshold, is the identity with slope 1."""
    x = torch.tensor([-20.5, -25.0, 20.5, 36.0], dtype=torch.float64, device=device, requires_grad=True)
    loss = fastgan.generator_loss(x, reduction="none")
    want = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    torch.testing.assert_close(loss, want, rtol=1e-15, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], -torch.sigmoid(-x), rtol=1e-15, atol=0)


def test_a_sample_of_one_logit_has_one_weight(device):
    """(N,) is treated as (N, 1): sum m phi / sum m is phi."""
    x, m = torch.randn(4, device=device), torch.arange(1.0, 5.0, device=device)
    got = [fastgan.generator_loss(x.reshape(s), fake_weights=m.reshape(s), reduction="sample") for s in (4, (4, 1))]
    torch.testing.assert_close(got[0], got[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[0], F.softplus(-x), rtol=1e-6, atol=0)


def test_an_infinite_weight(device):
    """A float64 kernel gets a number as two float32: infinity and 0, not infinity and NaN."""
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, device=device)
    for dtype in (torch.float64, torch.float32):
        assert fastgan.generator_loss(x.to(dtype), weight=float("inf")).item() == float("inf")


@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_infinite_logits_that_are_not_averaged(label, reduction):
    """NaN and the gradients of PyTorch's own loss."""
    values = torch.tensor([float("inf"), 1.0, -float("inf"), float("nan")])
    ours, eager = (values.clone().requires_grad_() for _ in range(2))
    loss = fastgan.criterion_loss(ours, label, reduction=reduction)
    want = F.binary_cross_entropy_with_logits(eager, torch.full_like(eager, label), reduction=reduction)
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=0, equal_nan=True)
    loss.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(ours.grad, eager.grad, rtol=1e-6, atol=0, equal_nan=True)
