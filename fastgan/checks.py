"""Numbers and errors: each check returns what it was given or raises one line that names the argument."""

from __future__ import annotations

import math
from numbers import Real


def said(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
    return float(value)


def whole(name: str, value: object, least: int | None = 1) -> int:
    """An integer, or a float that is one, as 1e4 is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a whole number")
    if value != value // 1:  # infinity too
        raise ValueError(f"{name}: got {value}, expected a whole number")
    value = int(value)
    if least is not None and value < least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")
    return value


def not_negative(name: str, value: object, zero: bool = True) -> float:
    if not (0 <= number(name, value) < math.inf and (zero or value)):
        raise ValueError(f"{name}: got {value}, expected a finite number {'>= 0' if zero else '> 0'}")
    return float(value)
