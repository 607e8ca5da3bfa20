"""Memory of large CPU tensors, used again.

A fresh tensor of a megabyte costs its 256 page faults, several times what it takes to write a gradient there; freed, it
goes back to the system, and the next step pays again. So the storages of large gradients are kept, and one that nobody
else holds any more serves the next gradient of its size. A tensor, a view of it, its `.grad`, a NumPy array or DLPack
capsule over it: whatever still reads the memory holds its storage, which PyTorch counts; and Python counts who holds
the storage's own object.
"""

from __future__ import annotations

import sys
import threading

import torch
from torch import Tensor

SMALLEST, MOST = 1 << 18, 1 << 26  # bytes: of a storage that is worth keeping, and of all that a thread keeps
_holders = getattr(torch._C, "_storage_Use_Count", None)  # private to PyTorch: without it nothing is kept
_kept = threading.local()


def _references(storage) -> int:
    return sys.getrefcount(storage)


for _storage in [torch.empty(0, device="cpu").untyped_storage()]:
    _KEPT_ALONE = _references(_storage)  # by a list and a loop over it; how many that makes is Python's own affair


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.empty_like(x, dtype=dtype)` of a dense tensor; on a CPU in memory that is at hand, if it can be."""
    dtype = x.dtype if dtype is None else dtype
    size = x.numel() * dtype.itemsize
    if not SMALLEST <= size <= MOST or not x.is_cpu or _holders is None:
        return torch.empty_like(x, dtype=dtype)
    of_size = _kept.__dict__.setdefault(size, [])
    for storage in of_size:
        if _holders(storage._cdata) == 1 and _references(storage) == _KEPT_ALONE:
            if storage.nbytes() != size or storage.is_shared():  # resized, or another process reads it: not ours now
                of_size.remove(storage)
                break
            return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, x.shape, x.stride())
    fresh = torch.empty_like(x, dtype=dtype)
    _make_room(size)
    of_size.append(fresh.untyped_storage())
    return fresh


def _make_room(size: int) -> None:
    """Lets go of storages, those of sizes not asked for lately first, until `size` bytes more may be kept."""
    sizes = _kept.__dict__
    sizes[size] = sizes.pop(size)  # now the last
    total = size + sum(kept * len(storages) for kept, storages in sizes.items())
    for kept, storages in list(sizes.items()):
        while storages and total > MOST:
            del storages[0]
            total -= kept
        if not storages and kept != size:
            del sizes[kept]


def reset() -> None:
    """Let go of what this thread keeps."""
    _kept.__dict__.clear()
