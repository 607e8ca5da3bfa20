"""Audio codebases and image tokenisers: the knee of the hinge, launches, and bad arguments."""

import pytest
import torch
import torch.nn.functional as F
from audio_formulas import (
    AUDIOCRAFT,
    SMALL,
    TAMING_D,
    TAMING_G,
    Signal,
    clamped_discriminator,
    clamped_generator,
    coqui_discriminator,
    coqui_generator,
    espnet_discriminator,
    espnet_generator,
    exemplar_weighted,
    ls_discriminator,
    ls_generator,
    of_images,
    pair,
    square_to_1,
)
from parity import check, copied, shaped

from fastgan.compat import audiocraft, coqui, dac, espnet, hifigan, taming, vocos


def slopes(loss_of, at, count=1):
    """The gradient if all logits are `at`, times their number."""
    x = torch.full((3,), at, requires_grad=True)
    return (torch.autograd.grad(loss_of(x), x)[0] * 3 * count).tolist()


def test_the_knee_is_each_codebases_own():
    zeros = torch.zeros(3)
    (clamp,) = set(slopes(lambda x: torch.clamp(x, min=0).mean(), 0.0))  # 1 up to torch 2.13, 0 from 2.14 on
    assert slopes(lambda x: vocos.DiscriminatorLoss()([x], [zeros])[0], 1.0) == [-clamp] * 3
    assert slopes(lambda x: vocos.DiscriminatorLoss()([zeros], [x])[0], -1.0) == [clamp] * 3
    assert slopes(lambda x: vocos.GeneratorLoss()([x])[0], 1.0) == [-clamp] * 3
    espnet_d = espnet.DiscriminatorAdversarialLoss(loss_type="hinge")
    assert slopes(lambda x: espnet_d(zeros, x)[0], 1.0) == [-0.5] * 3
    assert slopes(lambda x: espnet_d(x, zeros)[1], -1.0) == [0.5] * 3
    assert slopes(audiocraft.hinge_real_loss, 1.0) == slopes(audiocraft.hinge2_loss, 1.0) == [-0.5] * 3
    assert slopes(audiocraft.hinge_fake_loss, -1.0) == [0.5] * 3
    assert slopes(lambda x: coqui.HingeDLoss()(zeros, x)[0], 1.0) == [0.0] * 3
    assert slopes(coqui.HingeGLoss(), 1.0) == [0.0] * 3
    assert slopes(lambda x: taming.hinge_d_loss(x, zeros), 1.0) == [0.0] * 3
    assert slopes(lambda x: taming.hinge_d_loss(zeros, x), -1.0) == [0.0] * 3


def knees(shape, seed):
    """Logits, some of them exactly 1 or -1."""
    x = shaped(shape, seed=seed).detach()
    x.view(-1)[::3] = 1.0
    x.view(-1)[1::3] = -1.0
    return x.requires_grad_()


def test_the_knee_in_lists():
    reals, fakes = [[knees(shape, seed) for shape in SMALL] for seed in (1, 2)]
    check(vocos.DiscriminatorLoss(), clamped_discriminator, reals, fakes)
    check(espnet.DiscriminatorAdversarialLoss(loss_type="hinge"), espnet_discriminator(True, "hinge"), fakes, reals)
    hinge_d = coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x))
    check(coqui.HingeDLoss(), hinge_d, fakes, reals)
    check(taming.hinge_d_loss, TAMING_D["hinge_d_loss"], reals[0], fakes[0])


def of_dac(fakes, reals):
    outputs = iter((fakes, reals))
    gan = dac.GANLoss(lambda _: [[x] for x in next(outputs)])
    return gan.discriminator_loss(Signal(torch.zeros(1)), Signal(torch.zeros(1)))


def audiocraft_total(fakes, reals):
    adv = audiocraft.AdversarialLoss(None, None, *[audiocraft.get_adv_criterion("mse")] * 3)
    return adv._total((audiocraft.mse_fake_loss, fakes), (audiocraft.mse_real_loss, reals))


LISTS = {  # name: (ours, theirs), functions of (fakes, reals)
    "hifigan D": (lambda f, r: hifigan.discriminator_loss(r, f), lambda f, r: ls_discriminator(r, f)),
    "hifigan G": (lambda f, r: hifigan.generator_loss(f), lambda f, r: ls_generator(f)),
    "vocos D": (lambda f, r: vocos.DiscriminatorLoss()(r, f), lambda f, r: clamped_discriminator(r, f)),
    "vocos G": (lambda f, r: vocos.GeneratorLoss()(f), lambda f, r: clamped_generator(f)),
    "espnet D mse": (espnet.DiscriminatorAdversarialLoss(), espnet_discriminator(True, "mse")),
    "espnet D hinge": (espnet.DiscriminatorAdversarialLoss(False, "hinge"), espnet_discriminator(False, "hinge")),
    "espnet G mse": (lambda f, r: espnet.GeneratorAdversarialLoss()(f), lambda f, r: espnet_generator(True, "mse")(f)),
    "espnet G hinge": (
        lambda f, r: espnet.GeneratorAdversarialLoss(loss_type="hinge")(f),
        lambda f, r: espnet_generator(True, "hinge")(f),
    ),
    "coqui D mse": (coqui.MSEDLoss(), coqui_discriminator(square_to_1, lambda x: x**2)),
    "coqui D hinge": (
        lambda f, r: coqui._apply_D_loss(f, r, coqui.HingeDLoss()),
        coqui_discriminator(lambda x: F.relu(1 - x), lambda x: F.relu(1 + x)),
    ),
    "coqui G": (lambda f, r: coqui.HingeGLoss()(f), lambda f, r: coqui_generator(lambda x: F.relu(1 - x))(f)),
    "dac D": (of_dac, lambda f, r: ls_discriminator(r, f)[0]),
    "audiocraft D": (audiocraft_total, lambda f, r: ls_discriminator(r, f)[0] / len(f)),
}


def launches_of(call):
    from fastgan import kernels

    before = kernels.launch_count()
    call()
    return kernels.launch_count() - before


@pytest.mark.parametrize("name", LISTS)
def test_a_list_takes_one_launch(name, kernel_device):
    ours, theirs = LISTS[name]
    fakes, reals = (shaped(SMALL[:2], seed=seed, device=kernel_device) for seed in (1, 2))
    assert launches_of(lambda: ours(fakes, reals)) == 1
    check(ours, theirs, fakes, reals)


def test_sixteen_tensors_take_one_launch(kernel_device):
    reals, fakes = pair([(1, n) for n in (3, 3, 4, 4, 5, 6, 2, 1)], device=kernel_device)
    found = []
    assert launches_of(lambda: found.append(hifigan.discriminator_loss(reals, fakes)[0])) == 1
    assert launches_of(found[0].backward) == 1


SINGLES = {
    **{name: (getattr(taming, name), theirs, 2) for name, theirs in TAMING_D.items()},
    **{name: (getattr(taming, name), theirs, 1) for name, theirs in TAMING_G.items()},
    **{name: (getattr(audiocraft, name), theirs, 1) for name, theirs in AUDIOCRAFT.items()},
    "non_saturate_gen_loss": (taming.non_saturate_gen_loss, lambda f: F.softplus(-of_images(f)).mean(), 1),
    "exemplar weights": (
        lambda r, f: taming.hinge_d_loss_with_exemplar_weights(r, f, torch.tensor([1.0, 3.0], device=r.device)),
        lambda r, f: exemplar_weighted(r, f, torch.tensor([1.0, 3.0])),
        2,
    ),
    "lecam": (
        lambda r, f: taming.lecam_reg(r, f, taming.LeCAM_EMA(0.5)),
        lambda r, f: (F.relu(r - 0.5) ** 2).mean() + (F.relu(0.5 - f) ** 2).mean(),
        2,
    ),
}


@pytest.mark.parametrize("name", SINGLES)
def test_one_tensor_for_each_side_takes_one_launch(name, kernel_device):
    ours, theirs, sides = SINGLES[name]
    arguments = [shaped((2, 1, 3, 4), seed=seed, device=kernel_device) for seed in range(sides)]
    assert launches_of(lambda: ours(*arguments)) == 1
    if kernel_device.type == "cpu":  # the restated formulas make constants on the CPU
        check(ours, theirs, *arguments)


def test_bad_arguments_are_named():
    reals, fakes = pair(SMALL)
    for call, kind, message in (
        (
            lambda: hifigan.discriminator_loss(reals, fakes[:2]),
            ValueError,
            "disc_generated_outputs: got 2 tensors, expected 3",
        ),
        (lambda: hifigan.discriminator_loss([], []), ValueError, "disc_real_outputs: got an empty list"),
        (lambda: hifigan.generator_loss([]), ValueError, "disc_outputs: got an empty list"),
        (lambda: hifigan.generator_loss([fakes[0], 3.0]), TypeError, r"disc_outputs\[1\]: got float"),
        (lambda: hifigan.generator_loss([x.long() for x in fakes]), TypeError, r"disc_outputs\[0\]: got torch.int64"),
        (lambda: vocos.GeneratorLoss()(None), TypeError, "disc_outputs: got NoneType"),
        (
            lambda: vocos.DiscriminatorLoss()(reals, [x.double() for x in fakes]),
            ValueError,
            r"disc_generated_outputs\[0\]",
        ),
        (lambda: espnet.GeneratorAdversarialLoss(loss_type="wgan"), ValueError, "loss_type: got 'wgan'"),
        (lambda: espnet.DiscriminatorAdversarialLoss(loss_type="wgan"), ValueError, "loss_type: got 'wgan'"),
        (
            lambda: espnet.DiscriminatorAdversarialLoss()(fakes[:1], reals),
            ValueError,
            "outputs_hat: got 1 tensors, expected 3",
        ),
        (lambda: coqui.MSEDLoss()(fakes[:1], reals), ValueError, "score_fake: got 1 tensors, expected 3"),
        (lambda: taming.hinge_d_loss(reals[0], "x"), TypeError, "logits_fake: got str"),
    ):
        with pytest.raises(kind, match=message):
            call()  # fmt: skip


def test_a_loss_of_no_logits_is_nan_as_a_mean_is():
    empty = [torch.zeros(0, 4)]
    assert hifigan.discriminator_loss(empty, empty)[0].isnan()
    assert taming.hinge_gen_loss(empty[0]).isnan()


def test_non_contiguous_outputs():
    """HiFi-GAN's MPD folds the waveform; some discriminators return a transposed map."""
    wide = shaped((4, 1, 6, 10))
    reals, fakes = copied([wide]), copied([wide])
    transposed = lambda f: lambda r, g: f([x.transpose(2, 3)[..., ::2] for x in r], [x[..., 1:] for x in g])  # noqa: E731
    check(transposed(hifigan.discriminator_loss), transposed(ls_discriminator), reals, fakes)


def test_arguments_that_are_no_tensors_are_named():
    for call, message in (
        (lambda: audiocraft.mse_loss([1.0]), r"logits\[0\]|logits: got"),
        (lambda: taming.vanilla_d_loss(1.0, torch.ones(2)), "logits_real: got float"),
        (
            lambda: taming.hinge_d_loss_with_exemplar_weights([1.0], torch.ones(1), torch.ones(1)),
            "logits_real: got list",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            call()
