"""A training step in CUDA graphs: the host launches one graph instead of some 500 kernels.

The captured function is the one that also runs uncaptured: `Step.play` of `GANTrainer`, or the step of the user's own
loop (`fastgan.capture`, in `captured.py`). It draws from the same generators in the same order, so that a replayed step
equals the uncaptured one to the bit. Steps with and without a penalty are two graphs that share their memory.
Rehearsals before the capture compile kernels, choose convolution algorithms and make the optimizers' state; then their
changes are undone.
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

__all__ = ["Graphs", "capturing", "reason", "release", "state_of", "state_restored"]

REHEARSALS, REHEARSALS_OF_RANKS = 3, 11  # PyTorch's notes on CUDA graphs ask for 11 with collectives


@contextlib.contextmanager
def state_restored(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    generators: Sequence[torch.Generator],
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[None]:
    """Restore weights, buffers, optimizer states, random states and the loss scale at the end, in place, also after an
    exception. Optimizer state that did not exist before is kept and set to zero. Gradients of weights are set to
    None."""
    everything = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    everything += [t for o in optimizers for t in (*_weights(o), *state_of(o))]
    tensors = list({id(t): t for t in everything}.values())
    known = {id(t) for t in tensors}
    device = tensors[0].device
    before = [t.detach().clone() for t in tensors]
    drawn = [g.get_state() for g in generators]
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    scale = scaler.state_dict() if scaler else {}
    try:
        with _host_random_restored():
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
def _host_random_restored() -> Iterator[None]:
    """Restore the host's random states at the end."""
    python, numpy, cpu = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
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
def capturing(graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream) -> Iterator[None]:
    """`torch.cuda.graph` that restores the current stream, the allocator and torch's default generator if the capture
    fails. pool: of `torch.cuda.graph_pool_handle`, whose type has no public name.

    Up to PyTorch 2.11 the end of a failed capture raises before it restores any of them: the capture's stream stays
    current, the allocator refuses the next capture, and the generator raises when it is used.

    The mode "thread_local" lets other threads use CUDA meanwhile. With PyTorch's default, "global", the capture and the
    other thread both fail if, for example, a DataLoader's thread pins the memory of the next batches.
    """
    mode = "thread_local"
    try:
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode):
            yield
    except BaseException:
        _end_allocations(stream.device, pool)
        release(torch.cuda.default_generators[stream.device.index])
        raise


def _end_allocations(device: torch.device, pool: Any) -> None:
    """What `torch.cuda.use_mem_pool` does at its end; it has no public name."""
    end, release = (getattr(torch._C, name, None) for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"))
    if end is None or release is None:
        return
    with contextlib.suppress(RuntimeError):  # PyTorch has already ended them
        end(device.index, pool)
        release(device.index, pool)


def release(generator: torch.Generator) -> None:
    """If a failed capture still holds the generator's state, give the generator a copy of that state."""
    state = generator.get_state()
    try:
        torch.rand(1, device=generator.device, generator=generator)
        generator.set_state(state)
    except RuntimeError:
        generator.graphsafe_set_state(generator.clone_state())


def reason(error: BaseException) -> str:
    """One line that says why a capture failed: the first error, not those that followed from it."""
    while error.__context__ is not None:
        error = error.__context__
    return said(error)


class Graphs:
    """Captures `play` once for each variant. `replay(inputs, variant)` then replaces `play(*inputs, variant)`, for
    inputs of the same shapes and dtypes.

    `replay` always returns the same tensors: the next replay overwrites them. generators: those that `play` draws from,
    except torch's default one. Raises RuntimeError if `play` draws random numbers on the host: a graph would repeat
    them.
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
        # The graphs read these tensors: `replay` copies each batch into them.
        self.inputs = [x.detach().to(device, copy=True) for x in inputs]
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), undo:
            for variant in [v for v in variants for _ in range(rehearsals)]:
                play(*self.inputs, variant)
        torch.cuda.current_stream(device).wait_stream(stream)
        for x in self.inputs:  # a penalty may have made it require grad
            x.grad = None
            x.requires_grad_(False)
        self.graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self.values: dict[Any, Any] = {}
        pool = torch.cuda.graph_pool_handle()
        for variant in variants:
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)  # torch's default one is already registered
            with _host_random_restored():
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
    """The states of the host's random generators."""
    return {
        "Python's random": random.getstate(),
        "NumPy's random": np.random.get_state(legacy=False),
        "torch's generator of the CPU": torch.get_rng_state().numpy(),
    }


def drawn_from(before: dict[str, Any]) -> str:
    """The names of the generators that numbers were drawn from since `before`; empty if none."""
    changed = (name for name, now in host_numbers().items() if not _same(now, before[name]))
    return ", ".join(changed)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return all(map(_same, a, b)) if isinstance(a, tuple) else a == b
