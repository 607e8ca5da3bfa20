"""Descript Audio Codec (descriptinc/descript-audio-codec): `GANLoss` of `dac/nn/loss.py`.

    from dac.nn.loss import GANLoss              # before (the training script: `losses.GANLoss`)
    from fastgan.compat.dac import GANLoss       # after

No differences but that float16 and bfloat16 logits give float32 losses, and that a D which returns nothing, or not as
many features of generated as of real data, is an error.

Signatures were read at c7cfc5d (July 2023).
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.losses import adversarial
from fastgan.losses.feature_matching import feature_matching_loss

__all__ = ["GANLoss"]
UPSTREAM = {"dac.nn.loss": (*__all__,)}


class GANLoss(nn.Module):
    """Least squares and feature matching, of a discriminator that it runs itself.

    Args:
        discriminator: waveforms -> a list of lists of tensors: each discriminator's features and, last, its logits.
            Registered as a module, as upstream: its parameters and state are this module's under "discriminator.".
    """

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake, real) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """(D's outputs for generated data, for real data). fake, real: signals, whose waveforms are `.audio_data`."""
        return self.discriminator(fake.audio_data), self.discriminator(real.audio_data)

    def discriminator_loss(self, fake, real) -> Tensor:
        """sum_k ( mean f_k^2 + mean (1 - r_k)^2 ), 0-d, in one launch. No gradient reaches `fake`, which is cloned and
        detached first (so `AudioSignal.detach`, which works in place, leaves the caller's alone)."""
        d_fake, d_real = self.forward(fake.clone().detach(), real)
        return adversarial.discriminator_loss(d_real, d_fake, "least_squares")

    def generator_loss(self, fake, real) -> tuple[Tensor, Tensor | int]:
        """(sum_k mean (1 - f_k)^2, sum over features of mean |a - b|), 0-d each. No gradient through real features. The
        first takes one launch, the second one for every 64 features; it is the number 0 where D returns no features."""
        d_fake, d_real = self.forward(fake, real)
        loss_g = adversarial.generator_loss(d_fake, "least_squares")
        if not any(len(found) > 1 for found in d_fake):
            return loss_g, 0
        return loss_g, feature_matching_loss(d_fake, d_real, exclude_last=True)
