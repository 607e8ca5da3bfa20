"""`fastgan doctor --step module:function`: the verdict of `fastgan.inspect_step` on a step of the user's."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from fastgan.checks import said
from fastgan.cli.errors import FAILED, OK, Refused
from fastgan.inspection import inspect_step
from fastgan.inspection.places import kind

EXPECTED = "expected module:function, as in train:make_step"


def inspect(args: argparse.Namespace) -> int:
    """Exit code 1 if there are findings that cost something, and not only notes."""
    step = find(args.step)
    with refusing_errors_of(args.step), contextlib.redirect_stdout(sys.stderr):  # what the step prints is no report
        made = step()
        report = inspect_step(made if callable(made) else step)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    return FAILED if report.costs else OK


def find(name: str) -> Callable[[], Any]:
    """Raises Refused if there is no such function. The module is looked for in the current directory first."""
    module, colon, path = name.partition(":")
    if not module or not colon or not path:
        raise Refused(f"--step: got {name!r}, {EXPECTED}")
    sys.path.insert(0, os.getcwd())
    with refusing_errors_of(module):
        found: Any = importlib.import_module(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise Refused(f"--step: {module} has no {path!r}, {EXPECTED}")
        found = getattr(found, part)
    if not callable(found):
        raise Refused(f"--step: {name} is of type {type(found).__name__}, {EXPECTED}")
    return found


@contextlib.contextmanager
def refusing_errors_of(what: str) -> Iterator[None]:
    """What the user's code raises, in one line with the line of theirs that it came from."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if kind(f.filename) == "user"]
        at = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
        raise Refused(f"--step: {what} raised {type(error).__name__}{at}: {said(error)}") from error
