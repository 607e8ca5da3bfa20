"""The losses as modules, for code that keeps its criterion in an attribute. They hold settings and no parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.checks import number
from fastgan.formulas.objectives import find
from fastgan.losses import adversarial
from fastgan.losses.arguments import Logits


class _Loss(nn.Module):
    def __init__(self, objective: str, settings: dict):
        super().__init__()
        find(objective)
        self.objective, self.settings = objective, settings
        probe = torch.zeros(1, device="meta")  # arguments are checked, nothing is computed
        self._probe(probe, probe if find(objective).relation else None)  # raises if settings are wrong

    def _probe(self, fake: Tensor, real: Tensor | None) -> None:
        """Call the loss with these settings, for its errors."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join([repr(self.objective), *(f"{name}={value}" for name, value in self.settings.items())])


class DiscriminatorLoss(_Loss):
    """`fastgan.discriminator_loss` with fixed settings: `DiscriminatorLoss("hinge", weight=0.5)(real, fake)`.

    settings: keyword arguments of `discriminator_loss`, numbers and strings."""

    def __init__(self, objective: str = "minimax", **settings):
        super().__init__(objective, settings)

    def _probe(self, fake: Tensor, real: Tensor | None) -> None:
        adversarial.discriminator_loss(fake, fake, self.objective, **self.settings)

    def forward(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        return adversarial.discriminator_loss(real_logits, fake_logits, self.objective, **self.settings)


class GeneratorLoss(_Loss):
    """`fastgan.generator_loss` with fixed settings: `GeneratorLoss("nonsaturating")(fake_logits)`; the relativistic
    objectives need the real logits as well, `GeneratorLoss("relativistic")(fake, real)`; the others ignore them.

    settings: keyword arguments of `generator_loss`, numbers and strings."""

    def __init__(self, objective: str = "nonsaturating", **settings):
        super().__init__(objective, settings)

    def _probe(self, fake: Tensor, real: Tensor | None) -> None:
        adversarial.generator_loss(fake, self.objective, real_logits=real, **self.settings)

    def forward(self, fake_logits: Logits, real_logits: Logits | None = None) -> Tensor:
        return adversarial.generator_loss(fake_logits, self.objective, real_logits=real_logits, **self.settings)


class LeCamEMA(nn.Module):
    """LeCam regularisation with its moving averages (Tseng et al. 2021, section 4.2), on the device.

        a_real <- decay a_real + (1 - decay) mean r,   a_fake likewise,   then   fastgan.lecam_regularizer

    Buffers `real_anchor` and `fake_anchor`: float32, 0-d, zero at first. Nothing is read back to the host.
    """

    real_anchor: Tensor
    fake_anchor: Tensor

    def __init__(self, decay: float = 0.99, weight: float = 1.0):
        super().__init__()
        decay, weight = number("decay", decay), number("weight", weight)
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay: got {decay}, expected a number in [0, 1]")
        self.decay, self.weight = decay, weight
        self.register_buffer("real_anchor", torch.zeros(()))
        self.register_buffer("fake_anchor", torch.zeros(()))

    @torch.no_grad()
    def update(self, real_mean: Tensor, fake_mean: Tensor) -> None:
        """real_mean, fake_mean: mean logits, for example `stats.real_mean` of a `value_and_grad`."""
        self.real_anchor.lerp_(real_mean.to(self.real_anchor), 1.0 - self.decay)
        self.fake_anchor.lerp_(fake_mean.to(self.fake_anchor), 1.0 - self.decay)

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The regulariser at the current anchors."""
        return adversarial.lecam_regularizer(
            real_logits, fake_logits, self.real_anchor, self.fake_anchor, weight=self.weight
        )
