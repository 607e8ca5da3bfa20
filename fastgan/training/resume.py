"""Whether a checkpoint fits a trainer: each part is loaded into a copy or a stand-in before the trainer changes."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fastgan.checks import said
from fastgan.training.checkpoints import check_same_network
from fastgan.training.network_checks import copied

SLOTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's state of a parameter


def check_checkpoint(
    path: str | os.PathLike,
    checkpoint: dict,
    parts: dict[str, nn.Module | torch.optim.Optimizer],
    device: torch.device,
    scaler: torch.amp.GradScaler | None,
    schedulers: Sequence[LRScheduler] = (),
) -> None:
    """Raises ValueError, naming the part, if the checkpoint would not load, or the trainer could not continue with it.
    checkpoint: from `read_checkpoint`."""
    for name, part in parts.items():
        if not isinstance(checkpoint.get(name), dict):
            got = type(checkpoint[name]).__name__ if name in checkpoint else "not there"
            raise ValueError(f"{path}: is damaged: {name} is {got}, expected a state")
        if isinstance(part, nn.Module):
            _check_network(path, name, part, checkpoint[name])
    for name, part in parts.items():
        if type(part) is torch.optim.Adam:
            _check_adam(path, name, part, checkpoint[name])
        elif isinstance(part, torch.optim.Optimizer):
            with _as_value_error(f"{path}: is damaged: {name} does not fit"):
                copy.deepcopy(part).load_state_dict(checkpoint[name])
    _check_schedulers(path, schedulers, checkpoint.get("schedulers", []))
    if "order" in checkpoint:
        _check_random(path, "order", device, checkpoint["order"])
    _check_random(path, "random", device, checkpoint["random"])
    _check_random(path, "torch_random", torch.device("cpu"), checkpoint["torch_random"])
    if checkpoint["cuda_random"] is not None:
        _check_random(path, "cuda_random", device, checkpoint["cuda_random"])
    if scaler is not None:
        _check_scaler(path, scaler, checkpoint["scaler"], device)


@contextlib.contextmanager
def _as_value_error(reason: str) -> Iterator[None]:
    """Turn any exception inside into a ValueError about the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{reason}: {said(error)}") from error


def _check_network(path, name: str, network: nn.Module, state: dict) -> None:
    own = network.state_dict()
    for key in own.keys() & state.keys():
        if isinstance(own[key], Tensor):
            if not isinstance(state[key], Tensor):
                raise ValueError(f"{path}: is damaged: {key} of {name} is {type(state[key]).__name__}, not a tensor")
            if own[key].dtype != state[key].dtype:
                raise ValueError(
                    f"{path}: is of another {name}: {key} is {state[key].dtype} in the file, expected {own[key].dtype}"
                )
    check_same_network(path, name, network, state)
    with _as_value_error(f"{path}: is of another {name}"):
        copied(name, network).load_state_dict(state)


def _check_adam(path, name: str, optimizer: torch.optim.Optimizer, state: dict) -> None:
    with _as_value_error(f"{path}: is damaged: {name} does not fit"):
        groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        stand_in = torch.optim.Adam(groups)
        stand_in.load_state_dict(state)
        for group in stand_in.param_groups:
            numbers = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
            if len(group["betas"]) != 2 or not all(_is_finite(number) for number in numbers):
                raise ValueError("a setting is no finite number")
    for p, kept in stand_in.state.items():
        for slot in SLOTS:
            there, expected = kept.get(slot) if isinstance(kept, dict) else None, () if slot == "step" else p.shape
            if not isinstance(there, Tensor) or there.shape != expected or not there.is_floating_point():
                got = f"{there.dtype} {tuple(there.shape)}" if isinstance(there, Tensor) else type(there).__name__
                raise ValueError(
                    f"{path}: is damaged: {slot} of {name} is {got} for a parameter of shape {tuple(p.shape)}"
                )


def _check_schedulers(path, schedulers: Sequence[LRScheduler], states: object) -> None:
    if not isinstance(states, list) or len(states) != len(schedulers):
        got = len(states) if isinstance(states, list) else type(states).__name__
        raise ValueError(
            f"{path}: was trained with {got} schedulers and not {len(schedulers)}; going on would not be exact"
        )
    for i, (scheduler, state) in enumerate(zip(schedulers, states)):
        if not isinstance(state, dict) or state.keys() != scheduler.state_dict().keys():
            raise ValueError(
                f"{path}: was trained with another scheduler than schedulers[{i}], {type(scheduler).__name__}"
            )


def _is_finite(number: object) -> bool:
    if isinstance(number, Tensor):
        return number.numel() == 1 and bool(number.isfinite().all())
    return isinstance(number, Real) and math.isfinite(number)


def _check_random(path, name: str, device: torch.device, state: Any) -> None:
    with _as_value_error(f"{path}: is damaged: {name} is no state of random numbers"):
        torch.Generator(device).set_state(state.cpu())


def _check_scaler(path, scaler: torch.amp.GradScaler, state: Any, device: torch.device) -> None:
    with _as_value_error(f"{path}: is damaged: scaler is no state of a loss scale"):
        torch.amp.GradScaler(device.type).load_state_dict(state)
        if not all(_is_finite(state[key]) and state[key] >= 0 for key in scaler.state_dict()):
            raise ValueError("a setting is no finite number")
