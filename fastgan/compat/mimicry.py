"""mimicry (kwotsin): `torch_mimicry/modules/losses.py`.

    from torch_mimicry.modules import losses   ->  from fastgan.compat import mimicry as losses

The generated side comes first, except in `wasserstein_loss_dis`. The minimax losses have torch's default dtype, as
upstream, where the labels decide it: float64 logits give float32 losses. Differences: logits of any shape (upstream's
labels are (batch, 1), so the logits must be too); labels outside [0, 1] are refused; half-precision logits give float32
losses.

Signatures are from commit a7fda06 (August 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.compat._logits import check
from fastgan.losses import adversarial
from fastgan.losses.arguments import check_label, choice

UPSTREAM = {
    "torch_mimicry.modules.losses": (
        *("hinge_loss_dis", "hinge_loss_gen", "minimax_loss_dis", "minimax_loss_gen"),
        *("ns_loss_gen", "wasserstein_loss_dis", "wasserstein_loss_gen"),
    )
}


def minimax_loss_gen(output_fake: Tensor, real_label_val: float = 1.0, **kwargs) -> Tensor:
    """mean bce(output_fake, real_label_val) with bce(x, y) = softplus(x) - y x; 0-d. This is the non-saturating loss.

    output_fake: logits, (batch, 1) upstream.
    kwargs: of `torch.nn.functional.binary_cross_entropy_with_logits`. reduction="sum" is fused too; "none" gives the
        logits' shape. With `weight` or `pos_weight` PyTorch's own operator runs.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; a label outside [0, 1]; a reduction other than
            "mean", "sum" and "none".
    """
    check(output_fake=output_fake)
    _check_options(kwargs, real_label_val=real_label_val)
    if kwargs.keys() - {"reduction"}:
        return _unfused(output_fake, real_label_val, kwargs)
    return adversarial.criterion_loss(output_fake, real_label_val, **kwargs).to(torch.get_default_dtype())


def minimax_loss_dis(
    output_fake: Tensor, output_real: Tensor, real_label_val: float = 1.0, fake_label_val: float = 0.0, **kwargs
) -> Tensor:
    """mean bce(output_real, real_label_val) + mean bce(output_fake, fake_label_val), 0-d; one launch.

    kwargs, errors: as in `minimax_loss_gen`; also ValueError for two dtypes, devices or, with reduction="none", shapes.
    """
    check(output_fake=output_fake, output_real=output_real)
    _check_options(kwargs, real_label_val=real_label_val, fake_label_val=fake_label_val)
    if kwargs.keys() - {"reduction"}:
        return _unfused(output_real, real_label_val, kwargs) + _unfused(output_fake, fake_label_val, kwargs)
    loss = adversarial.discriminator_loss(
        output_real, output_fake, real_label=real_label_val, fake_label=fake_label_val, **kwargs
    )
    return loss.to(torch.get_default_dtype())


def ns_loss_gen(output_fake: Tensor) -> Tensor:
    """-mean log(sigmoid(output_fake) + 1e-8), 0-d, with upstream's epsilon.

    The epsilon limits the loss to 18.4, and the gradient vanishes if D is sure: at a logit of -20 the slope is -0.17,
    at -25 it is -0.0014 (that of softplus(-x) is -1). `minimax_loss_gen` is the loss without it. The epsilon also has
    an effect on half-precision logits (in upstream's float16 it rounds to 0). Errors as in `minimax_loss_gen`.
    """
    check(output_fake=output_fake)
    return adversarial.criterion_loss(output_fake, 1.0, "log_sigmoid_with_eps")


def wasserstein_loss_dis(output_real: Tensor, output_fake: Tensor) -> Tensor:
    """mean output_fake - mean output_real, 0-d. The real side is first only here. Errors: `minimax_loss_dis`."""
    check(output_real=output_real, output_fake=output_fake)
    return adversarial.discriminator_loss(output_real, output_fake, "wasserstein")


def wasserstein_loss_gen(output_fake: Tensor) -> Tensor:
    """-mean output_fake, 0-d. Errors as in `minimax_loss_gen`."""
    check(output_fake=output_fake)
    return adversarial.generator_loss(output_fake, "wasserstein")


def hinge_loss_dis(output_fake: Tensor, output_real: Tensor) -> Tensor:
    """mean relu(1 - output_real) + mean relu(1 + output_fake), 0-d; slope 0 at the knee. Errors: `minimax_loss_dis`."""
    check(output_fake=output_fake, output_real=output_real)
    return adversarial.discriminator_loss(output_real, output_fake, "hinge")


def hinge_loss_gen(output_fake: Tensor) -> Tensor:
    """-mean output_fake, 0-d. Errors as in `minimax_loss_gen`."""
    check(output_fake=output_fake)
    return adversarial.generator_loss(output_fake, "hinge")


def _check_options(kwargs: dict, **labels) -> None:
    for name, label in labels.items():
        check_label(name, label, "sigmoid_cross_entropy")
    choice("reduction", kwargs.get("reduction", "mean"), ("mean", "sum", "none"))


def _unfused(logits: Tensor, label: float, kwargs: dict) -> Tensor:
    labels = torch.full_like(logits, label, dtype=torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(logits, labels, **kwargs).to(torch.get_default_dtype())
