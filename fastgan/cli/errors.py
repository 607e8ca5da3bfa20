"""What goes wrong, in one line and an exit code; and the signals that stop a run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Collection, Iterator

import torch

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# What PyTorch says in a plain RuntimeError if memory for a tensor is not there, or no number could count it.
NO_MEMORY = re.compile(
    "can't allocate memory|not enough memory|storage size calculation overflow|numel.*overflow|out of memory"
    "|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE,
)


class Refused(Exception):
    """Bad arguments or input: one line for the user, exit code 2."""


class Failed(Exception):
    """Something that was fine at the start went wrong: one line for the user, exit code 1."""


@contextlib.contextmanager
def refusing(options: Collection[str] = ()) -> Iterator[None]:
    """What goes wrong inside is the input's fault. If a message begins with the name of one of the `options`, it
    names the option instead, as the user has written it."""
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
    """What goes wrong inside is the machine's fault. Anything else is a bug, and shows its traceback."""
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        how = f"; to go on: {again}" if again else ""
        raise Failed(f"{one_line(error)}; what was saved before stands{how}") from error


def out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if out_of_memory(error):
        return "out of memory; a smaller --batch, --size or --width takes less"
    return str(error).split("\n")[0]


def say(line: str) -> None:
    print(f"fastgan: {printable(line)}", file=sys.stderr, flush=True)


def printable(line: str) -> str:
    """On one line whatever names it holds, and with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Output that does not fail if the terminal knows too few characters. Raises Failed if nobody reads it any
    more, as with `| head`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        with contextlib.suppress(OSError, ValueError):  # else Python says it again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Failed("nobody reads the output any more") from error


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
