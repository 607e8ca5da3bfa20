"""A progress bar, silent if standard error is no terminal or tqdm is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


class _Silent:
    def __init__(self, items: Iterable[Any]):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def set_postfix_str(self, text: str) -> None:
        pass


def progress(items: Iterable[Any], what: str):
    try:
        from tqdm import tqdm
    except ImportError:
        return _Silent(items)
    return tqdm(items, desc=what, disable=not sys.stderr.isatty())
