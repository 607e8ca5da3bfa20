"""Who owns the scratch memory of a launch that spans several programs.

Such a launch leaves one partial sum a program in `partials`, and a ticket `counter` tells the last program that all are
there. The counter is zero before and after every launch (the last program resets it), so no launch needs a memset.

* An eager launch uses the workspace of its (device, stream). Launches on one stream run one after the other, whichever
  threads enqueue them, so they can share it; launches on two streams never do.
* A launch that is being captured into a CUDA graph owns its workspace alone: partials come from the graph's own memory
  pool, and the counter is a slot that is handed out once and never again. Replays of a graph on one stream, next to
  eager launches on another, or two captured launches on parallel branches, share nothing.

After a launch that was aborted (a device-side assert, a killed kernel) a counter may be left dirty: `reset()`.
"""

from __future__ import annotations

import torch

MAX_PROGRAMS = 1024
_SLOTS = 4096  # captured launches before a memset node has to be recorded instead

_eager: dict[tuple[torch.device, int], tuple[torch.Tensor, torch.Tensor]] = {}
_captured: dict[torch.device, tuple[torch.Tensor, list[int]]] = {}


def workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(partials: float64 of 3 * MAX_PROGRAMS, counter: int32 of 1, zero) for a launch enqueued now."""
    if device.type != "cuda":  # the interpreter
        return _of_stream(device, 0)
    found = _of_stream(device, torch.cuda.current_stream(device).cuda_stream)
    if not torch.cuda.is_current_stream_capturing():
        return found
    partials = torch.empty_like(found[0])
    counters, free = _captured[device]
    try:
        slot = free.pop()  # atomic under several threads
    except IndexError:
        return partials, torch.zeros(1, dtype=torch.int32, device=device)
    return partials, counters[slot : slot + 1]


def _of_stream(device: torch.device, stream: int) -> tuple[torch.Tensor, torch.Tensor]:
    key = (device, stream)
    found = _eager.get(key)
    if found is None:
        if device not in _captured:  # made with the first eager launch: a fill cannot be eager inside a capture
            _captured.setdefault(device, (torch.zeros(_SLOTS, dtype=torch.int32, device=device), list(range(_SLOTS))))
        partials = torch.empty(3 * MAX_PROGRAMS, dtype=torch.float64, device=device)
        counter = torch.zeros(1, dtype=torch.int32, device=device)
        found = _eager.setdefault(key, (partials, counter))
    return found


def reset() -> None:
    """Forget every eager workspace; the next launch makes a clean one. For use after an aborted launch."""
    _eager.clear()
