"""BigGAN-PyTorch (ajbrock): `losses.py`.

    import losses                              ->  from fastgan.compat import biggan as losses

in `train_fns.py`. Signatures are from commit 9845943 (July 2019). The generated side comes first in the arguments and
the real side first in the result. One launch computes both losses; each can run its backward pass alone. Values and
gradients are upstream's; half-precision logits give float32 losses (upstream: half).
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat._logits import check
from fastgan.losses import adversarial, separate

UPSTREAM = {
    "losses": (
        *("loss_dcgan_dis", "loss_dcgan_gen", "loss_hinge_dis", "loss_hinge_gen"),
        *("discriminator_loss", "generator_loss"),
    )
}


def _pair(dis_fake: Tensor, dis_real: Tensor, criterion: str) -> tuple[Tensor, Tensor]:
    check(dis_fake=dis_fake, dis_real=dis_real)
    real, fake = separate.each_loss(criterion, ("dis_real", dis_real, 1.0), ("dis_fake", dis_fake, 0.0))
    return real, fake


def loss_dcgan_dis(dis_fake: Tensor, dis_real: Tensor) -> tuple[Tensor, Tensor]:
    """(mean softplus(-dis_real), mean softplus(dis_fake)), two 0-d tensors; the caller adds them.

    dis_fake, dis_real: D's logits of generated and of real data, (batch, 1) upstream, any shapes here.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two dtypes or devices.
    """
    return _pair(dis_fake, dis_real, "softplus")


def loss_dcgan_gen(dis_fake: Tensor) -> Tensor:
    """mean softplus(-dis_fake), 0-d. Errors as in `loss_dcgan_dis`."""
    check(dis_fake=dis_fake)
    return adversarial.criterion_loss(dis_fake, 1.0, "softplus")


def loss_hinge_dis(dis_fake: Tensor, dis_real: Tensor) -> tuple[Tensor, Tensor]:
    """(mean relu(1 - dis_real), mean relu(1 + dis_fake)), slope 0 at the knee. Otherwise as `loss_dcgan_dis`."""
    return _pair(dis_fake, dis_real, "hinge")


def loss_hinge_gen(dis_fake: Tensor) -> Tensor:
    """-mean dis_fake, 0-d. Errors as in `loss_dcgan_dis`."""
    check(dis_fake=dis_fake)
    return adversarial.generator_loss(dis_fake, "hinge")


generator_loss = loss_hinge_gen
discriminator_loss = loss_hinge_dis
