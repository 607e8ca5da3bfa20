"""CycleGAN and pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix), and CUT (taesungp/contrastive-unpaired-translation).

In train.py, after its imports; every model gets its loss from `models.networks`:

    import models.networks, fastgan.compat.cyclegan
    models.networks.GANLoss = fastgan.compat.cyclegan.GANLoss

As upstream, `vanilla` gives float32 losses even for float64 logits, as long as the label buffers are float32.

Differences: half-precision logits give a float32 loss. For `vanilla` a label outside [0, 1] is a ValueError. The labels
are read in the constructor and in `load_state_dict`; changing a buffer by hand has no effect.

Signatures are from commit b3ac297 (September 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.compat._images import expect_known, expect_logits
from fastgan.losses.adversarial import criterion_loss

UPSTREAM = {"models.networks": ("GANLoss",)}

_CRITERIA = {
    "lsgan": "least_squares",
    "vanilla": "sigmoid_cross_entropy",
    "wgangp": "wasserstein",
    "nonsaturating": "softplus",
}


class GANLoss(nn.Module):
    """`GANLoss(gan_mode)(prediction, target_is_real)`. y is the label for `target_is_real`:

        lsgan:           mean (x - y)^2
        vanilla:         mean softplus(x) - y x,  `BCEWithLogitsLoss`
        wgangp:          -mean x for real, mean x for generated
        nonsaturating:   softplus(-x) for real, softplus(x) for generated, the mean over each sample (CUT)

    Args:
        gan_mode: one of these four.
        target_real_label, target_fake_label: y of each side; buffers `real_label` and `fake_label`.

    prediction: D's logits, a tensor of any shape whose first dimension is the batch. The result is 0-d, and of shape
    (batch,) for nonsaturating, which is fused only for a batch of one, as in CUT.

    Raises NotImplementedError for another mode, as upstream does, and TypeError or ValueError for other bad arguments.
    """

    real_label: Tensor
    fake_label: Tensor

    def __init__(self, gan_mode: str, target_real_label: float = 1.0, target_fake_label: float = 0.0):
        super().__init__()
        expect_known("gan_mode", gan_mode, _CRITERIA)
        self.register_buffer("real_label", torch.tensor(target_real_label))
        self.register_buffer("fake_label", torch.tensor(target_fake_label))
        self.gan_mode = gan_mode
        self._labels = (float(target_fake_label), float(target_real_label))
        self.register_load_state_dict_post_hook(_read_labels)

    def get_target_tensor(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        """The label in the shape of `prediction`; a view of the buffer. The loss does not use it."""
        return (self.real_label if target_is_real else self.fake_label).expand_as(prediction)

    def forward(self, prediction: Tensor, target_is_real: bool) -> Tensor:
        expect_logits("prediction", prediction, lists=False)
        criterion = _CRITERIA[self.gan_mode]
        if self.gan_mode in ("lsgan", "vanilla"):
            loss = criterion_loss(prediction, self._labels[bool(target_is_real)], criterion)
            return loss.float() if self.gan_mode == "vanilla" and self.real_label.dtype != torch.float64 else loss
        label = 1.0 if target_is_real else 0.0
        if self.gan_mode == "wgangp":
            return criterion_loss(prediction, label, criterion)
        if prediction.size(0) == 1:
            return criterion_loss(prediction, label, criterion).reshape(1)
        return criterion_loss(prediction, label, criterion, reduction="sample")


def _read_labels(module: GANLoss, _) -> None:
    module._labels = (float(module.fake_label), float(module.real_label))
