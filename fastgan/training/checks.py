"""What `GANTrainer` is given, checked before anything is touched. Each error is one line that names the argument."""

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
    """The networks that are trained. Raises TypeError or ValueError if one cannot be."""
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


def samples(name: str, given: object) -> Tensor:
    """Raises TypeError or ValueError unless it is a tensor of one sample or more."""
    if not isinstance(given, Tensor):
        instead = f": torch.from_numpy({name})" if isinstance(given, np.ndarray) else ""
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


def optimizers(given: object, networks: Sequence[nn.Module], config: TrainerConfig) -> None:
    """Raises TypeError or ValueError unless there is one for each network, of its parameters, and no setting of Adam is
    given beside them."""
    names = ("generator", "discriminator")[: len(networks)]
    if not isinstance(given, Sequence) or len(given) != len(networks):
        got = f"{len(given)} of them" if isinstance(given, Sequence) else type(given).__name__
        raise TypeError(f"optimizers: got {got}, expected one for {' and one for '.join(names)}")
    for i, (optimizer, network, name) in enumerate(zip(given, networks, names)):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizers[{i}]: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
        own = {id(p) for p in network.parameters()}
        if not all(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(f"optimizers[{i}]: got parameters that are not the {name}'s, expected the {name}'s alone")
    defaults = {f.name: f.default for f in fields(config)}
    for name in ("lr", "lr_d", "betas", "betas_d"):
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"{name}: got {getattr(config, name)}, but the optimizers are your own, and have theirs")


def schedulers(given: object, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Raises TypeError or ValueError unless they are schedulers of these optimizers that need no number to step."""
    if not isinstance(given, Sequence):
        raise TypeError(f"schedulers: got {type(given).__name__}, expected a sequence of them")
    for i, scheduler in enumerate(given):
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            got = type(scheduler).__name__
            raise TypeError(f"schedulers[{i}]: got {got}, expected one of torch.optim.lr_scheduler that counts steps")
        if not any(scheduler.optimizer is optimizer for optimizer in optimizers):
            raise ValueError(f"schedulers[{i}]: got one of another optimizer, expected one of the trainer's")
