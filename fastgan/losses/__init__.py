"""The losses: functions (`adversarial`, `feature_matching`, `mmd`, `penalties`) and modules (`modules`)."""

from fastgan.losses.modules import DiscriminatorLoss, GeneratorLoss, LeCamEMA

__all__ = ["DiscriminatorLoss", "GeneratorLoss", "LeCamEMA"]
