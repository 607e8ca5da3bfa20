"""Descript Audio Codec (descriptinc/descript-audio-codec): `GANLoss` of `dac/nn/loss.py`.

    from dac.nn.loss import GANLoss              # before (the training script: `losses.GANLoss`)
    from fastgan.compat.dac import GANLoss       # after

Differences: float16 and bfloat16 logits give float32 losses. It is an error if D returns nothing, or different numbers
of features for generated and for real data.

Signatures are from commit c7cfc5d (July 2023).
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.losses import adversarial
from fastgan.losses.feature_matching import feature_matching_loss

__all__ = ["GANLoss"]
UPSTREAM = {"dac.nn.loss": (*__all__,)}


class GANLoss(nn.Module):
    """The least squares and feature matching losses. The module runs the discriminator.

    Args:
        discriminator: waveforms -> a list of lists of tensors: each discriminator's features and, last, its logits.
            Registered as a submodule, as upstream: its parameters and state have the prefix "discriminator.".
    """

    def __init__(self, discriminator: nn.Module):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, fake, real) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """(D's outputs for generated data, for real data). fake, real: signals, whose waveforms are `.audio_data`."""
        return self.discriminator(fake.audio_data), self.discriminator(real.audio_data)

    def discriminator_loss(self, fake, real) -> Tensor:
        """sum_k ( mean f_k^2 + mean (1 - r_k)^2 ), 0-d, in one launch. `fake` gets no gradient: it is cloned before it
        is detached, because `AudioSignal.detach` works in place and would change the caller's signal."""
        d_fake, d_real = self.forward(fake.clone().detach(), real)
        return adversarial.discriminator_loss(d_real, d_fake, "least_squares")

    def generator_loss(self, fake, real) -> tuple[Tensor, Tensor | int]:
        """(sum_k mean (1 - f_k)^2, sum over features of mean |a - b|), 0-d each. No gradient through real features. The
        first needs one launch, the second one for every 64 features; it is the number 0 if D returns no features."""
        d_fake, d_real = self.forward(fake, real)
        loss_g = adversarial.generator_loss(d_fake, "least_squares")
        if not any(len(outputs) > 1 for outputs in d_fake):
            return loss_g, 0
        return loss_g, feature_matching_loss(d_fake, d_real, exclude_last=True)
