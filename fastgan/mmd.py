"""The names of `fastgan.losses.mmd`, where earlier versions had them."""

from fastgan.losses.mmd import (
    MMDValueAndGrad,
    mmd_loss,
    mmd_value_and_grad,
)

__all__ = [
    "MMDValueAndGrad",
    "mmd_loss",
    "mmd_value_and_grad",
]
