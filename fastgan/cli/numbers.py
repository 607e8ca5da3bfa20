"""Argument types: numbers, refused with what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from fastgan.cli.config import WHOLE


def add_whole(parser, option: str, **said) -> None:
    """Adds the option of a setting that is a whole number, within what `fastgan.cli.config` says of it."""
    parser.add_argument(option, type=whole(*WHOLE[option.strip("-").replace("-", "_")]), **said)


def whole(low: int, high: int) -> Callable[[str], int]:
    """The argument type of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"got {shortened(text)}, expected a whole number of at least {low}")
        if value > high:
            raise argparse.ArgumentTypeError(f"got {shortened(text)}, expected a whole number of at most {high}")
        return value

    return parse


def positive(text: str) -> float:
    return _number(text, lambda value: value > 0, "a number > 0")


def not_negative(text: str) -> float:
    return _number(text, lambda value: value >= 0, "a number >= 0")


def positives(text: str) -> tuple[float, ...]:
    return tuple(_number(part, lambda value: value > 0, "numbers > 0 with commas between") for part in text.split(","))


def _number(text: str, fits: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"got {shortened(text)}, expected {expected}")
    return value


def shortened(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
