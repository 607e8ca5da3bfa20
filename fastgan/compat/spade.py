"""NVlabs/SPADE.

In train.py, after its imports; the model gets its loss from `models.networks`:

    import models.networks, fastgan.compat.spade
    models.networks.GANLoss = fastgan.compat.spade.GANLoss

One launch computes all scales. To compute both sides in it too, without slicing the batch and zero-filling its
gradient, let `discriminate` return `discriminator_out` before `divide_pred`, and in `compute_discriminator_loss`:

    D_losses["D"] = fastgan.compat.spade.discriminator_loss(discriminator_out, self.opt.gan_mode)
    # instead of "D_Fake" and "D_real", whose sum this is; the trainer sums all entries

The feature matching is a loop in `compute_generator_loss` of models/pix2pix_model.py; one call replaces the loop, with
one launch for all maps:

    G_losses["GAN_Feat"] = fastgan.compat.spade.feature_matching_loss(pred_fake, pred_real, self.opt.lambda_feat)

`original` gives float32 losses even for float64 logits, as upstream, where float32 labels decide it.

Difference: half-precision logits give a float32 loss.

Signatures are from commit fecacc9 (September 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.compat._images import expect_known, expect_logits
from fastgan.compat._logits import Refused
from fastgan.losses import adversarial, assemble, feature_matching
from fastgan.losses.adversarial import criterion_loss
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps

UPSTREAM = {"models.networks.loss": ("GANLoss",)}

_OBJECTIVES = {"ls": "least_squares", "original": "minimax", "w": "wasserstein", "hinge": "hinge"}
_CRITERIA = {
    "ls": "least_squares",
    "original": "sigmoid_cross_entropy",
    "w": "wasserstein",
    "hinge": "hinge_min",  # -min(x - 1, 0): half the slope at the knee
}


class GANLoss(nn.Module):
    """`GANLoss(gan_mode)(input, target_is_real, for_discriminator=True)`. y is the label for `target_is_real`:

        ls:         mean (x - y)^2
        original:   mean softplus(x) - y x,  `binary_cross_entropy_with_logits`
        w:          -mean x for real, mean x for generated
        hinge:      D: mean max(1 - x, 0) for real, mean max(1 + x, 0) for generated;  G: -mean x

    and the mean over the scales. The hinge's slope at its knee is 1/2.

    Args:
        target_real_label, target_fake_label: y of each side.
        tensor, opt: not used; labels have the logits' dtype and device.

    input: a tensor, a list of tensors, or a list of lists of features whose last tensors are the logits. The result is
    0-d for a tensor and of shape (1,) for a list. Raises ValueError for another mode, and for a generator's hinge loss
    with target_is_real=False; the latter is also an AssertionError, as upstream.
    """

    def __init__(
        self,
        gan_mode: str,
        target_real_label: float = 1.0,
        target_fake_label: float = 0.0,
        tensor=torch.FloatTensor,
        opt=None,
    ):
        super().__init__()
        expect_known("gan_mode", gan_mode, _CRITERIA, ValueError)
        self.real_label, self.fake_label = target_real_label, target_fake_label
        self.Tensor, self.gan_mode, self.opt = tensor, gan_mode, opt

    def get_target_tensor(self, input: Tensor, target_is_real: bool) -> Tensor:
        """The label in the shape, dtype and device of `input`. The loss does not use it."""
        return input.new_full((1,), self.real_label if target_is_real else self.fake_label).expand_as(input)

    def get_zero_tensor(self, input: Tensor) -> Tensor:
        """Zeros in the shape of `input`. The loss does not use them."""
        return input.new_zeros(1).expand_as(input)

    def loss(self, input: Logits, target_is_real: bool, for_discriminator: bool = True) -> Tensor:
        """As `forward`, but always 0-d."""
        expect_logits("input", input)
        criterion = _CRITERIA[self.gan_mode]
        if self.gan_mode in ("ls", "original"):
            label = self.real_label if target_is_real else self.fake_label
        else:
            label = 1.0 if target_is_real else 0.0
        if self.gan_mode == "hinge" and not for_discriminator:
            if not target_is_real:
                raise Refused("target_is_real: got False, expected True: the generator's hinge loss aims for real")
            criterion = "wasserstein"
        loss = criterion_loss(input, label, criterion, reduce_discriminators="mean")
        return loss.float() if self.gan_mode == "original" else loss

    def forward(self, input: Logits, target_is_real: bool, for_discriminator: bool = True) -> Tensor:
        loss = self.loss(input, target_is_real, for_discriminator)
        return loss if isinstance(input, Tensor) else loss.reshape(1)


def discriminator_loss(
    pred: Logits, gan_mode: str = "hinge", target_real_label: float = 1.0, target_fake_label: float = 0.0
) -> Tensor:
    """Not in SPADE: D's loss for both sides, from D's output for the concatenated batch, generated half first.

        criterion(fake_half, False) + criterion(real_half, True)        criterion = GANLoss(gan_mode, ...)

    Args:
        pred: D's output before `divide_pred`: logits of 2 B rows, a list of them, or a list of lists of features.

    Result and errors are those of `GANLoss`; also ValueError for an odd number of rows.
    """
    expect_known("gan_mode", gan_mode, _CRITERIA, ValueError)
    expect_logits("pred", pred)
    real, fake = (target_real_label, target_fake_label) if gan_mode in ("ls", "original") else (None, None)
    terms, listed = assemble.concatenated_terms(pred, _OBJECTIVES[gan_mode], True, None, 1.0, real, fake, "mean")
    loss = adversarial.loss_of(terms.having(criterion=_CRITERIA[gan_mode]))
    loss = loss.float() if gan_mode == "original" else loss
    return loss.reshape(1) if listed else loss


def feature_matching_loss(pred_fake: Maps, pred_real: Maps, lambda_feat: float = 10.0) -> Tensor:
    """SPADE's feature matching, for which it has no function; the name is ours:

        lambda_feat / num_D * sum_k mean |fake_k - real_k|

    over all maps k but the last of each list, which is D's output. No gradient through the real maps. One launch for
    every 64 maps.

    Args:
        pred_fake, pred_real: the two halves of `divide_pred`, num_D lists of maps, pairs of one shape.
        lambda_feat: the option of this name, and its default.

    Returns:
        Shape (1,), as upstream's.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, pairs of two shapes, lists of different
            lengths, no maps but the last. Messages say `fake_maps` and `real_maps`, with an index over all maps.
    """
    return feature_matching.feature_matching_loss(
        pred_fake, pred_real, lambda_feat, exclude_last=True, reduce_discriminators="mean"
    ).reshape(1)
