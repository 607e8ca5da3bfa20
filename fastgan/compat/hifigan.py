"""HiFi-GAN (jik876/hifi-gan): the adversarial losses of `models.py`.

    from models import ..., generator_loss, discriminator_loss           # before
    from fastgan.compat.hifigan import discriminator_loss, generator_loss    # after, or below it: the later import wins

Differences: what upstream reads back to the host with `.item()` (r_losses, g_losses; 16 waits a step) are 0-d tensors
here, detached, which print and log as numbers do; float16 and bfloat16 outputs give float32 losses; lists of different
lengths are an error, where upstream leaves out what is left over.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat import _sides
from fastgan.functional import Logits

__all__ = ["discriminator_loss", "generator_loss"]


def discriminator_loss(
    disc_real_outputs: Logits, disc_generated_outputs: Logits
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """L = sum_k ( mean (1 - r_k)^2 + mean f_k^2 ); one launch for all discriminators and both sides.

    Args:
        disc_real_outputs, disc_generated_outputs: r_k and f_k, lists of as many tensors, of any shapes and one dtype.

    Returns:
        L, 0-d; [mean (1 - r_k)^2] and [mean f_k^2], detached 0-d tensors.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, an empty list, lists of different lengths.
    """
    loss, losses = _sides.losses(
        *("least_squares", ("disc_real_outputs", disc_real_outputs, 1.0)),
        ("disc_generated_outputs", disc_generated_outputs, 0.0),
    )
    found = list(losses.detach().unbind())
    return loss, found[: len(found) // 2], found[len(found) // 2 :]


def generator_loss(disc_outputs: Logits) -> tuple[Tensor, list[Tensor]]:
    """L = sum_k mean (1 - f_k)^2; one launch for all discriminators.

    Args:
        disc_outputs: f_k, a list of tensors, of any shapes and one dtype.

    Returns:
        L, 0-d, and [mean (1 - f_k)^2], 0-d and differentiable, as upstream's are.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, an empty list.
    """
    loss, losses = _sides.losses("least_squares", ("disc_outputs", disc_outputs, 1.0))
    return loss, list(losses.unbind())
