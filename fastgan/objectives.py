"""The names of `fastgan.formulas.objectives`, where earlier versions had them."""

from fastgan.formulas.objectives import (
    OBJECTIVES,
    Objective,
    find,
    objectives,
)

__all__ = [
    "OBJECTIVES",
    "Objective",
    "find",
    "objectives",
]
