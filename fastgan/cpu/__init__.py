"""The functions of `fastgan.kernels` in PyTorch, for tensors that no Triton kernel runs on: values and gradients by
formula, not by autograd. Each has the arguments and results of the kernel of its name."""

from .adversarial import adversarial
from .augment import augment, draw_augmentation
from .bias_act import bias_act, bias_act_gradient, bias_act_second
from .matching import matching_gradient, matching_signs
from .mmd import mmd

__all__ = [
    "adversarial",
    "augment",
    "bias_act",
    "bias_act_gradient",
    "bias_act_second",
    "draw_augmentation",
    "matching_gradient",
    "matching_signs",
    "mmd",
]
