"""PyTorch-StudioGAN (POSTECH-CVLab): `src/utils/losses.py`, and `LeCamEMA` of `src/utils/ops.py`.

In `src/config.py`, after `from fastgan.compat import studiogan`, in the two dictionaries of losses:

    losses.d_hinge, losses.g_hinge, ...        ->  studiogan.d_hinge, studiogan.g_hinge, ...

In `src/worker.py`, for LeCam:

    losses.lecam_reg(...)                      ->  studiogan.lecam_reg(...)
    ops.LeCamEMA()                             ->  studiogan.LeCamEMA()
    self.lecam_ema.update(torch.mean(x).item(), name, step)  ->  the same without .item()

The multi-hinge loss (`crammer_singer_loss`: a maximum over classes) is not here; keep upstream's.

Signatures are from commit 947b35e (August 2023). Differences: `DDP`, which upstream never reads, may be left out, as in
its earlier versions; the two sides may have different sizes; half-precision logits give float32 losses (upstream:
half). The `d_vanilla` of those earlier versions took log sigmoid(1 - f) for the generated side, which was wrong and is
not reproduced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.compat._logits import check, softplus_of_both
from fastgan.losses import adversarial

UPSTREAM = {
    "utils.losses": (
        *("d_hinge", "d_logistic", "d_ls", "d_vanilla", "d_wasserstein", "lecam_reg"),
        *("g_hinge", "g_logistic", "g_ls", "g_vanilla", "g_wasserstein"),
    ),
    "utils.ops": ("LeCamEMA",),
}

_QUANTITIES = ("G_loss", "D_loss_real", "D_loss_fake", "D_real", "D_fake")


def _discriminator(d_logit_real: Tensor, d_logit_fake: Tensor, objective: str, weight: float = 1.0) -> Tensor:
    check(d_logit_real=d_logit_real, d_logit_fake=d_logit_fake)
    return adversarial.discriminator_loss(d_logit_real, d_logit_fake, objective, weight=weight)


def _generator(d_logit_fake: Tensor, objective: str, weight: float = 1.0) -> Tensor:
    check(d_logit_fake=d_logit_fake)
    return adversarial.generator_loss(d_logit_fake, objective, weight=weight)


def d_vanilla(d_logit_real: Tensor, d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean softplus(-r) + mean softplus(f), 0-d. Logits are (batch,) upstream, any shapes here.

    Raises:
        TypeError, ValueError: not a floating tensor; an empty one; two dtypes or devices.
    """
    check(d_logit_real=d_logit_real, d_logit_fake=d_logit_fake)
    return softplus_of_both(d_logit_real, d_logit_fake)


def g_vanilla(d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean softplus(-f), 0-d. Errors as in `d_vanilla`."""
    check(d_logit_fake=d_logit_fake)
    return adversarial.criterion_loss(d_logit_fake, 1.0, "softplus")


def d_logistic(d_logit_real: Tensor, d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean (softplus(-r) + softplus(f)), 0-d: the same number as `d_vanilla`."""
    check(d_logit_real=d_logit_real, d_logit_fake=d_logit_fake)
    return softplus_of_both(d_logit_real, d_logit_fake)


def g_logistic(d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean softplus(-f), 0-d: the same number as `g_vanilla`."""
    check(d_logit_fake=d_logit_fake)
    return adversarial.criterion_loss(d_logit_fake, 1.0, "softplus")


def d_ls(d_logit_real: Tensor, d_logit_fake: Tensor, DDP=None) -> Tensor:
    """(mean (r - 1)^2 + mean f^2) / 2, 0-d. Errors as in `d_vanilla`."""
    return _discriminator(d_logit_real, d_logit_fake, "least_squares", 0.5)


def g_ls(d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean (f - 1)^2 / 2, 0-d. Errors as in `d_vanilla`."""
    return _generator(d_logit_fake, "least_squares", 0.5)


def d_hinge(d_logit_real: Tensor, d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean relu(1 - r) + mean relu(1 + f), 0-d; slope 0 at the knee. Errors as in `d_vanilla`."""
    return _discriminator(d_logit_real, d_logit_fake, "hinge")


def g_hinge(d_logit_fake: Tensor, DDP=None) -> Tensor:
    """-mean f, 0-d. Errors as in `d_vanilla`."""
    return _generator(d_logit_fake, "hinge")


def d_wasserstein(d_logit_real: Tensor, d_logit_fake: Tensor, DDP=None) -> Tensor:
    """mean f - mean r, 0-d. Errors as in `d_vanilla`."""
    return _discriminator(d_logit_real, d_logit_fake, "wasserstein")


def g_wasserstein(d_logit_fake: Tensor, DDP=None) -> Tensor:
    """-mean f, 0-d. Errors as in `d_vanilla`."""
    return _generator(d_logit_fake, "wasserstein")


def lecam_reg(d_logit_real: Tensor, d_logit_fake: Tensor, ema: LeCamEMA) -> Tensor:
    """mean relu(r - ema.D_fake)^2 + mean relu(ema.D_real - f)^2, 0-d.

    ema: anything with the attributes D_real and D_fake: 0-d tensors on the logits' device, or numbers. No gradient
    reaches them. Errors as in `d_vanilla`.
    """
    check(d_logit_real=d_logit_real, d_logit_fake=d_logit_fake)
    return adversarial.lecam_regularizer(d_logit_real, d_logit_fake, ema.D_real, ema.D_fake)


class LeCamEMA:
    """Moving averages a <- decay a + (1 - decay) cur of five quantities, by name; all of them `init` at first.

    As upstream, its state is its `__dict__`, which the training loop saves and restores. Unlike upstream it accepts 0-d
    tensors as well as numbers; tensors stay on the device, without `.item()`.
    """

    def __init__(self, init: float = 7777, decay: float = 0.9, start_iter: int = 0):
        self.G_loss = self.D_loss_real = self.D_loss_fake = self.D_real = self.D_fake = init
        self.decay = decay
        self.start_itr = start_iter

    def update(self, cur: Tensor | float, mode: str, itr: int) -> None:
        """Average `cur` into the quantity `mode`: "G_loss", "D_loss_real", "D_loss_fake", "D_real" or "D_fake".

        Before iteration `start_itr` the quantity becomes `cur` itself. `cur` is detached; half precision is averaged in
        float32.

        Raises:
            ValueError: another `mode` (upstream ignores it), or a tensor of several elements.
        """
        if mode not in _QUANTITIES:
            raise ValueError(f"mode: got {mode!r}, expected {' or '.join(map(repr, _QUANTITIES))}")
        if isinstance(cur, Tensor):
            if cur.numel() != 1:
                raise ValueError(f"cur: got a tensor of shape {tuple(cur.shape)}, expected a number or one element")
            cur = cur.detach().reshape(()).to(torch.promote_types(cur.dtype, torch.float32))
        decay = 0.0 if itr < self.start_itr else self.decay
        setattr(self, mode, getattr(self, mode) * decay + cur * (1 - decay))
