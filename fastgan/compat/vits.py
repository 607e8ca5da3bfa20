"""VITS (jaywalnut310/vits) and its forks RVC, GPT-SoVITS, so-vits-svc: the losses that use D in `losses.py`.

    from losses import generator_loss, discriminator_loss, feature_loss, ...           # before (RVC:
                                      # `from train.losses`, GPT-SoVITS: `from module.losses`)
    from fastgan.compat.vits import discriminator_loss, feature_loss, generator_loss   # after, or below it: the later
                                                                                       # import wins

`clip_grad_value_` is that of `commons.py`. Upstream converts half precision with `.float()` and computes in float32.
The kernel converts as it reads, so float16 and bfloat16 outputs and maps (from autocast) give the same float32 losses
without copies. float64 ones also give float32 losses. `autocast(enabled=False)` around the calls is optional: autocast
does not change them.

Differences: those of `fastgan.compat.hifigan`, except for half precision.

Signatures are from vits 2e561ba (June 2021) and Retrieval-based-Voice-Conversion-WebUI 4338f12 (July 2026).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from fastgan.compat import hifigan
from fastgan.gradients import clip_gradient_value_
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps, feature_matching_loss

__all__ = ["clip_grad_value_", "discriminator_loss", "feature_loss", "generator_loss"]
_LOSSES = ("discriminator_loss", "feature_loss", "generator_loss")
_FORKS = ("losses", "train.losses", "infer.lib.train.losses", "module.losses", "modules.losses")
UPSTREAM = {**dict.fromkeys(_FORKS, _LOSSES), "commons": ("clip_grad_value_",)}


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float | None, norm_type: float = 2) -> Tensor:
    """`commons.clip_grad_value_`: clamp gradients to [-clip_value, clip_value] (None: do not clamp) and return the norm
    of all of them before clamping.

        commons.clip_grad_value_ = fastgan.compat.vits.clip_grad_value_      # in train.py, after `import commons`

    Differences: the norm is a 0-d tensor on the device, which prints and logs as a number does (upstream's is a float,
    for which it synchronises once for each parameter); half-precision gradients have a float32 norm; norm_type may be
    infinite.

    Raises:
        TypeError, ValueError: not tensors, sparse gradients, a clip_value < 0, a norm_type not > 0.
    """
    return clip_gradient_value_(parameters, clip_value, norm_type)


def discriminator_loss(
    disc_real_outputs: Logits, disc_generated_outputs: Logits
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """`fastgan.compat.hifigan.discriminator_loss` in float32."""
    return _float32(*hifigan.discriminator_loss(disc_real_outputs, disc_generated_outputs))


def generator_loss(disc_outputs: Logits) -> tuple[Tensor, list[Tensor]]:
    """`fastgan.compat.hifigan.generator_loss` in float32."""
    return _float32(*hifigan.generator_loss(disc_outputs))


def feature_loss(fmap_r: Maps, fmap_g: Maps) -> Tensor:
    """2 sum_k mean |r_k - g_k| over all maps k; one launch for every 64 of them. No gradient through the real maps, as
    upstream.

    Args, result and errors are those of `fastgan.compat.hifigan.feature_loss`; the loss is float32. Half-precision maps
    are read without a copy. The gradients have the maps' dtype.
    """
    return feature_matching_loss(fmap_g, fmap_r, 2.0).float()


def _float32(loss: Tensor, *parts: list[Tensor]) -> tuple:
    return loss.float(), *([x.float() for x in losses] for losses in parts)
