"""taming-transformers, and projects that copied its losses: latent-diffusion, Stable Diffusion, diffusers' autoencoder
example, LlamaGen, Open-MAGVIT2, Open-Sora-Plan.

Where the losses are imported:

    from taming.modules.losses.vqperceptual import *             # before (ldm/modules/losses/contperceptual.py)
    from fastgan.compat.taming import *                          # added below it: the later import wins

Where they are defined (taming/modules/losses/vqperceptual.py, LlamaGen's vq_loss.py, Open-Sora-Plan's losses), add
below the definitions, with the names that file has:

    from fastgan.compat.taming import hinge_d_loss, vanilla_d_loss

`-torch.mean(logits_fake)`, which these projects write inline, is `hinge_gen_loss`. The adaptive weight (two
`autograd.grad(..., retain_graph=True)` to the last layer) needs no change: the losses allow several backward passes.

Differences: LlamaGen's `non_saturating_*` pass logits and labels to the cross-entropy in the wrong order (its issue
#84: D's gradient for real data is constant and there is none for generated data); here the order is right, so training
with them changes. `hinge_d_loss_with_exemplar_weights` also accepts video logits, and its weights are constants.
`LeCAM_EMA` keeps 0-d tensors, not numbers from `.item()`. float16 and bfloat16 logits give float32 losses.

Signatures are from taming-transformers 3ba01b2 (November 2022) and LlamaGen ce98ec4 (June 2024).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from fastgan.losses import adversarial, assemble
from fastgan.losses.arguments import check_logits

__all__ = [
    "LeCAM_EMA",
    "adopt_weight",
    "hinge_d_loss",
    "hinge_d_loss_with_exemplar_weights",
    "hinge_gen_loss",
    "lecam_reg",
    "non_saturate_discriminator_loss",
    "non_saturate_gen_loss",
    "non_saturating_d_loss",
    "non_saturating_gen_loss",
    "vanilla_d_loss",
]
UPSTREAM = {
    "taming.modules.losses.vqperceptual": ("adopt_weight", "hinge_d_loss", "vanilla_d_loss"),
    "tokenizer.tokenizer_image.vq_loss": (
        *("adopt_weight", "hinge_d_loss", "hinge_gen_loss", "non_saturating_d_loss", "non_saturating_gen_loss"),
        "vanilla_d_loss",
    ),
}

_Weight = TypeVar("_Weight")


def adopt_weight(
    weight: _Weight, global_step: int, threshold: int = 0, value: _Weight | float = 0.0
) -> _Weight | float:
    """`value` before step `threshold`, `weight` from there on."""
    return value if global_step < threshold else weight


def hinge_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """1/2 (mean relu(1 - r) + mean relu(1 + f)), 0-d; one launch.

    Args:
        logits_real, logits_fake: r and f, floating tensors of any shapes, such as (B, 1, 30, 30), of one dtype and
            device; else TypeError or ValueError.
    """
    return _d_loss(logits_real, logits_fake, "hinge")


def vanilla_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """1/2 (mean softplus(-r) + mean softplus(f)). Arguments, result and errors are those of `hinge_d_loss`."""
    return _d_loss(logits_real, logits_fake, "softplus")


def non_saturating_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """1/2 (mean bce(r, 1) + mean bce(f, 0)), which is `vanilla_d_loss`: LlamaGen's with its arguments in the right
    order. Arguments, result and errors are those of `hinge_d_loss`."""
    return _d_loss(logits_real, logits_fake, "sigmoid_cross_entropy")


def hinge_gen_loss(logit_fake: Tensor) -> Tensor:
    """-mean f, 0-d; one launch. TypeError or ValueError if f is not a dense tensor of a floating dtype."""
    return adversarial.generator_loss(logit_fake, "hinge")


def non_saturating_gen_loss(logit_fake: Tensor) -> Tensor:
    """mean bce(f, 1) = mean softplus(-f): LlamaGen's with its arguments in the right order. Result and errors are those
    of `hinge_gen_loss`."""
    return adversarial.generator_loss(logit_fake, "nonsaturating")


def non_saturate_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """mean_b softplus(-mean r_b) + mean_b softplus(mean f_b), not halved: Open-MAGVIT2's, of each image's mean logit.

    logits_real, logits_fake: (B, ...), (B, 1, H, W) upstream. Result and errors are those of `hinge_d_loss`. The means
    are PyTorch's own operators; the rest is one launch."""
    return adversarial.discriminator_loss(logits_real, logits_fake, "minimax", patch_mean=True)


def non_saturate_gen_loss(logits_fake: Tensor) -> Tensor:
    """mean_b softplus(-mean f_b): Open-MAGVIT2's, of each image's mean logit. Result and errors are those of
    `hinge_gen_loss`."""
    return adversarial.generator_loss(logits_fake, "nonsaturating", patch_mean=True)


def hinge_d_loss_with_exemplar_weights(logits_real: Tensor, logits_fake: Tensor, weights: Tensor) -> Tensor:
    """1/2 ( sum_b w_b mean relu(1 - r_b) + sum_b w_b mean relu(1 + f_b) ) / sum_b w_b, 0-d.

    Args:
        logits_real, logits_fake: (B, ...), of any number of dimensions: upstream's mean over dimensions 1 to 3 is right
            only for (B, 1, H, W), and mixes samples and columns for video, (B, 1, T, H, W).
        weights: (B,), one for each sample, used for real and for generated data. They get no gradient.

    Raises:
        TypeError, ValueError: `weights` is not a tensor, or not (B,); others as in `hinge_d_loss`.
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights: got {type(weights).__name__}, expected a torch.Tensor")
    check_logits(("logits_real", (logits_real,)), ("logits_fake", (logits_fake,)))
    for name, x in (("logits_real", logits_real), ("logits_fake", logits_fake)):
        if tuple(weights.shape) != tuple(x.shape[:1]):
            got, wanted = tuple(weights.shape), tuple(x.shape[:1])
            raise ValueError(f"weights: got shape {got}, expected {wanted}, a weight for each sample of {name}")
    real, fake = (weights.reshape(-1, *[1] * (x.dim() - 1)) for x in (logits_real, logits_fake))
    return adversarial.discriminator_loss(
        logits_real, logits_fake, "hinge", weight=0.5, real_weights=real, fake_weights=fake
    )


class LeCAM_EMA:
    """Moving averages of the mean logits, for `lecam_reg`; Open-MAGVIT2's.

        logits_real_ema <- decay logits_real_ema + (1 - decay) mean r,   logits_fake_ema likewise

    Numbers until the first `update`, then 0-d tensors on the logits' device, float32 (float64 for float64 logits),
    which are never read on the host.
    """

    def __init__(self, init: float = 0.0, decay: float = 0.999):
        self.logits_real_ema: float | Tensor = init
        self.logits_fake_ema: float | Tensor = init
        self.decay = decay

    @torch.no_grad()
    def update(self, logits_real: Tensor, logits_fake: Tensor) -> None:
        """Move both averages towards the mean logits of real and of generated data."""
        self.logits_real_ema = self._moved(self.logits_real_ema, logits_real)
        self.logits_fake_ema = self._moved(self.logits_fake_ema, logits_fake)

    def _moved(self, average: float | Tensor, logits: Tensor) -> Tensor:
        mean = logits.mean(dtype=torch.promote_types(logits.dtype, torch.float32))
        return mean * (1.0 - self.decay) + average * self.decay


def lecam_reg(real_pred: Tensor, fake_pred: Tensor, lecam_ema: LeCAM_EMA) -> Tensor:
    """mean relu(r - logits_fake_ema)^2 + mean relu(logits_real_ema - f)^2 (Tseng et al. 2021, eq. 5), 0-d; one launch.

    Args:
        real_pred, fake_pred: r and f. TypeError or ValueError as in `hinge_d_loss`.
        lecam_ema: a `LeCAM_EMA`, or any object with its two averages, as numbers or 0-d tensors.
    """
    return adversarial.lecam_regularizer(real_pred, fake_pred, lecam_ema.logits_real_ema, lecam_ema.logits_fake_ema)


def _d_loss(logits_real: Tensor, logits_fake: Tensor, criterion: str) -> Tensor:
    sides = [("logits_real", logits_real, 1.0), ("logits_fake", logits_fake, 0.0)]
    return adversarial.loss_of(assemble.terms_of_sides(sides, criterion, 0.5))
