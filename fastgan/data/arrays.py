"""One array from an `.npy` or `.npz` file. Its declared size is compared with the free memory before it is read."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from fastgan.checks import said

COPIES = 3  # of the array in memory at once while it is converted for training (points as float64)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


class _Refused(ValueError):
    """The file is not damaged, and the message is ready for the user."""


def read_array(path: Path, memory: float) -> np.ndarray:
    """The array in `path`, an `.npy` file or an `.npz` file that holds one: C-contiguous, in this machine's byte order.

    memory: how many bytes `COPIES` of it may use. The declared size is checked before anything of that size is
    allocated, so that a small file that unpacks to more than the memory is refused.
    Raises OSError, or ValueError for a file that is damaged, holds no or several arrays, or is too large."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            if start not in _ZIP:
                return _read(path, file, os.fstat(file.fileno()).st_size, memory)
            with zipfile.ZipFile(file) as archive:
                parts = archive.infolist()
                if len(parts) == 1:
                    with archive.open(parts[0]) as part:
                        return _read(path, part, parts[0].file_size, memory)
                names = ", ".join(part.filename.removesuffix(".npy") for part in parts) or "none"
                raise _Refused(f"DATA: {path} holds {len(parts)} arrays ({names}), expected exactly one")
    except _Refused:
        raise
    except OSError as error:
        if error.errno:  # an error of the file system, whose message is already clear
            raise
        raise ValueError(f"DATA: {path} is damaged or no numpy file ({error})") from error
    # zipfile.BadZipFile, zlib.error, EOFError, ValueError and others, depending on where the file is damaged
    except Exception as error:
        raise ValueError(f"DATA: {path} is damaged or no numpy file ({said(error)})") from error


def _read(path: Path, file: IO[bytes], size: int, memory: float) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for structured arrays with non-Latin field names
        raise ValueError(f"version {version[0]}.{version[1]} of the format, expected 1.0 or 2.0")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, expected numbers")
    if any(n < 0 for n in shape):  # NumPy before 2.3 would read all of the file
        raise ValueError(f"its header declares the shape {shape}")
    count = math.prod(shape)
    needed = COPIES * count * (max(8, dtype.itemsize) if dtype.kind == "f" else dtype.itemsize)
    if needed > memory:
        raise _Refused(
            f"DATA: {path} holds {dtype} of shape {shape}, which takes {needed / 1e9:,.1f} GB, "
            f"expected at most the {memory / 1e9:,.1f} GB of memory that are free"
        )
    declared = count * dtype.itemsize
    if declared > size - file.tell():
        raise ValueError(f"its header declares {declared:,} bytes, and {max(0, size - file.tell()):,} follow")
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    file.read(1)  # zipfile compares the checksum when it reaches the end of a part
    return np.asarray(array, dtype=dtype.newbyteorder("="), order="C")
