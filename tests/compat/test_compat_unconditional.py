"""stylegan, r3gan, biggan, studiogan, mimicry, rosinality and lucidrains against their formulas in eager PyTorch."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from parity import adaptive_weight, check, shaped

from fastgan import kernels
from fastgan.compat import biggan, lightweight_gan, lucidrains, mimicry, r3gan, rosinality, studiogan, stylegan

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TWO = [(16, 1), (16, 1)]
TWO_ROUNDINGS = {torch.float16: 2**-10, torch.bfloat16: 2**-7}  # the logit's own slope and that of the shift, summed


def sp(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def bce(x, y):
    return (1 - y) * sp(x) + y * sp(-x)


def hinge(x):
    return F.relu(1 - x).mean()


def cross_entropies(own, other):
    """The N x N form of half the dual contrastive loss: the own logit is to win over all of the other side."""
    rows = [torch.cat((x.reshape(1), other.flatten())) for x in own.flatten()]
    return F.cross_entropy(torch.stack(rows), torch.zeros(own.numel(), dtype=torch.long))


def dual(a, b):
    return cross_entropies(a, b) + cross_entropies(-b, -a)


# name: (ours, theirs, shapes); theirs takes what ours takes, in that order
CASES = {
    "stylegan.generator_term": (stylegan.generator_term, lambda f: sp(-f), [(8, 1)]),
    "stylegan.discriminator_fake_term": (stylegan.discriminator_fake_term, lambda f: sp(f), [(8, 1)]),
    "stylegan.discriminator_real_term": (stylegan.discriminator_real_term, lambda r: sp(-r), [(8, 1)]),
    "stylegan.generator_loss": (stylegan.generator_loss, lambda f: sp(-f).mean(), [(8, 1)]),
    "stylegan.discriminator_loss": (stylegan.discriminator_loss, lambda r, f: sp(-r).mean() + sp(f).mean(), TWO),
    "r3gan.generator_loss": (r3gan.generator_loss, lambda r, f: sp(-(f - r)).mean(), [(64,), (64,)]),
    "r3gan.discriminator_loss": (r3gan.discriminator_loss, lambda r, f: sp(-(r - f)).mean(), [(64,), (64,)]),
    "biggan.loss_dcgan_dis": (biggan.loss_dcgan_dis, lambda f, r: (sp(-r).mean(), sp(f).mean()), [(256, 1), (128, 1)]),
    "biggan.loss_dcgan_gen": (biggan.loss_dcgan_gen, lambda f: sp(-f).mean(), [(256, 1)]),
    "biggan.loss_hinge_dis": (biggan.loss_hinge_dis, lambda f, r: (hinge(r), hinge(-f)), [(256, 1), (128, 1)]),
    "biggan.loss_hinge_gen": (biggan.loss_hinge_gen, lambda f: -f.mean(), [(256, 1)]),
    "studiogan.d_vanilla": (studiogan.d_vanilla, lambda r, f: sp(-r).mean() + sp(f).mean(), [(64,), (64,)]),
    "studiogan.g_vanilla": (studiogan.g_vanilla, lambda f: sp(-f).mean(), [(64,)]),
    "studiogan.d_logistic": (studiogan.d_logistic, lambda r, f: (sp(-r) + sp(f)).mean(), [(64,), (64,)]),
    "studiogan.g_logistic": (studiogan.g_logistic, lambda f: sp(-f).mean(), [(64,)]),
    "studiogan.d_ls": (studiogan.d_ls, lambda r, f: (0.5 * (r - 1) ** 2 + 0.5 * f**2).mean(), [(64,), (64,)]),
    "studiogan.g_ls": (studiogan.g_ls, lambda f: (0.5 * (f - 1) ** 2).mean(), [(64,)]),
    "studiogan.d_hinge": (studiogan.d_hinge, lambda r, f: hinge(r) + hinge(-f), [(64,), (64,)]),
    "studiogan.g_hinge": (studiogan.g_hinge, lambda f: -f.mean(), [(64,)]),
    "studiogan.d_wasserstein": (studiogan.d_wasserstein, lambda r, f: (f - r).mean(), [(64,), (64,)]),
    "studiogan.g_wasserstein": (studiogan.g_wasserstein, lambda f: -f.mean(), [(64,)]),
    "mimicry.minimax_loss_gen": (mimicry.minimax_loss_gen, lambda f: bce(f, 1.0).mean(), [(64, 1)]),
    "mimicry.minimax_loss_dis": (
        mimicry.minimax_loss_dis,
        lambda f, r: bce(r, 1.0).mean() + bce(f, 0.0).mean(),
        [(64, 1), (32, 1)],
    ),
    "mimicry.ns_loss_gen": (
        mimicry.ns_loss_gen,
        lambda f: -torch.log(torch.sigmoid(f) + 1e-8).mean(),
        [(64, 1)],
    ),
    "mimicry.wasserstein_loss_dis": (mimicry.wasserstein_loss_dis, lambda r, f: -r.mean() + f.mean(), [(64, 1)] * 2),
    "mimicry.wasserstein_loss_gen": (mimicry.wasserstein_loss_gen, lambda f: -f.mean(), [(64, 1)]),
    "mimicry.hinge_loss_dis": (mimicry.hinge_loss_dis, lambda f, r: hinge(r) + hinge(-f), [(64, 1), (32, 1)]),
    "mimicry.hinge_loss_gen": (mimicry.hinge_loss_gen, lambda f: -f.mean(), [(64, 1)]),
    "rosinality.d_logistic_loss": (rosinality.d_logistic_loss, lambda r, f: sp(-r).mean() + sp(f).mean(), TWO),
    "rosinality.g_nonsaturating_loss": (rosinality.g_nonsaturating_loss, lambda f: sp(-f).mean(), [(16, 1)]),
    "lucidrains.hinge_loss": (lucidrains.hinge_loss, lambda f, r: (F.relu(1 + r) + F.relu(1 - f)).mean(), [(32,)] * 2),
    "lucidrains.gen_hinge_loss": (lambda fake: lucidrains.gen_hinge_loss(fake, None), lambda f: f.mean(), [(32,)]),
    "lucidrains.dual_contrastive_loss": (lucidrains.dual_contrastive_loss, lambda f, r: dual(r, f), [(32,), (24,)]),
    "lightweight_gan.hinge_loss": (
        lightweight_gan.hinge_loss,
        lambda r, f: (F.relu(1 + r) + F.relu(1 - f)).mean(),
        [(32,)] * 2,
    ),
    "lightweight_gan.dual_contrastive_loss": (lightweight_gan.dual_contrastive_loss, dual, [(32,), (24,)]),
    "lucidrains.discriminator_hinge_loss": (
        lucidrains.discriminator_hinge_loss,
        lambda r, f: (F.relu(1 + r) + F.relu(1 - f)).mean(),
        [(32,)] * 2,
    ),
    "lucidrains.generator_hinge_loss": (lucidrains.generator_hinge_loss, lambda f: f.mean(), [(32,)]),
}
LOSSES_RETURNED = {"biggan.loss_dcgan_dis": 2, "biggan.loss_hinge_dis": 2}  # of any other: one
SIGNATURES = {
    r3gan.AdversarialTraining: ["Generator", "Discriminator"],
    r3gan.AdversarialTraining.AccumulateGeneratorGradients: [
        *("self", "Noise", "RealSamples", "Conditions", "Scale=1", "Preprocessor"),
    ],
    r3gan.AdversarialTraining.AccumulateDiscriminatorGradients: [
        *("self", "Noise", "RealSamples", "Conditions", "Gamma", "Scale=1", "Preprocessor"),
    ],
    biggan.loss_dcgan_dis: ["dis_fake", "dis_real"],
    biggan.loss_dcgan_gen: ["dis_fake"],
    biggan.loss_hinge_dis: ["dis_fake", "dis_real"],
    biggan.loss_hinge_gen: ["dis_fake"],
    studiogan.d_vanilla: ["d_logit_real", "d_logit_fake", "DDP=None"],
    studiogan.g_vanilla: ["d_logit_fake", "DDP=None"],
    studiogan.lecam_reg: ["d_logit_real", "d_logit_fake", "ema"],
    studiogan.LeCamEMA: ["init=7777", "decay=0.9", "start_iter=0"],
    studiogan.LeCamEMA.update: ["self", "cur", "mode", "itr"],
    mimicry.minimax_loss_gen: ["output_fake", "real_label_val=1.0", "kwargs"],
    mimicry.minimax_loss_dis: ["output_fake", "output_real", "real_label_val=1.0", "fake_label_val=0.0", "kwargs"],
    mimicry.ns_loss_gen: ["output_fake"],
    mimicry.wasserstein_loss_dis: ["output_real", "output_fake"],
    mimicry.wasserstein_loss_gen: ["output_fake"],
    mimicry.hinge_loss_dis: ["output_fake", "output_real"],
    mimicry.hinge_loss_gen: ["output_fake"],
    rosinality.d_logistic_loss: ["real_pred", "fake_pred"],
    rosinality.g_nonsaturating_loss: ["fake_pred"],
    rosinality.d_r1_loss: ["real_pred", "real_img"],
    lucidrains.hinge_loss: ["fake", "real"],
    lucidrains.gen_hinge_loss: ["fake", "real"],
    lucidrains.dual_contrastive_loss: ["fake_logits", "real_logits"],
    lightweight_gan.hinge_loss: ["real", "fake"],
    lightweight_gan.dual_contrastive_loss: ["real_logits", "fake_logits"],
    lightweight_gan.gen_hinge_loss: ["fake", "real"],
    lucidrains.discriminator_hinge_loss: ["real", "fake"],
    lucidrains.generator_hinge_loss: ["fake"],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parity(name, dtype):
    ours, theirs, shapes = CASES[name]
    rtol = TWO_ROUNDINGS.get(dtype) if "dual" in name else None
    check(ours, theirs, *shaped(shapes, dtype, seed=1), grad_rtol=rtol, float32="minimax" in name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case[2]) == 2])
@pytest.mark.parametrize("side", [0, 1])
def test_one_side_asks_for_gradients(name, side):
    ours, theirs, shapes = CASES[name]
    logits = shaped(shapes, seed=2)
    logits[side] = logits[side].detach()
    check(ours, theirs, *logits)


@pytest.mark.parametrize(
    "name", ["biggan.loss_hinge_dis", "studiogan.d_hinge", "mimicry.hinge_loss_dis", "lucidrains.hinge_loss"]
)
def test_slope_at_the_knee_is_that_of_relu(name):
    ours, theirs, _ = CASES[name]
    knee = torch.tensor([1.0, -1.0, 1.0 - 2**-24, -1.0 + 2**-24])
    check(ours, theirs, knee.clone().requires_grad_(), knee.clone().requires_grad_())


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("_term")])
def test_one_launch_forward_and_one_backward(kernel_device, name):
    ours, theirs, shapes = CASES[name]
    logits = [x.detach().to(kernel_device).requires_grad_() for x in shaped(shapes, seed=3)]
    before = kernels.launch_count()
    result = ours(*logits)
    assert kernels.launch_count() - before == 1
    returned = result if isinstance(result, tuple) else (result,)
    assert len(returned) == LOSSES_RETURNED.get(name, 1)
    sum(returned).backward()
    assert kernels.launch_count() - before == 1 + len(returned)  # each has a graph of its own, as upstream
    check(ours, theirs, *logits)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("_term")])
def test_adaptive_weight(name):
    """Two gradients and a backward through one graph, the weight far from 1."""
    ours, theirs, shapes = CASES[name]
    found = []
    for loss, dtype in ((ours, torch.float32), (theirs, torch.float64)):

        def adversarial(output, loss=loss):
            halves = output.flatten()[: output.numel() // 2], output.flatten()[output.numel() // 2 :]
            result = loss(*halves[: len(shapes)])
            return sum(result) if isinstance(result, tuple) else result

        generator = torch.Generator().manual_seed(4)
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype)
        layer = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        weight = adaptive_weight(adversarial, lambda output: 50 * output.square().mean(), layer, x)
        found.append((weight.double(), layer.grad.double()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signatures(function):
    parameters = inspect.signature(function).parameters.values()
    plain = [p.name if p.default is p.empty or callable(p.default) else f"{p.name}={p.default!r}" for p in parameters]
    assert plain == SIGNATURES[function]


def test_names_the_codebases_have():
    assert biggan.generator_loss is biggan.loss_hinge_gen and biggan.discriminator_loss is biggan.loss_hinge_dis
    for name in ("vanilla", "logistic", "ls", "hinge", "wasserstein"):
        r, f = shaped([(8,), (8,)])
        assert getattr(studiogan, f"d_{name}")(r, f, False).requires_grad  # DDP is given by position
        assert getattr(studiogan, f"g_{name}")(f, DDP=True).requires_grad
    assert lucidrains.gen_hinge_loss(f, None).shape == ()


@pytest.mark.parametrize("function", [case[0] for case in CASES.values()], ids=CASES)
def test_bad_logits_are_told_of_by_upstreams_names(function):
    names = [p.name for p in inspect.signature(function).parameters.values() if p.name not in ("DDP", "kwargs")]
    optional = ("gain", "reduction", "real_label_val", "fake_label_val")
    names = [name for name in names if name not in optional]
    good = [torch.randn(6) for _ in names]
    function(*good)
    for i, name in enumerate(names):
        for bad, error, message in (
            (None, TypeError, "NoneType, expected a torch.Tensor"),
            (torch.ones(6, dtype=torch.long), TypeError, "torch.int64, expected float16"),
            (torch.ones(0, 1), ValueError, r"an empty tensor of shape \(0, 1\)"),
        ):
            with pytest.raises(error, match=f"^{name}.*: got {message}"):
                function(*good[:i], bad, *good[i + 1 :])
    if len(names) == 2:
        with pytest.raises(ValueError, match=f"^{names[1]}: got torch.float64, expected torch.float32"):
            function(good[0], good[1].double())


# StyleGAN


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stylegan_gain(dtype):
    r, f = shaped([(8, 1), (4, 1)], dtype, seed=5)
    check(lambda f: stylegan.generator_loss(f, 4), lambda f: sp(-f).mean() * 4, f)
    check(lambda r, f: stylegan.discriminator_loss(r, f, 0.25), lambda r, f: (sp(-r).mean() + sp(f).mean()) / 4, r, f)
    for term, theirs in ((stylegan.generator_term, lambda f: sp(-f)), (stylegan.discriminator_fake_term, sp)):
        check(lambda f, term=term: term(f).mean().mul(4), lambda f, theirs=theirs: theirs(f).mean().mul(4), f)


@pytest.mark.parametrize("gain", [1.0, 0.25, 16, "tensor"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "ours, theirs",
    [
        (stylegan.generator_value_and_grad, lambda x: sp(-x)),
        (stylegan.discriminator_fake_value_and_grad, sp),
        (stylegan.discriminator_real_value_and_grad, lambda x: sp(-x)),
    ],
    ids=["generator", "fake", "real"],
)
def test_stylegan_statistics(ours, theirs, dtype, gain):
    """The loss without the gain, the gradient with it, and the two means that `training_stats` is told."""
    number = 3.0 if gain == "tensor" else gain
    given = torch.tensor(number) if gain == "tensor" else gain

    def mine(x):
        out = ours(x, given)
        assert out.grad.dtype == x.dtype and not any(t.requires_grad for t in out)
        return [out.loss, out.scores, out.signs], out.grad

    def reported(x):
        x = x.detach().requires_grad_()
        loss = theirs(x).mean()
        return [loss, x.mean(), x.sign().mean()], torch.autograd.grad(loss * number, x)[0].to(dtype).double()

    (x,) = shaped([(12, 1)], dtype, seed=6)
    (stats, gradient), (right, right_gradient) = mine(x), reported(x.double())
    rtol = 1e-12 if dtype == torch.float64 else 1e-2 if dtype in (torch.float16, torch.bfloat16) else 5e-6
    torch.testing.assert_close(gradient.double(), right_gradient, rtol=rtol, atol=0)
    rtol = 1e-12 if dtype == torch.float64 else 2e-6
    for got, want in zip(stats, right):
        assert got.shape == ()
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=0)


def test_stylegan_steps_take_one_launch(kernel_device):
    """A D step with R1 through the gradient handed over, against upstream's way."""
    generator = torch.Generator().manual_seed(7)
    start, image = torch.randn(6, generator=generator), torch.randn(5, 6, generator=generator)
    grads = []
    for fused in (True, False):
        w = start.clone().to(kernel_device).requires_grad_()
        x = image.to(kernel_device).requires_grad_()
        logits = (x * w).tanh().sum(1, keepdim=True)
        (r1,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        r1 = r1.square().sum(1) * 5
        if fused:
            before = kernels.launch_count()
            out = stylegan.discriminator_real_value_and_grad(logits, 2.0)
            assert kernels.launch_count() - before == 1
            torch.autograd.backward([logits, r1.mean().mul(2.0)], [out.grad, None])
            assert kernels.launch_count() - before == 1
        else:
            (F.softplus(-logits) + r1).mean().mul(2.0).backward()
        grads.append(w.grad)
    torch.testing.assert_close(*grads, rtol=2e-5, atol=1e-6)


def test_stylegan_gain_is_checked():
    for function, arguments in (
        (stylegan.generator_loss, 1),
        (stylegan.discriminator_loss, 2),
        (stylegan.generator_value_and_grad, 1),
    ):
        with pytest.raises(TypeError, match=r"^gain: got str, expected a number"):
            function(*[torch.randn(3)] * arguments, "2")


# R3GAN


class Networks:
    """A G and a D with parameters of their own, on (batch, 3, 4, 4) images, and the condition as a factor."""

    def __init__(self, device="cpu", dtype=torch.float64):
        generator = torch.Generator().manual_seed(8)
        made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 48), (48, 7), (7,))]
        self.parameters = [(0.3 * p).to(device, dtype).requires_grad_() for p in made]

    def G(self, noise, conditions):
        return (noise @ self.parameters[0]).tanh().reshape(-1, 3, 4, 4) * conditions

    def D(self, samples, conditions):
        return F.softplus(samples.flatten(1) @ self.parameters[1]) @ self.parameters[2] * conditions

    def flipped(self, samples):
        return samples.flip(-1) * 0.9

    def grads(self):
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]


def r3gan_by_hand(networks, noise, real, conditions, gamma, scale, preprocessor, of_discriminator):
    fake = networks.G(noise, conditions)
    if of_discriminator:
        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    r, f = (networks.D(preprocessor(x), conditions) for x in (real, fake))
    penalties = []
    if of_discriminator:
        for samples, logits in ((real, r), (fake, f)):
            (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
            penalties.append((slope**2).sum((1, 2, 3)))
    difference = r - f if of_discriminator else f - r
    losses = sp(-difference)
    (scale * (losses + gamma / 2 * sum(penalties)).mean()).backward()
    return [x.detach() for x in (losses, difference, *penalties)]


@pytest.mark.parametrize("of_discriminator", [False, True], ids=["G", "D"])
@pytest.mark.parametrize("options", [(), (0.5,), (0.5, Networks().flipped)], ids=len)
def test_r3gan_training(of_discriminator, options):
    """What each step returns and the gradients it leaves, those of a frozen network among them."""
    generator = torch.Generator().manual_seed(9)
    noise, real = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 5), (6, 3, 4, 4)))
    scale, preprocessor = [*options, *[1, lambda x: x][len(options) :]]
    mine, theirs = Networks(), Networks()
    if not of_discriminator:  # the loop upstream freezes D
        for networks in (mine, theirs):
            for p in networks.parameters[1:]:
                p.requires_grad_(False)
    step = r3gan.AdversarialTraining(mine.G, mine.D)
    if of_discriminator:
        got = step.AccumulateDiscriminatorGradients(noise, real, 1.5, 0.7, *options)
    else:
        got = step.AccumulateGeneratorGradients(noise, real, 1.5, *options)
    want = r3gan_by_hand(theirs, noise, real, 1.5, 0.7, scale, preprocessor, of_discriminator)
    assert type(got) is list and len(got) == (4 if of_discriminator else 2)
    assert all(x.shape == (6,) and not x.requires_grad for x in got)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    torch.testing.assert_close(mine.grads(), theirs.grads(), rtol=1e-10, atol=1e-14)
    assert any(p.abs().max() > 0 for p in mine.grads())
    assert real.grad is None


def test_r3gan_training_launches(kernel_device):
    networks = Networks(kernel_device, torch.float32)
    noise, real = torch.randn(6, 5, device=kernel_device), torch.randn(6, 3, 4, 4, device=kernel_device)
    step, before = r3gan.AdversarialTraining(networks.G, networks.D), kernels.launch_count()
    step.AccumulateDiscriminatorGradients(noise, real, 1.5, 0.7)
    assert kernels.launch_count() - before == 2
    step.AccumulateGeneratorGradients(noise, real, 1.5)
    assert kernels.launch_count() - before == 4


def test_r3gan_per_sample_and_shapes():
    r, f = shaped([(9,), (9,)], seed=10)
    check(lambda r, f: r3gan.generator_loss(r, f, "none"), lambda r, f: sp(-(f - r)), r, f)
    check(lambda r, f: r3gan.discriminator_loss(r, f, reduction="none"), lambda r, f: sp(-(r - f)), r, f)
    for loss in (r3gan.generator_loss, r3gan.discriminator_loss):
        with pytest.raises(ValueError, match=r"^fake_logits: got shape \(8,\), expected \(9,\)"):
            loss(r, f[:8])


# StudioGAN


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("numbers", [True, False], ids=["numbers", "tensors"])
def test_lecam(dtype, numbers):
    """Against upstream's numbers, over some steps; `cur` keeps no graph alive."""
    ema = studiogan.LeCamEMA(decay=0.75, start_iter=2)
    real = fake = 7777.0
    for step in range(6):
        r, f = shaped([(10,), (10,)], dtype, seed=20 + step)
        real = real * (0.75 if step >= 2 else 0) + r.double().mean().item() * (0.25 if step >= 2 else 1)
        fake = fake * (0.75 if step >= 2 else 0) + f.double().mean().item() * (0.25 if step >= 2 else 1)
        for x, mode in ((r, "D_real"), (f, "D_fake")):
            mean = x.double().mean() if numbers else x.mean(dtype=torch.promote_types(dtype, torch.float32))
            ema.update(mean.item() if numbers else mean, mode, step)
    assert ema.G_loss == ema.D_loss_real == ema.D_loss_fake == 7777
    assert numbers or not ema.D_real.requires_grad
    for got, want in ((ema.D_real, real), (ema.D_fake, fake)):
        assert float(got) == pytest.approx(want, rel=1e-12 if numbers or dtype == torch.float64 else 2e-6)
    anchors = float(ema.D_real), float(ema.D_fake)

    def theirs(r, f):
        return F.relu(r - anchors[1]).square().mean() + F.relu(anchors[0] - f).square().mean()

    rtol = None if dtype == torch.float64 else 1e-5  # an anchor in float32 against one in float64
    check(lambda r, f: studiogan.lecam_reg(r, f, ema), theirs, r, f, rtol=rtol, grad_rtol=rtol)


def test_lecam_restores_its_state_as_upstream_does(kernel_device):
    first, second = studiogan.LeCamEMA(), studiogan.LeCamEMA()
    assert sorted(vars(first)) == ["D_fake", "D_loss_fake", "D_loss_real", "D_real", "G_loss", "decay", "start_itr"]
    first.update(torch.tensor(2.0, device=kernel_device), "D_real", 5)
    first.update(torch.tensor([-1.0], device=kernel_device), "D_fake", -1)
    second.__dict__ = first.__dict__
    assert float(second.D_real) == pytest.approx(7777 * 0.9 + 0.2) and float(second.D_fake) == -1
    assert second.D_fake.shape == ()
    r, f = (x.detach().to(kernel_device) for x in shaped([(10,), (10,)]))
    before = kernels.launch_count()
    studiogan.lecam_reg(r, f, second)
    assert kernels.launch_count() - before == 1
    with pytest.raises(ValueError, match=r"^mode: got 'D', expected 'G_loss' or "):
        first.update(1.0, "D", 0)
    with pytest.raises(ValueError, match=r"^cur: got a tensor of shape \(2,\)"):
        first.update(torch.ones(2), "D_real", 0)
    with pytest.raises(ValueError, match=r"^d_logit_fake: got an empty tensor"):
        studiogan.lecam_reg(r, f[:0], first)


# mimicry


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mimicry_options(dtype, reduction):
    """Smoothed labels, reductions, and the options that PyTorch serves itself."""
    r, f = shaped([(12, 1), (12, 1)], dtype, seed=11)
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction]
    labels, kwargs = dict(real_label_val=0.9, fake_label_val=0.1), dict(reduction=reduction)
    check(
        lambda f, r: mimicry.minimax_loss_dis(f, r, **labels, **kwargs),
        lambda f, r: reduce(bce(r, 0.9)) + reduce(bce(f, 0.1)),
        f,
        r,
        grad_rtol=2e-5 if dtype == torch.float32 else None,
        float32=True,
    )
    check(
        lambda f: mimicry.minimax_loss_gen(f, 0.9, **kwargs),
        lambda f: reduce(bce(f, 0.9)),
        f,
        grad_rtol=2e-5,
        float32=True,
    )
    assert mimicry.minimax_loss_gen(f, 0.9, **kwargs, pos_weight=torch.ones(1)).dtype == torch.float32
    if dtype in (torch.float32, torch.float64):
        weight = torch.linspace(0.5, 2.0, 12, dtype=dtype)[:, None]

        def ours(f, r):
            return mimicry.minimax_loss_dis(f, r, **labels, **kwargs, weight=weight)

        def theirs(f, r):
            return reduce(weight * bce(r, 0.9)) + reduce(weight * bce(f, 0.1))

        rtol = 1e-5 if dtype == torch.float32 else 1e-11
        check(ours, theirs, f, r, rtol=rtol, grad_rtol=rtol, float32=True)
        check(
            lambda f: mimicry.minimax_loss_gen(f, 0.9, **kwargs, weight=weight),
            lambda f: reduce(weight * bce(f, 0.9)),
            f,
            rtol=rtol,
            grad_rtol=rtol,
            float32=True,
        )


def test_mimicry_minimax_has_the_default_dtype():
    """That of upstream's labels."""
    logits = torch.zeros(4, 1, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        assert mimicry.minimax_loss_gen(logits).dtype == mimicry.minimax_loss_dis(logits, logits).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_mimicry_epsilon():
    """Its gradient dies where D is sure, unlike the loss without epsilon."""
    f = torch.tensor([[-30.0], [-20.0], [0.0], [20.0]], requires_grad=True)
    check(*CASES["mimicry.ns_loss_gen"][:2], f)
    slopes = 4 * torch.autograd.grad(mimicry.ns_loss_gen(f), f)[0].flatten()
    assert -1e-4 < slopes[0] < 0 and slopes[1] == pytest.approx(-0.1709, rel=1e-3)
    assert mimicry.ns_loss_gen(torch.full((1, 1), -1e4)) == pytest.approx(18.42, rel=1e-3)


def test_mimicry_refuses():
    f, r = shaped([(4, 1), (3, 1)])
    with pytest.raises(ValueError, match=r"^real_label_val: got 1.5, expected a probability in \[0, 1\]"):
        mimicry.minimax_loss_gen(f, 1.5)
    with pytest.raises(TypeError, match=r"^fake_label_val: got str, expected a number"):
        mimicry.minimax_loss_dis(f, r, 1.0, "0")
    with pytest.raises(ValueError, match=r"^reduction: got 'batchmean', expected 'mean' or 'sum' or 'none'"):
        mimicry.minimax_loss_gen(f, reduction="batchmean")
    with pytest.raises(ValueError, match=r"^reduction: got 'none' for losses of shapes"):
        mimicry.minimax_loss_dis(f, r, reduction="none")
    with pytest.raises(TypeError, match="label_smoothing"):
        mimicry.minimax_loss_gen(f, label_smoothing=0.1)


# rosinality


def test_r1():
    """The penalty, and its gradient at the parameters of a D of two layers."""
    networks, theirs = Networks(), Networks()
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    x = images.clone().requires_grad_()
    logits = networks.D(x, 1.0)[:, None]
    penalty = rosinality.d_r1_loss(logits, x)
    y = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(theirs.D(y, 1.0).sum(), y, create_graph=True)
    right = (slope.reshape(5, -1).norm(2, dim=1) ** 2).mean()
    assert penalty.shape == ()
    torch.testing.assert_close(penalty, right, rtol=1e-12, atol=0)
    (penalty * 5 * 16).backward()
    (right * 5 * 16).backward()
    torch.testing.assert_close(networks.grads(), theirs.grads(), rtol=1e-10, atol=1e-14)
    rosinality.d_logistic_loss(logits, logits.detach() - 1)  # the same logits serve both, as upstream's loop does


# lucidrains


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lists_of_scales(dtype):
    r, f = shaped([[(8,), (8, 1, 4, 4)], [(8,), (8, 1, 4, 4)]], dtype, seed=13)

    def theirs(r, f):
        return sum((F.relu(1 + a) + F.relu(1 - b)).mean() for a, b in zip(r, f))

    check(lucidrains.discriminator_hinge_loss, theirs, r, f)
    check(lucidrains.generator_hinge_loss, lambda f: sum(x.mean() for x in f), f)


def test_lists_of_scales_take_one_launch(kernel_device):
    r, f = ([x.detach().to(kernel_device) for x in s] for s in shaped([[(8,), (8, 4)], [(8,), (8, 4)]]))
    before = kernels.launch_count()
    lucidrains.discriminator_hinge_loss(r, f)
    lucidrains.generator_hinge_loss(f)
    assert kernels.launch_count() - before == 2


def test_lists_that_do_not_fit():
    x = torch.randn(4)
    for fake, message in (
        ([x], "fake: got 1 tensors, expected 2"),
        ([], "fake: got an empty list"),
        (x, "fake: got 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            lucidrains.discriminator_hinge_loss([x, x], fake)
    with pytest.raises(TypeError, match=r"^fake\[1\]: got int, expected a torch.Tensor"):
        lucidrains.generator_hinge_loss([x, 3])
    with pytest.raises(TypeError, match=r"^fake: got list, expected a torch.Tensor"):
        lucidrains.hinge_loss([x], x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dual_contrastive_as_the_generators(dtype):
    """lightweight-gan calls it with the sides swapped, the real one detached; top-k makes the sides unequal."""
    real, fake = shaped([(20, 1), (13,)], dtype, seed=14, spread=4.0)
    check(lightweight_gan.dual_contrastive_loss, dual, fake, real.detach(), grad_rtol=TWO_ROUNDINGS.get(dtype))


def test_dual_contrastive_of_large_logits():
    real, fake = shaped([(9,), (9,)], seed=15, spread=200.0)
    check(lightweight_gan.dual_contrastive_loss, dual, real.detach(), fake.detach())
    slopes = [
        torch.autograd.grad(loss(*logits), logits)
        for loss, logits in (
            (lightweight_gan.dual_contrastive_loss, (real, fake)),
            (dual, [x.detach().double().requires_grad_() for x in (real, fake)]),
        )
    ]
    for got, want in zip(*slopes):  # the smallest are differences that even float64 has not to the last digit
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-9)


def test_each_of_lucidrains_repositories_has_its_own_order():
    """stylegan2-pytorch took generated data first in August 2024; lightweight-gan takes real data first."""
    high, low = torch.tensor([5.0, 5.0]), torch.tensor([-5.0, -5.0])
    assert lucidrains.hinge_loss(high, low).item() == 0.0  # D is to be low on real data
    assert lightweight_gan.hinge_loss(low, high).item() == 0.0
    assert lucidrains.dual_contrastive_loss(low, high).item() < 1e-3  # and high here
    assert lightweight_gan.dual_contrastive_loss(high, low).item() < 1e-3
