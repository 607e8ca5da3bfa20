"""Feature matching of public codebases, restated from their sources, over the maps of their own discriminators.

A configuration is one codebase's feature matching at one of its own training settings, at full size on a GPU and cut
down (one sample, a shorter or smaller one) on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan
from bench.codebases.shapes import Shapes, bigvgan_maps, dac_maps, encodec_maps, hifigan_maps, patch_maps, vits_maps
from fastgan.compat import audiocraft, bigvgan, hifigan, pix2pixhd, spade, vits

Lists = list[list[Tensor]]


def hifigan_loss(fake: Lists, real: Lists, widen: Callable = lambda x: x) -> Tensor:
    loss = 0
    for dr, dg in zip(real, fake):
        for rl, gl in zip(dr, dg):
            loss += torch.mean(torch.abs(widen(rl) - widen(gl)))
    return loss * 2


def vits_loss(fake: Lists, real: Lists) -> Tensor:
    return hifigan_loss(fake, [[x.detach() for x in maps] for maps in real], Tensor.float)


def dac_loss(fake: Lists, real: Lists) -> Tensor:
    loss = 0
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss += F.l1_loss(fake[i][j], real[i][j].detach())
    return loss


def audiocraft_loss(fake: Lists, real: Lists) -> Tensor:
    """`FeatureMatchingLoss`, normalised; like upstream, it also sums |real| and does not use the sum."""
    total = torch.tensor(0.0, device=fake[0][0].device)
    for maps, others in zip(fake, real):
        loss = torch.tensor(0.0, device=fake[0][0].device)
        scale = torch.tensor(0.0, device=fake[0][0].device)
        for x, other in zip(maps, others):
            loss = loss + F.l1_loss(x, other)
            scale = scale + torch.mean(torch.abs(other))
        total = total + loss / len(maps)
    return total / len(fake)


def pix2pixhd_loss(fake: Lists, real: Lists) -> Tensor:
    loss = 0
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss += 1.0 / len(fake) * (4.0 / (3 + 1)) * F.l1_loss(fake[i][j], real[i][j].detach()) * 10.0
    return loss


def spade_loss(fake: Lists, real: Lists) -> Tensor:
    loss = torch.zeros(1, device=fake[0][0].device)
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss = loss + F.l1_loss(fake[i][j], real[i][j].detach()) * 10.0 / len(fake)
    return loss.mean()


@dataclass(frozen=True)
class Configuration:
    """full, small: the maps of one side on a GPU, on a CPU. eager, drop_in: (fake maps, real maps) -> loss.
    options: of fastgan.feature_matching_loss, for the same loss. attached: the real maps require gradients too."""

    name: str
    title: str
    full: Shapes
    small: Shapes
    eager: Callable[[Lists, Lists], Tensor]
    drop_in: Callable[[Lists, Lists], Tensor]
    options: dict
    notes: str
    dtype: str = "float32"
    attached: bool = False

    def shapes(self, device: str, quick: bool) -> Shapes:
        if not quick:
            return self.full if device == "cuda" else self.small
        return [[(n, max(1, c // 16), *rest) for n, c, *rest in maps] for maps in self.small]


OF_MAPS = audiocraft.FeatureMatchingLoss()  # of a sub-adversary; its AdversarialLoss divides by their number
CUT = dict(exclude_last=True)
OF_SCALES = CUT | dict(weights=10.0, reduce_discriminators="mean")

# fmt: off
CONFIGURATIONS = (
    Configuration(
        "hifigan", "HiFi-GAN V1", hifigan_maps(16, 8192), hifigan_maps(1, 8192),
        hifigan_loss, lambda fake, real: hifigan.feature_loss(real, fake), dict(weights=2.0),
        "5 periods and 3 scales, segments of 8192; b16 on a GPU, b1 on a CPU",
    ),
    Configuration(
        "hifigan-attached", "HiFi-GAN V1, real maps attached", hifigan_maps(16, 8192), hifigan_maps(1, 8192),
        hifigan_loss, lambda fake, real: hifigan.feature_loss(real, fake), dict(weights=2.0, detach_real=False),
        "as its train.py calls it: the real maps get gradients too, which nothing uses", attached=True,
    ),
    Configuration(
        "bigvgan-v2", "BigVGAN-v2 24k", bigvgan_maps(4, 65536), bigvgan_maps(1, 8192),
        hifigan_loss, lambda fake, real: bigvgan.feature_loss(real, fake), dict(weights=2.0),
        "5 periods and 3 constant-Q transforms; b4, segments of 65536 on a GPU, b1 of 8192 on a CPU",
    ),
    Configuration(
        "dac", "DAC 44k", dac_maps(12, 16758), dac_maps(1, 8379),
        dac_loss, lambda fake, real: fastgan.feature_matching_loss(fake, real, exclude_last=True), CUT,
        "5 periods and 3 spectrograms of 5 bands; b12, 0.38 s on a GPU, b1 of half of that on a CPU; "
        "the drop-in is the call in compat.dac.GANLoss.generator_loss",
    ),
    Configuration(
        "encodec", "EnCodec 24k", encodec_maps(8, 24000), encodec_maps(1, 12000),
        audiocraft_loss, lambda fake, real: OF_MAPS(fake, real) / len(fake),
        dict(reduce_layers="mean", reduce_discriminators="mean"),
        "audiocraft's FeatureMatchingLoss over 5 spectrograms; b8, 1 s on a GPU, b1 of half a second on a CPU",
    ),
    Configuration(
        "vits", "VITS fp16", vits_maps(64, 8192), vits_maps(1, 8192),
        vits_loss, lambda fake, real: vits.feature_loss(real, fake), dict(weights=2.0),
        "a scale and 5 periods, float16 maps, widened one by one, under a loss scale of 2^15; b64, b1 on a CPU",
        dtype="float16",
    ),
    Configuration(
        "pix2pixhd", "pix2pixHD", patch_maps(1, 1024, 2048, 3), patch_maps(1, 256, 512, 3),
        pix2pixhd_loss, pix2pixhd.feature_matching_loss, OF_SCALES,
        "3 scales of 2048×1024 on a GPU, of 512×256 on a CPU",
    ),
    Configuration(
        "spade", "SPADE 256", patch_maps(4, 256, 256, 2), patch_maps(1, 256, 256, 2),
        spade_loss, spade.feature_matching_loss, OF_SCALES, "2 scales; b4, b1 on a CPU",
    ),
)
# fmt: on
BY_NAME = {c.name: c for c in CONFIGURATIONS}
