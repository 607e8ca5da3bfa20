"""stylegan2-pytorch (rosinality): the losses of `train.py`.

    the functions of these names in train.py  ->  from fastgan.compat.rosinality import d_logistic_loss, d_r1_loss
                                                  from fastgan.compat.rosinality import g_nonsaturating_loss
                                                  from fastgan.compat.rosinality import g_path_regularize

(delete the four definitions). Signatures are from commit bef283a (November 2021). Values and gradients are upstream's;
half-precision logits give float32 losses (upstream: half).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.compat._logits import check, softplus_of_both
from fastgan.losses import adversarial, penalties

UPSTREAM = {"train": ("d_logistic_loss", "d_r1_loss", "g_nonsaturating_loss", "g_path_regularize")}


def d_logistic_loss(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    """mean softplus(-real_pred) + mean softplus(fake_pred), 0-d. Logits are (batch, 1) upstream, any shapes here.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two dtypes or devices.
    """
    check(real_pred=real_pred, fake_pred=fake_pred)
    return softplus_of_both(real_pred, fake_pred)


def g_nonsaturating_loss(fake_pred: Tensor) -> Tensor:
    """mean softplus(-fake_pred), 0-d. Errors as in `d_logistic_loss`."""
    check(fake_pred=fake_pred)
    return adversarial.criterion_loss(fake_pred, 1.0, "softplus")


def d_r1_loss(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """Mean over the batch of |d sum(real_pred) / d real_img|^2, 0-d and differentiable: PyTorch's own operators.

    Upstream squares a norm; without the square root the number is the same.

    real_img: (batch, ...), with requires_grad, and part of real_pred's graph.

    Raises:
        RuntimeError: from autograd, if real_pred does not depend on real_img.
    """
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: Tensor | float, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean_i (l_i - a)^2, a, l): path length regularisation of G, `fastgan.path_length_penalty` with a weight of 1.

    fake_img: (batch, C, H, W), made of latents. latents: (batch, layers, D), with requires_grad. mean_path_length: a of
    the previous step, 0 at first; the new one is detached. The same seed gives upstream's noise. `l` is detached here:
    upstream only logs it.

    Raises:
        TypeError, ValueError: see `fastgan.path_length_penalty`.
    """
    loss, mean, lengths = penalties.path_length_penalty(fake_img, latents, mean_path_length, 1.0, decay)
    return loss, mean, lengths
