"""Imports of what the command line names as MODULE:NAME: a network's class or a training step.

Only names from the command line are imported, never names from a run's folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from fastgan.checks import said
from fastgan.cli.errors import Refused
from fastgan.inspection.places import kind


def find(option: str, named: str, expected: str) -> Callable[..., Any]:
    """Import the class or function `named`, MODULE:NAME. Modules are looked for in the current directory first.

    Raises Refused, naming the option, if there is none."""
    module, colon, path = named.partition(":")
    if not (module and colon and path):
        raise Refused(f"{option}: got {named!r}, expected {expected}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    with refusing_errors_of(option, module):
        target: Any = importlib.import_module(module)
    for part in path.split("."):
        if not hasattr(target, part):
            raise Refused(f"{option}: {module} has no {path!r}, expected {expected}")
        target = getattr(target, part)
    if not callable(target):
        raise Refused(f"{option}: {named} is of type {type(target).__name__}, expected {expected}")
    return target


@contextlib.contextmanager
def refusing_errors_of(option: str, what: str) -> Iterator[None]:
    """Turn an error of the user's code into `Refused`: one line, with the file and line of the user that raised it."""
    try:
        yield
    except (Exception, SystemExit) as error:  # an import runs the module, which may raise anything, or exit
        frames = traceback.extract_tb(error.__traceback__)
        of_user = [f for f in frames if kind(f.filename) == "user"]
        at = f" at {of_user[-1].filename}:{of_user[-1].lineno}" if of_user else ""
        raise Refused(f"{option}: {what} raised {type(error).__name__}{at}: {said(error)}") from error
