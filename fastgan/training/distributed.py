"""Training on many devices: the process group of `torchrun`, and the collectives that a step needs.

    torchrun --nproc-per-node 2 train.py

    with fastgan.trainer.distributed() as world:  # one process if the program was not started by torchrun
        trainer = GANTrainer(generator, discriminator, device=world.device)
        ...

Gradients are summed by one all-reduce per player and step, of one flat buffer, after the backward pass. It is not
`DistributedDataParallel`, whose hooks do not support a backward pass with `inputs=`, the double backward of a gradient
penalty, or a discriminator whose weights get no gradient. The cost: the transfer does not overlap the backward pass.
Any network works without a wrapper, and NCCL's all-reduce can be captured in the step's CUDA graph.
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
    """rank: of this process, of `size`. device: where it trains. restarts: how often torchrun restarted all of them."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None
    restarts: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes files: only rank 0 does."""
        return self.rank == 0


@contextlib.contextmanager
def distributed(device: torch.device | str | None = None) -> Iterator[World]:
    """Join the process group of torchrun (RANK, WORLD_SIZE, LOCAL_RANK and the address come from the environment), and
    leave it at the end. Does nothing without torchrun, or if a process group exists already.

    device: "cuda" or "cpu"; by default CUDA if there is a device for each local process. The backend is NCCL for GPUs,
    gloo for CPUs.

    Raises ValueError if device is CUDA and there are fewer GPUs than local processes.
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
    # torchrun keeps its store over restarts: without the prefix new processes would read the addresses of dead ones.
    store, number, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"restart {restarts}", store)
    group = {"store": store, "rank": number, "world_size": size}
    # The functions of this module store the group of import time as a default argument. torch.compile and optimizers
    # import it; after init_process_group they would keep this group alive, and gloo's threads would outlive
    # destroy_process_group and abort the exit.
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
    """Copy the first rank's numbers to every rank, in place."""
    for tensor in tensors:
        dist.broadcast(tensor, 0)


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum each parameter's gradient over the ranks, in place, with one all-reduce per dtype."""
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in grads}, key=str):
        own = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in own])
        dist.all_reduce(flat)
        torch._foreach_copy_(own, [part.view_as(g) for part, g in zip(flat.split([g.numel() for g in own]), own)])


def counts_of_all(n: int, device: torch.device) -> list[int]:
    """How many samples each rank has. Synchronises with the host.

    Raises ValueError, on every rank, if a rank has none."""
    counts = torch.zeros(ranks(), dtype=torch.long, device=device)
    counts[rank()] = n
    dist.all_reduce(counts)
    found = counts.tolist()
    if min(found) < 1:
        raise ValueError(f"real: got {found} samples on the ranks, expected at least 1 on each")
    return found


def of_all(n: int, counts: Sequence[int] | None) -> tuple[int, int]:
    """The number of rows of all ranks together, and the index of this rank's first row. counts: the rows of each rank;
    None: n on each."""
    if counts is None:
        return n * ranks(), n * rank()
    return sum(counts), sum(counts[: rank()])


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks in order, (sum(counts), ...), detached."""
    rows = rows.detach().contiguous()
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))  # collectives need one shape on all ranks
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts)])


def mean_over_ranks(values: Tensor) -> Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values / ranks()
