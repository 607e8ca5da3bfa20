"""How the kernels divide their work among programs, and how they add up the sums of all programs.

Programs own terms (or pairs, or blocks of rows) in proportion to their tiles. Each stores float64 partial sums. The
last program to finish, known by a ticket, adds them in a fixed order: a result is bit-identical from run to run.
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
    """[BLOCK] -> [BLOCK // V]: add the V elements of a thread's load, so that a tile has BLOCK // V accumulators."""
    return tl.sum(tl.reshape(v, [v.shape[0] // V, V]), axis=1)


@triton.jit
def _add_three(a, b, c, x, y, z):
    return a + x, b + y, c + z


@triton.jit
def sum_three(a, b, c):
    """The float64 sums of three vectors, in one pass through shared memory instead of three."""
    return tl.reduce((a.to(tl.float64), b.to(tl.float64), c.to(tl.float64)), 0, _add_three)


@triton.jit
def partial_sums(partials, i, used, MAX_PROGRAMS: tl.constexpr):
    """What programs i stored in each of the three rows of `partials`; 0 where not `used`."""
    a = tl.load(partials + i, mask=used, other=0.0, cache_modifier=".cg")
    b = tl.load(partials + MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
    c = tl.load(partials + 2 * MAX_PROGRAMS + i, mask=used, other=0.0, cache_modifier=".cg")
    return a, b, c


@triton.jit
def decode_int(v):
    """Invert `encode_int`."""
    return (v - 3) >> 1


def encode_int(v: int) -> int:
    """2 v + 3: encode an integer v >= 0 that a kernel gets in a tuple. Triton always specialises the items of a tuple:
    it would compile a 1 as a constant, and another kernel for multiples of 16. 2 v + 3 is neither."""
    return 2 * v + 3


def split_floats(values: Sequence[float], double: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each value as a sum of two float32, the dtype of a kernel's float arguments. The sum is exact to 48 bits if
    `double`, else the second part is 0. Beyond the range of float32 it is infinite."""
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
    """How many programs own each term: at least one, and otherwise at most `most` in all. The longest walk, the most
    tiles that one program has, is as short as possible. Spare programs go where they shorten a walk most."""
    if sum(tiles) <= most:
        return list(tiles)
    low, high = 1, max(tiles)
    while low < high:  # the shortest limit of a walk that `most` programs can keep
        walk = (low + high) // 2
        if sum([-(-t // walk) for t in tiles]) <= most:
            high = walk
        else:
            low = walk + 1
    programs = [-(-t // low) for t in tiles]
    spare = most - sum(programs)
    longest = [(-t / p, k) for k, (t, p) in enumerate(zip(tiles, programs))]
    heapq.heapify(longest)
    for _ in range(spare):
        k = longest[0][1]
        if programs[k] < tiles[k]:
            programs[k] += 1
        heapq.heapreplace(longest, (-tiles[k] / programs[k] if programs[k] < tiles[k] else 0.0, k))
    return programs
