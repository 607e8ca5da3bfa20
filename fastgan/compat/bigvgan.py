"""BigVGAN (NVIDIA/BigVGAN): the adversarial and feature matching losses of `loss.py`, which are HiFi-GAN's.

    from loss import feature_loss, generator_loss, discriminator_loss                    # before
    from fastgan.compat.bigvgan import discriminator_loss, feature_loss, generator_loss  # after

Differences: those of `fastgan.compat.hifigan`.

Signatures are from commit 7d2b454 (September 2024).
"""

from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]
UPSTREAM = {"loss": (*__all__,)}
