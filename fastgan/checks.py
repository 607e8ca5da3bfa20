"""Checks of values: each takes a name and a value, and returns the value or raises a one-line error with the name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

MOST = 2**63 - 1
Check = Callable[[str, Any], Any]


def said(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shortened(value: object) -> str:
    """The repr of a value, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def number(name: str, value: object, expected: str = "a number") -> float:
    """A number as Python's float: neither kernels nor JSON accept NumPy's."""
    if value.__class__ is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected {expected}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: got more than a float can hold, expected {expected}") from None


def _real(fits: Callable[[float], bool], expected: str) -> Callable[[str, Any], float]:
    def check(name: str, value: object) -> float:
        as_float = number(name, value)
        if not fits(as_float):
            raise ValueError(f"{name}: got {value}, expected {expected}")
        return as_float

    return check


finite = _real(math.isfinite, "a finite number")
not_negative = _real(lambda value: 0 <= value < math.inf, "a finite number >= 0")
positive = _real(lambda value: 0 < value < math.inf, "a finite number > 0")
share = _real(lambda value: 0 <= value <= 1, "a number from 0 to 1")


def whole(name: str, value: Any, least: int | None = 1, most: int | None = None) -> int:
    """The value as an integer. A float is accepted if it is whole, as 1e4 is."""
    if not isinstance(value, int) or isinstance(value, bool):
        number(name, value, "a whole number")
    if value != value // 1:  # infinity too
        raise ValueError(f"{name}: got {value}, expected a whole number")
    value = int(value)
    if least is not None and value < least:
        raise ValueError(f"{name}: got {shortened(value)}, expected at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name}: got {shortened(value)}, expected at most {most}")
    return value


class Whole:
    """Checks a whole number from `least` to `most`."""

    def __init__(self, least: int | None = 1, most: int | None = MOST):
        self.least, self.most = least, most

    def __call__(self, name: str, value: object) -> int:
        return whole(name, value, self.least, self.most)


class OneOf:
    """Checks that a value is one of `choices`."""

    def __init__(self, *choices):
        self.choices = choices

    def __call__(self, name: str, value: object) -> Any:
        if value not in self.choices:
            few = len(self.choices) <= 4
            expected = " or ".join(map(repr, self.choices)) if few else f"one of {', '.join(map(repr, self.choices))}"
            raise ValueError(f"{name}: got {shortened(value)}, expected {expected}")
        return value


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")
    return value


def text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a text")
    return value


def list_of(check: Check) -> Check:
    def check_all(name: str, value: object) -> list:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError(f"{name}: got {type(value).__name__}, expected a list")
        return [check(f"{name}[{i}]", item) for i, item in enumerate(value)]

    return check_all
