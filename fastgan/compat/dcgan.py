"""The DCGAN of pytorch/examples (`dcgan/main.py`), of the PyTorch tutorial and of torchbench: `nn.BCELoss` and a D that
ends in a Sigmoid.

    criterion = fastgan.compat.dcgan.BCELoss()                  # instead of nn.BCELoss(); nothing else changes

Better, since a Sigmoid before a BCELoss loses gradients (in float32 the gradient at a logit of 17 or more is exactly 0
for target 0, where D is most wrong, and the loss jumps from about 16 to 100):

    criterion = fastgan.compat.dcgan.BCEWithLogitsLoss()        # instead of nn.BCELoss(),
                                                                # and take nn.Sigmoid() out of Discriminator.main

Both sides in one launch, if D has no Sigmoid:

    errD = fastgan.discriminator_loss(netD(real), netD(fake.detach()))     # one errD.backward() instead of two

Differences: half-precision inputs give a float32 loss. No gradient goes to the target. On a GPU a probability outside
[0, 1] gives NaN, not an assertion on the device.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.compat._images import expect_known, expect_logits
from fastgan.losses.adversarial import criterion_loss


class _TargetLoss(nn.Module):
    _criterion: str

    def __init__(self, weight: None = None, size_average: None = None, reduce: None = None, reduction: str = "mean"):
        super().__init__()
        for name, value in (("weight", weight), ("size_average", size_average), ("reduce", reduce)):
            if value is not None:
                raise ValueError(f"{name}: got {value!r}, expected None; use `torch.nn` for it, or `reduction`")
        expect_known("reduction", reduction, ("none", "mean", "sum"), ValueError)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.reduction == "mean":
            expect_logits("input", input, lists=False)
        if not isinstance(input, Tensor) or not isinstance(target, Tensor):
            got = f"{type(input).__name__} and {type(target).__name__}"
            raise TypeError(f"input, target: got {got}, expected two of torch.Tensor")
        if target.shape != input.shape:
            raise ValueError(f"target: got shape {tuple(target.shape)}, expected {tuple(input.shape)}, that of input")
        return criterion_loss(input, target, self._criterion, reduction=self.reduction)


class BCELoss(_TargetLoss):
    """`BCELoss()(input, target)`, `torch.nn.BCELoss` of probabilities p:

        -mean (y log p + (1 - y) log(1 - p)),  each logarithm no less than -100

    Args:
        reduction: "mean", "sum" (both fused) or "none". `weight`, `size_average` and `reduce` are in the order of
            `torch.nn.BCELoss`, and are refused.

    input: probabilities, a tensor of any shape. target: labels in [0, 1], of the same shape. The result is 0-d, or for
    "none" of input's shape. Raises TypeError or ValueError for bad arguments.
    """

    _criterion = "cross_entropy"


class BCEWithLogitsLoss(_TargetLoss):
    """`BCEWithLogitsLoss()(input, target)`, `torch.nn.BCEWithLogitsLoss` of logits x:

        mean (softplus(x) - y x)

    Its gradient, (sigmoid(x) - y) / N, does not vanish if D is sure and wrong.

    Args:
        pos_weight: refused, like `weight`, `size_average` and `reduce`.

    Other arguments, result and errors are those of `BCELoss`, for logits instead of probabilities.
    """

    _criterion = "sigmoid_cross_entropy"

    def __init__(
        self,
        weight: None = None,
        size_average: None = None,
        reduce: None = None,
        reduction: str = "mean",
        pos_weight: None = None,
    ):
        super().__init__(weight, size_average, reduce, reduction)
        if pos_weight is not None:
            raise ValueError(f"pos_weight: got {pos_weight!r}, expected None; use `torch.nn` for it")
