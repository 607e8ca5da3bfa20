"""Files of a training run: written completely or not at all, and read without running any code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "CHECKPOINT_FORMAT", "FORMAT_1_SETTINGS", "check_same_network", "loadable", "read_checkpoint", "write_atomically",
]  # fmt: skip

CHECKPOINT_FORMAT = 2
LOADABLE_TYPES = (type(None), bool, int, float, complex, str, bytes)
# Settings that format 1 does not store: they had only this value then.
FORMAT_1_SETTINGS = {
    "r2": 0.0, "step": "alternating", "precision": "float32", "compile": False, "accumulate": 1,
    "concatenate": False, "channels_last": False, "redraw": True, "bandwidths": None,
}  # fmt: skip
# The same for fastgan 0.1, in both formats. Settings whose missing value is None need no entry.
SINCE_0_2_SETTINGS = {"augment_p": 1.0}

# The entries of every checkpoint and their types. "discriminator" and "optimizer_d" are there only if there is a D.
CONTENT: dict[str, type | tuple[type, ...]] = {
    "step": int, "settings": dict, "random": Tensor, "torch_random": Tensor, "scaler": dict,
    "cuda_random": (Tensor, type(None)), "generator": dict, "ema": dict, "optimizer_g": dict,
}  # fmt: skip


def read_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict:
    """The content of a checkpoint, its tensors on `device`. An older format is converted to the current one.

    First checks every byte against the file's checksums, which `torch.load` ignores.
    Raises FileNotFoundError, OSError, or ValueError for a file that is cut short, damaged or not of fastgan."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    damaged = f"{path}: is cut short or damaged, expected a checkpoint of fastgan"
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except _Damaged as error:
        raise ValueError(f"{damaged} ({error})") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before the start of a file that is cut short
            raise
        raise ValueError(damaged) from error
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, KeyError: it depends on where the file is cut
        raise ValueError(damaged) from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") not in (1, CHECKPOINT_FORMAT):
        raise ValueError(f"{path}: is no checkpoint of fastgan (format {CHECKPOINT_FORMAT})")
    if checkpoint["format"] == 1:
        checkpoint["scaler"] = {}
    for name, kind in CONTENT.items():
        if name not in checkpoint or not isinstance(checkpoint[name], kind):
            got = type(checkpoint[name]).__name__ if name in checkpoint else "nothing"
            raise ValueError(f"{path}: is no checkpoint of fastgan (it holds {got} as {name!r})")
    if checkpoint["step"] < 0:
        raise ValueError(f"{path}: is no checkpoint of fastgan (it holds {checkpoint['step']} as 'step')")
    if checkpoint["format"] == 1:
        checkpoint["settings"] = {**FORMAT_1_SETTINGS, **checkpoint["settings"]}
    checkpoint["settings"] = {**SINCE_0_2_SETTINGS, **checkpoint["settings"]}
    return checkpoint


class _Damaged(Exception):
    """The message says which part of an archive is damaged."""


def _check_archive(path: Path) -> None:
    """Raises _Damaged unless `path` is an uncompressed archive, as torch.save writes, with correct checksums."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise _Damaged("it is compressed, which torch.save never does")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise _Damaged("its parts are larger than the file")
        wrong = archive.testzip()
    if wrong is not None:
        raise _Damaged(f"the checksum of its part {wrong} is wrong")


def loadable(content: dict) -> dict:
    """The content of a checkpoint with Python numbers instead of NumPy's, which for example a schedule with `np.cos`
    makes: `read_checkpoint` runs no code and would refuse NumPy's. States of networks are unchanged.

    Raises TypeError, naming the part, if it holds another object that `read_checkpoint` would refuse."""
    content = _with_python_numbers(content)
    for name, part in content.items():
        for leaf in _leaves(part):
            if type(leaf) not in LOADABLE_TYPES and not isinstance(leaf, Tensor) and not _can_be_loaded(leaf):
                raise TypeError(
                    f"{name}: holds a {type(leaf).__name__}, expected numbers, texts and tensors in lists and "
                    "dictionaries: a checkpoint is read without running code"
                )
    return content


def _with_python_numbers(content: Any) -> Any:
    if isinstance(content, np.generic):
        return content.item()
    if type(content) in (dict, Counter):
        return type(content)({key: _with_python_numbers(value) for key, value in content.items()})
    return type(content)(map(_with_python_numbers, content)) if type(content) in (list, tuple) else content


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        content = list(content.values())
    if type(content) in (list, tuple):
        for item in content:
            yield from _leaves(item)
    else:
        yield content


def _can_be_loaded(leaf: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(leaf, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # the type depends on the object
        return False
    return True


def check_same_network(path: str | os.PathLike, name: str, network: nn.Module, state: dict) -> None:
    """Raises ValueError, naming the first difference, if `state` is not a state of `network`."""
    expected = network.state_dict()
    if not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path}: is of another {name}: its parameters have no names")
    for key in sorted(expected.keys() | state.keys()):
        here, there = (_shape(side[key]) if key in side else "not there" for side in (expected, state))
        if here != there:
            raise ValueError(f"{path}: is of another {name}: {key} is {there} in the file, expected {here}")


def _shape(value) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def write_atomically(path: str | os.PathLike, write: Callable) -> None:
    """Call `write(file)` on a new binary file beside `path`, flush it to the disk, then replace `path` with it.

    The new file has a random name, opens no existing file or link, and has the mode rw-rw-rw- less the umask. Raises
    OSError, naming `path`, if writing fails; the new file is then removed and the old one kept. Also raises OSError if
    `path` is a device, a pipe or a socket, which a file must not replace."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, f"cannot write {path}: it is no regular file")
    temporary = path.with_name(f".{secrets.token_hex(12)}.tmp")
    created = False
    try:
        with open(temporary, "xb") as file:  # "x": O_CREAT | O_EXCL, which follows no link
            created = True
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if created:
            with contextlib.suppress(OSError):
                temporary.unlink()
        # torch.save reports a full disk as a RuntimeError; its context is the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(cause, OSError):
            raise OSError(cause.errno, f"cannot write {path}: {cause.strerror or cause}") from error
        raise
