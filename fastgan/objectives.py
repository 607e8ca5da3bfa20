"""The old import path of names in `fastgan.formulas.objectives`."""

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
