"""Checks of this machine before a command starts: packages, device, backend, memory."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import torch

from fastgan import data as datasets
from fastgan import models
from fastgan.operators.dispatch import backend_for

NUMBERS_PER_WEIGHT = 5  # in training: the weight, its gradient, Adam's two moments, and G's average


def check_packages(*needed: tuple[str, str]) -> None:
    """Raises ImportError if a package is missing. needed: pairs of (module, package that provides it)."""
    for module, package in needed:
        if importlib.util.find_spec(module) is None:
            raise ImportError(datasets.needs(package))


def device_named(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    available = ["cpu", *(f"cuda:{i}" for i in range(count))]
    with contextlib.suppress(RuntimeError, ValueError, OverflowError):
        device = torch.device(name)
        if str(device) in available or (str(device) == "cuda" and count > 0):
            return device
    raise ValueError(f"--device: got {name}, expected one of {', '.join(available)}")


def check_backend(device: torch.device) -> None:
    """Raises ValueError if FASTGAN_BACKEND names no backend, or one that cannot compute on `device`."""
    try:
        backend_for(device)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def too_many_threads(threads: int | None) -> str | None:
    """A warning if `threads` is more than the machine has cores, else None."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is None or threads <= cores:
        return None
    return f"--threads: got {threads}, but there are {cores} cores; more threads than cores make training slower"


def check_memory(option: str, value: int, needed: int, device: torch.device | str = "cpu") -> None:
    """Raises ValueError, naming `option`, if the bytes `needed` for `value` are more than are free."""
    free = datasets.free_memory(device)
    if needed > free:
        raise ValueError(
            f"{option}: got {value}, which takes {needed / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free"
        )


def check_networks(
    sample_shape: tuple[int, ...],
    latent_dim: int,
    width: int,
    networks: str | None,
    classes: int | None = None,
    *,
    device: torch.device,
) -> None:
    """Raises ValueError if there is not enough memory to train the networks, or the name does not fit the samples."""
    pair = models.outline(sample_shape, latent_dim, width, networks, classes)
    count = sum(p.numel() for network in pair for p in network.parameters())
    option = "--width" if width > latent_dim else "--latent-dim"
    check_memory(option, max(width, latent_dim), 4 * NUMBERS_PER_WEIGHT * count, device)
