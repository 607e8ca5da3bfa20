"""StyleGAN's terms and the statistics that it logs, R3GAN's training, rosinality's penalty."""

import pytest
import torch
import torch.nn.functional as F
from parity import check, shaped
from unconditional_formulas import DTYPES, sp

from fastgan import kernels
from fastgan.compat import r3gan, rosinality, stylegan

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
    """The loss without the gain, the gradient with it, and the two means for `training_stats`."""
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
    """A step of D with R1, from the returned gradient, against upstream's code."""
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
    """A G and a D on (batch, 3, 4, 4) images, with the condition as a factor."""

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
    """The results of each step, and the gradients of both networks, frozen ones too."""
    generator = torch.Generator().manual_seed(9)
    noise, real = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 5), (6, 3, 4, 4)))
    scale, preprocessor = [*options, *[1, lambda x: x][len(options) :]]
    mine, theirs = Networks(), Networks()
    if not of_discriminator:  # upstream's loop freezes D
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
    rosinality.d_logistic_loss(logits, logits.detach() - 1)  # both use the same logits, as in upstream's loop
