"""Checks of `GANTrainer`'s arguments, before it changes anything. Each error is one line that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.lr_scheduler import LRScheduler

from fastgan.checks import whole
from fastgan.training.config import MMD, TrainerConfig


def network(name: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: got {type(module).__name__}, expected a torch.nn.Module")
    lazy = [key for key, p in module.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise ValueError(f"{name}: got parameter {lazy[0]!r} without a shape, expected a network that has run once")
    if not any(p.requires_grad for p in module.parameters()):
        got = "whose parameters are all frozen" if any(True for _ in module.parameters()) else "without parameters"
        raise ValueError(f"{name}: got a module {got}, expected one to train")
    for key, p in module.named_parameters():
        if not p.isfinite().all():
            raise ValueError(f"{name}: got NaN or infinite numbers in {key!r}, expected finite weights")


def pair(generator: nn.Module, discriminator: nn.Module | None, objective: str) -> list[nn.Module]:
    """The networks to train. Raises TypeError or ValueError if one cannot be trained."""
    if (discriminator is None) != (objective == MMD):
        expected = "None: mmd compares samples" if objective == MMD else f"one, for objective {objective!r}"
        got = "None" if discriminator is None else type(discriminator).__name__
        raise ValueError(f"discriminator: got {got}, expected {expected}")
    network("generator", generator)
    if discriminator is None:
        return [generator]
    network("discriminator", discriminator)
    if generator is discriminator:
        raise ValueError("discriminator: got the generator itself, expected another network")
    return [generator, discriminator]


def device_and_random(device: torch.device | str | int, seed: object) -> tuple[torch.device, torch.Generator]:
    seed = whole("seed", seed, least=None)
    requested = device
    try:
        device = torch.device(requested)
        random = torch.Generator(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: PyTorch without CUDA
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu; there is no CUDA device here"
        raise ValueError(f"device: got {str(requested)!r}, expected a device that is there, such as {there}") from error
    try:
        return device, random.manual_seed(seed)
    except (RuntimeError, OverflowError, ValueError):
        raise ValueError(f"seed: got {seed}, expected a number from -2**63 to 2**64 - 1") from None


def samples(name: str, tensor: object) -> Tensor:
    """Raises TypeError or ValueError unless it is a dense tensor of at least one sample."""
    if not isinstance(tensor, Tensor):
        instead = f": torch.from_numpy({name})" if isinstance(tensor, np.ndarray) else ""
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a tensor of samples (N, ...){instead}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name}: got a {tensor.layout} tensor, expected a dense one")
    if not tensor.dim() or not tensor.numel():
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected (N, ...) with at least one sample")
    return tensor


def pixels_or_floats(name: str, tensor: Tensor) -> None:
    """Raises TypeError or ValueError unless the samples are floating, or uint8 images of 0..255."""
    if tensor.dtype == torch.uint8 and tensor.dim() == 4:
        return
    if tensor.dtype == torch.uint8:
        raise ValueError(
            f"{name}: got torch.uint8 of shape {tuple(tensor.shape)}, expected images (N, C, H, W) of 0..255, or "
            f"points as floats: {name}.float()"
        )
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: got {tensor.dtype}, expected floats, or torch.uint8 images (N, C, H, W)")


def finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError if a number is NaN or infinite. Allocates no memory of the samples' size."""
    if tensor.is_floating_point() and not all(map(math.isfinite, torch.stack(torch.aminmax(tensor)).tolist())):
        raise ValueError(f"{name}: got NaN or infinite numbers, expected finite samples")


def optimizers(value: object, networks: Sequence[nn.Module], config: TrainerConfig) -> None:
    """Raises TypeError or ValueError unless each network has one optimizer, of its own parameters only, and no setting
    of Adam is given as well."""
    names = ("generator", "discriminator")[: len(networks)]
    if not isinstance(value, Sequence) or len(value) != len(networks):
        got = f"{len(value)} of them" if isinstance(value, Sequence) else type(value).__name__
        raise TypeError(f"optimizers: got {got}, expected one for {' and one for '.join(names)}")
    for i, (optimizer, network, name) in enumerate(zip(value, networks, names)):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizers[{i}]: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
        own = {id(p) for p in network.parameters()}
        if not all(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(f"optimizers[{i}]: got parameters that are not the {name}'s, expected the {name}'s alone")
    defaults = {f.name: f.default for f in fields(config)}
    for name in ("lr", "lr_d", "betas", "betas_d"):
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name}: got {getattr(config, name)}, but the optimizers are your own: set it there")


def schedulers(value: object, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Raises TypeError or ValueError unless they are schedulers of these optimizers and `step()` needs no argument."""
    if not isinstance(value, Sequence):
        raise TypeError(f"schedulers: got {type(value).__name__}, expected a sequence of them")
    for i, scheduler in enumerate(value):
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            got = type(scheduler).__name__
            raise TypeError(f"schedulers[{i}]: got {got}, expected one of torch.optim.lr_scheduler that counts steps")
        if not any(scheduler.optimizer is optimizer for optimizer in optimizers):
            raise ValueError(f"schedulers[{i}]: got one of another optimizer, expected one of the trainer's")
