"""A training step in CUDA graphs: the host asks for a whole step at once, where it would call some 500 kernels.

What is captured is the function that runs uncaptured as well, `Step.play` of `GANTrainer` or the step of somebody's own
loop (`fastgan.capture`, in `captured.py`), and numbers are drawn from the same generators at the same places, so that a
replayed step is the uncaptured one to the bit. A step with a penalty and one without are two graphs that share their
memory. Rehearsals compile kernels, choose convolution algorithms and make the optimizers' state before the capture, and
are undone after it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastgan.checks import said

__all__ = ["Graphs", "capturing", "reason", "release", "state_of", "undone"]

REHEARSALS, REHEARSALS_OF_RANKS = 3, 11  # PyTorch's notes on CUDA graphs ask for 11 with collectives


@contextlib.contextmanager
def undone(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    generators: Sequence[torch.Generator],
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[None]:
    """What is done to weights, buffers, optimizers, random numbers and loss scale inside is undone at the end, in
    place, however it ends. An optimizer's state that was not there before stays, as zeros, which is how it begins.
    Gradients of weights are None then."""
    everything = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    everything += [t for o in optimizers for t in (*_weights(o), *state_of(o))]
    tensors = list({id(t): t for t in everything}.values())
    known = {id(t) for t in tensors}
    device = tensors[0].device
    before = [t.detach().clone() for t in tensors]
    drawn = [g.get_state() for g in generators]
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    scale = scaler.state_dict() if scaler else None
    try:
        with _host_undone():
            yield
    finally:
        with torch.no_grad():
            for t, old in zip(tensors, before):
                t.copy_(old)
            for optimizer in optimizers:
                optimizer.zero_grad()
                for t in state_of(optimizer):
                    if id(t) not in known:
                        t.zero_()
        for g, state in zip(generators, drawn):
            g.set_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        if scaler:
            scaler.load_state_dict(scale)


@contextlib.contextmanager
def _host_undone() -> Iterator[None]:
    """Random numbers of the host that are drawn inside come again afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [t for of_one in optimizer.state.values() for t in of_one.values() if isinstance(t, Tensor)]


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: tuple, stream: torch.cuda.Stream) -> Iterator[None]:
    """`torch.cuda.graph`, and a capture that fails leaves the current stream, the allocator and torch's own generator
    as they were.

    Up to PyTorch 2.11 the end of a failed capture raises before any of them is put back: the stream stays the current
    one, the allocator believes that the capture goes on and refuses the next one, the generator raises when it is used.

    What other threads ask of CUDA meanwhile is no matter of the capture: PyTorch's own mode, "global", ends it, and the
    other thread's work with an error, where a DataLoader's thread pins the memory of the next batches.
    """
    mode = "thread_local"
    try:
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode):
            yield
    except BaseException:
        _end_allocations(stream.device, pool)
        release(torch.cuda.default_generators[stream.device.index])
        raise


def _end_allocations(device: torch.device, pool: tuple) -> None:
    """What `torch.cuda.use_mem_pool` calls at its end; there is no public name for it."""
    end, release = (getattr(torch._C, name, None) for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"))
    if end is None or release is None:
        return
    with contextlib.suppress(RuntimeError):  # PyTorch has ended them itself
        end(device.index, pool)
        release(device.index, pool)


def release(generator: torch.Generator) -> None:
    """Gives the generator a state of its own, with the same numbers to come, if the old one is still being captured."""
    state = generator.get_state()
    try:
        torch.rand(1, device=generator.device, generator=generator)
        generator.set_state(state)
    except RuntimeError:
        generator.graphsafe_set_state(generator.clone_state())


def reason(error: BaseException) -> str:
    """In a line, why a capture failed: what was raised first, and not the errors that followed from it."""
    while error.__context__ is not None:
        error = error.__context__
    return said(error)


class Graphs:
    """`replay(inputs, variant)` instead of `play(*inputs, variant)`, for inputs like these.

    The tensors it returns are always the same ones: the next replay overwrites them. generators: those that `play`
    draws from, beside torch's own. What a graph would repeat, random numbers of the host, raises RuntimeError.
    """

    def __init__(
        self,
        play: Callable[..., Any],
        inputs: Sequence[Tensor],
        device: torch.device,
        variants: Sequence[Any],
        generators: Sequence[torch.Generator],
        undo: contextlib.AbstractContextManager,
        rehearsals: int = REHEARSALS,
    ):
        if device.type != "cuda":
            raise RuntimeError(f"CUDA graphs are for GPUs, and the device is {device.type}")
        # what the graphs read, whatever batch comes
        self.inputs = [x.detach().to(device, copy=True) for x in inputs]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), undo:
            for variant in [v for v in variants for _ in range(rehearsals)]:
                play(*self.inputs, variant)
        torch.cuda.current_stream(device).wait_stream(stream)
        for x in self.inputs:  # a penalty may have asked for its gradient
            x.grad = None
            x.requires_grad_(False)
        self.graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self.values: dict[Any, Any] = {}
        pool = torch.cuda.graph_pool_handle()
        for variant in variants:
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)  # torch's own is registered already
            with _host_undone():
                before = host_numbers()
                with capturing(graph, pool, stream):
                    self.values[variant] = play(*self.inputs, variant)
                if drawn := drawn_from(before):
                    raise RuntimeError(f"the step draws from {drawn}, which a graph would repeat")
            self.graphs[variant] = graph

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        if len(inputs) != len(self.inputs):
            return False
        return all(x.shape == own.shape and x.dtype == own.dtype for x, own in zip(inputs, self.inputs))

    @torch.no_grad()
    def replay(self, inputs: Sequence[Tensor], variant: Any) -> Any:
        for x, own in zip(inputs, self.inputs):
            own.copy_(x, non_blocking=True)
        self.graphs[variant].replay()
        values = self.values[variant]
        return dict(values) if isinstance(values, dict) else values


def host_numbers() -> dict[str, Any]:
    """Where the host's random numbers are."""
    return {
        "Python's random": random.getstate(),
        "NumPy's random": np.random.get_state()[1:3],
        "torch's generator of the CPU": torch.get_rng_state().numpy(),
    }


def drawn_from(before: dict[str, Any]) -> str:
    """From which of them numbers were drawn since then; empty if from none."""
    changed = (name for name, now in host_numbers().items() if not _same(now, before[name]))
    return ", ".join(changed)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return all(map(_same, a, b)) if isinstance(a, tuple) else a == b
