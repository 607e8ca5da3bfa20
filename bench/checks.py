"""`python -m bench checks`: what only a CUDA device can show. One row each, pass or fail."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

import fastgan
from bench.contenders import DTYPES, draw
from bench.measure import Cuda

N = 100_003


def value_and_grad(real, fake):
    out = fastgan.discriminator_value_and_grad(real, fake)
    return out.loss, *out.grads


def drop_in(real, fake):
    loss = fastgan.discriminator_loss(real, fake)
    return loss, *torch.autograd.grad(loss, (real, fake))


CALLS: dict[str, tuple[Callable, int]] = {"value_and_grad": (value_and_grad, 1), "drop-in": (drop_in, 2)}


def launches(call, expected, real, fake) -> str | None:
    counted = Cuda(quick=True).launches(lambda _: call(real, fake))
    # autograd seeds the backward pass with a one, which is a fill kernel of its own
    return None if counted in (expected, expected + (expected == 2)) else f"{counted} launches, expected {expected}"


def no_synchronisation(call, expected, real, fake) -> str | None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(real, fake)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def same_bits(call, expected, real, fake) -> str | None:
    first = call(real, fake)
    for _ in range(50):
        for one, other in zip(first, call(real, fake)):
            if not torch.equal(one, other):
                return "differs from run to run"
    return None


def graph_replay(call, expected, real, fake) -> str | None:
    """A graph captured on one batch and replayed on another gives what eager gives there, bit for bit."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(real, fake)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(real, fake)
    for seed in range(5):
        generator = torch.Generator(device="cuda").manual_seed(seed)
        with torch.no_grad():
            for static, fresh in zip((real, fake), draw(N, real.dtype, "cuda", generator)):
                static.copy_(fresh)
        graph.replay()
        if any(not torch.equal(one, other) for one, other in zip(captured, call(real, fake))):
            return f"replay {seed} differs from eager"
    return None


def allocates_outputs_only(call, expected, real, fake) -> str | None:
    peak = Cuda(quick=True).peak_bytes(lambda _: call(real, fake))
    outputs = 2 * real.nbytes
    return None if peak <= outputs + 4096 else f"{peak} bytes, the gradients are {outputs}"


CHECKS = (launches, no_synchronisation, same_bits, graph_replay, allocates_outputs_only)


def run() -> int:
    if not torch.cuda.is_available():
        print("python -m bench checks: needs a CUDA device", file=sys.stderr)
        return 2
    failed = 0
    print("| check | call | dtype | |\n|---|---|---|---|")
    for check in CHECKS:
        for name, (call, expected) in CALLS.items():
            for dtype, torch_dtype in DTYPES.items():
                generator = torch.Generator(device="cuda").manual_seed(0)
                real, fake = draw(N, torch_dtype, "cuda", generator)
                try:
                    for _ in range(3):
                        call(real, fake)
                    wrong = check(call, expected, real, fake)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                failed += wrong is not None
                print(f"| {check.__name__} | {name} | {dtype} | {wrong or 'pass'} |", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0
