"""The old import path of names in `fastgan.losses.mmd`."""

from fastgan.formulas.mmd import DIFFERENCES_UP_TO
from fastgan.losses.mmd import (
    MMDValueAndGrad,
    mmd_loss,
    mmd_value_and_grad,
)

__all__ = [
    "DIFFERENCES_UP_TO",
    "MMDValueAndGrad",
    "mmd_loss",
    "mmd_value_and_grad",
]
