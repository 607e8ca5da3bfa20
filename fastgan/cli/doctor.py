"""`fastgan doctor`: the report is `fastgan.doctor`'s."""

from __future__ import annotations

import argparse
import contextlib

import torch

from fastgan.cli.errors import FAILED, OK, refusing
from fastgan.doctor import examine
from fastgan.operators.dispatch import backend_for


def run_doctor(args: argparse.Namespace) -> int:
    with refusing(), contextlib.suppress(RuntimeError):  # RuntimeError: of a backend that fails here, which is reported
        backend_for(torch.device("cpu"))
    return OK if examine() else FAILED
