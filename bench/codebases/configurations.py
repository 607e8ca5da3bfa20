"""The configurations of `lists` and `batches`: a codebase's adversarial loss at one of its own training settings, and
its replacements. They differ in the discriminators in a list, the reductions, and one backward pass or two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from bench.codebases import adversarial as theirs
from bench.codebases import shapes
from fastgan import compat


@dataclass(frozen=True)
class Configuration:
    """eager, drop_in, plain: a tensor that gives device and dtype -> `Parts`.

    shapes: the logits of one side. holds: the argument type of the loss, "tensor", "list" or "lists" (of features, here
    only the logits). sides: "both"; "fake", a generator's loss; "batch", both in one tensor, generated first.
    plain: eager without its `.item()` calls, if it has any. exact: what the gate evaluates in float64, if not eager.
    value_and_grad: (sides, grad_scale) -> ValueAndGrad. notes: what the codebase does, and what ours changes.
    """

    name: str
    title: str
    shapes: tuple[tuple[int, ...], ...]
    holds: str
    eager: Callable[[Tensor], theirs.Parts]
    drop_in: Callable[[Tensor], theirs.Parts]
    value_and_grad: Callable | None
    notes: str
    sides: str = "both"
    dtype: str = "float32"
    plain: Callable[[Tensor], theirs.Parts] | None = None
    exact: Callable[[Tensor], theirs.Parts] | None = None
    probabilities: bool = False

    @property
    def logits(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


# The replacements.


class _Signal:
    """Replaces DAC's AudioSignal. D is the identity here, so the "waveform" is D's output."""

    def __init__(self, output: list[list[Tensor]]):
        self.audio_data = output

    def clone(self) -> _Signal:
        return self

    detach = clone


def dac_drop_in(like: Tensor) -> theirs.Parts:
    criterion = compat.dac.GANLoss(torch.nn.Identity())
    return [lambda real, fake: criterion.discriminator_loss(_Signal(fake), _Signal(real))]


def audiocraft_drop_in(like: Tensor) -> theirs.Parts:
    """The part of `AdversarialLoss.train_adv` between D and the optimizer."""
    criteria = [get("hinge") for get in (compat.audiocraft.get_adv_criterion, compat.audiocraft.get_real_criterion)]
    criteria.append(compat.audiocraft.get_fake_criterion("hinge"))
    adversary = torch.nn.Linear(1, 1)
    loss = compat.audiocraft.AdversarialLoss(adversary, torch.optim.SGD(adversary.parameters(), lr=0.0), *criteria)
    return [lambda real, fake: loss._total((loss.loss_fake, fake), (loss.loss_real, real))]


def pix2pixhd_drop_in(like: Tensor) -> theirs.Parts:
    criterion = compat.pix2pixhd.GANLoss(use_lsgan=True)
    return [lambda real, fake: (criterion(fake, False) + criterion(real, True)) * 0.5]


def cyclegan_drop_in(like: Tensor) -> theirs.Parts:
    criterion = compat.cyclegan.GANLoss("lsgan").to(like.device)
    return [lambda real, fake: (criterion(real, True) + criterion(fake, False)) * 0.5]


def basicsr_drop_in(like: Tensor) -> Callable[[Tensor, bool], Tensor]:
    criterion = compat.basicsr.GANLoss("vanilla")
    return lambda x, is_real: criterion(x, is_real, is_disc=True)


def of_both(objective: str, **options) -> Callable:
    return lambda real, fake, scale: fastgan.discriminator_value_and_grad(
        real, fake, objective, grad_scale=scale, **options
    )


READS = "with its {} `.item()` calls a step, whose results are not used"

# fmt: off
CONFIGURATIONS = (
    Configuration(
        "hifigan-d", "HiFi-GAN V1 b16, D", shapes.HIFIGAN, "list",
        lambda like: [theirs.hifigan_d(read=True)],
        lambda like: [lambda real, fake: compat.hifigan.discriminator_loss(real, fake)[0]],
        of_both("least_squares"), f"least squares over 8 discriminators in one list; {READS.format(16)}",
        plain=lambda like: [theirs.hifigan_d(read=False)],
    ),
    Configuration(
        "real-esrgan-d", "Real-ESRGAN b12, D", ((12, 1, 256, 256),), "tensor",
        lambda like: theirs.basicsr_d(theirs.BasicSRLoss()),
        lambda like: theirs.basicsr_d(basicsr_drop_in(like)), of_both("minimax"),
        "BasicSR's GANLoss('vanilla') of a U-Net D, backward for each side; value_and_grad takes both at once",
    ),
    Configuration(
        "vits-d", "VITS b64 fp16, D", shapes.VITS, "list",
        lambda like: [theirs.hifigan_d(read=True, widen=Tensor.float)],
        lambda like: [lambda real, fake: compat.vits.discriminator_loss(real, fake)[0]], of_both("least_squares"),
        f"least squares of float16 logits, widened one by one, under a loss scale of 2^15; {READS.format(12)}",
        dtype="float16", plain=lambda like: [theirs.hifigan_d(read=False, widen=Tensor.float)],
        exact=lambda like: [theirs.hifigan_d(read=False)],
    ),
    Configuration(
        "dac-d", "DAC 44k b12, D", shapes.DAC, "lists",
        lambda like: [theirs.dac_d], dac_drop_in, of_both("least_squares"),
        "least squares over 8 discriminators, each a list of features with the logits last",
    ),
    Configuration(
        "encodec-d", "EnCodec 24k b8, D", shapes.ENCODEC, "list",
        theirs.audiocraft_d, audiocraft_drop_in, of_both("hinge", reduce_discriminators="mean"),
        "audiocraft's hinge, -mean min(x - 1, 0), over 5 discriminators; makes 11 zeros on the device a step",
    ),
    Configuration(
        "bigvgan-d", "BigVGAN-v2 24k b4, D", shapes.BIGVGAN, "list",
        lambda like: [theirs.in_calls(theirs.hifigan_d(read=True), 5)],
        lambda like: [theirs.in_calls(lambda real, fake: compat.bigvgan.discriminator_loss(real, fake)[0], 5)],
        of_both("least_squares"),
        f"HiFi-GAN's loss called twice, as its train.py does, of 5 and of 3 discriminators; {READS.format(16)}; "
        "value_and_grad takes all 8 at once",
        plain=lambda like: [theirs.in_calls(theirs.hifigan_d(read=False), 5)],
    ),
    Configuration(
        "spade-d", "SPADE 256 b4, D", shapes.SPADE, "lists",
        lambda like: [theirs.spade_d(theirs.spade_criterion(like))],
        lambda like: [lambda scales: sum((compat.spade.discriminator_loss(scales),)).mean()],
        lambda scales, scale: fastgan.concatenated_discriminator_value_and_grad(
            scales, "hinge", reduce_discriminators="mean", grad_scale=scale),
        "D sees generated and real data in one batch, and eager slices it; ours takes the batch whole, "
        "compat.spade.discriminator_loss",
        sides="batch",
    ),
    Configuration(
        "cyclegan-d", "CycleGAN and pix2pix b1, D", ((1, 1, 30, 30),), "tensor",
        theirs.cyclegan_d, cyclegan_drop_in, of_both("least_squares", weight=0.5),
        "GANLoss('lsgan') against a buffer expanded, half of the sum of both sides",
    ),
    Configuration(
        "vqgan-d", "VQGAN and LDM b12, D", ((12, 1, 30, 30),), "tensor",
        lambda like: [theirs.taming_d], lambda like: [compat.taming.hinge_d_loss], of_both("hinge", weight=0.5),
        "taming's hinge_d_loss",
    ),
    Configuration(
        "esrgan-d", "ESRGAN b16, D", ((16, 1),), "tensor",
        lambda like: theirs.esrgan_d(theirs.BasicSRLoss()), lambda like: theirs.esrgan_d(basicsr_drop_in(like)),
        of_both("relativistic_average", weight=0.5, detach_average=True),
        "BasicSR's relativistic average, the differences made outside of GANLoss, backward for each side",
    ),
    Configuration(
        "dcgan-d", "DCGAN b128, D, probabilities", ((128,),), "tensor",
        lambda like: theirs.dcgan_d(torch.nn.BCELoss()), lambda like: theirs.dcgan_d(compat.dcgan.BCELoss()), None,
        "BCELoss of probabilities against labels made at every step, backward for each side; ours is "
        "compat.dcgan.BCELoss of the same probabilities and labels",
        probabilities=True,
    ),
    Configuration(
        "dcgan-d-logits", "DCGAN b128, D, from logits", ((128,),), "tensor",
        lambda like: theirs.dcgan_d(torch.nn.BCELoss(), torch.nn.Sigmoid()),
        lambda like: theirs.dcgan_d(compat.dcgan.BCEWithLogitsLoss()), of_both("minimax"),
        "the same with D's Sigmoid counted in; ours takes the logits that go into it",
    ),
    Configuration(
        "stylegan2-d", "StyleGAN2 and 3 b16, D", ((16, 1),), "tensor",
        lambda like: [
            lambda real, fake: F.softplus(-real).mean().mul(1.0), lambda real, fake: F.softplus(fake).mean().mul(1.0)],
        lambda like: [compat.stylegan.discriminator_loss], of_both("minimax"),
        "softplus, mean, times the gain, backward for each side; without R1 and training_stats.report. "
        "Ours needs both sides at once",
    ),
    Configuration(
        "r3gan-d", "R3GAN b64, D", ((64,),), "tensor",
        lambda like: [lambda real, fake: F.softplus(-(real - fake)).mean()],
        lambda like: [compat.r3gan.discriminator_loss], of_both("relativistic"),
        "softplus of the differences of pairs, without the penalties",
    ),
    Configuration(
        "biggan-d", "BigGAN b256, D", ((256, 1),), "tensor",
        lambda like: [
            theirs.biggan_d(lambda fake, real: (torch.mean(F.relu(1.0 - real)), torch.mean(F.relu(1.0 + fake))))],
        lambda like: [theirs.biggan_d(compat.biggan.loss_hinge_dis)], of_both("hinge", weight=1 / 8),
        "loss_hinge_dis, the sum of its two losses over 8 accumulations",
    ),
    Configuration(
        "pix2pixhd-d", "pix2pixHD 1024×512 b1, D", ((1, 1, 67, 131), (1, 1, 35, 67)), "lists",
        theirs.pix2pixhd_d, pix2pixhd_drop_in, of_both("least_squares", weight=0.5),
        "GANLoss of 2 scales, summed, against labels filled for each; half of the sum of both sides",
    ),
    Configuration(
        "hifigan-g", "HiFi-GAN V1 b16, G", shapes.HIFIGAN, "list",
        lambda like: [theirs.hifigan_g], lambda like: [lambda fake: compat.hifigan.generator_loss(fake)[0]],
        lambda fake, scale: fastgan.generator_value_and_grad(fake, "least_squares", grad_scale=scale),
        "least squares over 8 discriminators", sides="fake",
    ),
    Configuration(
        "hifigan-d-5+3", "HiFi-GAN V1 b16, D, two calls", shapes.HIFIGAN, "list",
        lambda like: [theirs.in_calls(theirs.hifigan_d(read=True), 5)],
        lambda like: [theirs.in_calls(lambda real, fake: compat.hifigan.discriminator_loss(real, fake)[0], 5)], None,
        "hifigan-d as its train.py calls it, for 5 discriminators and for 3: the drop-in without another change",
        plain=lambda like: [theirs.in_calls(theirs.hifigan_d(read=False), 5)],
    ),
    Configuration(
        "spade-d-sliced", "SPADE 256 b4, D, sliced", shapes.SPADE, "lists",
        lambda like: [theirs.spade_d(theirs.spade_criterion(like))],
        lambda like: [theirs.spade_d(compat.spade.GANLoss("hinge"))], None,
        "spade-d with compat.spade.GANLoss of the slices: the drop-in without another change", sides="batch",
    ),
)
# fmt: on
BY_NAME = {c.name: c for c in CONFIGURATIONS}
