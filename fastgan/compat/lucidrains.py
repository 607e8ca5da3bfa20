"""stylegan2-pytorch and gigagan-pytorch (lucidrains): their adversarial losses.

stylegan2_pytorch.py: delete the functions of these names and add

    from fastgan.compat.lucidrains import dual_contrastive_loss, gen_hinge_loss, hinge_loss

gigagan_pytorch.py: the same with

    from fastgan.compat.lucidrains import discriminator_hinge_loss, generator_hinge_loss

The sign is inverted there: D gives low values to real data, so that D minimises relu(1 + r) + relu(1 - f) and G the
mean of f. (`dual_contrastive_loss` is not inverted.) Argument orders are those of stylegan2-pytorch 1.9.0 (ce7f830,
January 2025): the generated side first. Before August 2024 it had the real side first in `hinge_loss` and
`dual_contrastive_loss`, as lightweight-gan still has: use `fastgan.compat.lightweight_gan` for that order. Signatures
of gigagan-pytorch are from 01045f0: the real side first in its `discriminator_hinge_loss`.

Differences: logits of different shapes each have their own mean (upstream broadcasts them, or fails); half-precision
logits give float32 losses (upstream: half); gigagan's two also accept lists, one launch for all scales.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastgan.compat._logits import check
from fastgan.losses import adversarial

UPSTREAM = {
    "stylegan2_pytorch.stylegan2_pytorch": ("dual_contrastive_loss", "gen_hinge_loss", "hinge_loss"),
    "gigagan_pytorch.gigagan_pytorch": ("discriminator_hinge_loss", "generator_hinge_loss"),
}


def hinge_loss(fake: Tensor, real: Tensor) -> Tensor:
    """D's loss, mean relu(1 + real) + mean relu(1 - fake), 0-d; slope 0 at the knee.

    fake, real: D's logits, (batch,) upstream, any shapes here.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two dtypes or devices.
    """
    check(fake=fake, real=real)
    return adversarial.discriminator_loss(fake, real, "hinge")  # the sides swapped: real data has the label 0


def gen_hinge_loss(fake: Tensor, real: Tensor | None) -> Tensor:
    """G's loss, mean fake, 0-d. `real` is ignored: upstream's training passes None. Errors as in `hinge_loss`."""
    check(fake=fake)
    return adversarial.criterion_loss(fake, 0.0, "wasserstein")


def dual_contrastive_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """mean_i softplus(log sum_j exp f_j - r_i) + mean_j softplus(log sum_i exp(-r_i) + f_j), 0-d (Yu et al. 2021).

    D's loss and, upstream, also G's, in the same order. Upstream builds two N x N matrices of logits for two
    cross-entropies; the numbers and gradients here are the same, in O(N).

    fake_logits, real_logits: of any shapes, which may differ: all logits of a side count as one list.
    Errors as in `hinge_loss`.
    """
    check(fake_logits=fake_logits, real_logits=real_logits)
    return adversarial.discriminator_loss(real_logits, fake_logits, "dual_contrastive")


def discriminator_hinge_loss(real: Tensor | Sequence[Tensor], fake: Tensor | Sequence[Tensor]) -> Tensor:
    """gigagan's `hinge_loss`. For lists (one tensor a scale), the sum over the scales: one launch instead of a loop.

    Errors as in `hinge_loss`, and ValueError for lists of different lengths."""
    check(lists=True, real=real, fake=fake)
    lengths = [1 if isinstance(x, Tensor) else len(x) for x in (real, fake)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"fake: got {lengths[1]} tensors, expected {lengths[0]}, as many as real")
    return adversarial.discriminator_loss(fake, real, "hinge")


def generator_hinge_loss(fake: Tensor | Sequence[Tensor]) -> Tensor:
    """mean fake, 0-d. For a list (one tensor a scale), the sum over the scales. Errors as in `hinge_loss`."""
    check(lists=True, fake=fake)
    return adversarial.criterion_loss(fake, 0.0, "wasserstein")
