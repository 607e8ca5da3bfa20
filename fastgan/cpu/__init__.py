"""The functions of `fastgan.kernels` in PyTorch, for tensors that no Triton kernel runs on: values and gradients by
formula, not by autograd. Each has the arguments and results of the function of the same name there."""

from .adversarial import adversarial
from .augment import augment, draw_augmentation
from .bias_act import bias_act, bias_act_gradient, bias_act_second
from .filtered_lrelu import filtered_lrelu, filtered_slopes
from .matching import matching_gradient, matching_signs
from .mmd import mmd
from .upfirdn2d import upfirdn2d

__all__ = [
    "adversarial",
    "augment",
    "bias_act",
    "bias_act_gradient",
    "bias_act_second",
    "draw_augmentation",
    "filtered_lrelu",
    "filtered_slopes",
    "matching_gradient",
    "matching_signs",
    "mmd",
    "upfirdn2d",
]
