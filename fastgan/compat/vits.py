"""VITS (jaywalnut310/vits) and what is made of it, RVC, GPT-SoVITS, so-vits-svc: the adversarial losses of `losses.py`.

    from losses import generator_loss, discriminator_loss, ...           # before (RVC: `from infer.lib.train.losses`,
                                                                         # GPT-SoVITS: `from module.losses`)
    from fastgan.compat.vits import discriminator_loss, generator_loss   # after, or below it: the later import wins

Upstream widens half precision with `.float()` and computes in float32; the kernel does so as it reads, so float16 and
bfloat16 outputs, from under autocast, give the same float32 losses and no copies are made. Call them under
`autocast(enabled=False)` as before, or not: autocast does not touch them.

Differences: those of `fastgan.compat.hifigan`, but for half precision, and float64 outputs, which upstream narrows to
float32, stay float64.
"""

from fastgan.compat.hifigan import discriminator_loss, generator_loss

__all__ = ["discriminator_loss", "generator_loss"]
