"""ESPnet (espnet2/gan_tts) and ParallelWaveGAN: the losses that use D in `hifigan/loss.py`, or `adversarial_loss.py`
and `feat_match_loss.py`.

    from espnet2.gan_tts.hifigan.loss import DiscriminatorAdversarialLoss, FeatureMatchLoss, ...       # before
    from parallel_wavegan.losses import DiscriminatorAdversarialLoss, FeatureMatchLoss, ...            # or this; after:
    from fastgan.compat.espnet import DiscriminatorAdversarialLoss, FeatureMatchLoss, GeneratorAdversarialLoss

At the knee of the hinge the slope is that of `-min(x - 1, 0)`, as upstream: -1/2 if a real logit is 1.

Differences: lists of different lengths are an error (upstream ignores the surplus); empty lists are an error (upstream
may return the number 0.0); float16 and bfloat16 outputs give float32 losses.

Signatures are from ESPnet 214c50e7c and ParallelWaveGAN 8674037 (February 2024).
"""

from __future__ import annotations

from torch import Tensor, nn

from fastgan.compat._logits import Refused
from fastgan.losses import adversarial, separate
from fastgan.losses.arguments import Logits
from fastgan.losses.feature_matching import Maps, feature_matching_loss

__all__ = ["DiscriminatorAdversarialLoss", "FeatureMatchLoss", "GeneratorAdversarialLoss"]
UPSTREAM = {
    "espnet2.gan_tts.hifigan.loss": (*__all__,),
    "parallel_wavegan.losses.adversarial_loss": ("DiscriminatorAdversarialLoss", "GeneratorAdversarialLoss"),
    "parallel_wavegan.losses.feat_match_loss": ("FeatureMatchLoss",),
}

_OBJECTIVES = {"mse": ("least_squares", "least_squares"), "hinge": ("hinge", "hinge_min")}  # (G's, D's criterion)


class _Loss(nn.Module):
    def __init__(self, average_by_discriminators: bool = True, loss_type: str = "mse"):
        super().__init__()
        if loss_type not in _OBJECTIVES:
            raise Refused(f"loss_type: got {loss_type!r}, expected 'mse' or 'hinge'")
        self.average_by_discriminators, self.loss_type = average_by_discriminators, loss_type

    @property
    def _reduce(self) -> str:
        return "mean" if self.average_by_discriminators else "sum"


class GeneratorAdversarialLoss(_Loss):
    """mean (f - 1)^2 for "mse", -mean f for "hinge"; averaged over the discriminators, or summed; one launch.

    Args:
        average_by_discriminators: average, not sum, over a list.
        loss_type: "mse" or "hinge"; anything else is a ValueError, and an AssertionError as upstream.
    """

    def criterion(self, x: Tensor) -> Tensor:
        """The loss of one tensor of logits, 0-d. Errors as in `forward`."""
        return adversarial.generator_loss(x, _OBJECTIVES[self.loss_type][0])

    def forward(self, outputs: Logits) -> Tensor:
        """outputs: f, a tensor, a list of tensors, or a list of lists whose last tensors are the logits. Returns 0-d.
        TypeError or ValueError unless they are tensors of one floating dtype and device, and no list is empty."""
        objective = _OBJECTIVES[self.loss_type][0]
        return adversarial.generator_loss(outputs, objective, reduce_discriminators=self._reduce)


class DiscriminatorAdversarialLoss(_Loss):
    """mean (r - 1)^2 and mean f^2 for "mse", -mean min(r - 1, 0) and -mean min(-f - 1, 0) for "hinge"; each averaged
    over the discriminators, or summed; one launch forward for both.

    Args: those of `GeneratorAdversarialLoss`.
    """

    def real_criterion(self, x: Tensor) -> Tensor:
        """The loss of one tensor of logits of real data, 0-d. Errors as in `forward`."""
        return adversarial.criterion_loss(x, 1.0, _OBJECTIVES[self.loss_type][1])

    def fake_criterion(self, x: Tensor) -> Tensor:
        """The loss of one tensor of logits of generated data, 0-d. Errors as in `forward`."""
        return adversarial.criterion_loss(x, 0.0, _OBJECTIVES[self.loss_type][1])

    def forward(self, outputs_hat: Logits, outputs: Logits) -> tuple[Tensor, Tensor]:
        """outputs_hat, outputs: f and r, generated data first; each a tensor, a list of tensors, or a list of lists
        whose last tensors are the logits. Returns (loss of real data, loss of generated data), 0-d.

        TypeError or ValueError if they are not tensors of one floating dtype and device, are empty lists or lists of
        different lengths."""
        criterion = _OBJECTIVES[self.loss_type][1]
        of_real, of_fake = separate.each_side(
            *(criterion, ("outputs", outputs, 1.0), ("outputs_hat", outputs_hat, 0.0)),
            reduce_discriminators=self._reduce,
        )
        return of_real, of_fake


class FeatureMatchLoss(nn.Module):
    """mean |g - r| of each map, averaged or summed over the layers, then over the discriminators; one launch for every
    64 maps.

    Args:
        average_by_layers, average_by_discriminators: average, not sum.
        include_final_outputs: include the last map of each discriminator, its logits.
    """

    def __init__(
        self,
        average_by_layers: bool = True,
        average_by_discriminators: bool = True,
        include_final_outputs: bool = False,
    ):
        super().__init__()
        self.average_by_layers, self.average_by_discriminators = average_by_layers, average_by_discriminators
        self.include_final_outputs = include_final_outputs

    def forward(self, feats_hat: Maps, feats: Maps) -> Tensor:
        """feats_hat, feats: g and r, generated data first; lists of lists of maps. No gradient through r. Returns 0-d.
        In a list of tensors, the samples of a tensor count as its list of maps, as upstream.

        TypeError or ValueError unless they are tensors of one floating dtype and device, in pairs of one shape and
        lists of one length, and at least one. Messages say `fake_maps` and `real_maps`, with an index over all maps."""
        return feature_matching_loss(
            _maps(feats_hat),
            _maps(feats),
            exclude_last=not self.include_final_outputs,
            reduce_layers="mean" if self.average_by_layers else "sum",
            reduce_discriminators="mean" if self.average_by_discriminators else "sum",
        )


def _maps(feats: Maps) -> Maps:
    if not isinstance(feats, (list, tuple)):
        return feats
    return [maps.unbind() if isinstance(maps, Tensor) and maps.dim() else maps for maps in feats]
