"""The names of `fastgan.losses.feature_matching`, where earlier versions had them."""

from fastgan.losses.feature_matching import (
    feature_matching_loss,
    feature_matching_value_and_grad,
)

__all__ = [
    "feature_matching_loss",
    "feature_matching_value_and_grad",
]
