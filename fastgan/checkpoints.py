"""Files of a training run: written whole or not at all, and read without running any code."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

CHECKPOINT_FORMAT = 2
# What a checkpoint of format 1 does not say, because there was no other way then.
FORMAT_1_SETTINGS = {
    "r2": 0.0, "step": "alternating", "precision": "float32", "compile": False, "accumulate": 1,
    "concatenate": False, "channels_last": False, "redraw": True, "bandwidths": None,
}  # fmt: skip


def read_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict:
    """The content of a checkpoint, its tensors on `device`; one of an older format is brought to this one.

    Raises FileNotFoundError, OSError, or ValueError for a file that is cut short, damaged or no checkpoint of ours."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to before the beginning of what is left
            raise
        raise ValueError(f"{path}: is cut short or damaged, expected a checkpoint of fastgan") from error
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, KeyError: it depends on where the file is cut
        raise ValueError(f"{path}: is cut short or damaged, expected a checkpoint of fastgan") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") not in (1, CHECKPOINT_FORMAT):
        raise ValueError(f"{path}: is no checkpoint of fastgan (format {CHECKPOINT_FORMAT})")
    if checkpoint["format"] == 1:
        checkpoint["settings"] = {**FORMAT_1_SETTINGS, **checkpoint["settings"]}
        checkpoint["scaler"] = {}
    return checkpoint


def check_same_network(path: str | os.PathLike, name: str, network: nn.Module, state: dict) -> None:
    """Raises ValueError, naming the first difference, where `state` is not a state of `network`."""
    expected = network.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        here = tuple(expected[key].shape) if key in expected else "not there"
        there = tuple(state[key].shape) if key in state else "not there"
        if here != there:
            raise ValueError(f"{path}: is of another {name}: {key} is {there} in the file, expected {here}")


def write_atomically(path: str | os.PathLike, write: Callable) -> None:
    """Call `write(file)` on a new binary file beside `path`, bring it to the disk, then put it in `path`'s place.

    Raises OSError, naming `path`, where that fails; the new file is removed and the old one stands."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch.save reports a full disk as a RuntimeError, with the cause underneath.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(cause, OSError):
            raise OSError(cause.errno, f"cannot write {path}: {cause.strerror or cause}") from error
        raise
