"""Options made from the settings of a run, and argument types for numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from fastgan.checks import MOST, Whole, shortened
from fastgan.training import recipes
from fastgan.training.config import SETTINGS

DIGITS = recipes.find(None, 8)  # the recipe whose defaults --help shows


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting that has a help text, in the groups that the settings name."""
    shown = {name: f.metadata["group"] for name, f in SETTINGS.items() if f.metadata["help"]}
    for title in dict.fromkeys(["", *shown.values()]):
        group = parser.add_argument_group(title) if title else parser
        for name in (name for name, of in shown.items() if of == title):
            add_setting(group, name, help=SETTINGS[name].metadata["help"].format(getattr(DIGITS, name)))


def add_setting(parser, name: str, **overrides) -> None:
    """Add the option of one setting, with its type and limits. overrides: arguments of `add_argument` to replace."""
    f = SETTINGS[name]
    kind, check, metavar = f.type.split(" ")[0], f.metadata["check"], f.metadata["shown"]
    options: dict[str, Any]
    if kind == "bool":
        options = {"action": argparse.BooleanOptionalAction}
    elif kind == "int":
        low, high = (check.least, check.most) if isinstance(check, Whole) else (1, MOST)
        assert low is not None and high is not None  # every setting with an option has limits
        options = {"type": whole(low, high), "metavar": metavar}
    elif kind == "float":
        options = {"type": float, "metavar": metavar}
    else:
        options = {"metavar": metavar} if metavar else {"choices": [c for c in check.choices if c is not None]}
    parser.add_argument(f"--{name.replace('_', '-')}", **{**options, **overrides})


def whole(low: int = 1, high: int = MOST) -> Callable[[str], int]:
    """An argument type: whole numbers from `low` to `high`."""

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
