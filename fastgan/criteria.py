"""The names of `fastgan.formulas.criteria`, where earlier versions had them."""

from fastgan.formulas.criteria import (
    CRITERIA,
    Criterion,
    find,
)

__all__ = [
    "CRITERIA",
    "Criterion",
    "find",
]
