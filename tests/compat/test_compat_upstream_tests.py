"""The codebases' own tests of their losses, restated: inputs, expected values and errors, attributes. They are those of
the commits that the modules' docstrings name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fastgan.compat import audiocraft, espnet, mimicry, mmagic, monai, torchgan

ONE_RIGHT, ONE_WRONG = math.log1p(math.exp(-1)), math.log1p(math.exp(1))  # cross-entropies at the logit 1


# MONAI


def scores(shape, level, seed=0):
    """Logits close to `level`."""
    return level + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


MONAI_SHAPES = pytest.mark.parametrize("shape", [(4, 1, 64, 64), (4, 1, 32, 32, 32)], ids=["2d", "3d"])
MONAI_CRITERIA = pytest.mark.parametrize("criterion", ["bce", "least_squares", "hinge"])


@MONAI_SHAPES
@MONAI_CRITERIA
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_monai_has_the_lower_loss_on_the_target_side(reduction, criterion, shape):
    loss = monai.PatchAdversarialLoss(reduction=reduction, criterion=criterion)
    low, high = scores(shape, -1.0), scores(shape, 1.0, seed=1)
    for target_is_real, for_discriminator in ((False, True), (True, True), (True, False)):
        of_low, of_high = (
            loss(x, target_is_real=target_is_real, for_discriminator=for_discriminator) for x in (low, high)
        )
        assert (of_low > of_high) == target_is_real and of_low != of_high


@MONAI_SHAPES
@MONAI_CRITERIA
def test_monai_lists_a_loss_for_each_discriminator(criterion, shape):
    halved = (*shape[:2], *(n // 2 for n in shape[2:]))
    logits = [scores(size, 1.0) for size in (shape, shape, halved)]
    losses = monai.PatchAdversarialLoss(reduction="none", criterion=criterion)(
        logits, for_discriminator=True, target_is_real=True
    )
    assert len(losses) == 3


def test_monai_refuses_another_criterion():
    with pytest.raises(ValueError, match="criterion: got 'invalid'"):
        monai.PatchAdversarialLoss(reduction="sum", criterion="invalid")


# OpenMMLab

TWOS = torch.full((1, 3, 6, 6), 2.0)
# gan_type: (input, the generator's loss times 2 of real and of generated data, the discriminator's)
MMAGIC = {
    "vanilla": (torch.ones(1, 1), 2 * ONE_RIGHT, 2 * ONE_WRONG, ONE_RIGHT, ONE_WRONG),
    "lsgan": (TWOS, 2.0, 8.0, 1.0, 4.0),
    "wgan": (TWOS, -4.0, 4.0, -2.0, 2.0),
    "hinge": (TWOS, -4.0, -4.0, 0.0, 3.0),
    "smgan": (TWOS, 2.0, 8.0, 1.0, 3.786323),
}


@pytest.mark.parametrize("gan_type", MMAGIC)
def test_mmagic_gan_loss(gan_type):
    logits, *expected = MMAGIC[gan_type]
    loss = mmagic.GANLoss(gan_type, loss_weight=2.0, real_label_val=1.0, fake_label_val=0.0)
    mask = {"mask": torch.ones(1, 3, 6, 6)} if gan_type == "smgan" else {}
    sides = [(real, is_disc) for is_disc in (False, True) for real in (True, False)]
    for (real, is_disc), want in zip(sides, expected):
        # upstream's test allows 1.5e-6; its expected values have six decimals
        assert loss(logits, real, is_disc=is_disc, **mask).item() == pytest.approx(want, abs=1e-6, rel=0)


def test_mmagic_smgan_resizes_to_the_mask():
    loss = mmagic.GANLoss("smgan", loss_weight=2.0, real_label_val=1.0, fake_label_val=0.0)
    assert loss(TWOS, True, is_disc=False, mask=torch.ones(1, 3, 6, 5)).item() == pytest.approx(2.0, abs=5e-7, rel=0)


def test_mmagic_logistic_loss_is_positive():
    loss = mmagic.GANLoss("wgan-logistic-ns", loss_weight=2.0, real_label_val=1.0, fake_label_val=0.0)
    for real in (True, False):
        assert loss(TWOS, real, is_disc=False) > 0


def test_mmagic_errors():
    with pytest.raises(NotImplementedError, match="gan_type: got 'unknown'"):
        mmagic.GANLoss("unknown", loss_weight=1.0, real_label_val=1.0, fake_label_val=0.0)
    with pytest.raises(TypeError, match="kernel_size: got 71"):
        mmagic.GaussianBlur(kernel_size=71, sigma=2)
    with pytest.raises(TypeError, match="kernel_size: got 70"):
        mmagic.GaussianBlur(kernel_size=(70, 70))
    with pytest.raises(TypeError, match="x: got ndarray"):
        mmagic.GaussianBlur()(np.ones((1, 3, 6, 6)))
    with pytest.raises(ValueError, match=r"x: got shape \(1, 3\)"):
        mmagic.GaussianBlur()(torch.ones(1, 3))


# torchgan

DX, DGZ = torch.tensor([[1.3], [2.9], [8.4], [6.3]]), torch.tensor([[4.8], [1.2], [-3.5], [5.9]])
MINIMAX = torchgan.MinimaxDiscriminatorLoss, [5.0492043, 1.5168452, 0.02997526, 5.90457]
# name: (the generator's loss, its values at DGZ; the discriminator's, its values at DX and DGZ)
TORCHGAN = {
    "wasserstein": (
        *(torchgan.WassersteinGeneratorLoss, [-4.8, -1.2, 3.5, -5.9]),
        *(torchgan.WassersteinDiscriminatorLoss, [3.5, -1.7, -11.9, -0.4]),
    ),
    "least squares": (
        *(torchgan.LeastSquaresGeneratorLoss, [7.22, 0.02, 10.125, 12.005]),
        *(torchgan.LeastSquaresDiscriminatorLoss, [11.565, 2.525, 33.505, 31.45]),
    ),
    "minimax": (
        lambda: torchgan.MinimaxGeneratorLoss(nonsaturating=False),
        [-math.log1p(math.exp(x)) for x in DGZ.flatten().tolist()],
        *MINIMAX,
    ),
    "nonsaturating": (
        lambda: torchgan.MinimaxGeneratorLoss(nonsaturating=True),
        [8.1960661e-03, 2.6328245e-01, 3.5297503, 2.7356991e-03],
        *MINIMAX,
    ),
}


@pytest.mark.parametrize("name", TORCHGAN)
def test_torchgan_losses_read_their_reduction_at_each_call(name):
    of_generator, each_generated, of_discriminator, each_pair = TORCHGAN[name]
    for loss, logits, each in (
        (of_generator(), (DGZ,), torch.tensor(each_generated)),
        (of_discriminator(), (DX, DGZ), torch.tensor(each_pair)),
    ):
        near = dict(rtol=0, atol=5e-6)  # upstream's five decimal places
        torch.testing.assert_close(loss(*logits), each.mean(), **near)
        loss.reduction = "sum"
        torch.testing.assert_close(loss(*logits), each.sum(), **near)
        loss.reduction = "none"
        torch.testing.assert_close(loss(*logits), each[:, None], **near)


# mimicry


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minimax_loss_gen", ONE_RIGHT),
        ("minimax_loss_dis", ONE_RIGHT + ONE_WRONG),
        ("ns_loss_gen", ONE_RIGHT),
        ("wasserstein_loss_gen", -1.0),
        ("wasserstein_loss_dis", 0.0),
        ("hinge_loss_gen", -1.0),
        ("hinge_loss_dis", 2.0),
    ],
)
def test_mimicry_losses_of_ones(name, expected):
    sides = {"output_fake": torch.ones(4, 1), "output_real": torch.ones(4, 1)}
    loss = getattr(mimicry, name)(**(sides if name.endswith("dis") else {"output_fake": sides["output_fake"]}))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=2e-6)


# AudioCraft


def test_audiocraft_values():
    zeros, ones, steps = torch.zeros(3), torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    hinge, mse = (audiocraft.get_adv_criterion(kind) for kind in ("hinge", "mse"))
    assert hinge(steps).item() == -2.0
    assert mse(ones).item() == 0.0 and mse(torch.tensor([2.0, 5.0, 5.0])).item() == 11.0

    def of_discriminator(kind, fake, real):
        return (audiocraft.get_fake_criterion(kind)(fake) + audiocraft.get_real_criterion(kind)(real)).item()

    assert [of_discriminator("hinge", x, x) for x in (zeros, steps)] == [2.0, 3.0]
    assert [of_discriminator("mse", x, zeros) for x in (zeros, ones)] == [1.0, 2.0]


# ParallelWaveGAN and ESPnet


class Discriminators(nn.Module):
    """Two networks of two layers. As upstream's, they return a tensor, a list of tensors, or lists of features."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns
        self.hidden = nn.ModuleList([nn.Conv1d(1, 4, size, padding=size // 2) for size in (3, 5)])
        self.last = nn.ModuleList([nn.Conv1d(4, 1, 1, bias=False) for _ in self.hidden])

    def forward(self, x):
        features = [hidden(x).tanh() for hidden in self.hidden]
        found = [[y, last(y)] for last, y in zip(self.last, features)]
        if self.returns == "a tensor":
            return sum(y for _, y in found)
        return [y for _, y in found] if self.returns == "tensors" else found


@pytest.mark.parametrize("loss_type", ["mse", "hinge"])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("returns", ["a tensor", "tensors", "features"])
def test_parallel_wavegan_trains(returns, average, loss_type):
    """Upstream's step of the generator, then of the discriminator: every parameter of that network moves, and no other
    one, for each structure of outputs in upstream's tests."""
    torch.manual_seed(0)
    generator, discriminators = nn.Conv1d(5, 1, 7, padding=3), Discriminators(returns)
    c, y = torch.randn(4, 5, 64), torch.randn(4, 1, 64)
    of_generator = espnet.GeneratorAdversarialLoss(average_by_discriminators=average, loss_type=loss_type)
    of_discriminators = espnet.DiscriminatorAdversarialLoss(average_by_discriminators=average, loss_type=loss_type)
    matching = espnet.FeatureMatchLoss(
        average_by_layers=average, average_by_discriminators=average, include_final_outputs=True
    )

    def moved_by(loss, net):
        parameters = [*generator.parameters(), *discriminators.parameters()]
        before = [p.detach().clone() for p in parameters]
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [bool((p != old).any()) for p, old in zip(parameters, before)]

    y_hat = generator(c)
    p_hat = discriminators(y_hat)
    loss = of_generator(p_hat)
    if returns == "features":
        with torch.no_grad():
            p = discriminators(y)
        loss = loss + matching(p_hat, p)
    assert moved_by(loss, generator) == [True] * 2 + [False] * 6

    p, p_hat = discriminators(y), discriminators(y_hat.detach())
    real_loss, fake_loss = of_discriminators(p_hat, p)
    assert moved_by(real_loss + fake_loss, discriminators) == [False] * 2 + [True] * 6
