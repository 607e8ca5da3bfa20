"""Checks of logits for the drop-ins of unconditional GANs. Errors use the codebase's names of arguments."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgan.formulas.terms import Terms
from fastgan.losses.adversarial import loss_of
from fastgan.losses.arguments import check_logits


class Refused(AssertionError, ValueError):
    """An error that upstream raises by `assert`, so its tests expect an AssertionError."""


def check(*, lists: bool = False, **logits: Any) -> None:
    """Raise TypeError or ValueError unless all `logits` are non-empty tensors of one dtype and device.

    lists: accept lists of tensors too."""
    tensors: list[tuple[str, Tensor]] = []
    for name, given in logits.items():
        listed = lists and isinstance(given, (list, tuple))
        if listed and not given:
            raise ValueError(f"{name}: got an empty list, expected at least one tensor")
        tensors += [(f"{name}[{i}]", x) for i, x in enumerate(given)] if listed else [(name, given)]
    check_logits(*[(name, (x,)) for name, x in tensors])
    for name, x in tensors:
        if not x.numel():
            raise ValueError(f"{name}: got an empty tensor of shape {tuple(x.shape)}, expected at least one logit")


def softplus_of_both(real: Tensor, fake: Tensor, weight: float = 1.0) -> Tensor:
    """weight (mean softplus(-real) + mean softplus(fake)), 0-d; one launch. Correct infinite logits give a finite loss.

    The logits must be checked before."""
    return loss_of(Terms((real, fake), (1.0, 0.0), (weight, weight), "softplus", 1))
