"""The training step in CUDA graphs: the host asks for a whole step at once, where it would call some 500 kernels.

What is captured is `Step.play`, the function that runs uncaptured as well, and numbers are drawn from the same
generators at the same places, so that a replayed step is the uncaptured one to the bit. A step with a penalty and one
without are two graphs that share their memory. Rehearsals compile kernels, choose convolution algorithms and make the
optimizers' state before the capture, and are undone after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fastgan.checks import said

__all__ = ["Graphs", "capturing", "reason", "undone"]

REHEARSALS, REHEARSALS_OF_RANKS = 3, 11  # PyTorch's notes on CUDA graphs ask for 11 with collectives


@contextlib.contextmanager
def undone(
    networks: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    generators: Sequence[torch.Generator],
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[None]:
    """What is done to weights, buffers, optimizers, random numbers and loss scale inside is undone at the end, in
    place, however it ends. An optimizer's state that was not there before stays, as zeros, which is how it begins."""
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    tensors += [t for optimizer in optimizers for t in _state(optimizer)]
    known = {id(t) for t in tensors}
    device = tensors[0].device
    before = [t.detach().clone() for t in tensors]
    drawn = [g.get_state() for g in generators]
    cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    scale = scaler.state_dict() if scaler else None
    try:
        yield
    finally:
        with torch.no_grad():
            for t, old in zip(tensors, before):
                t.copy_(old)
            for optimizer in optimizers:
                optimizer.zero_grad()
                for t in _state(optimizer):
                    if id(t) not in known:
                        t.zero_()
        for g, state in zip(generators, drawn):
            g.set_state(state)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
        if scaler:
            scaler.load_state_dict(scale)


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [t for of_one in optimizer.state.values() for t in of_one.values() if isinstance(t, Tensor)]


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph, pool: tuple, stream: torch.cuda.Stream) -> Iterator[None]:
    """`torch.cuda.graph`, and a capture that fails leaves the current stream, the allocator and torch's own generator
    as they were.

    Up to PyTorch 2.11 the end of a failed capture raises before any of them is put back: the stream stays the current
    one, the allocator believes that the capture goes on and refuses the next one, the generator raises when it is used.
    """
    try:
        with torch.cuda.stream(stream), torch.cuda.graph(graph, pool=pool, stream=stream):
            yield
    except BaseException:
        _end_allocations(stream.device, pool)
        _release(torch.cuda.default_generators[stream.device.index])
        raise


def _end_allocations(device: torch.device, pool: tuple) -> None:
    """What `torch.cuda.use_mem_pool` calls at its end; there is no public name for it."""
    end, release = (getattr(torch._C, name, None) for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"))
    if end is None or release is None:
        return
    with contextlib.suppress(RuntimeError):  # PyTorch has ended them itself
        end(device.index, pool)
        release(device.index, pool)


def _release(generator: torch.Generator) -> None:
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
    """`replay(real, penalised)` instead of `play(real, penalised)`, for batches like `real`.

    The tensors it returns are always the same ones: the next replay overwrites them.
    """

    def __init__(
        self,
        play: Callable[[Tensor, bool], dict[str, Tensor]],
        real: Tensor,
        variants: Sequence[bool],
        generator: torch.Generator,
        undo: contextlib.AbstractContextManager,
        rehearsals: int = REHEARSALS,
    ):
        self.real = real.detach().clone()  # what the graphs read, whatever batch comes
        stream = torch.cuda.Stream(real.device)
        stream.wait_stream(torch.cuda.current_stream(real.device))
        with torch.cuda.stream(stream), undo:
            for penalised in [v for v in variants for _ in range(rehearsals)]:
                play(self.real, penalised)
        torch.cuda.current_stream(real.device).wait_stream(stream)
        self.graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self.values: dict[bool, dict[str, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        for penalised in variants:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)  # torch's own is registered already
            with capturing(graph, pool, stream):
                self.values[penalised] = play(self.real, penalised)
            self.graphs[penalised] = graph

    def fits(self, real: Tensor) -> bool:
        return real.shape == self.real.shape and real.dtype == self.real.dtype

    def replay(self, real: Tensor, penalised: bool) -> dict[str, Tensor]:
        self.real.copy_(real)
        self.graphs[penalised].replay()
        return dict(self.values[penalised])
