"""lightweight-gan (lucidrains): its adversarial losses, as of 1.2.1 (efbec45, January 2025).

lightweight_gan.py: delete the functions of these names and add

    from fastgan.compat.lightweight_gan import dual_contrastive_loss, gen_hinge_loss, hinge_loss

These are the losses of `fastgan.compat.lucidrains`, with the same inverted sign and the same differences, but with the
real side first, as in stylegan2-pytorch until August 2024.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat import lucidrains
from fastgan.compat._logits import check
from fastgan.compat.lucidrains import gen_hinge_loss

__all__ = ["dual_contrastive_loss", "gen_hinge_loss", "hinge_loss"]
UPSTREAM = {"lightweight_gan.lightweight_gan": (*__all__,)}


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """D's loss, mean relu(1 + real) + mean relu(1 - fake), 0-d. Errors as in `lucidrains.hinge_loss`."""
    check(real=real, fake=fake)
    return lucidrains.hinge_loss(fake=fake, real=real)


def dual_contrastive_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """`lucidrains.dual_contrastive_loss`, 0-d, D's loss in this order. For G's loss upstream swaps the sides: generated
    logits first."""
    check(real_logits=real_logits, fake_logits=fake_logits)
    return lucidrains.dual_contrastive_loss(fake_logits=fake_logits, real_logits=real_logits)
