"""The old import path of names in `fastgan.formulas.results`."""

from fastgan.formulas.results import (
    Statistics,
    ValueAndGrad,
)

__all__ = [
    "Statistics",
    "ValueAndGrad",
]
