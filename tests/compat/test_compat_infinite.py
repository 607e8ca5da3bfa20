"""Infinite logits and NaN: value and slope are those of each codebase's own operators."""

import pytest
import torch
import torch.nn.functional as F

from fastgan.compat import (
    basicsr,
    biggan,
    coqui,
    cyclegan,
    espnet,
    mmagic,
    monai,
    r3gan,
    rosinality,
    studiogan,
    stylegan,
    taming,
)

INF, NAN = float("inf"), float("nan")


def logistic(r, f):
    return F.softplus(-r).mean() + F.softplus(f).mean()


def nonsaturating(r, f):
    return F.softplus(-f).mean()


SOFTPLUS = {
    "biggan D": (lambda r, f: sum(biggan.loss_dcgan_dis(f, r)), logistic),
    "biggan G": (lambda r, f: biggan.loss_dcgan_gen(f), nonsaturating),
    "basicsr": (lambda r, f: basicsr.GANLoss("wgan_softplus")(f, True), nonsaturating),
    "basicsr lists": (
        lambda r, f: basicsr.MultiScaleGANLoss("wgan_softplus")([r, f, f], True),
        lambda r, f: (F.softplus(-r).mean() + 2 * F.softplus(-f).mean()) / 3,
    ),
    "monai": (
        lambda r, f: sum(monai.PatchAdversarialLoss(criterion="bce")(x, x is r, True) for x in (r, f)),
        logistic,
    ),
    "monai sum": (
        lambda r, f: monai.PatchAdversarialLoss("sum", "bce")([f, f], True, False) / f.numel() / 2,
        nonsaturating,
    ),
    "monai none": (
        lambda r, f: monai.PatchAdversarialLoss("none", "bce")([f], True, False)[0].mean(),
        nonsaturating,
    ),
    "mmagic": (lambda r, f: mmagic.GANLoss("wgan-logistic-ns")(f, True), nonsaturating),
    "cut": (
        lambda r, f: cyclegan.GANLoss("nonsaturating")(f.reshape(1, -1), True).sum(),
        lambda r, f: F.softplus(-f).mean(),
    ),
    "cut batch": (
        lambda r, f: cyclegan.GANLoss("nonsaturating")(f.reshape(2, -1), True).sum(),
        lambda r, f: F.softplus(-f).reshape(2, -1).mean(1).sum(),
    ),
    "r3gan D": (r3gan.discriminator_loss, lambda r, f: F.softplus(f - r).mean()),
    "r3gan G": (r3gan.generator_loss, lambda r, f: F.softplus(r - f).mean()),
    "rosinality D": (rosinality.d_logistic_loss, logistic),
    "rosinality G": (lambda r, f: rosinality.g_nonsaturating_loss(f), nonsaturating),
    "studiogan D": (studiogan.d_vanilla, logistic),
    "studiogan G": (lambda r, f: studiogan.g_logistic(f), nonsaturating),
    "stylegan D": (stylegan.discriminator_loss, logistic),
    "stylegan G": (lambda r, f: stylegan.generator_loss(f), nonsaturating),
    "taming": (taming.vanilla_d_loss, lambda r, f: 0.5 * logistic(r, f)),
}


def relu_pair(r, f):
    return [F.relu(1 - r).mean(), F.relu(1 + f).mean()]


def min_pair(r, f):
    zero = torch.zeros_like(r)
    return [-torch.min(r - 1, zero).mean(), -torch.min(-f - 1, zero).mean()]


HINGES = {
    "coqui": (lambda r, f: coqui.HingeDLoss()([f] * 3, [r] * 3)[0], lambda r, f: sum(relu_pair(r, f))),
    "espnet": (
        lambda r, f: sum(espnet.DiscriminatorAdversarialLoss(loss_type="hinge")([f] * 3, [r] * 3)),
        lambda r, f: sum(min_pair(r, f)),
    ),
    "espnet, one": (
        lambda r, f: sum(espnet.DiscriminatorAdversarialLoss(loss_type="hinge")(f, r)),
        lambda r, f: sum(min_pair(r, f)),
    ),
}


def expect_as_eager(ours, theirs, value, sign, device):
    """One of 40 logits on each side is special: right for D (sign 1) or wrong (sign -1). Return our loss."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for loss_of in (ours, theirs):
        generator.manual_seed(0)
        r, f = (torch.randn(40, generator=generator).to(device) for _ in range(2))
        r[7], f[8] = sign * value, -sign * value
        leaves = r.requires_grad_(), f.requires_grad_()
        loss = loss_of(*leaves)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append((loss.detach(), *[torch.zeros_like(r) if g is None else g for g in grads]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-8, equal_nan=True)
    return found[0][0]


@pytest.mark.parametrize("name", SOFTPLUS)
@pytest.mark.parametrize("sign", [1, -1])
def test_softplus_of_infinite_logits(device, name, sign):
    loss = expect_as_eager(*SOFTPLUS[name], INF, sign, device)
    assert not loss.isnan()


@pytest.mark.parametrize("name", HINGES)
@pytest.mark.parametrize("value", [INF, NAN], ids=str)
def test_hinge_of_nan_and_infinite_logits(device, name, value):
    for sign in (1, -1):
        expect_as_eager(*HINGES[name], value, sign, device)


@pytest.mark.parametrize("value", [INF, -INF])
def test_stylegan_value_and_grad_of_infinite_logits(device, value):
    x = torch.linspace(-2.0, 2.0, 40, device=device)
    x[7] = value
    for ours, sign in (
        (stylegan.generator_value_and_grad, -1),
        (stylegan.discriminator_fake_value_and_grad, 1),
        (stylegan.discriminator_real_value_and_grad, -1),
    ):
        leaf = x.clone().requires_grad_()
        want = F.softplus(sign * leaf).mean()
        (grad,) = torch.autograd.grad(want, leaf)
        out = ours(x)
        torch.testing.assert_close((out.loss, out.grad), (want.detach(), grad), rtol=1e-5, atol=1e-8)
