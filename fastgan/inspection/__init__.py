"""A verdict on somebody's own training step: what waits, what is computed for nobody, what ours could replace.

`places` finds the user's line, `trace` watches one run, `networks` watches modules and gradients, `losses` knows losses
by their operators, `verdict` draws the conclusions, `report` holds and prints them.
"""

from fastgan.inspection.report import Finding, StepReport
from fastgan.inspection.steps import inspect_step

__all__ = ["Finding", "StepReport", "inspect_step"]
