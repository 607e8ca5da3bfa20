"""BasicSR (XPixelGroup), and projects that use its registry of losses: Real-ESRGAN, GFPGAN and others.

Add one import where training starts, and change one word in the YAML file:

    import fastgan.compat.basicsr          # in train.py, after `import basicsr`

    gan_opt:
      type: FusedGANLoss                   # instead of GANLoss; FusedMultiScaleGANLoss instead of MultiScaleGANLoss

If BasicSR is installed, this module registers both names in its LOSS_REGISTRY. Without the registry:
`from fastgan.compat.basicsr import GANLoss` instead of `from basicsr.losses import GANLoss`; likewise `r1_penalty` and
`g_path_regularize`, which basicsr.losses has too. neosr has another registry, which this import does not change.

Signatures are from commit 8d56e3a (May 2024). Differences: half-precision logits give a float32 loss. For `vanilla` a
label outside [0, 1] is a ValueError.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.compat._images import TypedGANLoss, expect_logits
from fastgan.compat.rosinality import d_r1_loss as r1_penalty  # noqa: F401 (a name of this module)
from fastgan.losses import penalties
from fastgan.losses.arguments import Logits

UPSTREAM = {
    "basicsr.losses.gan_loss": ("GANLoss", "MultiScaleGANLoss", "g_path_regularize", "r1_penalty"),
    "basicsr.utils.registry:LOSS_REGISTRY._obj_map": ("GANLoss", "MultiScaleGANLoss"),
}


class GANLoss(TypedGANLoss):
    """`GANLoss(gan_type)(input, target_is_real, is_disc=False)`. y is the label for `target_is_real`:

        vanilla:         mean softplus(x) - y x,  `BCEWithLogitsLoss`
        lsgan:           mean (x - y)^2
        wgan:            -mean x for real, mean x for generated
        wgan_softplus:   mean softplus(-x) for real, mean softplus(x) for generated
        hinge:           D: mean relu(1 - x) for real, mean relu(1 + x) for generated;  G: -mean x for either

    times `loss_weight`, unless `is_disc`.

    Args:
        gan_type: one of these five.
        real_label_val, fake_label_val: y of each side.
        loss_weight: multiplies only the generator's loss.

    input: D's logits, a tensor. The result is 0-d. Raises NotImplementedError for another type, as upstream does, and
    TypeError or ValueError for other bad arguments.
    """

    types = ("vanilla", "lsgan", "wgan", "wgan_softplus", "hinge")

    def forward(self, input: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        expect_logits("input", input, lists=False)
        return self._loss(input, target_is_real, is_disc)


class MultiScaleGANLoss(GANLoss):
    """`GANLoss` of several discriminators, the mean over them, in one launch.

    input: a list of tensors, a list of lists of features whose last tensors are the logits, or a tensor. Other
    arguments, result and errors: as in `GANLoss`."""

    def forward(self, input: Logits, target_is_real: bool, is_disc: bool = False) -> Tensor:
        expect_logits("input", input)
        return self._loss(input, target_is_real, is_disc)


class FusedGANLoss(GANLoss):
    """`GANLoss` under the name it has in LOSS_REGISTRY."""


class FusedMultiScaleGANLoss(MultiScaleGANLoss):
    """`MultiScaleGANLoss` under the name it has in LOSS_REGISTRY."""


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: Tensor | float, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean_i (l_i - a)^2, mean_i l_i, a): `fastgan.compat.rosinality.g_path_regularize` with its results in another
    order."""
    loss, mean, lengths = penalties.path_length_penalty(fake_img, latents, mean_path_length, 1.0, decay)
    return loss, lengths.mean(), mean


def _register() -> None:
    try:
        from basicsr.utils.registry import LOSS_REGISTRY
    except ImportError:  # not installed: the classes work without the registry
        return
    for loss in (FusedGANLoss, FusedMultiScaleGANLoss):
        if loss.__name__ not in LOSS_REGISTRY:
            LOSS_REGISTRY.register(loss)


_register()
