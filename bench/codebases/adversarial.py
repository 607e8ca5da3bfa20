"""Adversarial losses of public codebases, restated from their sources. No fastgan here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]  # called with the sides, as the configuration holds them
Parts = Sequence[Loss]  # one loss of all sides, or one for each side if the codebase runs a backward pass for each


def hifigan_d(read: bool, widen: Callable = lambda x: x) -> Loss:
    """HiFi-GAN, BigVGAN, VITS: `discriminator_loss`."""

    def loss_of(real: list[Tensor], fake: list[Tensor]) -> Tensor:
        loss, real_losses, fake_losses = 0, [], []
        for r, f in zip(real, fake):
            r, f = widen(r), widen(f)
            r_loss = torch.mean((1 - r) ** 2)
            f_loss = torch.mean(f**2)
            loss += r_loss + f_loss
            if read:
                real_losses.append(r_loss.item())
                fake_losses.append(f_loss.item())
        return loss

    return loss_of


def hifigan_g(fake: list[Tensor]) -> Tensor:
    loss, losses = 0, []
    for f in fake:
        one = torch.mean((1 - f) ** 2)
        losses.append(one)
        loss += one
    return loss


def in_calls(loss_of: Loss, first: int) -> Loss:
    """Two calls, for the first discriminators and for the rest, as in HiFi-GAN's train.py (MPD, then MSD)."""

    def loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return loss_of(real[first:], fake[first:]) + loss_of(real[:first], fake[:first])

    return loss


def dac_d(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    loss = 0
    for x_fake, x_real in zip(fake, real):
        loss += torch.mean(x_fake[-1] ** 2)
        loss += torch.mean((1 - x_real[-1]) ** 2)
    return loss


def audiocraft_d(like: Tensor) -> Parts:
    """`AdversarialLoss.train_adv` with the hinge criteria; as upstream, every call creates zeros on the device."""

    def zero(x: Tensor) -> Tensor:
        return torch.tensor(0.0, device=x.device, dtype=x.dtype).expand_as(x)

    def loss_of(real: list[Tensor], fake: list[Tensor]) -> Tensor:
        loss = torch.tensor(0.0, device=like.device, dtype=like.dtype)
        for f, r in zip(fake, real):
            loss += -torch.mean(torch.min(-f - 1, zero(f))) + -torch.mean(torch.min(r - 1, zero(r)))
        loss /= len(fake)
        return loss

    return [loss_of]


def pix2pixhd_d(like: Tensor) -> Parts:
    """`GANLoss(use_lsgan=True)`. Its cached labels are created again for each scale, since scales differ in size."""

    def of_side(scales: list[list[Tensor]], label: float) -> Tensor:
        loss = 0
        for scale in scales:
            prediction = scale[-1]
            loss += F.mse_loss(prediction, prediction.new_empty(prediction.size()).fill_(label))
        return loss

    return [lambda real, fake: (of_side(fake, 0.0) + of_side(real, 1.0)) * 0.5]


def spade_criterion(like: Tensor) -> Callable[[list[list[Tensor]], bool], Tensor]:
    zero = like.new_zeros(1)

    def criterion(scales: list[list[Tensor]], is_real: bool) -> Tensor:
        loss = 0
        for scale in scales:
            x = scale[-1]
            one = -torch.mean(torch.min((x if is_real else -x) - 1, zero.expand_as(x)))
            loss += torch.mean(one.view(1, -1), dim=1)
        return loss / len(scales)

    return criterion


def spade_d(criterion: Callable[[list[list[Tensor]], bool], Tensor]) -> Loss:
    """`divide_pred`, `GANLoss("hinge")` of each half, and the sum over the trainer's dictionary of losses."""

    def loss_of(scales: list[list[Tensor]]) -> Tensor:
        fake = [[x[: x.size(0) // 2] for x in scale] for scale in scales]
        real = [[x[x.size(0) // 2 :] for x in scale] for scale in scales]
        return sum((criterion(fake, False), criterion(real, True))).mean()

    return loss_of


class CycleGANLoss(torch.nn.Module):
    """`GANLoss("lsgan")`: labels are buffers, and `MSELoss` is a submodule."""

    def __init__(self):
        super().__init__()
        self.register_buffer("real_label", torch.tensor(1.0))
        self.register_buffer("fake_label", torch.tensor(0.0))
        self.loss = torch.nn.MSELoss()

    def target(self, prediction: Tensor, is_real: bool) -> Tensor:
        return (self.real_label if is_real else self.fake_label).expand_as(prediction)

    def forward(self, prediction: Tensor, is_real: bool) -> Tensor:
        return self.loss(prediction, self.target(prediction, is_real))


def cyclegan_d(like: Tensor) -> Parts:
    criterion = CycleGANLoss().to(like)
    return [lambda real, fake: (criterion(real, True) + criterion(fake, False)) * 0.5]


def taming_d(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake)))


class BasicSRLoss(torch.nn.Module):
    """`GANLoss("vanilla")`: it creates its labels at each call, and `BCEWithLogitsLoss` is a submodule."""

    def __init__(self):
        super().__init__()
        self.loss = torch.nn.BCEWithLogitsLoss()

    def target(self, x: Tensor, is_real: bool) -> Tensor:
        return x.new_ones(x.size()) * (1.0 if is_real else 0.0)

    def forward(self, x: Tensor, is_real: bool) -> Tensor:
        return self.loss(x, self.target(x, is_real))


def basicsr_d(criterion: Callable[[Tensor, bool], Tensor]) -> Parts:
    return [lambda real, fake: criterion(real, True), lambda real, fake: criterion(fake, False)]


def esrgan_d(criterion: Callable[[Tensor, bool], Tensor]) -> Parts:
    """`ESRGANModel.optimize_parameters`: the averages are of detached logits."""
    return [
        lambda real, fake: criterion(real - torch.mean(fake.detach()), True) * 0.5,
        lambda real, fake: criterion(fake - torch.mean(real.detach()), False) * 0.5,
    ]


def dcgan_d(criterion: Callable[[Tensor, Tensor], Tensor], head: Callable = lambda x: x) -> Parts:
    """main.py creates its labels at every step. head: D's last layer, if the loss includes it."""

    def of_side(x: Tensor, label: float) -> Tensor:
        return criterion(head(x), torch.full((x.size(0),), label, dtype=x.dtype, device=x.device))

    return [lambda real, fake: of_side(real, 1.0), lambda real, fake: of_side(fake, 0.0)]


def biggan_d(losses_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Loss:
    def loss_of(real: Tensor, fake: Tensor) -> Tensor:
        of_real, of_fake = losses_of(fake, real)
        return (of_real + of_fake) / 8.0  # num_D_accumulations

    return loss_of
