"""What the drop-ins of unconditional GANs ask of their logits, told in the names of the codebase they replace."""

from __future__ import annotations

import torch
from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check(*, lists: bool = False, **logits) -> None:
    """TypeError or ValueError where one of `logits` is not a non-empty tensor of the dtype and device of the first.

    lists: whether a list of tensors will do as well."""
    first_name = first = None
    for name, given in logits.items():
        listed = lists and isinstance(given, (list, tuple))
        if listed and not given:
            raise ValueError(f"{name}: got an empty list, expected at least one tensor")
        for i, x in enumerate(given if listed else (given,)):
            at = f"{name}[{i}]" if listed else name
            if not isinstance(x, Tensor):
                raise TypeError(f"{at}: got {type(x).__name__}, expected a torch.Tensor")
            if x.dtype not in _DTYPES:
                raise TypeError(f"{at}: got {x.dtype}, expected float16, bfloat16, float32 or float64 logits")
            if not x.numel():
                raise ValueError(f"{at}: got an empty tensor of shape {tuple(x.shape)}, expected at least one logit")
            if first is None:
                first_name, first = at, x
            elif x.dtype != first.dtype:
                raise ValueError(f"{at}: got {x.dtype}, expected {first.dtype}, the dtype of {first_name}")
            elif x.device != first.device:
                raise ValueError(f"{at}: got a tensor on {x.device}, expected {first.device}, as {first_name}")
