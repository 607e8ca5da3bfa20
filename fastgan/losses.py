"""The losses as modules, for code that keeps its criterion in an attribute. They hold settings and no parameters."""

from __future__ import annotations

from torch import Tensor, nn

from fastgan import functional
from fastgan.objectives import find


class _Loss(nn.Module):
    def __init__(self, objective: str, weight: float, real_label: float, fake_label: float):
        super().__init__()
        find(objective)
        functional._check_numbers(weight, real_label, fake_label)
        self.objective = objective
        self.settings = dict(weight=weight, real_label=real_label, fake_label=fake_label)

    def extra_repr(self) -> str:
        return ", ".join([repr(self.objective), *(f"{name}={value}" for name, value in self.settings.items())])


class DiscriminatorLoss(_Loss):
    """`fastgan.discriminator_loss`, its settings fixed: `DiscriminatorLoss("minimax")(real_logits, fake_logits)`."""

    def __init__(
        self, objective: str = "minimax", *, weight: float = 1.0, real_label: float = 1.0, fake_label: float = 0.0
    ):
        super().__init__(objective, weight, real_label, fake_label)

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return functional.discriminator_loss(real_logits, fake_logits, self.objective, **self.settings)


class GeneratorLoss(_Loss):
    """`fastgan.generator_loss`, its settings fixed: `GeneratorLoss("nonsaturating")(fake_logits)`."""

    def __init__(
        self, objective: str = "nonsaturating", *, weight: float = 1.0, real_label: float = 1.0, fake_label: float = 0.0
    ):
        super().__init__(objective, weight, real_label, fake_label)

    def forward(self, fake_logits: Tensor) -> Tensor:
        return functional.generator_loss(fake_logits, self.objective, **self.settings)
