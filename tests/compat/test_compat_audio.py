"""HiFi-GAN, BigVGAN, VITS, vocos, espnet and Coqui against their formulas in eager PyTorch."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from audio_formulas import (
    BIGVGAN,
    HALF,
    HIFIGAN,
    SMALL,
    VITS,
    WIDE,
    clamped_discriminator,
    clamped_generator,
    coqui_discriminator,
    coqui_generator,
    espnet_discriminator,
    espnet_generator,
    ls_discriminator,
    ls_generator,
    pair,
    square_to_1,
)
from parity import check, shaped

from fastgan.compat import bigvgan, coqui, espnet, hifigan, vits, vocos

# HiFi-GAN, BigVGAN, VITS

TRIPLES = [(hifigan, HIFIGAN), (bigvgan, BIGVGAN), (vits, VITS)]


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize(("module", "shapes"), TRIPLES, ids=lambda x: getattr(x, "__name__", "").split(".")[-1])
def test_hifigan_family(module, shapes, dtype):
    reals, fakes = pair(shapes, dtype)
    check(module.discriminator_loss, ls_discriminator, reals, fakes, float32=module is vits)
    check(module.generator_loss, ls_generator, fakes, float32=module is vits)


def test_hifigan_family_names_its_arguments_as_upstream():
    for module, _ in TRIPLES:
        names = list(inspect.signature(module.discriminator_loss).parameters)
        assert names == ["disc_real_outputs", "disc_generated_outputs"]
        assert list(inspect.signature(module.generator_loss).parameters) == ["disc_outputs"]


def test_logged_losses_are_detached_and_the_generators_attached():
    reals, fakes = pair(SMALL)
    loss, of_real, of_fake = hifigan.discriminator_loss(reals, fakes)
    assert loss.requires_grad and not any(x.requires_grad for x in of_real + of_fake)
    torch.testing.assert_close(sum(of_real) + sum(of_fake), loss.detach())
    assert all(x.requires_grad for x in hifigan.generator_loss(fakes)[1])


def test_one_side_alone():
    reals, fakes = pair(SMALL)
    still = [x.detach() for x in reals]
    loss = hifigan.discriminator_loss(still, fakes)[0]
    loss.backward()
    assert all(x.grad is None for x in still)
    for x in fakes:
        torch.testing.assert_close(x.grad, 2 * x.detach() / x.numel())
    assert not hifigan.discriminator_loss(still, [x.detach() for x in fakes])[0].requires_grad
    check(hifigan.discriminator_loss, ls_discriminator, still, fakes)
    check(hifigan.discriminator_loss, ls_discriminator, reals, [x.detach() for x in fakes])


def test_losses_can_be_changed_in_place():
    """vocos' loop divides the loss by the number of discriminators in place, Coqui's adds to it."""
    reals, fakes = pair(SMALL)
    for loss in (vocos.DiscriminatorLoss()(reals, fakes)[0], *espnet.DiscriminatorAdversarialLoss()(fakes, reals)):
        want = torch.autograd.grad(loss, fakes, retain_graph=True, allow_unused=True)
        before = loss.detach().clone()
        loss /= 4
        torch.testing.assert_close(loss.detach(), before / 4)
        for g, w in zip(torch.autograd.grad(loss, fakes, retain_graph=True, allow_unused=True), want):
            torch.testing.assert_close(g, w if w is None else w / 4)  # real data's loss: no gradient at fakes


@pytest.mark.parametrize("dtype", HALF)
def test_vits_under_autocast_gives_float32(dtype):
    reals, fakes = pair([(2, 7), (2, 9)], dtype)
    with torch.autocast("cpu", dtype):
        loss, _, _ = vits.discriminator_loss(reals, fakes)
        of_g, parts = vits.generator_loss(fakes)
    assert loss.dtype == of_g.dtype == parts[0].dtype == torch.float32
    loss.backward()
    assert fakes[0].grad.dtype == dtype


def test_sides_of_different_sizes():
    """The last batch of an epoch: fewer samples for each discriminator."""
    check(
        hifigan.discriminator_loss, ls_discriminator, shaped([(3, 5), (3, 7)], seed=1), shaped([(2, 5), (2, 7)], seed=2)
    )


# vocos


@pytest.mark.parametrize("dtype", WIDE + HALF)
def test_vocos(dtype):
    reals, fakes = pair(HIFIGAN, dtype)
    check(vocos.DiscriminatorLoss(), clamped_discriminator, reals, fakes)
    check(vocos.GeneratorLoss(), clamped_generator, fakes)
    assert not vocos.DiscriminatorLoss().state_dict() and not vocos.GeneratorLoss().state_dict()


# espnet

ESPNET = {
    "tensor": (2, 1, 50),
    "list": HIFIGAN,
    "list of one": [(2, 9)],
    "lists": [[(2, 3, 4), (2, 9)], [(2, 2, 2), (2, 3), (2, 11)]],
}


@pytest.mark.parametrize("dtype", [*WIDE, torch.float16])
@pytest.mark.parametrize("loss_type", ["mse", "hinge"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("shapes", ESPNET.values(), ids=ESPNET.keys())
def test_espnet(shapes, average, loss_type, dtype):
    real, fake = pair(shapes, dtype)
    of_d = espnet.DiscriminatorAdversarialLoss(average, loss_type)
    check(of_d, espnet_discriminator(average, loss_type), fake, real)
    check(espnet.GeneratorAdversarialLoss(average, loss_type), espnet_generator(average, loss_type), fake)


def test_espnet_defaults_and_argument_order():
    real, fake = pair(SMALL)
    check(espnet.DiscriminatorAdversarialLoss(), espnet_discriminator(True, "mse"), fake, real)
    check(espnet.GeneratorAdversarialLoss(), espnet_generator(True, "mse"), fake)
    of_real, _ = espnet.DiscriminatorAdversarialLoss(loss_type="hinge")(
        outputs_hat=fake, outputs=[x + 100 for x in real]
    )
    assert of_real == 0
    assert not espnet.DiscriminatorAdversarialLoss().state_dict()


# Coqui


@pytest.mark.parametrize("dtype", WIDE + HALF)
@pytest.mark.parametrize("shapes", [(2, 1, 50), [(2, 1, 50), (2, 1, 25), (2, 1, 13)]], ids=["tensor", "list"])
def test_coqui(shapes, dtype):
    real, fake = pair(shapes, dtype)
    mse_d = coqui_discriminator(square_to_1, lambda x: x**2)
    hinge_d = coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x))
    check(coqui.MSEDLoss(), mse_d, fake, real)
    check(coqui.HingeDLoss(), hinge_d, fake, real)
    check(coqui.MSEGLoss(), coqui_generator(square_to_1), fake)
    check(coqui.HingeGLoss(), coqui_generator(lambda x: F.relu(1 - x)), fake)
    check(lambda f, r: coqui._apply_D_loss(f, r, coqui.HingeDLoss()), hinge_d, fake, real)
    check(lambda f: coqui._apply_G_adv_loss(f, coqui.MSEGLoss()), coqui_generator(square_to_1), fake)


def test_coqui_in_upstreams_own_loop():
    """The loop calls the modules by keyword, scale by scale, and adds in place to their results."""
    reals, fakes = pair(SMALL)
    total = 0
    for fake, real in zip(fakes, reals):
        loss, of_real, of_fake = coqui.MSEDLoss()(score_fake=fake, score_real=real)
        total = total + loss
        of_real += of_real
        of_fake += of_fake
    got = torch.autograd.grad(total / 3, fakes)
    want = torch.autograd.grad(coqui._apply_D_loss(fakes, reals, coqui.MSEDLoss())[0], fakes)
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w)
