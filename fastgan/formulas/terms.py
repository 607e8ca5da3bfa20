"""The terms of a loss: logits, labels, weights, and what modifies them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

WIDE = (torch.float32, torch.float64)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The arithmetic dtype: float64 for float64, float32 for the others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """`x` in its arithmetic dtype."""
    return x if x.dtype in WIDE else x.float()


class Terms(NamedTuple):
    """L = sum_k weights[k] mean_i m phi(x, y) over K terms. No autograd, no launch. The fields are
    the arguments of `kernels.adversarial` in order, which documents each one.

        x = logits[k][i] - partners[k][i] - shift[k],  y = targets[k][i] or labels[k],  m = masks[k][i] or 1
    """

    logits: Sequence[Tensor]
    labels: Sequence[float]
    weights: Sequence[float]
    criterion: str
    n_real: int = 0
    partners: Sequence[Tensor] = ()
    targets: Sequence[Tensor] = ()
    masks: Sequence[Tensor] = ()
    shift: Tensor | None = None
    split: int = 0

    def tensors(self) -> list[Tensor]:
        found = [*self.logits, *self.partners, *self.targets, *self.masks]
        if self.shift is not None:
            found.append(self.shift)
        return found

    def layout(self) -> tuple:
        """Everything except the tensors, and how many of each kind there are: `of` needs it to restore the terms."""
        counts = (len(self.logits), len(self.partners), len(self.targets), len(self.masks))
        return counts, self.labels, self.weights, self.criterion, self.n_real, self.split

    def having(self, **changed: Any) -> Terms:
        """These terms with other values of some fields: `_replace`, which `torch.compile` of torch 2.7 cannot trace."""
        values: list[Any] = [changed.get(name, value) for name, value in zip(Terms._fields, self)]
        return Terms(*values)

    @classmethod
    def of(cls, layout: tuple, tensors: Sequence[Tensor]) -> Terms:
        (k, partners, targets, masks), labels, weights, criterion, n_real, split = layout
        if len(tensors) == k:
            return cls(tensors, labels, weights, criterion, n_real, split=split)
        lists: list[Sequence[Tensor]] = []
        begin = k
        for count in (partners, targets, masks):
            lists.append(tensors[begin : begin + count])
            begin += count
        shift = tensors[begin] if begin < len(tensors) else None
        return cls(tensors[:k], labels, weights, criterion, n_real, lists[0], lists[1], lists[2], shift, split)

    def each(self) -> Iterator[tuple[Tensor, Tensor | float, Tensor | None, float]]:
        """(x, label, mask, weight) of each term, differentiable in its tensors. The first dimension of a tensor may be
        one that `torch.func.vmap` maps."""
        if self.split:
            raise NotImplementedError("split: not under torch.func.vmap; pass the sides separately")
        for k, x in enumerate(self.logits):
            x = widen(x)
            if self.partners:
                x = x - widen(self.partners[k])
            if self.shift is not None:
                shift = self.shift[..., k]
                x = x - (shift.reshape(-1, *[1] * (x.dim() - 1)) if shift.dim() else shift)
            y = self.targets[k].to(x.dtype) if self.targets else self.labels[k]
            yield x, y, self.masks[k] if self.masks else None, self.weights[k]


def split_sides(batches: Sequence[Tensor], split: int) -> list[Tensor]:
    """The real parts of batches of both sides, then the generated ones; `split` as in `kernels.adversarial`."""
    order = 1 if split > 0 else -1
    halves = [(x[: abs(split)], x[abs(split) :])[::order] for x in batches]
    return [real for real, _ in halves] + [fake for _, fake in halves]


def join_sides(parts: Sequence[Tensor], split: int) -> list[Tensor]:
    """Undo `split_sides`."""
    order, half = 1 if split > 0 else -1, len(parts) // 2
    return [torch.cat((real, fake)[::order]) for real, fake in zip(parts[:half], parts[half:])]
