"""Bring tensors into layouts that a kernel can read: no gaps between elements in memory, and no negative bit.

A kernel gets only an address. It sees neither the strides nor the negative bit of a PyTorch tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed(x: Tensor) -> Tensor:
    """`x` as a contiguous tensor without the negative bit."""
    return (x.resolve_neg() if x.is_neg() else x).contiguous()


def dense(x: Tensor) -> Tensor:
    """`x` if its elements fill a range of memory without gaps, in any order of dimensions (channels_last); else a copy
    that does, with the strides of `torch.empty_like`."""
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
    """`dense(x)` if its rows, the slices along dimension 0, follow one another in memory; else a contiguous copy."""
    x = dense(x)
    rows = x.shape[0]
    return x if rows < 2 or x.stride(0) == x.numel() // rows else x.contiguous()


def like(x: Tensor, other: Tensor) -> Tensor:
    """`other` expanded to the shape of the dense `x`, with its elements in the memory order of `x`."""
    other = other.expand(x.shape)
    if other.stride() == x.stride() and not other.is_neg():
        return other
    return torch.empty_like(x, dtype=other.dtype).copy_(other)
