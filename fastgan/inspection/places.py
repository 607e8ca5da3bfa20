"""Find the line of the user's code that called an operator."""

from __future__ import annotations

import functools
import inspect
import os
import sysconfig
from typing import NamedTuple

import torch

import fastgan

TORCH = os.path.dirname(torch.__file__) + os.sep
OURS = os.path.dirname(fastgan.__file__) + os.sep
KERNELS = os.path.realpath(OURS + "kernels") + os.sep
STANDARD = sysconfig.get_path("stdlib") + os.sep
# Installed packages that call backward and step for the user's loop: the loop's line is reported, not theirs.
CALLERS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")


class Place(NamedTuple):
    file: str
    line: int


class Where(NamedTuple):
    """inner: the innermost line of the user. outer: in a backward pass, the line that called backward; else inner."""

    inner: Place
    outer: Place
    backward: bool
    optimizer: bool  # inside an optimizer of torch
    framework: bool  # one of CALLERS called backward for that line


NOWHERE = Place("?", 0)


@functools.lru_cache(maxsize=4096)
def kind(file: str) -> str:
    """Whose code a file is: 'user', 'optimizer' or 'autograd' of torch, 'framework', or 'other', which is skipped."""
    if file.startswith(TORCH):
        if file.startswith(os.path.join(TORCH, "optim")):
            return "optimizer"
        return "autograd" if file == os.path.join(TORCH, "autograd", "__init__.py") else "other"
    if file.startswith((OURS, KERNELS, "<frozen")) or (file.startswith(STANDARD) and "site-packages" not in file):
        return "other"
    _, installed, name = file.rpartition(f"-packages{os.sep}")
    return "framework" if installed and name.split(os.sep)[0] in CALLERS else "user"


def called_by_user() -> bool:
    """Whether the function that calls this was itself called from a line of the user, and not by torch."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    return frame is not None and kind(frame.f_code.co_filename) == "user"


def where() -> Where:
    """The user's lines on the current stack. Autograd must run backward passes on the thread that called backward."""
    inner = outer = None
    backward = optimizer = framework = False
    frame = inspect.currentframe()
    while frame is not None:
        code = kind(frame.f_code.co_filename)
        if code == "user":
            if outer is None:
                outer = Place(frame.f_code.co_filename, frame.f_lineno)
                inner = inner or outer
        elif code == "optimizer":
            optimizer |= inner is None
        elif code == "framework":
            framework |= backward and outer is None
        elif code == "autograd" and frame.f_code.co_name in ("backward", "grad"):
            backward, outer = True, None
        frame = frame.f_back
    return Where(inner or NOWHERE, outer or NOWHERE, backward, optimizer, framework)
