"""The time of calls that do no work: no loss on this machine can be faster. (Each cell also measures a copy.)"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.harness.clock import Cpu, sample_rounds
from bench.harness.statistics import interval

DESCRIPTIONS = {
    "empty operator": "an operator of PyTorch on an empty tensor",
    "empty autograd node": "the forward and backward pass of one view",
    "empty launch": "a Triton kernel that does nothing, launched from its compiled form",
    "empty graph node": "that kernel in a CUDA graph of 32 nodes, per node",
}


def measure_overheads(clock: Cpu, quick: bool) -> dict[str, dict]:
    calls = {"empty operator": _operator(clock.device), "empty autograd node": _node(clock.device)}
    rows = {}
    if clock.device == "cuda":
        try:
            calls["empty launch"] = _launch()
            rows["empty graph node"] = {"graph_us": clock.graph(calls["empty launch"])}
        except Exception as error:
            rows["empty launch"] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
            calls.pop("empty launch", None)
    samples = sample_rounds(clock, calls, 0.2 if quick else 0.5)
    for name, kinds in samples.items():
        rows[name] = {f"{kind}_us": interval(values) for kind, values in kinds.items()}
    return {name: {"contender": name} | rows[name] for name in DESCRIPTIONS if name in rows}


def _operator(device: str) -> Callable[[int], object]:
    nothing = torch.empty(0, device=device)
    return lambda i: nothing.neg_()


def _node(device: str) -> Callable[[int], object]:
    leaf, one = torch.zeros((), device=device, requires_grad=True), torch.ones((), device=device)
    return lambda i: torch.autograd.grad(leaf.view(()), leaf, one)


def _launch() -> Callable[[int], object]:
    from bench.harness.empty import nothing

    compiled = nothing[(1,)]()
    return lambda i: compiled[(1, 1, 1)]()
