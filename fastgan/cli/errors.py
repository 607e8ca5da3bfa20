"""What goes wrong, in one line and an exit code; and the signals that stop a run."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import torch

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Refused(Exception):
    """Bad arguments or input: one line for the user, exit code 2."""


class Failed(Exception):
    """Something that was fine at the start went wrong: one line for the user, exit code 1."""


@contextlib.contextmanager
def catching_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM is put into, so that a step is never left half done. A second one acts as
    it always does."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, _) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What goes wrong inside is the input's fault."""
    try:
        yield
    except (ValueError, ImportError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise Refused(one_line(error)) from error


@contextlib.contextmanager
def failing(again: str = "") -> Iterator[None]:
    """What goes wrong inside is the machine's fault. Anything else is a bug, and shows its traceback."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        how = f"; to go on: {again}" if again else ""
        raise Failed(f"{one_line(error)}; what was saved before stands{how}") from error


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "out of memory; a smaller --batch or --size takes less"
    return str(error).split("\n")[0]


def say(line: str) -> None:
    print(f"fastgan: {line}", file=sys.stderr, flush=True)
