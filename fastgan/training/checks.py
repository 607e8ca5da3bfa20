"""What `GANTrainer` is given, checked before anything is touched. Each error is one line that names the argument."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fastgan.checks import whole


def network(name: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: got {type(module).__name__}, expected a torch.nn.Module")
    lazy = [key for key, p in module.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise ValueError(f"{name}: got parameter {lazy[0]!r} without a shape, expected a network that has run once")
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"{name}: got a module without parameters, expected one to train")
    for key, p in module.named_parameters():
        if not p.isfinite().all():
            raise ValueError(f"{name}: got NaN or infinite numbers in {key!r}, expected finite weights")


def device_and_random(device: torch.device | str | int, seed: object) -> tuple[torch.device, torch.Generator]:
    seed = whole("seed", seed, least=None)
    given = device
    try:
        device = torch.device(given)
        random = torch.Generator(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: PyTorch without CUDA
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu; there is no CUDA device here"
        raise ValueError(f"device: got {str(given)!r}, expected a device that is there, such as {there}") from error
    try:
        return device, random.manual_seed(seed)
    except (RuntimeError, OverflowError, ValueError):
        raise ValueError(f"seed: got {seed}, expected a number from -2**63 to 2**64 - 1") from None


INSTEAD = (
    (DataLoader, "for real, *_ in data: trainer.step(real)"),
    (TensorDataset, "data.tensors[0]"),
    (Dataset, "torch.stack([sample for sample, *_ in data])"),
    (np.ndarray, "torch.from_numpy(data)"),
    ((list, tuple), "torch.stack(list(data)), or torch.tensor(data)"),
)


def samples(name: str, given: object) -> Tensor:
    """Raises TypeError or ValueError unless it is a tensor of one sample or more."""
    if not isinstance(given, Tensor):
        instead = next((code for kind, code in INSTEAD if isinstance(given, kind)), None)
        if instead is None and isinstance(getattr(given, "samples", None), Tensor):  # a data set of `fastgan.data`
            instead = "data.samples"
        instead = f": {instead.replace('data', name)}" if instead else ""
        raise TypeError(f"{name}: got {type(given).__name__}, expected a tensor of samples (N, ...){instead}")
    if given.layout is not torch.strided:
        raise ValueError(f"{name}: got a {given.layout} tensor, expected a dense one")
    if not given.dim() or not given.numel():
        raise ValueError(f"{name}: got shape {tuple(given.shape)}, expected (N, ...) with at least one sample")
    return given


def pixels_or_floats(name: str, given: Tensor) -> None:
    """Raises unless the samples are floating, or uint8 images, whose numbers are read as 0..255."""
    if given.dtype == torch.uint8 and given.dim() == 4:
        return
    if given.dtype == torch.uint8:
        raise ValueError(
            f"{name}: got torch.uint8 of shape {tuple(given.shape)}, expected images (N, C, H, W) of 0..255, or points "
            f"as floats: {name}.float()"
        )
    if not given.is_floating_point():
        raise TypeError(f"{name}: got {given.dtype}, expected floats, or torch.uint8 images (N, C, H, W)")


def finite(name: str, given: Tensor) -> None:
    """Raises if a number is NaN or infinite; nothing of the samples' size is allocated."""
    if given.is_floating_point() and not all(map(math.isfinite, torch.stack(torch.aminmax(given)).tolist())):
        raise ValueError(f"{name}: got NaN or infinite numbers, expected finite samples")
