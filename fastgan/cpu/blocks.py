"""Process dense tensors in blocks, so that the results of a block stay in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Other = TypeVar("Other", Tensor, Tensor | None)
BLOCK = 1 << 19  # elements: a few float32 buffers of this size stay in cache, and a block costs much more than calls


def dense(x: Tensor) -> Tensor:
    """`x` if its elements fill a range of memory without gaps, in any order of dimensions (channels_last); else a copy
    that does, with the strides of `torch.empty_like`. No negative bit."""
    x = x.resolve_neg() if x.is_neg() else x
    if x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride():
        return x
    return torch.empty_like(x).copy_(x)


def like(x: Tensor, other: Tensor) -> Tensor:
    """`other` expanded to the shape of the dense `x`, with its elements in the memory order of `x`."""
    other = other.expand(x.shape)
    if other.stride() == x.stride() and not other.is_neg():
        return other
    return torch.empty_like(x, dtype=other.dtype).copy_(other)


def laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` with the strides of `torch.empty_like(x)`."""
    if grad.stride() == x.stride() or grad.stride() == torch.empty_like(x, device="meta").stride():
        return grad
    return torch.empty_like(x, dtype=grad.dtype).copy_(grad)


def flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))


def one_block(x: Tensor) -> bool:
    """Whether `blocks` yields all of x at once."""
    return 0 < x.numel() <= BLOCK


def blocks(x: Tensor, *others: Other) -> Iterator[tuple[Tensor, Sequence[Other]]]:
    """Yield (a block of x, the same elements of each other tensor) until x ends; nothing if x is empty. All tensors are
    dense and of one layout."""
    n = x.numel()
    if n > BLOCK:
        x, rest = flat(x), [None if t is None else flat(t) for t in others]
        for begin in range(0, n, BLOCK):
            part = slice(begin, begin + BLOCK)
            yield x[part], [None if t is None else t[part] for t in rest]
    elif n:
        yield x, others


def per_term(scale: Tensor | None, terms: int, factor: float) -> Sequence[Any]:
    """factor * scale of each term. scale: one number or one a term. Numbers for a CPU tensor, else 0-d tensors."""
    if scale is None:
        return (factor,) * terms
    if scale.numel() == 1:
        return (factor * (scale.item() if scale.is_cpu else scale.reshape(())),) * terms
    return [factor * v for v in (scale.tolist() if scale.is_cpu else scale.unbind())]
