"""HiFi-GAN (jik876/hifi-gan): the adversarial and feature matching losses of `models.py`.

    from models import ..., feature_loss, generator_loss, discriminator_loss             # before
    from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss  # after, or below it: the later
                                                                                         # import wins

Differences: r_losses and g_losses, which upstream reads with `.item()` (16 synchronisations a step), are detached 0-d
tensors here, which print and log as numbers do; float16 and bfloat16 outputs give float32 losses; lists of different
lengths are an error (upstream ignores the surplus).

Signatures are from commit 4769534 (December 2020).
"""

from __future__ import annotations

from torch import Tensor

from fastgan.losses import separate
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps, feature_matching_loss

__all__ = ["discriminator_loss", "feature_loss", "generator_loss"]
UPSTREAM = {"models": (*__all__,)}


def feature_loss(fmap_r: Maps, fmap_g: Maps) -> Tensor:
    """2 sum_k mean |r_k - g_k| over all maps k; one launch for every 64 of them.

    Gradients flow to the real maps, as upstream, but nothing uses the gradients that D gets from them: `optim_d` zeroes
    D's gradients before its own step. To save their computation, pass real maps without a graph:

        feature_loss([[x.detach() for x in maps] for maps in fmap_r], fmap_g)

    or run D on real data under `torch.no_grad()` in the generator's step, where `y_d_r` has no other use.

    Args:
        fmap_r, fmap_g: r and g, one list of maps for each discriminator, of real and of generated data; all of one
            dtype, each pair of one shape.

    Returns:
        0-d tensor. The slope of |x| at 0 is 0.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, pairs of two shapes, lists of different
            lengths, no maps. Messages say `real_maps` and `fake_maps`, with an index over all maps.
    """
    return feature_matching_loss(fmap_g, fmap_r, 2.0, detach_real=False)


def discriminator_loss(
    disc_real_outputs: Logits, disc_generated_outputs: Logits
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """L = sum_k ( mean (1 - r_k)^2 + mean f_k^2 ); one launch for all discriminators and both sides.

    Args:
        disc_real_outputs, disc_generated_outputs: r_k and f_k, lists of one length, of any shapes and one dtype.

    Returns:
        L, 0-d; [mean (1 - r_k)^2] and [mean f_k^2], detached 0-d tensors.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, an empty list, lists of different lengths.
    """
    loss, values = separate.total_and_values(
        *("least_squares", ("disc_real_outputs", disc_real_outputs, 1.0)),
        ("disc_generated_outputs", disc_generated_outputs, 0.0),
    )
    return loss, values[: len(values) // 2], values[len(values) // 2 :]


def generator_loss(disc_outputs: Logits) -> tuple[Tensor, list[Tensor]]:
    """L = sum_k mean (1 - f_k)^2; one launch for all discriminators.

    Args:
        disc_outputs: f_k, a list of tensors, of any shapes and one dtype.

    Returns:
        L, 0-d, and [mean (1 - f_k)^2], 0-d and differentiable, as upstream's are.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, an empty list.
    """
    return separate.total_and_each_loss("least_squares", ("disc_outputs", disc_outputs, 1.0))
