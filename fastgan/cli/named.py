"""What the command line names as MODULE:NAME: a network's class, a training step. Only the command line does: nothing
that a run's folder names is imported."""

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
    """The class or function that `named` says. Modules are looked for in the folder of the command first.

    Raises Refused, naming the option, if there is none."""
    module, colon, path = named.partition(":")
    if not (module and colon and path):
        raise Refused(f"{option}: got {named!r}, expected {expected}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    with refusing_errors_of(option, module):
        found: Any = importlib.import_module(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise Refused(f"{option}: {module} has no {path!r}, expected {expected}")
        found = getattr(found, part)
    if not callable(found):
        raise Refused(f"{option}: {named} is of type {type(found).__name__}, expected {expected}")
    return found


@contextlib.contextmanager
def refusing_errors_of(option: str, what: str) -> Iterator[None]:
    """What the user's code raises, in one line with the line of theirs that it came from."""
    try:
        yield
    except (Exception, SystemExit) as error:  # an import runs the module, which may raise anything, or end
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if kind(f.filename) == "user"]
        at = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
        raise Refused(f"{option}: {what} raised {type(error).__name__}{at}: {said(error)}") from error
