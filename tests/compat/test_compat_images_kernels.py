# ruff: noqa: B023 - `check` calls what it is given before the loop goes on
"""Image codebases under the kernels: each loss is one launch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from image_formulas import (
    BASICSR,
    HARD,
    SIDES,
    TORCHGAN_D,
    TORCHGAN_G,
    bce_of_probability,
    blurred,
    cyclegan_loss,
    halves,
    knees,
    last,
    mean_of,
    monai_loss,
    probabilities,
    reduced,
    spade_loss,
    torchgan_module,
    typed_loss,
)
from parity import check, shaped

from fastgan import kernels
from fastgan.compat import basicsr, cyclegan, dcgan, mmagic, monai, pix2pixhd, spade


def launched_once(loss):
    """Wrap the loss: assert that its forward pass is one launch."""

    def of(*arguments):
        before = kernels.launch_count()
        out = loss(*arguments)
        assert kernels.launch_count() == before + 1
        return out

    return of


@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp", "nonsaturating"])
def test_kernels_cyclegan(mode, kernel_device):
    loss = cyclegan.GANLoss(mode)
    for real, y in zip(SIDES, HARD):
        ours = launched_once(lambda x: loss(x, real))
        check(ours, lambda x: cyclegan_loss(mode, real, y, x), shaped((1, 1, 5, 5), device=kernel_device))


TWO = [[(2, 1, 3, 3), (2, 1, 5, 4)], [(2, 1, 3, 2)]]


@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_kernels_spade(mode, kernel_device):
    loss = spade.GANLoss(mode)
    x = knees(shaped(TWO, device=kernel_device))
    for real in SIDES:
        ours = launched_once(lambda x: loss(x, real))
        check(ours, lambda x: spade_loss(mode, (1.0, 0.0), real, True, x), x)

    def theirs(x):
        fake, real = halves(x)
        return spade_loss(mode, (1.0, 0.0), False, True, fake) + spade_loss(mode, (1.0, 0.0), True, True, real)

    check(launched_once(lambda x: spade.discriminator_loss(x, mode)), theirs, x)


@pytest.mark.parametrize("lsgan", [True, False])
def test_kernels_pix2pixhd(lsgan, kernel_device):
    phi = (lambda x, y: (x - y) ** 2) if lsgan else bce_of_probability
    x = shaped(TWO, device=kernel_device, spread=1.0)
    x = x if lsgan else probabilities(x)
    loss = pix2pixhd.GANLoss(lsgan)
    ours = launched_once(lambda x: loss(x, True))
    check(ours, lambda x: sum([phi(scale[-1], 1.0).mean() for scale in x]), x, rtol=5e-6)


@pytest.mark.parametrize("kind", BASICSR)
def test_kernels_basicsr(kind, kernel_device):
    x = knees(shaped(TWO, device=kernel_device))
    loss = basicsr.MultiScaleGANLoss(kind, loss_weight=0.1)
    single = basicsr.GANLoss(kind, loss_weight=0.1)
    for real, is_disc in ((True, True), (False, True), (True, False)):
        settings = (kind, (1.0, 0.0), 0.1, real, is_disc)
        ours = launched_once(lambda x: loss(x, real, is_disc))
        check(ours, lambda x: mean_of(typed_loss(*settings, last(scale)) for scale in x), x)
        ours = launched_once(lambda x: single(x, real, is_disc))
        check(ours, lambda x: typed_loss(*settings, x), x[0][1])


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "wgan", "wgan-logistic-ns", "hinge", "smgan"])
def test_kernels_mmagic(kind, kernel_device):
    loss = mmagic.GANLoss(kind, loss_weight=0.1)
    mask = torch.zeros(2, 1, 5, 5, device=kernel_device)
    mask[:, :, 1:3, 1:4] = 1.0
    for real, is_disc in ((True, True), (False, True), (True, False)):

        def theirs(x):
            if kind == "smgan" and is_disc and not real:
                return ((x - blurred(mask)) ** 2).mean()
            return typed_loss(kind, (1.0, 0.0), 0.1, real, is_disc, x)

        x = shaped((2, 1, 5, 5), device=kernel_device)
        check(launched_once(lambda x: loss(x, real, is_disc, mask)), theirs, x, grad_rtol=1e-5)
    shift = mmagic.DiscShiftLoss()
    check(launched_once(shift), lambda x: 0.1 * (x**2).mean(), x)


@pytest.mark.parametrize("criterion", ["least_squares", "no activation", "bce", "hinge"])
def test_kernels_monai(criterion, kernel_device):
    activation = criterion != "no activation"
    criterion = criterion if activation else "least_squares"
    for reduction in ("mean", "sum", "none"):
        loss = monai.PatchAdversarialLoss(reduction, criterion, not activation)
        x = shaped([(2, 1, 3, 2, 2), (2, 1)], device=kernel_device, spread=1.0)
        for real in SIDES:
            ours = lambda x: loss(x, real, True)  # noqa: E731
            if reduction != "none" or criterion == "hinge":  # a list of means is one launch as well
                ours = launched_once(ours)
            check(ours, lambda x: monai_loss(criterion, activation, real, reduction, x), x)


def test_kernels_dcgan(kernel_device):
    x, y = shaped((9,), device=kernel_device, spread=1.0), torch.rand(9, device=kernel_device)
    ours = launched_once(dcgan.BCEWithLogitsLoss())
    check(ours, F.binary_cross_entropy_with_logits, x, y)
    ours = launched_once(dcgan.BCELoss())
    check(ours, F.binary_cross_entropy, x.detach().sigmoid().requires_grad_(), y)


@pytest.mark.parametrize(("name", "settings", "phi"), TORCHGAN_G)
def test_kernels_torchgan_generator(name, settings, phi, kernel_device):
    for reduction in ("mean", "sum"):
        module = launched_once(torchgan_module(name, settings, reduction))
        check(module, lambda f: reduced(phi(f), reduction), shaped((5, 1), device=kernel_device))


@pytest.mark.parametrize(("name", "settings", "phi_real", "phi_fake"), TORCHGAN_D)
def test_kernels_torchgan_discriminator(name, settings, phi_real, phi_fake, kernel_device):
    for reduction in ("mean", "sum"):
        module = launched_once(torchgan_module(name, settings, reduction))

        def theirs(r, f):
            return reduced(phi_real(r), reduction) + reduced(phi_fake(f), reduction)

        check(module, theirs, shaped((5, 1), device=kernel_device), shaped((4, 1), seed=1, device=kernel_device))
