"""Training on many devices: what `torchrun` says in the environment, and the three collectives that a step needs.

    torchrun --nproc-per-node 2 train.py

    with fastgan.trainer.distributed() as world:  # alone if the program was not started by torchrun
        trainer = GANTrainer(generator, discriminator, device=world.device)
        ...

Gradients are summed by one all-reduce a player and step, of one flat buffer, after the backward pass. That is not
`DistributedDataParallel`, whose hooks know neither a backward pass with `inputs=`, nor the double backward of a
gradient penalty, nor a discriminator that only passes a gradient on. What it costs: the transfer does not overlap the
backward pass. Any network works, wrapped in nothing, and NCCL's all-reduce can be captured in the step's CUDA graph.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "World", "broadcast", "counts_of_all", "distributed", "gather_rows", "mean_over_ranks", "of_all", "rank", "ranks",
    "sum_gradients",
]  # fmt: skip


class World(NamedTuple):
    """rank: of this process, of `size`. device: where it trains. restarts: how often torchrun has started all anew."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    restarts: int = 0

    @property
    def writes(self) -> bool:
        """One process writes files."""
        return self.rank == 0


@contextlib.contextmanager
def distributed(device: torch.device | str | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK and the address, from the environment),
    and leaves them at the end. Without torchrun, or if a group exists already, that is left as it is.

    device: "cuda" or "cpu"; by default CUDA if there is a device for each local process. NCCL joins GPUs, gloo CPUs.

    Raises ValueError if CUDA is asked for and this process has no device of its own.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield World(rank(), ranks(), torch.device(device) if device is not None else None)
        return
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = torch.device(device).type if device is not None else None
    if kind == "cuda" and torch.cuda.device_count() < here:
        raise ValueError(
            f"device: got cuda for {here} processes, expected as many GPUs; {torch.cuda.device_count()} found"
        )
    cuda = kind == "cuda" or (kind is None and torch.cuda.is_available() and torch.cuda.device_count() >= here)
    place = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    # The agent keeps its store over restarts: without names of their own new processes find the dead ones' addresses.
    store, number, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart {restarts}", store)
    group = {"store": store, "rank": number, "world_size": size}
    # Its functions have the group of import time as a default argument. Imported later, as torch.compile and optimizers
    # do, they would hold this one, and gloo's threads would outlive destroy_process_group and abort the exit.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if cuda else "gloo", device_id=place if cuda else None, **group)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place, restarts)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Every rank gets the first one's numbers."""
    for tensor in tensors:
        dist.broadcast(tensor, 0)


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Each parameter's gradient becomes the sum over ranks, in one all-reduce a dtype."""
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in grads}, key=str):
        own = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in own])
        dist.all_reduce(flat)
        torch._foreach_copy_(own, [part.view_as(g) for part, g in zip(flat.split([g.numel() for g in own]), own)])


def counts_of_all(n: int, device: torch.device) -> list[int]:
    """How many samples each rank has. The host waits for it.

    Raises ValueError, on all ranks alike, if one has none."""
    counts = torch.zeros(ranks(), dtype=torch.long, device=device)
    counts[rank()] = n
    dist.all_reduce(counts)
    found = counts.tolist()
    if min(found) < 1:
        raise ValueError(f"real: got {found} samples on the ranks, expected at least 1 on each")
    return found


def of_all(n: int, counts: Sequence[int] | None) -> tuple[int, int]:
    """How many rows all ranks have together, and which of them is this one's first: each has n, or as many as `counts`
    says."""
    if counts is None:
        return n * ranks(), n * rank()
    return sum(counts), sum(counts[: rank()])


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks in order, (sum(counts), ...), detached."""
    rows = rows.detach().contiguous()
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # collectives want one shape
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


def mean_over_ranks(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values / ranks()
