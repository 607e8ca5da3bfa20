"""The scratch memory of a launch of several programs, and which launches share it.

Each program stores its partial sums in `partials`. A ticket `counter` tells the last program that all are stored. The
counter is zero before and after every launch (the last program resets it), so no launch needs a memset.

* An eager launch uses the workspace of its (device, stream). Launches on one stream run one after the other, whichever
  threads enqueue them, so they can share it; launches on two streams never share one.
* A launch that is captured into a CUDA graph shares its workspace with no other launch: partials come from the graph's
  memory pool, and the counter is a slot that is handed out only once. So a graph may replay on one stream during eager
  launches on another, and two captured launches may run on parallel branches.

An aborted launch (a device-side assert, a killed kernel) may leave a counter that is not zero: call `reset()` then.
"""

from __future__ import annotations

import torch

MAX_PROGRAMS = 1024
MAX_TERMS = 64  # of one launch: its parameters must fit in 4 KB
_COUNTERS = MAX_TERMS + 4  # one a term and one for all; a multiple of 4 keeps every slot 16-byte aligned
_SLOTS = 4096  # for captured launches; once they are used up, a launch records a memset node

_eager: dict[tuple[torch.device, int], tuple[torch.Tensor, torch.Tensor]] = {}
_slots: dict[torch.device, tuple[torch.Tensor, list[int]]] = {}


def workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(partials: float64 of 3 * MAX_PROGRAMS, counter: int32 of _COUNTERS, zero) for a launch enqueued now."""
    if device.type != "cuda":
        return _of_stream(device, 0)  # the interpreter
    if torch.cuda.is_current_stream_capturing():
        return _of_capture(device)
    return _of_stream(device, torch.cuda.current_stream(device).cuda_stream)


def _of_stream(device: torch.device, stream: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = _eager.get((device, stream))
    if found is None:
        if device not in _slots:  # made now: a capture would record the fill with zeros and not execute it
            counters = torch.zeros(_COUNTERS * _SLOTS, dtype=torch.int32, device=device)
            _slots.setdefault(device, (counters, list(range(0, _COUNTERS * _SLOTS, _COUNTERS))))
        counter = torch.zeros(_COUNTERS, dtype=torch.int32, device=device)
        found = _eager.setdefault((device, stream), (_partials(device), counter))
    return found


def _of_capture(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    counters, free = _slots.get(device, (None, []))
    try:
        slot = free.pop()  # one operation, so two threads cannot get the same
    except IndexError:
        return _partials(device), torch.zeros(_COUNTERS, dtype=torch.int32, device=device)
    return _partials(device), counters[slot : slot + _COUNTERS]


def _partials(device: torch.device) -> torch.Tensor:
    return torch.empty(3 * MAX_PROGRAMS, dtype=torch.float64, device=device)


def reset() -> None:
    """Forget every eager workspace; the next launch makes a clean one. Call it after an aborted launch."""
    _eager.clear()
