"""Checks of the losses' arguments. Errors name the argument and its position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastgan.checks import number
from fastgan.formulas import criteria
from fastgan.operators.dispatch import derivative_expected

Logits = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]]
Label = float | Tensor | Sequence[Tensor]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REDUCTIONS = ("mean", "sum", "none", "sample")


def listed(name: str, logits: Logits) -> Sequence[Tensor]:
    """The tensors of logits; of each list of features, the last tensor."""
    if isinstance(logits, Tensor):
        return (logits,)
    if not isinstance(logits, (list, tuple)):
        raise TypeError(f"{name}: got {type(logits).__name__}, expected a torch.Tensor, a list of them, or of lists")
    if not logits:
        raise ValueError(f"{name}: got an empty list, expected at least one tensor")
    found = []
    for i, x in enumerate(logits):
        if isinstance(x, (list, tuple)):
            if not x:
                raise ValueError(f"{name}[{i}]: got an empty list, expected features and logits, the logits last")
            x = x[-1]
        found.append(x)
    return found


def index(i: int, of: Sequence) -> str:
    """The index of item i for an error message; empty if the argument has one item."""
    return f"[{i}]" if len(of) > 1 else ""


def floating(name: str, x: Tensor) -> None:
    """Raise TypeError or ValueError unless `x` is a dense tensor of float16, bfloat16, float32 or float64."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: got {x.dtype}, expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided:
        raise ValueError(f"{name}: got a {x.layout} tensor, expected a dense one")


def check_logits(*sides: tuple[str, Sequence[Tensor]]) -> None:
    """Raise unless all tensors of the (name, tensors) sides are floating and dense, of one dtype and device."""
    first_name = first = None
    for name, logits in sides:
        for i, x in enumerate(logits):
            if not isinstance(x, Tensor) or x.dtype not in DTYPES or x.layout is not torch.strided:
                floating(name + index(i, logits), x)
            if first is None:
                first_name, first = name + index(i, logits), x
            elif x.dtype != first.dtype:
                raise ValueError(
                    f"{name}{index(i, logits)}: got {x.dtype}, expected {first.dtype}, the dtype of {first_name}"
                )
            elif x.device != first.device:
                raise ValueError(
                    f"{name}{index(i, logits)}: got a tensor on {x.device}, expected {first.device}, "
                    f"the device of {first_name}"
                )


def both_sides(real_logits: Logits, fake_logits: Logits) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    real, fake = listed("real_logits", real_logits), listed("fake_logits", fake_logits)
    check_logits(("real_logits", real), ("fake_logits", fake))
    if len(real) != len(fake):
        raise ValueError(f"fake_logits: got {len(fake)} tensors, expected {len(real)}, as many as real_logits")
    return real, fake


def expanded(name: str, given: Tensor | Sequence[Tensor], logits: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each tensor of `given`, expanded to the shape of its logits; a single tensor is expanded for all of them."""
    if not isinstance(given, (Tensor, list, tuple)):
        raise TypeError(f"{name}: got {type(given).__name__}, expected a torch.Tensor, or a list of them")
    given = [given] * len(logits) if isinstance(given, Tensor) else list(given)
    if len(given) != len(logits):
        raise ValueError(f"{name}: got {len(given)} tensors, expected {len(logits)}, one for each tensor of logits")
    for i, (t, x) in enumerate(zip(given, logits)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}{index(i, logits)}: got {type(t).__name__}, expected a torch.Tensor")
        if t.device != x.device:
            raise ValueError(f"{name}{index(i, logits)}: got a tensor on {t.device}, expected {x.device}")
        if t.dtype.is_complex or t.layout is not torch.strided:
            raise TypeError(f"{name}{index(i, logits)}: got a {t.dtype} {t.layout} tensor, expected dense real numbers")
        try:
            yield t.expand(x.shape)
        except RuntimeError:
            raise ValueError(
                f"{name}{index(i, logits)}: got shape {tuple(t.shape)}, expected one that expands to {tuple(x.shape)}"
            ) from None


def check_label(name: str, label: float, criterion: str) -> None:
    if label.__class__ is float and label in (0.0, 1.0):
        return  # valid for every criterion
    number(name, label)
    allowed = criteria.find(criterion).labels
    if allowed == "probability" and not 0.0 <= label <= 1.0:
        raise ValueError(f"{name}: got {label}, expected a probability in [0, 1]")
    if allowed == "side" and label not in (0, 1):
        raise ValueError(f"{name}: got {label}, expected 1 (real) or 0 (generated) for criterion {criterion!r}")


def choice(name: str, value: str | None, choices: Sequence[str | None]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected {' or '.join(map(repr, choices))}")


def scalar(name: str, value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number or a tensor of one element as a 0-d tensor of `dtype` on `device`; a number causes no device sync."""
    if not isinstance(value, Tensor):
        return torch.full((), number(name, value), dtype=dtype, device=device)
    if value.numel() != 1:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected a number or a tensor of one element")
    return value.to(device, dtype).reshape(())


def pairs(name: str, given: Sequence[tuple[Logits, Label]]) -> list[tuple[str, Logits, Label]]:
    """(name for errors, logits, label) of each pair."""
    expected = "(logits, label) pairs"
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name}: got {type(given).__name__}, expected a list of {expected}")
    if not given:
        raise ValueError(f"{name}: got an empty list, expected {expected}")
    for i, pair in enumerate(given):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(f"{name}[{i}]: got {type(pair).__name__}, expected one of {expected}")
    return [(f"{name}[{i}]", logits, label) for i, (logits, label) in enumerate(given)]


def grad_scale_of(grad_scale, like: Tensor) -> tuple[Tensor | None, float]:
    if grad_scale is None:
        return None, 1.0
    if not isinstance(grad_scale, Tensor):
        return None, number("grad_scale", grad_scale)
    if grad_scale.numel() != 1 or not grad_scale.is_floating_point():
        raise ValueError(
            f"grad_scale: got a {grad_scale.dtype} tensor of shape {tuple(grad_scale.shape)}, "
            "expected a number or a floating tensor of one element"
        )
    if grad_scale.device != like.device:
        raise ValueError(f"grad_scale: got a tensor on {grad_scale.device}, expected {like.device}")
    return grad_scale.detach().reshape(()), 1.0


def refuse_weights(objective: str, **weights) -> None:
    for name, value in weights.items():
        if value is not None:
            raise ValueError(f"{name}: got weights, but objective {objective!r} compares logits, expected None")


def derivative_refused(function: str, instead: str) -> None:
    """Raise RuntimeError if a derivative of `function` is expected: its result carries none."""
    if derivative_expected():
        raise RuntimeError(
            f"{function}: its result carries no derivative, and a torch.func transform or forward-mode AD is active; "
            f"use {instead} there"
        )
