"""Time, memory and launches of a contender.

Samples come in rounds; in a round every contender is sampled once, in random order, so that a slow second of the
machine falls on all of them. A sample is the mean of enough calls to last a millisecond or two; on a CPU one more goes
before them, untimed.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.harness.graph_nodes import kernel_nodes
from fastgan.capture import capturing

Call = Callable[[int], object]  # the i-th call, which picks the i-th set of buffers

MICROSECOND = 1e6
WITHOUT_WORK = {
    f"aten::{name}"
    for name in ("empty", "empty_like", "empty_strided", "as_strided", "detach", "view", "expand", "alias", "unsqueeze")
} | {"aten::select", "aten::slice", "aten::reshape", "aten::resize_", "aten::t", "aten::squeeze", "aten::unbind"}


def interval(samples: Sequence[float], draws: int = 500, seed: int = 0) -> dict[str, float]:
    """Median, quartiles, and the 95 % bootstrap interval of the median."""
    values = np.asarray(samples, dtype=float)
    pick = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(np.median(values[pick], axis=1), (2.5, 97.5))
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    row = {"median": median, "q1": q1, "q3": q3, "low": low, "high": high}
    return {key: float(value) for key, value in row.items()} | {"rounds": len(values)}


def ratio(over: Sequence[float], under: Sequence[float], draws: int = 500, seed: int = 0) -> dict[str, float]:
    """Ratio of medians, over / under, with the 95 % interval of a bootstrap that redraws whole rounds."""
    a, b = np.asarray(over, dtype=float), np.asarray(under, dtype=float)
    pick = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    low, high = np.percentile(np.median(a[pick], axis=1) / np.median(b[pick], axis=1), (2.5, 97.5))
    return {"median": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high)}


def student(confidence: float, freedom: int) -> float:
    """x with P(|T| < x) = confidence, of Student's t: with x = sqrt(freedom) tan(a), the density of a is cos^(f-1)."""
    a = np.linspace(0.0, np.pi / 2, 100_001)[:-1]
    total = np.cumsum(np.cos(a) ** (freedom - 1))
    return float(np.sqrt(freedom) * np.tan(np.interp(confidence * total[-1], total, a)))


class Cpu:
    """On a CPU a call returns when the work is done: host time is the whole time."""

    kinds = ("host",)
    device = "cpu"

    def __init__(self, quick: bool):
        self.batch_s = 5e-4 if quick else 2e-3

    def synchronize(self) -> None:
        pass

    def buffers(self, bytes_per_call: int) -> tuple[int, bool]:
        """(sets of buffers, whether they outgrow the cache)."""
        return 1, False

    def plan(self, call: Call) -> dict[str, int]:
        t = min(self._host(call, 1) for _ in range(3))
        return {"host": max(1, min(1000, int(self.batch_s / t)))}

    def sample(self, call: Call, calls: dict[str, int]) -> dict[str, float]:
        call(0)  # not timed: the threads of the contender before may still spin, and its memory fills the caches
        return {"host": self._host(call, calls["host"]) * MICROSECOND}

    def _host(self, call: Call, calls: int) -> float:
        self.synchronize()
        begin = time.perf_counter()
        for i in range(calls):
            call(i)
        end = time.perf_counter()
        self.synchronize()
        return (end - begin) / calls

    def peak_bytes(self, call: Call) -> int:
        """Most bytes that one call holds at a time, by the allocator's own events."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call(0)
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak

    def launches(self, call: Call) -> int:
        """Operators that call no other and touch elements, and compiled graphs: the kernels of a CPU."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call(0)
        names = [e.name for e in profile.events() if not e.cpu_children]
        return sum(n.startswith(("aten::", "## Call Compiled")) and n not in WITHOUT_WORK for n in names)

    def graph(self, call: Call) -> float:
        raise RuntimeError("no CUDA graphs on a CPU")


class Cuda(Cpu):
    """Host time is the time to enqueue. Device time is between two events, with all the work enqueued before the
    first: a sleeping kernel holds the stream meanwhile, so that a slow host does not count as a slow device."""

    kinds = ("host", "device")
    device = "cuda"
    profiled = False  # whether this process has used the profiler

    def __init__(self, quick: bool):
        super().__init__(quick)
        self.l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
        self.cycles_per_us = 2000  # of a GPU at its highest clock: at a lower one the sleep is longer, never shorter

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def buffers(self, bytes_per_call: int) -> tuple[int, bool]:
        sets = max(1, min(256, -(-3 * self.l2 // bytes_per_call)))
        return sets, sets * bytes_per_call >= 2 * self.l2

    def plan(self, call: Call) -> dict[str, int]:
        host = min(self._host(call, 1) for _ in range(5))
        device = min(self._device(call, 2, host) for _ in range(3))
        return {
            "host": max(1, min(30, int(self.batch_s / max(host, 1e-6)))),  # 30 calls do not fill the launch queue
            "device": max(1, min(30, int(self.batch_s / max(device, 1e-6)))),
        }

    def sample(self, call: Call, calls: dict[str, int]) -> dict[str, float]:
        host = self._host(call, calls["host"])
        return {"host": host * MICROSECOND, "device": self._device(call, calls["device"], host) * MICROSECOND}

    def _device(self, call: Call, calls: int, host: float) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        sleep_us = 50 + 2 * calls * host * MICROSECOND
        for _ in range(4):
            torch.cuda.synchronize()
            torch.cuda._sleep(int(min(sleep_us, 2e5) * self.cycles_per_us))
            begin.record()
            for i in range(calls):
                call(i)
            hidden = not begin.query()  # still asleep: nothing below waited for the host
            end.record()
            torch.cuda.synchronize()
            if hidden:
                break
            sleep_us *= 2
        return begin.elapsed_time(end) * 1e-3 / calls

    def peak_bytes(self, call: Call) -> int:
        """Most bytes that one call asks for; the allocator may hand out larger blocks."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        out = call(0)
        torch.cuda.synchronize()
        del out
        return torch.cuda.memory_stats()["requested_bytes.all.peak"] - before

    def launches(self, call: Call) -> int:
        """Kernels, copies and fills: nodes of the graph that the call captures to, or events of the profiler, which
        takes longer, if it cannot be captured."""
        try:
            return sum(kernel_nodes(lambda: call(0)).values())
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
        """Microseconds a call, of 32 calls captured in one CUDA graph."""
        calls, stream = 32, torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(3):
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, torch.cuda.graph_pool_handle(), stream):
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


def machine(device: str, quick: bool) -> Cpu:
    return Cuda(quick) if device == "cuda" else Cpu(quick)


def poison(device: str, shape: torch.Size, dtype: torch.dtype) -> None:
    """Leave NaN in the memory that the next outputs will be given: an element nobody writes then shows."""
    held: list[Tensor] = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(4)]
    del held


def sample_rounds(
    machine: Cpu,
    calls: dict[str, Call],
    budget_s: float,
    at_least: int = 7,
    at_most: int = 400,
    tight: float = 0.01,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """{contender: {kind of time: microseconds, one a round}}. Rounds end once every median's 95 % interval is within
    `tight` of it, or the budget is spent. No garbage is collected meanwhile."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _sample_rounds(machine, calls, budget_s, at_least, at_most, tight, seed)
    finally:
        if collecting:
            gc.enable()


def _sample_rounds(
    machine: Cpu, calls: dict[str, Call], budget_s: float, at_least: int, at_most: int, tight: float, seed: int
) -> dict[str, dict[str, list[float]]]:
    plans = {name: machine.plan(call) for name, call in calls.items()}
    samples = {name: {kind: [] for kind in machine.kinds} for name in calls}
    order, shuffle = list(calls), random.Random(seed)
    begin, rounds = time.perf_counter(), 0
    while rounds < at_most:
        shuffle.shuffle(order)
        for name in order:
            for kind, value in machine.sample(calls[name], plans[name]).items():
                samples[name][kind].append(value)
        rounds += 1
        spent = time.perf_counter() - begin
        if rounds < at_least and spent < 4 * budget_s:
            continue
        if spent > budget_s or (rounds % 10 == 0 and _all_tight(samples, tight)):
            break
    return samples


def _all_tight(samples: dict[str, dict[str, list[float]]], tight: float) -> bool:
    rows = (interval(values, draws=200) for kinds in samples.values() for values in kinds.values())
    return all((row["high"] - row["low"]) / 2 <= tight * row["median"] for row in rows)
