"""What the drop-ins of unconditional GANs ask of their logits, told in the names of the codebase they replace."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgan.formulas.terms import Terms
from fastgan.losses.adversarial import loss_of
from fastgan.losses.arguments import check_logits


class Refused(AssertionError, ValueError):
    """What upstream asserts, and its tests expect as an AssertionError."""


def check(*, lists: bool = False, **logits: Any) -> None:
    """TypeError or ValueError where one of `logits` is not a non-empty tensor of the dtype and device of the first.

    lists: whether a list of tensors will do as well."""
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
    """weight (mean softplus(-real) + mean softplus(fake)), 0-d; one launch. Finite of infinite logits that are right.

    The logits are checked already."""
    return loss_of(Terms((real, fake), (1.0, 0.0), (weight, weight), "softplus", 1))
