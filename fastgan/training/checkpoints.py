"""Files of a training run: written whole or not at all, and read without running any code."""

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
    "CHECKPOINT_FORMAT", "FORMAT_1_SETTINGS", "check_same_network", "plain", "read_checkpoint", "write_atomically",
]  # fmt: skip

CHECKPOINT_FORMAT = 2
PLAIN = (type(None), bool, int, float, complex, str, bytes)
# What a checkpoint of format 1 does not say, because there was no other way then.
FORMAT_1_SETTINGS = {
    "r2": 0.0, "step": "alternating", "precision": "float32", "compile": False, "accumulate": 1,
    "concatenate": False, "channels_last": False, "redraw": True, "bandwidths": None,
}  # fmt: skip
# Nor do those of fastgan 0.1, of any format, say this. What is None if nothing is said need not stand here.
SINCE_0_2_SETTINGS = {"augment_p": 1.0}

# What every checkpoint holds, and of what type; "discriminator" and "optimizer_d" are there if there is a D.
CONTENT = {
    "step": int, "settings": dict, "random": Tensor, "torch_random": Tensor, "scaler": dict,
    "cuda_random": (Tensor, type(None)), "generator": dict, "ema": dict, "optimizer_g": dict,
}  # fmt: skip


def read_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict:
    """The content of a checkpoint, its tensors on `device`; one of an older format is brought to this one.

    Every byte of it is compared with the file's own checksums first, which `torch.load` does not look at.
    Raises FileNotFoundError, OSError, or ValueError for a file that is cut short, damaged or no checkpoint of ours."""
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
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to before the beginning of what is left
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
    """Says which part of an archive is not what was written."""


def _check_archive(path: Path) -> None:
    """Raises _Damaged unless `path` is an archive as torch.save writes it, nothing compressed, all checksums right."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise _Damaged("it is compressed, which torch.save never does")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise _Damaged("its parts are larger than the file")
        wrong = archive.testzip()
    if wrong is not None:
        raise _Damaged(f"the checksum of its part {wrong} is wrong")


def plain(content: dict) -> dict:
    """The content of a checkpoint with Python's numbers in the place of NumPy's, as a schedule of `np.cos` makes them:
    those are objects that `read_checkpoint`, which runs no code, would refuse. States of networks stay as they are.

    Raises TypeError, naming the part, if it holds another such object: what is saved must be read again."""
    content = _with_own_numbers(content)
    for name, part in content.items():
        for leaf in _leaves(part):
            if type(leaf) not in PLAIN and not isinstance(leaf, Tensor) and not _is_read(leaf):
                raise TypeError(
                    f"{name}: holds a {type(leaf).__name__}, expected numbers, texts and tensors in lists and "
                    "dictionaries: a checkpoint is read without running code"
                )
    return content


def _with_own_numbers(content: Any) -> Any:
    if isinstance(content, np.generic):
        return content.item()
    if type(content) in (dict, Counter):
        return type(content)({key: _with_own_numbers(value) for key, value in content.items()})
    return type(content)(map(_with_own_numbers, content)) if type(content) in (list, tuple) else content


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        content = list(content.values())
    if type(content) in (list, tuple):
        for item in content:
            yield from _leaves(item)
    else:
        yield content


def _is_read(leaf: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(leaf, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # of pickle, by what the object is
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
    """Call `write(file)` on a new binary file beside `path`, bring it to the disk, then put it in `path`'s place.

    The new file's name cannot be foretold, and no file or link that is there already is opened; its mode is what the
    umask leaves of rw-rw-rw-. Raises OSError, naming `path`, if that fails; the new file is removed and the old one
    stands, and if `path` is a device, a pipe or a socket, whose place no file may take."""
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
        # torch.save reports a full disk as a RuntimeError, with the cause underneath.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(cause, OSError):
            raise OSError(cause.errno, f"cannot write {path}: {cause.strerror or cause}") from error
        raise
