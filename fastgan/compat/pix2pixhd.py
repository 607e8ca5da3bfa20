"""NVIDIA/pix2pixHD.

In train.py, after its imports; the model gets its loss from `models.networks`:

    import models.networks, fastgan.compat.pix2pixhd
    models.networks.GANLoss = fastgan.compat.pix2pixhd.GANLoss

One launch computes all scales. The feature matching is a loop in `forward` of models/pix2pixHD_model.py; one call
replaces the loop, with one launch for all maps:

    loss_G_GAN_Feat = fastgan.compat.pix2pixhd.feature_matching_loss(
        pred_fake, pred_real, self.opt.lambda_feat, self.opt.n_layers_D
    )

Differences: half-precision logits give a float32 loss. Label tensors are not cached: upstream caches them by number of
elements, so their shape can differ from the logits'.

Signatures are from commit 14b3b3c (September 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.compat._images import expect_logits
from fastgan.losses import feature_matching
from fastgan.losses.adversarial import criterion_loss
from fastgan.losses.feature_matching import Maps

UPSTREAM = {"models.networks": ("GANLoss",)}


class GANLoss(nn.Module):
    """`GANLoss(use_lsgan)(input, target_is_real)`. y is the label for `target_is_real`:

        use_lsgan=True:    sum_k mean (x_k - y)^2
        use_lsgan=False:   sum_k -mean (y log p_k + (1 - y) log(1 - p_k)),  `BCELoss` of D's probabilities

    summed over the scales k, not averaged.

    Args:
        target_real_label, target_fake_label: y of each side.
        tensor: not used; labels have the logits' dtype and device.

    input: a list of scales, each a list of features whose last tensor is D's output; or one such list of features. Of a
    tensor only the last sample counts, as upstream. The result is 0-d. TypeError or ValueError for bad arguments.
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
        """The label in a tensor of `input`'s shape, dtype and device. The loss does not use it."""
        return input.new_full(input.size(), self.real_label if target_is_real else self.fake_label)

    def forward(self, input: list[list[Tensor]] | list[Tensor], target_is_real: bool) -> Tensor:
        label = self.real_label if target_is_real else self.fake_label
        expect_logits("input", input)
        features = isinstance(input[0], Tensor)  # of one discriminator, or a tensor's samples
        return criterion_loss(input[-1] if features else input, label, self._criterion)


def feature_matching_loss(pred_fake: Maps, pred_real: Maps, lambda_feat: float = 10.0, n_layers_D: int = 3) -> Tensor:
    """pix2pixHD's feature matching, for which it has no function; the name is ours:

        lambda_feat * 4 / (n_layers_D + 1) / num_D * sum_k mean |fake_k - real_k|

    over all maps k but the last of each list, which is D's output. No gradient through the real maps. One launch for
    every 64 maps.

    Args:
        pred_fake, pred_real: D's outputs for generated and real data, num_D lists of maps, pairs of one shape.
        lambda_feat, n_layers_D: the options of these names, and their defaults.

    Returns:
        0-d tensor.

    Raises:
        TypeError, ValueError: not tensors of one floating dtype and device, pairs of two shapes, lists of different
            lengths, no maps but the last. Messages say `fake_maps` and `real_maps`, with an index over all maps.
    """
    weight = lambda_feat * 4.0 / (n_layers_D + 1)
    return feature_matching.feature_matching_loss(
        pred_fake, pred_real, weight, exclude_last=True, reduce_discriminators="mean"
    )
