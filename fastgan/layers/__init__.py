"""Operators of networks and of their inputs: Triton kernels on a GPU, PyTorch's operators on a CPU.

    y = fastgan.layers.bias_act(x, b, act="lrelu")     # StyleGAN's bias, activation, gain and clamp
    y = fastgan.layers.upfirdn2d(x, f, up=2)           # resampling by a filter
    x = fastgan.layers.augment.augment(x, parameters)  # changed images, for small data sets

See also `fastgan.compat.torch_utils_ops`: the operators of StyleGAN under the names in NVIDIA's code.
"""

from . import augment
from .bias_act import BiasAct, activations, bias_act
from .filtered_lrelu import filtered_lrelu
from .upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "BiasAct",
    "activations",
    "augment",
    "bias_act",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
