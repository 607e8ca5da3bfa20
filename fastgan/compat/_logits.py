"""What the drop-ins of unconditional GANs ask of their logits, told in the names of the codebase they replace."""

from __future__ import annotations

from torch import Tensor

from fastgan import operators, small
from fastgan.functional import _check_logits
from fastgan.operators import Terms


def check(*, lists: bool = False, **logits: Tensor) -> None:
    """TypeError or ValueError where one of `logits` is not a non-empty tensor of the dtype and device of the first.

    lists: whether a list of tensors will do as well."""
    if operators.plain(*logits.values()):
        return
    tensors = []
    for name, given in logits.items():
        listed = lists and isinstance(given, (list, tuple))
        if listed and not given:
            raise ValueError(f"{name}: got an empty list, expected at least one tensor")
        tensors += [(f"{name}[{i}]", x) for i, x in enumerate(given)] if listed else [(name, given)]
    _check_logits(*[(name, (x,)) for name, x in tensors])
    for name, x in tensors:
        if not x.numel():
            raise ValueError(f"{name}: got an empty tensor of shape {tuple(x.shape)}, expected at least one logit")


def softplus_of_both(real: Tensor, fake: Tensor, weight: float = 1.0) -> Tensor:
    """weight (mean softplus(-real) + mean softplus(fake)), 0-d; one launch. Finite of infinite logits that are right.

    The logits are checked already."""
    if operators.plain(real, fake):
        return small.pair("softplus", real, 1.0, fake, 0.0, weight)
    return operators.value(Terms((real, fake), (1.0, 0.0), (weight, weight), "softplus", 1))[0]
