"""`python -m bench lists`: adversarial losses as public codebases have them, at the shapes they have them in.

A configuration is one codebase's loss at one of its own training settings: several discriminators in a list, two or
three ways to reduce, one backward pass or two. `eager` is that codebase's formula, restated here from its source; the
others are what a user can put in its place. Each is forward and backward, into the logits.
"""

from __future__ import annotations

import functools
import math
import operator
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from bench.harness import environment, report
from bench.harness.clock import interval, machine, poison, ratio, sample_rounds
from bench.harness.progress import progress
from bench.harness.promises import lists as promises
from bench.harness.promises import times
from bench.suites.contenders import DTYPES, LOSS_SCALE, _ulp
from bench.suites.losses import COMPILE, _one_line
from fastgan.compat import (
    audiocraft,
    basicsr,
    biggan,
    bigvgan,
    cyclegan,
    dac,
    dcgan,
    hifigan,
    pix2pixhd,
    r3gan,
    spade,
    stylegan,
    taming,
    vits,
)

EAGER, UNREAD, DROP_IN, DIRECT = "eager", "eager, nothing read", "drop-in", "value_and_grad"
CONTENDERS = {
    EAGER: "the codebase's formula in PyTorch, as it is written there, with its `.item()` calls",
    UNREAD: "the same without the `.item()` calls, whose results that codebase does not use",
    COMPILE: "the same without `.item()`, compiled in the default mode: both sides in one function, one backward pass",
    DROP_IN: "the member of fastgan.compat that takes its place, and backward",
    DIRECT: "fastgan's `*_value_and_grad`: loss and gradients in one call, no autograd",
}
OURS = (DROP_IN, DIRECT)

Loss = Callable[..., Tensor]  # of the sides, as the configuration holds them
Parts = Sequence[Loss]  # one loss of all sides, or one a side where the codebase goes backward side by side
Step = Callable[["Batch"], tuple[Sequence[Tensor], Sequence[Tensor]]]  # -> the losses of the parts, the gradients


@dataclass(frozen=True)
class Configuration:
    """eager, drop_in, plain: a tensor that gives device and dtype -> `Parts`.

    shapes: the logits of one side. holds: what the loss is called with, "tensor", "list" or "lists" (of features, the
    logits last and alone). sides: "both"; "fake", a generator's loss; "batch", both in one tensor, generated first.
    plain: eager without `.item()`, where it has any. exact: what the gate evaluates in float64, if not eager itself.
    value_and_grad: (sides, grad_scale) -> ValueAndGrad. notes: what the codebase does, and what ours changes.
    """

    name: str
    title: str
    shapes: tuple[tuple[int, ...], ...]
    eager: Callable[[Tensor], Parts]
    drop_in: Callable[[Tensor], Parts]
    value_and_grad: Callable | None
    notes: str
    holds: str = "list"
    sides: str = "both"
    dtype: str = "float32"
    plain: Callable[[Tensor], Parts] | None = None
    exact: Callable[[Tensor], Parts] | None = None
    probabilities: bool = False

    @property
    def logits(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Batch:
    """sides: the arguments of the loss. leaves: the tensors of each side that want gradients."""

    sides: tuple
    leaves: tuple[list[Tensor], ...]

    @property
    def tensors(self) -> list[Tensor]:
        return [x for leaves in self.leaves for x in leaves]


# What the codebases compute. Restated from the sources that each configuration names.


def _hifigan_d(read: bool, widen: Callable = lambda x: x) -> Loss:
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


def _hifigan_g(fake: list[Tensor]) -> Tensor:
    loss, losses = 0, []
    for f in fake:
        one = torch.mean((1 - f) ** 2)
        losses.append(one)
        loss += one
    return loss


def _in_calls(loss_of: Loss, first: int) -> Loss:
    """Two calls, of the first discriminators and of the rest, as HiFi-GAN's train.py has them (MPD, then MSD)."""

    def loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
        return loss_of(real[first:], fake[first:]) + loss_of(real[:first], fake[:first])

    return loss


def _dac_d(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    loss = 0
    for x_fake, x_real in zip(fake, real):
        loss += torch.mean(x_fake[-1] ** 2)
        loss += torch.mean((1 - x_real[-1]) ** 2)
    return loss


def _audiocraft_d(like: Tensor) -> Parts:
    """`AdversarialLoss.train_adv` with the hinge criteria; zeros are made on the device at every call, as there."""

    def zero(x: Tensor) -> Tensor:
        return torch.tensor(0.0, device=x.device, dtype=x.dtype).expand_as(x)

    def loss_of(real: list[Tensor], fake: list[Tensor]) -> Tensor:
        loss = torch.tensor(0.0, device=like.device, dtype=like.dtype)
        for f, r in zip(fake, real):
            loss += -torch.mean(torch.min(-f - 1, zero(f))) + -torch.mean(torch.min(r - 1, zero(r)))
        loss /= len(fake)
        return loss

    return [loss_of]


def _pix2pixhd_d(like: Tensor) -> Parts:
    """`GANLoss(use_lsgan=True)`. Its cached labels are made anew at each scale, since the scales differ in size."""

    def of_side(scales: list[list[Tensor]], label: float) -> Tensor:
        loss = 0
        for scale in scales:
            prediction = scale[-1]
            loss += F.mse_loss(prediction, prediction.new_empty(prediction.size()).fill_(label))
        return loss

    return [lambda real, fake: (of_side(fake, 0.0) + of_side(real, 1.0)) * 0.5]


def _spade_criterion(like: Tensor) -> Callable[[list[list[Tensor]], bool], Tensor]:
    zero = like.new_zeros(1)

    def criterion(scales: list[list[Tensor]], is_real: bool) -> Tensor:
        loss = 0
        for scale in scales:
            x = scale[-1]
            one = -torch.mean(torch.min((x if is_real else -x) - 1, zero.expand_as(x)))
            loss += torch.mean(one.view(1, -1), dim=1)
        return loss / len(scales)

    return criterion


def _spade_d(criterion: Callable[[list[list[Tensor]], bool], Tensor]) -> Loss:
    """`divide_pred`, `GANLoss("hinge")` of each half, and the sum over the trainer's dictionary of losses."""

    def loss_of(scales: list[list[Tensor]]) -> Tensor:
        fake = [[x[: x.size(0) // 2] for x in scale] for scale in scales]
        real = [[x[x.size(0) // 2 :] for x in scale] for scale in scales]
        return sum((criterion(fake, False), criterion(real, True))).mean()

    return loss_of


class _CycleGANLoss(torch.nn.Module):
    """`GANLoss("lsgan")`: labels are buffers, and `MSELoss` is a module in it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("real_label", torch.tensor(1.0))
        self.register_buffer("fake_label", torch.tensor(0.0))
        self.loss = torch.nn.MSELoss()

    def target(self, prediction: Tensor, is_real: bool) -> Tensor:
        return (self.real_label if is_real else self.fake_label).expand_as(prediction)

    def forward(self, prediction: Tensor, is_real: bool) -> Tensor:
        return self.loss(prediction, self.target(prediction, is_real))


def _cyclegan_d(like: Tensor) -> Parts:
    criterion = _CycleGANLoss().to(like)
    return [lambda real, fake: (criterion(real, True) + criterion(fake, False)) * 0.5]


def _taming_d(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake)))


class _BasicSRLoss(torch.nn.Module):
    """`GANLoss("vanilla")`: makes its labels at each call, and `BCEWithLogitsLoss` is a module in it."""

    def __init__(self):
        super().__init__()
        self.loss = torch.nn.BCEWithLogitsLoss()

    def target(self, x: Tensor, is_real: bool) -> Tensor:
        return x.new_ones(x.size()) * (1.0 if is_real else 0.0)

    def forward(self, x: Tensor, is_real: bool) -> Tensor:
        return self.loss(x, self.target(x, is_real))


def _basicsr_d(criterion: Callable[[Tensor, bool], Tensor]) -> Parts:
    return [lambda real, fake: criterion(real, True), lambda real, fake: criterion(fake, False)]


def _esrgan_d(criterion: Callable[[Tensor, bool], Tensor]) -> Parts:
    """`ESRGANModel.optimize_parameters`: the averages are of detached logits."""
    return [
        lambda real, fake: criterion(real - torch.mean(fake.detach()), True) * 0.5,
        lambda real, fake: criterion(fake - torch.mean(real.detach()), False) * 0.5,
    ]


def _dcgan_d(criterion: Callable[[Tensor, Tensor], Tensor], head: Callable = lambda x: x) -> Parts:
    """main.py makes its labels at every step; `head` is D's last layer, where that is counted in."""

    def of_side(x: Tensor, label: float) -> Tensor:
        return criterion(head(x), torch.full((x.size(0),), label, dtype=x.dtype, device=x.device))

    return [lambda real, fake: of_side(real, 1.0), lambda real, fake: of_side(fake, 0.0)]


def _biggan_d(losses_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Loss:
    def loss_of(real: Tensor, fake: Tensor) -> Tensor:
        of_real, of_fake = losses_of(fake, real)
        return (of_real + of_fake) / 8.0  # num_D_accumulations

    return loss_of


# What takes their place.


class _Signal:
    """Stands for DAC's AudioSignal; its D is the identity, so that the "waveform" is D's output."""

    def __init__(self, found: list[list[Tensor]]):
        self.audio_data = found

    def clone(self) -> _Signal:
        return self

    detach = clone


def _dac_drop_in(like: Tensor) -> Parts:
    criterion = dac.GANLoss(torch.nn.Identity())
    return [lambda real, fake: criterion.discriminator_loss(_Signal(fake), _Signal(real))]


def _audiocraft_drop_in(like: Tensor) -> Parts:
    """What `AdversarialLoss.train_adv` calls between D and the optimizer."""
    criteria = [get("hinge") for get in (audiocraft.get_adv_criterion, audiocraft.get_real_criterion)]
    criteria.append(audiocraft.get_fake_criterion("hinge"))
    adversary = torch.nn.Linear(1, 1)
    loss = audiocraft.AdversarialLoss(adversary, torch.optim.SGD(adversary.parameters(), lr=0.0), *criteria)
    return [lambda real, fake: loss._total((loss.loss_fake, fake), (loss.loss_real, real))]


def _pix2pixhd_drop_in(like: Tensor) -> Parts:
    criterion = pix2pixhd.GANLoss(use_lsgan=True)
    return [lambda real, fake: (criterion(fake, False) + criterion(real, True)) * 0.5]


def _cyclegan_drop_in(like: Tensor) -> Parts:
    criterion = cyclegan.GANLoss("lsgan").to(like.device)
    return [lambda real, fake: (criterion(real, True) + criterion(fake, False)) * 0.5]


def _basicsr_drop_in(like: Tensor) -> Callable[[Tensor, bool], Tensor]:
    criterion = basicsr.GANLoss("vanilla")
    return lambda x, is_real: criterion(x, is_real, is_disc=True)


def _of_both(objective: str, **options) -> Callable:
    return lambda real, fake, scale: fastgan.discriminator_value_and_grad(
        real, fake, objective, grad_scale=scale, **options
    )


_MPD_16 = tuple((16, n) for n in (102, 102, 105, 105, 110))
_HIFIGAN = (*_MPD_16, (16, 128), (16, 65), (16, 33))
_VITS = (*[(64, n) for n in (102, 102, 105, 105, 110)], (64, 128))
_BIGVGAN = (*[(4, n) for n in (810, 810, 810, 812, 814)], (4, 1, 257, 27), (4, 1, 513, 41), (4, 1, 513, 54))
_DAC = tuple((12, 1, n, p) for n, p in ((104, 2), (69, 3), (42, 5), (30, 7), (19, 11)))
_DAC = (*_DAC, (12, 1, 33, 130), (12, 1, 66, 66), (12, 1, 131, 34))
_ENCODEC = tuple((8, 1, *at) for at in ((90, 65), (43, 129), (184, 33), (372, 17), (747, 9)))
_SPADE = ((4, 1, 35, 35), (4, 1, 19, 19))
_READS = "its `.item()` calls, {} a step, are made and their results unused"

CONFIGURATIONS = (
    Configuration(
        "hifigan-d",
        "HiFi-GAN V1 b16, D",
        _HIFIGAN,
        eager=lambda like: [_hifigan_d(read=True)],
        plain=lambda like: [_hifigan_d(read=False)],
        drop_in=lambda like: [lambda real, fake: hifigan.discriminator_loss(real, fake)[0]],
        value_and_grad=_of_both("least_squares"),
        notes=f"least squares over 8 discriminators in one list; {_READS.format(16)}",
    ),
    Configuration(
        "real-esrgan-d",
        "Real-ESRGAN b12, D",
        ((12, 1, 256, 256),),
        holds="tensor",
        eager=lambda like: _basicsr_d(_BasicSRLoss()),
        drop_in=lambda like: _basicsr_d(_basicsr_drop_in(like)),
        value_and_grad=_of_both("minimax"),
        notes="BasicSR's GANLoss('vanilla') of a U-Net D, backward for each side; value_and_grad takes both at once",
    ),
    Configuration(
        "vits-d",
        "VITS b64 fp16, D",
        _VITS,
        dtype="float16",
        eager=lambda like: [_hifigan_d(read=True, widen=Tensor.float)],
        plain=lambda like: [_hifigan_d(read=False, widen=Tensor.float)],
        exact=lambda like: [_hifigan_d(read=False)],
        drop_in=lambda like: [lambda real, fake: vits.discriminator_loss(real, fake)[0]],
        value_and_grad=_of_both("least_squares"),
        notes=f"least squares of float16 logits, widened one by one, under a loss scale of 2^15; {_READS.format(12)}",
    ),
    Configuration(
        "dac-d",
        "DAC 44k b12, D",
        _DAC,
        holds="lists",
        eager=lambda like: [_dac_d],
        drop_in=_dac_drop_in,
        value_and_grad=_of_both("least_squares"),
        notes="least squares over 8 discriminators, each a list of features with the logits last",
    ),
    Configuration(
        "encodec-d",
        "EnCodec 24k b8, D",
        _ENCODEC,
        eager=_audiocraft_d,
        drop_in=_audiocraft_drop_in,
        value_and_grad=_of_both("hinge", reduce_discriminators="mean"),
        notes="audiocraft's hinge, -mean min(x - 1, 0), over 5 discriminators; makes 11 zeros on the device a step",
    ),
    Configuration(
        "bigvgan-d",
        "BigVGAN-v2 24k b4, D",
        _BIGVGAN,
        eager=lambda like: [_in_calls(_hifigan_d(read=True), 5)],
        plain=lambda like: [_in_calls(_hifigan_d(read=False), 5)],
        drop_in=lambda like: [_in_calls(lambda real, fake: bigvgan.discriminator_loss(real, fake)[0], 5)],
        value_and_grad=_of_both("least_squares"),
        notes=f"HiFi-GAN's loss called twice, as its train.py does, of 5 and of 3 discriminators; {_READS.format(16)}; "
        "value_and_grad takes all 8 at once",
    ),
    Configuration(
        "spade-d",
        "SPADE 256 b4, D",
        _SPADE,
        holds="lists",
        sides="batch",
        eager=lambda like: [_spade_d(_spade_criterion(like))],
        drop_in=lambda like: [lambda scales: sum((spade.discriminator_loss(scales),)).mean()],
        value_and_grad=lambda scales, scale: fastgan.concatenated_discriminator_value_and_grad(
            scales, "hinge", reduce_discriminators="mean", grad_scale=scale
        ),
        notes="D sees generated and real data in one batch, and eager slices it; ours takes the batch whole, "
        "compat.spade.discriminator_loss",
    ),
    Configuration(
        "cyclegan-d",
        "CycleGAN and pix2pix b1, D",
        ((1, 1, 30, 30),),
        holds="tensor",
        eager=_cyclegan_d,
        drop_in=_cyclegan_drop_in,
        value_and_grad=_of_both("least_squares", weight=0.5),
        notes="GANLoss('lsgan') against a buffer expanded, half of the sum of both sides",
    ),
    Configuration(
        "vqgan-d",
        "VQGAN and LDM b12, D",
        ((12, 1, 30, 30),),
        holds="tensor",
        eager=lambda like: [_taming_d],
        drop_in=lambda like: [taming.hinge_d_loss],
        value_and_grad=_of_both("hinge", weight=0.5),
        notes="taming's hinge_d_loss",
    ),
    Configuration(
        "esrgan-d",
        "ESRGAN b16, D",
        ((16, 1),),
        holds="tensor",
        eager=lambda like: _esrgan_d(_BasicSRLoss()),
        drop_in=lambda like: _esrgan_d(_basicsr_drop_in(like)),
        value_and_grad=_of_both("relativistic_average", weight=0.5, detach_average=True),
        notes="BasicSR's relativistic average, the differences made outside of GANLoss, backward for each side",
    ),
    Configuration(
        "dcgan-d",
        "DCGAN b128, D, probabilities",
        ((128,),),
        holds="tensor",
        probabilities=True,
        eager=lambda like: _dcgan_d(torch.nn.BCELoss()),
        drop_in=lambda like: _dcgan_d(dcgan.BCELoss()),
        value_and_grad=None,
        notes="BCELoss of probabilities against labels made at every step, backward for each side; ours is "
        "compat.dcgan.BCELoss of the same probabilities and labels",
    ),
    Configuration(
        "dcgan-d-logits",
        "DCGAN b128, D, from logits",
        ((128,),),
        holds="tensor",
        eager=lambda like: _dcgan_d(torch.nn.BCELoss(), torch.nn.Sigmoid()),
        drop_in=lambda like: _dcgan_d(dcgan.BCEWithLogitsLoss()),
        value_and_grad=_of_both("minimax"),
        notes="the same with D's Sigmoid counted in; ours takes the logits that go into it",
    ),
    Configuration(
        "stylegan2-d",
        "StyleGAN2 and 3 b16, D",
        ((16, 1),),
        holds="tensor",
        eager=lambda like: [
            lambda real, fake: F.softplus(-real).mean().mul(1.0),
            lambda real, fake: F.softplus(fake).mean().mul(1.0),
        ],
        drop_in=lambda like: [stylegan.discriminator_loss],
        value_and_grad=_of_both("minimax"),
        notes="softplus, mean, times the gain, backward for each side; without R1 and training_stats.report. "
        "Ours needs both sides at once",
    ),
    Configuration(
        "r3gan-d",
        "R3GAN b64, D",
        ((64,),),
        holds="tensor",
        eager=lambda like: [lambda real, fake: F.softplus(-(real - fake)).mean()],
        drop_in=lambda like: [r3gan.discriminator_loss],
        value_and_grad=_of_both("relativistic"),
        notes="softplus of the differences of pairs, without the penalties",
    ),
    Configuration(
        "biggan-d",
        "BigGAN b256, D",
        ((256, 1),),
        holds="tensor",
        eager=lambda like: [
            _biggan_d(lambda fake, real: (torch.mean(F.relu(1.0 - real)), torch.mean(F.relu(1.0 + fake))))
        ],
        drop_in=lambda like: [_biggan_d(biggan.loss_hinge_dis)],
        value_and_grad=_of_both("hinge", weight=1 / 8),
        notes="loss_hinge_dis, the sum of its two losses over 8 accumulations",
    ),
    Configuration(
        "pix2pixhd-d",
        "pix2pixHD 1024×512 b1, D",
        ((1, 1, 67, 131), (1, 1, 35, 67)),
        holds="lists",
        eager=_pix2pixhd_d,
        drop_in=_pix2pixhd_drop_in,
        value_and_grad=_of_both("least_squares", weight=0.5),
        notes="GANLoss of 2 scales, summed, against labels filled for each; half of the sum of both sides",
    ),
    Configuration(
        "hifigan-g",
        "HiFi-GAN V1 b16, G",
        _HIFIGAN,
        sides="fake",
        eager=lambda like: [_hifigan_g],
        drop_in=lambda like: [lambda fake: hifigan.generator_loss(fake)[0]],
        value_and_grad=lambda fake, scale: fastgan.generator_value_and_grad(fake, "least_squares", grad_scale=scale),
        notes="least squares over 8 discriminators",
    ),
    Configuration(
        "hifigan-d-5+3",
        "HiFi-GAN V1 b16, D, two calls",
        _HIFIGAN,
        eager=lambda like: [_in_calls(_hifigan_d(read=True), 5)],
        plain=lambda like: [_in_calls(_hifigan_d(read=False), 5)],
        drop_in=lambda like: [_in_calls(lambda real, fake: hifigan.discriminator_loss(real, fake)[0], 5)],
        value_and_grad=None,
        notes="hifigan-d as its train.py calls it, for 5 discriminators and for 3: the drop-in without another change",
    ),
    Configuration(
        "spade-d-sliced",
        "SPADE 256 b4, D, sliced",
        _SPADE,
        holds="lists",
        sides="batch",
        eager=lambda like: [_spade_d(_spade_criterion(like))],
        drop_in=lambda like: [_spade_d(spade.GANLoss("hinge"))],
        value_and_grad=None,
        notes="spade-d with compat.spade.GANLoss of the slices: the drop-in without another change",
    ),
)
QUICK = ("hifigan-d", "spade-d", "dcgan-d")


def draw(configuration: Configuration, device: str, generator: torch.Generator) -> Batch:
    """N(1, 2²) on real, N(-1, 2²) on generated data. None lies on a hinge's knee, where the conventions differ."""

    def tensor(shape: tuple[int, ...], shift: float) -> Tensor:
        x = torch.randn(shape, generator=generator, device=device).mul_(2).add_(shift)
        x = torch.where(x.abs() == 1, x * 1.5, x)
        return x.sigmoid() if configuration.probabilities else x

    shifts = {"both": (1.0, -1.0), "fake": (-1.0,), "batch": (-1.0, 1.0)}[configuration.sides]
    sides = [[tensor(shape, shift) for shape in configuration.shapes] for shift in shifts]
    if configuration.sides == "batch":
        sides = [[torch.cat(halves) for halves in zip(*sides)]]
    return batch_of(configuration, sides, DTYPES[configuration.dtype])


def batch_of(configuration: Configuration, sides: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> Batch:
    leaves = tuple([x.detach().to(dtype).requires_grad_() for x in side] for side in sides)
    held = {
        "tensor": lambda side: side[0],
        "list": list,
        "lists": lambda side: [[x] for x in side],
    }[configuration.holds]
    return Batch(tuple(held(side) for side in leaves), leaves)


def forward_backward(parts: Parts, scale: Tensor | None) -> Step:
    def step(batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        losses, grads = [], []
        for part, leaves in zip(parts, batch.leaves if len(parts) > 1 else (batch.tensors,)):
            loss = part(*batch.sides)
            losses.append(loss)
            grads += torch.autograd.grad(loss, leaves, scale)
        return losses, grads

    return step


def program_of(configuration: Configuration, like: Tensor, dynamic: bool | None = None) -> Loss:
    """Both sides in one compiled function."""
    torch._dynamo.reset()  # one specialised program a configuration
    parts = (configuration.plain or configuration.eager)(like)

    def whole(*sides):
        return functools.reduce(operator.add, [part(*sides) for part in parts])

    return torch.compile(whole, dynamic=dynamic)


def _steps(
    configuration: Configuration, like: Tensor, scale: Tensor | None, program: Callable[[Tensor], Loss] | None = None
) -> dict[str, Callable[[], Step]]:
    """How to make each contender that the configuration has."""
    c = configuration

    def compiled() -> Step:
        return forward_backward([program(like) if program else program_of(c, like)], scale)

    def direct() -> Step:
        def step(batch: Batch) -> tuple[tuple[Tensor], tuple[Tensor, ...]]:
            out = c.value_and_grad(*batch.sides, scale)
            return (out.loss,), out.grads

        return step

    steps = {EAGER: lambda: forward_backward(c.eager(like), scale)}
    if c.plain is not None:
        steps[UNREAD] = lambda: forward_backward(c.plain(like), scale)
    steps[COMPILE] = compiled
    steps[DROP_IN] = lambda: forward_backward(c.drop_in(like), scale)
    if c.value_and_grad is not None:
        steps[DIRECT] = direct
    return steps


def exact(configuration: Configuration, batch: Batch, scale: float) -> tuple[float, list[Tensor]]:
    """(loss, gradients) of the codebase's own formula in float64."""
    wide = batch_of(configuration, batch.leaves, torch.float64)
    like = wide.tensors[0]
    parts = (configuration.exact or configuration.plain or configuration.eager)(like)
    losses, grads = forward_backward(parts, like.new_tensor(scale))(wide)
    return sum(x.item() for x in losses), grads


def why_wrong(result, batch: Batch, expected: tuple[float, list[Tensor]], ours: bool) -> tuple[str | None, float]:
    """(None, or what is wrong; the worst relative error of a gradient). Bounds are those of `contenders.why_wrong`:
    ours to half a unit in the last place and 5e-6 per element, others to 4 eps of a tensor's largest gradient."""
    losses, grads = result
    loss64, grads64 = expected
    loss, worst = sum(x.item() for x in losses), 0.0
    eps = torch.finfo(batch.tensors[0].dtype).eps
    allowed = 5e-6 if ours else max(4 * eps, 1e-5)
    if not abs(loss - loss64) <= allowed * abs(loss64):
        return f"loss {loss:.9g}, float64 gives {loss64:.9g}", float("inf")
    if len(grads) != len(grads64):
        return f"{len(grads)} gradients for {len(grads64)} tensors", float("inf")
    for k, (x, got, want) in enumerate(zip(batch.tensors, grads, grads64)):
        if got is None or got.shape != x.shape or got.dtype != x.dtype:
            return f"gradient at tensor {k}: not a {x.dtype} tensor of the logits' shape", float("inf")
        error, size = (got.double() - want).abs(), want.abs()
        bound = (
            size * 5e-6 + 0.51 * _ulp(size, x.dtype) if ours else (size + size.max()) * (4 * eps) + _ulp(size, x.dtype)
        )
        wrong = ~(error <= bound)
        worst = max(worst, (error / size).nan_to_num(nan=0.0).max().item())
        if wrong.any():
            i = int(wrong.flatten().nonzero()[0])
            found, wanted = got.flatten()[i].item(), want.flatten()[i].item()
            return f"gradient at tensor {k}, element {i}: {found:.9g}, float64 gives {wanted:.9g}", worst
    return None, worst


def waits(call: Callable[[int], object]) -> int:
    """How often a call makes the host wait for the CUDA device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(w.message) for w in caught)


def run(
    device: str,
    only: Sequence[str] | None = None,
    *,
    quick: bool = False,
    budget_s: float | None = None,
    limit_s: float | None = None,
    compiled: bool = True,
    commit: str | None = None,
    out: Path | None = None,
    configurations: Sequence[Configuration] = CONFIGURATIONS,
) -> dict:
    """The results, as they stand in lists.json. `out` is written after every configuration, so that a stopped run is
    kept. only: names of configurations; all of them, or with `quick` a few, by default."""
    if only is None:
        only = [c.name for c in configurations if not quick or c.name in QUICK]
    unknown = set(only) - {c.name for c in configurations}
    if unknown:
        known = ", ".join(c.name for c in configurations)
        raise ValueError(f"configuration {sorted(unknown)[0]!r}: expected one of {known}")
    if budget_s is None:
        budget_s = 0.3 if quick else 1.0 if device == "cuda" else 3.0
    if limit_s is None:
        limit_s = 400.0 if device == "cuda" else 540.0
    results = {
        "suite": "lists",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": CONTENDERS,
        "cells": [],
        "skipped": [],
    }
    begin = time.perf_counter()
    bar = progress([c for c in configurations if c.name in only], "lists")
    for configuration in bar:
        if time.perf_counter() - begin > limit_s:
            why = f"the run's limit of {limit_s:g} s was reached"
            results["skipped"].append({"name": configuration.name, "why": why})
            continue
        bar.set_postfix_str(configuration.name)
        results["cells"].append(cell(device, configuration, quick, budget_s, compiled))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    if out is not None:
        environment.write_json(out, results)
    return results


def cell(
    device: str,
    configuration: Configuration,
    quick: bool,
    budget_s: float,
    compiled: bool = True,
    program: Callable[[Tensor], Loss] | None = None,
) -> dict:
    """One configuration: the gate, then times in interleaved rounds, then what each call launches and allocates.
    program: like -> the compiled loss, where it is not to be compiled anew."""
    host, dtype = machine(device, quick), DTYPES[configuration.dtype]
    scale_value = LOSS_SCALE if configuration.dtype == "float16" else 1.0
    scale = torch.tensor(scale_value, device=device) if configuration.dtype == "float16" else None
    both = 1 if configuration.sides == "fake" else 2
    moved = 2 * both * configuration.logits * dtype.itemsize  # each logit read once, its gradient written once
    sets, cold = host.buffers(moved)
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    batches = [draw(configuration, device, generator) for _ in range(sets)]
    expected = exact(configuration, batches[0], scale_value)
    rows, calls = {}, {}
    for name, make in _steps(configuration, batches[0].tensors[0], scale, program).items():
        row = rows[name] = {"contender": name}
        if name == COMPILE and not compiled:
            row["error"] = "left out with --no-compile"
            continue
        try:
            begin = time.perf_counter()
            step = make()
            for x in batches[0].tensors:
                poison(device, x.shape, dtype)
            result = step(batches[0])
            host.synchronize()
            row["first_call_s"] = round(time.perf_counter() - begin, 3)
            wrong, worst = why_wrong(result, batches[0], expected, name in OURS)
            del result
            row["worst_relative_error"] = worst if math.isfinite(worst) else None
            if wrong:
                row["error"] = f"wrong result, not timed: {wrong}"
            else:
                calls[name] = _rotating(step, batches)
                for i in range(max(3, sets)):
                    calls[name](i)
        except Exception as error:  # a contender that cannot run here is a row that says so
            row["error"] = _one_line(error)

    samples = sample_rounds(host, calls, budget_s, at_least=5 if quick else 9)
    for name, kinds in samples.items():
        row = rows[name]
        for kind, values in kinds.items():
            row[f"{kind}_us"] = interval(values)
            if EAGER in samples:
                row[f"{kind}_speedup"] = ratio(samples[EAGER][kind], values)
            if name != COMPILE and COMPILE in samples:
                row[f"{kind}_against_compile"] = ratio(samples[COMPILE][kind], values)
        row["launches"] = host.launches(calls[name])
        if device == "cuda":
            row["waits"] = waits(calls[name])
        row["peak_bytes"] = host.peak_bytes(calls[name])
    return {
        "name": configuration.name,
        "title": configuration.title,
        "notes": configuration.notes,
        "dtype": configuration.dtype,
        "shapes": [list(shape) for shape in configuration.shapes],
        "sides": configuration.sides,
        "n": configuration.logits,
        "bytes": moved,
        "buffers": sets,
        "cold": cold,
        "rows": list(rows.values()),
    }


def _rotating(step: Step, batches: Sequence[Batch]) -> Callable[[int], object]:
    if len(batches) == 1:
        return lambda i: step(batches[0])
    kept = [None] * len(batches)  # outputs live as long as their inputs, so that they rotate through memory too

    def call(i):
        k = i % len(batches)
        kept[k] = step(batches[k])

    return call


# The table and the picture. Every number in them comes from the file.

HOW_TO_READ = """\
Forward and backward together, into the logits: median (quartiles) in microseconds, over interleaved rounds. A speed-up
is a ratio of medians in this run, with its 95 % interval; below 1 the contender is the slower one. """
ON_A_GPU = """\
*host* is the time until the call returns: to enqueue, or, where the codebase waits for the device (*waits*, by
`torch.cuda.set_sync_debug_mode`), to finish. *device* is between two events, with everything enqueued before the first;
where a contender waits, the gaps that its waits leave are in it. *launches* counts what the profiler saw on the device.
Inputs and outputs rotate through more memory than the L2 cache holds, as far as 256 sets of them do."""
ON_A_CPU = """\
*launches* counts operators that touch elements and call no other, and compiled graphs. *peak* is the most that one
call holds at a time, outputs included."""
COLOURS = {DROP_IN: "#e11d74", DIRECT: "#7c3aed", COMPILE: "#2563eb"}


def write(results: dict, folder: Path) -> list[Path]:
    """lists.md and lists.png beside lists.json."""
    return environment.write_drawn("lists", results, folder, markdown, picture)


def _kinds(results: dict) -> tuple[str, ...]:
    return ("host", "device") if results["device_type"] == "cuda" else ("host",)


def _shapes(cell: dict) -> str:
    """'2 × (16, 102), (16, 105)'."""
    shapes = [f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})" for shape in cell["shapes"]]
    counts = {shape: shapes.count(shape) for shape in shapes}
    return ", ".join(shape if count == 1 else f"{count} × {shape}" for shape, count in counts.items())


def markdown(results: dict) -> str:
    cuda, kinds = results["device_type"] == "cuda", _kinds(results)
    lines = [
        *report.header("Adversarial losses of public codebases", results, promises(results)),
        "## Times",
        "",
        HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU),
        "",
    ]
    head = ["configuration", "contender", *(f"{kind} µs" for kind in kinds)]
    head += [f"{kind} vs {other}" for kind in kinds for other in ("eager", "compile")]
    head += ["launches", *["waits"] * cuda, "peak", "worst relative error"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in results["cells"]:
        for row in cell["rows"]:
            lines.append(f"| {' | '.join(_line(cell, row, kinds, len(head)))} |")
    lines += ["", "## Where fastgan is the slower one", ""]
    lines += report.slower(results, lambda cell: cell["title"], OURS) or ["Nowhere in this run."]
    lines += ["", "## Configurations", "", "| name | codebase and setting | logits a side | dtype | what it is |"]
    lines += ["|---|---|---|---|---|"]
    for cell in results["cells"]:
        logits = f"{cell['n']:,}: {_shapes(cell)}"
        lines.append(f"| {cell['name']} | {cell['title']} | {logits} | {cell['dtype']} | {cell['notes']} |")
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['name']}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def summary(results: dict) -> str:
    """README's table: speed against eager, a line a configuration; below 1 is slower."""
    kind = _kinds(results)[-1]
    names = [COMPILE, DROP_IN, DIRECT]
    lines = [f"| {kind} speed, eager = 1 | eager µs | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"] if "error" not in row}
        eager = rows.get(EAGER, {}).get(f"{kind}_us")
        shown = ["" if eager is None else report.microseconds(eager["median"])]
        for name in names:
            value = rows.get(name, {}).get(f"{kind}_speedup")
            shown.append("" if value is None else times(value))
        lines.append(f"| {cell['title']} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _line(cell: dict, row: dict, kinds: tuple[str, ...], width: int) -> list[str]:
    start = [cell["title"], row["contender"]]
    if f"{kinds[0]}_us" not in row:
        return [*start, row.get("error", "not timed"), *[""] * (width - 3)]
    out = [*start, *(report._time(row, kind) for kind in kinds)]
    for kind in kinds:
        for column in ("speedup", "against_compile"):
            value = row.get(f"{kind}_{column}")
            out.append("" if value is None else times(value))
    error = row.get("worst_relative_error")
    out += [str(row[key]) for key in ("launches", "waits") if key in row]
    out.append(report._bytes(row["peak_bytes"]))
    return [*out, "" if error is None else f"{error:.1e}"]


def picture(results: dict, path: Path) -> None:
    """Speed-up over eager by configuration, a panel for each kind of time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    kinds, env, cells = _kinds(results), results["environment"], results["cells"]
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(3.6 + 5.6 * len(kinds), 0.58 * max(len(cells), 1) + 1.7),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    thick, small = 0.26, {"fontsize": 7.5, "color": "#374151"}
    for axis, kind in zip(axes[0], kinds):
        ends = [1.0]
        for place, (name, colour) in enumerate(COLOURS.items()):
            for line, cell in enumerate(cells):
                row = next((r for r in cell["rows"] if r["contender"] == name), None)
                y, value = line + (place - 1) * thick, (row or {}).get(f"{kind}_speedup")
                if value is None:
                    why = "not timed" if row else f"no {name} of it"
                    axis.annotate(why, (1, y), (3, 0), textcoords="offset points", va="center", **small)
                    continue
                median, low, high = value["median"], value["low"], value["high"]
                axis.barh(y, median - 1, thick * 0.92, left=1, color=colour)
                axis.plot([low, high], [y, y], color="#111827", linewidth=0.8)
                right = median >= 1
                axis.annotate(
                    f"{median:.2f}×" if median < 9.95 else f"{median:.0f}×",
                    (max(high, median) if right else min(low, median), y),
                    xytext=(3 if right else -3, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center",
                    **small,
                )
                ends += [low, high]
        axis.set_xscale("log", base=2)
        low, high = min(ends), max(*ends, 1.3)
        room = (high / low) ** 0.12  # for the numbers at the ends of the bars
        axis.set_xlim(low / room, high * room)
        axis.xaxis.set_major_locator(LogLocator(base=2))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×" if x >= 1 else f"1/{1 / x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axvline(1, color="#111827", linewidth=1)
        axis.grid(True, axis="x", color="#e5e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("speed-up over eager" + (f", {kind} time" if len(kinds) > 1 else "") + "; left of 1: slower")
    axes[0][0].set_yticks(range(len(cells)), [cell["title"] for cell in cells], fontsize=9)
    axes[0][0].set_ylim(len(cells) - 0.4, -0.6)  # the first on top
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.suptitle(
        f"Adversarial losses of public codebases, forward + backward\n{env['device']}\n"
        f"torch {env['torch']}, triton {env['triton']}, commit {(env['commit'] or 'unknown')[:12]}, {env['date']}",
        fontsize=10,
    )
    report.save(figure, path)
