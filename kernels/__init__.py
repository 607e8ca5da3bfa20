"""Triton kernels and the host code that launches them. No autograd, no modules, no training."""

from .adversarial import adversarial
from .criteria import CRITERIA
from .launch import INTERPRETED, launch_count
from .workspace import reset as reset_workspaces

__all__ = ["CRITERIA", "INTERPRETED", "adversarial", "launch_count", "reset_workspaces"]
