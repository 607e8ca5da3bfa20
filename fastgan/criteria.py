"""The old import path of names in `fastgan.formulas.criteria`."""

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
