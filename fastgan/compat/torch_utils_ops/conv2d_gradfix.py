"""`torch_utils.ops.conv2d_gradfix`: see `fastgan.compat.torch_utils_ops` for the imports to change.

Convolutions are those of `torch.nn.functional`: PyTorch can differentiate their gradients itself. Only
`no_weight_gradients` has an effect, if `enabled` is set, as StyleGAN's training does: a backward pass inside gives
weights of convolutions no gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

enabled = False  # as upstream: without it, no_weight_gradients has no effect
weight_gradients_disabled = False  # what no_weight_gradients sets


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """A backward pass inside the block skips the gradients of the weights of `conv2d` and `conv_transpose2d`, if
    `enabled` was set when these were called; disable=False has no effect. A second derivative after the block, for
    example of R1, does reach the weights.

    `torch.autograd.grad(..., inputs=[images])` computes no gradient of weights anyway; `.backward()` does compute them,
    and drops them here."""
    global weight_gradients_disabled
    before = weight_gradients_disabled
    weight_gradients_disabled = disable or before
    try:
        yield
    finally:
        weight_gradients_disabled = before


class _Gate(torch.autograd.Function):
    """The weight itself; it gets no gradient if weight gradients are disabled."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight):
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return None if weight_gradients_disabled else grad


def _gated(weight: Tensor) -> Tensor:
    return _Gate.apply(weight) if enabled and weight.requires_grad and torch.is_grad_enabled() else weight


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups: int = 1
) -> Tensor:
    """`torch.nn.functional.conv2d`."""
    return F.conv2d(input, _gated(weight), bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    output_padding=0,
    groups: int = 1,
    dilation=1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`."""
    return F.conv_transpose2d(input, _gated(weight), bias, stride, padding, output_padding, groups, dilation)
