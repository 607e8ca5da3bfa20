"""The names of `fastgan.formulas.results`, where earlier versions had them."""

from fastgan.formulas.results import (
    Statistics,
    ValueAndGrad,
)

__all__ = [
    "Statistics",
    "ValueAndGrad",
]
