"""Triton kernels and the host code that launches them. No autograd, no modules, no training."""

import triton

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):  # older ones: no tuples of tensors as arguments
    raise ImportError(f"fastgan.kernels needs triton 3.3 or newer, got triton {triton.__version__}")

from .adversarial import adversarial
from .augment import augment, draw_augmentation
from .bias_act import bias_act, bias_act_gradient, bias_act_second
from .criteria import CRITERIA
from .filtered_lrelu import filtered_lrelu, filtered_slopes
from .launch import INTERPRETED, launch_count
from .matching import matching_gradient, matching_signs
from .mmd import mmd
from .upfirdn2d import upfirdn2d
from .workspace import reset as reset_workspaces

__all__ = [
    "CRITERIA",
    "INTERPRETED",
    "adversarial",
    "augment",
    "bias_act",
    "bias_act_gradient",
    "bias_act_second",
    "draw_augmentation",
    "filtered_lrelu",
    "filtered_slopes",
    "launch_count",
    "matching_gradient",
    "matching_signs",
    "mmd",
    "reset_workspaces",
    "upfirdn2d",
]
