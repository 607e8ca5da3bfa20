"""VITS (jaywalnut310/vits) and what is made of it, RVC, GPT-SoVITS, so-vits-svc: the losses of D in `losses.py`.

    from losses import generator_loss, discriminator_loss, feature_loss, ...           # before (RVC:
                                      # `from infer.lib.train.losses`, GPT-SoVITS: `from module.losses`)
    from fastgan.compat.vits import discriminator_loss, feature_loss, generator_loss   # after, or below it: the later
                                                                                       # import wins

Upstream widens half precision with `.float()` and computes in float32; the kernel does so as it reads, so float16 and
bfloat16 outputs and maps, from under autocast, give the same float32 losses and no copies are made. Call them under
`autocast(enabled=False)` as before, or not: autocast does not touch them.

Differences: those of `fastgan.compat.hifigan`, but for half precision, and float64 outputs, which upstream narrows to
float32, stay float64.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat.hifigan import discriminator_loss, generator_loss
from fastgan.matching import Maps, feature_matching_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]


def feature_loss(fmap_r: Maps, fmap_g: Maps) -> Tensor:
    """2 sum_k mean |r_k - g_k| over all maps k; one launch for every 64 of them. No gradient through the real maps, as
    upstream.

    Args, result and errors are those of `fastgan.compat.hifigan.feature_loss`. Half-precision maps are read as they are
    and give a float32 loss; their gradients are of their own dtype.
    """
    return feature_matching_loss(fmap_g, fmap_r, 2.0)
