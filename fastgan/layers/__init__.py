"""Operators of networks and of their inputs: one Triton launch each, on a CPU PyTorch's own operators.

    y = fastgan.layers.bias_act(x, b, act="lrelu")     # StyleGAN's bias, activation, gain and clamp
    x = fastgan.layers.augment.augment(x, parameters)  # changed images, for training on few

See also `fastgan.compat.torch_utils_ops`: StyleGAN's under the names that NVIDIA's code has for them.
"""

from fastgan.layers.bias_act import BiasAct, activations, bias_act

__all__ = ["BiasAct", "activations", "bias_act"]
