"""NVIDIA/pix2pixHD.

In train.py, after its imports; the model asks `models.networks` for its loss:

    import models.networks, fastgan.compat.pix2pixhd
    models.networks.GANLoss = fastgan.compat.pix2pixhd.GANLoss

All scales take one launch. Differences: half-precision logits give a float32 loss. A bare tensor is taken whole, where
upstream takes its last sample. Label tensors are not kept: upstream's, kept by number of elements, can have another
shape than the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.compat._images import expect_logits
from fastgan.functional import criterion_loss


class GANLoss(nn.Module):
    """`GANLoss(use_lsgan)(input, target_is_real)`, y being the label of the side that is asked for:

        use_lsgan=True:    sum_k mean (x_k - y)^2
        use_lsgan=False:   sum_k -mean (y log p_k + (1 - y) log(1 - p_k)),  `BCELoss` of D's probabilities

    summed over the scales k, not averaged.

    Args:
        target_real_label, target_fake_label: y of each side.
        tensor: not used; labels are made where and of what dtype the logits are.

    input: a list of scales, each a list of features whose last tensor is D's output; or one such list of features.
    The result is 0-d. Raises TypeError or ValueError for bad arguments.
    """

    def __init__(
        self,
        use_lsgan: bool = True,
        target_real_label: float = 1.0,
        target_fake_label: float = 0.0,
        tensor=torch.FloatTensor,
    ):
        super().__init__()
        self.real_label, self.fake_label = target_real_label, target_fake_label
        self.Tensor = tensor
        self._criterion = "least_squares" if use_lsgan else "cross_entropy"

    def get_target_tensor(self, input: Tensor, target_is_real: bool) -> Tensor:
        """The label in a tensor of `input`'s shape, dtype and device. The loss has no use for it."""
        return input.new_full(input.size(), self.real_label if target_is_real else self.fake_label)

    def forward(self, input: list[list[Tensor]] | list[Tensor], target_is_real: bool) -> Tensor:
        expect_logits("input", input)
        if not isinstance(input, Tensor) and isinstance(input[0], Tensor):
            input = input[-1]  # one discriminator's features
        return criterion_loss(input, self.real_label if target_is_real else self.fake_label, self._criterion)
