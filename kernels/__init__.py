"""Triton kernels and the host code that launches them. No autograd, no modules, no training."""

from .adversarial import adversarial
from .criteria import CRITERIA
from .launch import INTERPRETED, launch_count
from .matching import matching_gradient, matching_signs
from .mmd import mmd
from .workspace import reset as reset_workspaces

__all__ = [
    "CRITERIA",
    "INTERPRETED",
    "adversarial",
    "launch_count",
    "matching_gradient",
    "matching_signs",
    "mmd",
    "reset_workspaces",
]
