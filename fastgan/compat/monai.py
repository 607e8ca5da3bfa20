"""MONAI (Project-MONAI/MONAI): `PatchAdversarialLoss`, of 2-D and 3-D patch discriminators.

    from fastgan.compat.monai import PatchAdversarialLoss      # instead of: from monai.losses import ...

One launch computes all discriminators, with the activation inside it, and no label is copied to the device. Differences
from d388d1c6f (June 2025): half-precision logits give a float32 loss. "bce" is computed from the logits (upstream's
gradient is 0 once the sigmoid has rounded to 0 or 1). A criterion in capitals works (upstream accepts it, then fails).
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from fastgan.compat._images import expect_known, expect_logits
from fastgan.losses import separate
from fastgan.losses.adversarial import criterion_loss

UPSTREAM = {"monai.losses.adversarial_loss": ("PatchAdversarialLoss",)}

_CRITERIA = {"bce": "sigmoid_cross_entropy", "hinge": "tanh_hinge", "least_squares": "leaky_least_squares"}


class PatchAdversarialLoss(nn.Module):
    """`PatchAdversarialLoss()(input, target_is_real, for_discriminator)`. y is 1 for real and 0 for generated:

        least_squares:   mean (leaky_relu(x, 0.05) - y)^2;  no_activation_leastsq=True: mean (x - y)^2
        bce:             mean softplus(x) - y x
        hinge:           mean (1 - tanh x) for real, mean (1 + tanh x) for generated; for the generator as well

    Args:
        reduction: "mean" over logits and discriminators; "sum" over both; "none", a list with each discriminator's loss
            of every logit (PyTorch's operators, not fused). The hinge is always averaged over a discriminator's logits,
            as upstream: "sum" adds these means and "none" lists them.
        criterion: one of these three.

    input: D's logits before any activation, a tensor or a list of them. The result is 0-d, or a list for "none". With
    `for_discriminator=False` the target is always real, and `target_is_real=False` gives a warning. The labels are the
    attributes `real_label` and `fake_label`; the hinge does not use them.

    Raises ValueError for another reduction or criterion, and TypeError or ValueError for other bad arguments.
    """

    def __init__(self, reduction: str = "mean", criterion: str = "least_squares", no_activation_leastsq: bool = False):
        super().__init__()
        reduction = getattr(reduction, "value", reduction)  # of MONAI's enumerations
        criterion = str(getattr(criterion, "value", criterion)).lower()
        expect_known("reduction", reduction, ("none", "mean", "sum"), ValueError)
        expect_known("criterion", criterion, _CRITERIA, ValueError)
        self.reduction, self.criterion = reduction, criterion
        self.real_label, self.fake_label = 1.0, -1.0 if criterion == "hinge" else 0.0
        self._criterion = _CRITERIA[criterion]
        if criterion == "least_squares" and no_activation_leastsq:
            self._criterion = "least_squares"
        # For code that reads these attributes: upstream's modules. Not used here.
        activations = {"bce": nn.Sigmoid(), "hinge": nn.Tanh(), "leaky": nn.LeakyReLU(0.05)}
        self.activation = activations.get("leaky" if self._criterion == "leaky_least_squares" else criterion)
        if criterion != "hinge":
            self.loss_fct = (nn.BCELoss if criterion == "bce" else nn.MSELoss)(reduction=reduction)

    def get_target_tensor(self, input: Tensor, target_is_real: bool) -> Tensor:
        """The label in the shape, dtype and device of `input`. The loss does not use it."""
        return input.new_full((), self.real_label if target_is_real else self.fake_label).expand_as(input)

    def get_zero_tensor(self, input: Tensor) -> Tensor:
        """Zeros in the shape of `input`. The loss does not use them."""
        return input.new_zeros(()).expand_as(input)

    def forward(
        self, input: Tensor | list[Tensor], target_is_real: bool, for_discriminator: bool
    ) -> Tensor | list[Tensor]:
        expect_logits("input", input)
        if not for_discriminator and not target_is_real:
            warnings.warn(
                "target_is_real: got False with for_discriminator=False; True is used, the generator's only target",
                stacklevel=2,
            )
            target_is_real = True
        criterion = self._criterion
        if self.criterion == "hinge":
            label = 1.0 if target_is_real else 0.0
            if self.reduction == "none":
                return separate.each_loss(criterion, ("input", input, label))
            reduction = "mean"
        else:
            label = self.real_label if target_is_real else self.fake_label
            if self.criterion == "bce" and label in (0.0, 1.0):
                criterion = "softplus"  # equal, and 0 if an infinite logit is correct
            if self.reduction == "none":
                listed = [input] if isinstance(input, Tensor) else input
                return [criterion_loss(x, label, criterion, reduction="none") for x in listed]
            reduction = self.reduction
        return criterion_loss(input, label, criterion, reduction=reduction, reduce_discriminators=self.reduction)
