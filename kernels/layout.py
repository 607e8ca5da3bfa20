"""Tensors as a kernel reads them: one stretch of memory, element after element, nothing negated on the way.

A kernel is given an address. What PyTorch keeps beside the memory (strides, the negative bit) it does not see.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed(x: Tensor) -> Tensor:
    """`x` with its elements in order of their indices, and no negative bit."""
    return (x.resolve_neg() if x.is_neg() else x).contiguous()


def dense(x: Tensor) -> Tensor:
    """`x`, if its elements fill one stretch of memory in any order of dimensions (channels_last); else a copy that
    does, with the strides of `torch.empty_like`."""
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape)):
        if size != 1:
            if stride != expected:
                return torch.empty_like(x).copy_(x)
            expected *= size
    return x


def dense_rows(x: Tensor) -> Tensor:
    """`dense`, with its rows, the slices of its first dimension, one after the other; else a contiguous copy."""
    x = dense(x)
    rows = x.shape[0]
    return x if rows < 2 or x.stride(0) == x.numel() // rows else x.contiguous()


def like(x: Tensor, other: Tensor) -> Tensor:
    """`other` expanded to the shape of the dense `x`, its elements in the order in which those of `x` lie in memory."""
    other = other.expand(x.shape)
    if other.stride() == x.stride() and not other.is_neg():
        return other
    return torch.empty_like(x, dtype=other.dtype).copy_(other)
