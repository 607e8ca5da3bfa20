"""OpenMMLab's mmagic, and mmediting and mmgeneration before it.

Add one import, and change one word in the config:

    custom_imports = dict(imports=["fastgan.compat.mmagic"], allow_failed_imports=False)

    gan_loss=dict(type="FusedGANLoss", gan_type="vanilla", loss_weight=0.1)     # instead of type="GANLoss"

If mmagic is installed, this module registers FusedGANLoss and FusedDiscShiftLoss in MODELS. Without the registry:
`from fastgan.compat.mmagic import GANLoss` instead of `from mmagic.models.losses import GANLoss`.

Types and settings are from commit 0a560bba (January 2024). Differences: half-precision logits give a float32 loss. For
`vanilla` a label outside [0, 1] is a ValueError. The mask is blurred by two convolutions of 71 taps instead of one of
71 x 71, which differs only by rounding. mmgeneration's DiscShiftLoss, which reads its input from a dictionary
(`data_info`), is not supported.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.compat._images import TypedGANLoss, expect_logits
from fastgan.losses.adversarial import criterion_loss

UPSTREAM = {
    "mmagic.models.losses.gan_loss": ("DiscShiftLoss", "GANLoss", "GaussianBlur"),
    "mmagic.registry:MODELS._module_dict": ("DiscShiftLoss", "GANLoss"),
}


class GANLoss(TypedGANLoss):
    """`GANLoss(gan_type)(input, target_is_real, is_disc=False, mask=None)`. y is the label for `target_is_real`:

        vanilla:            mean softplus(x) - y x,  `BCEWithLogitsLoss`
        lsgan:              mean (x - y)^2
        l1:                 mean |x - y|
        wgan:               -mean x for real, mean x for generated
        wgan-logistic-ns:   mean softplus(-x) for real, mean softplus(x) for generated (mmgeneration, GANLossComps)
        hinge:              D: mean relu(1 - x) for real, mean relu(1 + x) for generated;  G: -mean x for either
        smgan:              D on generated data: mean (x - blurred mask)^2;  otherwise mean (x - y)^2

    times `loss_weight`, unless `is_disc`.

    Args:
        gan_type: one of these seven.
        real_label_val, fake_label_val: y of each side.
        loss_weight: multiplies only the generator's loss.

    input: D's logits, a tensor. mask: (b, 1, h, w), 1 where the image was filled in; only for smgan, which resizes the
    logits to the mask's size (bilinear, corners aligned) if they differ. The mask gets no gradient.

    For smgan's generator upstream multiplies the mean square, already one number, by mask / mean(mask) and averages:
    the mask cancels. Here too, but without the NaN of an empty mask. If you want the square weighted by the mask, use
    `fastgan.criterion_loss(input, 1.0, "least_squares", weights=mask)`.

    The result is 0-d. Raises NotImplementedError for another type, as upstream does, and TypeError or ValueError for
    other bad arguments, such as smgan without a mask.
    """

    types = ("vanilla", "lsgan", "wgan", "wgan-logistic-ns", "hinge", "smgan", "l1")

    def __init__(
        self, gan_type: str, real_label_val: float = 1.0, fake_label_val: float = 0.0, loss_weight: float = 1.0
    ):
        super().__init__(gan_type, real_label_val, fake_label_val, loss_weight)
        if gan_type == "smgan":
            self.gaussian_blur = GaussianBlur()

    def forward(self, input: Tensor, target_is_real: bool, is_disc: bool = False, mask: Tensor | None = None) -> Tensor:
        expect_logits("input", input, lists=False)
        label = None
        if self.gan_type == "smgan":
            _expect_image("mask", mask)
            _expect_image("input", input)
            assert mask is not None
            if input.shape[2:] != mask.shape[2:]:
                input = F.interpolate(input, size=mask.shape[2:], mode="bilinear", align_corners=True)
            if is_disc and not target_is_real:
                with torch.no_grad():
                    label = self.gaussian_blur(mask)
        return self._loss(input, target_is_real, is_disc, label)


class GaussianBlur(nn.Module):
    """Each channel of a (b, c, h, w) tensor convolved with a Gaussian of `kernel_size` taps, zeros around it.

    kernel_size: rows and columns, odd. sigma: the standard deviations, in pixels. It has no entry in a state_dict."""

    rows: Tensor
    columns: Tensor

    def __init__(self, kernel_size: tuple[int, int] = (71, 71), sigma: tuple[float, float] = (10.0, 10.0)):
        super().__init__()
        for name, pair in (("kernel_size", kernel_size), ("sigma", sigma)):
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"{name}: got {pair!r}, expected a tuple of two numbers")
        for size in kernel_size:
            if not isinstance(size, int) or size <= 0 or size % 2 == 0:
                raise TypeError(f"kernel_size: got {size!r}, expected an odd positive integer")
        self.kernel_size, self.sigma = kernel_size, sigma
        self.padding = tuple([size // 2 for size in kernel_size])
        for name, size, width in zip(("rows", "columns"), kernel_size, sigma):
            steps = torch.arange(size, dtype=torch.float64, device="cpu") - size // 2
            self.register_buffer(name, torch.softmax(-(steps**2) / (2.0 * width**2), 0).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        _expect_image("x", x)
        flat = x.reshape(-1, 1, *x.shape[2:])
        flat = F.conv2d(flat, self.rows.to(x).reshape(1, 1, -1, 1), padding=(self.padding[0], 0))
        flat = F.conv2d(flat, self.columns.to(x).reshape(1, 1, 1, -1), padding=(0, self.padding[1]))
        return flat.reshape(x.shape)


class DiscShiftLoss(nn.Module):
    """`DiscShiftLoss()(x)`: loss_weight * mean x^2 of D's logits x (a tensor), which keeps them near 0. 0-d."""

    def __init__(self, loss_weight: float = 0.1):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, x: Tensor) -> Tensor:
        expect_logits("x", x, lists=False)
        return criterion_loss(x, 0.0, "least_squares", weight=self.loss_weight)


def _expect_image(name: str, x) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a torch.Tensor of shape (b, c, h, w)")
    if x.dim() != 4:
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (b, c, h, w)")


def _register() -> None:
    try:
        from mmagic.registry import MODELS
    except ImportError:  # not installed: the classes work without the registry
        return
    for name, loss in (("FusedGANLoss", GANLoss), ("FusedDiscShiftLoss", DiscShiftLoss)):
        MODELS.register_module(name=name, module=loss, force=True)


_register()
