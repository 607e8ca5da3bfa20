"""`fastgan doctor --step module:function`: the report of `fastgan.inspect_step` on the user's training step."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from fastgan.cli.errors import FAILED, OK
from fastgan.cli.named import find, refusing_errors_of
from fastgan.inspection import inspect_step


def inspect(args: argparse.Namespace) -> int:
    """Print the report. Exit code 1 if there are findings, and not only notes."""
    step = find("--step", args.step, "module:function, as in train:make_step")
    with refusing_errors_of("--step", args.step), contextlib.redirect_stdout(sys.stderr):  # the user's prints
        made = step()
        report = inspect_step(made if callable(made) else step)
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    return FAILED if report.costs else OK
