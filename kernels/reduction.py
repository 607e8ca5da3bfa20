"""Which program does what, and how the sums of all programs become one: what every kernel here shares.

Programs own terms (or pairs, or blocks of rows) in proportion to their tiles. Each leaves float64 partial sums. The
last one to finish, which a ticket tells, adds them in a fixed order: a result is bit-identical from run to run.
"""

from __future__ import annotations

import functools
import heapq
import math
import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl


@triton.jit
def in_thread_sum(v, V: tl.constexpr):
    """[BLOCK] -> [BLOCK // V]: adds what one thread loaded at once, so a tile costs BLOCK // V accumulators."""
    return tl.sum(tl.reshape(v, [v.shape[0] // V, V]), axis=1)


@triton.jit
def _add_three(a, b, c, x, y, z):
    return a + x, b + y, c + z


@triton.jit
def sum_three(a, b, c):
    """The float64 sums of three vectors, in one pass through shared memory and not three."""
    return tl.reduce((a.to(tl.float64), b.to(tl.float64), c.to(tl.float64)), 0, _add_three)


@triton.jit
def partial_sums(partials, i, used, MAX_PROGRAMS: tl.constexpr):
    """What programs i left in each of three rows of `partials`; 0 where not `used`."""
    a = tl.load(partials + i, mask=used, other=0.0, cache_modifier=".cg")
    b = tl.load(partials + MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
    c = tl.load(partials + 2 * MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
    return a, b, c


@triton.jit
def plain(v):
    """Undoes `odd`."""
    return (v - 3) >> 1


def odd(v: int) -> int:
    """An integer as a kernel takes it in a tuple, whose items Triton always specialises: a 1 would become a constant of
    the compiled kernel and a multiple of 16 a kernel of its own. 2 v + 3 is neither, for any v >= 0."""
    return 2 * v + 3


def split_floats(values: Sequence[float], double: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each value as a sum of two float32, since a float argument of a kernel is one; exact to 48 bits for float64.
    Beyond the range of float32 it is infinite."""
    if not double:
        return tuple(values), (0.0,) * len(values)
    high = struct.unpack(f"{len(values)}f", struct.pack(f"{len(values)}f", *values))
    return high, tuple([v - h if math.isfinite(h) else 0.0 for v, h in zip(values, high)])


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    if device.type != "cuda":
        return 2  # the interpreter runs programs one after the other
    return torch.cuda.get_device_properties(device).multi_processor_count


def programs_of(tiles: Sequence[int], most: int) -> list[int]:
    """How many programs own each term, of at most `most` in all (but one a term): as many as make the longest walk,
    the most tiles that one program has, as short as it can be; what is left goes where it shortens a walk most."""
    if sum(tiles) <= most:
        return list(tiles)
    low, high = 1, max(tiles)
    while low < high:  # the shortest longest walk for which there are enough programs
        walk = (low + high) // 2
        if sum([-(-t // walk) for t in tiles]) <= most:
            high = walk
        else:
            low = walk + 1
    found = [-(-t // low) for t in tiles]
    spare = most - sum(found)
    longest = [(-t / p, k) for k, (t, p) in enumerate(zip(tiles, found))]
    heapq.heapify(longest)
    for _ in range(spare):
        k = longest[0][1]
        if found[k] < tiles[k]:
            found[k] += 1
        heapq.heapreplace(longest, (-tiles[k] / found[k] if found[k] < tiles[k] else 0.0, k))
    return found
