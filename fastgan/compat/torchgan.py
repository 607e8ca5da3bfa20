"""torchgan: the minimax, least squares and Wasserstein losses, as functions and as modules.

    from fastgan.compat.torchgan import minimax_generator_loss  # instead of: from torchgan.losses.functional import ...
    from fastgan.compat.torchgan import MinimaxGeneratorLoss    # instead of: from torchgan.losses import ...

The modules have only `forward`, not `train_ops`, which runs torchgan's training steps. To use these losses in its
Trainer, replace the functions in torchgan's modules:

    import torchgan.losses.minimax
    torchgan.losses.minimax.minimax_discriminator_loss = fastgan.compat.torchgan.minimax_discriminator_loss

Signatures are from commit fe86d7c (September 2020). A reduction of None is "none", for least squares and Wasserstein,
as upstream. Differences: half-precision logits give a float32 loss, and the two sides may differ in shape if the loss
is reduced (upstream's minimax loss swaps the shapes of its labels and fails).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastgan.compat._images import expect_known, expect_logits
from fastgan.losses.adversarial import discriminator_loss, generator_loss

UPSTREAM = {
    "torchgan.losses.functional": (
        *("least_squares_discriminator_loss", "least_squares_generator_loss", "minimax_discriminator_loss"),
        *("minimax_generator_loss", "wasserstein_discriminator_loss", "wasserstein_generator_loss"),
    )
}


def minimax_generator_loss(dgz: Tensor, nonsaturating: bool = True, reduction: str = "mean") -> Tensor:
    """mean softplus(-f), or, saturating, -mean softplus(f), at D's logits f of generated data.

    Args:
        dgz: f, a tensor of any shape.
        reduction: "mean", "sum" or "none"; the first two are fused and give a 0-d tensor, the last f's shape.

    Raises TypeError or ValueError for bad arguments.
    """
    _check(reduction, dgz=dgz)
    return generator_loss(dgz, "nonsaturating" if nonsaturating else "minimax", reduction=reduction)


def minimax_discriminator_loss(
    dx: Tensor, dgz: Tensor, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """mean bce(r, 1 - label_smoothing) + mean bce(f, 0),  bce(x, y) = softplus(x) - y x.

    Args:
        dx, dgz: D's logits r of real and f of generated data, tensors; of one shape for "none".
        label_smoothing: in [0, 1], subtracted from the real label only.

    Reduction, result and errors are those of `minimax_generator_loss`.
    """
    _check(reduction, dx=dx, dgz=dgz)
    return discriminator_loss(dx, dgz, "minimax", real_label=1.0 - label_smoothing, reduction=reduction)


def least_squares_generator_loss(dgz: Tensor, c: float = 1.0, reduction: str | None = "mean") -> Tensor:
    """1/2 mean (f - c)^2. Other arguments, result and errors: as in `minimax_generator_loss`."""
    reduction = reduction or "none"
    _check(reduction, dgz=dgz)
    return generator_loss(dgz, "least_squares", weight=0.5, real_label=c, reduction=reduction)


def least_squares_discriminator_loss(
    dx: Tensor, dgz: Tensor, a: float = 0.0, b: float = 1.0, reduction: str | None = "mean"
) -> Tensor:
    """1/2 (mean (r - b)^2 + mean (f - a)^2). Other arguments, result and errors: `minimax_discriminator_loss`."""
    reduction = reduction or "none"
    _check(reduction, dx=dx, dgz=dgz)
    return discriminator_loss(dx, dgz, "least_squares", weight=0.5, real_label=b, fake_label=a, reduction=reduction)


def wasserstein_generator_loss(fgz: Tensor, reduction: str | None = "mean") -> Tensor:
    """-mean f. Arguments, result and errors: as in `minimax_generator_loss`."""
    reduction = reduction or "none"
    _check(reduction, fgz=fgz)
    return generator_loss(fgz, "wasserstein", reduction=reduction)


def wasserstein_discriminator_loss(fx: Tensor, fgz: Tensor, reduction: str | None = "mean") -> Tensor:
    """mean f - mean r. Arguments, result and errors: as in `minimax_discriminator_loss`."""
    reduction = reduction or "none"
    _check(reduction, fx=fx, fgz=fgz)
    return discriminator_loss(fx, fgz, "wasserstein", reduction=reduction)


class _Loss(nn.Module):
    """`override_train_ops` is kept as an attribute and not called."""

    reduction: Any

    def __init__(self, reduction: str | None = "mean", override_train_ops=None):
        super().__init__()
        expect_known("reduction", reduction, ("none", "mean", "sum", None), ValueError)
        self.reduction, self.override_train_ops = reduction, override_train_ops


class MinimaxGeneratorLoss(_Loss):
    """`minimax_generator_loss` with fixed settings."""

    def __init__(self, reduction: str = "mean", nonsaturating: bool = True, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.nonsaturating = nonsaturating

    def forward(self, dgz: Tensor) -> Tensor:
        return minimax_generator_loss(dgz, self.nonsaturating, self.reduction)


class MinimaxDiscriminatorLoss(_Loss):
    """`minimax_discriminator_loss` with fixed settings."""

    def __init__(self, label_smoothing: float = 0.0, reduction: str = "mean", override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.label_smoothing = label_smoothing

    def forward(self, dx: Tensor, dgz: Tensor) -> Tensor:
        return minimax_discriminator_loss(dx, dgz, self.label_smoothing, self.reduction)


class LeastSquaresGeneratorLoss(_Loss):
    """`least_squares_generator_loss` with fixed settings."""

    def __init__(self, reduction: str = "mean", c: float = 1.0, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.c = c

    def forward(self, dgz: Tensor) -> Tensor:
        return least_squares_generator_loss(dgz, self.c, self.reduction)


class LeastSquaresDiscriminatorLoss(_Loss):
    """`least_squares_discriminator_loss` with fixed settings."""

    def __init__(self, reduction: str = "mean", a: float = 0.0, b: float = 1.0, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.a, self.b = a, b

    def forward(self, dx: Tensor, dgz: Tensor) -> Tensor:
        return least_squares_discriminator_loss(dx, dgz, self.a, self.b, self.reduction)


class WassersteinGeneratorLoss(_Loss):
    """`wasserstein_generator_loss` with fixed settings."""

    def forward(self, fgz: Tensor) -> Tensor:
        return wasserstein_generator_loss(fgz, self.reduction)


class WassersteinDiscriminatorLoss(_Loss):
    """`wasserstein_discriminator_loss` with fixed settings. `clip`, a pair or None, is only stored: torchgan's
    `train_ops` clamps D's parameters."""

    def __init__(self, reduction: str = "mean", clip: tuple[float, float] | None = None, override_train_ops=None):
        super().__init__(reduction, override_train_ops)
        self.clip = clip if isinstance(clip, (tuple, list)) and len(clip) > 1 else None

    def forward(self, fx: Tensor, fgz: Tensor) -> Tensor:
        return wasserstein_discriminator_loss(fx, fgz, self.reduction)


def _check(reduction: str, **logits) -> None:
    expect_known("reduction", reduction, ("none", "mean", "sum"), ValueError)
    if reduction == "mean":
        for name, x in logits.items():
            expect_logits(name, x, lists=False)
