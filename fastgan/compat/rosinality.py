"""stylegan2-pytorch (rosinality): the losses of `train.py`.

    the functions of these names in train.py  ->  from fastgan.compat.rosinality import d_logistic_loss, d_r1_loss
                                                  from fastgan.compat.rosinality import g_nonsaturating_loss

(delete the three definitions). `g_path_regularize` is not here: keep upstream's. Values and gradients are upstream's;
half-precision logits give float32 losses (upstream: half).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan import functional
from fastgan.compat._logits import check


def d_logistic_loss(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    """mean softplus(-real_pred) + mean softplus(fake_pred), 0-d, of logits (batch, 1); any shapes here.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two dtypes or devices.
    """
    check(real_pred=real_pred, fake_pred=fake_pred)
    return functional.discriminator_loss(real_pred, fake_pred, "nonsaturating")


def g_nonsaturating_loss(fake_pred: Tensor) -> Tensor:
    """mean softplus(-fake_pred), 0-d. Errors as in `d_logistic_loss`."""
    check(fake_pred=fake_pred)
    return functional.generator_loss(fake_pred, "nonsaturating")


def d_r1_loss(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """Mean over the batch of |d sum(real_pred) / d real_img|^2, 0-d and differentiable: PyTorch's own operators.

    Upstream takes the norm and squares it; here the square root is left out, which is the same number.

    real_img: (batch, ...), with requires_grad, and part of real_pred's graph.

    Raises:
        RuntimeError: from autograd, where real_pred does not depend on real_img.
    """
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()
