"""What a call launches on a GPU, counted in its captured CUDA graph, which cannot lose a launch as a profiler can."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable

import torch

KINDS = ("kernel", "memcpy", "memset", "host", "graph", "empty", "wait event", "record event")  # CUgraphNodeType


def kernel_nodes(call: Callable[[], object], capture: Callable = torch.cuda.graph) -> dict[str, int]:
    """{kind of node: count} of one call, captured but never replayed. The call must not synchronise, and must have run
    before, so that the capture neither compiles nor initialises anything.

    capture: has the interface of torch.cuda.graph."""
    graph, stream = torch.cuda.CUDAGraph(keep_graph=True), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with capture(graph, torch.cuda.graph_pool_handle(), stream):
        kept = call()
    handle = ctypes.c_void_p(graph.raw_cuda_graph())
    driver = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_size_t()
    _check(driver.cuGraphGetNodes(handle, None, ctypes.byref(count)))
    nodes = (ctypes.c_void_p * count.value)()
    _check(driver.cuGraphGetNodes(handle, nodes, ctypes.byref(count)))
    found: Counter[str] = Counter()
    for node in nodes:
        kind = ctypes.c_int()
        _check(driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
        found[KINDS[kind.value] if kind.value < len(KINDS) else f"kind {kind.value}"] += 1
    del kept
    return dict(found)


def _check(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"the CUDA driver returned {code}")
