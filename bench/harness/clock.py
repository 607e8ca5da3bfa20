"""Time, memory and launches of a call.

Samples are taken in rounds. A round samples every contender once, in random order, so that a slow second of the machine
affects all of them. A sample is the mean over enough calls to last a millisecond or two; on a CPU an untimed call
precedes them.
"""

from __future__ import annotations

import gc
import itertools
import random
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.harness.graph_nodes import kernel_nodes
from bench.harness.statistics import interval

Call = Callable[[int], object]  # called with i, uses the i-th set of buffers
Samples = dict[str, dict[str, list[float]]]  # {contender: {kind of time: microseconds, one a round}}

MICROSECOND = 1e6
WITHOUT_WORK = {
    f"aten::{name}"
    for name in (
        *("empty", "empty_like", "empty_strided", "as_strided", "detach", "view", "expand", "alias", "unsqueeze"),
        *("select", "slice", "reshape", "resize_", "t", "squeeze", "unbind"),
    )
}


def memory_events(profile: torch.profiler.profile) -> list[int]:
    """Bytes of each allocation, in order, negative for a release, from the profiler's allocator events."""
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]


class Cpu:
    """On a CPU a call returns when the work is done: host time is the whole time."""

    kinds = ("host",)
    device = "cpu"

    def __init__(self, quick: bool):
        self.batch_s = 5e-4 if quick else 2e-3

    def synchronize(self) -> None:
        pass

    def buffers(self, bytes_per_call: int) -> tuple[int, bool]:
        """(number of buffer sets, whether together they exceed the cache)."""
        return 1, False

    def plan(self, call: Call) -> dict[str, int]:
        t = min(self.host(call, 1) for _ in range(3))
        return {"host": max(1, min(1000, int(self.batch_s / t)))}

    def sample(self, call: Call, calls: dict[str, int]) -> dict[str, float]:
        call(0)  # not timed: the previous contender's threads may still spin, and its memory fills the caches
        return {"host": self.host(call, calls["host"]) * MICROSECOND}

    def host(self, call: Call, calls: int) -> float:
        """Seconds until a call returns."""
        self.synchronize()
        begin = time.perf_counter()
        for i in range(calls):
            call(i)
        end = time.perf_counter()
        self.synchronize()
        return (end - begin) / calls

    def peak_bytes(self, call: Call) -> int:
        """The most bytes that one call holds at once."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call(0)
        return max(itertools.accumulate(memory_events(profile), initial=0))

    def launches(self, call: Call) -> int:
        """A CPU's kernel launches: operators that touch elements and call no other operator, and compiled graphs."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call(0)
        names = [e.name for e in profile.events() if not e.cpu_children]
        return sum(n.startswith(("aten::", "## Call Compiled")) and n not in WITHOUT_WORK for n in names)


class Cuda(Cpu):
    """Host time is the time to enqueue. Device time is the time between two events. A sleeping kernel holds the stream
    until all the work is enqueued, so that a slow host does not count as a slow device.

    capture: has the interface of torch.cuda.graph. Calls whose capture may fail need one that cleans up."""

    kinds = ("host", "device")
    device = "cuda"
    profiled = False  # whether this process has used the profiler

    def __init__(self, quick: bool, capture: Callable | None = None):
        super().__init__(quick)
        self.capture = capture or torch.cuda.graph
        self.l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
        self.cycles_per_us = 2000  # at a GPU's highest clock: a lower clock makes the sleep longer, never shorter

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def buffers(self, bytes_per_call: int) -> tuple[int, bool]:
        sets = max(1, min(256, -(-3 * self.l2 // bytes_per_call)))
        return sets, sets * bytes_per_call >= 2 * self.l2

    def plan(self, call: Call) -> dict[str, int]:
        host = min(self.host(call, 1) for _ in range(5))
        device = min(self.on_device(call, 2, host) for _ in range(3))
        return {  # 30 calls do not fill the launch queue
            kind: max(1, min(30, int(self.batch_s / max(s, 1e-6)))) for kind, s in (("host", host), ("device", device))
        }

    def sample(self, call: Call, calls: dict[str, int]) -> dict[str, float]:
        host = self.host(call, calls["host"])
        return {"host": host * MICROSECOND, "device": self.on_device(call, calls["device"], host) * MICROSECOND}

    def on_device(self, call: Call, calls: int, host: float) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        sleep_us = 50 + 2 * calls * host * MICROSECOND
        for _ in range(4):
            torch.cuda.synchronize()
            torch.cuda._sleep(int(min(sleep_us, 2e5) * self.cycles_per_us))
            begin.record()
            for i in range(calls):
                call(i)
            still_asleep = not begin.query()  # so the device did not wait for the host
            end.record()
            torch.cuda.synchronize()
            if still_asleep:
                break
            sleep_us *= 2
        return begin.elapsed_time(end) * 1e-3 / calls

    def peak_bytes(self, call: Call) -> int:
        """The most bytes that one call requests at once; the allocator may hand out larger blocks."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        out = call(0)
        torch.cuda.synchronize()
        del out
        return torch.cuda.memory_stats()["requested_bytes.all.peak"] - before

    def launches(self, call: Call) -> int:
        """Kernels, copies and fills: nodes of the captured graph or, if the call cannot be captured, events of the
        profiler, which is slower."""
        try:
            return sum(kernel_nodes(lambda: call(0), self.capture).values())
        except RuntimeError:
            return len(self.kernels(call))

    def kernels(self, call: Call) -> list:
        """The profiler's events of what ran on the device: kernels, copies and fills."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        for _ in range(1 if Cuda.profiled else 2):  # the first profile of a process may start late and miss kernels
            with torch.profiler.profile(activities=activities) as profile:
                call(0)
                torch.cuda.synchronize()
        Cuda.profiled = True
        on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return [e for e in on_device if not e.is_user_annotation]  # the spans of `record_function` are no kernels

    def graph(self, call: Call) -> float:
        """Microseconds per call, from 32 calls captured in one CUDA graph."""
        calls, stream = 32, torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(3):
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with self.capture(graph, torch.cuda.graph_pool_handle(), stream):
            kept = [call(i) for i in range(calls)]
        times = []
        for _ in range(23):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            torch.cuda._sleep(100 * self.cycles_per_us)
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / calls)
        del kept
        return float(np.median(times[3:]))


def clock_of(device: str, quick: bool, capture: Callable | None = None) -> Cpu:
    return Cuda(quick, capture) if device == "cuda" else Cpu(quick)


def poison(device: str, shape: torch.Size, dtype: torch.dtype) -> None:
    """Fill the memory that the next outputs will reuse with NaN, so that an unwritten element shows."""
    held: list[Tensor] = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(4)]
    del held


def waits(call: Call) -> int:
    """How often a call makes the host wait for the CUDA device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call(0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(w.message) for w in caught)


def sample_rounds(
    clock: Cpu,
    calls: dict[str, Call],
    budget_s: float,
    at_least: int = 7,
    at_most: int = 400,
    tight: float = 0.01,
    seed: int = 0,
) -> Samples:
    """Sample until every median's 95 % interval is within `tight` of it, or the budget is spent. Garbage collection is
    off meanwhile."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        plans = {name: clock.plan(call) for name, call in calls.items()}
        samples = {name: {kind: [] for kind in clock.kinds} for name in calls}
        order, shuffle = list(calls), random.Random(seed)
        begin, rounds = time.perf_counter(), 0
        while rounds < at_most:
            shuffle.shuffle(order)
            for name in order:
                for kind, value in clock.sample(calls[name], plans[name]).items():
                    samples[name][kind].append(value)
            rounds += 1
            spent = time.perf_counter() - begin
            if rounds < at_least and spent < 4 * budget_s:
                continue
            if spent > budget_s or (rounds % 10 == 0 and _all_tight(samples, tight)):
                break
        return samples
    finally:
        if collecting:
            gc.enable()


def _all_tight(samples: Samples, tight: float) -> bool:
    rows = (interval(values, draws=200) for kinds in samples.values() for values in kinds.values())
    return all((row["high"] - row["low"]) / 2 <= tight * row["median"] for row in rows)
