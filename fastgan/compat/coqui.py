"""Coqui TTS (coqui-ai/TTS, idiap/coqui-ai-TTS): the losses that use D in `TTS/vocoder/layers/losses.py`.

In that file, below its own definitions:

    from fastgan.compat.coqui import (
        HingeDLoss, HingeGLoss, MelganFeatureLoss, MSEDLoss, MSEGLoss, _apply_D_loss, _apply_G_adv_loss
    )

or in your script, before the model is created:

    import TTS.vocoder.layers.losses as losses, fastgan.compat.coqui as fused
    for name in fused.__all__: setattr(losses, name, getattr(fused, name))

The modules accept a tensor, as upstream's do, or a list with one tensor for each scale: one launch computes the mean
over the scales. The two functions pass them the list.

Differences: float16 and bfloat16 scores give float32 losses; lists of different lengths are an error. In coqui-ai/TTS,
which is no longer maintained, `_apply_D_loss` doubles the last scale's loss of each side and drops the others; here, as
in idiap/coqui-ai-TTS, they are means over the scales. The first value, the training loss, is the same in all three.

Signatures are from commit 7cde79ec (September 2025).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fastgan.losses import adversarial, separate
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps, feature_matching_loss

__all__ = [
    "HingeDLoss",
    "HingeGLoss",
    "MSEDLoss",
    "MSEGLoss",
    "MelganFeatureLoss",
    "_apply_D_loss",
    "_apply_G_adv_loss",
]
UPSTREAM = {"TTS.vocoder.layers.losses": (*__all__,)}


class MSEGLoss(nn.Module):
    """mean (f - 1)^2, 0-d. `score_real`: f, the scores of generated data that should look real. TypeError or ValueError
    unless it is a tensor of a floating dtype or a list of them."""

    def forward(self, score_real: Logits) -> Tensor:
        return adversarial.criterion_loss(score_real, 1.0, "least_squares", reduce_discriminators="mean")


class HingeGLoss(nn.Module):
    """mean relu(1 - f), not -mean f as in other codebases. Argument, result and errors are those of `MSEGLoss`."""

    def forward(self, score_real: Logits) -> Tensor:
        return adversarial.criterion_loss(score_real, 1.0, "hinge", reduce_discriminators="mean")


class _DLoss(nn.Module):
    criterion: str

    def forward(self, score_fake: Logits, score_real: Logits) -> tuple[Tensor, Tensor, Tensor]:
        sides = ("score_real", score_real, 1.0), ("score_fake", score_fake, 0.0)
        total, real, fake = separate.total_and_each_side(self.criterion, *sides, reduce_discriminators="mean")
        return total, real, fake


class MSEDLoss(_DLoss):
    """(a + b, a, b) with a = mean (r - 1)^2 and b = mean f^2, 0-d each; generated data is the first argument.
    One launch. TypeError or ValueError unless they are tensors of one floating dtype and device, or lists of one
    length."""

    criterion = "least_squares"


class HingeDLoss(_DLoss):
    """(a + b, a, b) with a = mean relu(1 - r) and b = mean relu(1 + f). Arguments, result and errors are those of
    `MSEDLoss`."""

    criterion = "hinge"


class MelganFeatureLoss(nn.Module):
    """mean_k mean |fake_k - real_k| over all maps k of all discriminators; one launch for every 64 of them."""

    def forward(self, fake_feats: Maps, real_feats: Maps) -> Tensor:
        """fake_feats, real_feats: lists of lists of maps. Gradients flow to both, as upstream. Returns 0-d.

        TypeError or ValueError unless they are tensors of one floating dtype and device, in pairs of one shape and
        lists of one length, and at least one. Messages say `fake_maps` and `real_maps`, with an index over all maps."""
        count = 1
        if isinstance(fake_feats, (list, tuple)):
            count = sum([len(maps) if isinstance(maps, (list, tuple)) else 1 for maps in fake_feats])
        return feature_matching_loss(fake_feats, real_feats, 1.0 / max(count, 1), detach_real=False)


def _apply_G_adv_loss(scores_fake: Logits, loss_func: Callable[[Logits], Tensor]) -> Tensor:
    """loss_func, one of the modules above, for a tensor, or its mean over a list of scales; one launch."""
    return loss_func(scores_fake)


def _apply_D_loss(scores_fake: Logits, scores_real: Logits, loss_func: Callable) -> tuple[Tensor, Tensor, Tensor]:
    """loss_func, one of the modules above, for one tensor a side, or its mean over lists of scales; one launch."""
    return loss_func(score_fake=scores_fake, score_real=scores_real)
