"""Optional packages: the error if one is missing, and progress bars with or without tqdm."""

from __future__ import annotations

import sys


def needs(module: str, extra: str = "train") -> str:
    """The error message for a missing optional dependency."""
    return f"{module} is not installed; it comes with: pip install 'fastgan[{extra}]'"


class _NoBar:
    """The stand-in if tqdm is not installed."""

    disable = True

    def __init__(self, iterable):
        self.iterable = iterable

    def __iter__(self):
        return iter(self.iterable)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n: int) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        pass


def progress_bar(iterable=None, hidden: bool = False, **options):
    """tqdm's bar, with the unit "img" by default. Visible only if tqdm is installed and stderr is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar(iterable)
    options = {"unit": " img", "unit_scale": True, "dynamic_ncols": True, **options}
    return tqdm(iterable, disable=hidden or not sys.stderr.isatty(), **options)
