"""Errors as one line and an exit code, and the signals that stop a run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Collection, Iterator

import torch

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# Texts of the plain RuntimeError that PyTorch raises if there is not enough memory, or the size of a tensor overflows.
NO_MEMORY = re.compile(
    "can't allocate memory|not enough memory|storage size calculation overflow|numel.*overflow|out of memory"
    "|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE,
)


class Refused(Exception):
    """Bad arguments or input: one line for the user, exit code 2."""


class Failed(Exception):
    """An error while running: one line for the user, exit code 1."""


@contextlib.contextmanager
def refusing(options: Collection[str] = ()) -> Iterator[None]:
    """Turn errors inside into `Refused`: the input is wrong. If a message begins with the name of one of the `options`
    (r1_every), it is replaced by the option as the user writes it (--r1-every)."""
    try:
        yield
    except (ValueError, ImportError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        said = one_line(error)
        name, colon, rest = said.partition(":")
        raise Refused(f"{as_option(name)}:{rest}" if colon and name in options else said) from error


def as_option(name: str) -> str:
    return "--" + name.replace("_", "-")


@contextlib.contextmanager
def failing(again: str = "") -> Iterator[None]:
    """Turn OSError and lack of memory inside into `Failed`. Anything else is a bug, and keeps its traceback.

    again: the command that resumes the run, for the message."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        how = f"; to resume: {again}" if again else ""
        raise Failed(f"{one_line(error)}; what was saved before is kept{how}") from error


def out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if out_of_memory(error):
        return "out of memory; a smaller --batch, --size or --width needs less"
    return str(error).split("\n")[0]


def say(line: str) -> None:
    print(f"fastgan: {printable(line)}", file=sys.stderr, flush=True)


def printable(line: str) -> str:
    """The text on one line, with control characters escaped, so that no name in it can control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


@contextlib.contextmanager
def robust_output() -> Iterator[None]:
    """Escape characters that the terminal's encoding does not have. Raises Failed if the output pipe is closed, as by
    `| head`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        with contextlib.suppress(OSError, ValueError):  # else Python reports the same error again when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Failed("the output pipe was closed") from error


@contextlib.contextmanager
def catching_signals() -> Iterator[list[int]]:
    """A list to which the first Ctrl-C or SIGTERM is added, so that the step can be completed. A second signal has its
    usual effect."""
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
