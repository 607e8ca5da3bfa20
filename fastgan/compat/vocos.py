"""Vocos (gemelo-ai/vocos): the losses that use D in `vocos/loss.py`: a hinge on both sides, and feature matching.

    from vocos.loss import DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss, ...         # before
    from fastgan.compat.vocos import DiscriminatorLoss, FeatureMatchingLoss, GeneratorLoss    # after, or below it: the
                                                                                              # later import wins

At the knee the slope is that of `clamp` in the installed torch, as upstream: at a real logit of 1 it is -1 up to torch
2.13 and 0 from 2.14 on.

Signatures are from commit c859e3b (November 2023). Differences: float16 and bfloat16 outputs give float32 losses; lists
of different lengths are an error (upstream ignores the surplus).
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.losses import separate
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps, feature_matching_loss

__all__ = ["DiscriminatorLoss", "FeatureMatchingLoss", "GeneratorLoss"]
UPSTREAM = {"vocos.loss": (*__all__,)}


class GeneratorLoss(nn.Module):
    """L = sum_k mean max(1 - f_k, 0); one launch for all discriminators."""

    def forward(self, disc_outputs: Logits) -> tuple[Tensor, list[Tensor]]:
        """disc_outputs: f_k, a list of tensors, of any shapes and one dtype.

        Returns L, of shape (1,), and the losses of the discriminators, 0-d; each can run its backward pass alone.
        TypeError or ValueError unless they are tensors of one floating dtype and device, and at least one."""
        loss, losses = separate.total_and_each_loss("hinge_clamp", ("disc_outputs", disc_outputs, 1.0))
        return loss.reshape(1), losses


class DiscriminatorLoss(nn.Module):
    """L = sum_k ( mean max(1 - r_k, 0) + mean max(1 + f_k, 0) ); one launch for all discriminators and both sides."""

    def forward(
        self, disc_real_outputs: Logits, disc_generated_outputs: Logits
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """disc_real_outputs, disc_generated_outputs: r_k and f_k, lists of one length.

        Returns L, of shape (1,), and the losses of the discriminators on real and on generated data, 0-d; each can run
        its backward pass alone. TypeError or ValueError if the arguments are not tensors of one floating dtype and
        device, are empty lists or lists of different lengths."""
        loss, losses = separate.total_and_each_loss(
            *("hinge_clamp", ("disc_real_outputs", disc_real_outputs, 1.0)),
            ("disc_generated_outputs", disc_generated_outputs, 0.0),
        )
        return loss.reshape(1), losses[: len(losses) // 2], losses[len(losses) // 2 :]


class FeatureMatchingLoss(nn.Module):
    """sum_k mean |r_k - g_k| over all maps k of all discriminators; one launch for every 64 of them. Without
    HiFi-GAN's factor of 2."""

    def forward(self, fmap_r: Maps, fmap_g: Maps) -> Tensor:
        """fmap_r, fmap_g: r and g, lists of lists of maps of real and of generated data. Gradients flow to both, as
        upstream; `fastgan.compat.hifigan.feature_loss` says how to save those of r. Returns shape (1,).

        TypeError or ValueError unless they are tensors of one floating dtype and device, in pairs of one shape and
        lists of one length, and at least one. Messages say `real_maps` and `fake_maps`, with an index over all maps."""
        return feature_matching_loss(fmap_g, fmap_r, detach_real=False).reshape(1)
