"""The old import path of names in `fastgan.losses.feature_matching`."""

from fastgan.losses.feature_matching import (
    feature_matching_loss,
    feature_matching_value_and_grad,
)

__all__ = [
    "feature_matching_loss",
    "feature_matching_value_and_grad",
]
