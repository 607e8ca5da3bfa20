"""BigVGAN (NVIDIA/BigVGAN): the adversarial losses of `loss.py`, which are HiFi-GAN's.

    from loss import ..., generator_loss, discriminator_loss             # before
    from fastgan.compat.bigvgan import discriminator_loss, generator_loss    # after, or below it: the later import wins

Differences: those of `fastgan.compat.hifigan`.
"""

from fastgan.compat.hifigan import discriminator_loss, generator_loss

__all__ = ["discriminator_loss", "generator_loss"]
