"""A report on a user's training step: what waits, which computations nothing uses, which losses fastgan can replace.

`places` finds the user's line, `trace` records the operators of a run, `networks` records modules and gradients,
`losses` recognises losses by their operators, `verdict` derives the findings, `report` holds and prints them.
"""

from fastgan.inspection.report import Finding, StepReport
from fastgan.inspection.steps import inspect_step

__all__ = ["Finding", "StepReport", "inspect_step"]
